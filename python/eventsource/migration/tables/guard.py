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
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource import failpoints
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections.session_marks import MIGRATOR_SETTING
from eventsource.migration.event_table import AnyTable, OwnTable
from eventsource.migration.tables import brief_locks
from eventsource.migration.tables.fences import Fence, lock_exclusively

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

_log = logging.getLogger("eventsource.migration.driver")


#: Clean-up after a cutover must not be noticed: lock timeout of one attempt (ms), and how long to
#: keep trying (s).
TIDY_LOCK_TIMEOUT_MS, TIDY_SECONDS = 20, 2.0


TRIGGER_KINDS = ("write", "change", "truncate")

#: Those that a load of an empty table does without.
_ROW_BY_ROW = ("write",)

#: What the names of all triggers begin with; those for all that leave a table end with their kind.
_SHARED = "zzz_eventsource_guard_"


async def install(
    table: OwnTable,
    fence: Fence,
    tenant_id: UUID,
    carry_on: Callable[[], bool],
    *,
    then: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Put the fence's guard up; ``then`` runs in the same transaction, writers held off.

    This waits out every transaction that has written to the table, so none that the guard never
    saw is still in flight when it returns. ``carry_on`` is asked between two attempts: a long
    transaction at the source may hold them up for as long as it lasts.

    Raises:
        LockNeverGranted: ``carry_on`` said no.
    """

    async def create() -> None:
        if fence.role == "target":
            await create_triggers(table, fence, tenant_id)
        # Also for a target: the tenant may be back, and is no longer one that has left.
        await renew(table)
        if then is not None:
            await then()

    await brief_locks.transact(table.connection, create, carry_on)


async def renew(table: AnyTable) -> None:
    """In the caller's transaction: guard the tenants that are leaving or have left, and only them.

    One statement: the less often the client has its turn, the less can it be slow.
    """
    renewing = table.beside("eventsource_guard_renew")
    await table.connection.execute(f"select {renewing}($1::text::regclass)", table.name)


async def mend(
    table: OwnTable,
    fence: Fence,
    tenant_id: UUID,
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
    tenant_id: UUID,
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
        f"for each row when ({{row}}.tenant_id = '{tenant_id}'::uuid"
        f" and not {is_migrator(fence.migration_id, owner)})"
        f" execute function {table.beside('eventsource_guard')}"
        f"('{fence.fence_id}', '{fence.patience_ms}')"
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


async def drop_arrived(table: OwnTable) -> None:
    """Drop the triggers of the tenants that have arrived and are open, if there is a quiet moment.

    They let everybody pass by now, but the server parses their conditions for every statement, and
    runs the function for each row of the tenant. Whatever is left goes with the next tenant that
    arrives.
    """

    async def there() -> list[str]:
        rows = await table.connection.fetch(
            f"select t.tgname from pg_trigger t join {table.fences} f"
            " on starts_with(t.tgname, $3 || f.fence_id || '_')"
            " where t.tgrelid = $1::text::regclass and f.table_name = $2"
            " and (f.role = 'source' or f.state = 'open')",
            table.name, table.address.table, _SHARED,
        )  # fmt: skip
        return [row["tgname"] for row in rows]

    async def drop() -> None:
        # The lock before the look: who comes to make the triggers of a tenant that arrives again
        # has closed its fence, and waits.
        await table.connection.execute(f"lock table {table.name} in access exclusive mode")
        drops = [f"drop trigger {quote_identifier(each)} on {table.name}" for each in await there()]
        await table.connection.execute(";".join(drops))
        await failpoints.reach("flip.arrival.dropped")

    deadline = time.monotonic() + TIDY_SECONDS
    if await there():
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
    """Drop triggers and row in one transaction, unless the row says another state (then False).

    The exclusive lock is held: a cutover that is deciding is waited for, and none can decide
    afterwards, because the row it would change is gone.
    """
    removed = False

    own = [trigger_name(fence, kind) for kind in TRIGGER_KINDS]
    shared = [_SHARED + kind for kind in TRIGGER_KINDS]

    async def drop() -> None:
        nonlocal removed
        if await _has_any(table, own + shared):
            # The table before the fence: a writer that waits at the fence holds its table lock,
            # and dropping the triggers would wait for it in vain.
            await table.connection.execute(f"lock table {table.name} in access exclusive mode")
        await lock_exclusively(table.connection, fence)
        state = await table.connection.fetchval(
            f"select state from {table.fences} where fence_id = $1 and migration_id = $2",
            fence.fence_id, fence.migration_id,
        )  # fmt: skip
        # Gone, or as it was when this began: neither decided on nor opened since.
        removed = state in (None, fence.state)
        if not removed:
            return
        await drop_triggers(table, fence)
        await table.connection.execute(
            f"delete from {table.fences} where fence_id = $1 and migration_id = $2",
            fence.fence_id, fence.migration_id,
        )  # fmt: skip
        # Another migration may have made them meanwhile, for this tenant too.
        if await _has_any(table, shared):
            await renew(table)
        await failpoints.reach("abort.guard.dropped")

    await brief_locks.transact(table.connection, drop)
    return removed


async def _has_any(table: AnyTable, triggers: Sequence[str]) -> bool:
    return bool(
        await table.connection.fetchval(
            "select exists (select from pg_trigger where tgrelid = $1::text::regclass"
            " and tgname = any ($2::text[]))",
            table.name, triggers,
        )
    )  # fmt: skip


async def stay_moved(
    table: OwnTable,
    fence: Fence,
    migration: Migration,
) -> None:
    """Undo the closing of a target that the tenant once left: it has still moved from there.

    A process that heard of nothing since would write to it; the fence sends it to where the tenant
    is, which is the source of the migration that is being undone.
    """

    async def restore() -> None:
        await table.connection.execute(f"lock table {table.name} in access exclusive mode")
        await table.connection.execute(
            f"update {table.fences} set role = 'source', state = 'moved', generation = $2,"
            " moved_to = $3, updated_at = now() where fence_id = $1",
            fence.fence_id, migration.generation, migration.source_store_id,
        )  # fmt: skip
        await drop_triggers(table, fence)
        await renew(table)

    await brief_locks.transact(table.connection, restore)


def trigger_name(fence: Fence, kind: str) -> str:
    """Of a tenant's own trigger."""
    # BEFORE triggers run in the order of their names: another one may still change the tenant.
    return f"{_SHARED}{fence.fence_id}_{kind}"
