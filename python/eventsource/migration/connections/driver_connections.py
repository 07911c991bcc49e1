"""The connections a driver works on.

All are its own: blocked writers hold the application's pools, and nothing under the fence may wait
for a writer that waits for the fence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import asyncpg

from eventsource.connections import (
    ConnectionParameters,
    TableAddress,
    both,
    connect,
    connection_parameters,
    one_of,
)
from eventsource.migration.connections import session_marks, timeouts
from eventsource.migration.connections.kept import KeptSessions, close_briefly
from eventsource.migration.connections.session_marks import MIGRATOR_SETTING
from eventsource.migration.event_table import AnyTable, EventTable, OwnTable, of_store
from eventsource.migration.failures import concerning
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository

if TYPE_CHECKING:
    from eventsource.dataplane import KeptSessions as DataPlaneSessions
    from eventsource.migration.layouts.declaration import Layout
    from eventsource.stores.postgresql import PostgreSQLEventStore

    Connection = asyncpg.Connection[Any]

APPLICATION_NAME = "eventsource-migrate"

#: A role may have other defaults; the protocol depends on these. Statements and not startup
#: parameters, which a pooler in session mode refuses. A driver's sessions are idle while it rests
#: or another one works, and a statement is as long as an index build. A transaction that is left
#: alone is another thing: its driver is gone without a word, and its locks must go too.
_SETTINGS = """
set synchronous_commit = on;
set default_transaction_isolation = 'read committed';
set default_transaction_read_only = off;
set default_transaction_deferrable = off;
set statement_timeout = 0;
set lock_timeout = 0;
set idle_in_transaction_session_timeout = '5s';
set idle_session_timeout = 0;
set standard_conforming_strings = on;
set quote_all_identifiers = off;
set row_security = off;
set timezone = 'UTC';
set datestyle = 'ISO, MDY';
set intervalstyle = 'postgres';
set default_tablespace = '';
select set_config('transaction_timeout', '0', false)
where current_setting('transaction_timeout', true) is not null
"""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a migration's three databases are; holds passwords, never printed."""

    control: ConnectionParameters
    control_schema: str
    source: TableAddress
    target: TableAddress
    source_layout: Layout | None = None
    target_layout: Layout | None = None
    kept: KeptSessions | None = field(default=None, repr=False, compare=False)

    @classmethod
    async def of(
        cls,
        migrations: PostgreSQLMigrationRepository,
        source: PostgreSQLEventStore,
        target: PostgreSQLEventStore,
        kept: KeptSessions | None = None,
    ) -> Endpoints:
        """Read them from the stores and the repository.

        Args:
            kept: where sessions of this process are kept for a moment.

        Raises:
            ConnectionDetailsError: a store was given only a pool that cannot be described; pass
                ``dsn=``.
        """
        with concerning("source"):
            here = await of_store(source)
        with concerning("target"):
            there = await of_store(target)
        return await cls.at(migrations, here, there, kept)

    @classmethod
    async def at(
        cls,
        migrations: PostgreSQLMigrationRepository,
        source: AnyTable,
        target: AnyTable,
        kept: KeptSessions | None = None,
    ) -> Endpoints:
        """The same of tables that were found a moment ago."""
        with concerning("control"):
            pool = cast("asyncpg.Pool[Any]", migrations.pool)
            async with one_of(pool) as one:
                control = await connection_parameters(pool, lent=one)
                schema = await control_schema(PostgreSQLMigrationRepository(one))
        return cls(
            control, schema, source.address, target.address, source.layout, target.layout, kept
        )

    @property
    def kept_by_the_data_plane(self) -> DataPlaneSessions | None:
        """Where its sessions of this process are kept for a moment."""
        return None if self.kept is None else self.kept.data_plane

    async def open(self, parameters: ConnectionParameters) -> Connection:
        """One connection as a driver has them, new or kept; the caller closes it."""
        if self.kept is not None:
            connection = await self.kept.take(parameters, _SETTINGS)
            if connection is not None:
                return connection
        return await open_connection(parameters)

    async def open_table(self, address: TableAddress, layout: Layout | None = None) -> OwnTable:
        """A table over a connection of its own; the caller closes that."""
        return EventTable(await self.open(address.parameters), address, layout)

    @contextlib.asynccontextmanager
    async def connection(self, parameters: ConnectionParameters) -> AsyncIterator[Connection]:
        """One connection for a block, kept afterwards where that has ended well."""
        connection = await self.open(parameters)
        try:
            yield connection
        except BaseException:
            await close_all([connection])
            raise
        await self.done_with(parameters, connection)

    async def done_with(self, parameters: ConnectionParameters, connection: Connection) -> None:
        """Keep it for a moment for what comes next in this process, or close it."""
        if self.kept is not None:
            await self.kept.give_back(parameters, connection)
        else:
            await close_all([connection])


async def control_schema(migrations: PostgreSQLMigrationRepository) -> str:
    """The schema that holds the control tables."""
    name = await migrations.pool.fetchval(
        "select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.oid = to_regclass('tenant_migrations')"
    )
    return str(name or "public")


