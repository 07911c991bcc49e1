"""The databases of a test here, and the world with Marten's tables."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventsource.migration import background
from eventsource.migration.layouts.presets import presets
from tests.support import marten, partitioned
from tests.support.partitioned import LIST, Division, appending
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


@pytest.fixture
async def divided(
    request: pytest.FixtureRequest, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """Two stores with the tables of a division, and some rows of each tenant."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    division: Division = getattr(request, "param", LIST)
    async with layout_world(division.layout, division.make, dsns) as world:
        for tenant in partitioned.TENANTS:
            for number in range(30):
                await appending(division)(world.source, tenant, f"s{number % 4}")
        yield world
