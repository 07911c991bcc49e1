"""The PostgreSQL store keeps the contract of every store, on both majors and odd names."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from eventsource.stores import EventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.store_contract import StoreContract


class TestPostgreSQLEventStore(StoreContract):
    @pytest.fixture
    async def store(self, source_dsn: str) -> AsyncIterator[EventStore]:
        async with asyncpg.create_pool(source_dsn, min_size=1, max_size=8) as pool:
            store = PostgreSQLEventStore(pool)
            await store.create_schema()
            yield store


class TestOnTheNewerMajorUnderAnOddName(StoreContract):
    @pytest.fixture
    async def store(self, target_dsn: str) -> AsyncIterator[EventStore]:
        async with asyncpg.create_pool(target_dsn, min_size=1, max_size=8) as pool:
            await pool.execute('create schema "Odd ""schema"')
            store = PostgreSQLEventStore(pool, "événements.of-a", schema='Odd "schema')
            await store.create_schema()
            yield store
