"""A journal has a limit: beyond it nothing is lost, and nothing more is written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import CutoverTimeoutError, MigrationState, background
from eventsource.migration.errors import RetryLaterError
from eventsource.migration.journaled import (
    changes,
    comparison,
    lag,
    large_pass,
    overflow,
    passes,
    verification,
)
from eventsource.migration.layouts.presets import presets
from eventsource.migration.models import Migration, VerificationLevel, VerificationReport
from tests.support import marten
from tests.support.fingerprint import fingerprint
from tests.support.waiting import until
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world, rows

#: Keys that the smallest limit has room for.
ROOM = 64 * 1024 // changes.BYTES_OF_A_KEY


@pytest.fixture
async def small(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LayoutWorld]:
    """Marten's tables and the smallest journal."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    async with layout_world(
        presets()["marten"], marten.make, dsns, journal_max_bytes=64 * 1024
    ) as world:
        for _ in range(5):
            await marten.append(world.source, "acme", uuid4(), 20)
        yield world


async def paused(world: LayoutWorld) -> Migration:
    migration = await world.reaches(await world.start("acme"), MigrationState.DUAL_WRITE)
    await world.coordinators[0].pause_migration(migration.id)
    return migration


async def same(world: LayoutWorld) -> bool:
    here, there = [
        [await rows(each, table, "tenant_id = 'acme'") for table in ("mt_streams", "mt_events")]
        for each in (world.source, world.target)
    ]
    return here == there


async def written_down(world: LayoutWorld) -> int:
    return int(
        await world.source.fetchval("select count(*) from eventsource_changes where fence_id > 0")
    )


async def rewrite(connection: asyncpg.Connection, times: int) -> None:
    for number in range(times):
        await connection.execute(
            f"update mt_events set data = '{{\"n\": {number}}}' where seq_id <= 100"
        )


async def verify(world: LayoutWorld, level: VerificationLevel) -> VerificationReport:
    return await verification.verify(world.stores[SOURCE], world.stores[TARGET], "acme", level)


async def overflows(world: LayoutWorld) -> int:
    return int(
        await world.control.fetchval(
            "select count(*) from migration_audit_log where event_type = 'journal:overflowed'"
        )
    )


async def test_a_paused_migration_stops_writing_down_and_carries_all_again(
    small: LayoutWorld,
) -> None:
    migration = await paused(small)
    await rewrite(small.source, 10)
    full = await written_down(small)
    assert full <= ROOM
    await rewrite(small.source, 10)
    assert await written_down(small) == full
    await small.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(small), "everything to be carried again")
    await small.reaches(migration, MigrationState.DUAL_WRITE)
    assert await overflows(small) == 1
    # It writes down again, and what it has carried does not count.
    for number in range(8):
        await small.source.execute(f"update mt_events set type = 't{number}' where seq_id <= 100")
        await until(lambda: same(small), "the updates")
    assert await overflows(small) == 1
    await small.coordinators[0].initiate_cutover(migration.id)
    assert await same(small)


async def test_a_copy_that_begins_again_and_is_interrupted_begins_at_its_first_row(
    small: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await paused(small)
    await rewrite(small.source, 20)
    begin, begun = passes.JournaledPasses.begin, 0

    async def interrupted(each: passes.JournaledPasses) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise ConnectionResetError
        await begin(each)

    monkeypatch.setattr(passes.JournaledPasses, "begin", interrupted)
    await small.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(small), "everything to be carried again")
    assert begun == 2
    await small.reaches(migration, MigrationState.DUAL_WRITE)
    await small.coordinators[0].initiate_cutover(migration.id)
    assert await same(small)


async def test_writers_lose_nothing_while_it_overflows(small: LayoutWorld) -> None:
    migration = await paused(small)
    async with marten.Writers(small.dsns["source"], ["acme", "umbrella"]) as writers:
        await rewrite(small.source, 5)
        await small.coordinators[0].resume_migration(migration.id)
        for _ in range(6):
            await rewrite(small.source, 3)
            await asyncio.sleep(0.05)
        await small.reaches(migration, MigrationState.DUAL_WRITE)
        writers.stopping = True
    assert writers.errors == []
    assert await overflows(small) > 0
    await until(lambda: same(small), "everything", timeout=60)
    await small.reaches(migration, MigrationState.DUAL_WRITE)
    await small.coordinators[0].initiate_cutover(migration.id)
    assert await same(small)
    held = {row["id"] for row in await small.target.fetch("select id from mt_events")}
    assert set(writers.acknowledged["acme"]) <= held


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_a_writer_that_has_seen_it_full_is_waited_for(
    small: LayoutWorld, isolation: str
) -> None:
    migration = await paused(small)
    await rewrite(small.source, 10)
    writer = await asyncpg.connect(small.dsns["source"])
    await writer.execute(f"begin isolation level {isolation}")
    await writer.execute("update mt_events set type = 'late' where tenant_id = 'acme'")
    await small.coordinators[0].resume_migration(migration.id)

    async def has_read_or_waits() -> bool:
        now = await small.coordinators[0].get_migration(migration.id)
        return "for a lock" in (now.error_message or "") or await same(small)

    await until(has_read_or_waits, "the driver to wait for the writer")
    await writer.execute("commit")
    await until(lambda: same(small), "the update that was not written down")
    await small.reaches(migration, MigrationState.DUAL_WRITE)
    await small.coordinators[0].initiate_cutover(migration.id)
    assert await same(small)
    assert await small.target.fetchval("select count(*) from mt_events where type = 'late'") == 100
    await writer.close()


