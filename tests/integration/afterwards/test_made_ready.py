"""A way back while it is made: what is lost meanwhile costs the attempt, and not the way back."""

from __future__ import annotations

from typing import Any

import pytest

from eventsource import failpoints
from eventsource.migration.connections.driver_connections import DriverConnections
from eventsource.migration.errors import LeaseLostError, MigrationError
from eventsource.migration.steps import way_back
from tests.support.application import Process
from tests.support.there_and_back import appended, versions, whole
from tests.support.worlds.three_databases import World, insert

_OWN_SESSION = "select pg_backend_pid()"
_OTHER = {"source": "target", "target": "source"}


@pytest.mark.parametrize("whose", ["driver's", "trial's"])
@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_session_that_the_server_ends_while_it_is_made_does_not_cost_the_way_back(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch, side: str, whose: str
) -> None:
    await world.seed(20)
    migration = await world.dual_write(process=keeper)
    name = "_try_out" if whose == "driver's" else "catch_up"
    real, ended = getattr(way_back, name), list[int]()

    async def once(connections: DriverConnections, *arguments: Any) -> Any:
        if not ended:
            ended.append(await getattr(connections, side).connection.fetchval(_OWN_SESSION))
            # The trial goes in the other direction.
            at = side if whose == "driver's" else _OTHER[side]
            await getattr(world, at).execute("select pg_terminate_backend($1)", ended[0])
        return await real(connections, *arguments)

    monkeypatch.setattr(way_back, name, once)
    migration = await keeper.coordinator.initiate_cutover(migration.id)
    assert ended, "a session was ended"
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert way.is_open, way.reason
    await appended(keeper, world.tenant)
    back = await keeper.coordinator.return_migration(migration.id)
    assert back.state == "migrated"
    assert whole(await versions(world, "source"))


async def test_a_driver_that_has_lost_its_lease_meanwhile_makes_none(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row would be the newer one, and hide the way back of the driver that has it now."""
    await world.seed(20)
    migration = await world.dual_write(process=keeper)
    look, keep, lost = way_back.look, way_back.keep, list[LeaseLostError]()

    async def late(*arguments: Any, **more: Any) -> Any:
        if not lost:
            await world.control.execute(
                "update tenant_migrations set driver_owner = gen_random_uuid()"
            )
        return await look(*arguments, **more)

    async def watched(*arguments: Any) -> str | None:
        try:
            return await keep(*arguments)
        except LeaseLostError as error:
            lost.append(error)
            raise

    monkeypatch.setattr(way_back, "look", late)
    monkeypatch.setattr(way_back, "keep", watched)
    migration = await keeper.coordinator.initiate_cutover(migration.id)
    assert len(lost) == 1
    assert await world.control.fetchval("select array_agg(state) from tenant_ways_back") == [
        "standby"
    ]


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_trial_that_takes_too_long_costs_the_move_nothing(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    """It works on the driver's own sessions: what is cancelled there leaves them usable."""
    monkeypatch.setattr(way_back, "READY_SECONDS", 0.5)
    used = list[int]()

    async def slow(connections: DriverConnections, *_: Any) -> None:
        session = getattr(connections, side).connection
        used.append(await session.fetchval(_OWN_SESSION))
        await session.execute("begin; create temporary table unfinished (id int)")
        await session.execute("select pg_sleep(30)")

    monkeypatch.setattr(way_back, "catch_up", slow)
    await world.seed(20)
    migration = await world.dual_write(process=keeper)
    done = await keeper.coordinator.initiate_cutover(migration.id)
    await world.assert_moved(done)
    assert len(used) == 1
    way = await keeper.coordinator.way_back(migration.id)
    assert way is not None
    assert (way.is_open, way.reason) == (False, "it was not ready in time")


async def test_an_abort_removes_it_without_an_error_for_the_tenants_writers(
    world: World, keeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tenant lives where the way back would have led to, and is no guest there."""
    await world.seed(20)
    migration = await world.dual_write(process=keeper)
    kept, reach, appended_at = way_back.keep, failpoints.reach, list[str]()

    async def and_abort(*arguments: Any) -> Any:
        why_not = await kept(*arguments)
        await world.here.migrations.request_abort(migration.id, "changed our minds", "somebody")
        return why_not

    async def append_there(point: Any) -> None:
        # At others the table is locked, and that for this very moment.
        if point in ("abort.guard.committed", "close.retired.committed", "abort.rows.committed"):
            await insert(world.source, world.tenant)
            appended_at.append(point)
        await reach(point)

    monkeypatch.setattr(way_back, "keep", and_abort)
    monkeypatch.setattr(failpoints, "reach", append_there)
    with pytest.raises(MigrationError):
        await keeper.coordinator.initiate_cutover(migration.id)
    await world.reach(migration, "rolled_back")
    assert len(appended_at) == 3
    assert len(await world.ids("source")) == 20 + len(appended_at)
