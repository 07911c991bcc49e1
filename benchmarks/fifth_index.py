"""INDEX: what the index of the catch-up passes costs every append, and what others would cost.

No bar is about it, so it runs only when asked for: ``--only INDEX``. Each way has a database of its
own with workload A, and blocks of appends go round among them. Events are of one of a thousand
tenants, or all of one, in streams of their own.

The clock differs more from block to block than the ways do, so two other things are measured. One
is the processor time of a single backend, which appends by itself, transaction after transaction,
or for a store of the library. The other is WAL, without full pages and right after a checkpoint,
where it does not depend on when the server writes its pages.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks import fifth_index_ways
from benchmarks.append import PAYLOAD, OrderPlaced
from benchmarks.bench import Bar, Bench
from benchmarks.fifth_index_ways import WAYS
from benchmarks.guard_cost import pgbench
from benchmarks.workload import right, shuffled
from eventsource.stores.postgresql import PostgreSQLEventStore

TENANTS = 1000

_PAYLOAD = '{"line": 1, "note": "' + "x" * 280 + '"}'

#: TENANT is its number.
_EVENT = f"""
gen_random_uuid(), STREAM, 'Order', 'OrderPlaced',
('d0000000-0000-4000-8000-' || lpad((TENANT)::text, 12, '0'))::uuid, VERSION, now(), 'ann',
'{_PAYLOAD}', '{{}}'
"""

_INTO = """
insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                    "timestamp", actor_id, payload, metadata)
"""

_ONE = f"""
{_INTO} values ({_EVENT.replace("STREAM", "gen_random_uuid()").replace("VERSION", "1")})
"""

# Materialized: all of them are of one stream.
_TEN = f"""
with stream as materialized (select gen_random_uuid() as id)
{_INTO} select {_EVENT.replace("STREAM", "stream.id").replace("VERSION", "n")}
from stream, generate_series(1, 10) n
"""

_BY_PGBENCH = f"""
\\set tenant random(1, {TENANTS})
STATEMENT;
"""

_BY_ITSELF = """
do $$ begin
    for number in 1..TRANSACTIONS loop
        STATEMENT;
        commit;
    end loop;
