"""The guard: fence rows, and the triggers that make every writer heed them.

The functions of the triggers are in ``stores/sql/guard.sql``. A tenant that arrives has
triggers of its own; all that leave a table, or have left it, share theirs
(``eventsource_guard_renew``). Here is when they are made, how they recognise the migrator, and how
they go away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypedDict
from uuid import UUID

from eventsource import failpoints
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import blockers
from eventsource.migration.connections.session_marks import MIGRATOR_SETTING
from eventsource.migration.event_table import AnyTable, OwnTable
from eventsource.migration.tables import brief_locks
from eventsource.migration.tables.fences import LOCK_CLASS, Fence, lock_exclusively
from eventsource.tenant_ids import TenantId, as_uuid

if TYPE_CHECKING:
    from eventsource.migration.connections.waits import Look
    from eventsource.migration.errors import Blocker

_log = logging.getLogger("eventsource.migration.driver")


#: Clean-up after a cutover must not be noticed: lock timeout of one attempt (ms), and how long to
#: keep trying (s).
TIDY_LOCK_TIMEOUT_MS, TIDY_SECONDS = 20, 2.0


TRIGGER_KINDS = ("write", "change", "truncate")


class _Wait(TypedDict):
    what: str
    look: Look


#: Those that a load of an empty table does without.
_ROW_BY_ROW = ("write",)

#: What the names of all triggers begin with; those for all that leave a table end with their kind.
_SHARED = "zzz_eventsource_guard_"


# Those of one tenant have the fence's id in their names; without a row, or once it is open, they
# let everybody pass. Those that all share do so when no tenant is leaving or has left: an owner may
# switch triggers off for a while, and these are not idle then. Only they have their own functions.
_IDLE = """
select t.tgname as name,
       case when p.proname ~ '^eventsource_guard_(write|change)_of_' then p.proname end as function
from pg_trigger t join pg_proc p on p.oid = t.tgfoid
where t.tgrelid = $1::text::regclass and not t.tgisinternal and starts_with(t.tgname, $3)
  and case when substr(t.tgname, length($3) + 1) ~ '^[0-9]'
      then not exists (select from {fences} f where f.table_name = $2 and f.role = 'target'
                       and f.state <> 'open' and starts_with(t.tgname, $3 || f.fence_id || '_'))
      else t.tgenabled = 'D' and {guarded}($2) is null
      end
"""


async def install(
    table: OwnTable,
    fence: Fence,
    tenant_id: TenantId,
    carry_on: Callable[[], bool],
    *,
    then: Callable[[], Awaitable[None]] | None = None,
    drops: bool = False,
) -> None:
    """Put the fence's guard up; ``then`` runs in the same transaction, writers held off.

    With ``drops`` readers are held off too, from the start: ``then`` may drop an index or a
    trigger. To ask for that after a weaker lock deadlocks with a writer that has read the table.

    This waits out every transaction that has written to the table, so none that the guard never
    saw is still in flight when it returns. ``carry_on`` is asked between two attempts: a long
    transaction at the source may hold them up for as long as it lasts.

    Raises:
        LockNeverGranted: ``carry_on`` said no.
    """

    async def create() -> None:
        if drops:
            await _hold_everybody_off(table)
        if fence.role == "target":
            await create_triggers(table, fence, tenant_id)
        # Also for a target: the tenant may be back, and is no longer one that has left.
        await renew(table)
        if then is not None:
            await then()

    await brief_locks.transact(
        table.connection, create, carry_on, **_wait_for(table, fence, readers=then is not None)
    )


def _wait_for(table: OwnTable, fence: Fence, *, readers: bool = False) -> _Wait:
    """What the journal says while a lock on the table is waited for, or the fence's own."""

    async def look(seconds: float) -> list[Blocker]:
        holders = await blockers.of_table(table.connection, table.name, seconds, readers=readers)
        at_the_fence = await blockers.of_fence(table.connection, LOCK_CLASS, fence.lock_id, seconds)
        return holders + [each for each in at_the_fence if each not in holders]

    return {"what": f"for a lock on {table.name} in store {fence.store_id!r}", "look": look}


async def renew(table: AnyTable) -> None:
    """In the caller's transaction: guard the tenants that are leaving or have left, and only them.

    One statement: the less often the client has its turn, the less can it be slow.
    """
    renewing = table.beside("eventsource_guard_renew")
    await table.connection.execute(f"select {renewing}($1::text::regclass)", table.name)


