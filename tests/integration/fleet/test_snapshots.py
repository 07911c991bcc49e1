"""What the page shows goes on after whatever the control database refuses for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from eventsource.web import snapshots as module
from eventsource.web.snapshots import Snapshots
from tests.support.fleet import waves_in
from tests.support.worlds.three_databases import World


async def test_who_looks_on_sees_what_is_wrong_and_what_comes_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once nothing came any more until somebody else opened the page."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    seen = Snapshots(waves_in(world), world.coordinator.get_sync_lag)
    looking: Any = seen.follow()
    assert await _trouble(looking) is None
    await world.control.execute("alter table migration_waves rename to away")
    try:
        while (said := await _trouble(looking)) is None:
            pass
        assert "migration_waves" in said
    finally:
        await world.control.execute("alter table away rename to migration_waves")
    while await _trouble(looking) is not None:
        pass
    await looking.aclose()
    await seen.close()


async def _trouble(looking: AsyncIterator[dict[str, Any]]) -> Any:
    return (await asyncio.wait_for(anext(looking), 10))["trouble"]
