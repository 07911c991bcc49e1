"""What can go wrong with a migration. Every message names the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from eventsource.catalog.findings import Finding
from eventsource.errors import EventSourceError
from eventsource.migration.protocol import SPOKEN
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.models import VerificationReport


class MigrationError(EventSourceError):
    """A migration cannot go on."""

    #: How the error is named in the control tables, so that another process can raise it again.
    code: ClassVar[str] = "migration"


class RetryLaterError(MigrationError):
    """Nothing is wrong for good: the same call can succeed later.

    :meth:`MigrationCoordinator.move` raises it, or one of its kinds, for whatever passes by itself;
    every other error of it is final until somebody has done something. Its cause is what happened.
    """

    code = "retry_later"


def not_proven_yet(migration_id: UUID) -> RetryLaterError:
    """Of a comparison of two stores before the move between them has carried everything once."""
    return RetryLaterError(
        f"nothing was compared: no pass of migration {migration_id} is finished, so what the target"
        " lacks is still to come; ask again when it is in dual_write"
    )


class DeadlineReachedError(RetryLaterError):
    """A move had no more time: it is paused at a chunk, and the next one goes on there.

    Attributes:
        tenant_id: the tenant.
        migration_id: its migration; None when it was too late to begin one.
    """

    code = "deadline"

    def __init__(self, tenant_id: TenantId, migration_id: UUID | None) -> None:
        where = f"migration {migration_id} is paused" if migration_id else "nothing was begun"
        super().__init__(
            f"the time for tenant {tenant_id} is over: {where}; the next move goes on from there"
        )
        self.tenant_id = tenant_id
        self.migration_id = migration_id


class MigrationPausedError(MigrationError):
    """Somebody paused the migration, so a move of the tenant does not go on with it.

    Attributes:
        migration_id: the migration.
    """

    code = "paused"

    def __init__(self, migration_id: UUID) -> None:
        super().__init__(
            f"migration {migration_id} is paused; resume it with `eventsource-migrate resume "
            f"{migration_id}` and move the tenant again"
        )
        self.migration_id = migration_id


class MigrationAbortedError(MigrationError):
    """The migration was aborted while its move was waited for; the tenant is where it was.

    Attributes:
        migration_id: the migration.
    """

    code = "aborted"

    def __init__(self, migration_id: UUID) -> None:
        super().__init__(
            f"migration {migration_id} was aborted meanwhile and the tenant is where it was; move"
            " it again if it shall go all the same"
        )
        self.migration_id = migration_id


class MigrationNotFoundError(MigrationError):
    """No migration has this id.

    Attributes:
        migration_id: the id that was asked for.
    """

    code = "not_found"

    def __init__(self, migration_id: UUID) -> None:
        super().__init__(
            f"there is no migration {migration_id}; `eventsource-migrate list` shows all there are"
        )
        self.migration_id = migration_id


class MissingRowError(MigrationError):
    """A row that the migration has made is not where the address leads; a driver waits for it."""

    code = "missing_row"


class MigrationAlreadyExistsError(MigrationError):
    """The tenant already has an active migration.

    Attributes:
        tenant_id: the tenant.
        migration_id: its active migration, when it could be read.
    """

    code = "already_exists"

    def __init__(self, tenant_id: TenantId, migration_id: UUID | None = None) -> None:
        which = f" {migration_id}" if migration_id else ""
        super().__init__(
            f"tenant {tenant_id} already has an active migration{which}; "
            "finish it or abort it before starting another"
        )
        self.tenant_id = tenant_id
        self.migration_id = migration_id


_WATCH = "`eventsource-migrate status {id} --watch`"

#: By what was asked for: what has to be waited for, in the states before it.
_NOT_YET = {
    "cut over": (("pending", "bulk_copy"), f"; wait until it is in dual_write: {_WATCH}"),
    "rehearse a cutover": (("pending", "bulk_copy"), f"; wait until it is in dual_write: {_WATCH}"),
    **dict.fromkeys(
        ("be cleaned up", "return", "migrate subscriptions before its cutover"),
        (("pending", "bulk_copy", "dual_write"), f"; wait until the tenant has moved: {_WATCH}"),
    ),
}

#: What can be done about a migration in a state that does not allow what was asked for.
_WAYS_OUT = {
    "paused": "; `eventsource-migrate resume {id}` lets it go on",
    "failed": "; `eventsource-migrate abort {id}` cleans up",
    "migrated": "; it has moved: `eventsource-migrate return {id}` takes it back if a way is kept",
    "rolled_back": "; it is over, and `eventsource-migrate run` begins another one",
}


class InvalidStateTransitionError(MigrationError):
    """The migration is not in a state that allows this.

    Attributes:
        migration_id: the migration.
        current: its state.
        requested: what was asked for.
    """

    code = "invalid_transition"

    def __init__(self, migration_id: UUID, current: str, requested: str) -> None:
        states, not_yet = _NOT_YET.get(requested, ((), ""))
        way_out = not_yet if str(current) in states else _WAYS_OUT.get(str(current), "")
        way_out = way_out.format(id=migration_id)
        super().__init__(f"migration {migration_id} is {current} and cannot {requested}{way_out}")
        self.migration_id = migration_id
        self.current = current
        self.requested = requested


class PreflightError(MigrationError):
    """The migration was refused before anything was changed.

    Attributes:
        problems: one sentence per problem, each with its repair.
        findings: those of them that have a name and a side.
        passes: whether it was refused only because a database did not answer.
    """

    code = "preflight"

    def __init__(
        self,
        problems: Sequence[str],
        findings: Sequence[Finding] = (),
        *,
        passes: bool = False,
    ) -> None:
        self.problems = tuple(problems)
        self.findings = tuple(findings)
        self.passes = passes
        super().__init__("; ".join(self.problems))


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that is in the way of a cutover, or of whatever else waits.

    Attributes:
        pid: server process; 0 for a prepared transaction.
        application: its application_name, or what kind of server process it is.
        state: as in pg_stat_activity, or ``prepared``.
        age_seconds: how long its transaction has been open.
        account, address: who it is and from where; empty where that is not shown.
    """

    pid: int
    application: str
    state: str
    age_seconds: float
    account: str = ""
    address: str = ""

    def __str__(self) -> str:
        # Minutes and hours: the text changes less often, and a report may take as long.
        age = f"{self.age_seconds:.0f} s"
        if self.age_seconds >= 60:
            minutes = int(self.age_seconds // 60)
            age = f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
        who = "@".join(filter(None, (self.account, self.address)))
        # Whose state may not be seen, of it nobody knows since when it is open.
        since = None if self.state == "not shown" else f"open for {age}"
        parts = (self.application, self.state, since, who)
        return f"pid {self.pid} ({', '.join(filter(None, parts))})"


class CutoverTimeoutError(RetryLaterError):
    """The cutover did not fit its budget; writers go on at the source, none saw an error.

    Attributes:
        timeout_seconds: the budget.
        blocked_writers: appends that were waiting when it was given up.
        blockers: who held the fence open.
        reason: why the fence was not even asked for, or None.
    """

    code = "cutover_timeout"

    def __init__(
        self,
        timeout_seconds: float,
        blocked_writers: int = 0,
        blockers: Sequence[Blocker] = (),
        reason: str | None = None,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.blocked_writers = blocked_writers
        self.blockers = tuple(blockers)
        self.reason = reason
        who = f"; in the way: {'; '.join(map(str, self.blockers))}" if self.blockers else ""
        why = reason or (
            f"the cutover did not fit its budget of {timeout_seconds:g} s and was rolled back"
        )
        super().__init__(f"{why}; the tenant keeps writing at the source{who}")


class RoutersNotReadyError(RetryLaterError):
    """Processes that append for the tenant could not write at the target; nothing was flipped.

    Attributes:
        migration_id: the migration.
        said: what each of them has said.
    """

    code = "routers_not_ready"

    def __init__(self, migration_id: UUID, said: str) -> None:
        self.migration_id = migration_id
        self.said = said
        super().__init__(
            "the tenant does not move while a process that appends for it could not write at the"
            f" target: {said}. They look again every 5 s; a process that has ended is not waited"
            " for, and one that shall not count is left out with `eventsource-migrate routers"
            f" {migration_id} --leave-out NAME`"
        )


class ConsistencyError(MigrationError):
    """Source and target differ; nothing was flipped.

    Attributes:
        report: what differs, or None when the proof of a pass failed and only its text is known.
    """

    code = "inconsistent"

    def __init__(self, message: str, report: VerificationReport | None = None) -> None:
        super().__init__(message)
        self.report = report


class ProtocolVersionError(MigrationError):
    """A newer version of this package carries the migration on; this process leaves it alone.

    Attributes:
        migration_id: the migration.
        needed: the version of the protocol that it needs.
        spoken: the version that this process speaks.
    """

    code = "newer_protocol"

    def __init__(self, migration_id: UUID, needed: int) -> None:
        super().__init__(
            f"migration {migration_id} needs version {needed} of the protocol, and this process"
            f" speaks version {SPOKEN}: nothing was changed; upgrade this process, or ask from one"
            " of the newer version"
        )
        self.migration_id = migration_id
        self.needed = needed
        self.spoken = SPOKEN


class PositionMappingError(MigrationError):
    """A position cannot be translated with what the mapping holds."""

    code = "position_mapping"


class RoutingError(MigrationError):
    """A route names a store that this process does not know, or the wrong one."""

    code = "routing"


class WritePausedError(MigrationError):
    """An append waited for the fence longer than the guard allows; it was not stored.

    Attributes:
        tenant_id: the tenant.
        timeout_seconds: how long it waited.
    """

    code = "write_paused"

    def __init__(self, tenant_id: TenantId, timeout_seconds: float) -> None:
        super().__init__(
            f"writes of tenant {tenant_id} are paused for its cutover and this append waited "
            f"{timeout_seconds:.1f} s; it was not stored, retry it"
        )
        self.tenant_id = tenant_id
        self.timeout_seconds = timeout_seconds


class StoreGoneBackError(MigrationError):
    """A store does not hold any more what it had committed: it was restored, or failed over.

    Nothing was changed, and the migration waits. It is found by an abort that meets an open
    target, and by a pass that does not find its barrier.
    """

    code = "store_gone_back"


class StoreMismatchError(MigrationError):
    """A store's address leads to another place than where the migration began.

    Nothing was changed; a process whose address is right may go on.
    """

    code = "store_mismatch"


class RepairNeededError(MigrationError):
    """The target lacks what was decided on: it stays closed until a driver has carried it again."""

    code = "repair_needed"


class TargetBusyError(RetryLaterError):
    """Another migration is loading the target table, or needs its positions; the driver waits."""

    code = "target_busy"


class LeaseLostError(MigrationError):
    """Another driver took the migration over; this one has stopped."""

    code = "lease_lost"
