"""What has to be true after a cell, asked in plain SQL; `eventsource.testing` judges the events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from uuid import UUID

import asyncpg

from eventsource.testing import Attempt, StoreAddress, check_moved, check_unmoved, read_rows
from tests.support.driver_job import SUBSCRIPTION
from tests.support.worlds.two_servers import DEDICATED, SHARED, World

_GUARDS = r"""
select 'trigger ' || tgname from pg_trigger
where tgrelid = $1::text::regclass and tgname ~ '^zzz_eventsource_guard_\d'
  and not exists (select from eventsource_fences
                  where fence_id = split_part(tgname, '_', 4)::integer)
union all
-- The guard of those that leave, or may return, holds their fences, and is there if there are any.
select 'fence ' || coalesce(f.fence_id::text, 'gone') || ', guarded ' || coalesce(g.key, 'not')
from (select * from (
          select distinct on (tenant_id) * from eventsource_fences where table_name = $2
          -- One that is asleep, for a way back, is obeyed before it is woken.
          order by tenant_id, (role = 'source' and generation < 0) desc, generation desc,
              array_position(array['closed', 'aborting', 'standby', 'moved', 'open'], state),
              role) newest
      where role = 'source' or state = 'standby') f
full join (select held.key, held.value ->> 0 as fence_id
           from pg_trigger t join pg_proc p on p.oid = t.tgfoid,
                jsonb_each(substring(p.prosrc from '\{.*\}')::jsonb) held
           -- One that is switched off holds nobody up; it is dropped in a quiet moment.
           where t.tgrelid = $1::text::regclass and t.tgname = 'zzz_eventsource_guard_write'
             and t.tgenabled <> 'D') g
  on g.key = f.tenant_id::text and g.fence_id = f.fence_id::text
where f.fence_id is null or g.key is null
"""

_MISTAKE = re.compile(
    r"(Assertion|Type|Attribute|Key|Index|Name|UnboundLocal|Value|NotImplemented|Recursion)Error\b"
)
# The waiting of a driver's job for a state, when the migration ends in another one.
_EXPECTED = re.compile(r"AssertionError: (failed|rolled_back|migrated|paused): ")

_INDEXES = "select indexdef from pg_indexes where tablename = $1 order by indexdef"


async def broken(
    world: World, tenant: UUID, attempts: Sequence[Attempt], allowed: set[str]
) -> tuple[str, list[str]]:
    """How the tenant's newest migration ended, and every promise that was not kept."""
    row = await world.control_pool.fetchrow(
        "select id, state from tenant_migrations where tenant_id = $1"
        " order by created_at desc limit 1",
        str(tenant),
    )
    if row is None:
        return "none", ["I11 no_migration: nobody started it"]
    state: str = row["state"]
    if state == "migrated":
        found = await _moved(world, tenant, row["id"], attempts)
    elif state == "rolled_back":
        found = await _stayed(world, tenant, row["id"], attempts)
    else:
        found = [f"I11 undecided: it ended as {state}"]
    if state not in allowed:
        found.append(f"I11 wrong_end: it ended as {state}, not {' or '.join(sorted(allowed))}")
    return state, found


async def _moved(
    world: World, tenant: UUID, migration: UUID, attempts: Sequence[Attempt]
) -> list[str]:
    report = await check_moved(
        source=world.source,
        target=world.target,
        control_dsn=world.control_dsn,
        tenant_id=tenant,
        migration_id=migration,
        attempts=attempts,
        baseline=world.baseline[tenant],
    )
    found = [str(violation) for violation in report.violations]
    written = await world.target_store.pool.fetchval(
        "select rows_copied from eventsource_copy_progress where migration_id = $1", migration
    )
    if written is not None and written > report.carried:
        found.append(f"I10 copied_twice: {written} rows written, {report.carried} carried")
    return found + await _subscription(world, tenant)


async def _subscription(world: World, tenant: UUID) -> list[str]:
    """I9: the subscription goes on exactly behind what it had handled at the source."""
    position = {
        store: await world.control_pool.fetchval(
            "select position from subscription_checkpoints where subscription_name = $1"
            " and store_id = $2 and tenant_id = $3",
            SUBSCRIPTION, store, tenant,
        )
        for store in (SHARED, DEDICATED)
    }  # fmt: skip
    if position[DEDICATED] is None:
        return ["I9 no_checkpoint: the subscription was not moved"]
    source = await read_rows(world.source, tenant)
    handled = {row.event_id for row in source if row.position <= position[SHARED]}
    target = await read_rows(world.target, tenant)
    wanted = {row.event_id for row in target} - handled
    delivered = {row.event_id for row in target if row.position > position[DEDICATED]}
    return [
        *(f"I9 skipped: event {event_id}" for event_id in sorted(wanted - delivered)[:3]),
        *(f"I9 redelivered: event {event_id}" for event_id in sorted(delivered - wanted)[:3]),
    ]


async def _stayed(
    world: World, tenant: UUID, migration: UUID, attempts: Sequence[Attempt]
) -> list[str]:
    """I13 with the rest: the tenant is where it was, and nothing of the migration is left."""
    report = await check_unmoved(
        store=world.source,
        tenant_id=tenant,
        attempts=attempts,
        baseline=world.baseline[tenant],
        elsewhere=[world.target],
    )
    found = [str(violation) for violation in report.violations]
    source, target = world.source_store.pool, world.target_store.pool
    left = [
        (world.control_pool, "migration_position_mappings", "migration_id", migration),
        (source, "eventsource_witnesses", "migration_id", migration),
        (source, "eventsource_fences", "tenant_id", str(tenant)),
        (target, "eventsource_copy_progress", "migration_id", migration),
        (target, "eventsource_fences", "tenant_id", str(tenant)),
    ]
    for pool, table, column, value in left:
        rows = await pool.fetchval(f"select count(*) from {table} where {column} = $1", value)
        if rows:
            found.append(f"I13 left_behind: {rows} rows of {table}")
    route = await world.control_pool.fetchrow(
        "select store_id, migration_state, migration_id from tenant_routing where tenant_id = $1",
        str(tenant),
    )
    if route is not None and tuple(route) != (SHARED, "normal", None):
        found.append(f"I13 route: {tuple(route)}")
    return found


def mistakes(outputs: Iterable[str]) -> list[str]:
    """I14: what ended a process, or a task of it, is a typed error and no slip of the code."""
    return [
        f"I14 mistake: {line[:200]}"
        for output in outputs
        for line in output.splitlines()
        if _MISTAKE.match(line) and not _EXPECTED.match(line)
    ]


async def orphans(world: World) -> list[str]:
    """I13: guards without a fence, which would refuse or delay writers; and the reverse."""
    found = []
    for pool, store in ((world.source_store.pool, world.source), (world.target_store.pool,
                                                                  world.target)):  # fmt: skip
        rows = await pool.fetch(_GUARDS, f'"{store.table}"', store.table)
        found += [f"I13 orphan: {row[0]} of {store.table}" for row in rows]
    return found


async def indexes(store: StoreAddress) -> list[str]:
    """The definitions of the table's indexes."""
    connection = await asyncpg.connect(store.dsn)
    try:
        return [row["indexdef"] for row in await connection.fetch(_INDEXES, store.table)]
    finally:
        await connection.close()
