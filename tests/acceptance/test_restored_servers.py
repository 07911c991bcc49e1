"""A database goes back in time under a move: nothing that any store still holds is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from eventsource.migration import MigrationState, StoreGoneBackError
from eventsource.testing import Cluster
from tests.support.worlds.restorable import RestorableWorld, open_restorable, three_volumes


@pytest.fixture(scope="module")
def volumes() -> Iterator[dict[str, Cluster]]:
    with three_volumes() as servers:
        yield servers


@pytest.fixture
async def it(volumes: dict[str, Cluster]) -> AsyncIterator[RestorableWorld]:
    opened = await open_restorable(volumes)
    yield opened
    await opened.world.close()


@pytest.mark.parametrize("state", ["bulk_copy", "dual_write", "paused"])
async def test_an_abort_does_not_delete_what_an_open_target_has_acknowledged(
    it: RestorableWorld, state: str
) -> None:
    world = it.world
    await world.seed(300)
    migration = await world.dual_write()
    if state == "paused":
        await world.coordinator.pause_migration(migration.id)
    copies = await it.snapshot("source", "control")
    if state == "bulk_copy":
        await world.control.execute("update tenant_migrations set state = 'bulk_copy'")
    if state == "paused":
        await world.coordinator.resume_migration(migration.id)
    await world.coordinator.initiate_cutover(migration.id)
    acknowledged = await it.append(6)

    await it.restore(copies)
    assert (await it.fence("source"), await it.fence("target")) == (
        ("source", "open"),
        ("target", "open"),
    )
    before = await world.rows("target")
    with pytest.raises(StoreGoneBackError, match="was opened at the target"):
        await world.coordinator.abort_migration(migration.id)
    assert await world.rows("target") == before
    assert set(acknowledged) <= await it.held()
    # Nothing was changed: neither fence, nor the journal's state.
    assert await it.fence("source") == ("source", "open")
    assert await it.fence("target") == ("target", "open")
    found = await world.here.migrations.get(migration.id)
    assert found.state in (MigrationState.DUAL_WRITE, MigrationState.PAUSED)
    assert found.error_code == "store_gone_back"
    assert "delete" not in (found.error_message or "")
