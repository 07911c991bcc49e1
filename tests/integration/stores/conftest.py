"""A pool for a store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.store_tables import Pool


@pytest.fixture
async def pool(source_dsn: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=8) as pool:
        yield pool
