"""Loading an empty target without its secondary indexes, and building them afterwards.

Maintaining four indexes row by row is most of a bulk copy's cost; building them over loaded rows
costs a fifth of it. Their definitions are saved in the progress row in the transaction that drops
them, so a crash at any point ends in the same catalog.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource import failpoints
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import blockers, waits
from eventsource.migration.connections.driver_connections import close_all, open_connection
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.errors import MigrationError
from eventsource.migration.event_table import OwnTable
from eventsource.migration.tables import brief_locks, guard

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    import asyncpg

    from eventsource.migration.errors import Blocker
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.fences import Fence

    Connection = asyncpg.Connection[Any]

#: Below this many events, dropping and building costs more than it saves.
WORTH_IT = 50_000

# What the target's administrator allows a build, and never less than this: PostgreSQL comes with
# 64 MB, which is for tables that are small.
_BUILD_MEMORY = (
    "select set_config('maintenance_work_mem', greatest(256 * 1024,"
    " pg_size_bytes(current_setting('maintenance_work_mem')) / 1024)::text || 'kB', true)"
)

#: The guard's trigger that a load does without.
_ROW_BY_ROW = ("write",)

#: Kind of the trigger that a load has instead.
_LOADING = "loading"

# Not the primary key (the cursor reads by it), nor what something else depends on: foreign keys,
# the replica identity, exclusion constraints, indexes that are not valid. $2 leaves out what would
# not come back with the definition: tablespace, comments, statistics of expressions, extensions.
_SECONDARY = """
select c.relname as name, pg_get_indexdef(i.indexrelid) as definition, k.conname as constraint,
       pg_get_constraintdef(k.oid) as constraint_definition
from pg_index i
join pg_class c on c.oid = i.indexrelid
left join pg_constraint k on k.conindid = i.indexrelid and k.conrelid = i.indrelid
where i.indrelid = $1::text::regclass and not i.indisprimary and not i.indisreplident
  and not i.indisclustered and i.indisvalid and coalesce(k.contype, 'u') = 'u'
  and not exists (select from pg_constraint f where f.conindid = i.indexrelid and f.contype = 'f')
  and not ($2 and (
      c.reltablespace <> 0
      or exists (select from pg_description d where d.objoid in (c.oid, k.oid)
                 and d.classoid in ('pg_class'::regclass, 'pg_constraint'::regclass))
      or exists (select from pg_attribute a where a.attrelid = c.oid and a.attstattarget >= 0)
      or exists (select from pg_depend e where e.classid = 'pg_class'::regclass
                 and e.objid = c.oid and e.deptype = 'x')))
order by c.relname
"""

_OWNED_ALONE = """
select c.relkind = 'r' and pg_has_role(c.relowner, 'USAGE')
       and not exists (select from pg_inherits h where c.oid in (h.inhrelid, h.inhparent))