@dataclass(slots=True)
class DriverConnections:
    """Open connections of one driver.

    ``fence`` holds the exclusive lock during the cutover, so the source has a second connection
    for everything else.
    """

    endpoints: Endpoints
    control: Connection
    heartbeat: Connection
    source: OwnTable
    fence: OwnTable
    target: OwnTable

    @classmethod
    async def open(cls, endpoints: Endpoints, migration_id: UUID) -> DriverConnections:
        """Open them all, or none.

        Those to the stores carry the migration's mark, but for ``fence``: its COMMIT may be the
        decision, which is waited for under the lock and never cut off.
        """

        async def of_control() -> Connection:
            with concerning("control"):
                return await endpoints.open(endpoints.control)

        opened = await all_or_none(of_control(), of_control())
        try:
            tables = await _open_tables(endpoints, migration_id)
        except BaseException:
            await close_all(opened)
            raise
        control, heartbeat = opened
        return cls(endpoints, control, heartbeat, *tables)

    @property
    def migrations(self) -> PostgreSQLMigrationRepository:
        """The journal over the driver's own control connection."""
        return PostgreSQLMigrationRepository(self.control)

    async def open_target(self, migration_id: UUID) -> Connection:
        """One more connection to the target that its guard lets in; the caller closes it."""
        return (await _open_target(self.endpoints, migration_id)).connection

    async def renew(self, migration_id: UUID) -> None:
        """Open those to the stores again; what was open on the old ones is gone."""
        before = [table.connection for table in (self.source, self.fence, self.target)]
        self.source, self.fence, self.target = await _open_tables(self.endpoints, migration_id)
        await close_all(before)

    async def end_others(self, migration_id: UUID) -> None:
        """End the sessions that an earlier driver has at the stores. Only for who has the lease.

        The data plane's at the target end when the progress row is claimed.
        """
        source, target = self.source.connection, self.target.connection
        driver = session_marks.driver_mark(migration_id)
        reader = session_marks.data_plane_mark(migration_id, "source")
        keep = [await own.fetchval("select pg_backend_pid()") for own in (source, target)]
        await both(
            session_marks.end(source, (driver, reader), keep),
            session_marks.end(target, (driver,), keep),
        )

    def lost(self) -> str | None:
        """The side whose connections have ended; None of several, or where all are there."""
        sides = {
            "control": (self.control, self.heartbeat),
            "source": (self.source.connection, self.fence.connection),
            "target": (self.target.connection,),
        }
        ended = [side for side, links in sides.items() if any(each.is_closed() for each in links)]
        return ended[0] if len(ended) == 1 else None

    async def close(self, *, keep: bool = False) -> None:
        """Close them all; what was not committed is gone, which is the safe outcome.

        Args:
            keep: all has ended well: the next in this process may go on with them.
        """
        tables = [table.connection for table in (self.fence, self.source, self.target)]
        if not keep:
            await close_all([*tables, self.control, self.heartbeat])
            return
        where = self.endpoints
        await asyncio.gather(
            *(where.done_with(each.address.parameters, each.connection)
              for each in (self.fence, self.source, self.target)),
            *(where.done_with(where.control, each) for each in (self.control, self.heartbeat)),
        )  # fmt: skip


async def open_connection(parameters: ConnectionParameters) -> Connection:
    """One connection as the driver has them; the caller closes it."""
    connection = await connect(
        parameters, application_name=APPLICATION_NAME, command_timeout=timeouts.STATEMENT_SECONDS
    )
    try:
        await connection.execute(_SETTINGS)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _open_tables(
    endpoints: Endpoints, migration_id: UUID
) -> tuple[OwnTable, OwnTable, OwnTable]:
    """Source, fence and target: all of them, or none."""
    mark = session_marks.driver_mark(migration_id)

    async def of_source(marked: bool) -> Connection:
        with concerning("source"):
            connection = await endpoints.open(endpoints.source.parameters)
            try:
                if marked:
                    await session_marks.mark(connection, mark)
            except BaseException:
                connection.terminate()
                raise
            return connection

    async def of_target() -> Connection:
        with concerning("target"):
            return (await _open_target(endpoints, migration_id)).connection

    source, fence, target = await all_or_none(of_source(True), of_source(False), of_target())
    return (
        EventTable(source, endpoints.source, endpoints.source_layout),
        EventTable(fence, endpoints.source, endpoints.source_layout),
        EventTable(target, endpoints.target, endpoints.target_layout),
    )


async def all_or_none(*opening: Coroutine[Any, Any, Connection]) -> list[Connection]:
    """Open at the same time; what is open is closed where one of them cannot be opened."""
    tasks = [asyncio.ensure_future(each) for each in opening]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await close_all([each for each in ended if not isinstance(each, BaseException)])
        raise


async def open_table(address: TableAddress, layout: Layout | None = None) -> OwnTable:
    """A table over a connection of its own; the caller closes that."""
    return EventTable(await open_connection(address.parameters), address, layout)


async def _open_target(endpoints: Endpoints, migration_id: UUID) -> OwnTable:
    target = await endpoints.open_table(endpoints.target, endpoints.target_layout)
    try:
        await target.connection.execute(
            "select set_config($1, $2, false)", MIGRATOR_SETTING, str(migration_id)
        )
        await session_marks.mark(target.connection, session_marks.driver_mark(migration_id))
    except BaseException:
        target.connection.terminate()
        raise
    return target


async def close_all(connections: list[Connection]) -> None:
    """One after the other, politely but briefly."""
    for connection in connections:
        await close_briefly(connection)
