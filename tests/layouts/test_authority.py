"""A store of another library's tables that has gone back to before its tenant left hears of it.

Its volume is put back, so that it is the same place of an earlier time. What the library writes
there meanwhile draws numbers that were given once before: at the target these are other rows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.connections import TableAddress
from eventsource.migration import (
    Migration,
    MigrationState,
    StoreGoneBackError,
    StoreMismatchError,
    background,
)
from eventsource.migration.event_table import EventTable
from eventsource.migration.journaled import only_there
from eventsource.migration.layouts.presets import presets
from eventsource.testing import Cluster
from tests.conftest import QUICK_LOG_IN
from tests.support import marten, others
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world, rows
from tests.support.worlds.restorable import back_up, put_back

TABLES = ("mt_streams", "mt_events")


@dataclass
class Shop:
    """A world of which ``side`` is on a server of its own, and what has been seen of it."""

    world: LayoutWorld
    server: Cluster
    side: str

    async def stopped(self) -> None:
        await self.world.stop()

    async def backed_up(self) -> Path:
        """A copy of the volume; no process is there meanwhile."""
        await self.world.stop()
        copy = await asyncio.to_thread(back_up, self.server)
        await self.world.look_again(self.side)
        await self.world.process()
        return copy

    async def gone_back(self, copy: Path) -> None:
        await self.world.stop()
        await asyncio.to_thread(put_back, self.server, copy)
        await self.world.look_again(self.side)
        await self.world.process()

    async def held(self, side: str) -> list[list[str]]:
        """Every row of the tenant."""
        connection = getattr(self.world, side)
        return [await rows(connection, table, "tenant_id = $1", "acme") for table in TABLES]

    async def fence(self, migration: Migration) -> tuple[str, int] | None:
        """State and generation of the migration's fence where the tenant left."""
        row = await getattr(self.world, self.side).fetchrow(
            "select state, generation from eventsource_fences where migration_id = $1"
            " and role = 'source'",
            migration.id,
        )
        return tuple(row) if row is not None else None

    async def says(self, migration: Migration, state: str) -> None:
        """The control database has gone back, too."""
        await self.world.control.execute(
            "update tenant_migrations set state = $2 where id = $1", migration.id, state
        )

    async def sent_on(self, migration: Migration) -> list[dict[str, object]]:
        found = await self.world.control.fetch(
            "select details from migration_audit_log where migration_id = $1"
            " and event_type = 'sent_on'",
            migration.id,
        )
        return [json.loads(row["details"]) for row in found]


