"""The guard: fence rows, and the triggers that make every writer heed them.

The functions behind the triggers are in ``stores/sql/fence.sql``. A tenant that arrives has
triggers of its own; all that leave a table, or have left it, share theirs
(``eventsource_guard_renew``). Here is when they are made, how they recognise the migrator, and how
they go away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource import failpoints
from eventsource.identifiers import qualified, quote_identifier
from eventsource.migration.errors import MigrationError
from eventsource.migration.tables import brief_locks

if TYPE_CHECKING:
    from eventsource.dataplane import TableAddress
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories import Executor

_log = logging.getLogger(__name__)

#: First key of the advisory lock between guard (shared) and cutover (exclusive); the second is
#: the fence's id. The same number stands in fence.sql.
LOCK_CLASS = 1163281235

#: Tidying up behind a cutover is not worth a wait that anybody notices: so long may an attempt make
#: writers and readers wait, and so long is it tried.
TIDY_LOCK_TIMEOUT_MS, TIDY_SECONDS = 20, 2.0

#: The guard waits this much longer than the cutover's budget, so that an overrun is the cutover's
#: to resolve and no writer sees an error for it.
GUARD_PATIENCE_SECONDS = 2.0

#: Generation of a target's fence whose migration is being undone.
NO_MIRRORS = -1

#: Session setting by which the target's guard recognises the migrator.
MIGRATOR_SETTING = "eventsource.migration"

TRIGGER_KINDS = ("write", "change", "truncate")

#: What the names of all triggers begin with; those for all that leave a table end with their kind.
_SHARED = "zzz_eventsource_guard_"


@dataclass(frozen=True, slots=True)
class Fence:
    """A tenant's fence row in one event table.

    ``source_head`` is the source's position sequence at the decision; ``moved_to`` the store id,
    which a target keeps from the time when the tenant left it; ``patience_ms`` how long a writer
    waits for a cutover.
    """

    fence_id: int
    role: str
    state: str
    generation: int
    migration_id: UUID
    store_id: str
    moved_to: str | None
    source_head: int | None
    position_offset: int
    patience_ms: int


def fences(address: TableAddress) -> str:
    """The fence table beside the event table, quoted."""
    return qualified(address.schema, "eventsource_fences")


def table(address: TableAddress) -> str:
    """The event table, quoted."""
    return qualified(address.schema, address.table)


async def read(connection: Executor, address: TableAddress, tenant_id: UUID) -> Fence | None:
    """The tenant's fence, or None."""
    row = await connection.fetchrow(
        "select fence_id, role, state, generation, migration_id, store_id, moved_to, source_head,"
        f" position_offset, patience_ms from {fences(address)}"
        " where table_name = $1 and tenant_id = $2",
        address.table, tenant_id,
    )  # fmt: skip
    return Fence(**dict(row)) if row is not None else None


async def raise_fence(
    connection: Executor,
    address: TableAddress,
    *,
    tenant_id: UUID,
    migration_id: UUID,
    store_id: str,
    role: str,
    generation: int,
    budget_seconds: float,
) -> Fence:
    """Commit the fence row that the triggers will look for: ``open`` at a source, ``closed`` at a
    target. A finished migration's row is taken over; an unfinished one's is an error.
    """
    patience_ms = int((budget_seconds + GUARD_PATIENCE_SECONDS) * 1000)
    state = "open" if role == "source" else "closed"
    finished = "open" if role == "source" else "moved"
    name = fences(address)
    await connection.execute(
        f"insert into {name} as f (table_name, tenant_id, role, state, generation, migration_id,"
        " store_id, patience_ms) values ($1, $2, $3, $4, $5, $6, $7, $9)"
        " on conflict (table_name, tenant_id) do update set role = excluded.role,"
        " state = excluded.state, generation = excluded.generation,"
        # Where the tenant went when it left the target is kept, for an abort of its return.
        " migration_id = excluded.migration_id, store_id = excluded.store_id,"
        " moved_to = case excluded.role when 'target' then f.moved_to end,"
        " source_head = null, position_offset = 0, updated_at = now(),"
        " patience_ms = excluded.patience_ms"
        " where f.migration_id <> excluded.migration_id and f.state = $8"
        " and f.role is distinct from excluded.role",
        address.table, tenant_id, role, state, generation, migration_id, store_id, finished,
        patience_ms,
    )  # fmt: skip
    fence = await read(connection, address, tenant_id)
    if fence is None or fence.migration_id != migration_id:
        raise MigrationError(
            f"the fence of tenant {tenant_id} in {address.table!r} belongs to another migration"
            f" ({fence.migration_id if fence else 'none'}); abort that one first"
        )
    return fence


