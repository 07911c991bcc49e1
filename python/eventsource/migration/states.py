"""The states of a migration and of a tenant's route: the only transition table.

A transition is one compare-and-set statement together with its audit row
(:meth:`PostgreSQLMigrationRepository.transition`). Who sets a state, who waits on it and what a
restart does:

==============  =====================  ==========================  ====================
state           set by                 waited on by                after a restart
==============  =====================  ==========================  ====================
pending         start_migration        the driver                  guard again
bulk_copy       driver, guard is up    operators                   resumes at the cursor
dual_write      driver, bulk proven    initiate_cutover            passes go on
cutover_paused  driver, cutover asked  routers, initiate_cutover   the fence row decides
migrated        driver, any process    everyone                    final, rolls forward
paused          driver, pause asked    resume_migration            stays paused
rolled_back     driver, abort asked    abort_migration             final
failed          driver                 operators                   resume or abort
==============  =====================  ==========================  ====================
"""

from __future__ import annotations

from enum import StrEnum


class MigrationState(StrEnum):
    """Where a migration stands; the text is what the control table holds."""

    PENDING = "pending"
    BULK_COPY = "bulk_copy"
    DUAL_WRITE = "dual_write"
    CUTOVER_PAUSED = "cutover_paused"
    MIGRATED = "migrated"
    PAUSED = "paused"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """True when no driver has anything left to do."""
        return self in FINAL


class TenantMigrationState(StrEnum):
    """What a router has to know about a tenant."""

    NORMAL = "normal"
    BULK_COPY = "bulk_copy"
    DUAL_WRITE = "dual_write"
    CUTOVER_PAUSED = "cutover_paused"
    MIGRATED = "migrated"


_S = MigrationState

FINAL = frozenset({_S.MIGRATED, _S.ROLLED_BACK, _S.FAILED})

TRANSITIONS: dict[MigrationState, frozenset[MigrationState]] = {
    # To the cutover from here where the control database has gone back, and the fence has decided.
    _S.PENDING: frozenset({_S.BULK_COPY, _S.CUTOVER_PAUSED, _S.PAUSED, _S.ROLLED_BACK, _S.FAILED}),
    _S.BULK_COPY: frozenset(
        {_S.DUAL_WRITE, _S.CUTOVER_PAUSED, _S.PAUSED, _S.ROLLED_BACK, _S.FAILED}
    ),
    _S.DUAL_WRITE: frozenset({_S.CUTOVER_PAUSED, _S.PAUSED, _S.ROLLED_BACK, _S.FAILED}),
    # Only the fence decides between these two; an abort asked meanwhile waits for the answer.
    _S.CUTOVER_PAUSED: frozenset({_S.MIGRATED, _S.DUAL_WRITE}),
    _S.PAUSED: frozenset({_S.PENDING, _S.BULK_COPY, _S.DUAL_WRITE, _S.ROLLED_BACK, _S.FAILED}),
    # Once its cause is mended it goes on where it stood; not after an abort has begun.
    _S.FAILED: frozenset({_S.PENDING, _S.BULK_COPY, _S.DUAL_WRITE, _S.ROLLED_BACK}),
    # A target that was restored to before it was opened: it is opened again when it is repaired.
    _S.MIGRATED: frozenset({_S.CUTOVER_PAUSED}),
    _S.ROLLED_BACK: frozenset(),
}

#: What a tenant's route says while its migration is in each state. A paused migration keeps the
#: route it had, because the mirror may go on; final states are set with the route they leave.
ROUTE_STATES: dict[MigrationState, TenantMigrationState] = {
    _S.PENDING: TenantMigrationState.NORMAL,
    _S.BULK_COPY: TenantMigrationState.BULK_COPY,
    _S.DUAL_WRITE: TenantMigrationState.DUAL_WRITE,
    _S.CUTOVER_PAUSED: TenantMigrationState.CUTOVER_PAUSED,
    _S.MIGRATED: TenantMigrationState.NORMAL,
    _S.ROLLED_BACK: TenantMigrationState.NORMAL,
    _S.FAILED: TenantMigrationState.NORMAL,
}


def of_journal(text: str) -> MigrationState:
    """The state of this name. One that only a newer version knows can be shown, and no more."""
    try:
        return MigrationState(text)
    except ValueError:
        unknown = str.__new__(MigrationState, text)
        unknown._name_, unknown._value_ = text.upper(), text
        return unknown


def may_follow(current: MigrationState, following: MigrationState) -> bool:
    """Whether ``following`` is a legal next state."""
    return following in TRANSITIONS.get(current, ())
