"""What is said of a change of state: to who asked for it, to the log, and to listeners."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from eventsource.migration import changes, failures
from eventsource.migration.errors import InvalidStateTransitionError, LeaseLostError
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.models import Migration

_log = logging.getLogger("eventsource.migration")


def explain_refusal(current: Migration, following: MigrationState, owner: UUID | None) -> NoReturn:
    """Raise why a compare-and-set has changed nothing."""
    failures.refuse_newer(current)
    if owner is not None and current.driver_owner != owner:
        raise LeaseLostError(f"another driver carries migration {current.id} on")
    raise InvalidStateTransitionError(current.id, current.state, f"become {following}")


def report(
    before: Migration,
    following: MigrationState,
    now: Migration,
    operator: str | None,
    details: Mapping[str, object] | None,
) -> None:
    """One line per change of state, by the process that made it, and the news of it."""
    pause = ""
    if following is MigrationState.MIGRATED and now.cutover_pause_ms is not None:
        pause = f"; the fence was held for {now.cutover_pause_ms:.1f} ms"
    _log.info(
        "migration %s of tenant %s from %r to %r: %s, was %s%s",
        now.id, now.tenant_id, now.source_store_id, now.target_store_id,
        following, before.state, pause,
        extra={
            "migration_id": now.id, "tenant_id": now.tenant_id, "source": now.source_store_id,
            "target": now.target_store_id, "state": following,
        },
    )  # fmt: skip
    changes.announce("state", now, before.state, operator, details)
