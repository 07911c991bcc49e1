"""A router is an event store: it keeps the contract of every store."""

from __future__ import annotations

import pytest

from eventsource.migration import TenantStoreRouter
from tests.support.store_contract import StoreContract
from tests.support.worlds.three_databases import World


class TestRouter(StoreContract):
    @pytest.fixture
    def store(self, world: World) -> TenantStoreRouter:
        return world.router
