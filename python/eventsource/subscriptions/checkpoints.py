"""How far a subscription has read a store.

A checkpoint is keyed by subscription, store and tenant. The same subscription has one per store
that it reads, because positions of two stores cannot be compared, and one per tenant that it
reads alone; tenant ``None`` is the checkpoint over all tenants of the store.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from eventsource.declared import as_declared
from eventsource.errors import StoreSchemaError
from eventsource.named_sql import statements, text
from eventsource.retried import Retried
from eventsource.schema_changes import make_missing

_PACKAGE = "eventsource.subscriptions.sql"
_SQL = statements(_PACKAGE, "checkpoints.sql")
# CREATE ... IF NOT EXISTS fails when two sessions run it at once; they take turns on this key.
_SCHEMA_LOCK = 4_971_652_082_117_203_841


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Every event of the store at a position up to this one has been handled.

    Attributes:
        subscription_name: the subscription.
        store_id: the store that the position belongs to.
        tenant_id: the only tenant that is read, or None for all tenants.
        position: global position in that store; the next event lies above it.
        updated_at: when it was last saved.
    """

    subscription_name: str
    store_id: str
    tenant_id: UUID | None
    position: int
    updated_at: datetime


class CheckpointRepository(Protocol):
    """Where checkpoints are kept. Saving never moves one back unless it is forced to."""

    async def get(
        self, subscription_name: str, store_id: str, tenant_id: UUID | None = None
    ) -> Checkpoint | None:
        """The checkpoint of exactly this key, or None; None never falls back to all tenants."""
        ...

    async def save(
        self,
        subscription_name: str,
        store_id: str,
        position: int,
        tenant_id: UUID | None = None,
        *,
        force: bool = False,
    ) -> Checkpoint:
        """Move the checkpoint forward, or make it; returns the one that holds afterwards.

        Args:
            force: set it to ``position`` also when that is lower, for a deliberate replay.
        """
        ...

    async def save_if_absent(
        self,
        subscription_name: str,
        store_id: str,
        position: int,
        tenant_id: UUID | None = None,
        *,
        over: Checkpoint | None = None,
    ) -> tuple[Checkpoint, bool]:
        """Make the checkpoint unless there is one; what is there stays as it is.

        Args:
            over: a checkpoint that is replaced, if it has not been saved since it was read.

        Returns:
            The checkpoint that holds afterwards, and whether this call made it.
        """
        ...

    async def list_checkpoints(self, subscription_name: str | None = None) -> list[Checkpoint]:
        """All checkpoints, or those of one subscription, by name, store and tenant."""
        ...


class InMemoryCheckpointRepository:
    """Checkpoints in this process, gone with it: for tests and for read models in memory."""

    def __init__(self) -> None:
        self._checkpoints: dict[tuple[str, str, UUID | None], Checkpoint] = {}

    async def get(
        self, subscription_name: str, store_id: str, tenant_id: UUID | None = None
    ) -> Checkpoint | None:
        """See `CheckpointRepository.get`."""
        return self._checkpoints.get((subscription_name, store_id, tenant_id))

    async def save(
        self,
        subscription_name: str,
        store_id: str,
        position: int,
        tenant_id: UUID | None = None,
        *,
        force: bool = False,
    ) -> Checkpoint:
        """See `CheckpointRepository.save`."""
        kept = self._checkpoints.get((subscription_name, store_id, tenant_id))
        if kept is not None and not force:
            position = max(position, kept.position)
        return self._put(subscription_name, store_id, position, tenant_id)

    async def save_if_absent(
        self,
        subscription_name: str,
        store_id: str,
        position: int,
        tenant_id: UUID | None = None,
        *,
        over: Checkpoint | None = None,
    ) -> tuple[Checkpoint, bool]:
        """See `CheckpointRepository.save_if_absent`."""
        kept = self._checkpoints.get((subscription_name, store_id, tenant_id))
        if kept is not None and kept != over:
            return kept, False
        return self._put(subscription_name, store_id, position, tenant_id), True

    async def list_checkpoints(self, subscription_name: str | None = None) -> list[Checkpoint]:
        """See `CheckpointRepository.list_checkpoints`."""
        chosen = [
            checkpoint
            for checkpoint in self._checkpoints.values()
            if subscription_name in (None, checkpoint.subscription_name)
        ]
        return sorted(
            chosen, key=lambda c: (c.subscription_name, c.store_id, str(c.tenant_id or ""))
        )

    def _put(
        self, subscription_name: str, store_id: str, position: int, tenant_id: UUID | None
    ) -> Checkpoint:
        _check_key(subscription_name, store_id)
        checkpoint = Checkpoint(subscription_name, store_id, tenant_id, position, datetime.now(UTC))
        self._checkpoints[subscription_name, store_id, tenant_id] = checkpoint
        return checkpoint


class PostgreSQLCheckpointRepository:
    """Checkpoints in the table ``subscription_checkpoints``, best beside the read models.

    Every call is one short statement of its own and raises ``StoreSchemaError`` when the table
    does not exist.

    Args:
        pool: an asyncpg pool; a single connection works too.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self._sql = Retried(pool)

    async def create_schema(self) -> None:
        """Make the table and its key; does nothing when they are there."""
        await make_missing(self.pool, text(_PACKAGE, "schema.sql"), (_SCHEMA_LOCK,))

    async def get(
        self, subscription_name: str, store_id: str, tenant_id: UUID | None = None
    ) -> Checkpoint | None:
        """See `CheckpointRepository.get`."""
        rows = await self._fetch("get", subscription_name, store_id, tenant_id)
        return rows[0] if rows else None

    async def save(
        self,
        subscription_name: str,
        store_id: str,
        position: int,
        tenant_id: UUID | None = None,
        *,
        force: bool = False,
    ) -> Checkpoint:
        """See `CheckpointRepository.save`."""
        _check_key(subscription_name, store_id)
        statement = "force" if force else "save"
        [kept] = await self._fetch(statement, subscription_name, store_id, tenant_id, position)
        return kept

    async def save_if_absent(
        self,
        subscription_name: str,
        store_id: str,
        position: int,
        tenant_id: UUID | None = None,
        *,
        over: Checkpoint | None = None,
    ) -> tuple[Checkpoint, bool]:
        """See `CheckpointRepository.save_if_absent`."""
        _check_key(subscription_name, store_id)
        key = (subscription_name, store_id, tenant_id)
        while True:
            if over is None:
                made = await self._fetch("save_if_absent", *key, position)
            else:
                made = await self._fetch("save_over", *key, position, over.updated_at)
            if made:
                return made[0], True
            # Someone may remove the row between the two statements; then it is absent again.
            kept = await self.get(*key)
            if kept is not None:
                return kept, False
            await asyncio.sleep(0)

    async def list_checkpoints(self, subscription_name: str | None = None) -> list[Checkpoint]:
        """See `CheckpointRepository.list_checkpoints`."""
        return await self._fetch("list", subscription_name)

    async def _fetch(self, statement: str, *arguments: object) -> list[Checkpoint]:
        try:
            rows = await self._sql.fetch(_SQL[statement], *arguments)
        except asyncpg.UndefinedTableError as error:
            raise StoreSchemaError(
                "there is no table subscription_checkpoints in this database; "
                "`await PostgreSQLCheckpointRepository(pool).create_schema()` makes it"
            ) from error
        return [Checkpoint(**as_declared(Checkpoint, row)) for row in rows]


def _check_key(subscription_name: str, store_id: str) -> None:
    if not subscription_name or not store_id:
        raise ValueError("a checkpoint needs the name of its subscription and the id of its store")
