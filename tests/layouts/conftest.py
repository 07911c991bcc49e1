"""The databases of a test here, and the world with Marten's tables."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventsource.migration import background
from eventsource.migration.layouts.presets import presets
from tests.support import marten
from tests.support.worlds.layouts import LayoutWorld, layout_world


@pytest.fixture
def dsns(source_dsn: str, target_dsn: str, control_dsn: str) -> dict[str, str]:
    return {"source": source_dsn, "target": target_dsn, "control": control_dsn}


@pytest.fixture
async def shop(dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LayoutWorld]:
    """Two stores with Marten's tables."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    async with layout_world(presets()["marten"], marten.make, dsns) as world:
        yield world