async def stands(table: AnyTable) -> bool:
    """Whether it is what the fences say."""
    return bool(
        await table.connection.fetchval(
            f"select {table.beside('eventsource_guard_stands')}($1::text::regclass)", table.name
        )
    )


async def mend(
    table: OwnTable,
    fence: Fence,
    tenant_id: TenantId,
    carry_on: Callable[[], bool],
    *,
    loading: bool = False,
) -> None:
    """Make again what others have taken away since: triggers dropped, disabled or made weaker.

    Looked at without a lock first. ``loading`` is whether the target is loaded without its indexes,
    and so without the trigger on every row.

    Raises:
        LockNeverGranted: ``carry_on`` said no.
    """
    kinds: list[str] = []
    if fence.role == "target" and fence.state == "closed":
        kinds = [kind for kind in TRIGGER_KINDS if not (loading and kind in _ROW_BY_ROW)]
    stands = table.beside("eventsource_guard_stands")
    missing = await table.connection.fetchval(
        f"select not {stands}($1::text::regclass) or exists (select from unnest($2::text[]) name"
        " where not exists (select from pg_trigger t where t.tgrelid = $1::text::regclass"
        " and t.tgname = name))",
        table.name, [trigger_name(fence, kind) for kind in kinds],
    )  # fmt: skip
    if not missing:
        return

    async def create() -> None:
        if kinds:
            await create_triggers(table, fence, tenant_id, kinds)
        await renew(table)

    await brief_locks.transact(table.connection, create, carry_on)


async def create_triggers(
    table: AnyTable,
    fence: Fence,
    tenant_id: TenantId,
    kinds: Sequence[str] = TRIGGER_KINDS,
) -> None:
    """The triggers of a tenant that is arriving, in the caller's transaction.

    Its migrator passes by their condition, so that the rows of a copy do not run the function: by
    the setting and by its role, since anybody may set the setting. What is inserted is looked at
    after the insert: with a row trigger before it, the server would write a COPY row by row instead
    of page by page.
    """
    on = table.name
    owner = await table.connection.fetchval(
        "select relowner from pg_class where oid = $1::text::regclass", on
    )
    # The ids are UUIDs and integers of ours: a trigger's condition cannot take parameters.
    run = (
        f"for each row when ({{row}}.tenant_id = '{as_uuid(tenant_id)}'::uuid"
        f" and not {is_migrator(fence.migration_id, owner)})"
        f" execute function {table.beside('eventsource_guard')}"
        f"('{fence.fence_id}', '{fence.patience_ms}', '{fence.lock_id}')"
    )
    events = {
        "write": "after insert or update on {on} " + run.format(row="new"),
        "change": "before update or delete on {on} " + run.format(row="old"),
        "truncate": "before truncate on {on} for each statement execute function "
        f"{table.beside('eventsource_guard_truncate')}()",
    }
    statements = []
    for kind in kinds:
        name = quote_identifier(trigger_name(fence, kind))
        event = events[kind].replace("{on}", on)
        statements.append(f"create or replace trigger {name} {event}")
        # Otherwise session_replication_role = replica walks past.
        statements.append(f"alter table {on} enable always trigger {name}")
    # In one message, as in `renew`.
    await table.connection.execute(";".join(statements))


def is_migrator(migration_id: UUID, owner: int) -> str:
    """The condition by which a session is the migrator's; ``owner`` is the oid of the table's."""
    return (
        f"(current_setting('{MIGRATOR_SETTING}', true) is not distinct from '{migration_id}'"
        f" and pg_has_role({owner}::oid, 'usage'))"
    )


async def drop_triggers(
    table: AnyTable,
    fence: Fence,
    kinds: Sequence[str] = TRIGGER_KINDS,
) -> None:
    """Drop those that are there, in the caller's transaction."""
    names = [quote_identifier(trigger_name(fence, kind)) for kind in kinds]
    await table.connection.execute(
        ";".join(f"drop trigger if exists {name} on {table.name}" for name in names)
    )


async def disarm(
    table: AnyTable,
    fence: Fence,
    kinds: Sequence[str] = TRIGGER_KINDS,
) -> None:
    """Switch those that are there off, in the caller's transaction.

    This waits for writers and no reader; dropping a trigger would wait for both, and a report may
    take hours. :func:`drop_idle` drops what was switched off.
    """
    for name in await _those_of(table, [trigger_name(fence, kind) for kind in kinds]):
        await table.connection.execute(
            f"alter table {table.name} disable trigger {quote_identifier(name)}"
        )


def _idle(table: AnyTable) -> str:
    guarded = table.beside("eventsource_guarded")
    return _IDLE.replace("{fences}", table.fences).replace("{guarded}", guarded)


