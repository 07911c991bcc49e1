"""Events: what is envelope, what is payload, and how a stored type finds its class again."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from pydantic import Field, ValidationError, computed_field

from eventsource import DomainEvent, OptimisticLockError, UnknownEventTypeError, register_event
from eventsource.errors import EventIdTakenError, FeedBlockedError
from eventsource.events import event_type_of, registered_event_class


@register_event
class Weighed(DomainEvent):
    aggregate_type: str = "Parcel"
    grams: int
    price: Decimal = Decimal("1.50")
    label: str = Field(default="none", alias="labelText")

    @computed_field
    def kilograms(self) -> float:
        return self.grams / 1000


@register_event("parcel.sent")
class Sent(DomainEvent):
    aggregate_type: str = "Parcel"


class Declared(DomainEvent):
    aggregate_type: str = "Parcel"
    event_type: str = "ParcelDeclared"


class Inherited(Declared):
    pass


def test_the_fields_of_the_subclass_are_the_payload() -> None:
    event = Weighed.model_validate({"aggregate_id": uuid4(), "grams": 250, "label": "fragile"})
    assert event.payload() == {"grams": 250, "price": "1.50", "label": "fragile"}


def test_envelope_fields_have_defaults_that_identify_the_event() -> None:
    before = datetime.now(UTC)
    one, two = (Weighed(aggregate_id=uuid4(), grams=1) for _ in range(2))
    assert one.event_id != two.event_id
    assert before <= one.timestamp <= datetime.now(UTC)
    assert one.timestamp.tzinfo is UTC
    assert (one.tenant_id, one.actor_id, one.metadata) == (None, None, {})


def test_an_event_is_frozen() -> None:
    event = Weighed(aggregate_id=uuid4(), grams=1)
    with pytest.raises(ValidationError):
        event.grams = 2


def test_a_timestamp_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        Weighed(aggregate_id=uuid4(), grams=1, timestamp=datetime(2024, 1, 1))


def test_payload_and_envelope_make_the_same_event_again() -> None:
    fields = {"tenant_id": uuid4(), "grams": 7, "label": "x", "metadata": {"a": 1}}
    event = Weighed.model_validate({"aggregate_id": uuid4(), **fields})
    envelope = event.model_dump(exclude=set(event.payload()))
    assert Weighed.from_envelope(envelope, event.payload()) == event


@pytest.mark.parametrize(
    ("event_class", "name"),
    [
        (Weighed, "Weighed"),
        (Sent, "parcel.sent"),
        (Declared, "ParcelDeclared"),
        (Inherited, "Inherited"),
    ],
)
def test_the_type_is_the_class_name_or_the_name_it_was_given(
    event_class: type[DomainEvent], name: str
) -> None:
    assert event_type_of(event_class) == name
    arguments = {"grams": 1} if event_class is Weighed else {}
    event = event_class.model_validate({"aggregate_id": uuid4(), **arguments})
    assert event.event_type == name


def test_an_event_cannot_claim_another_type() -> None:
    with pytest.raises(ValidationError, match=r"stored as 'parcel\.sent'"):
        Sent(aggregate_id=uuid4(), event_type="Weighed")


def test_a_stored_type_finds_its_class() -> None:
    assert registered_event_class("parcel.sent") is Sent
    with pytest.raises(UnknownEventTypeError, match="register_event"):
        registered_event_class("parcel.lost")


def test_two_classes_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match="already registered"):

        @register_event("parcel.sent")
        class Other(DomainEvent):
            pass


def test_a_module_that_is_loaded_again_takes_its_names_over() -> None:
    def load() -> type[DomainEvent]:
        @register_event
        class Reloaded(DomainEvent):
            pass

        return Reloaded

    load()
    second = load()
    assert registered_event_class("Reloaded") is second


def test_only_events_can_be_registered() -> None:
    with pytest.raises(TypeError, match="DomainEvent"):
        register_event(int)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "error",
    [
        OptimisticLockError(UUID(int=1), "Order", 3, 4),
        EventIdTakenError(UUID(int=1), "in another stream"),
        FeedBlockedError(("pid 1",), 2.0),
        UnknownEventTypeError("X"),
    ],
)
def test_errors_cross_process_boundaries(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))