end $$
"""


@dataclass(frozen=True, slots=True)
class Mode:
    """How a block appends; ``transactions`` are about half a second of them.

    ``clients``: of pgbench, none where a backend appends by itself.
    """

    title: str
    events: int
    clients: int
    transactions: int
    commit: str = "off"
    tenants: int = TENANTS


RATES = (
    Mode("single events, 1 session", 1, 1, 2400),
    Mode("single events, 8 sessions", 1, 8, 4000),
    Mode("single events, 8 sessions, commits wait for the disk", 1, 8, 1600, "on"),
    Mode("ten events at once, 8 sessions", 10, 8, 800),
)
BY_ITSELF = (
    Mode("single events", 1, 0, 3000),
    Mode("single events of one tenant", 1, 0, 3000, tenants=1),
    Mode("ten events at once", 10, 0, 500),
)
BY_STORE = Mode("append_events of one event", 1, 0, 400)


@dataclass(slots=True)
class Place:
    """The database of one way; ``events`` is how many there should be, ``before``
    how many there were, and how large the index was with them.
    """

    name: str
    dsn: str
    connection: asyncpg.Connection
    store: PostgreSQLEventStore
    snapshot: str = ""
    events: int = 0
    before: tuple[int, int] = (0, 0)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)

    def median(self, what: str) -> float:
        return float(statistics.median(self.figures[what]))


async def run(bench: Bench) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        places = await _places(bench, stack)
        await bench.settle()
        for number in range(bench.rounds):
            with bench.timed(f"round {number + 1}: appends, {len(places)} ways"):
                for mode in (*RATES, *BY_ITSELF, BY_STORE):
                    for name in shuffled(list(places), number):
                        await _block(bench, places[name], mode)
        with bench.timed("WAL of appends"):
            await _count_wal(bench, places)
        for place in places.values():
            await _check(place)
    return {
        "rounds": {name: place.figures for name, place in places.items()},
        "bars": [bar.as_dict() for bar in _bars(places)],
    }


async def _places(bench: Bench, stack: AsyncExitStack) -> dict[str, Place]:
    places = {}
    with bench.timed(f"{len(WAYS)} copies of workload A"):
        for name, way in WAYS.items():
            dsn = await bench.workload_copy()
            stack.push_async_callback(bench.drop, dsn)
            connection = await asyncpg.connect(dsn)
            stack.push_async_callback(connection.close)
            await fifth_index_ways.install(connection, way)
            pool = await stack.enter_async_context(_pool(dsn))
            place = places[name] = Place(name, dsn, connection, PostgreSQLEventStore(pool))
            await connection.execute("set synchronous_commit = off")
            place.snapshot = await connection.fetchval("select pg_current_snapshot()::text")
            place.events = await connection.fetchval("select count(*) from events")
            place.before = place.events, await fifth_index_ways.size(connection)
    return places


def _pool(dsn: str) -> asyncpg.Pool:
    settings = {"synchronous_commit": "off"}
    return asyncpg.create_pool(dsn, min_size=1, max_size=1, server_settings=settings)


async def _block(bench: Bench, place: Place, mode: Mode) -> None:
    statement = _ONE if mode.events == 1 else _TEN
    if mode is BY_STORE:
        await _by_store(place)
    elif mode.clients:
        await _by_pgbench(bench, place, mode, statement.replace("TENANT", ":tenant"))
    else:
        await _by_itself(place, mode, statement)
    # As autovacuum would; here it is off.
    await fifth_index_ways.summarize(place.connection, WAYS[place.name])


async def _by_pgbench(bench: Bench, place: Place, mode: Mode, statement: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(_BY_PGBENCH.replace("STATEMENT", " ".join(statement.split())))
        file.flush()
        rate, count = await pgbench(
            bench, place.dsn, file.name, mode.commit,
            clients=mode.clients, transactions=mode.transactions,
        )  # fmt: skip
    place.events += count * mode.events
    place.note(mode.title, rate * mode.events)


async def _by_itself(place: Place, mode: Mode, statement: str) -> None:
    tenant = f"1 + number * 7919 % {mode.tenants}"
    body = _BY_ITSELF.replace("STATEMENT", statement.replace("TENANT", tenant))
    backend, events = place.connection.get_server_pid(), mode.transactions * mode.events
    before = _nanoseconds(backend)
    await place.connection.execute(body.replace("TRANSACTIONS", str(mode.transactions)))
    place.events += events
    place.note(mode.title, (_nanoseconds(backend) - before) / events / 1000)


async def _by_store(place: Place) -> None:
    async with place.store.pool.acquire() as connection:
        backend = connection.get_server_pid()
    before = _nanoseconds(backend)
    for number in range(BY_STORE.transactions):
        stream, tenant = uuid4(), UUID(int=number * 7919 % TENANTS)
        event = OrderPlaced(aggregate_id=stream, tenant_id=tenant, actor_id="ann", **PAYLOAD)
        await place.store.append_events(stream, "Order", [event], 0)
    place.events += BY_STORE.transactions
    place.note(BY_STORE.title, (_nanoseconds(backend) - before) / BY_STORE.transactions / 1000)


def _nanoseconds(process: int) -> int:
    """Processor time of a process; 0 where the kernel does not say."""
    about = Path(f"/proc/{process}/schedstat")
    return int(about.read_text().split()[0]) if about.exists() else 0


async def _count_wal(bench: Bench, places: dict[str, Place]) -> None:
    """Bytes of WAL for an event, without full pages and beginning at a checkpoint."""
    for title, full_pages in (("without full pages", "off"), ("after a checkpoint", "on")):
        any_of_them = next(iter(places.values())).connection
        await any_of_them.execute(f"alter system set full_page_writes = {full_pages}")
        await any_of_them.execute("select pg_reload_conf()")
        for mode in BY_ITSELF:
            for place in places.values():
                await bench.settle()
                position, before = await _position(place), place.events
                await _block(bench, place, mode)
                written = await _position(place) - position
                place.note(f"WAL of {mode.title}, {title}", written / (place.events - before))


async def _position(place: Place) -> int:
    sql = "select (pg_current_wal_insert_lsn() - '0/0')::bigint"
    return int(await place.connection.fetchval(sql))


async def _check(place: Place) -> None:
    """Every event is there once, and the index leads to all that the snapshot did not show."""
    [row] = await place.connection.fetch(
        "select count(*) as events, count(distinct event_id) as different from events"
    )
    right(row["events"] == row["different"] == place.events, f"{place.name}: events are missing")
    way, (events, size) = WAYS[place.name], place.before
    more = await fifth_index_ways.size(place.connection) - size
    place.note("bytes of the index", more / (place.events - events))
    if way.partial:
        right(more == 0, "others' rows are in a partial index")
    else:
        await fifth_index_ways.check(place.connection, way, place.snapshot)


def _bars(places: dict[str, Place]) -> list[Bar]:
    none = places["none"]
    lines = []
    for mode in (*BY_ITSELF, BY_STORE):
        usual = none.median(mode.title)
        more = {name: place.median(mode.title) - usual for name, place in places.items()}
        what = f"processor time of an event beyond {usual:.1f} µs, {mode.title}"
        lines.append(Bar("", what, _said(more, "{:+.1f} µs"), "", None))
        if mode is BY_STORE:
            continue
        for when in ("without full pages", "after a checkpoint"):
            title = f"WAL of {mode.title}, {when}"
            written = {name: place.median(title) for name, place in places.items()}
            lines.append(Bar("", title, _said(written, "{:,.0f} bytes"), "", None))
    sizes = {name: place.median("bytes of the index") for name, place in places.items()}
    lines.append(
        Bar("", "what an appended event adds to the index", _said(sizes, "{:.0f} bytes"), "", None)
    )
    for mode in RATES:
        rates = {name: _beside(place, none, mode.title) for name, place in places.items()}
        what = f"appends/s, {mode.title}, beside those without an index"
        lines.append(Bar("", what, _said(rates, "{:.2f} x"), "", None))
    return lines


def _said(figures: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in figures.items())


def _beside(place: Place, other: Place, what: str) -> float:
    pairs = zip(place.figures[what], other.figures[what], strict=True)
    return float(statistics.median(mine / its for mine, its in pairs))
