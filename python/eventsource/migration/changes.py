"""News of migrations for those in this process who want to hear of them.

A change of state is announced by the process that made it, after its commit, and by no other. So a
hook runs once for each change, or not at all if that process dies in that moment. The journal is
what counts; this is for chats and pagers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

_log = logging.getLogger("eventsource.migration")


@dataclass(frozen=True, slots=True)
class Change:
    """A migration is in another state, or a cutover that was asked for has ended.

    Attributes:
        event: ``state`` or ``cutover``.
        was: the state before, None for a migration that begins.
        details: what the audit log says of it.
    """

    event: str
    migration: Migration
    was: str | None
    operator: str | None
    details: Mapping[str, Any]
    at: datetime

    def document(self) -> dict[str, Any]:
        """For programs: what has changed, of which tenant, and why."""
        migration = self.migration
        return {
            "event": self.event,
            "at": self.at.isoformat(timespec="milliseconds"),
            "migration_id": str(migration.id),
            "tenant_id": str(migration.tenant_id),
            "source": migration.source_store_id,
            "target": migration.target_store_id,
            "state": str(migration.state),
            "was": self.was,
            "events_carried": migration.events_copied,
            "events_total": migration.total_events,
            "fence_held_ms": migration.cutover_pause_ms,
            "message": migration.error_message,
            "operator": self.operator,
            "details": dict(self.details),
        }


Listener = Callable[[Change], None]

_listeners: list[Listener] = []


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within the block ``listener`` is called with each change that this process makes.

    It is called in the event loop and must return at once.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(
    event: str,
    migration: Migration,
    was: str | None = None,
    operator: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Pass a change on; a listener that fails is no reason for a migration to stop."""
    for listener in list(_listeners):
        try:
            listener(Change(event, migration, was, operator, details or {}, datetime.now(UTC)))
        except Exception:
            _log.warning("a listener of changes failed", exc_info=True)
