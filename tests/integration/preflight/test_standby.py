"""Standbys: refused, on every side; and a failover in the middle of a move."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError
from eventsource.testing import Cluster
from eventsource.testing.proxy import Proxy
from tests.support.refusals import elsewhere, refusal
from tests.support.standby import standby_of
from tests.support.waiting import until
from tests.support.worlds.three_databases import World, table


def at(server: Cluster, dsn: str) -> str:
    """The same database of another server."""
    return server.dsn(dsn.rpartition("/")[2])


INFRA = pytest.mark.infra


@pytest.mark.parametrize(
    "side",
    ["source", pytest.param("target", marks=INFRA), pytest.param("control", marks=INFRA)],
)
async def test_a_standby_takes_no_part(
    world: World, source_cluster: Cluster, target_cluster: Cluster, side: str
) -> None:
    await world.seed(5)
    primary = target_cluster if side == "target" else source_cluster
    with standby_of(primary) as standby:
        await standby.caught_up(primary)
        process = await world.process(**elsewhere(world, side, lambda dsn: at(standby, dsn)))
        async with refusal(world, PreflightError, side, "standby", "connect to the primary"):
            await process.start(world.tenant)
        await process.stop()


@pytest.mark.parametrize("state", [pytest.param("bulk_copy", marks=INFRA), "dual_write"])
async def test_a_source_that_failed_over_and_lost_nothing_is_moved_on(
    world: World, source_cluster: Cluster, state: str
) -> None:
    """Another timeline of the same history."""
    await world.seed(300)
    async with Proxy(world.dsns["source"]) as proxy:
        slow: dict[str, Any] = {}
        if state == "bulk_copy":
            slow = {"batch_size": 1, "max_events_per_second": 60.0}
        process = await world.process(**elsewhere(world, "source", proxy.through), **slow)
        migration = await process.start(world.tenant)
        await world.reach(migration, state)
        with standby_of(source_cluster) as standby:
            await standby.caught_up(source_cluster)
            standby.promote()
            proxy.redirect(at(standby, world.dsns["source"]))
            proxy.cut()
            # The barrier is there, and every event that the target has: what was copied counts.
            await world.reach(migration, "dual_write")
            await process.append(world.tenant)
            done = await process.coordinator.initiate_cutover(migration.id)
            assert done.state is MigrationState.MIGRATED
            promoted = await asyncpg.connect(at(standby, world.dsns["source"]))
            events = f"select event_id from {{}} where tenant_id = '{world.tenant}' order by 1"
            here = await promoted.fetch(events.format(table("source")))
            assert await world.target.fetch(events.format(table("target"))) == here
            assert len(here) == 301
            await promoted.close()
            await process.stop()


@pytest.mark.parametrize("state", [pytest.param("bulk_copy", marks=INFRA), "dual_write"])
@pytest.mark.parametrize("side", ["source", "target"])
async def test_an_address_that_leads_to_a_standby_for_a_moment_is_waited_for(
    world: World, source_cluster: Cluster, target_cluster: Cluster, side: str, state: str
) -> None:
    """As while a name is changed over: a copy of hours is not thrown away for that."""
    await world.seed(300)
    primary = target_cluster if side == "target" else source_cluster
    async with Proxy(world.dsns[side]) as proxy:
        slow: dict[str, Any] = {}
        if state == "bulk_copy":
            slow = {"batch_size": 1, "max_events_per_second": 60.0}
        process = await world.process(**elsewhere(world, side, proxy.through), **slow)
        migration = await process.start(world.tenant)
        await world.reach(migration, state)
        with standby_of(primary) as standby:
            await standby.caught_up(primary)
            proxy.redirect(at(standby, world.dsns[side]))
            proxy.cut()

            async def noticed() -> bool:
                seen = await world.here.coordinator.get_migration(migration.id)
                assert seen.state.value == state, seen.error_message
                return "the server is a standby" in (seen.error_message or "")

            await until(noticed, "the driver to notice")
            proxy.redirect(world.dsns[side])
            proxy.cut()
        await world.reach(migration, "dual_write")
        done = await process.coordinator.initiate_cutover(migration.id)
        await world.assert_moved(done)
        await process.stop()
