"""The PostgreSQL store beside the one in memory: any calls in any order get the same answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any, ClassVar
from uuid import UUID, uuid4, uuid5

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventsource import DomainEvent, ExpectedVersion, OptimisticLockError, register_event
from eventsource.errors import EventIdTakenError, StreamTenantError
from eventsource.stores import EventStore, StoredEvent
from eventsource.stores.memory import InMemoryEventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster

#: Sequences of calls; `make fuzz` sets more, and other ones each time.
SEQUENCES = int(os.environ.get("FUZZ_SEQUENCES", "0"))

SPACE = UUID("5e0f6f0e-8a57-4b5e-9d0a-0f0f6f0e8a57")
IDS = [uuid5(SPACE, str(n)) for n in range(3)]
TYPES = ["Alpha", "Beta"]
TENANTS = [None, uuid5(SPACE, "one"), uuid5(SPACE, "other")]

ids = st.sampled_from(IDS)
types = st.sampled_from(TYPES)
some_type = st.sampled_from([None, *TYPES])
tenants = st.sampled_from(TENANTS)
expectations = st.sampled_from(["right", "low", "high", "any", "none", "exists", "absurd"])
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@register_event("model.happened")
class Happened(DomainEvent):
    text: str = ""


@register_event("model.happened_otherwise")
class HappenedOtherwise(DomainEvent):
    text: str = ""


Call = Callable[[EventStore], Awaitable[Any]]


class TwoStores(RuleBasedStateMachine):
    """The same calls to both stores."""

    runner: ClassVar[asyncio.Runner]
    stored: ClassVar[PostgreSQLEventStore]

    def __init__(self) -> None:
        super().__init__()
        self.memory = InMemoryEventStore()
        self.appended: list[list[DomainEvent]] = []
        self.runner.run(self.stored.pool.execute(f'truncate "{self.stored.table_name}"'))

    def same(self, call: Call) -> Any:
        """The answer of both, which is one."""
        here = self.runner.run(answer(call, self.stored))
        there = self.runner.run(answer(call, self.memory))
        assert here == there
        return here

    def append(self, events: list[DomainEvent], expected: int) -> None:
        first = events[0]

        async def call(store: EventStore) -> Any:
            result = await store.append_events(
                first.aggregate_id, first.aggregate_type, events, expected
            )
            before = result.global_position - 1
            at = [row.event_id async for row in store.read_all(before, limit=1)]
            return result.success, result.new_version, at

        kind, _ = self.same(call)
        if kind == "answer":
            self.appended.append(events)

    def expected(self, stream: UUID, aggregate_type: str, how: str) -> int:
        version = self.runner.run(self.memory.get_stream_version(stream, aggregate_type))
        return {
            "right": version,
            "low": max(0, version - 1),
            "high": version + 1,
            "any": ExpectedVersion.ANY,
            "none": ExpectedVersion.NO_STREAM,
            "exists": ExpectedVersion.STREAM_EXISTS,
            "absurd": -3,
        }[how]

    @rule(
        stream=ids,
        aggregate_type=types,
        tenant=tenants,
        wrote=st.lists(texts, min_size=1, max_size=3),
        how=expectations,
        otherwise=st.booleans(),
    )
    def append_new(
        self,
        stream: UUID,
        aggregate_type: str,
        tenant: UUID | None,
        wrote: list[str],
        how: str,
        otherwise: bool,
    ) -> None:
        event = HappenedOtherwise if otherwise else Happened
        events: list[DomainEvent] = [
            event(
                event_id=uuid4(), aggregate_id=stream, aggregate_type=aggregate_type,
                tenant_id=tenant, text=text, actor_id=text or None, metadata={"wrote": text},
            )
            for text in wrote
        ]  # fmt: skip
        self.append(events, self.expected(stream, aggregate_type, how))

    @precondition(lambda self: self.appended)
    @rule(which=st.integers(0, 1000), how=expectations)
    def append_again(self, which: int, how: str) -> None:
        """What a client does whose reply was lost."""
        events = self.appended[which % len(self.appended)]
        first = events[0]
        self.append(events, self.expected(first.aggregate_id, first.aggregate_type, how))

    @precondition(lambda self: self.appended)
    @rule(
        which=st.integers(0, 1000),
        change=st.sampled_from(
            ["text", "tenant", "stream", "type", "class", "part", "more", "order", "twice"]
        ),
        how=expectations,
    )
    def append_almost_again(self, which: int, change: str, how: str) -> None:
        """Ids that are stored for something else, or for more or less."""
        events = changed(self.appended[which % len(self.appended)], change)
        first = events[0]
        self.append(events, self.expected(first.aggregate_id, first.aggregate_type, how))

    @rule(stream=ids, aggregate_type=some_type, tenant=tenants, behind=st.integers(0, 6))
    def read_a_stream(
        self, stream: UUID, aggregate_type: str | None, tenant: UUID | None, behind: int
    ) -> None:
        async def rows(store: EventStore) -> Any:
            found = store.read_stream(stream, aggregate_type, behind, tenant_id=tenant)
            return await contents(found)

        async def events(store: EventStore) -> Any:
            found = await store.get_events(stream, aggregate_type, behind, tenant_id=tenant)
            return found.events, found.version, found.aggregate_id, found.aggregate_type

        async def version(store: EventStore) -> Any:
            return await store.get_stream_version(stream, aggregate_type, tenant_id=tenant)

        for call in (rows, events, version):
            self.same(call)

    @rule(
        begin=st.integers(0, 12),
        tenant=tenants,
        limit=st.sampled_from([None, 0, 1, 2, 7]),
    )
    def read_the_feed(self, begin: int, tenant: UUID | None, limit: int | None) -> None:
        async def call(store: EventStore) -> Any:
            # Positions differ, since a refused append has drawn some; their order does not.
            positions = [0] + [row.global_position async for row in store.read_all()]
            after = positions[min(begin, len(positions) - 1)]
            found = store.read_all(after, tenant_id=tenant, limit=limit)
            return await contents(found)

        self.same(call)

    @rule(which=st.integers(0, 1000), tenant=tenants, known=st.booleans())
    def look_for_an_event(self, which: int, tenant: UUID | None, known: bool) -> None:
        event_id = uuid4()
        if known and self.appended:
            event_id = self.appended[which % len(self.appended)][-1].event_id

        async def call(store: EventStore) -> Any:
            return await store.event_exists(event_id, tenant_id=tenant)

        self.same(call)

    @rule()
    def look_at_the_head(self) -> None:
        async def call(store: EventStore) -> Any:
            head = await store.get_global_position()
            last = max([row.global_position async for row in store.read_all()], default=0)
            return last <= head, await contents(store.read_all(head))

        self.same(call)


async def answer(call: Call, store: EventStore) -> tuple[str, Any]:
    """What a call returns or raises, in terms in which two stores compare."""
    try:
        return "answer", await call(store)
    except OptimisticLockError as error:
        return "conflict", (error.expected_version, error.actual_version)
    except (EventIdTakenError, StreamTenantError, ValueError) as error:
        return type(error).__name__, str(error)


async def contents(rows: AsyncIterator[StoredEvent]) -> list[Any]:
    """Rows in order, without what is each store's own."""
    found = [row async for row in rows]
    assert all(a.global_position < b.global_position for a, b in pairwise(found))
    return [
        (
            row.event_id, row.event_type, row.aggregate_id, row.aggregate_type, row.tenant_id,
            row.version, row.timestamp, row.actor_id, row.payload, row.metadata,
        )
        for row in found
    ]  # fmt: skip


