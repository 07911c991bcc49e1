"""Domain events and the registry that turns stored events back into their classes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self, TypeVar, overload
from uuid import UUID, uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from eventsource.errors import UnknownEventTypeError


def _now() -> datetime:
    return datetime.now(UTC)


class DomainEvent(BaseModel):
    """Something that happened to one aggregate. Frozen; the fields of a subclass are its payload.

    ``event_type`` is the name under which a class is stored: the class name, unless
    :func:`register_event` was given another or the subclass sets a default for the field.
    ``aggregate_version`` is None until the event is read back from a store.
    """

    model_config = ConfigDict(
        frozen=True,
        # Stored payloads carry field names, so aliases of a subclass must not be the only way in.
        populate_by_name=True,
        # The default turns NaN into null without a word; kept, a store refuses it.
        ser_json_inf_nan="constants",
    )

    event_id: UUID = Field(default_factory=uuid4)
    event_type: str = ""
    aggregate_id: UUID
    aggregate_type: str = Field(min_length=1)
    aggregate_version: int | None = Field(default=None, ge=1)
    tenant_id: UUID | None = None
    timestamp: AwareDatetime = Field(default_factory=_now)
    actor_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_the_type(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name = event_type_of(cls)
        given = data.get("event_type", name)
        if given != name and _types.get(given) is not cls:
            raise ValueError(f"event_type is {given!r}, but {cls.__name__} is stored as {name!r}")
        return {**data, "event_type": given}

    def payload(self) -> dict[str, Any]:
        """The fields that the subclass adds, as JSON values."""
        return self.model_dump(mode="json", round_trip=True, exclude=ENVELOPE_FIELDS)

    @classmethod
    def from_envelope(cls, envelope: dict[str, Any], payload: dict[str, Any]) -> Self:
        """The event with these envelope fields and this payload; the envelope wins on a clash.

        Every stored event becomes its class here, so this is the place to read old payloads:
        override it, change a copy of ``payload``, and call ``super()``. Rows stay as they are.
        """
        return cls.model_validate({**payload, **envelope})


ENVELOPE_FIELDS = set(DomainEvent.model_fields)

E = TypeVar("E", bound=type[DomainEvent])

_types: dict[str, type[DomainEvent]] = {}
_explicit_names: dict[type[DomainEvent], str] = {}


def event_type_of(event_class: type[DomainEvent]) -> str:
    """The name under which events of ``event_class`` are stored."""
    explicit = _explicit_names.get(event_class)
    if explicit is not None:
        return explicit
    declared = event_class.model_fields["event_type"].default
    # Only a default of its own counts: a subclass of a named event is another type.
    inherited = {
        parent.model_fields["event_type"].default
        for parent in event_class.__bases__
        if issubclass(parent, DomainEvent)
    }
    if declared and declared not in inherited:
        return str(declared)
    return event_class.__name__


@overload
def register_event(event: E, /) -> E: ...


@overload
def register_event(event: str | None = None, /) -> Callable[[E], E]: ...


def register_event(event: E | str | None = None, /) -> E | Callable[[E], E]:
    """Class decorator: stored events of this type are read back as this class.

    ``@register_event`` stores under the class name, ``@register_event("name")`` under ``name``.
    The same class defined again (a reloaded module) takes the place of its former self.

    Raises:
        ValueError: another class already has the name.
        TypeError: what is decorated is not a subclass of DomainEvent.
    """
    if event is None or isinstance(event, str):
        return lambda event_class: _register(event_class, event)
    return _register(event, None)


def _register(event_class: E, name: str | None) -> E:
    if not (isinstance(event_class, type) and issubclass(event_class, DomainEvent)):
        raise TypeError(f"register_event decorates subclasses of DomainEvent, not {event_class!r}")
    event_type = name or event_type_of(event_class)
    present = _types.get(event_type)
    if present is not None and _origin(present) != _origin(event_class):
        raise ValueError(
            f"event type {event_type!r} is already registered for {'.'.join(_origin(present))}: "
            f'give this one another name, @register_event("…")'
        )
    if name is not None:
        _explicit_names[event_class] = name
    _types[event_type] = event_class
    return event_class


def registered_event_class(event_type: str) -> type[DomainEvent]:
    """The class registered for a stored type.

    Raises:
        UnknownEventTypeError: there is none.
    """
    try:
        return _types[event_type]
    except KeyError:
        raise UnknownEventTypeError(event_type) from None


def _origin(event_class: type[DomainEvent]) -> tuple[str, str]:
    return event_class.__module__, event_class.__qualname__
