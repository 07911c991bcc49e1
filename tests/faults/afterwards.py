"""What has to be true once a tenant that has moved has returned, or will not return any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from eventsource.testing import Attempt, StoreAddress, check_returned, invariants, read_rows
from eventsource.testing.invariants import History, Row, Violation
from tests.support.driver_job import SUBSCRIPTION
from tests.support.worlds.two_servers import DEDICATED, SHARED, World

# The newest one, the move, and what has brought the tenant where it is, with its way back.
_WHERE = """
select newest.state, last.id, last.returns, last.target_store_id, w.id as way_id,
       w.state as way_state, move.id as move_id, move.position_offset, move.fence_position
from (select * from tenant_migrations where tenant_id = $1 order by created_at desc limit 1) newest,
     (select * from tenant_migrations where tenant_id = $1 and state = 'migrated'
      order by created_at desc limit 1) last
     -- A driver that has died may have left one that was never finished.
     left join lateral (select * from tenant_ways_back b where b.migration_id = last.id
                        order by created_at desc limit 1) w on true,
     (select * from tenant_migrations where tenant_id = $1 and state = 'migrated'
      order by created_at limit 1) move
"""


@dataclass(frozen=True, slots=True)
class _Where:
    """Where the tenant lives, and what it has left.

    Attributes:
        offset: by how much positions of its past are higher at home.
        decided: where the move was decided, if home is where that went.
    """

    row: asyncpg.Record
    home: StoreAddress
    left: StoreAddress
    store_id: str
    offset: int
    decided: int | None

    @classmethod
    def of(cls, world: World, row: asyncpg.Record) -> _Where:
        if row["target_store_id"] == SHARED:
            return cls(row, world.source, world.target, SHARED, 0, None)
        offset, decided = row["position_offset"] or 0, row["fence_position"]
        return cls(row, world.target, world.source, DEDICATED, offset, decided)


async def broken(
    world: World, tenant: UUID, attempts: Sequence[Attempt], allowed: set[str]
) -> tuple[str, list[str]]:
    """Where a tenant is that had moved, and every promise that was not kept.

    It has ``returned``, ``stayed`` with its way back standing by, or the way back is ``closed`` and
    the old rows are ``cleaned`` up, if that was wanted.
    """
    row = await world.control_pool.fetchrow(_WHERE, str(tenant))
    assert row is not None
    where = _Where.of(world, row)
    if row["state"] not in ("migrated", "rolled_back"):
        end, found = "undecided", [f"I11 undecided: the newest is {row['state']}"]
    elif row["returns"] is not None and row["way_state"] != "closed":
        end, found = "returned", await _returned(world, tenant, where, attempts)
    else:
        end = {"standby": "stayed"}.get(row["way_state"], row["way_state"] or "refused")
        if end == "closed" and "cleaned" in allowed:
            end = "cleaned"
        found = await _for_good(world, tenant, where, attempts, cleaned=end == "cleaned")
    if end not in allowed:
        found.append(f"I11 wrong_end: it is {end}, not {' or '.join(sorted(allowed))}")
    return end, found


async def _returned(
    world: World, tenant: UUID, where: _Where, attempts: Sequence[Attempt]
) -> list[str]:
    report = await check_returned(
        home=where.home,
        left=where.left,
        control_dsn=world.control_dsn,
        tenant_id=tenant,
        migration_id=where.row["id"],
        attempts=attempts,
        baseline=world.baseline[tenant],
        offset=where.offset,
    )
    found = [str(violation) for violation in report.violations]
    if where.row["returns"] != where.row["move_id"]:
        return found
    here, there = await read_rows(where.home, tenant), await read_rows(where.left, tenant)
    both = {each.event_id for each in there}
    head = where.row["fence_position"]
    carried = sum(each.event_id in both and each.position > head for each in here)
    written = await world.source_store.pool.fetchval(
        "select rows_copied from eventsource_copy_progress where migration_id = $1",
        where.row["id"],
    )
    if written is not None and written > carried:
        found.append(f"I10 copied_twice: {written} rows written, {carried} carried")
    return found + await _subscription(world, tenant, here, there)


async def _subscription(
    world: World, tenant: UUID, here: Sequence[Row], there: Sequence[Row]
) -> list[str]:
    """I9: nothing is skipped, and again comes what the translation has to deliver again."""
    at = {
        store: await world.control_pool.fetchval(
            "select position from subscription_checkpoints where subscription_name = $1"
            " and store_id = $2 and tenant_id = $3",
            SUBSCRIPTION, store, tenant,
        )
        for store in (SHARED, DEDICATED)
    }  # fmt: skip
    handled = {row.event_id for row in there if row.position <= at[DEDICATED]}
    following = {row.event_id for row in there} - handled
    skipped = [row for row in here if row.event_id not in handled and row.position <= at[SHARED]]
    first = min((row.position for row in here if row.event_id in following), default=None)
    found = [f"I9 skipped: event {row.event_id}" for row in skipped[:3]]
    if first is not None and at[SHARED] != first - 1:
        again = sum(row.event_id in handled and row.position > at[SHARED] for row in here)
        predicted = sum(row.event_id in handled and row.position >= first for row in here)
        if again != predicted:
            found.append(f"I9 redelivered: {again} events, predicted {predicted}")
    return found


async def _for_good(
    world: World, tenant: UUID, where: _Where, attempts: Sequence[Attempt], *, cleaned: bool
) -> list[str]:
    home, old = await read_rows(where.home, tenant), await read_rows(where.left, tenant)
    own = [each for each in attempts if each.tenant_id == str(tenant)]
    history = History.of(own, world.baseline[tenant])
    found = [
        *invariants.acknowledged_exactly_once(history, home),
        *invariants.answers_were_true(own, home, where.offset, old),
        *invariants.nothing_unattempted(history, home),
        *invariants.streams_are_whole(home),
        *invariants.baseline_is_untouched(history, home, where.offset),
        *invariants.order_is_kept(history, home),
        *_left(old, home, where),
    ]
    if cleaned and old:
        found.append(Violation("I13", "not_cleaned", f"{len(old)} old rows are still there"))
    if not cleaned and not {row.event_id for row in old} >= set(history.baseline):
        found.append(Violation("I13", "cleaned", "old rows are gone that nobody cleaned up"))
    route = await world.control_pool.fetchrow(
        "select store_id, migration_state from tenant_routing where tenant_id = $1", str(tenant)
    )
    if route is None or tuple(route) != (where.store_id, "normal"):
        found.append(Violation("I7", "wrong_route", f"{tuple(route) if route else None}"))
    told = [str(each) for each in found]
    if where.row["way_state"] == "closed":
        told += await _remains(world, where)
    return told


def _left(old: Iterable[Row], home: Sequence[Row], where: _Where) -> Iterator[Violation]:
    """I4, I7: what the old store has is at home as it was; up to the decision where it was."""
    there = {row.event_id: row for row in home}
    for row in old:
        copy = there.get(row.event_id)
        if copy is None:
            yield Violation("I7", "left_behind", f"event {row.event_id} at {row.position}")
        elif copy.digest != row.digest:
            yield Violation("I4", "content_differs", f"event {row.event_id} at {row.position}")
        elif (
            where.decided is not None
            and row.position <= where.decided
            and copy.position != row.position + where.offset
        ):
            places = f"{row.position} + {where.offset} became {copy.position}"
            yield Violation("I4", "position_not_carried", f"event {row.event_id}: {places}")


async def _remains(world: World, where: _Where) -> list[str]:
    """I13: a closed way back has left nothing but the fence that hides what it has carried."""
    old, home = world.source_store.pool, world.target_store.pool
    if where.store_id == SHARED:
        old, home = home, old
    left = [
        (home, "eventsource_fences", "true"),
        (home, "eventsource_witnesses", "true"),
        (old, "eventsource_copy_progress", "true"),
        (old, "eventsource_fences", "state <> 'retired'"),
        (world.control_pool, "migration_position_mappings", "true"),
    ]
    found = []
    for pool, table, which in left:
        rows = await pool.fetchval(
            f"select count(*) from {table} where migration_id = $1 and {which}",
            where.row["way_id"],
        )
        if rows:
            found.append(f"I13 left_behind: {rows} rows of {table}")
    return found