def changed(events: list[DomainEvent], change: str) -> list[DomainEvent]:
    """Almost the same events, under the same ids."""
    first, *others = events
    other_stream = IDS[(IDS.index(first.aggregate_id) + 1) % len(IDS)]
    other_type = TYPES[1 - TYPES.index(first.aggregate_type)]
    other_tenant = TENANTS[(TENANTS.index(first.tenant_id) + 1) % len(TENANTS)]
    match change:
        case "text":
            return [first.model_copy(update={"text": first.text + "!"}), *others]  # type: ignore[attr-defined]
        case "tenant":
            return [event.model_copy(update={"tenant_id": other_tenant}) for event in events]
        case "stream":
            return [event.model_copy(update={"aggregate_id": other_stream}) for event in events]
        case "type":
            return [event.model_copy(update={"aggregate_type": other_type}) for event in events]
        case "class":
            fields = first.model_dump(exclude={"event_type"})
            return [HappenedOtherwise(**fields), *others]
        case "part":
            return events[-1:]
        case "more":
            return [*events, first.model_copy(update={"event_id": uuid4()})]
        case "order":
            return events[::-1]
    return [first, *events]


@pytest.fixture
def two_stores(source_cluster: Cluster) -> Iterator[type[TwoStores]]:
    with asyncio.Runner() as runner:
        dsn = runner.run(source_cluster.create_database())

        async def open_store() -> PostgreSQLEventStore:
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
            store = PostgreSQLEventStore(pool)
            await store.create_schema()
            return store

        TwoStores.runner, TwoStores.stored = runner, runner.run(open_store())
        yield TwoStores
        TwoStores.stored.pool.terminate()


def test_any_calls_in_any_order_get_the_same_answers(two_stores: type[TwoStores]) -> None:
    run_state_machine_as_test(
        two_stores,
        settings=settings(
            max_examples=SEQUENCES or 30,
            stateful_step_count=30,
            derandomize=not SEQUENCES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
