"""A process that moves a tenant of Marten dies: another one goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from eventsource.failpoints import ARMED_VARIABLE, DIRECTORY_VARIABLE
from eventsource.migration import MigrationState
from eventsource.migration.journaled.cutover import HELD_SECONDS
from tests.support import REPOSITORY, marten
from tests.support.fingerprint import fingerprint
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, rows

OFTEN = ["layout.chunk.written", "layout.exact.written", "cutover.decision.committed"]

EVERYWHERE = [
    "guard.target.row.committed",
    "guard.target.triggers.committed",
    "guard.target.reserved",
    "guard.source.row.committed",
    "guard.source.triggers.committed",
    "snapshot.barrier.committed",
    "snapshot.stored.committed",
    "layout.chunk.read",
    "layout.chunk.committed",
    "bulk.completed.committed",
    "layout.exact.read",
    "layout.exact.committed",
    "pass.completed.committed",
    "cutover.entered.committed",
    "cutover.pass.committed",
    "cutover.fence.held",
    "cutover.barrier.committed",
    "cutover.decision.before",
    "flip.target.committed",
    "layout.flip.committed",
    "flip.journal.committed",
]


def process(
    world: LayoutWorld, tenant: str, failpoints: str, *verb: str, reached: str = ""
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.layouts.moving_process", json.dumps(world.dsns), tenant,
            *verb,
        ],
        cwd=REPOSITORY, text=True, stderr=subprocess.PIPE,
        env={
            **os.environ, ARMED_VARIABLE: failpoints, DIRECTORY_VARIABLE: reached,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY / "python"),
                                                        os.environ.get("PYTHONPATH")))),
        },
    )  # fmt: skip


async def assert_moved(world: LayoutWorld, tenant: str, writers: marten.Writers) -> None:
    assert writers.errors == []
    # A start that died after it had kept numbers free begins after them.
    offset = await world.control.fetchval("select max(position_offset) from tenant_migrations")
    moved = "jsonb_build_object('seq_id', (to_jsonb(t) ->> 'seq_id')::bigint - $2::bigint)"
    for table in ("mt_streams", "mt_events"):
        here = await rows(world.source, table, "tenant_id = $1", tenant)
        there = await world.target.fetch(
            f"select (to_jsonb(t) || case when to_jsonb(t) ? 'seq_id' then {moved} else '{{}}' end)"
            f"::text from {table} t where tenant_id = $1 order by 1",
            tenant, offset,
        )  # fmt: skip
        assert [row[0] for row in there] == here, table
    held = {row["id"] for row in await world.target.fetch("select id from mt_events")}
    assert set(writers.acknowledged[tenant]) <= held
    assert len(writers.acknowledged[tenant]) > 0


@pytest.mark.parametrize(
    "failpoint", [*OFTEN, *(pytest.param(each, marks=pytest.mark.infra) for each in EVERYWHERE)]
)
async def test_another_process_goes_on(shop: LayoutWorld, failpoint: str) -> None:
    for _ in range(30):
        await marten.append(shop.source, "acme", uuid4(), 3)
    async with marten.Writers(shop.dsns["source"], ["acme", "umbrella"]) as writers:
        first = process(shop, "acme", f"{failpoint}=kill")
        assert await asyncio.to_thread(first.wait, 60) == -9, first.communicate()[1][-1500:]
        coordinator = await shop.process(lease_seconds=1.0)
        [migration] = await coordinator.get_migrations_by_tenant("acme")
        await coordinator.initiate_cutover(migration.id)
        done = await shop.reaches(migration, MigrationState.MIGRATED)
        await until(lambda: _sent_on(writers), "the writers to be sent on")
    assert done.state is MigrationState.MIGRATED
    await assert_moved(shop, "acme", writers)


@pytest.mark.infra
@pytest.mark.parametrize("failpoint", [*OFTEN, *EVERYWHERE])
async def test_another_process_goes_on_beside_one_that_is_frozen(
    shop: LayoutWorld, failpoint: str, tmp_path: Path
) -> None:
    """And thawed afterwards, that one changes nothing."""
    for _ in range(30):
        await marten.append(shop.source, "acme", uuid4(), 3)
    async with marten.Writers(shop.dsns["source"], ["acme", "umbrella"]) as writers:
        first = process(shop, "acme", f"{failpoint}=freeze", reached=str(tmp_path))
        try:
            frozen = partial(asyncio.to_thread, lambda: list(tmp_path.glob("*.reached")))
            await until(frozen, "the first process to stand still")
            coordinator = await shop.process(lease_seconds=1.0)
            [migration] = await coordinator.get_migrations_by_tenant("acme")
            await coordinator.initiate_cutover(migration.id)
            done = await shop.reaches(migration, MigrationState.MIGRATED, 30)
            await until(lambda: _sent_on(writers), "the writers to be sent on")
            first.send_signal(signal.SIGCONT)
            await asyncio.to_thread(first.wait, 60)
        finally:
            first.kill()
            first.wait()
    assert done.state is MigrationState.MIGRATED
    assert (await coordinator.get_migration(migration.id)).state is MigrationState.MIGRATED
    await assert_moved(shop, "acme", writers)


@pytest.mark.parametrize("followed", [True, False])
async def test_a_process_that_is_frozen_with_the_tables_held_does_not_keep_them(
    shop: LayoutWorld, followed: bool
) -> None:
    """Another process takes them from it; without one the server does, after a while."""
    for _ in range(10):
        await marten.append(shop.source, "acme", uuid4(), 3)
    first = process(shop, "acme", "cutover.fence.held=freeze")
    try:
        await until(lambda: _is_held(shop), "the frozen process to hold the tables")
        began = time.monotonic()
        if followed:
            coordinator = await shop.process(lease_seconds=1.0)
            [migration] = await coordinator.get_migrations_by_tenant("acme")
            done = await coordinator.initiate_cutover(migration.id)
            assert done.state is MigrationState.MIGRATED
            assert time.monotonic() - began < HELD_SECONDS
        else:
            await until(lambda: _is_held(shop, False), "the server to end its session")
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()


async def _is_held(world: LayoutWorld, held: bool = True) -> bool:
    found: bool = await world.source.fetchval(
        "select exists (select from pg_locks l join pg_stat_activity a using (pid)"
        " where l.mode = 'ShareUpdateExclusiveLock' and a.state = 'idle in transaction'"
        " and a.query_start < now() - interval '2.5 s')"
    )
    return found is held


async def test_a_target_that_was_restored_to_before_the_move_gets_everything_again(
    shop: LayoutWorld,
) -> None:
    for _ in range(20):
        await marten.append(shop.source, "acme", uuid4(), 3)
    async with marten.Writers(shop.dsns["source"], ["acme"]) as writers:
        first = process(shop, "acme", "cutover.decision.committed=kill")
        assert await asyncio.to_thread(first.wait, 60) == -9, first.communicate()[1][-1500:]
    await shop.target.execute(
        "drop trigger zzz_eventsource_guard_1_arrival on mt_events;"
        " drop trigger zzz_eventsource_guard_1_arrival on mt_streams;"
        " drop trigger zzz_eventsource_guard_1_truncate on mt_events;"
        " drop trigger zzz_eventsource_guard_1_truncate on mt_streams;"
        " truncate mt_events, mt_streams, eventsource_fences, eventsource_copy_progress;"
        " select setval('mt_events_sequence', 1, false)"
    )
    coordinator = await shop.process(lease_seconds=1.0)
    [migration] = await coordinator.get_migrations_by_tenant("acme")
    # Writers wait, so that the limit of the copy holds no more: with it this took minutes.
    await coordinator.set_rate(migration.id, 1.0)
    await coordinator.resume_migration(migration.id)
    await shop.reaches(migration, MigrationState.MIGRATED)
    await assert_moved(shop, "acme", writers)
    await marten.append(shop.target, "acme", uuid4())


async def test_a_migration_whose_target_is_gone_ends_without_it(shop: LayoutWorld) -> None:
    """Also where other tenants are leaving: their guards stay."""
    for tenant in ("acme", "umbrella"):
        await marten.append(shop.source, tenant, uuid4(), 3)
    other = await shop.start("umbrella")
    await shop.reaches(other, MigrationState.DUAL_WRITE)
    coordinator = shop.coordinators[0]
    await coordinator.pause_migration(other.id)

    async def found() -> dict[str, object]:
        # Which transaction has made the guards is another one.
        seen = await fingerprint(shop.source, journal=False)
        return {name: seen[name] for name in seen if name != "public.eventsource_changes"}

    before = await found()
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await coordinator.pause_migration(migration.id)
    await shop.target.execute("drop schema public cascade; create schema public")
    ended = await coordinator.abort_migration(migration.id, without_target=True)
    assert ended.state is MigrationState.ROLLED_BACK
    assert await found() == before
    await marten.append(shop.source, "acme", uuid4())
    await coordinator.abort_migration(other.id, without_target=True)
    for tenant in ("acme", "umbrella"):
        await marten.append(shop.source, tenant, uuid4())
    assert await shop.source.fetchval("select count(*) from eventsource_fences") == 0


async def _sent_on(writers: marten.Writers) -> bool:
    return writers.sent_on["acme"] == ["EVF01"] * 3


@pytest.mark.parametrize(
    "failpoint",
    [
        "layout.abort.committed",
        *(
            pytest.param(each, marks=pytest.mark.infra)
            for each in (
                "abort.begun.committed",
                "abort.guard.dropped",
                "abort.guard.committed",
                "abort.rows.committed",
                "abort.target.committed",
                "abort.progress.committed",
            )
        ),
    ],
)
async def test_an_abort_that_dies_is_finished_by_another_process(
    shop: LayoutWorld, failpoint: str
) -> None:
    for _ in range(30):
        await marten.append(shop.source, "acme", uuid4(), 3)
    before = [await fingerprint(each, journal=False) for each in (shop.source, shop.target)]
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await shop.coordinators[0].close()
    first = process(shop, "acme", f"{failpoint}=kill", "abort")
    assert await asyncio.to_thread(first.wait, 60) == -9, first.communicate()[1][-1500:]
    second = await shop.process(lease_seconds=1.0)
    aborted = await second.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK
    after = [await fingerprint(each, journal=False) for each in (shop.source, shop.target)]
    assert after == before
