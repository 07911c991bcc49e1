"""How many migrations are driven at once, and which of them need no place."""

from __future__ import annotations

import asyncio
import itertools
from uuid import UUID, uuid4

import pytest

from eventsource.connections import transaction
from eventsource.migration import Migration, MigrationConfig
from eventsource.migration.driver.lease import NoPlaceError
from eventsource.migration.driver.places import Places
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from tests.support.application import SOURCE, TARGET
from tests.support.waiting import until
from tests.support.worlds.three_databases import World


@pytest.fixture
async def crowded(world: World) -> tuple[World, Migration, Migration]:
    """A store with room for one: a migration in dual-write has it, and another one waits."""
    await world.seed(20)
    await world.seed(20, world.other)
    first = await world.process(max_moves_per_store=1)
    here = await first.start(world.tenant)
    await world.reach(here, "dual_write")
    second = await world.process(max_moves_per_store=1)
    waiting = await second.start(world.other)
    said = await until(lambda: _message(world, waiting.id), "a word")
    assert said.startswith("waiting for a place: store 'shared' has 1, store 'dedicated-a' has 1")
    return world, here, waiting


async def test_one_that_has_no_place_begins_when_another_is_done(
    crowded: tuple[World, Migration, Migration],
) -> None:
    world, here, waiting = crowded
    assert not (await world.here.migrations.get(waiting.id)).driver_alive
    await world.coordinator.initiate_cutover(here.id)
    await world.reach(waiting, "dual_write")
    await until(lambda: _is_silent(world, waiting.id), "silence")


async def test_resume_comes_back_though_there_is_no_place(
    crowded: tuple[World, Migration, Migration],
) -> None:
    world, _, waiting = crowded
    async with asyncio.timeout(5):
        assert (await world.coordinator.resume_migration(waiting.id)).waits_for_a_place


@pytest.mark.parametrize("call", ["abort", "pause"])
async def test_an_abort_and_a_pause_need_no_place(
    crowded: tuple[World, Migration, Migration], call: str
) -> None:
    world, here, waiting = crowded
    async with asyncio.timeout(20):
        if call == "abort":
            assert (await world.coordinator.abort_migration(waiting.id)).state == "rolled_back"
        else:
            assert (await world.coordinator.pause_migration(waiting.id)).state == "paused"
    assert (await world.here.migrations.get(here.id)).driver_alive


@pytest.mark.parametrize("state", ["dual_write", "cutover_paused"])
async def test_a_cutover_and_a_recovery_need_no_place(
    crowded: tuple[World, Migration, Migration], state: str
) -> None:
    """The driver of the one is gone, and the other has its place."""
    world, here, waiting = crowded
    await world.processes[1].stop()
    await world.reach(waiting, "dual_write")
    await world.control.execute(
        "update tenant_migrations set state = $2 where id = $1", here.id, state
    )
    last = await world.process(max_moves_per_store=1)
    async with asyncio.timeout(20):
        assert (await last.coordinator.initiate_cutover(here.id)).state == "migrated"
    assert (await world.here.migrations.get(waiting.id)).driver_alive


async def test_drivers_that_come_at_the_same_moment_heed_the_limit(world: World) -> None:
    tenants = [uuid4() for _ in range(5)]
    processes = [await world.process(max_moves_per_store=2) for _ in tenants]
    for tenant in tenants:
        await world.seed(20, tenant)
    started = await asyncio.gather(
        *(process.start(tenant) for process, tenant in zip(processes, tenants, strict=True))
    )
    most = 0

    async def move(number: int) -> None:
        await world.reach(started[number], "dual_write")
        await processes[number].coordinator.initiate_cutover(started[number].id)

    async def watch() -> None:
        nonlocal most
        connection = await world.connect("control")
        while True:
            alive = await connection.fetchval(
                "select count(*) from tenant_migrations where driver_expires_at > now()"
                " and state not in ('migrated')"
            )
            most = max(most, alive)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(move(number) for number in range(len(tenants))))
    watching.cancel()
    assert most == 2


