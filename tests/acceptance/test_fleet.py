"""A wave of tenants on several machines that fail, judged from outside.

The large one is `make fleet`: 200 tenants of up to 100,000 events to three servers, twenty of them
written to; `FLEET_TENANTS` and `FLEET_LARGEST` make it smaller.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from eventsource.fleet import Outcome, WaveState
from eventsource.fleet.queue import SCHEMA
from eventsource.testing import Cluster, WriterProcess
from tests.support.fleet_worker import FleetWorker
from tests.support.waiting import until
from tests.support.worlds.fleet import SHARED, FleetWorld, fleet_world, sizes
from tests.support.worlds.two_servers import all_attempts, writing

#: How large the large one is.
TENANTS = int(os.environ.get("FLEET_TENANTS", "200"))
LARGEST = int(os.environ.get("FLEET_LARGEST", "100000"))


@pytest.mark.thorough
@pytest.mark.timeout(400)
async def test_a_wave_comes_to_its_end_although_a_worker_is_killed(
    source_cluster: Cluster, target_cluster: Cluster, tmp_path: Path
) -> None:
    """Twelve tenants to two stores of one server; one differs, one is refused, two are written to,
    each is dispatched twice, and the queue's tables are dropped in the middle."""
    dsns = {
        SHARED: await source_cluster.create_database(),
        "large": await target_cluster.create_database(),
        "small": await target_cluster.create_database(),
    }
    control = await source_cluster.create_database()
    groups = {"large": "db2", "small": "db2"}
    async with fleet_world(tmp_path, dsns, control, groups=groups, at_once=3) as world:
        await world.seed(sizes(12, 3_000))
        await _play(world, workers=2, writers=2, pause=0.0, drop=True, twice=True)


@pytest.mark.fleet
@pytest.mark.alone
@pytest.mark.timeout(5400)
async def test_two_hundred_tenants_move_from_one_server_to_three(tmp_path: Path) -> None:
    """Three workers, one of them killed, one frozen for a minute; the control database restarts."""
    with contextlib.ExitStack() as stack:
        clusters = {
            name: stack.enter_context(Cluster.start(16 if name in (SHARED, "control") else 18))
            for name in ("control", SHARED, "one", "two", "three")
        }
        dsns = {name: await each.create_database() for name, each in clusters.items()}
        control = dsns.pop("control")
        async with fleet_world(tmp_path, dsns, control, at_once=2) as world:
            counts = sizes(TENANTS, LARGEST)
            await world.seed(random.Random(7).sample(counts, len(counts)))
            await _play(
                world,
                workers=3,
                writers=min(20, TENANTS // 6),
                pause=60.0,
                restart=clusters["control"],
                drop=True,
            )


@pytest.mark.thorough
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("servers", "connections"), [(3, 60), (1, 100)])
async def test_a_wave_takes_no_connection_from_an_application(
    tmp_path: Path, servers: int, connections: int
) -> None:
    """Two workers that would move twelve tenants at once, on servers that have not as much room."""
    with contextlib.ExitStack() as stack:
        clusters = [
            stack.enter_context(Cluster.start(16, {"max_connections": connections}))
            for _ in range(servers)
        ]
        places = itertools.cycle(clusters)
        dsns = {name: await next(places).create_database() for name in (SHARED, "one", "control")}
        control = dsns.pop("control")
        async with fleet_world(tmp_path, dsns, control, at_once=12) as world:
            await world.seed(sizes(40, 2_000))
            async with world.watched() as seen:
                await world.wave("night")
                for number in range(2):
                    name = f"worker-{number}"
                    words = ("--at-once", "8", "--until-done")
                    stack.enter_context(FleetWorker(world.config, name, *words))
                await until(lambda: _is(world, WaveState.DONE), "the end of the wave", 600)
            items = await world.waves.items(await world.waves.get("night"))
            assert [each for each in items if each.outcome is not Outcome.MOVED] == []
            for tenant in world.events:
                await world.check(tenant, [])
        print(f"\n{seen}")
        assert seen.refused == []


