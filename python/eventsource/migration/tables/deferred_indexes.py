"""Loading an empty target without its secondary indexes, and building them afterwards.

Maintaining four indexes row by row is most of a bulk copy's cost; building them over loaded rows
costs a fifth of it. Their definitions are saved in the progress row in the transaction that drops
them, so a crash at any point ends in the same catalog. Of a layout several tables may be loaded
so; what the load itself reads by is left to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass, replace
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
    from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence

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
    """A secondary index as the catalog writes it; ``constraint`` when it backs a unique one.

    ``table`` is the name of a layout's table, None for the table of a store of ours.
    """

    name: str
    definition: str
    constraint: str | None
    constraint_definition: str | None
    table: str | None = None

    def saved(self) -> dict[str, str | None]:
        """As the progress row keeps it; that of our own table as all versions read it."""
        values = asdict(self)
        if self.table is None:
            del values["table"]
        return values


async def defer(target: OwnTable, migration_id: UUID, fence: Fence) -> None:
    """Drop the secondary indexes of an empty table that only this migration uses.

    Inside the transaction that reserved the block: the table is locked, so empty stays empty, and
    until :func:`build` everybody else's writes to it are refused, statement by statement. The
    guard's trigger on every inserted row is not needed then, and its condition would cost the
    target a twentieth of the load.
    """
    if not await _is_owned_alone(target):
        return
    indexes = await _secondary(target, whole=True)
    await _save(target, migration_id, indexes)
    await hold_others_off(target, fence)
    await guard.drop_triggers(target, fence, _ROW_BY_ROW)
    await _drop(target, indexes)


async def defer_some(
    target: OwnTable, migration_id: UUID, fence: Fence, tables: Mapping[str, Collection[str]]
) -> None:
    """As :func:`defer`, for those of a layout's tables that are empty and locked.

    Args:
        tables: by name: the indexes that the load needs.
    """
    dropped: list[Index] = []
    for name, needed in tables.items():
        table = _part(target, name)
        if not await _is_owned_alone(table):
            continue
        found = await _secondary(table, name, whole=True)
        indexes = [index for index in found if index.name not in needed]
        if indexes:
            await hold_others_off(target, fence, name)
            await _drop(table, indexes)
            dropped += indexes
    if dropped:
        await _save(target, migration_id, dropped)


async def hold_others_off(target: OwnTable, fence: Fence, name: str | None = None) -> None:
    """In the caller's transaction: refuse everybody else's writes, statement by statement.

    Args:
        name: of a layout's table.
    """
    table = _part(target, name)
    trigger = quote_identifier(guard.trigger_name(fence, _LOADING))
    owner = await table.connection.fetchval(
        "select relowner from pg_class where oid = $1::text::regclass", table.name
    )
    await table.connection.execute(
        f"create or replace trigger {trigger} before insert or update or delete on {table.name}"
        f" for each statement when (not {guard.is_migrator(fence.migration_id, owner)})"
        f" execute function {table.beside('eventsource_guard_loading')}()"
    )
    await table.connection.execute(f"alter table {table.name} enable always trigger {trigger}")


async def not_held_off(target: OwnTable, fence: Fence) -> list[str]:
    """The layout's tables that are loaded, and that others can write to nevertheless."""
    wanted = await deferred(target, fence.migration_id) or ()
    names = list(dict.fromkeys(index.table for index in wanted if index.table is not None))
    rows = await target.connection.fetch(
        "select name from unnest($1::text[], $2::text[]) given (name, sql) where not exists"
        " (select from pg_trigger t where t.tgrelid = to_regclass(sql) and t.tgname = $3"
        " and t.tgenabled = 'A')",
        names, [target.beside(name) for name in names], guard.trigger_name(fence, _LOADING),
    )  # fmt: skip
    return [row["name"] for row in rows]


async def _is_owned_alone(table: OwnTable) -> bool:
    return bool(await table.connection.fetchval(_OWNED_ALONE, table.name))


