"""Three servers that a test may crash; started by the first test that wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from faulty_world import FaultyWorld, faulty_world, three_servers

from eventsource.testing import Cluster


@pytest.fixture(scope="session")
def fragile_servers() -> Iterator[dict[str, Cluster]]:
    """Shared by all tests that ask for them; one that leaves a server down finds it up again."""
    with three_servers() as started:
        yield started


@pytest.fixture
async def faulty(fragile_servers: dict[str, Cluster], tmp_path: Path) -> AsyncIterator[FaultyWorld]:
    async with faulty_world(fragile_servers, tmp_path) as opened:
        yield opened
