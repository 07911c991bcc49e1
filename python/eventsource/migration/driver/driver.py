"""The driver: carries one migration on from wherever the databases say it stands.

Nothing is remembered between two drivers. Whatever process takes the lease reads the journal, the
progress row and the fence, and goes on; a driver that dies leaves nothing that the next one needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.connections import brief
from eventsource.dataplane import DataPlaneError
from eventsource.errors import ConnectionDetailsError
from eventsource.migration import failures, telemetry
from eventsource.migration.connections import waits
from eventsource.migration.connections.driver_connections import DriverConnections, Endpoints
from eventsource.migration.driver import requests
from eventsource.migration.driver.heartbeat import Heartbeat
from eventsource.migration.driver.lease import Lease, NoPlaceError
from eventsource.migration.driver.news import News
from eventsource.migration.driver.stages import Stages
from eventsource.migration.driver.stretch import Doing
from eventsource.migration.errors import LeaseLostError, MigrationError, StoreMismatchError
from eventsource.migration.failures import (
    PASSING,
    WAITING_FOR_SOMEBODY,
    first_of,
    may_be_mended,
    may_pass,
)
from eventsource.migration.models import WAITING
from eventsource.migration.repositories import control_place
from eventsource.migration.states import MigrationState, may_follow
from eventsource.migration.tables import identities
from eventsource.said import Said

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository

_log = logging.getLogger("eventsource.migration.driver")

#: Waits between two attempts after a lost connection, in seconds.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 5.0


class _NotPermitted(Exception):
    """The journal cannot be written; the cause says why."""


@dataclass(slots=True)
class Driver:
    """Drives one migration under a lease.

    Args:
        find_endpoints: says where the three databases are; asked at each attempt.
        stores: the ids of source and target, for messages.
        migrations: the journal over the application's pool, used before the driver's own
            connections are open and when they are lost.
        limits: how many migrations the stores have room for.
        news: lets the calls of this process hear what the driver hears.
    """

    find_endpoints: Callable[[], Awaitable[Endpoints]]
    stores: tuple[str, str]
    migrations: PostgreSQLMigrationRepository
    lease: Lease
    limits: Callable[[], Awaitable[Mapping[str, int]]]
    news: News
    #: What the last attempt was at: it decides how a failure is answered.
    doing: Doing = Doing.CARRYING_ON
    #: When the first of the attempts failed that have failed since the last success.
    waits_since: datetime | None = None
    waits_for: str = ""
    has_looked_at_control: bool = False
    said: Said = field(default_factory=lambda: Said(_log))

    @property
    def migration_id(self) -> UUID:
        """The migration it drives."""
        return self.lease.migration_id

    async def run(self) -> None:
        """Carry the migration on until it is final or paused, or another driver has it.

        What is about the environment is tried again without end; the journal says what the driver
        waits for. Between two attempts nobody has the lease: another process may be set up right.

        Raises:
            asyncpg.PostgresError: not even the lease can be asked for, and time will not change it.
        """
        try:
            with waits.speaking(self._say):
                await self._drive_again_and_again()
        except asyncio.CancelledError:
            await self.lease.try_to_release(self.migrations)
            raise

    async def _drive_again_and_again(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            began = time.monotonic()
            try:
                if not await self._has_the_lease():
                    return
                if not await requests.pause_without_stores(self.migrations, self.lease):
                    with self.news.driven(self.migration_id):
                        await self._drive()
                return
            except requests.Paused:
                return
            except (LeaseLostError, _NotPermitted) as error:
                if isinstance(error.__cause__, asyncpg.PostgresError):
                    raise error.__cause__ from None
                return
            except NoPlaceError as full:
                with contextlib.suppress(*PASSING, asyncpg.PostgresError):
                    await self.migrations.record_wait(self.migration_id, str(full))
                await asyncio.sleep(random.uniform(0.5, 1.5))
                continue
            except Exception as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    # A statement that is cancelled may fail as a lost connection does, and then
                    # that is heard of alone. It is no outage.
                    await self.lease.try_to_release(self.migrations)
                    raise asyncio.CancelledError from error
                if isinstance(error, DataPlaneError) and error.kind == "ownership_lost":
                    return
                if time.monotonic() - began > LONGEST_BACKOFF:
                    backoff, self.waits_since = FIRST_BACKOFF, None
                    self.said.over(self.migration_id)
                if isinstance(error, WAITING_FOR_SOMEBODY):
                    await self._report(error)
                    if not isinstance(error, StoreMismatchError):
                        # What this process has for an address is no answer to anybody's request.
                        await self._answer(error)
                elif may_be_mended(error) or isinstance(error, ConnectionDetailsError):
                    # A store that cannot be described here may be known to another process.
                    await self._report(error)
                elif await self._fail(error):
                    return
            # Not all at the same time: those that wait for the same server would meet there again.
            rest = backoff * random.uniform(0.75, 1.25)
            if await requests.is_paused_within(rest, self.migrations, self.lease):
                return
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    async def _has_the_lease(self) -> bool:
        try:
            return await self.lease.acquire(self.migrations, await self.limits())
        except asyncpg.PostgresError as error:
            if may_pass(error):
                raise
            # There is no journal to report it to: the caller gets it.
            raise _NotPermitted from error

    async def _open(self) -> DriverConnections:
        """Open the connections. A pause needs the control database alone, and ends the attempt."""

        async def open_all() -> DriverConnections:
            return await DriverConnections.open(await self.find_endpoints(), self.migration_id)

        opening = asyncio.create_task(open_all())
        source, target = self.stores
        try:
            async with waits.waiting(
                f"for connections to the control database, store {source!r} and store {target!r}",
                "it ends when all three answer",
            ) as wait:
                while not opening.done():
                    await asyncio.wait([opening], timeout=requests.LOOK_SECONDS)
                    if opening.done():
                        break
                    await wait.goes_on()
                    if await requests.is_paused_within(0, self.migrations, self.lease):
                        raise requests.Paused
            return opening.result()
        except BaseException:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                # They may be open by now.
                await (await opening).close()
            raise

    async def _drive(self) -> None:
        connections = await self._open()
        ended_well = False
        try:
            migration = await connections.migrations.get(self.migration_id)
            await identities.check(migration, connections.source, connections.target)
            await self._warn_of_control(connections.control, migration)
            seconds = migration.config.lease_seconds
            await self.lease.take_over(connections, seconds)
            heartbeat = await Heartbeat.start(
                connections.heartbeat, self.migration_id, self.lease.owner,
                self.news.read,
            )  # fmt: skip
            if heartbeat.migration.is_waiting:
                # The first success: what this driver or another one has waited for is there.
                await self._say(None)
            stages = Stages(connections, self.lease, heartbeat, self.doing)
            try:
                with telemetry.span("move", heartbeat.migration):
                    await _beside(heartbeat, connections.endpoints, stages)
            finally:
                self.doing = stages.doing
            await self.lease.release(connections.migrations)
            ended_well = True
        except asyncio.CancelledError:
            await self.lease.try_to_release(connections.migrations)
            raise
        except PASSING as error:
            # "connection is closed" says nothing of whose it was.
            if failures.side_of(error) is None and (side := connections.lost()) is not None:
                error.add_note(side)
            raise
        finally:
            await connections.close(keep=ended_well)

    async def _warn_of_control(self, control: Executor, migration: Migration) -> None:
        """Once: it refuses nothing, and is for somebody to know."""
        if self.has_looked_at_control:
            return
        elsewhere = await control_place.warning_of(control, migration)
        self.has_looked_at_control = True
        if elsewhere is not None:
            _log.warning("%s", elsewhere, extra={"migration_id": self.migration_id})

    async def _report(self, error: Exception) -> None:
        source, target = self.stores
        where = {
            "control": "the control database: ",
            "source": f"store {source!r}: ",
            "target": f"store {target!r}: ",
        }.get(failures.side_of(error) or "", "")
        if where and self.waits_for and where != self.waits_for:
            # Another outage, however soon after the last one.
            self.waits_since = None
        self.waits_for = where or self.waits_for
        self.waits_since = self.waits_since or datetime.now(UTC)
        since = self.waits_since.strftime("%Y-%m-%d %H:%M:%S UTC")
        reason = f"{where}{failures.reason_of(error)} (since {since})"
        about = {"migration_id": self.migration_id, "is_wait": True}
        text = f"migration {self.migration_id} waits: {where}{brief(error)}"
        self.said.warn(self.migration_id, text, about)
        code = failures.describe(error)["code"] if isinstance(error, MigrationError) else None
        with contextlib.suppress(*PASSING, asyncpg.PostgresError):
            await self.migrations.record_error(
                self.migration_id, self.lease.owner, f"{WAITING}{reason}", code
            )
        await self.lease.try_to_release(self.migrations)

    async def _answer(self, error: Exception) -> None:
        """Say to a cutover or an abort that is waited for that it does not come."""
        with contextlib.suppress(*PASSING, asyncpg.PostgresError):
            migration = await self.migrations.get(self.migration_id)
            if migration.state is MigrationState.CUTOVER_PAUSED:
                return
            if migration.asked_for is not None:
                await self.migrations.answer(
                    migration.id, migration.asked_for, failures.describe(error)
                )
            if migration.abort_requested is not None and self.doing is Doing.ABORT:
                await self.migrations.withdraw_abort(migration.id)

    async def _say(self, message: str | None) -> None:
        with contextlib.suppress(*PASSING, asyncpg.PostgresError):
            await self.migrations.record_error(self.migration_id, self.lease.owner, message)

    async def _fail(self, error: Exception) -> bool:
        """Record why the migration cannot go on, and answer the call that waits for a cutover.

        False when it goes on another way: only the fence says how a cutover ended, and an abort
        that somebody has asked for is still to be carried out.
        """
        about = {"migration_id": self.migration_id}
        _log.error("migration %s stopped: %s", self.migration_id, brief(error), extra=about)
        _log.debug("where it stopped", exc_info=error)
        with contextlib.suppress(*PASSING, asyncpg.PostgresError, MigrationError):
            migration = await self.migrations.get(self.migration_id)
            described = failures.describe(error)
            if migration.asked_for is not None:
                await self.migrations.answer(migration.id, migration.asked_for, described)
            undecided = migration.state is MigrationState.CUTOVER_PAUSED
            if undecided or (
                migration.abort_requested is not None and self.doing is not Doing.ABORT
            ):
                await self.migrations.record_error(
                    migration.id, self.lease.owner, described["message"], described["code"]
                )
                if self.doing is Doing.RECOVERY:
                    await self.migrations.withdraw_abort(migration.id)
                return False
            if may_follow(migration.state, MigrationState.FAILED):
                await self.migrations.transition(
                    migration,
                    MigrationState.FAILED,
                    owner=self.lease.owner,
                    details=described,
                    error=(described["code"], described["message"]),
                )
            else:
                await self.migrations.record_error(
                    migration.id, self.lease.owner, described["message"], described["code"]
                )
            if self.doing is Doing.ABORT:
                # The answer is out; an abort asked for since is the next driver's to begin.
                await self.migrations.withdraw_abort(migration.id)
            await self.lease.release(self.migrations)
        return True


async def _beside(heartbeat: Heartbeat, endpoints: Endpoints, stages: Stages) -> None:
    """Take the stages while the heart beats and the source is watched."""
    try:
        async with asyncio.TaskGroup() as group:
            config = heartbeat.migration.config
            sparing = group.create_task(
                heartbeat.throttle.watch_source(endpoints.source.parameters, config)
            )
            beating = group.create_task(heartbeat.run())
            await stages.to_the_end()
            beating.cancel()
            sparing.cancel()
    except BaseExceptionGroup as errors:
        raise first_of(errors) from errors