async def install(
    connection: asyncpg.Connection[Any],
    address: TableAddress,
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
        NeverQuiet: ``carry_on`` said no.
    """

    async def create() -> None:
        if fence.role == "target":
            await create_triggers(connection, address, fence, tenant_id)
        # Also for a target: the tenant may be back, and is no longer one that has left.
        await renew(connection, address)
        if then is not None:
            await then()

    await brief_locks.transact(connection, create, carry_on)


async def renew(connection: Executor, address: TableAddress) -> None:
    """In the caller's transaction: guard the tenants that are leaving or have left, and only them.

    One statement: the less often the client has its turn, the less can it be slow.
    """
    renewing = qualified(address.schema, "eventsource_guard_renew")
    await connection.execute(f"select {renewing}($1::text::regclass)", table(address))


async def create_triggers(
    connection: Executor,
    address: TableAddress,
    fence: Fence,
    tenant_id: UUID,
    kinds: Sequence[str] = TRIGGER_KINDS,
) -> None:
    """The triggers of a tenant that is arriving, in the caller's transaction.

    Its migrator passes by their condition, so that the rows of a copy do not run the function. What
    is inserted is looked at behind the insert: with a row trigger before it, the server would write
    a COPY row by row instead of page by page.
    """
    on = table(address)
    # The ids are UUIDs and integers of ours: a trigger's condition cannot take parameters.
    run = (
        f"for each row when ({{row}}.tenant_id = '{tenant_id}'::uuid"
        f" and current_setting('{MIGRATOR_SETTING}', true) is distinct from"
        f" '{fence.migration_id}')"
        f" execute function {qualified(address.schema, 'eventsource_guard')}"
        f"('{fence.fence_id}', '{fence.patience_ms}')"
    )
    events = {
        "write": "after insert or update on {on} " + run.format(row="new"),
        "change": "before update or delete on {on} " + run.format(row="old"),
        "truncate": "before truncate on {on} for each statement execute function "
        f"{qualified(address.schema, 'eventsource_guard_truncate')}()",
    }
    statements = []
    for kind in kinds:
        name = quote_identifier(trigger_name(fence, kind))
        event = events[kind].replace("{on}", on)
        statements.append(f"create or replace trigger {name} {event}")
        # Otherwise session_replication_role = replica walks past.
        statements.append(f"alter table {on} enable always trigger {name}")
    # In one message, as in `renew`.
    await connection.execute(";".join(statements))


async def drop_triggers(
    connection: Executor,
    address: TableAddress,
    fence: Fence,
    kinds: Sequence[str] = TRIGGER_KINDS,
) -> None:
    """Drop those that are there, in the caller's transaction."""
    names = [quote_identifier(trigger_name(fence, kind)) for kind in kinds]
    await connection.execute(
        ";".join(f"drop trigger if exists {name} on {table(address)}" for name in names)
    )


async def drop_arrived(connection: asyncpg.Connection[Any], address: TableAddress) -> None:
    """Drop the triggers of the tenants that have arrived and are open, if there is a quiet moment.

    They let everybody pass by now, but the server parses their conditions for every statement, and
    runs the function for each row of the tenant. Whatever is left goes with the next tenant that
    arrives.
    """

    async def there() -> list[str]:
        rows = await connection.fetch(
            f"select t.tgname from pg_trigger t join {fences(address)} f"
            " on starts_with(t.tgname, $3 || f.fence_id || '_')"
            " where t.tgrelid = $1::text::regclass and f.table_name = $2"
            " and (f.role = 'source' or f.state = 'open')",
            table(address), address.table, _SHARED,
        )  # fmt: skip
        return [row["tgname"] for row in rows]

    async def drop() -> None:
        # The lock before the look: who comes to make the triggers of a tenant that arrives again
        # has closed its fence, and waits.
        await connection.execute(f"lock table {table(address)} in access exclusive mode")
        drops = [
            f"drop trigger {quote_identifier(each)} on {table(address)}" for each in await there()
        ]
        await connection.execute(";".join(drops))
        await failpoints.reach("flip.arrival.dropped")

    deadline = time.monotonic() + TIDY_SECONDS
    if await there():
        try:
            await brief_locks.transact(
                connection,
                drop,
                lambda: time.monotonic() < deadline,
                lock_timeout_ms=TIDY_LOCK_TIMEOUT_MS,
            )
        except brief_locks.NeverQuiet:
            _log.info("table %s was never quiet: its old triggers stay for now", address.table)


async def remove(connection: asyncpg.Connection[Any], address: TableAddress, fence: Fence) -> bool:
    """Drop triggers and row in one transaction, unless the tenant has moved (then False).

    The exclusive lock is held: a cutover that is deciding is waited for, and none can decide
    afterwards, because the row it would change is gone.
    """
    removed = False

    own = [trigger_name(fence, kind) for kind in TRIGGER_KINDS]
    shared = [_SHARED + kind for kind in TRIGGER_KINDS]

    async def drop() -> None:
        nonlocal removed
        if await _has_any(connection, address, own + shared):
            # The table before the fence: a writer that waits at the fence holds its table lock,
            # and dropping the triggers would wait for it in vain.
            await connection.execute(f"lock table {table(address)} in access exclusive mode")
        await lock_exclusively(connection, fence)
        state = await connection.fetchval(
            f"select state from {fences(address)} where fence_id = $1 and migration_id = $2",
            fence.fence_id, fence.migration_id,
        )  # fmt: skip
        removed = state != "moved"
        if not removed:
            return
        await drop_triggers(connection, address, fence)
        await connection.execute(
            f"delete from {fences(address)} where fence_id = $1 and migration_id = $2",
            fence.fence_id, fence.migration_id,
        )  # fmt: skip
        # Another migration may have made them meanwhile, for this tenant too.
        if await _has_any(connection, address, shared):
            await renew(connection, address)
        await failpoints.reach("abort.guard.dropped")

    await brief_locks.transact(connection, drop)
    return removed


async def _has_any(connection: Executor, address: TableAddress, triggers: Sequence[str]) -> bool:
    return bool(
        await connection.fetchval(
            "select exists (select from pg_trigger where tgrelid = $1::text::regclass"
            " and tgname = any ($2::text[]))",
            table(address), triggers,
        )
    )  # fmt: skip


async def stay_moved(
    connection: asyncpg.Connection[Any],
    address: TableAddress,
    fence: Fence,
    migration: Migration,
) -> None:
    """Undo the closing of a target that the tenant once left: it has still moved from there.

    A process that heard of nothing since would write to it; the fence sends it to where the tenant
    is, which is the source of the migration that is being undone.
    """

    async def restore() -> None:
        await connection.execute(f"lock table {table(address)} in access exclusive mode")
        await connection.execute(
            f"update {fences(address)} set role = 'source', state = 'moved', generation = $2,"
            " moved_to = $3, updated_at = now() where fence_id = $1",
            fence.fence_id, migration.generation, migration.source_store_id,
        )  # fmt: skip
        await drop_triggers(connection, address, fence)
        await renew(connection, address)

    await brief_locks.transact(connection, restore)


async def refuse_mirrors(connection: Executor, address: TableAddress, fence: Fence) -> None:
    """Take the mirrors' permission away; waits for those that are writing."""
    await connection.execute(
        f"update {fences(address)} set generation = $2 where fence_id = $1",
        fence.fence_id,
        NO_MIRRORS,
    )


async def lock_exclusively(connection: Executor, fence: Fence) -> None:
    """Inside a transaction: wait until no append is in flight and hold new ones off."""
    await connection.execute("select pg_advisory_xact_lock($1, $2)", LOCK_CLASS, fence.fence_id)


def trigger_name(fence: Fence, kind: str) -> str:
    """Of a tenant's own trigger."""
    # BEFORE triggers run in the order of their names: another one may still change the tenant.
    return f"{_SHARED}{fence.fence_id}_{kind}"
