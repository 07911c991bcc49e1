"""The progress row: only the driver that it names moves it on."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource.migration import Migration
from eventsource.migration.connections.driver_connections import DriverConnections
from eventsource.migration.errors import LeaseLostError
from eventsource.migration.event_table import EventTable, OwnTable
from eventsource.migration.steps import preparation
from eventsource.migration.steps.passes import Prepared
from eventsource.migration.tables import progress
from eventsource.migration.tables.progress import CopyProgress
from eventsource.migration.tables.witnesses import Witness
from tests.support.worlds.three_databases import World


async def paused(world: World) -> tuple[OwnTable, CopyProgress]:
    """The progress row of a migration that nobody drives, and where it is."""
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.reach(migration, "paused")
    target = EventTable(world.target, await world.here.target.address())
    at = await progress.read(target, migration.id)
    assert at is not None
    return target, at


async def test_a_driver_that_lost_the_migration_begins_and_completes_no_pass(
    world: World,
) -> None:
    await world.seed(10)
    target, at = await paused(world)
    before = await world.fingerprint()
    with pytest.raises(LeaseLostError):
        await progress.begin_pass(
            target, at, owner=uuid4(), snapshot=None, witness=Witness(at.pass_number + 1, uuid4())
        )
    with pytest.raises(LeaseLostError):
        await progress.complete_pass(target, at, uuid4())
    assert await world.fingerprint() == before


async def test_a_bulk_copy_that_was_not_read_back_to_its_end_is_not_complete(world: World) -> None:
    await world.seed(10)
    target, at = await paused(world)
    await world.target.execute(
        "update eventsource_copy_progress set pass_number = 1, staged = false, last_position = 9,"
        " proven_position = 8, snapshot = '3:3:', proven_snapshot = null"
    )
    found = await progress.read(target, at.migration_id)
    assert found is not None
    with pytest.raises(LeaseLostError):
        await progress.complete_pass(target, found, found.owner)
    await world.target.execute("update eventsource_copy_progress set proven_position = 9")
    done = await progress.complete_pass(target, found, found.owner)
    assert done.proven_snapshot == "3:3:"


async def test_a_pass_that_another_driver_has_begun_meanwhile_is_left_alone(world: World) -> None:
    """The number is compared as well: the owner is the same after a driver has lost its answer."""
    await world.seed(10)
    target, at = await paused(world)
    begun = await progress.begin_pass(
        target, at, owner=at.owner, snapshot=None, witness=Witness(at.pass_number + 1, uuid4())
    )
    assert begun.pass_number == at.pass_number + 1
    before = await world.fingerprint()
    with pytest.raises(LeaseLostError):
        await progress.begin_pass(
            target, at, owner=at.owner, snapshot=None, witness=Witness(at.pass_number + 1, uuid4())
        )
    assert await world.fingerprint() == before


async def test_only_who_has_made_the_row_goes_without_claiming_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sessions of the driver before are ended then, and of the first there can be none."""
    await world.seed(5)
    prepare, one_that_is_gone = preparation.prepare, uuid4()
    found: list[tuple[UUID, bool]] = []

    async def by_two(
        connections: DriverConnections, migration: Migration, owner: UUID, *more: Any
    ) -> Prepared:
        for each in (one_that_is_gone, owner):
            prepared = await prepare(connections, migration, each, *more)
            assert prepared.at.owner == each
            found.append((each, prepared.is_first))
        return prepared

    monkeypatch.setattr(preparation, "prepare", by_two)
    await world.dual_write()
    (first, next_one) = found
    assert first == (one_that_is_gone, True)
    assert not next_one[1]
