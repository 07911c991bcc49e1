"""Waves in the control database: what is to be moved, what has become of it, stopping the line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg

from eventsource.connections import redact, transaction
from eventsource.counts import counted
from eventsource.fleet.waves import (
    Candidate,
    Outcome,
    Wave,
    WaveError,
    WaveItem,
    WaveNotFoundError,
    WaveSettings,
    WaveState,
)
from eventsource.migration.repositories import waves as stopping
from eventsource.named_sql import statements
from eventsource.retried import Retried
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.fleet.sql", "waves.sql")
_VIEW = statements("eventsource.fleet.sql", "view.sql")


@dataclass(frozen=True, slots=True)
class Share:
    """How many tenants of a wave have an outcome, or none yet: ``waiting``, ``begun``."""

    what: str
    tenants: int
    events: int
    bytes: int


class WaveRepository:
    """Waves and their tenants.

    Args:
        pool: an asyncpg pool of the control database.
    """

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self._sql = Retried(pool)

    async def create(
        self,
        name: str,
        candidates: Sequence[Candidate],
        settings: WaveSettings,
        *,
        by: str | None = None,
        replace: bool = False,
    ) -> Wave:
        """Record a planned wave with its tenants, in their order.

        Args:
            replace: a planned wave of this name makes room, and so do stopped waves: of these
                tenants they give up those whose moves they have not begun, or that were aborted.

        Raises:
            WaveError: the name is taken, there is nobody to move, or another wave has the tenant.
        """
        if not candidates:
            raise WaveError(f"wave {name!r} would move nobody: choose at least one tenant")
        tenants = [stored(each.tenant_id) for each in candidates]
        if repeated := [tenant for tenant, times in Counter(tenants).items() if times > 1]:
            raise WaveError(f"tenant {repeated[0]} is named more than once; name each once")
        wave_id = uuid4()
        try:
            async with transaction(self.pool) as connection:
                await connection.execute(_SQL["lock_plans"])
                if replace:
                    await connection.execute(_SQL["lock_stopped"])
                    await connection.fetch(_SQL["remove_planned"], name)
                    await connection.execute(_SQL["leave_stopped"], tenants, by, name)
                    await connection.execute(_SQL["remove_left"], name)
                await connection.execute(_SQL["create_wave"], wave_id, name, settings.to_json(), by)
                if taken := await _elsewhere(connection, tenants):
                    raise WaveError(
                        f"tenants of other waves that are not done: {taken}; leave them out, or"
                        " finish those waves; one that is stopped gives up what it has not begun"
                        " with --replace"
                    )
                await connection.execute(
                    _SQL["create_items"], wave_id, tenants,
                    [each.source_store_id for each in candidates],
                    [each.target_store_id for each in candidates],
                    [each.events for each in candidates], [each.bytes for each in candidates],
                )  # fmt: skip
        except asyncpg.UniqueViolationError:
            raise WaveError(
                f"there is a wave {name!r} already; take another name, or --replace while it is"
                " only planned or, stopped, has begun nothing"
            ) from None
        return await self.get(name)

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        """The rows of a statement that only reads."""
        return await self._sql.fetch(statement, *arguments)

    async def get(self, name: str) -> Wave:
        """The wave of this name, or WaveNotFoundError."""
        row = await self._sql.fetchrow(f"{_SQL['wave_columns']} where name = $1", name)
        if row is None:
            raise WaveNotFoundError(name)
        return Wave.from_row(row)

    async def get_all(self, *, limit: int = 1000) -> list[Wave]:
        """The waves, newest first."""
        rows = await self._sql.fetch(
            f"{_SQL['wave_columns']} order by created_at desc, id limit $1", limit
        )
        return [Wave.from_row(row) for row in rows]

    async def in_state(self, state: WaveState, *, limit: int = 1000) -> list[Wave]:
        """Those that are in it, newest first."""
        rows = await self._sql.fetch(
            f"{_SQL['wave_columns']} where state = $1 order by created_at desc, id limit $2",
            state.value, limit,
        )  # fmt: skip
        return [Wave.from_row(row) for row in rows]

    async def get_many(self, wave_ids: Sequence[UUID]) -> list[Wave]:
        """Those of them that there are, newest first."""
        rows = await self._sql.fetch(
            f"{_SQL['wave_columns']} where id = any ($1::uuid[]) order by created_at desc, id",
            list(wave_ids),
        )
        return [Wave.from_row(row) for row in rows]

    async def count(self) -> int:
        """How many waves there are."""
        number: int = await self._sql.fetchval(_VIEW["number"])
        return number

    async def not_done(self, *, limit: int = 1000) -> list[Wave]:
        """Those with something left to do, newest first."""
        rows = await self._sql.fetch(
            f"{_SQL['wave_columns']} where state <> 'done' order by created_at desc, id limit $1",
            limit,
        )
        return [Wave.from_row(row) for row in rows]

    async def closed(self, waves: Sequence[Wave]) -> list[Any]:
        """How many tenants of each of them have which outcome, in one statement."""
        return await self._sql.fetch(_VIEW["closed"], [each.id for each in waves])

    async def find(self, wave_id: UUID, tenant_id: TenantId) -> tuple[Wave, WaveItem] | None:
        """A wave and one of its tenants, None where one of them is gone."""
        wave = await self._sql.fetchrow(f"{_SQL['wave_columns']} where id = $1", wave_id)
        item = await self._sql.fetchrow(
            f"{_SQL['item_columns']} where wave_id = $1 and tenant_id = $2",
            wave_id, stored(tenant_id),
        )  # fmt: skip
        if wave is None or item is None:
            return None
        return Wave.from_row(wave), WaveItem.from_row(item)

    async def items(
        self,
        wave: Wave,
        *,
        outcome: Outcome | None = None,
        to_do: bool = False,
        after: int = 0,
        limit: int = 1_000_000,
    ) -> list[WaveItem]:
        """The tenants of a wave in their order, those after an ordinal.

        Args:
            outcome: those alone that have it.
            to_do: those alone that have none.
        """
        rows = await self._sql.fetch(
            f"{_SQL['item_columns']} where wave_id = $1 and ordinal > $2"
            " and ($3::text is null or outcome = $3) and (not $4 or outcome is null)"
            " order by ordinal limit $5",
            wave.id, after, outcome.value if outcome else None, to_do, limit,
        )  # fmt: skip
        return [WaveItem.from_row(row) for row in rows]

    async def summary(self, wave: Wave) -> dict[str, Share]:
        """How many tenants have which outcome."""
        rows = await self._sql.fetch(_SQL["summary"], wave.id)
        return {row["what"]: Share(**dict(row)) for row in rows}

    async def start(self, wave: Wave, by: str | None) -> Wave:
        """Let a planned wave begin; WaveError when it is not planned."""
        return await self._set_running(wave, by, "started", [WaveState.PLANNED])

    async def resume(self, wave: Wave, by: str | None) -> Wave:
        """Let a stopped wave go on; WaveError when it is not stopped."""
        wave = await self._set_running(wave, by, "resumed", [WaveState.STOPPED])
        await self._sql.execute(_SQL["finish"], wave.id)
        return await self.get(wave.name)

    async def _set_running(
        self, wave: Wave, by: str | None, what: str, states: Sequence[WaveState]
    ) -> Wave:
        allowed = [each.value for each in states]
        if not await self._sql.fetch(_SQL["start"], wave.id, by, what, allowed):
            current = await self.get(wave.name)
            raise WaveError(
                f"wave {wave.name!r} is {current.state} and cannot be {what}: only one that is"
                f" {' or '.join(allowed)} can"
            )
        return await self.get(wave.name)

    async def stop(self, wave: Wave, by: str, reason: str) -> bool:
        """No tenant of it cuts over any more that has not begun to; False when it does not run."""
        async with transaction(self.pool) as connection:
            await connection.fetch(_SQL["lock"], wave.id)
            return await stopping.stop(connection, wave.id, by, reason)

    async def retry(self, wave: Wave, by: str | None, tenant_id: TenantId | None = None) -> int:
        """Forget what became of the tenants that have not moved; how many those are.

        A wave that was done runs again. One that is stopped stays so.

        Raises:
            WaveError: another wave has got one of them since.
        """
        tenant = None if tenant_id is None else stored(tenant_id)
        async with transaction(self.pool) as connection:
            await connection.execute(_SQL["lock_plans"])
            await connection.fetch(_SQL["lock"], wave.id)
            found = await connection.fetch(_SQL["to_retry"], wave.id, tenant)
            if taken := await _elsewhere(connection, [row["tenant_id"] for row in found]):
                raise WaveError(
                    f"other waves that are not done have tenants of {wave.name!r} by now: {taken};"
                    " name those that shall be tried again one by one, or finish those waves"
                )
            again = await connection.fetch(_SQL["retry"], wave.id, tenant)
            if again:
                await connection.execute(
                    _SQL["note"], wave.id, "retried", by, counted(len(again), "tenant")
                )
                await connection.execute(
                    _SQL["start"], wave.id, by, "begun again", [WaveState.DONE.value]
                )
        return len(again)

    async def permit(self, connection: Executor, wave: Wave) -> bool:
        """Within the transaction that asks for a cutover: whether the wave runs until its end."""
        row = await connection.fetchrow(_SQL["lock_shared"], wave.id)
        return row is not None and row["state"] == WaveState.RUNNING

    async def begin(self, item: WaveItem) -> bool:
        """Its move begins, or goes on; False when it has an outcome."""
        return bool(await self._sql.fetch(_SQL["begin_item"], item.wave_id, stored(item.tenant_id)))

    async def name_migration(
        self, item: WaveItem, migration_id: UUID, connection: Executor | None = None
    ) -> None:
        """This migration moves the tenant."""
        await (connection or self._sql).execute(
            _SQL["name_migration"], item.wave_id, stored(item.tenant_id), migration_id
        )

    async def name_size(self, item: WaveItem, events: int, size: int) -> None:
        """So large is a tenant that was planned without its size."""
        await self._sql.execute(
            _SQL["name_size"], item.wave_id, stored(item.tenant_id), events, size
        )

    async def arriving(self, item: WaveItem, store_ids: Sequence[str], share: float) -> int:
        """What is still to come to these stores of tenants that began before this one (bytes).

        Args:
            share: what a byte of a tenant's rows takes there, with indexes.
        """
        found: int = await self._sql.fetchval(
            _VIEW["arriving"], item.wave_id, stored(item.tenant_id), list(store_ids), share
        )
        return found

    async def record_wait(self, item: WaveItem, code: str, message: str) -> None:
        """What it waits for before it can begin; that is no attempt."""
        await self._sql.execute(
            _SQL["record_wait"], item.wave_id, stored(item.tenant_id), code, message
        )

    async def record_attempt(self, item: WaveItem, code: str, message: str) -> int:
        """Its move failed for a reason that passes; how often it has by now, 0 if it is over."""
        row = await self._sql.fetchrow(
            _SQL["record_attempt"], item.wave_id, stored(item.tenant_id), code, redact(message)
        )
        return row["attempts"] if row is not None else 0

    async def record(
        self,
        item: WaveItem,
        outcome: Outcome,
        *,
        migration_id: UUID | None = None,
        error: tuple[str, str] | None = None,
    ) -> bool:
        """What has become of it; stops the wave in the same transaction if that says so.

        Args:
            error: code and message.

        Returns:
            Whether this call recorded it: a tenant that was dispatched twice has one outcome.
        """
        code, message = error or (None, None)
        message = None if message is None else redact(message)
        async with transaction(self.pool) as connection:
            # The wave's row first, as everywhere: see `stop_for`.
            await connection.fetch(_SQL["lock"], item.wave_id)
            recorded = await connection.fetch(
                _SQL["record_outcome"], item.wave_id, stored(item.tenant_id), outcome.value,
                migration_id, code, message,
            )  # fmt: skip
            if not recorded:
                return False
            await self._stop_the_line(connection, item, outcome, message)
            await connection.execute(_SQL["finish"], item.wave_id)
        return True

    async def _stop_the_line(
        self, connection: Executor, item: WaveItem, outcome: Outcome, message: str | None
    ) -> None:
        if outcome is Outcome.REFUSED:
            return
        [row] = await connection.fetch(_SQL["count_failure"], item.wave_id, outcome.is_bad_news)
        reason = f"tenant {item.tenant_id}: {message}"
        if outcome is Outcome.FAILED:
            await stopping.stop(connection, item.wave_id, stopping.BY_ITSELF, reason)
        elif row["failures_in_row"] >= row["stop_after"]:
            by = f"{row['failures_in_row']} failures in a row"
            await stopping.stop(connection, item.wave_id, by, reason)


async def _elsewhere(connection: Executor, tenants: Sequence[str]) -> str:
    """The first tenants that another wave is about to move, each with its name."""
    rows = await connection.fetch(_SQL["elsewhere"], tenants)
    return ", ".join(f"{row[0]} ({row[1]})" for row in rows)