async def _save(target: OwnTable, migration_id: UUID, indexes: Sequence[Index] | None) -> None:
    saved = None if indexes is None else json.dumps([index.saved() for index in indexes])
    await target.connection.execute(
        f"update {target.progress}"
        " set deferred_indexes = $2::text::jsonb where migration_id = $1",
        migration_id, saved,
    )  # fmt: skip


async def _drop(table: OwnTable, indexes: Sequence[Index]) -> None:
    for index in indexes:
        if index.constraint is not None:
            await table.connection.execute(
                f"alter table {table.name} drop constraint {quote_identifier(index.constraint)}"
            )
        else:
            await table.connection.execute(f"drop index {table.beside(index.name)}")


def _part(target: OwnTable, name: str | None) -> OwnTable:
    """One of a layout's tables, as a table of its own."""
    if name is None:
        return target
    return replace(target, address=replace(target.address, table=name))


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
    wanted = await deferred(target, migration.id)
    if wanted is None:
        return True
    tables = list(dict.fromkeys(index.table for index in wanted)) or [None]
    there = [index for name in tables for index in await _secondary(_part(target, name), name)]
    missing = [index for index in wanted if index.name not in {each.name for each in there}]
    connections = (target.connection, *helpers)
    if missing and not await _build(target, connections, migration, missing, stopped):
        return False
    for number, name in enumerate(tables, 1):
        await _finish(target, migration, fence, name, wanted, left=tables[number:])
    await failpoints.reach("load.finished.committed")
    return True


async def _finish(
    target: OwnTable, migration: Migration, fence: Fence, name: str | None,
    wanted: Sequence[Index], left: Sequence[str | None],
) -> None:  # fmt: skip
    """Make one table what it was before; ``left`` are those that this is to be done for yet."""
    table, mine = _part(target, name), [index for index in wanted if index.table == name]
    later = [index for index in wanted if index.table in left]

    async def finish() -> None:
        await _restore_constraints(table, mine)
        if not set(mine) <= set(await _secondary(table, name)):
            raise MigrationError(
                f"the indexes of {table.address.table!r} are not what they were before the load;"
                " abort the migration to restore them"
            )
        # What waits for readers comes first: see `guard.install`.
        if name is not None or any(index.constraint is not None for index in mine):
            await guard.drop_triggers(table, fence, [_LOADING])
        else:
            # Nothing else here waits for readers.
            await guard.disarm(table, fence, [_LOADING])
        if name is None:
            await guard.create_triggers(target, fence, migration.tenant_id, _ROW_BY_ROW)
        await _save(target, migration.id, later or None)
        await failpoints.reach("load.restored")

    await brief_locks.transact(
        target.connection,
        finish,
        what=f"for a lock on {table.name} in store {migration.target_store_id!r}, to restore its"
        " constraints",
        look=lambda seconds: blockers.of_table(
            target.connection, table.name, seconds, readers=True
        ),
    )


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
    """Build what no other connection has begun.

    In one message, and so in a transaction of the server's own: who is cancelled on the way leaves
    none on a connection that goes on.
    """
    for index in missing:
        await connection.execute(
            f"{_BUILD_MEMORY}; {index.definition}", timeout=LONG_STATEMENT_SECONDS
        )
        await failpoints.reach("load.index.committed")


async def _restore_constraints(table: OwnTable, wanted: Sequence[Index]) -> None:
    constrained = {i.name for i in await _secondary(table) if i.constraint is not None}
    for index in wanted:
        if index.constraint is None or index.name in constrained:
            continue
        assert index.constraint_definition is not None
        # "UNIQUE (a, b) DEFERRABLE …": what follows the columns has to come back as well.
        suffix = index.constraint_definition.rpartition(")")[2]
        await table.connection.execute(
            f"alter table {table.name} add constraint {quote_identifier(index.constraint)}"
            f" unique using index {quote_identifier(index.name)}{suffix}"
        )


async def _secondary(
    table: OwnTable, name: str | None = None, *, whole: bool = False
) -> list[Index]:
    """The secondary indexes; ``whole``: only those that their definition makes again whole."""
    rows = await table.connection.fetch(_SECONDARY, table.name, whole)
    return [Index(**dict(row), table=name) for row in rows]
