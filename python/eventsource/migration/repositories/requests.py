"""What operators ask for: rows of the journal that the driver obeys, and its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.connections import transaction
from eventsource.migration.errors import ConsistencyError
from eventsource.migration.models import CutoverRequest
from eventsource.migration.repositories import waves
from eventsource.named_sql import statements

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.retried import Retried

_SQL = statements("eventsource.migration.repositories.sql", "migrations.sql")


class Requests:
    """The requests of a journal. Each is one statement with its audit row."""

    pool: Executor
    _sql: Retried

    async def request_pause(
        self, migration_id: UUID, operator: str | None, *, parked: bool = False
    ) -> bool:
        """Ask the driver to pause; False when the state does not allow it.

        Args:
            parked: the next move goes on; what a person paused stays as it is.
        """
        rows = await self._sql.fetch(_SQL["request_pause"], migration_id, operator, parked)
        return bool(rows)

    async def set_pause_at(
        self, migration_id: UUID, at: datetime | None, operator: str | None
    ) -> None:
        """From when on it is asked to pause for the next move, in every process; None is never."""
        await self._sql.fetch(_SQL["set_pause_at"], migration_id, at, operator)

    async def set_rate(
        self, migration_id: UUID, max_events_per_second: float | None, operator: str | None
    ) -> bool:
        """Change the limit of the copy; False when the migration is over."""
        rows = await self._sql.fetch(
            _SQL["set_rate"], migration_id, max_events_per_second, operator
        )
        return bool(rows)

    async def set_keep_way_back(
        self, migration_id: UUID, seconds: float, operator: str | None, *, required: bool = False
    ) -> bool:
        """Change how long the way back is kept, and whether the cutover is refused without one;
        False when the migration is over."""
        rows = await self._sql.fetch(
            _SQL["set_keep_way_back"], migration_id, seconds, operator, required
        )
        return bool(rows)

    async def request_abort(self, migration_id: UUID, reason: str, operator: str | None) -> bool:
        """Ask the driver to abort; False when the migration is over."""
        return bool(await self._sql.fetch(_SQL["request_abort"], migration_id, reason, operator))

    async def withdraw_abort(self, migration_id: UUID) -> None:
        """Forget an abort that came after the decision."""
        await self._sql.execute(_SQL["withdraw_abort"], migration_id)

    async def request_cutover(
        self, migration_id: UUID, request: UUID, force: bool, operator: str | None,
        comparison: str = "before the fence", *, max_pause_seconds: float | None = None,
    ) -> bool:  # fmt: skip
        """Ask the driver to cut over; False when the state forbids it or one is under way.

        Args:
            comparison: for the audit log, what becomes of the comparison of both stores.
        """
        rows = await self._sql.fetch(
            _SQL["request_cutover"], migration_id, request, force, operator, comparison,
            max_pause_seconds,
        )  # fmt: skip
        return bool(rows)

    async def request_rehearsal(
        self, migration_id: UUID, request: UUID, options: Mapping[str, Any], operator: str | None
    ) -> bool:
        """Ask the driver to rehearse the cutover; False as for `request_cutover`."""
        rows = await self._sql.fetch(
            _SQL["request_rehearsal"], migration_id, request, json.dumps(dict(options)), operator
        )
        return bool(rows)

    async def answer(
        self, migration_id: UUID, asked: CutoverRequest, outcome: Mapping[str, Any]
    ) -> None:
        """Answer the request for a cutover or a rehearsal: how it ended."""
        if not asked.rehearsal:
            await self.answer_cutover(migration_id, asked.id, outcome)
            return
        await self._sql.execute(
            _SQL["answer_rehearsal"], migration_id, asked.id, json.dumps(dict(outcome))
        )

    async def answer_cutover(
        self, migration_id: UUID, request: UUID, outcome: Mapping[str, Any]
    ) -> None:
        """Answer the request for the cutover: how it ended. A failed proof stops its wave."""
        async with transaction(self.pool) as connection:
            if outcome["code"] == ConsistencyError.code:
                await waves.stop_for(connection, migration_id, str(outcome["message"]))
            await connection.execute(
                _SQL["answer_cutover"], migration_id, request, json.dumps(dict(outcome))
            )
