"""One attempt at a transaction at a tenant's home."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar
from uuid import UUID

import asyncpg

from eventsource.identifiers import qualified
from eventsource.migration.errors import WritePausedError
from eventsource.migration.tables import fences
from eventsource.sqlstates import LOCK_TIMEOUT, MOVED, NOT_OPEN_YET, SERIALIZATION_FAILURE
from eventsource.stores.interface import AppendResult
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.stores.sessions import followed
from eventsource.tenant_ids import stored

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection
    from eventsource.events import DomainEvent

_REFUSALS = (MOVED, NOT_OPEN_YET, LOCK_TIMEOUT, SERIALIZATION_FAILURE)

Result = TypeVar("Result")

# A role that may not read the fences gets no row: its appends are guarded all the same.
_FENCES = """
select n.nspname::text as schema
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass($1)
  and has_table_privilege(to_regclass(format('%I.eventsource_fences', n.nspname))::oid, 'select')
"""


@dataclass(frozen=True, slots=True)
class Appended:
    """An append that the transaction made."""

    aggregate_id: UUID
    aggregate_type: str
    last_version: int
    events: int


class TenantTransaction:
    """What a block of ``TenantStoreRouter.transaction`` works with.

    Attributes:
        tenant_id: whose it is.
        store_id: id of the store where the tenant lives in this attempt.
        store: that store. Its reads take a connection of their own, outside of the transaction.
        connection: the asyncpg connection that has the transaction, for the block's own tables.
    """

    connection: AnyConnection

    def __init__(self, tenant_id: UUID, store_id: str, store: PostgreSQLEventStore) -> None:
        self.tenant_id = tenant_id
        self.store_id = store_id
        self.store = store
        self._appended: list[Appended] = []
        self._refusal: asyncpg.PostgresError | None = None

    async def append_events(
        self,
        aggregate_id: UUID,
        aggregate_type: str,
        events: Sequence[DomainEvent],
        expected_version: int,
    ) -> AppendResult:
        """Append in this transaction; see ``EventStore.append_events``.

        Raises:
            ValueError: the events are another tenant's, who may live elsewhere.
            OptimisticLockError: as the store does; the transaction stays usable.
        """
        for event in events:
            if event.tenant_id != self.tenant_id:
                raise ValueError(
                    f"event {event.event_id} is of tenant {event.tenant_id}, the transaction of"
                    f" tenant {self.tenant_id}: append it in a transaction of its own tenant"
                )
        try:
            with followed():
                result = await self.store.append_events(
                    aggregate_id, aggregate_type, events, expected_version,
                    connection=self.connection,
                )  # fmt: skip
        except asyncpg.PostgresError as error:
            if error.sqlstate in _REFUSALS:
                self._refusal = error
            raise
        self._appended.append(
            Appended(aggregate_id, aggregate_type, result.new_version, len(events))
        )
        return result


async def attempt(
    made: TenantTransaction,
    work: Callable[[TenantTransaction], Awaitable[Result]],
    isolation: Literal["read_committed", "repeatable_read", "serializable"] | None,
) -> tuple[Result, list[Appended]]:
    """Run the block and commit it.

    Raises:
        asyncpg.PostgresError: with the guard's SQLSTATE if that refused it, whatever the block
            made of the refusal; nothing is stored.
    """
    async with made.store.pool.acquire() as connection:
        made.connection = connection
        try:
            async with connection.transaction(isolation=isolation):
                result = await work(made)
                if made._refusal is not None:
                    # The block went on without its events: what else it wrote must not stay.
                    raise made._refusal
                if not made._appended:
                    await _ask_the_fence(made)
        except Exception:
            if made._refusal is not None:
                raise made._refusal from None
            raise
    return result, made._appended


async def _ask_the_fence(made: TenantTransaction) -> None:
    """Refuse to commit where the tenant does not live any more, as the guard does for appends.

    It holds the cutover off until the commit. A snapshot that is older than the lock would not show
    a move, so at other levels than read committed the move may go unseen.
    """
    schema = await made.connection.fetchval(_FENCES, made.store.table)
    if schema is None:
        return
    beside = qualified(schema, "eventsource_fences")
    mine = f"where table_name = $1 and tenant_id = $2 {fences.IN_FORCE}"
    key = made.store.table_name, stored(made.tenant_id)
    fence = await made.connection.fetchrow(
        "select lock_id, set_config('lock_timeout', patience_ms::text, true)"
        f" from (select * from {beside} {mine}) f",
        *key,
    )
    if fence is None:
        return
    began = time.monotonic()
    try:
        await made.connection.execute(
            "select pg_advisory_xact_lock_shared($1, $2)", fences.LOCK_CLASS, fence["lock_id"]
        )
    except asyncpg.LockNotAvailableError as error:
        raise WritePausedError(made.tenant_id, time.monotonic() - began) from error
    # A statement of its own: its snapshot is taken after the wait.
    found = await made.connection.fetchrow(
        f"select state, moved_to, generation, migration_id::text from {beside} {mine}", *key
    )
    if found is None or found["state"] == "open":
        return
    refusal = asyncpg.PostgresError(f"tenant {made.tenant_id} does not live here")
    # As the guard would have said it; the attributes of an error of asyncpg are read-only in name.
    refusal.__dict__.update(
        sqlstate=MOVED if found["state"] == "moved" else NOT_OPEN_YET,
        detail=json.dumps(
            {
                "target_store_id": found["moved_to"],
                "generation": found["generation"],
                "migration_id": found["migration_id"],
            }
        ),
    )
    raise refusal