@pytest.fixture
async def shop_of_its_own(
    request: pytest.FixtureRequest, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    side = getattr(request, "param", "source")
    with Cluster.start(16, QUICK_LOG_IN) as server:
        there = {**dsns, side: await server.create_database()}
        async with layout_world(presets()["marten"], marten.make, there) as world:
            yield Shop(world, server, side)


async def written_meanwhile(connection: asyncpg.Connection) -> tuple[list[UUID], set[str]]:
    """What the library appends where the tenant does not live; its events, and its rows."""
    stream = uuid4()
    events = await marten.append(connection, "acme", stream, 2)
    numbers = await connection.fetch(
        "select seq_id from mt_events where id = any ($1::uuid[]) order by seq_id", events
    )
    keys = {f'mt_streams ["acme", "{stream}"]'}
    return events, keys | {f"mt_events [{row['seq_id']}]" for row in numbers}


async def moved_and_gone_back(shop: Shop, when: str) -> Migration:
    """The tenant has moved, and the source is as it was ``when``."""
    world = shop.world
    for _ in range(10):
        await marten.append(world.source, "acme", uuid4(), 3)
    # So that its numbers are moved.
    await marten.append(world.target, "umbrella", uuid4(), 4)
    copy = await shop.backed_up() if when == "before the start" else None
    migration = await world.start("acme")
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    copy = copy or await shop.backed_up()
    await marten.append(world.source, "acme", uuid4(), 3)
    moved = await world.coordinators[0].initiate_cutover(migration.id)
    assert moved.position_offset
    await marten.append(world.target, "acme", uuid4(), 2)
    await shop.gone_back(copy)
    return moved


async def assert_sent_on(shop: Shop, moved: Migration, events: list[UUID]) -> None:
    """It says again that the tenant has left, to the library too, and has all that it had."""
    assert await shop.fence(moved) == ("moved", moved.generation + 1)
    connection = getattr(shop.world, shop.side)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await marten.append(connection, "acme", uuid4())
    assert refused.value.sqlstate == "EVF01"
    kept = await connection.fetch("select id from mt_events where id = any ($1::uuid[])", events)
    assert len(kept) == len(events)
    await marten.append(connection, "umbrella", uuid4())


@pytest.mark.thorough
@pytest.mark.parametrize("when", ["in dual write", "before the start"])
async def test_a_driver_reminds_a_source_that_was_restored(
    shop_of_its_own: Shop, when: str
) -> None:
    shop, world = shop_of_its_own, shop_of_its_own.world
    moved = await moved_and_gone_back(shop, when)
    await shop.says(moved, "dual_write")
    events, named = await written_meanwhile(world.source)
    home = await shop.held("target")
    # A stream that both have is not the one or the other's.
    known = await world.source.fetchval("select min(id::text) from mt_streams where version = 3")
    more = await marten.append(world.source, "acme", UUID(known))
    [number] = await world.source.fetch("select seq_id from mt_events where id = $1", more[0])
    await world.coordinators[0].resume_migration(moved.id)
    done = await world.reaches(moved, MigrationState.MIGRATED)
    await assert_sent_on(shop, moved, [*events, *more])
    [details] = await shop.sent_on(moved)
    assert set(details["only_there"]) == named | {f"mt_events [{number['seq_id']}]"}  # type: ignore[call-overload]
    assert details["events"] == len(named) + 1
    assert await shop.held("target") == home
    assert done.position_offset == moved.position_offset
    await marten.append(world.target, "acme", uuid4())


@pytest.mark.thorough
async def test_an_abort_reminds_a_source_that_was_restored(shop_of_its_own: Shop) -> None:
    shop, world = shop_of_its_own, shop_of_its_own.world
    moved = await moved_and_gone_back(shop, "in dual write")
    await shop.says(moved, "dual_write")
    events, named = await written_meanwhile(world.source)
    home = await shop.held("target")
    with pytest.raises(StoreGoneBackError, match="was opened at the target") as caught:
        await world.coordinators[0].abort_migration(moved.id)
    assert f"{len(named)} rows there are not where the tenant lives" in str(caught.value)
    await assert_sent_on(shop, moved, events)
    await world.reaches(moved, MigrationState.MIGRATED)
    assert await shop.held("target") == home


@pytest.mark.parametrize(
    "when",
    ["before the start", pytest.param("in dual write", marks=pytest.mark.thorough)],
)
async def test_a_repair_reminds_a_source_that_was_restored(
    shop_of_its_own: Shop, when: str
) -> None:
    shop, world = shop_of_its_own, shop_of_its_own.world
    moved = await moved_and_gone_back(shop, when)
    events, named = await written_meanwhile(world.source)
    home, before = await shop.held("target"), await shop.fence(moved)
    coordinator = world.coordinators[0]
    said = await coordinator.disagreement(moved.id) or ""
    assert f"store {SOURCE!r} has gone back" in said
    assert "eventsource-migrate repair" in said
    planned = await coordinator.repair(dry_run=True)
    assert await shop.fence(moved) == before, "who looks changes nothing"
    done = await coordinator.repair(put_back=True)
    for report in (planned, done):
        assert {f"{row.table} {row.key}" for row in report.rows} == named
        assert {row.kept_in for row in report.rows} == {SOURCE}
        assert report.stranded == ()
    await assert_sent_on(shop, moved, events)
    assert await shop.held("target") == home
    assert await coordinator.disagreement(moved.id) is None
    assert (await coordinator.repair()).changes == ()
    assert (await coordinator.get_migration(moved.id)).position_offset == moved.position_offset


@pytest.mark.thorough
@pytest.mark.parametrize("shop_of_its_own", ["target"], indirect=True)
@pytest.mark.parametrize("by", ["driver", "repair"])
async def test_a_target_that_the_tenant_has_left_since_is_reminded(
    shop_of_its_own: Shop, source_cluster: Cluster, by: str
) -> None:
    """It has come there and gone on, and the store is as it was before that."""
    shop, world = shop_of_its_own, shop_of_its_own.world
    world.others["third"] = await source_cluster.create_database()
    third = await asyncpg.connect(world.others["third"])
    await marten.make(third)
    await world.stop()
    await world.process()
    await world.stores["third"].create_schema()
    await marten.append(world.source, "acme", uuid4(), 3)
    first = await world.move("acme")
    await marten.append(world.target, "acme", uuid4(), 3)
    copy = await shop.backed_up()
    further = await world.coordinators[0].start_migration(
        "acme", world.stores[TARGET], world.stores["third"], TARGET, "third"
    )
    await world.reaches(further, MigrationState.DUAL_WRITE)
    moved = await world.coordinators[0].initiate_cutover(further.id)
    await marten.append(third, "acme", uuid4(), 2)
    await shop.gone_back(copy)
    events, named = await written_meanwhile(world.target)
    home = [await rows(third, table, "tenant_id = $1", "acme") for table in TABLES]
    if by == "driver":
        await shop.says(moved, "dual_write")
        await world.coordinators[0].resume_migration(moved.id)
        await world.reaches(moved, MigrationState.MIGRATED)
        [details] = await shop.sent_on(moved)
        assert set(details["only_there"]) == named  # type: ignore[call-overload]
    else:
        report = await world.coordinators[0].repair()
        assert {f"{row.table} {row.key}" for row in report.rows} == named
    assert moved.generation == first.generation + 1
    await assert_sent_on(shop, moved, events)
    assert [await rows(third, table, "tenant_id = $1", "acme") for table in TABLES] == home
    assert (await world.coordinators[0].disagreement(first.id)) is None
    await third.close()


async def test_nothing_is_carried_again_to_where_the_tenant_lives(shop: LayoutWorld) -> None:
    """The source knows the last barrier and not the decision, and its tables are others by now.

    That is the time for everything to be carried again, from an emptied target.
    """
    for _ in range(10):
        await marten.append(shop.source, "acme", uuid4(), 3)
    await marten.append(shop.target, "umbrella", uuid4(), 4)
    moved = await shop.move("acme")
    assert moved.position_offset
    await marten.append(shop.target, "acme", uuid4(), 2)
    home = [await rows(shop.target, table, "true") for table in TABLES]
    await shop.source.execute(
        "update eventsource_fences set state = 'open', generation = generation - 1,"
        " moved_to = null, source_head = null, decided_token = null"
    )
    await shop.source.execute("vacuum full mt_events")
    await shop.control.execute("update tenant_migrations set state = 'dual_write'")
    await shop.coordinators[0].resume_migration(moved.id)
    done = await shop.reaches(moved, MigrationState.MIGRATED, 20)
    assert done.position_offset == moved.position_offset
    assert [await rows(shop.target, table, "true") for table in TABLES] == home
    assert await shop.source.fetchval("select state from eventsource_fences") == "moved"


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_store_from_a_dump_is_bound_and_the_move_goes_on(
    shop: LayoutWorld, side: str
) -> None:
    for _ in range(5):
        await marten.append(shop.source, "acme", uuid4(), 3)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    coordinator = shop.coordinators[0]
    await coordinator.pause_migration(migration.id)
    await shop.control.execute(
        f"update tenant_migrations set {side}_identity = {side}_identity || $1::text::jsonb",
        json.dumps({"system": "7000000000000000001"}),
    )
    # A dump carries the column, and not the header of its row.
    await getattr(shop, side).execute("update eventsource_witnesses set passed_at = now()")
    with pytest.raises(StoreMismatchError, match="rebind"):
        await coordinator.resume_migration(migration.id)
    await marten.append(shop.source, "acme", uuid4(), 3)
    await coordinator.rebind_migration(migration.id, SOURCE if side == "source" else TARGET)
    await coordinator.resume_migration(migration.id)
    await coordinator.initiate_cutover(migration.id)
    here, there = [
        [await rows(each, table, "tenant_id = $1", "acme") for table in TABLES]
        for each in (shop.source, shop.target)
    ]
    assert here == there
    assert await shop.target.fetchval("select count(*) from eventsource_rescued_rows") == 0


async def test_a_row_is_known_by_its_number_only_where_nothing_else_says_it(
    dsns: dict[str, str],
) -> None:
    """Events by their ids, links by all that is in them: numbers are given again."""
    source, target = [await asyncpg.connect(dsns[side]) for side in ("source", "target")]
    for connection in (source, target):
        await connection.execute(others.RAILS)
    for number in range(3):
        await others.to_rails(source, "acme", f"s{number}")
    for table in ("event_store_events", "event_store_events_in_streams"):
        for row in await source.fetch(f"select to_jsonb(t)::text as row from {table} t"):
            await target.execute(
                f"insert into {table} select * from jsonb_populate_record(null::{table}, $1)",
                row["row"],
            )
        await target.execute(f"select setval('{table}_id_seq', max(id)) from {table}")
    # Now each of them writes, and both give the same numbers.
    stray = await others.to_rails(source, "acme", "s1")
    await others.to_rails(target, "acme", "s2")
    await others.to_rails(source, "umbrella", "s9")
    layout = presets()["rails-event-store"]
    here, there = [
        EventTable(connection, TableAddress("", "public", layout.events), layout)
        for connection in (source, target)
    ]
    found = [str(row) async for row in only_there.rows(here, there, "acme", None)]
    number = await source.fetchval("select id from event_store_events where event_id = $1", stray)
    links = await source.fetch(
        "select id from event_store_events_in_streams where event_id = $1 order by id", stray
    )
    assert found == [
        f"event_store_events [{number}]",
        *(f"event_store_events_in_streams [{row['id']}]" for row in links),
    ]
    for connection in (source, target):
        await connection.close()
