"""The event store in a PostgreSQL table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource import connections, hosts
from eventsource.errors import FeedBlockedError
from eventsource.identifiers import qualified
from eventsource.stores import schema as table_schema
from eventsource.stores import schema_setup, statements
from eventsource.stores.appending import Appender
from eventsource.stores.encoding import Append, encode_append
from eventsource.stores.feed import Feed, Head
from eventsource.stores.interface import AppendResult, EventStream, StoredEvent
from eventsource.stores.reading import ChunkSize, pages, sole_type, stored_event
from eventsource.stores.selection import Selection

if TYPE_CHECKING:
    from asyncpg.pool import Pool

    from eventsource.connections import AnyConnection
    from eventsource.events import DomainEvent

__all__ = ["PostgreSQLEventStore"]

# How long warming up waits for one more connection, in seconds.
_WARM_UP_SECONDS = 1.0
# What the server says when the table, its schema or a column is not there.
_SCHEMA_ERRORS = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)


class PostgreSQLEventStore:
    """Events in one table of a PostgreSQL database, reached through the application's pool.

    Args:
        pool: an asyncpg pool; the store never closes it.
        table_name: one identifier, quoted wherever it is used; a dot in it is part of the name.
        dsn: how migrations connect on their own; by default read from the pool. Needed when the
            pool goes through a pooler or was made with an ssl context. A function, plain or async,
            is asked at each connect.
        password: goes before the one of ``dsn``; a function as well, for tokens that expire.
        schema: the table's schema; None takes the search path.
        foreign_writer_wait: seconds that a reader of the feed waits for transactions that write to
            the table without announcing their positions.
        application_role: the role with which the application writes here; a migration is refused
            while that may not. None looks at the roles that are connected.

    Errors of the server that are no conflict and no missing table reach the caller unchanged.
    """

    layout: Any = None  # of which library's kind the table is; None for ours

    def __init__(
        self,
        pool: Pool[Any],
        table_name: str = "events",
        *,
        dsn: connections.Secret | None = None,
        password: connections.Secret | None = None,
        schema: str | None = None,
        foreign_writer_wait: float = 2.0,
        application_role: str | None = None,
    ) -> None:
        self.pool = pool
        self.table_name = table_name
        self.schema = schema
        self.table = qualified(schema, table_name)
        self.application_role = application_role
        self._dsn = dsn
        self._password = password
        self._feed = Feed(schema, table_name, foreign_writer_wait)
        self._parameters: connections.ConnectionParameters | None = None
        self.appender = Appender(self.table)

    def __repr__(self) -> str:
        return f"PostgreSQLEventStore({self.table})"

    async def connection_parameters(self) -> connections.ConnectionParameters:
        """How to reach the store's database without the pool; read once, then remembered.

        Raises:
            ConnectionDetailsError: the pool's connections cannot be described: pass ``dsn=``.
        """
        if self._parameters is None:
            self._parameters = await connections.connection_parameters(
                self.pool, self._dsn, self._password
            )
        return self._parameters

    async def address(self) -> connections.TableAddress:
        """The table as the data plane takes it, with its schema resolved."""
        parameters = await self.connection_parameters()
        return connections.TableAddress(
            parameters.dsn, await self.resolve_schema(), self.table_name, parameters.password
        )

    def hosts(self) -> list[tuple[str, int]]:
        """The TCP addresses that migrations would try; empty when they are not known."""
        return hosts.hosts_of(self.pool, self._dsn)

    async def create_schema(self) -> None:
        """Make the table and what belongs to it, or upgrade an existing table in place.

        Any number of processes may do so at once and as often as they like. An existing table
        keeps its rows untouched; its missing indexes are built while writers go on.

        Raises:
            StoreSchemaError: the table exists and cannot be upgraded; the message names the fix.
        """
        if self._dsn is None:
            async with self.pool.acquire() as pooled:
                await schema_setup.create_schema(pooled, self.schema, self.table_name)
            return
        # The pool may go through a transaction pooler, where no session keeps a lock.
        connection = await connections.connect(
            await self.connection_parameters(), application_name="eventsource create_schema"
        )
        try:
            await schema_setup.create_schema(connection, self.schema, self.table_name)
        finally:
            await connection.close()

    async def resolve_schema(self) -> str:
        """The schema that holds the table, or would hold it if it were made now.

        Raises:
            StoreSchemaError: the search path names no existing schema.
        """
        if self.schema is not None:
            return self.schema
        async with self.pool.acquire() as connection:
            table = await table_schema.find_table(connection, None, self.table_name)
            if table is not None:
                return table.schema
            return await schema_setup.home_schema(connection)

    async def append_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        events: Sequence[DomainEvent],
        expected_version: int,
        *,
        connection: AnyConnection | None = None,
    ) -> AppendResult:
        """Store the events as the next versions of the stream, all or none, in one round trip.

        With ``connection`` the append joins the transaction of the caller, if there is one; a
        conflict leaves that transaction usable.

        Raises:
            OptimisticLockError: the stream is not at ``expected_version``.
            EventIdTakenError: an event id is stored with other content.
            StreamTenantError: the stream belongs to another tenant.
            ValueError: the events do not belong in one append; the message says why.
            StoreSchemaError: there is no such table.
        """
        request = encode_append(aggregate_id, aggregate_type, events, expected_version)
        try:
            if connection is not None:
                return await self.appender.append(connection, request)
            return await self._append_pooled(request)
        except _SCHEMA_ERRORS as error:
            await self._explain(error, connection)
            raise

    async def warm_up(self, connections: int) -> None:
        """Open up to this many of the pool's connections and prepare the append on each.

        The first append of a connection costs several times a later one: a tenant that arrives
        would pay that for all its writers at once. Stores nothing; what cannot be opened is left.
        """
        async with AsyncExitStack() as held:
            opened = []
            for _ in range(min(connections, self.pool.get_max_size())):
                try:
                    lent = self.pool.acquire(timeout=_WARM_UP_SECONDS)
                    opened.append(await held.enter_async_context(lent))
                except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    break
            await asyncio.gather(
                *(self.appender.warm(connection) for connection in opened),
                return_exceptions=True,
            )

    async def _append_pooled(self, request: Append) -> AppendResult:
        async with self.pool.acquire() as connection:
            return await self.appender.append(connection, request)

    async def get_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> EventStream:
        """The stream's events with a version greater than ``from_version``, as event classes.

        Raises:
            UnknownEventTypeError: an event's class is not registered.
            ValueError: several aggregate types share the id and none was named.
        """
        events: list[DomainEvent] = []
        version = 0
        async for stored in self.read_stream(
            aggregate_id, aggregate_type, from_version, tenant_id=tenant_id
        ):
            events.append(stored.event)
            version, aggregate_type = stored.version, stored.aggregate_type
        if not events and from_version > 0:
            version, aggregate_type = await self._end_of_stream(
                aggregate_id, aggregate_type, tenant_id
            )
        return EventStream(events, version, aggregate_id, aggregate_type)

    async def read_stream(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        from_version: int = 0,
        *,
        tenant_id: UUID | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """The stream's rows with a version greater than ``from_version``, in version order.

        Raises:
            ValueError: several aggregate types share the id and none was named.
        """
        size = ChunkSize()
        version = from_version
        if aggregate_type is None and from_version > 0:
            # Only from their beginnings one sees that several streams share the id.
            _, aggregate_type = await self._end_of_stream(aggregate_id, None, tenant_id)
            if aggregate_type is None:
                return
        while True:
            if aggregate_type is None:
                rows = await self._fetch(
                    statements.untyped_stream_rows, aggregate_id, version, size.rows, tenant_id
                )
                aggregate_type = sole_type(aggregate_id, [row["aggregate_type"] for row in rows])
            else:
                rows = await self._fetch(
                    statements.typed_stream_rows,
                    aggregate_id,
                    aggregate_type,
                    version,
                    size.rows,
                    tenant_id,
                )
            for row in rows:
                yield stored_event(row)
            if len(rows) < size.rows:
                return
            version = rows[-1]["version"]
            size.adapt(rows)

    async def read_all(
        self,
        from_position: int = 0,
        *,
        tenant_id: UUID | None = None,
        limit: int | None = None,
        event_types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Events after ``from_position`` in the order of the feed, at most ``limit``.

        It ends at the head as it was at the call: below it nothing can appear any more, so going
        on from the last position never misses an event. While transactions that do not announce
        their positions keep the head unknown, it gives nothing. Events of a tenant that a migration
        is still carrying into this table appear all at once when the tenant is opened here. No
        connection is held between chunks, and memory does not grow with the table. See
        `EventStore.read_all` for the filters.

        Raises:
            StoreSchemaError: there is no such table, or the server is a standby.
        """
        chosen = Selection.of(tenant_id, event_types, since, until)
        try:
            head = await self._head()
        except FeedBlockedError:
            return
        async for row in pages(self._fetch, chosen, head.hidden, from_position, head.position,
                               limit):  # fmt: skip
            yield stored_event(row)

    async def read_backwards(
        self,
        before_position: int | None = None,
        *,
        tenant_id: UUID | None = None,
        limit: int | None = None,
        event_types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """The newest events first, those below ``before_position``, at most ``limit``.

        See `EventStore.read_all` for the filters.

        Raises:
            FeedBlockedError: transactions that do not announce their positions stayed open.
            StoreSchemaError: there is no such table, or the server is a standby.
        """
        chosen = Selection.of(tenant_id, event_types, since, until)
        head = await self._head()
        last = head.position
        if before_position is not None:
            last = min(last, before_position - 1)
        async for row in pages(self._fetch, chosen, head.hidden, 0, last, limit, backwards=True):
            yield stored_event(row)

    async def get_stream_version(
        self,
        aggregate_id: UUID,
        aggregate_type: str | None = None,
        *,
        tenant_id: UUID | None = None,
    ) -> int:
        """The version of the stream's last event, 0 when it has none.

        Raises:
            ValueError: several aggregate types share the id and none was named.
        """
        version, _ = await self._end_of_stream(aggregate_id, aggregate_type, tenant_id)
        return version

    async def _end_of_stream(
        self, aggregate_id: UUID, aggregate_type: str | None, tenant_id: UUID | None
    ) -> tuple[int, str | None]:
        """The stream's version, and its type if it was named or the stream has events."""
        rows = await self._fetch(
            statements.stream_versions, aggregate_id, aggregate_type, tenant_id
        )
        found = sole_type(aggregate_id, [row["aggregate_type"] for row in rows])
        return (int(rows[0]["version"]) if rows else 0), aggregate_type or found

    async def event_exists(self, event_id: UUID, *, tenant_id: UUID | None = None) -> bool:
        """Whether an event with this id is stored."""
        rows = await self._fetch(statements.event_exists, event_id, tenant_id)
        return bool(rows[0][0])

    async def get_global_position(self) -> int:
        """The position of the last event that ``read_all`` would give now, 0 when there is none.

        Raises:
            FeedBlockedError: transactions that do not announce their positions stayed open.
            StoreSchemaError: there is no such table, or the server is a standby.
        """
        head = await self._head()
        if head.hidden:
            rows = await self._fetch(statements.last_position_without, *head.without_hidden())
        else:
            rows = await self._fetch(statements.last_position, head.position)
        return int(rows[0][0])

    async def _head(self) -> Head:
        try:
            async with self.pool.acquire() as connection:
                return await self._feed.head(connection)
        except _SCHEMA_ERRORS as error:
            await self._explain(error)
            raise

    async def _fetch(
        self, statement: Callable[[str], str], *arguments: object
    ) -> list[asyncpg.Record]:
        try:
            rows: list[asyncpg.Record] = await self.pool.fetch(statement(self.table), *arguments)
        except _SCHEMA_ERRORS as error:
            await self._explain(error)
            raise
        return rows

    async def _explain(self, error: Exception, lent: AnyConnection | None = None) -> None:
        """Raise a StoreSchemaError if the table is why the server refused a statement.

        Over the caller's connection, if it has lent one: the pool may have no other.
        """
        self._feed.forget()
        if lent is not None:
            await table_schema.explain(lent, self.schema, self.table_name, error)
            return
        async with self.pool.acquire() as connection:
            await table_schema.explain(connection, self.schema, self.table_name, error)
