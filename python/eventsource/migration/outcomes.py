"""How an error crosses processes: described in the journal, raised again by whoever waits."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eventsource.connections import redact
from eventsource.dataplane import DataPlaneError
from eventsource.migration.errors import (
    Blocker,
    ConsistencyError,
    CutoverTimeoutError,
    InvalidStateTransitionError,
    MigrationError,
)

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

OK = "ok"


def describe(error: BaseException) -> dict[str, Any]:
    """A JSON-able description: code, message, and what the typed error needs."""
    code = error.code if isinstance(error, MigrationError) else "error"
    if isinstance(error, DataPlaneError) and error.kind == "inconsistent":
        code = ConsistencyError.code
    told: dict[str, Any] = {"code": code, "message": redact(str(error)) or type(error).__name__}
    if isinstance(error, CutoverTimeoutError):
        told["timeout_seconds"] = error.timeout_seconds
        told["blocked_writers"] = error.blocked_writers
        told["blockers"] = [asdict(blocker) for blocker in error.blockers]
    if isinstance(error, InvalidStateTransitionError):
        told["current"], told["requested"] = error.current, error.requested
    return told


def raise_for(outcome: dict[str, Any], migration: Migration) -> None:
    """Raise what ``outcome`` describes; an OK outcome returns."""
    code = outcome["code"]
    if code == OK:
        return
    if code == CutoverTimeoutError.code:
        raise CutoverTimeoutError(
            outcome["timeout_seconds"],
            outcome["blocked_writers"],
            [Blocker(**blocker) for blocker in outcome["blockers"]],
        )
    if code == ConsistencyError.code:
        raise ConsistencyError(outcome["message"])
    if code == InvalidStateTransitionError.code:
        raise InvalidStateTransitionError(migration.id, outcome["current"], outcome["requested"])
    raise MigrationError(outcome["message"])
