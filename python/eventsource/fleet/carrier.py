"""One delivery of one tenant of a wave: what a queue calls, as often as it likes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.connections import brief
from eventsource.dataplane import DataPlaneError
from eventsource.errors import EventSourceError
from eventsource.fleet.disk import Bounds
from eventsource.fleet.waves import Outcome, OutsideWindowError, WaveState, WaveStoppedError
from eventsource.migration import failures
from eventsource.migration.errors import (
    ConsistencyError,
    DeadlineReachedError,
    PreflightError,
    ProtocolVersionError,
    RetryLaterError,
)
from eventsource.sqlstates import sqlstate_of

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.fleet.repository import WaveRepository
    from eventsource.fleet.waves import Wave, WaveItem
    from eventsource.migration import Migration, MigrationCoordinator
    from eventsource.tenant_ids import TenantId

_log = logging.getLogger("eventsource.fleet")

#: When a tenant is delivered again that a worker of a newer version has to carry.
LEFT_TO_ANOTHER = timedelta(seconds=60)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Carrier:
    """Carries the tenants of waves, each when it is delivered.

    It may be delivered twice, at once and by different processes: one migration comes of it, and
    one outcome is recorded. A tenant that never comes here again is not lost either: it has no
    outcome, so it is put into the queue again.

    Args:
        coordinator: of this process.
        waves: in the same control database.
        operator: who is recorded in the audit log.
        now: the clock, for windows.
        bounds: what may lie on the disks of the targets.
    """

    coordinator: MigrationCoordinator
    waves: WaveRepository
    operator: str
    now: Callable[[], datetime] = field(default=_now)
    bounds: Bounds = field(default_factory=Bounds)

    async def deliver(self, wave_id: UUID, tenant_id: TenantId) -> timedelta | None:
        """Move the tenant as far as its wave allows.

        Returns:
            None when there is nothing left to deliver; else how long from now to deliver it again.

        Raises:
            RetryLaterError: deliver it again after a while, longer each time.
        """
        found = await self.waves.find(wave_id, tenant_id)
        if found is None:
            return None
        wave, item = found
        if wave.state is not WaveState.RUNNING or item.outcome is not None:
            return None
        hours, until, now = wave.settings.hours, None, self.now()
        if hours is not None and wave.settings.window_for == "all":
            if not hours.is_open(now):
                return hours.opens(now) - now
            until = hours.closes(now)
        if not await self.waves.begin(item):
            return None
        try:
            again = await self.bounds.wait_for(self.waves, item, self.coordinator)
            if again is not None:
                return again
            migration = await self._move(wave, item, until)
        except DeadlineReachedError:
            now = self.now()
            assert hours is not None
            return max(hours.opens(now) - now, timedelta(seconds=1))
        except OutsideWindowError as error:
            return max(error.opens - self.now(), timedelta(seconds=1))
        except WaveStoppedError:
            return None  # it is put into the queue again when the wave is resumed
        except ProtocolVersionError as error:
            # Its outcome is for a worker of the newer version to record.
            _log.warning("tenant %s is left to a newer version: %s", tenant_id, brief(error))
            return LEFT_TO_ANOTHER
        except RetryLaterError as error:
            if await self._was_the_last_attempt(wave, item, error):
                return None
            raise
        except (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            await self._record(item, _outcome_of(error), error)
            return None
        moved = migration.id if migration is not None else None
        if await self.waves.record(item, Outcome.MOVED, migration_id=moved):
            _log.info("tenant %s has moved to %s", tenant_id, item.target_store_id)
        return None

    async def _move(self, wave: Wave, item: WaveItem, until: datetime | None) -> Migration | None:
        async def begun(migration: Migration) -> None:
            await self.waves.name_migration(item, migration.id)

        async def permit(connection: Executor, migration: Migration) -> None:
            # In the transaction that asks for the cutover, so that nobody stops the wave between.
            if not await self.waves.permit(connection, wave):
                raise WaveStoppedError(wave.name)
            hours, now = wave.settings.hours, self.now()
            if hours is not None and not hours.is_open(now):
                raise OutsideWindowError(hours, hours.opens(now))
            await self.waves.name_migration(item, migration.id, connection)

        return await self.coordinator.move(
            item.tenant_id,
            item.source_store_id,
            item.target_store_id,
            operator=f"{self.operator} (wave {wave.name})",
            until=until,
            permit=permit,
            begun=begun,
        )

    async def _was_the_last_attempt(
        self, wave: Wave, item: WaveItem, error: RetryLaterError
    ) -> bool:
        attempts = await self.waves.record_attempt(item, error.code, str(error))
        if attempts < wave.settings.attempts:
            return False
        await self._record(item, Outcome.HELD, error)
        return True

    async def _record(self, item: WaveItem, outcome: Outcome, error: Exception) -> None:
        described = failures.describe(error)
        sqlstate = sqlstate_of(error)
        code = f"sql:{sqlstate}" if sqlstate and described["code"] == "error" else described["code"]
        if await self.waves.record(item, outcome, error=(code, described["message"])):
            _log.warning("tenant %s is %s: %s", item.tenant_id, outcome.value, brief(error))


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, PreflightError):
        return Outcome.REFUSED
    if isinstance(error, ConsistencyError):
        return Outcome.FAILED
    if isinstance(error, DataPlaneError) and error.kind == "inconsistent":
        return Outcome.FAILED
    return Outcome.HELD
