"""The indexes that could serve the catch-up passes, and the passes' statements for each.

The statements are those of ``rust/core/src/pass/source.rs``; a way that cannot use them as they are
gets further conditions, which exclude no row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.workload import OTHER, TENANT, drop_fifth_index, right

#: Every way's index has this name.
NAME = "fifth"

#: xid8 has no operator class for BRIN.
_NUMBER = "(transaction_id::text::bigint)"


@dataclass(frozen=True, slots=True)
class Way:
    """``index`` is what follows the table's name in CREATE INDEX, nothing for none at all.

    ``numbers``: its passes need conditions on the id as a number, and a bitmap.
    ``partial``: what is appended here, for tenants that do not move, is not in it.
    ``stamps``: only a tenant's guard writes transaction ids; rows of the others have none.
    """

    title: str
    index: str = ""
    numbers: bool = False
    partial: bool = False
    stamps: bool = False


WAYS = {
    "none": Way("no fifth index"),
    "whole": Way(
        "(tenant_id, transaction_id, global_position)",
        "(tenant_id, transaction_id, global_position)",
    ),
    "narrow": Way("(tenant_id, transaction_id)", "(tenant_id, transaction_id)"),
    "transaction": Way("(transaction_id)", "(transaction_id)"),
    "transaction first": Way(
        "(transaction_id, tenant_id, global_position)",
        "(transaction_id, tenant_id, global_position)",
    ),
    "brin": Way(
        "BRIN over the transaction id as a number, 8 pages a range",
        f"using brin ({_NUMBER}) with (pages_per_range = 8, autosummarize = on)",
        numbers=True,
    ),
    "one tenant": Way(
        "the whole index of one tenant that moves, for appends of others",
        f"(tenant_id, transaction_id, global_position) where tenant_id = '{TENANT}'",
        partial=True,
    ),
    "stamped": Way(
        "the whole index of rows that a guard has stamped, for appends of others",
        "(tenant_id, transaction_id, global_position) where transaction_id is not null",
        partial=True,
        stamps=True,
    ),
}


async def install(connection: Any, way: Way) -> float:
    """Put the way's index in the place of the product's; how long building it took."""
    await drop_fifth_index(connection)
    if way.stamps:
        # As a table that is older than the column: no row is rewritten.
        await connection.execute("alter table events drop column transaction_id")
        await connection.execute("alter table events add column transaction_id xid8")
    return await build(connection, way)


async def build(connection: Any, way: Way) -> float:
    """Seconds."""
    began = time.monotonic()
    if way.index:
        await connection.execute(f"create index {NAME} on events {way.index}")
    seconds = time.monotonic() - began
    if way.numbers:
        # The planner knows an expression's values only from then on.
        await connection.execute("analyze events")
    return seconds


async def drop(connection: Any) -> None:
    await connection.execute(f"drop index if exists {NAME}")


async def size(connection: Any) -> int:
    """Bytes of the way's index."""
    return int(
        await connection.fetchval(
            "select coalesce(pg_relation_size(to_regclass($1::text)), 0)", NAME
        )
    )


async def summarize(connection: Any, way: Way) -> None:
    if way.numbers:
        await connection.fetchval("select brin_summarize_new_values($1::text::regclass)", NAME)


async def write_singly(connection: Any, tenant: Any, events: int) -> None:
    """Events in transactions of their own, each in a stream of its own."""
    await connection.execute(
        f"""
        do $$ begin
            for number in 1..{int(events)} loop
                insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,
                                    version, "timestamp", actor_id, payload, metadata)
                values (gen_random_uuid(), gen_random_uuid(), 'Order', 'OrderPlaced', '{tenant}',
                        1, now(), 'later',
                        jsonb_build_object('line', number, 'note', repeat('x', 160)), '{{}}');
                commit;
            end loop;
        end $$
        """
    )


def statement(
    way: Way, previous: str, upper: str, cursor: tuple[int, int] | None, limit: int, tenant: Any
) -> str:
    """The next rows that `previous` does not show and `upper` does (snapshots as text)."""
    _, following, listed = previous.split(":")
    seen = cursor[0] if cursor else 0
    waiting = [each for each in listed.split(",") if each and int(each) >= seen]
    numbers = way.numbers

    def part(transactions: str) -> str:
        ends = int(upper.split(":")[1])
        below = f" and transaction_id < '{ends}'::xid8" + (f" and {_NUMBER} < {ends}" * numbers)
        beyond = ""
        if cursor:
            beyond = f" and (transaction_id, global_position) > ('{cursor[0]}'::xid8, {cursor[1]})"
            beyond += f" and {_NUMBER} >= {cursor[0]}" * numbers
        return (
            f"select *, transaction_id as number from events where tenant_id = '{tenant}'"
            f" and {transactions}{beyond}{below}"
            f" and pg_visible_in_snapshot(transaction_id, '{upper}'::pg_snapshot)"
            f" order by transaction_id, global_position limit {limit}"
        )

    later = part(
        f"transaction_id >= '{following}'::xid8" + f" and {_NUMBER} >= {following}" * numbers
    )
    if not waiting:
        return later
    ids = ",".join(waiting)
    earlier = part(
        f"transaction_id = any ('{{{ids}}}'::xid8[])"
        + f" and {_NUMBER} = any ('{{{ids}}}'::bigint[])" * numbers
    )
    return f"({earlier}) union all ({later}) order by transaction_id, global_position limit {limit}"


async def plan_like_a_pass(connection: Any, way: Way) -> None:
    """The settings under which the way's statements go along its index."""
    bitmap, index = ("on", "off") if way.numbers else ("off", "on")
    await connection.execute(
        f"set enable_seqscan = off; set enable_bitmapscan = {bitmap};"
        f" set enable_indexscan = {index}; set max_parallel_workers_per_gather = 0; set jit = off"
    )


async def check(connection: Any, way: Way, snapshot: str) -> None:
    """What was written since the snapshot is found along the index as a scan finds it."""
    upper = await connection.fetchval("select pg_current_snapshot()::text")
    await connection.execute("analyze events")
    tenants = await connection.fetch(
        "select tenant_id, count(*) from events where transaction_id >= $1::text::xid8"
        " group by 1 order by 1 limit 3",
        snapshot.split(":")[1],
    )
    await plan_like_a_pass(connection, way)
    for tenant, expected in (*tenants, (OTHER, 0)):
        rows = await connection.fetch(statement(way, snapshot, upper, None, expected + 1, tenant))
        right(len(rows) == expected, f"{way.title}: {len(rows)} rows of {expected} were found")
