"""What every event store does, whatever it keeps its events in.

A test class inherits `StoreContract` and has a fixture ``store``.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import pytest
from pydantic import Field

from eventsource import (
    DomainEvent,
    ExpectedVersion,
    OptimisticLockError,
    UnknownEventTypeError,
    register_event,
)
from eventsource.errors import EventIdTakenError, StreamTenantError
from eventsource.stores import AppendResult, EventStore


@register_event
class ItemAdded(DomainEvent):
    aggregate_type: str = "Cart"
    name: str = "apple"
    details: dict[str, Any] = Field(default_factory=dict)


@register_event("cart.cleared")
class CartCleared(DomainEvent):
    aggregate_type: str = "Cart"


class Unregistered(DomainEvent):
    aggregate_type: str = "Cart"


def items(
    aggregate_id: UUID, count: int = 1, tenant_id: UUID | None = None, **fields: Any
) -> list[ItemAdded]:
    return [
        ItemAdded(aggregate_id=aggregate_id, tenant_id=tenant_id, name=f"item {n}", **fields)
        for n in range(count)
    ]


async def positions(store: EventStore, from_position: int = 0, **filters: Any) -> list[int]:
    return [row.global_position async for row in store.read_all(from_position, **filters)]


async def backwards(
    store: EventStore, before_position: int | None = None, **filters: Any
) -> list[int]:
    return [row.global_position async for row in store.read_backwards(before_position, **filters)]


class StoreContract:
    async def test_events_come_back_as_they_were_with_their_versions(
        self, store: EventStore
    ) -> None:
        cart, tenant = uuid4(), uuid4()
        odd = {"text": 'emoji 🛒, عربى, "quotes" and \\u0000', "n": 1.5, "none": None, "l": [1, {}]}
        events = [
            *items(cart, 2, tenant, actor_id="ann", metadata={"trace": "t-1"}, details=odd),
            CartCleared(aggregate_id=cart, tenant_id=tenant),
        ]
        result = await store.append_events(cart, "Cart", events, ExpectedVersion.NO_STREAM)
        assert (result.success, result.new_version) == (True, 3)

        stream = await store.get_events(cart, "Cart")
        assert stream.version == 3
        assert [event.aggregate_version for event in stream.events] == [1, 2, 3]
        assert [
            event.model_copy(update={"aggregate_version": None}) for event in stream.events
        ] == events

    @pytest.mark.parametrize("moment", [datetime.min, datetime.max])
    async def test_the_first_and_the_last_moment_come_back(
        self, store: EventStore, moment: datetime
    ) -> None:
        """The driver keeps them as infinity."""
        cart, moment = uuid4(), moment.replace(tzinfo=UTC)
        [event] = items(cart, timestamp=moment)
        await store.append_events(cart, "Cart", [event], 0)
        [read] = (await store.get_events(cart, "Cart")).events
        assert read.model_copy(update={"aggregate_version": None}) == event
        assert [row.timestamp async for row in store.read_all()] == [moment]
        assert await positions(store, since=moment) == [1]

    async def test_versions_and_positions_rise_together(self, store: EventStore) -> None:
        cart = uuid4()
        first = await store.append_events(cart, "Cart", items(cart, 3), 0)
        second = await store.append_events(cart, "Cart", items(cart, 2), 3)
        rows = [row async for row in store.read_stream(cart)]
        assert [row.version for row in rows] == [1, 2, 3, 4, 5]
        found = [row.global_position for row in rows]
        assert found == sorted(set(found))
        assert (first.global_position, second.global_position) == (found[2], found[4])
        assert second.new_version == 5
        assert await store.get_global_position() == found[4]

    async def test_reading_begins_after_the_given_version(self, store: EventStore) -> None:
        cart = uuid4()
        await store.append_events(cart, "Cart", items(cart, 5), 0)
        assert [row.version async for row in store.read_stream(cart, "Cart", 3)] == [4, 5]
        stream = await store.get_events(cart, from_version=5)
        assert (stream.events, stream.version, stream.aggregate_type) == ([], 5, "Cart")

    async def test_a_stream_that_is_not_there_is_empty(self, store: EventStore) -> None:
        stream = await store.get_events(uuid4())
        assert (stream.events, stream.version, stream.aggregate_type) == ([], 0, None)
        assert await store.get_stream_version(uuid4()) == 0
        assert not await store.event_exists(uuid4())
        assert await store.get_global_position() == 0
        assert await positions(store) == []

    @pytest.mark.parametrize("expected", [0, 1, 3])
    async def test_another_version_than_expected_is_refused(
        self, store: EventStore, expected: int
    ) -> None:
        cart = uuid4()
        await store.append_events(cart, "Cart", items(cart, 2), 0)
        with pytest.raises(OptimisticLockError) as caught:
            await store.append_events(cart, "Cart", items(cart), expected)
        error = caught.value
        assert (error.aggregate_id, error.expected_version, error.actual_version) == (
            cart,
            expected,
            2,
        )
        assert await store.get_stream_version(cart) == 2

    async def test_any_and_stream_exists(self, store: EventStore) -> None:
        cart = uuid4()
        with pytest.raises(OptimisticLockError):
            await store.append_events(cart, "Cart", items(cart), ExpectedVersion.STREAM_EXISTS)
        await store.append_events(cart, "Cart", items(cart), ExpectedVersion.ANY)
        await store.append_events(cart, "Cart", items(cart), ExpectedVersion.STREAM_EXISTS)
        result = await store.append_events(cart, "Cart", items(cart), ExpectedVersion.ANY)
        assert result.new_version == 3

    async def test_of_two_appends_at_one_version_one_wins(self, store: EventStore) -> None:
        cart = uuid4()
        outcomes = await asyncio.gather(
            *(store.append_events(cart, "Cart", items(cart, 2), 0) for _ in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(one, AppendResult) for one in outcomes) == 1
        assert sum(isinstance(one, OptimisticLockError) for one in outcomes) == 7
        assert await store.get_stream_version(cart) == 2

    async def test_appends_that_expect_nothing_all_succeed(self, store: EventStore) -> None:
        cart = uuid4()
        results = await asyncio.gather(
            *(
                store.append_events(cart, "Cart", items(cart, 3), ExpectedVersion.ANY)
                for _ in range(4)
            )
        )
        assert sorted(result.new_version for result in results) == [3, 6, 9, 12]

    @pytest.mark.parametrize("expected", [0, 5, ExpectedVersion.ANY])
    async def test_the_same_events_again_are_a_success_with_the_stored_position(
        self, store: EventStore, expected: int
    ) -> None:
        cart = uuid4()
        events = items(cart, 3, details={"b": 1, "a": [1.5, "x"]})
        first = await store.append_events(cart, "Cart", events, 0)
        await store.append_events(cart, "Cart", items(cart, 2), 3)
        assert await store.append_events(cart, "Cart", events, expected) == first
        assert await store.get_stream_version(cart) == 5

    async def test_an_event_id_with_other_content_is_refused(self, store: EventStore) -> None:
        cart, other = uuid4(), uuid4()
        (event,) = items(cart)
        await store.append_events(cart, "Cart", [event], 0)
        for changes, message in (
            ({"aggregate_id": other}, "another stream"),
            ({"tenant_id": uuid4()}, "another tenant"),
            ({"name": "pear"}, "another payload"),
        ):
            changed = event.model_copy(update=changes)
            with pytest.raises(EventIdTakenError, match=message) as caught:
                await store.append_events(
                    changed.aggregate_id, "Cart", [changed], ExpectedVersion.ANY
                )
            assert caught.value.event_id == event.event_id
        retyped = CartCleared(aggregate_id=cart, event_id=event.event_id)
        with pytest.raises(EventIdTakenError, match="another event type"):
            await store.append_events(cart, "Cart", [retyped], 1)
        assert await positions(store) == [1]

    async def test_an_append_of_which_a_part_is_stored_is_refused(self, store: EventStore) -> None:
        cart = uuid4()
        events = items(cart, 3)
        await store.append_events(cart, "Cart", events[:2], 0)
        with pytest.raises(EventIdTakenError, match="only the new ones"):
            await store.append_events(cart, "Cart", events, 2)
        with pytest.raises(EventIdTakenError, match="another order"):
            await store.append_events(cart, "Cart", events[1::-1], 0)
        assert await store.get_stream_version(cart) == 2

    @pytest.mark.parametrize("expected", [2, 1, -1, -2])
    @pytest.mark.parametrize("owner", [uuid5(NAMESPACE_OID, "owner"), None])
    async def test_a_stream_of_another_tenant_is_refused(
        self, store: EventStore, owner: UUID | None, expected: int
    ) -> None:
        cart = uuid4()
        await store.append_events(cart, "Cart", items(cart, 2, tenant_id=owner), 0)
        for tenant in {uuid4(), None} - {owner}:
            with pytest.raises(StreamTenantError, match="to a stream of your own") as caught:
                await store.append_events(cart, "Cart", items(cart, 1, tenant_id=tenant), expected)
            assert (caught.value.tenant_id, caught.value.stream_tenant_id) == (tenant, owner)
        assert await positions(store) == [1, 2]
        # Another type of aggregate with the same id is another stream.
        await store.append_events(cart, "Order", items(cart, 1, aggregate_type="Order"), 0)
        await store.append_events(cart, "Cart", items(cart, 1, tenant_id=owner), 2)

    async def test_what_does_not_belong_together_is_refused(self, store: EventStore) -> None:
        cart = uuid4()
        (event,) = items(cart)
        for events, message in (
            ([], "at least one"),
            (items(uuid4()), "each stream's events"),
            ([event, *items(cart, tenant_id=uuid4())], "each tenant"),
            ([event, event], "twice"),
            (items(cart, aggregate_version=7), "leave aggregate_version unset"),
            (items(cart, details={"x": [float("nan")]}), "NaN"),
            (items(cart, metadata={"x": float("inf")}), "NaN"),
            (items(cart, metadata={"x": "a\x00b"}), "NUL"),
        ):
            with pytest.raises(ValueError, match=message):
                await store.append_events(cart, "Cart", events, 0)
        with pytest.raises(ValueError, match="NO_STREAM"):
            await store.append_events(cart, "Cart", [event], -3)
        assert await store.get_stream_version(cart) == 0

    @pytest.mark.parametrize("text", ["a\x00b", "cut \ud83d", "\udc00"])
    @pytest.mark.parametrize("field", ["name", "details", "metadata", "actor_id", "aggregate_type"])
    async def test_a_text_that_no_database_holds_is_refused_by_its_field(
        self, store: EventStore, field: str, text: str
    ) -> None:
        cart = uuid4()
        value: Any = {"of": [text]} if field in ("details", "metadata") else text
        event = ItemAdded(aggregate_id=cart, **{field: value})
        what = "payload" if field in ("name", "details") else field
        with pytest.raises(ValueError, match=f"the {what} of .* holds (a NUL|half of)") as caught:
            await store.append_events(cart, event.aggregate_type, [event], 0)
        assert type(caught.value) is ValueError
        assert await store.get_stream_version(cart) == 0

    async def test_one_id_under_two_types_needs_the_type(self, store: EventStore) -> None:
        shared = uuid4()
        await store.append_events(shared, "Cart", items(shared), 0)
        await store.append_events(shared, "Wish", items(shared, 2, aggregate_type="Wish"), 0)
        assert await store.get_stream_version(shared, "Wish") == 2
        assert len((await store.get_events(shared, "Cart")).events) == 1
        for ambiguous in (
            store.get_events(shared),
            # Behind the end of one of the two streams the other one is not taken for the only one.
            store.get_events(shared, from_version=1),
            store.get_events(shared, from_version=9),
            store.get_stream_version(shared),
        ):
            with pytest.raises(ValueError, match="Cart and Wish: pass aggregate_type"):
                await ambiguous

    async def test_a_tenant_sees_only_its_own_events(self, store: EventStore) -> None:
        mine, yours = uuid4(), uuid4()
        cart, other = uuid4(), uuid4()
        (event,) = items(cart, tenant_id=mine)
        await store.append_events(cart, "Cart", [event], 0)
        await store.append_events(other, "Cart", items(other, 2, yours), 0)
        await store.append_events(cart, "Cart", items(cart, 1, mine), 1)
        assert await positions(store, tenant_id=mine) == [1, 4]
        assert await positions(store, tenant_id=yours) == [2, 3]
        assert (await store.get_events(cart, tenant_id=yours)).events == []
        assert await store.get_stream_version(cart, "Cart", tenant_id=yours) == 0
        assert await store.event_exists(event.event_id, tenant_id=mine)
        assert await store.event_exists(event.event_id)
        assert not await store.event_exists(event.event_id, tenant_id=yours)

    async def test_the_feed_goes_on_from_a_position_up_to_a_limit(self, store: EventStore) -> None:
        tenant = uuid4()
        for _ in range(3):
            cart = uuid4()
            await store.append_events(cart, "Cart", items(cart, 2, tenant), 0)
        assert await positions(store) == [1, 2, 3, 4, 5, 6]
        assert await positions(store, 4) == [5, 6]
        assert await positions(store, 6) == []
        assert await positions(store, 1, limit=2) == [2, 3]
        assert await positions(store, 1, tenant_id=tenant, limit=3) == [2, 3, 4]
        assert await positions(store, limit=0) == []

    async def test_rows_need_no_event_class(self, store: EventStore) -> None:
        cart = uuid4()
        await store.append_events(cart, "Cart", [Unregistered(aggregate_id=cart)], 0)
        (row,) = [row async for row in store.read_all()]
        assert (row.event_type, row.payload, row.version) == ("Unregistered", {}, 1)
        with pytest.raises(UnknownEventTypeError, match="Unregistered"):
            _ = row.event
        with pytest.raises(UnknownEventTypeError):
            await store.get_events(cart)

    async def test_the_newest_come_first_from_either_end_of_a_page(self, store: EventStore) -> None:
        mine, yours = uuid4(), uuid4()
        for tenant in (mine, yours, mine):
            cart = uuid4()
            await store.append_events(cart, "Cart", items(cart, 2, tenant), 0)
        assert await backwards(store) == [6, 5, 4, 3, 2, 1]
        assert await backwards(store, limit=2) == [6, 5]
        assert await backwards(store, 5) == [4, 3, 2, 1]
        assert await backwards(store, 5, tenant_id=mine, limit=1) == [2]
        assert await backwards(store, tenant_id=yours) == [4, 3]
        assert await backwards(store, 99, tenant_id=yours, limit=9) == [4, 3]
        assert await backwards(store, 1) == await backwards(store, limit=0) == []
        assert await backwards(store, tenant_id=uuid4()) == []

    async def test_types_and_times_choose_from_both_ends(self, store: EventStore) -> None:
        cart, tenant = uuid4(), uuid4()
        noon = datetime(2026, 11, 29, 12, tzinfo=UTC)
        hours = [noon + timedelta(hours=hour) for hour in range(4)]
        for version, (hour, cls) in enumerate(
            zip(hours, (ItemAdded, CartCleared, ItemAdded, CartCleared), strict=True)
        ):
            event = cls(aggregate_id=cart, tenant_id=tenant, timestamp=hour)
            await store.append_events(cart, "Cart", [event], version)
        for filters, expected in (
            ({"event_types": ["cart.cleared"]}, [2, 4]),
            ({"event_types": ["cart.cleared", "ItemAdded"]}, [1, 2, 3, 4]),
            ({"event_types": []}, []),
            ({"since": hours[1]}, [2, 3, 4]),
            ({"until": hours[1]}, [1]),
            ({"since": hours[1], "until": hours[3]}, [2, 3]),
            ({"since": hours[1], "event_types": {"ItemAdded"}, "tenant_id": tenant}, [3]),
            ({"since": hours[1], "tenant_id": uuid4()}, []),
            ({"until": hours[3].astimezone(timezone(timedelta(hours=-9)))}, [1, 2, 3]),
        ):
            assert await positions(store, **filters) == expected, filters
            assert await backwards(store, **filters) == expected[::-1], filters
        assert await positions(store, 2, event_types=["cart.cleared"]) == [4]
        assert await backwards(store, 4, since=noon, limit=2) == [3, 2]

    async def test_a_filter_that_cannot_be_meant_is_refused(self, store: EventStore) -> None:
        for read in (store.read_all, store.read_backwards):
            with pytest.raises(TypeError, match="collection of names"):
                await anext(read(event_types="cart.cleared"))
            with pytest.raises(ValueError, match="names no zone"):
                await anext(read(since=datetime(2026, 11, 29)))
