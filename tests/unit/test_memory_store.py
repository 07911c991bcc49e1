"""The in-memory store keeps the contract of every store."""

from __future__ import annotations

import pytest

from eventsource.stores import EventStore
from eventsource.stores.memory import InMemoryEventStore
from tests.support.store_contract import StoreContract


class TestInMemoryEventStore(StoreContract):
    @pytest.fixture
    def store(self) -> EventStore:
        return InMemoryEventStore()
