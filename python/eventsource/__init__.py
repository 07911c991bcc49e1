"""Event sourcing on PostgreSQL whose tenants can move to another database while they write."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from eventsource_migration.neighbours import explain, installed_beside

if TYPE_CHECKING:
    from eventsource.errors import EventSourceError, OptimisticLockError, UnknownEventTypeError
    from eventsource.events import DomainEvent, register_event
    from eventsource.stores.interface import ExpectedVersion

    __version__: str

#: By this the command knows that nobody has replaced this file.
__distribution__ = "eventsource-migration"

if _others := installed_beside():
    raise ImportError(explain(_others), name=__name__)

__all__ = [
    "DomainEvent",
    "EventSourceError",
    "ExpectedVersion",
    "OptimisticLockError",
    "UnknownEventTypeError",
    "__version__",
    "register_event",
]

#: Where each name is. They are loaded when they are used: a command line that only says its version
#: or completes a word need not wait for models and drivers.
_HOMES = {
    "DomainEvent": "eventsource.events",
    "EventSourceError": "eventsource.errors",
    "ExpectedVersion": "eventsource.stores.interface",
    "OptimisticLockError": "eventsource.errors",
    "UnknownEventTypeError": "eventsource.errors",
    "register_event": "eventsource.events",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        found: Any = _version()
    elif name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("eventsource-migration")
    except metadata.PackageNotFoundError:  # the source tree, imported without being installed
        return "0+unknown"
