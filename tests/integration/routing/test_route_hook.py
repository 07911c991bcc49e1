"""A routing table of another library follows the routes of the control database."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource.migration.routing.route_hook import RouteHook
from tests.support.application import SOURCE, TARGET, Process
from tests.support.waiting import until
from tests.support.worlds.three_databases import World

#: As Marten has it, in a database that is neither of the stores'.
TABLE = """
create table mt_tenant_databases (tenant_id varchar primary key, connection_string varchar not null,
                                  changes int not null default 0)
"""
SQL = """
insert into mt_tenant_databases (tenant_id, connection_string) values ({tenant}, {value})
on conflict (tenant_id) do update
set connection_string = excluded.connection_string, changes = mt_tenant_databases.changes + 1
"""
VALUES = {SOURCE: "Host=shared;Password=hidden-a", TARGET: "Host=dedicated;Password=hidden-b"}


@pytest.fixture
async def hook(world: World) -> RouteHook:
    await world.control.execute(TABLE)
    return RouteHook(world.dsns["control"], SQL, VALUES)


async def there(world: World) -> str | None:
    found: str | None = await world.control.fetchval(
        "select connection_string from mt_tenant_databases where tenant_id = $1", str(world.tenant)
    )
    return found


async def moved(world: World, process: Process, tenant: UUID | None = None) -> Any:
    await world.seed(5, tenant or world.tenant)
    migration = await world.dual_write(tenant or world.tenant, process=process)
    done = await process.coordinator.initiate_cutover(migration.id)
    await process.coordinator._drivers.let_end(migration.id)
    return done


async def test_it_follows_a_move_and_a_return(world: World, hook: RouteHook) -> None:
    process = await world.process(route_hook=hook, keep_way_back=3600)
    migration = await moved(world, process)
    assert await there(world) == VALUES[TARGET]
    await process.coordinator.return_migration(migration.id)
    await until(lambda: _is(world, VALUES[SOURCE]), "the hook of the return")
    assert await process.coordinator.follow_routes() == []
    # Once for each route, however often somebody looks.
    assert await world.control.fetchval("select changes from mt_tenant_databases") == 1


async def _is(world: World, wanted: str) -> bool:
    return await there(world) == wanted


async def test_a_database_that_is_away_is_tried_again_and_the_move_is_not_held_up(
    world: World, hook: RouteHook, caplog: pytest.LogCaptureFixture
) -> None:
    await world.control.execute("alter table mt_tenant_databases rename to elsewhere")
    process = await world.process(route_hook=hook)
    migration = await moved(world, process)
    assert migration.state == "migrated"
    for _ in range(3):
        [left] = await process.coordinator.follow_routes()
    assert (left.tenant_id, left.store_id) == (world.tenant, TARGET)
    assert "mt_tenant_databases" in str(left.error)
    assert caplog.text.count("the route hook waits") == 1
    assert "hidden" not in caplog.text
    await world.control.execute("alter table elsewhere rename to mt_tenant_databases")
    working = asyncio.create_task(process.coordinator.work(poll_seconds=0.1))
    await until(lambda: _is(world, VALUES[TARGET]), "another process to run it")
    working.cancel()
    assert await process.coordinator.follow_routes() == []


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select {value} + 1", "{value} is not of the type"),
        ("select ({value}::text)::int", "invalid input syntax for type integer"),
        ("insert into mt_tenant_databases (connection_string) values ({value})", "null value in"),
        ("insert into mt_tenant_databases values ({tenant}, {value}), ({tenant}, {value})", "key"),
    ],
)
async def test_no_piece_of_a_value_is_in_what_it_says(
    world: World, hook: RouteHook, caplog: pytest.LogCaptureFixture, sql: str, says: str
) -> None:
    # Longer than what a client or a server quotes of a value.
    values = {TARGET: "Host=dedicated;Password=hidden-b;" + "x" * 200}
    process = await world.process(route_hook=RouteHook(hook.dsn, sql, values))
    await moved(world, process)
    [left] = await process.coordinator.follow_routes()
    assert says in str(left.error)
    assert says in caplog.text
    assert "Host=" not in caplog.text + str(left.error)


async def test_what_was_run_and_could_not_be_noted_is_run_again(
    world: World, hook: RouteHook
) -> None:
    """As of a process that dies in between."""
    await world.control.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise 'not now'; end $$;"
        " create trigger refuse before insert or update on migration_route_hooks"
        " execute function refuse()"
    )
    process = await world.process(route_hook=hook)
    migration = await moved(world, process)
    assert migration.state == "migrated"
    assert await there(world) == VALUES[TARGET]
    await world.control.execute("drop trigger refuse on migration_route_hooks")
    assert await process.coordinator.follow_routes() == []
    assert await there(world) == VALUES[TARGET]


async def test_an_older_route_never_overwrites_a_newer_one(world: World, hook: RouteHook) -> None:
    """Two processes look at the same moment, and the route changes in between."""
    plain = await world.process()
    await moved(world, plain)
    await world.control.execute("create table runs (generation bigint, store text)")
    slow = RouteHook(
        world.dsns["control"],
        "with slow as (select pg_sleep(0.3))"
        " insert into runs select {generation}, {store} from slow",
        VALUES,
    )
    first = asyncio.create_task(slow.roll_forward(plain.control_pool))
    await asyncio.sleep(0.1)
    changing = asyncio.create_task(plain.routes.set_routing(world.tenant, SOURCE))
    second = asyncio.create_task(slow.roll_forward(plain.control_pool))
    await asyncio.gather(first, changing, second)
    await slow.roll_forward(plain.control_pool)
    runs = await world.control.fetch("select generation, store from runs order by ctid")
    assert [row["generation"] for row in runs] == sorted({row["generation"] for row in runs})
    assert runs[-1]["store"] == SOURCE


async def test_a_route_that_was_there_before_is_not_touched(world: World, hook: RouteHook) -> None:
    process = await world.process(route_hook=hook)
    other = uuid4()
    await world.control.execute(
        "insert into tenant_routing (tenant_id, store_id) values ($1, $2)", str(other), SOURCE
    )
    assert await process.coordinator.follow_routes() == []
    assert await world.control.fetchval("select count(*) from mt_tenant_databases") == 0


async def test_a_statement_uses_the_values_that_it_names(world: World) -> None:
    await world.control.execute("create table homes (tenant uuid primary key, store text)")
    hook = RouteHook(
        world.dsns["control"],
        "insert into homes values ({tenant}::text::uuid, {store}) on conflict (tenant) do update"
        " set store = excluded.store",
    )
    process = await world.process(route_hook=hook)
    await moved(world, process)
    assert await world.control.fetchval("select store from homes") == TARGET


async def test_between_two_looks_at_all_routes_only_what_has_changed_lately_is_compared(
    world: World, hook: RouteHook
) -> None:
    plain = await world.process()
    process = await world.process(route_hook=hook)
    drivers = process.coordinator._drivers
    await drivers._follow_changed_routes()
    await moved(world, plain)
    long_ago = "update tenant_routing set updated_at = now() - interval '1 hour'"
    await world.control.execute(long_ago)
    await drivers._follow_changed_routes()
    assert await there(world) is None
    await world.control.execute("update tenant_routing set updated_at = now()")
    await world.control.execute("alter table mt_tenant_databases rename to elsewhere")
    await drivers._follow_changed_routes()
    # What was tried in vain is tried again, however long ago the route has changed.
    await world.control.execute(long_ago)
    await world.control.execute("alter table elsewhere rename to mt_tenant_databases")
    await drivers._follow_changed_routes()
    assert await there(world) == VALUES[TARGET]
    # And what was overlooked is found by the next look at all.
    await world.control.execute("delete from migration_route_hooks")
    await world.control.execute("delete from mt_tenant_databases")
    await drivers._follow_changed_routes()
    assert await there(world) is None
    drivers._all_routes_at = float("-inf")
    await drivers._follow_changed_routes()
    assert await there(world) == VALUES[TARGET]


async def test_of_two_that_have_failed_neither_waits_for_the_other(
    world: World, hook: RouteHook
) -> None:
    """Each has its tenants in an order of its own, and has written one when it needs the next."""
    process = await world.process()
    first, between, last = tenants = ["a", "m", "z"]
    failed, error = hook._failed, OSError("the other database is away")
    await failed(process.control_pool, tenants, error, about=None)
    holder = await world.connect("control")
    await holder.execute("begin")
    await holder.execute(
        "select from migration_route_hooks where tenant_id = $1 for update", between
    )
    both = [
        asyncio.create_task(failed(process.control_pool, [*order], error, about=None))
        for order in ((first, between, last), (last, between, first))
    ]
    await until(lambda: _waiting(world, 2), "both waiting")
    await holder.execute("commit")
    await asyncio.gather(*both)


async def _waiting(world: World, wanted: int) -> bool:
    waiting = await world.control.fetchval(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        " and datname = current_database()"
    )
    return bool(waiting == wanted)
