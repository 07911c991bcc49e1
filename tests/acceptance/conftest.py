"""A world in which tenants move, and three servers that a test may crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from eventsource.testing import Cluster
from tests.support.worlds.behind_proxies import FaultyWorld, behind_proxies, three_servers
from tests.support.worlds.two_servers import World, two_servers


@pytest.fixture
async def world(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path
) -> AsyncIterator[World]:
    """Stores on the two servers of the session, and a process that may move tenants."""
    async with two_servers(source_dsn, target_dsn, control_dsn, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def fragile_servers() -> Iterator[dict[str, Cluster]]:
    """Shared by all tests that ask for them; one that leaves a server down finds it up again."""
    with three_servers() as started:
        yield started


@pytest.fixture
async def faulty(fragile_servers: dict[str, Cluster], tmp_path: Path) -> AsyncIterator[FaultyWorld]:
    async with behind_proxies(fragile_servers, tmp_path) as opened:
        yield opened