from pg_class c where c.oid = $1::text::regclass
"""


@dataclass(frozen=True, slots=True)
class Index:
    """A secondary index as the catalog writes it; ``constraint`` when it backs a unique one."""

    name: str
    definition: str
    constraint: str | None
    constraint_definition: str | None


async def defer(target: OwnTable, migration_id: UUID, fence: Fence) -> None:
    """Drop the secondary indexes of an empty table that only this migration uses.

    Inside the transaction that reserved the block: the table is locked, so empty stays empty, and
    until :func:`build` everybody else's writes to it are refused, statement by statement. The
    guard's trigger on every inserted row is not needed then, and its condition would cost the
    target a twentieth of the load.
    """
    table = target.name
    if not await target.connection.fetchval(_OWNED_ALONE, table):
        return
    indexes = await _secondary(target.connection, table, whole=True)
    await target.connection.execute(
        f"update {target.progress}"
        " set deferred_indexes = $2::text::jsonb where migration_id = $1",
        migration_id, json.dumps([asdict(index) for index in indexes]),
    )  # fmt: skip
    trigger = quote_identifier(guard.trigger_name(fence, _LOADING))
    owner = await target.connection.fetchval(
        "select relowner from pg_class where oid = $1::text::regclass", table
    )
    await target.connection.execute(
        f"create trigger {trigger} before insert or update or delete on {table}"
        f" for each statement when (not {guard.is_migrator(migration_id, owner)})"
        f" execute function {target.beside('eventsource_guard_loading')}()"
    )
    await target.connection.execute(f"alter table {table} enable always trigger {trigger}")
    await guard.drop_triggers(target, fence, _ROW_BY_ROW)
    for index in indexes:
        if index.constraint is not None:
            await target.connection.execute(
                f"alter table {table} drop constraint {quote_identifier(index.constraint)}"
            )
        else:
            await target.connection.execute(f"drop index {target.beside(index.name)}")


async def deferred(target: OwnTable, migration_id: UUID) -> list[Index] | None:
    """The saved definitions, or None when nothing is deferred."""
    saved = await target.connection.fetchval(
        f"select deferred_indexes::text from {target.progress} where migration_id = $1",
        migration_id,
    )
    return None if saved is None else [Index(**index) for index in json.loads(saved)]


async def build(
    target: OwnTable,
    helpers: Sequence[Connection],
    migration: Migration,
    fence: Fence,
    stopped: asyncio.Event | None = None,
) -> bool:
    """Build what was dropped, side by side on the helpers too, and let others write again.

    Idempotent. False when ``stopped`` was set on the way: what was under way is cancelled, and the
    table stays as a load has it.

    Raises:
        MigrationError: the catalog is not exactly as it was before.
    """
    first, table = target.connection, target.name
    wanted = await deferred(target, migration.id)
    if wanted is None:
        return True
    there = {index.name for index in await _secondary(first, table)}
    missing = [index for index in wanted if index.name not in there]
    if missing and not await _build(target, (first, *helpers), migration, missing, stopped):
        return False

    async def finish() -> None:
        await _restore_constraints(first, table, wanted)
        if not set(wanted) <= set(await _secondary(first, table)):
            raise MigrationError(
                f"the indexes of {target.address.table!r} are not what they were before the load;"
                " abort the migration to restore them"
            )
        # What waits for readers comes first: see `guard.install`.
        if any(index.constraint is not None for index in wanted):
            await guard.drop_triggers(target, fence, [_LOADING])
        else:
            # Nothing else here waits for readers.
            await guard.disarm(target, fence, [_LOADING])
        await guard.create_triggers(target, fence, migration.tenant_id, _ROW_BY_ROW)
        await first.execute(
            f"update {target.progress} set deferred_indexes = null where migration_id = $1",
            migration.id,
        )
        await failpoints.reach("load.restored")

    await brief_locks.transact(
        first,
        finish,
        what=f"for a lock on {table} in store {migration.target_store_id!r}, to restore its"
        " constraints",
        look=lambda seconds: blockers.of_table(first, table, seconds, readers=True),
    )
    await failpoints.reach("load.finished.committed")
    return True


async def _build(
    target: OwnTable,
    connections: Sequence[Connection],
    migration: Migration,
    missing: Sequence[Index],
    stopped: asyncio.Event | None,
) -> bool:
    """Build the indexes on all connections; False when it was stopped."""
    waiting = [await each.fetchval("select pg_backend_pid()") for each in connections]
    left = iter(missing)
    watcher: list[Connection] = []

    async def look(_: float) -> Sequence[Blocker]:
        # On a connection of its own: all others are at work.
        if not watcher:
            watcher.append(await open_connection(target.address.parameters))
        return await blockers.of_sessions(watcher[0], waiting)

    async def build_all() -> None:
        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(_build_some(connection, left))

    names = ", ".join(index.name for index in missing)
    store = migration.target_store_id
    try:
        async with waits.watched(
            f"for the indexes of {target.name} in store {store!r} to be built ({names})",
            "it ends when they are built, and begins again when it is stopped",
            look,
        ):
            return await _unless_stopped(build_all(), stopped)
    finally:
        await close_all(watcher)


async def _unless_stopped(work: Coroutine[Any, Any, None], stopped: asyncio.Event | None) -> bool:
    """Await the work; False when it was cancelled because of ``stopped``."""
    working = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopped.wait()) if stopped is not None else None
    try:
        await asyncio.wait(
            [working, stop] if stop is not None else [working],
            return_when=asyncio.FIRST_COMPLETED,
        )
        if working.done():
            await working
            return True
        return False
    finally:
        if stop is not None:
            stop.cancel()
        if not working.done():
            # asyncpg has the server cancel the statement, and waits for that.
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await working


async def first_statistics(target: OwnTable) -> None:
    """Give the planner figures of a table that was never analyzed, as one is after its load.

    After the load and not a part of it: nothing that the migration does depends on it. Without the
    right to do so the server leaves it and says so; autovacuum comes to it in a while.
    """
    table = target.name
    if await target.connection.fetchval(
        "select coalesce(last_analyze, last_autoanalyze) is null from pg_stat_all_tables"
        " where relid = $1::text::regclass",
        table,
    ):
        await target.connection.execute(f"analyze {table}", timeout=LONG_STATEMENT_SECONDS)


async def _build_some(connection: Connection, missing: Iterator[Index]) -> None:
    """Build what no other connection has begun."""
    for index in missing:
        async with connection.transaction():
            await connection.execute(_BUILD_MEMORY)
            await connection.execute(index.definition, timeout=LONG_STATEMENT_SECONDS)
        await failpoints.reach("load.index.committed")


async def _restore_constraints(connection: Connection, table: str, wanted: Sequence[Index]) -> None:
    constrained = {i.name for i in await _secondary(connection, table) if i.constraint is not None}
    for index in wanted:
        if index.constraint is None or index.name in constrained:
            continue
        assert index.constraint_definition is not None
        # "UNIQUE (a, b) DEFERRABLE …": what follows the columns has to come back as well.
        suffix = index.constraint_definition.rpartition(")")[2]
        await connection.execute(
            f"alter table {table} add constraint {quote_identifier(index.constraint)}"
            f" unique using index {quote_identifier(index.name)}{suffix}"
        )


async def _secondary(connection: Connection, table: str, *, whole: bool = False) -> list[Index]:
    """The secondary indexes; ``whole``: only those that their definition makes again whole."""
    return [Index(**dict(row)) for row in await connection.fetch(_SECONDARY, table, whole)]