async def _play(
    world: FleetWorld,
    *,
    workers: int,
    writers: int,
    pause: float,
    drop: bool = False,
    twice: bool = False,
    restart: Cluster | None = None,
) -> None:
    tenants = list(world.events)
    differing, refused, *written = _chosen(world, writers)
    await world.fill_the_target(refused)
    async with contextlib.AsyncExitStack() as stack:
        seen = await stack.enter_async_context(world.watched())
        writing_to = stack.enter_context(writing([world.writer("writer", written, tasks=4)]))
        started = time.monotonic()
        changing = asyncio.create_task(world.make_differ(differing))
        await world.wave("night", attempts=1000, stop_after=1000)
        running = [
            stack.enter_context(FleetWorker(world.config, f"worker-{number}"))
            for number in range(workers)
        ]
        if twice:
            await world.dispatch_again("night")
        await until(lambda: _moved(world, len(tenants) // 6), "the first tenants", 600)
        running[0].kill()
        if pause:
            running[1].freeze()
            await asyncio.sleep(pause)
            running[1].thaw()
        await asyncio.wait_for(changing, 900)
        await _stopped_and_resumed(world)
        if restart is not None:
            await asyncio.to_thread(restart.restart)
        if drop:
            await world.control.execute(f"drop schema {SCHEMA} cascade")
        await until(lambda: _is(world, WaveState.DONE), "the end of the wave", 3600)
        took = time.monotonic() - started
        await _all_but_two_have_moved(world, differing, refused)
        for worker in running[1:]:
            assert worker.stop(60) == 0, worker.output()
            assert "Traceback" not in worker.output(), worker.output()
    print(f"\n{len(tenants)} tenants, {sum(world.events.values())} events in {took:.1f} s; {seen}")
    await _judge(world, writing_to, [t for t in tenants if t not in (differing, refused)])
    assert seen.refused == []


def _chosen(world: FleetWorld, writers: int) -> list[UUID]:
    """One that will differ, one that is refused, and those that are written to: of middle size."""
    middle = [t for t, events in world.events.items() if 20 < events < 5_000]
    return random.Random(3).sample(middle, writers + 2)


async def _moved(world: FleetWorld, count: int) -> bool:
    return await world.moved() >= count


async def _is(world: FleetWorld, state: WaveState) -> bool:
    return await world.state("night") is state


async def _stopped_and_resumed(world: FleetWorld) -> None:
    await until(lambda: _is(world, WaveState.STOPPED), "the line to stop", 600)
    await asyncio.sleep(3.0)
    wave = await world.waves.get("night")
    assert wave.stopped_by == "the first failed proof"
    await world.waves.resume(wave, "ann")
    await world.no_cutover_began_while_it_was_stopped("night")


async def _all_but_two_have_moved(world: FleetWorld, differing: UUID, refused: UUID) -> None:
    wave = await world.waves.get("night")
    items = {each.tenant_id: each for each in await world.waves.items(wave)}
    assert items.pop(differing).outcome is Outcome.FAILED
    assert items.pop(refused).outcome is Outcome.REFUSED
    assert [each for each in items.values() if each.outcome is not Outcome.MOVED] == []
    for tenant in (differing, refused):
        assert await world.still_at_the_source(tenant)
    stops = [entry for entry in wave.history if entry["what"] == "stopped"]
    assert len(stops) == 1
    twice = await world.control.fetch(
        "select tenant_id from tenant_migrations group by 1 having count(*) > 1"
    )
    assert twice == []


async def _judge(
    world: FleetWorld, writers: Sequence[WriterProcess], moved: Sequence[UUID]
) -> None:
    attempts = all_attempts(writers)
    for tenant in moved:
        await world.check(tenant, [each for each in attempts if each.tenant_id == str(tenant)])
    # Two to each of three stores. The dead worker's two count until their leases run out, while
    # others take over what it had.
    for store, most in world.seen.most.items():
        assert most <= (8 if store == SHARED else 4), world.seen.most