async def drop_idle(table: OwnTable, seconds: float = TIDY_SECONDS) -> None:
    """Drop the triggers that let everybody pass by now, if there is a quiet moment.

    Those are the ones of tenants that have arrived and are open, and those that an abort has
    switched off. The server still parses the conditions of the first for every statement. What is
    left goes with the next tenant that arrives, or whose migration is aborted.
    """

    async def drop() -> None:
        # The lock before the look: who comes to make the triggers of a tenant that arrives again
        # has closed its fence, and waits; and so does who switches one on again.
        await _hold_everybody_off(table)
        idle = await table.connection.fetch(_idle(table), table.name, table.address.table, _SHARED)
        drops = [f"drop trigger {quote_identifier(row['name'])} on {table.name}" for row in idle]
        made = {row["function"] for row in idle if row["function"] is not None}
        drops += [f"drop function {table.beside(name)}()" for name in sorted(made)]
        # Another driver may have been here since the first look, and nothing is no statement.
        if drops:
            await table.connection.execute(";".join(drops))
        await failpoints.reach("flip.arrival.dropped")

    deadline = time.monotonic() + seconds
    if await table.connection.fetch(_idle(table), table.name, table.address.table, _SHARED):
        try:
            await brief_locks.transact(
                table.connection,
                drop,
                lambda: time.monotonic() < deadline,
                lock_timeout_ms=TIDY_LOCK_TIMEOUT_MS,
            )
        except brief_locks.LockNeverGranted:
            _log.info(
                "table %s was never quiet: its old triggers stay for now", table.address.table
            )


async def remove(table: OwnTable, fence: Fence) -> bool:
    """Disarm the guard and delete its row at once, unless the row says another state (then False).

    The exclusive lock is held: a cutover that is deciding is waited for, and none can decide
    afterwards, because the row it would change is gone. What the tenant's earlier migrations have
    left here is in force again: a store that it once left sends its writers on as before.
    """
    removed = False

    own = [trigger_name(fence, kind) for kind in TRIGGER_KINDS]
    shared = [_SHARED + kind for kind in TRIGGER_KINDS]

    async def drop() -> None:
        nonlocal removed
        had_left = await table.connection.fetchval(
            f"select exists (select from {table.fences} f where lock_id = $1 and fence_id <> $2"
            " and role = 'source')",
            fence.lock_id, fence.fence_id,
        )  # fmt: skip
        if had_left or await _has_any(table, own + shared):
            # The table before the fence: a writer that waits at the fence holds its table lock,
            # and switching the triggers off would wait for it in vain.
            await _hold_writers_off(table)
        await lock_exclusively(table.connection, fence)
        state = await table.connection.fetchval(
            f"select state from {table.fences} where fence_id = $1 and migration_id = $2",
            fence.fence_id, fence.migration_id,
        )  # fmt: skip
        # Gone, or as it was when this began: neither decided on nor opened since.
        removed = state in (None, fence.state)
        if not removed:
            return
        await disarm(table, fence)
        await table.connection.execute(
            f"delete from {table.fences} where fence_id = $1 and migration_id = $2",
            fence.fence_id, fence.migration_id,
        )  # fmt: skip
        # Another migration may have made them meanwhile, for this tenant too.
        if had_left or await _has_any(table, shared):
            await renew(table)
        await failpoints.reach("abort.guard.dropped")

    await brief_locks.transact(table.connection, drop, **_wait_for(table, fence))
    return removed


async def _hold_writers_off(table: AnyTable) -> None:
    """In the caller's transaction; readers go on."""
    await table.connection.execute(f"lock table {table.name} in share row exclusive mode")


async def _hold_everybody_off(table: AnyTable) -> None:
    """In the caller's transaction, before any weaker lock."""
    await table.connection.execute(f"lock table {table.name} in access exclusive mode")


async def _has_any(table: AnyTable, triggers: Sequence[str]) -> bool:
    return bool(await _those_of(table, triggers))


async def _those_of(table: AnyTable, triggers: Sequence[str]) -> list[str]:
    rows = await table.connection.fetch(
        "select tgname from pg_trigger where tgrelid = $1::text::regclass"
        " and tgname = any ($2::text[])",
        table.name, triggers,
    )  # fmt: skip
    return [row["tgname"] for row in rows]


def trigger_name(fence: Fence, kind: str) -> str:
    """Of a tenant's own trigger."""
    # BEFORE triggers run in the order of their names: another one may still change the tenant.
    return f"{_SHARED}{fence.fence_id}_{kind}"