async def test_a_writer_with_a_snapshot_from_before_is_sent_back(small: LayoutWorld) -> None:
    migration = await paused(small)
    await rewrite(small.source, 10)
    writer = await asyncpg.connect(small.dsns["source"])
    await writer.execute("begin isolation level repeatable read; select 1 from mt_events limit 1")
    await small.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(small), "everything to be carried again")
    with pytest.raises(asyncpg.SerializationError):
        await writer.execute("update mt_streams set type = 'late' where tenant_id = 'acme'")
    await writer.close()


@pytest.mark.parametrize("before", ["the last catch-up", "the fence"])
async def test_a_cutover_does_not_take_a_journal_that_overflows_for_all_that_was_written(
    small: LayoutWorld, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """No pass sees what is not written down: the fence is let go, and all is carried again."""
    migration = await small.reaches(await small.start("acme"), MigrationState.DUAL_WRITE)
    where, name = (
        (passes.JournaledPasses, "prepare_last")
        if before == "the fence"
        else (overflow, "happened")
    )
    original, done = getattr(where, name), False

    async def and_write(*given: object) -> object:
        nonlocal done
        found = await original(*given)
        if not done:
            done = True
            await rewrite(small.source, ROOM // 100 + 2)
            await small.source.execute("update mt_events set data = '{\"last\": true}'")
        return found

    monkeypatch.setattr(where, name, and_write)
    if before == "the fence":
        with pytest.raises(CutoverTimeoutError, match="too much was written"):
            await small.coordinators[0].initiate_cutover(migration.id, force=True)
    await small.coordinators[0].initiate_cutover(migration.id, force=True)
    assert done
    assert await same(small)


@pytest.mark.parametrize("level", list(VerificationLevel))
async def test_what_was_not_written_down_is_no_difference(
    small: LayoutWorld, level: VerificationLevel
) -> None:
    """Nobody can say then whether a row that differs is one that is still to be carried."""
    migration = await paused(small)
    await rewrite(small.source, 20)
    await marten.append(small.source, "acme", uuid4(), 500)
    with pytest.raises(RetryLaterError, match="everything is carried again"):
        await verify(small, level)
    await small.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(small), "everything to be carried again")
    assert (await verify(small, level)).is_consistent


async def test_a_cutover_takes_what_was_not_written_down_for_no_difference(
    small: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison before the fence takes long, and no pass goes on meanwhile."""
    migration = await small.reaches(await small.start("acme"), MigrationState.DUAL_WRITE)
    compare = comparison.compare

    async def and_overflow(*given: Any) -> VerificationReport:
        await rewrite(small.source, 20)
        await marten.append(small.source, "acme", uuid4(), 3)
        monkeypatch.undo()
        return await compare(*given)

    monkeypatch.setattr(comparison, "compare", and_overflow)
    with pytest.raises(CutoverTimeoutError, match="everything is carried again"):
        await small.coordinators[0].initiate_cutover(migration.id)
    done = await small.coordinators[0].initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert await same(small)


async def test_an_abort_takes_a_full_journal_away(small: LayoutWorld) -> None:
    before = [await fingerprint(each, journal=False) for each in (small.source, small.target)]
    migration = await paused(small)
    await rewrite(small.source, 10)
    await small.source.execute("update mt_events set data = '{}'")
    await small.coordinators[0].abort_migration(migration.id)
    after = [await fingerprint(each, journal=False) for each in (small.source, small.target)]
    for each in (before[0], after[0]):
        each.pop('"public".mt_events', None)
    assert sorted(after[0]) == sorted(before[0])
    assert after[1] == before[1]
    assert await small.source.fetchval("select count(*) from eventsource_changes") == 0


async def test_the_lag_is_not_counted_beyond_what_is_large(
    small: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = await paused(small)
    await rewrite(small.source, 3)
    assert await small.coordinators[0].get_sync_lag(migration.id) == 100
    monkeypatch.setattr(lag, "LARGE", 10)
    assert await small.coordinators[0].get_sync_lag(migration.id) <= 101


async def test_a_large_pass_holds_one_portion_at_a_time(
    small: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "EXACT_KEYS", 5)
    monkeypatch.setattr(large_pass, "PORTION", 7)
    sizes: list[int] = []
    original = changes._literal

    def watched(keys: list[str]) -> str:
        sizes.append(len(keys))
        return original(keys)

    monkeypatch.setattr(changes, "_literal", watched)
    migration = await paused(small)
    await rewrite(small.source, 2)
    await small.source.execute(
        "delete from mt_events where version > 18 and tenant_id = 'acme';"
        "delete from mt_streams where id = (select min(id::text)::uuid from mt_streams)"
    )
    await small.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(small), "everything")
    assert 0 < max(sizes) <= 7
    await small.reaches(migration, MigrationState.DUAL_WRITE)
    await small.coordinators[0].initiate_cutover(migration.id)
    assert await same(small)
