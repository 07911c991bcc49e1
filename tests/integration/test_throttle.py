"""The throttle spares the servers during the copy, and never lengthens the pause of the writers."""

from __future__ import annotations

import pytest
from world import World

from eventsource.migration.passes import Passes

RATE = 10.0
LATE = 12


async def test_the_last_pass_is_not_throttled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the rate of the copy, the events that are left would hold the writers for over a second.
    prepare_last = Passes.prepare_last

    async def with_late_events(passes: Passes) -> None:
        await world.seed(LATE)
        await prepare_last(passes)

    monkeypatch.setattr(Passes, "prepare_last", with_late_events)
    process = await world.process(
        max_events_per_second=RATE, mirror_writes=False, cutover_timeout_seconds=5.0
    )
    await world.seed(3)
    migration = await world.dual_write(process=process)
    migration = await process.coordinator.initiate_cutover(migration.id, force=True)
    assert migration.cutover_pause_ms is not None
    assert migration.cutover_pause_ms < 1000 * LATE / RATE / 2
    assert len(await world.ids("target")) == 3 + LATE
