"""One append: a single statement when all goes well, and what follows a conflict."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.declared import uuid_of
from eventsource.errors import OptimisticLockError, StreamTenantError
from eventsource.stores import statements
from eventsource.stores.encoding import Append
from eventsource.stores.interface import AppendResult, ExpectedVersion
from eventsource.stores.repeated import StoredId, repeated_append
from eventsource.stores.sessions import Sessions

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection

# Appends that expect no version try again when another one took theirs between read and insert,
# after a random pause that grows: writers of one hot stream would otherwise collide again.
_ATTEMPTS = 20
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.1


class Appender:
    """The append statements of one table (quoted SQL text), built once."""

    __slots__ = ("_append", "_key_columns", "_stored", "_version", "sessions")

    def __init__(self, table: str) -> None:
        self._append = statements.append(table)
        self._stored = statements.stored_ids(table)
        self._version = statements.stream_version(table)
        self._key_columns = statements.key_columns(table)
        self.sessions = Sessions()

    async def append(self, connection: AnyConnection, request: Append) -> AppendResult:
        """Store the request; in a transaction of the caller it joins that one.

        A conflict leaves the caller's transaction usable.

        Raises:
            OptimisticLockError: the stream is elsewhere, and the events are not stored.
            StreamTenantError: the stream belongs to another tenant.
            EventIdTakenError: some of their ids are stored for something else.
            ServerChanged: the connection leads to another server than the one before it.
        """
        await self.sessions.check(connection)
        arguments = _arguments(request)
        attempts = 1 if request.expected_version >= 0 else _ATTEMPTS
        for attempt in range(1, attempts + 1):
            violation: asyncpg.UniqueViolationError | None = None
            row: asyncpg.Record | None = None
            try:
                row = await self._insert(connection, arguments)
            except asyncpg.UniqueViolationError as error:
                violation = error
            else:
                if row is not None and row["version"] is not None:
                    return AppendResult(True, row["version"], row["position"])
            stored = await self._already_stored(connection, request)
            if stored is not None:
                return stored
            if row is not None and row["of_another"]:
                raise StreamTenantError(
                    request.aggregate_id,
                    request.aggregate_type,
                    request.tenant_id,
                    uuid_of(row["tenant"]),
                )
            if violation is None:
                break
            if not await self._took_a_version(connection, violation):
                raise violation
            if attempt == attempts or await _snapshot_is_frozen(connection):
                break
            await _pause(attempt)
        raise OptimisticLockError(
            request.aggregate_id,
            request.aggregate_type,
            request.expected_version,
            await connection.fetchval(self._version, request.aggregate_id, request.aggregate_type),
        )

    async def warm(self, connection: AnyConnection) -> None:
        """Run the append over no events: parsed, planned, triggers compiled, nothing stored."""
        nothing: list[object] = []
        await connection.fetchrow(
            self._append, UUID(int=0), "", None, ExpectedVersion.ANY, *[nothing] * 6
        )

    async def _insert(
        self, connection: AnyConnection, arguments: tuple[object, ...]
    ) -> asyncpg.Record | None:
        """Run the append; in the caller's transaction an error undoes no more than the append."""
        if not connection.is_in_transaction():
            return await connection.fetchrow(self._append, *arguments)
        # Plain statements: the driver's transaction object refuses a transaction begun by BEGIN.
        await connection.execute("savepoint eventsource_append")
        try:
            row = await connection.fetchrow(self._append, *arguments)
        except asyncpg.PostgresError:
            await connection.execute(
                "rollback to savepoint eventsource_append; release savepoint eventsource_append"
            )
            raise
        await connection.execute("release savepoint eventsource_append")
        return row

    async def _already_stored(
        self, connection: AnyConnection, request: Append
    ) -> AppendResult | None:
        """The result of an earlier append of the same events, None when none of them is stored."""
        rows = await connection.fetch(
            self._stored,
            [row.event_id for row in request.rows],
            [row.event_type for row in request.rows],
            [row.payload for row in request.rows],
            request.aggregate_id,
            request.aggregate_type,
            request.tenant_id,
        )
        found = [
            StoredId(
                event_id=uuid_of(row["event_id"]),
                version=row["version"],
                global_position=row["global_position"],
                same_stream=row["same_stream"],
                same_tenant=row["same_tenant"],
                same_type=row["same_type"],
                same_payload=row["same_payload"],
            )
            for row in rows
        ]
        return repeated_append(found, len(request.rows))

    async def _took_a_version(
        self, connection: AnyConnection, violation: asyncpg.UniqueViolationError
    ) -> bool:
        """Whether the violated key is one of stream versions, and not one of the application's."""
        rows = await connection.fetch(self._key_columns, violation.constraint_name)
        return "version" in {row[0] for row in rows}


async def _snapshot_is_frozen(connection: AnyConnection) -> bool:
    """Whether the caller's transaction cannot see the append that was faster, however often."""
    if not connection.is_in_transaction():
        return False
    isolation = await connection.fetchval("select current_setting('transaction_isolation')")
    return isolation not in ("read committed", "read uncommitted")


async def _pause(attempt: int) -> None:
    longest = min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
    await asyncio.sleep(random.uniform(0, longest))


def _arguments(request: Append) -> tuple[object, ...]:
    rows = request.rows
    return (
        request.aggregate_id,
        request.aggregate_type,
        request.tenant_id,
        request.expected_version,
        [row.event_id for row in rows],
        [row.event_type for row in rows],
        [row.timestamp for row in rows],
        [row.actor_id for row in rows],
        [row.payload for row in rows],
        [row.metadata for row in rows],
    )
