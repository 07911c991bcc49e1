"""What the tests of the control plane share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from world import World, make_world


@pytest.fixture
async def world(source_dsn: str, target_dsn: str, control_dsn: str) -> AsyncIterator[World]:
    """Three fresh databases with stores and control tables, and one process."""
    made = await make_world({"source": source_dsn, "target": target_dsn, "control": control_dsn})
    yield made
    await made.close()
