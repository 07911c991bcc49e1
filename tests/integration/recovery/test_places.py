"""Stores that have become other places, or are gone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventsource.migration import (
    ConsistencyError,
    ConsistencyVerifier,
    InvalidStateTransitionError,
    Migration,
    MigrationError,
    MigrationState,
    RepairNeededError,
    RoutingError,
    StoreGoneBackError,
    StoreMismatchError,
)
from eventsource.migration.routing import arrival
from eventsource.migration.tables import fences
from tests.support.application import SOURCE, TARGET
from tests.support.gone_back import home_loses
from tests.support.refusals import refusal
from tests.support.there_and_back import appended, moved
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, insert, table

_OTHER = {"system": "7000000000000000001"}


async def elsewhere(world: World, side: str, *, dumped: bool) -> None:
    """The store is on another server now; ``dumped`` is whether its rows have new headers."""
    await world.control.execute(
        f"update tenant_migrations set {side}_identity = {side}_identity || $1::text::jsonb",
        json.dumps(_OTHER),
    )
    if dumped:
        connection = getattr(world, side)
        await connection.execute("update eventsource_witnesses set passed_at = now()")


async def paused(world: World) -> Migration:
    await world.seed(40)
    migration = await world.dual_write()
    return await world.coordinator.pause_migration(migration.id)


@pytest.mark.parametrize("side", ["source", "target"])
async def test_an_upgraded_server_is_the_same_place(world: World, side: str) -> None:
    migration = await paused(world)
    await elsewhere(world, side, dumped=False)
    await world.coordinator.resume_migration(migration.id)
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("legs", [0, 1, 2])
async def test_an_upgrade_closes_no_way_back(world: World, legs: int, side: str) -> None:
    """That of the store which was left did: `rebind` was the way out, and it keeps none."""
    keeper = await world.process(keep_way_back=3600.0)
    move = await moved(world, keeper)
    for _ in range(legs):
        move = await keeper.coordinator.return_migration(move.id)
    await elsewhere(world, side, dumped=False)
    await appended(keeper, world.tenant)
    back = await keeper.coordinator.return_migration(move.id)
    assert back.state is MigrationState.MIGRATED
    assert set(await world.ids("source")) == set(await world.ids("target"))


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_dump_that_was_restored_has_to_be_bound(world: World, side: str) -> None:
    migration = await paused(world)
    await elsewhere(world, side, dumped=True)
    async with refusal(world, StoreMismatchError, "rebind", str(migration.id)):
        await world.coordinator.resume_migration(migration.id)
    async with refusal(world, StoreMismatchError, "Nothing was changed"):
        await world.coordinator.abort_migration(migration.id)
    store = SOURCE if side == "source" else TARGET
    bound = await world.coordinator.rebind_migration(migration.id, store, operator="ann")
    assert bound.state is MigrationState.PAUSED
    await world.coordinator.resume_migration(migration.id)
    done = await world.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)


@pytest.mark.parametrize("copied", ["whole", "half"])
async def test_a_source_that_no_snapshot_would_show_is_not_followed(
    world: World, copied: str
) -> None:
    """A dump in a younger cluster: everything was taken out of the target, and was to be carried
    again under the fence, which no budget was enough for."""
    migration = await paused(world)
    if copied == "half":
        await world.target.execute("update eventsource_copy_progress set proven_snapshot = null")
    late = await insert(world.source, world.tenant)
    await elsewhere(world, "source", dumped=True)
    await world.source.execute(
        f"alter table {table('source')} disable trigger user;"
        f" update {table('source')} set transaction_id = '9000000000';"
        f" alter table {table('source')} enable trigger user;"
        f" select eventsource_guard_renew('{table('source')}'::regclass)"
    )
    carried = await world.ids("target")
    with pytest.raises(RepairNeededError, match="it was restored from a dump") as refused:
        await world.coordinator.rebind_migration(migration.id, SOURCE)
    assert f"eventsource-migrate abort {migration.id}" in str(refused.value)
    await world.coordinator.repair()
    assert await world.ids("target") == carried
    ended = await world.coordinator.abort_migration(migration.id)
    assert ended.state is MigrationState.ROLLED_BACK
    said = str(refused.value)
    await world.source.execute(said[said.index("alter table") : said.index("), and start again")])
    await world.assert_moved(await world.migrate())
    assert late["event_id"] in await world.ids("target")


async def test_a_target_that_was_bound_is_compared_whole(world: World) -> None:
    migration = await paused(world)
    await elsewhere(world, "target", dumped=True)
    await world.target.execute(
        f"select set_config('eventsource.migration', '{migration.id}', false);"
        f" update {table('target')} set actor_id = 'nobody' where global_position = 3"
    )
    bound = await world.coordinator.rebind_migration(migration.id, TARGET)
    assert bound.config.verification_level == "full"
    await world.coordinator.resume_migration(migration.id)
    with pytest.raises(ConsistencyError):
        await world.coordinator.initiate_cutover(migration.id)


async def test_only_a_paused_migration_is_bound_and_only_to_what_knows_it(world: World) -> None:
    await world.seed(5)
    migration = await world.dual_write()
    with pytest.raises(InvalidStateTransitionError, match="pause it first"):
        await world.coordinator.rebind_migration(migration.id, TARGET)
    await world.coordinator.pause_migration(migration.id)
    async with refusal(world, RoutingError, "neither"):
        await world.coordinator.rebind_migration(migration.id, "elsewhere")
    before = await world.fingerprint()
    await world.coordinator.rebind_migration(migration.id, TARGET)  # it is where it was
    assert await world.fingerprint() == before
    await elsewhere(world, "target", dumped=True)
    await world.target.execute("delete from eventsource_fences")
    async with refusal(world, StoreMismatchError, "holds nothing of migration", "--without-target"):
        await world.coordinator.rebind_migration(migration.id, TARGET)
    await elsewhere(world, "source", dumped=True)
    await world.source.execute("delete from eventsource_witnesses")
    async with refusal(world, StoreMismatchError, "holds nothing of migration"):
        await world.coordinator.rebind_migration(migration.id, SOURCE)


@pytest.mark.parametrize("state", ["bulk_copy", "dual_write"])
async def test_a_migration_ends_without_its_target(world: World, state: str) -> None:
    await world.seed(20)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    if state == "bulk_copy":
        await world.control.execute("update tenant_migrations set paused_from = 'bulk_copy'")
    async with refusal(world, MigrationError, "answers and has the fence"):
        await world.coordinator.abort_migration(migration.id, without_target=True)
    await world.target.execute("drop schema public cascade; create schema public")
    ended = await world.coordinator.abort_migration(
        migration.id, without_target=True, reason="the server is gone"
    )
    assert ended.state is MigrationState.ROLLED_BACK
    assert await world.source.fetchval("select count(*) from eventsource_fences") == 0
    assert await world.source.fetchval("select count(*) from eventsource_witnesses") == 0
    assert await world.control.fetchval("select count(*) from migration_position_mappings") == 0
    await world.source.execute("update events set actor_id = 'x'")
    await world.here.append(world.tenant)
    await world.here.target.create_schema()
    await world.assert_moved(await world.migrate())


async def test_no_migration_ends_without_its_target_once_that_may_hold_more(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.target.execute("delete from eventsource_fences")
    await world.source.execute("update eventsource_witnesses set passed_at = now()")
    with pytest.raises(StoreGoneBackError, match="Nothing was changed"):
        await world.coordinator.abort_migration(migration.id, without_target=True)
    assert await world.source.fetchval("select state from eventsource_fences") == "open"
    await world.source.execute("delete from eventsource_witnesses")
    await world.source.execute(
        "update eventsource_fences set state = 'moved', generation = 1, source_head = 10"
    )
    with pytest.raises(InvalidStateTransitionError, match="decided"):
        await world.coordinator.abort_migration(migration.id, without_target=True)
    assert await world.source.fetchval("select state from eventsource_fences") == "moved"


async def test_no_migration_ends_without_its_target_where_its_barriers_are_gone(
    world: World,
) -> None:
    """The source has gone back to before the first of them: once that was as good as one there."""
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.target.execute("delete from eventsource_fences")
    await world.source.execute("delete from eventsource_witnesses")
    with pytest.raises(StoreGoneBackError, match="Nothing was changed"):
        await world.coordinator.abort_migration(migration.id, without_target=True)
    assert await world.source.fetchval("select state from eventsource_fences") == "open"


@pytest.mark.parametrize("gone_back", ["no fence", "closed", "an earlier generation"])
async def test_a_router_notices_that_its_store_has_gone_back(
    world: World, gone_back: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "BELIEVED_SECONDS", 0.2)
    await world.seed(5)
    await world.migrate()
    router = world.router
    await world.here.append(world.tenant)
    if gone_back == "no fence":
        await world.target.execute("delete from eventsource_fences")
    elif gone_back == "closed":
        await world.target.execute(
            "update eventsource_fences set state = 'closed', generation = 0;"
            " update eventsource_copy_progress set pass_rows = -1"
        )
        monkeypatch.setattr("eventsource.migration.routing.router.OPENING_PATIENCE", 1.0)
    else:
        await world.target.execute("update eventsource_fences set generation = 0")
    before = await world.ids("target")

    async def refuses() -> bool:
        try:
            await router.get_events(world.tenant, "Note", tenant_id=world.tenant)
        except RoutingError:
            return True
        return False

    await until(refuses, "a read that is refused")
    with pytest.raises(RoutingError):
        await world.here.append(world.tenant)
    assert await world.ids("target") == before


async def test_a_router_asks_once_for_all_of_its_tenants(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "BELIEVED_SECONDS", 0.3)
    tenants = [world.tenant, world.other]
    for tenant in tenants:
        await world.seed(2, tenant)
        await world.migrate(tenant)
        await world.here.append(tenant)
    asked: list[int] = []
    of_tenants = fences.of_tenants

    async def counted(table: Any, ids: Any) -> Any:
        asked.append(len(ids))
        return await of_tenants(table, ids)

    monkeypatch.setattr(fences, "of_tenants", counted)

    async def again() -> bool:
        for tenant in tenants:
            await world.here.append(tenant)
        return bool(asked)

    await until(again, "another look")
    assert asked[0] >= 2
    assert len(asked) == 1


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_verifier_of_another_place_is_refused(world: World, side: str) -> None:
    await world.seed(5)
    await world.migrate()
    peer = "target" if side == "source" else "source"
    await getattr(world, peer).execute(
        "update eventsource_fences set peer = peer || $1::text::jsonb", json.dumps(_OTHER)
    )
    # As in another database, there is no fence of the migration: only the other side's is.
    verifier = ConsistencyVerifier(world.here.source, world.here.target)
    if side == "target":
        assert (await verifier.verify_tenant_consistency(world.tenant)).is_consistent
        return
    await world.source.execute("delete from eventsource_fences")
    await insert(world.source, world.other)
    with pytest.raises(StoreMismatchError, match="names"):
        await verifier.verify_tenant_consistency(world.tenant)


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_finished_move_is_bound_to_a_restored_dump_and_keeps_no_way_back(
    world: World, side: str
) -> None:
    keeper = await world.process(keep_way_back="1h", lease_seconds=1.0)
    migration = await moved(world, keeper)
    await appended(keeper, world.tenant)
    await keeper.coordinator._drivers._follower.turn()
    lost = (await world.ids("target"))[-3:]
    await elsewhere(world, side, dumped=True)
    if side == "target":
        # The dump was made before the last appends.
        await home_loses(world, lost)
    for ask in (keeper.coordinator.return_migration, keeper.coordinator.cleanup):
        with pytest.raises(MigrationError):
            await ask(migration.id)
    store = SOURCE if side == "source" else TARGET
    bound = await keeper.coordinator.rebind_migration(migration.id, store, operator="ann")
    assert bound.state is MigrationState.MIGRATED
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.shown, way.reason) == ("closed", f"store {store!r} has become another place")
    assert set(lost) <= set(await world.ids("target"))
    report = await keeper.coordinator.repair()
    assert (report.changes, report.notes) == ((), ())
    found = await keeper.coordinator.cleanup(migration.id, backed_up=True)
    assert found.deleted == 20 + 12 - (3 if side == "target" else 0)
    await keeper.append(world.tenant)


async def test_a_finished_move_is_bound_only_to_what_knows_it(world: World) -> None:
    await world.seed(5)
    migration = await world.migrate()
    await elsewhere(world, "source", dumped=True)
    await world.source.execute("delete from eventsource_fences")
    async with refusal(world, StoreMismatchError, "does not say here", "repair"):
        await world.coordinator.rebind_migration(migration.id, SOURCE)