async def test_of_five_that_ask_for_a_place_at_the_same_moment_one_gets_it(world: World) -> None:
    made = []
    for _ in range(5):
        made.append(
            await world.here.migrations.create(
                migration_id=uuid4(), tenant_id=uuid4(), source_store_id=SOURCE,
                target_store_id=TARGET, config=MigrationConfig(), generation=0, operator=None,
                source_identity=None, target_identity=None,
            )
        )  # fmt: skip
    askers = [(await world.process()).migrations for _ in made]
    # Every pool has its connection, so that nobody is late.
    await asyncio.gather(*(asker.get_all() for asker in askers))
    answers = await asyncio.gather(
        *(
            asker.acquire_place(migration.id, uuid4(), "somebody", 60.0, {SOURCE: 1})
            for asker, migration in zip(askers, made, strict=True)
        )
    )
    assert sorted(got for got, _ in answers) == [False, False, False, False, True]
    assert {tuple(full) for got, full in answers if not got} == {(SOURCE,)}


async def test_stores_of_one_server_share_its_places(world: World) -> None:
    """Another store counts that has another id, and lies in the same cluster."""
    await world.seed(20)
    driven = await world.dual_write()
    other = await world.here.migrations.create(
        migration_id=uuid4(),
        tenant_id=world.other,
        source_store_id="elsewhere",
        target_store_id="beside it",
        config=MigrationConfig(),
        generation=0,
        operator=None,
        source_identity=None,
        target_identity=driven.target_identity,
    )
    assert driven.target_identity is not None
    server = f"server {driven.target_identity.system}"
    limits = await Places().of(other, *world.here.pools[::-1])
    assert limits[server] >= 1
    for wanted, full in (
        ({server: 1, "beside it": 1}, [server]),
        ({server: 2}, []),
        ({"server 7": 1, "elsewhere": 1}, []),
    ):
        async with transaction(world.here.control_pool) as connection:
            journal = PostgreSQLMigrationRepository(connection)
            assert await journal.full_stores(other.id, uuid4(), wanted) == full
    assert str(NoPlaceError([server], {server: 1})).startswith(
        f"waiting for a place: the {server} has 1 under way"
    )


async def test_names_that_share_a_lock_are_locked_in_one_order(world: World) -> None:
    """A lock has 32 bits: two stores may have the same one."""
    pairs = await world.control.fetch(
        "select min(name) as low, max(name) as high from (select 'store ' || n as name,"
        " hashtext('store ' || n) as key from generate_series(1, 400000) n) named"
        " group by key having count(*) = 2"
    )
    low, high = next(
        (one, two)
        for one, two in itertools.combinations(pairs, 2)
        if one["low"] < two["high"] and two["low"] < one["high"]
    )
    between = max(low["low"], high["low"]) + " and more"
    holder = await world.connect("control")
    await holder.execute("begin")
    await holder.execute("select pg_advisory_xact_lock(1163281236, hashtext($1))", between)

    async def take(*names: str) -> None:
        async with transaction(world.here.control_pool) as connection:
            journal = PostgreSQLMigrationRepository(connection)
            await journal.full_stores(uuid4(), uuid4(), dict.fromkeys(names, 1))

    both = [
        asyncio.create_task(take(low["low"], between, high["high"])),
        asyncio.create_task(take(high["low"], between, low["high"])),
    ]
    await asyncio.sleep(0.5)
    await holder.execute("commit")
    await asyncio.gather(*both)


async def _message(world: World, migration_id: UUID) -> str | None:
    message: str | None = await world.control.fetchval(
        "select error_message from tenant_migrations where id = $1", migration_id
    )
    return message


async def _is_silent(world: World, migration_id: UUID) -> bool:
    return await _message(world, migration_id) is None
