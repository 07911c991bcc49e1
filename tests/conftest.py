"""Two servers for the whole session, fresh databases for every test that asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from eventsource.testing import Cluster

pytest_plugins = ["tests.support.side_by_side"]

# A failed assertion there shows what was compared, as one in a test does.
pytest.register_assert_rewrite("tests.support")


@pytest.fixture(scope="session")
def source_cluster() -> Iterator[Cluster]:
    """PostgreSQL 16: the shared server, which also holds the control database."""
    with Cluster.start(16) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def target_cluster() -> Iterator[Cluster]:
    """PostgreSQL 18: the dedicated server."""
    with Cluster.start(18) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def world_databases() -> dict[str, str]:
    """Those of the integration tests and the strangers: made by the first test that has
    a world, and emptied by each for itself.
    """
    return {}


async def _fresh_database(cluster: Cluster) -> AsyncIterator[str]:
    dsn = await cluster.create_database()
    yield dsn
    await cluster.drop_database(urlsplit(dsn).path.lstrip("/"))


@pytest.fixture
async def source_dsn(source_cluster: Cluster) -> AsyncIterator[str]:
    """An empty database on the source server, dropped after the test."""
    async for dsn in _fresh_database(source_cluster):
        yield dsn


@pytest.fixture
async def target_dsn(target_cluster: Cluster) -> AsyncIterator[str]:
    """An empty database on the target server, dropped after the test."""
    async for dsn in _fresh_database(target_cluster):
        yield dsn


@pytest.fixture
async def control_dsn(source_cluster: Cluster) -> AsyncIterator[str]:
    """An empty database on the source server for the control tables, dropped after the test."""
    async for dsn in _fresh_database(source_cluster):
        yield dsn
