"""A source of another library's tables goes back under a migration: its volume is put back.

The target has rows then that the source has lost, and the library hands their numbers out again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from eventsource.migration import Migration, MigrationState, VerificationLevel, background
from eventsource.migration.journaled import verification
from eventsource.migration.recovery.report import RepairReport
from eventsource.testing import Cluster
from tests.conftest import QUICK_LOG_IN
from tests.support.appending_libraries import MARTEN, MESSAGE_DB, RAILS, Library
from tests.support.waiting import until
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world
from tests.support.worlds.restorable import back_up, put_back

LIBRARIES = [MARTEN, MESSAGE_DB, pytest.param(RAILS, marks=pytest.mark.thorough)]


@dataclass
class Shop:
    """A world whose source is on a server of its own, and one of its tenants under way."""

    library: Library
    world: LayoutWorld
    server: Cluster

    async def append(self, stream: str = "") -> str:
        return await self.library.append(self.world.source, "acme", stream or str(uuid4()))

    async def backed_up(self) -> Path:
        """A copy of the volume; no process is there meanwhile."""
        await self.world.stop()
        copy = await asyncio.to_thread(back_up, self.server)
        await self.again()
        return copy

    async def gone_back(self, copy: Path) -> None:
        await self.world.stop()
        await asyncio.to_thread(put_back, self.server, copy)
        await self.again()

    async def again(self) -> None:
        await self.world.look_again("source")
        await self.world.process()

    async def carried(self, migration: Migration, events: set[str]) -> None:
        await self.world.coordinators[0].resume_migration(migration.id)

        async def are_there() -> bool:
            return events <= await self.library.ids(self.world.target)

        await until(are_there, "the new events at the target", 30)

    async def waits(self, migration: Migration) -> str:
        """What the journal says of a migration whose driver cannot go on."""
        coordinator = self.world.coordinators[0]
        await coordinator.resume_migration(migration.id)
        said = ""

        async def is_said() -> bool:
            nonlocal said
            said = (await coordinator.get_migration(migration.id)).error_message or ""
            return "does not hold the barrier" in said

        await until(is_said, "a word of why it waits", 30)
        return said

    async def kept(self) -> dict[str, dict[str, object]]:
        """What the target keeps beside its tables: rows by table and key."""
        found = await self.world.target.fetch(
            "select table_name || ' ' || key::text as name, row::text as row"
            f" from {self.beside('eventsource_rescued_rows')} where tenant_id = 'acme'"
        )
        return {each["name"]: json.loads(each["row"]) for each in found}

    def beside(self, name: str) -> str:
        schema = self.world.layout.schema or "public"
        return f'"{schema}"."{name}"'


@pytest.fixture
async def shop(
    request: pytest.FixtureRequest, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    library: Library = request.param
    with Cluster.start(16, QUICK_LOG_IN) as server:
        there = {**dsns, "source": await server.create_database()}
        async with layout_world(library.layout, library.make, there) as world:
            yield Shop(library, world, server)


@dataclass(frozen=True)
class Lost:
    """What happened: events that were carried and lost, and those of since."""

    migration: Migration
    before: set[str]
    lost: set[str]
    since: set[str]


async def gone_back(shop: Shop, when: str) -> Lost:
    """Some events are carried, the source is as it was before them, and writes go on there."""
    world = shop.world
    before = {await shop.append("old"), *[await shop.append() for _ in range(5)]}
    for _ in range(3):
        # So that the tenant's numbers are moved, where numbers are.
        await shop.library.append(world.target, "umbrella", str(uuid4()))
    copy = await shop.backed_up() if when == "before the start" else None
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    copy = copy or await shop.backed_up()
    lost = {await shop.append("old"), *[await shop.append() for _ in range(3)]}
    await shop.carried(migration, before | lost)
    await shop.gone_back(copy)
    since = {await shop.append() for _ in range(2)}
    assert await shop.library.ids(world.source) == before | since
    return Lost(migration, before, lost, since)


def named(report: RepairReport) -> set[str]:
    return {f"{row.table} {row.key}" for row in report.rows}


async def assert_kept(shop: Shop, lost: Lost, names: set[str]) -> None:
    """Each lost event, as the target had it, and each row that was another one there."""
    kept = await shop.kept()
    assert set(kept) == names
    layout = shop.world.layout
    assert layout.event_id is not None
    events = {
        str(row[layout.event_id])
        for name, row in kept.items()
        if name.startswith(f"{layout.events} ")
    }
    assert events == lost.lost
    for table in shop.library.rewritten:
        versions = [row["version"] for name, row in kept.items() if name.startswith(f"{table} ")]
        assert 2 in versions, "the stream as it was with the lost event"


@pytest.mark.parametrize("shop", LIBRARIES, indirect=True, ids=str)
@pytest.mark.parametrize(
    "when", ["in dual write", pytest.param("before the start", marks=pytest.mark.thorough)]
)
async def test_a_repair_keeps_what_only_the_target_has_and_the_move_goes_on(
    shop: Shop, when: str
) -> None:
    world = shop.world
    lost = await gone_back(shop, when)
    assert "keeps at the target, in the table eventsource_rescued_rows" in await shop.waits(
        lost.migration
    )
    bystander = await shop.library.all_rows(world.target, "umbrella")
    coordinator = world.coordinators[0]
    await coordinator.pause_migration(lost.migration.id)
    planned = await coordinator.repair(dry_run=True)
    assert any("eventsource_rescued_rows" in change.sentence for change in planned.changes)
    assert await shop.kept() == {}, "who looks changes nothing"
    done = await coordinator.repair(put_back=True)
    assert {row.event_id for row in done.rows if row.event_id} == lost.lost
    assert {row.kept_in for row in done.rows} == {TARGET}
    assert done.stranded == ()
    await assert_kept(shop, lost, named(done))
    assert (await coordinator.repair()).changes == ()
    await coordinator.resume_migration(lost.migration.id)
    await world.reaches(lost.migration, MigrationState.DUAL_WRITE)
    more = {await shop.append("old"), await shop.append()}
    moved = await coordinator.initiate_cutover(lost.migration.id)
    assert moved.state is MigrationState.MIGRATED
    assert await shop.library.ids(world.target) == lost.before | lost.since | more
    source, target = world.stores[SOURCE], world.stores[TARGET]
    report = await verification.verify(source, target, "acme", VerificationLevel.FULL)
    assert report.is_consistent
    assert await shop.library.all_rows(world.target, "umbrella") == bystander
    await assert_kept(shop, lost, named(done))


@pytest.mark.parametrize(
    "shop",
    [MARTEN, *(pytest.param(each, marks=pytest.mark.thorough) for each in (MESSAGE_DB, RAILS))],
    indirect=True,
    ids=str,
)
async def test_an_abort_keeps_what_only_the_target_has(shop: Shop) -> None:
    world = shop.world
    lost = await gone_back(shop, "in dual write")
    here = await shop.library.all_rows(world.source)
    ended = await world.coordinators[0].abort_migration(lost.migration.id)
    assert ended.state is MigrationState.ROLLED_BACK
    assert await shop.library.ids(world.target) == set()
    assert await shop.library.all_rows(world.source) == here
    [details] = await world.control.fetch(
        "select details from migration_audit_log where migration_id = $1"
        " and event_type = 'rows_rescued'",
        lost.migration.id,
    )
    names = set(json.loads(details["details"])["only_at_the_target"])
    await assert_kept(shop, lost, names)
    # The tenant moves again, and is writable here meanwhile.
    since = await shop.append("old")
    moved = await world.move("acme")
    assert moved.source_store_id == SOURCE
    assert await shop.library.ids(world.target) == lost.before | lost.since | {since}
