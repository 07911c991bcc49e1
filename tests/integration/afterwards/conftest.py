"""What the tests of what comes after a move share."""

from __future__ import annotations

import pytest

from tests.support.application import Process
from tests.support.worlds.three_databases import World


@pytest.fixture
async def keeper(world: World) -> Process:
    """A process whose migrations keep a way back."""
    return await world.process(keep_way_back="1h", lease_seconds=1.0)
