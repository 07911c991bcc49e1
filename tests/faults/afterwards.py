"""What has to be true once a tenant that has moved has returned, or will not return any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

import asyncpg

from eventsource.testing import Attempt, check_returned, invariants, read_rows
from eventsource.testing.invariants import History, Row, Violation
from tests.support.driver_job import SUBSCRIPTION
from tests.support.worlds.two_servers import DEDICATED, SHARED, World

_MOVE = "select id, state, position_offset, fence_position from tenant_migrations where id = $1"
_NEWEST = """
select m.id, m.state, m.returns, w.id as way_id, w.state as way_state, w.migration_id as moved
from tenant_migrations m
left join tenant_ways_back w on w.migration_id = coalesce(m.returns, m.id)
where m.tenant_id = $1 order by m.created_at desc limit 1
"""


async def broken(
    world: World, tenant: UUID, attempts: Sequence[Attempt], allowed: set[str]
) -> tuple[str, list[str]]:
    """Where a tenant is that had moved, and every promise that was not kept.

    It has ``returned``, ``stayed`` with its way back standing by, or the way back is ``closed`` and
    the old rows are ``cleaned`` up, if that was wanted.
    """
    row = await world.control_pool.fetchrow(_NEWEST, str(tenant))
    assert row is not None
    if row["returns"] is not None and row["state"] == "migrated":
        end, found = "returned", await _returned(world, tenant, row, attempts)
    elif row["returns"] is not None and row["state"] != "rolled_back":
        end, found = "undecided", [f"I11 undecided: the return is {row['state']}"]
    else:
        end = {"standby": "stayed", "closed": "closed"}.get(row["way_state"], row["way_state"])
        cleaned = end == "closed" and "cleaned" in allowed
        end = "cleaned" if cleaned else end
        found = await _at_the_target(world, tenant, row, attempts, cleaned)
    if end not in allowed:
        found.append(f"I11 wrong_end: it is {end}, not {' or '.join(sorted(allowed))}")
    return end, found


async def _returned(
    world: World, tenant: UUID, row: asyncpg.Record, attempts: Sequence[Attempt]
) -> list[str]:
    report = await check_returned(
        home=world.source,
        left=world.target,
        control_dsn=world.control_dsn,
        tenant_id=tenant,
        migration_id=row["id"],
        attempts=attempts,
        baseline=world.baseline[tenant],
    )
    found = [str(violation) for violation in report.violations]
    here, there = await read_rows(world.source, tenant), await read_rows(world.target, tenant)
    head = await world.control_pool.fetchval(
        "select fence_position from tenant_migrations where id = $1", row["moved"]
    )
    both = {each.event_id for each in there}
    carried = sum(each.event_id in both and each.position > head for each in here)
    written = await world.source_store.pool.fetchval(
        "select rows_copied from eventsource_copy_progress where migration_id = $1", row["id"]
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


async def _at_the_target(
    world: World,
    tenant: UUID,
    row: asyncpg.Record,
    attempts: Sequence[Attempt],
    cleaned: bool,
) -> list[str]:
    move = await world.control_pool.fetchrow(_MOVE, row["moved"])
    assert move is not None
    home, old = await read_rows(world.target, tenant), await read_rows(world.source, tenant)
    history = History.of(attempts, world.baseline[tenant])
    offset = move["position_offset"] or 0
    found = [
        *invariants.acknowledged_exactly_once(history, home),
        *invariants.answers_were_true(attempts, home, offset),
        *invariants.nothing_unattempted(history, home),
        *invariants.streams_are_whole(home),
        *invariants.baseline_is_untouched(history, home, offset),
        *invariants.order_is_kept(history, home),
        *_left(old, home, offset, move["fence_position"]),
    ]
    if cleaned and old:
        found.append(Violation("I13", "not_cleaned", f"{len(old)} old rows are still there"))
    if not cleaned and not {row.event_id for row in old} >= set(history.baseline):
        found.append(Violation("I13", "cleaned", "old rows are gone that nobody cleaned up"))
    route = await world.control_pool.fetchrow(
        "select store_id, migration_state from tenant_routing where tenant_id = $1", str(tenant)
    )
    if route is None or tuple(route) != (DEDICATED, "normal"):
        found.append(Violation("I7", "wrong_route", f"{tuple(route) if route else None}"))
    told = [str(each) for each in found]
    return told + (await _remains(world, row) if row["way_state"] == "closed" else [])


def _left(
    old: Iterable[Row], home: Sequence[Row], offset: int, decided: int
) -> Iterator[Violation]:
    """I4, I7: what the old store has is at home as it was; up to the decision where it was."""
    there = {row.event_id: row for row in home}
    for row in old:
        copy = there.get(row.event_id)
        if copy is None:
            yield Violation("I7", "left_behind", f"event {row.event_id} at {row.position}")
        elif copy.digest != row.digest:
            yield Violation("I4", "content_differs", f"event {row.event_id} at {row.position}")
        elif row.position <= decided and copy.position != row.position + offset:
            places = f"{row.position} + {offset} became {copy.position}"
            yield Violation("I4", "position_not_carried", f"event {row.event_id}: {places}")


async def _remains(world: World, row: asyncpg.Record) -> list[str]:
    """I13: a closed way back has left nothing but the fence that hides what it has carried."""
    source, target, way = world.source_store.pool, world.target_store.pool, row["way_id"]
    left = [
        (target, "eventsource_fences", "true"),
        (target, "eventsource_witnesses", "true"),
        (source, "eventsource_copy_progress", "true"),
        (source, "eventsource_fences", "state <> 'retired'"),
        (world.control_pool, "migration_position_mappings", "true"),
    ]
    found = []
    for pool, table, which in left:
        rows = await pool.fetchval(
            f"select count(*) from {table} where migration_id = $1 and {which}", way
        )
        if rows:
            found.append(f"I13 left_behind: {rows} rows of {table}")
    return found
