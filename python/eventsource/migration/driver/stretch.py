"""What every part of a stretch of driving works on: connections, lease, heartbeat and passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from eventsource.migration import failures
from eventsource.migration.driver.ways import way_of

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.driver.heartbeat import Heartbeat
    from eventsource.migration.driver.lease import Lease
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.models import Migration
    from eventsource.migration.states import MigrationState
    from eventsource.migration.steps.passes import Passes, Prepared


class Doing(Enum):
    """What decides how a failure is answered."""

    CARRYING_ON = "carrying on"
    ABORT = "abort"
    RECOVERY = "recovery"


@dataclass(slots=True)
class Stretch:
    """One stretch of driving on one set of connections.

    Attributes:
        doing: what it is at, for the driver that answers its failure.
    """

    connections: DriverConnections
    lease: Lease
    heartbeat: Heartbeat
    doing: Doing = Doing.CARRYING_ON
    passes: Passes | None = None
    #: How it is done for the kind of tables that these are.
    way: Any = field(init=False)

    def __post_init__(self) -> None:
        self.way = way_of(self.connections)

    @property
    def migration(self) -> Migration:
        """The journal's row as it was last read."""
        return self.heartbeat.migration

    async def open_passes(self, prepared: Prepared | None = None) -> Passes:
        """The passes of this stretch; opened by the first that needs them.

        Args:
            prepared: by this driver, a moment ago; None of a driver that goes on.
        """
        if self.passes is not None and self.passes.session is self.heartbeat.stopped:
            # What it was stopped for was withdrawn meanwhile, and that cannot be taken back.
            await self.reopen_passes()
        if self.passes is None:
            if prepared is None:
                await self._mend_guards()
            throttle = self.heartbeat.throttle
            await throttle.ready.wait()
            self.passes = await self.way.open_passes(
                self.connections, self.migration, self.lease.owner, lambda: throttle.rate, prepared
            )
        self.passes.migration = self.migration
        return self.passes

    async def _mend_guards(self) -> None:
        """A driver that begins does not trust that the triggers are as another one left them."""
        sides = (("source", self.connections.source), ("target", self.connections.target))
        for side, table in sides:
            with failures.concerning(side):
                await self._mend_guard(side, table)

    async def _mend_guard(self, side: str, table: OwnTable) -> None:
        await self.way.mend(side, table, self.migration, lambda: not self.heartbeat.stop_requested)

    async def reopen_passes(self) -> None:
        """A pass that was cancelled in the middle leaves its connections unusable, and one that was
        stopped its session.
        """
        if self.passes is not None:
            passes, self.passes = self.passes, None
            await passes.close()

    async def to(
        self,
        following: MigrationState,
        details: dict[str, object] | None = None,
        request: UUID | None = None,
    ) -> None:
        """Write the next state; ``request`` is the cutover that must still be asked for."""
        self.heartbeat.migration = await self.connections.migrations.transition(
            self.migration, following, owner=self.lease.owner, details=details, request=request
        )
