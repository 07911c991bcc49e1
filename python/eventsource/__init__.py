"""Event sourcing on PostgreSQL whose tenants can move to another database while they write."""

from importlib import metadata

from eventsource.errors import EventSourceError, OptimisticLockError, UnknownEventTypeError
from eventsource.events import DomainEvent, register_event
from eventsource.stores.interface import ExpectedVersion
from eventsource_migration.neighbours import explain, installed_beside

#: By this the command knows that nobody has replaced this file.
__distribution__ = "eventsource-migration"

if _others := installed_beside():
    raise ImportError(explain(_others), name=__name__)

try:
    __version__ = metadata.version("eventsource-migration")
except metadata.PackageNotFoundError:  # the source tree, imported without being installed
    __version__ = "0+unknown"

__all__ = [
    "DomainEvent",
    "EventSourceError",
    "ExpectedVersion",
    "OptimisticLockError",
    "UnknownEventTypeError",
    "__version__",
    "register_event",
]
