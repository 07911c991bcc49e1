"""Numbers that a target keeps free for those that the source still gives, and their end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from eventsource.migration import MigrationState, background
from tests.support.appending_libraries import RAILS
from tests.support.worlds.layouts import LayoutWorld, layout_world

#: So few that a test uses them up.
HEADROOM = 40


@pytest.fixture
async def shop(dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LayoutWorld]:
    """Rails Event Store: the links between events and streams have numbers of their own."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    layout = replace(RAILS.layout, headroom=HEADROOM)
    async with layout_world(layout, RAILS.make, dsns) as world:
        await append(world, "source", "acme", 5)
        await append(world, "target", "umbrella", 5)
        yield world


async def append(world: LayoutWorld, side: str, tenant: str, count: int) -> None:
    for _ in range(count):
        await RAILS.append(getattr(world, side), tenant, str(uuid4()))


async def test_what_the_target_keeps_free_is_never_exceeded(shop: LayoutWorld) -> None:
    """Other tenants of the target, and this one after the move, would be given the same numbers."""
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    # Two links an event: those are used up, and the numbers of the events are not.
    await append(shop, "source", "acme", HEADROOM * 2 // 3)
    failed = await shop.reaches(migration, MigrationState.FAILED)
    assert "in event_store_events_in_streams, and the target keeps numbers free up to 50" in str(
        failed.error_message
    )
    await append(shop, "target", "umbrella", 20)
    ended = await shop.coordinators[0].abort_migration(migration.id)
    assert ended.state is MigrationState.ROLLED_BACK
    # Begun again, it has a block of its own.
    await shop.move("acme")
    await append(shop, "target", "umbrella", 30)
    await append(shop, "target", "acme", 30)


async def test_they_suffice_for_what_they_are_kept_for(shop: LayoutWorld) -> None:
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await append(shop, "source", "acme", HEADROOM // 4)
    await append(shop, "target", "umbrella", 30)
    moved = await shop.coordinators[0].initiate_cutover(migration.id)
    assert moved.state is MigrationState.MIGRATED
    await append(shop, "target", "umbrella", 30)
    await append(shop, "target", "acme", 30)
