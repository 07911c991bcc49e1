"""Bad input: a typed error that names the fix, soon, without a password, and nothing changed."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from eventsource.migration import (
    MigrationAlreadyExistsError,
    MigrationConfig,
    MigrationNotFoundError,
    MigrationState,
    PreflightError,
    RoutingError,
)
from eventsource.migration.steps import preparation
from eventsource.stores.memory import InMemoryEventStore
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import SOURCE, TARGET
from tests.support.refusals import WRONG, elsewhere, redirected, refusal, store_named
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World, insert, table


async def test_an_unknown_store_id(world: World) -> None:
    here = world.here
    for source_id, target_id in (("shard", TARGET), (SOURCE, "dedicated-b")):
        async with refusal(world, RoutingError, "add it to the router's `stores`", TARGET):
            await here.coordinator.start_migration(
                world.tenant, here.source, here.target, source_id, target_id
            )


async def test_a_store_that_is_not_the_routers(world: World) -> None:
    stranger = PostgreSQLEventStore(world.here.target.pool, TARGET_TABLE)
    async with refusal(world, RoutingError, TARGET, "pass the router's own"):
        await world.coordinator.start_migration(
            world.tenant, world.here.source, stranger, SOURCE, TARGET
        )


async def test_a_store_that_is_not_in_postgresql(world: World) -> None:
    process = await world.process(target_store=lambda pool: InMemoryEventStore())
    async with refusal(world, RoutingError, TARGET, "PostgreSQL"):
        await process.start(world.tenant)


async def test_a_tenant_that_lives_elsewhere(world: World) -> None:
    await world.here.routes.set_routing(world.tenant, TARGET)
    async with refusal(world, RoutingError, SOURCE, "its route names"):
        await world.here.start(world.tenant)
    # Without a route a tenant lives in the default store.
    here = world.here
    async with refusal(world, RoutingError, SOURCE, "lives in the default store"):
        await here.coordinator.start_migration(
            world.other, here.target, here.source, TARGET, SOURCE
        )


async def test_a_missing_table(world: World) -> None:
    name = "events; drop table events --"
    for side in ("source", "target"):
        process = await world.process(**store_named(side, name))
        async with refusal(world, PreflightError, side, name, "does not exist", "init"):
            await process.start(world.tenant)


async def test_a_missing_schema(world: World) -> None:
    process = await world.process(
        target_store=lambda pool: PostgreSQLEventStore(pool, TARGET_TABLE, schema="nowhere")
    )
    async with refusal(world, PreflightError, "nowhere", "does not exist"):
        await process.start(world.tenant)


async def test_a_table_that_was_never_prepared(world: World) -> None:
    await world.target.execute("drop table eventsource_fences, eventsource_copy_progress")
    async with refusal(world, PreflightError, "eventsource_fences", "create_schema"):
        await world.here.start(world.tenant)


async def test_a_view_instead_of_a_table(world: World) -> None:
    for side in ("source", "target"):
        for kind in ("view", "materialized view"):
            name = f"a {kind}"
            await getattr(world, side).execute(
                f'create {kind} "{name}" as select * from {table(side)}'
            )
            process = await world.process(**store_named(side, name))
            async with refusal(world, PreflightError, side, name, "table"):
                await process.start(world.tenant)


#: Side, change of its table, and what is told about it.
MISFITS = [
    ("target", "drop column metadata", "lacks the source's column metadata"),
    ("source", "add column region text", "lacks the source's column region"),
    ("target", "drop column event_id", "target table lacks the column event_id"),
    ("source", "drop column transaction_id", "source table lacks the column transaction_id"),
    ("target", "drop column transaction_id", "target table lacks the column transaction_id"),
    ("target", "alter payload type json", "column payload is jsonb in the source and json"),
    ("target", "alter version type integer", "version is bigint in the source and integer"),
    ("target", "alter actor_id type varchar(9)", "actor_id is text in the source and char"),
    ("target", 'alter actor_id type text collate "C"', 'text collate pg_catalog."C" in the'),
    ("target", "add column region text not null", "column region is NOT NULL"),
    ("target", "alter event_id type text", "column event_id of the target table is text"),
    ("target", "alter global_position drop identity", "global_position"),
]


async def test_a_column_that_does_not_fit(world: World) -> None:
    for side, change, told in MISFITS:
        connection = getattr(world, side)
        await connection.execute(f"alter table {table(side)} {change}")
        process = await world.process()
        async with refusal(world, PreflightError, told):
            await process.start(world.tenant)
        await connection.execute(f"drop table {table(side)}")
        store = process.source if side == "source" else process.target
        await store.create_schema()
        await process.stop()


async def test_a_tenant_column_of_another_type(world: World) -> None:
    for side in ("source", "target"):
        await getattr(world, side).execute(
            f"alter table {table(side)} alter tenant_id type text using tenant_id::text"
        )
    async with refusal(world, PreflightError, "tenant_id", "uuid"):
        await world.here.start(world.tenant)


@pytest.mark.parametrize("side", ["source", "target", "control"])
async def test_a_database_that_cannot_be_reached(world: World, side: str) -> None:
    for change, told in (
        (lambda dsn: redirected(dsn, password=WRONG), "password authentication failed"),
        (lambda dsn: redirected(dsn, port=1), "check the"),
        (lambda dsn: dsn + "_gone", "does not exist"),
    ):
        process = await world.process(**elsewhere(world, side, change))
        async with refusal(world, PreflightError, side, told, "check the"):
            await process.start(world.tenant)


async def test_a_dsn_that_does_not_reach_what_the_pool_reaches(world: World) -> None:
    dsn = redirected(world.dsns["target"], password=WRONG)
    process = await world.process(
        target_store=lambda pool: PostgreSQLEventStore(pool, TARGET_TABLE, dsn=dsn)
    )
    async with refusal(world, PreflightError, "password authentication failed"):
        await process.start(world.tenant)


async def test_a_dsn_that_is_none(world: World) -> None:
    for dsn in (
        f"postgresql://app:{WRONG}@[::1/events",
        f"postgresql://app:{WRONG}@localhost:postgres/events",
        f"postgresql://app:{WRONG}@localhost:99999/events",
        f"mysql://app:{WRONG}@localhost/events",
        f"host=localhost password={WRONG}",
        f"postgresql://app:{WRONG}@localhost/events?sslmode=perhaps",
    ):
        process = await world.process(**store_named("target", TARGET_TABLE, dsn=dsn))
        async with refusal(world, PreflightError, "the target's database cannot be used"):
            await process.start(world.tenant)


async def test_a_read_only_target(world: World) -> None:
    name = await world.target.fetchval("select current_database()")
    await world.target.execute(f'alter database "{name}" set default_transaction_read_only = on')
    process = await world.process()
    async with refusal(world, PreflightError, "read-only"):
        await process.start(world.tenant)


async def test_a_second_migration_of_the_tenant(world: World) -> None:
    await world.seed(3)
    first = await world.dual_write()
    elsewhere = await world.process()
    for process in (world.here, elsewhere):
        with pytest.raises(MigrationAlreadyExistsError, match="abort it") as caught:
            await process.start(world.tenant)
        assert caught.value.migration_id == first.id
    assert [m.id for m in await world.coordinator.get_active_migrations()] == [first.id]


async def test_of_two_migrations_started_at_once_one_is_refused(world: World) -> None:
    elsewhere = await world.process()
    outcomes = await asyncio.gather(
        *(process.start(world.tenant) for process in (world.here, elsewhere) * 2),
        return_exceptions=True,
    )
    started = [m for m in outcomes if not isinstance(m, BaseException)]
    refused = [type(m) for m in outcomes if isinstance(m, BaseException)]
    assert refused == [MigrationAlreadyExistsError] * 3
    await world.reach(started[0], "dual_write")


async def test_an_unknown_migration_id(world: World) -> None:
    here, unknown = world.coordinator, uuid4()

    async def status() -> None:
        async for _ in here.stream_status(unknown):
            pass

    for call in (
        here.get_migration(unknown),
        here.get_sync_lag(unknown),
        here.pause_migration(unknown),
        here.resume_migration(unknown),
        here.abort_migration(unknown),
        here.initiate_cutover(unknown),
        status(),
    ):
        async with refusal(world, MigrationNotFoundError, str(unknown)):
            await call
    assert await here.get_migrations_by_tenant(world.tenant) == []


async def test_a_target_that_already_holds_the_tenant(world: World) -> None:
    await insert(world.target, world.tenant, side="target")
    async with refusal(world, PreflightError, "already holds", str(world.tenant), "abort"):
        await world.here.start(world.tenant)


async def test_a_target_that_is_the_source(world: World) -> None:
    process = await world.process(
        target_store=lambda pool: PostgreSQLEventStore(world.here.source.pool, SOURCE_TABLE)
    )
    async with refusal(world, PreflightError, "the target is the source"):
        await process.start(world.tenant)
    here = world.here
    async with refusal(world, PreflightError, "the target is the source"):
        await here.coordinator.start_migration(
            world.tenant, here.source, here.source, SOURCE, SOURCE
        )


async def test_control_tables_that_are_not_there(world: World, control_dsn: str) -> None:
    process = await world.process(control_dsn=control_dsn)
    async with refusal(world, PreflightError, "tenant_migrations", "init"):
        await process.start(world.tenant)


async def test_control_tables_made_from_the_guide_by_hand(world: World) -> None:
    await world.control.execute(
        "alter table tenant_migrations drop column config, drop column driver_owner;"
        "alter table tenant_routing drop column generation"
    )
    async with refusal(world, PreflightError, "tenant_migrations", "config", "init"):
        await world.here.start(world.tenant)


async def test_rows_that_came_from_another_cluster(world: World) -> None:
    row = await insert(world.source, world.tenant, transaction_id="9000000000")
    async with refusal(world, PreflightError, "another cluster", "set transaction_id = null"):
        await world.here.start(world.tenant)
    message = (
        await world.coordinator.preflight(world.tenant, world.here.source, world.here.target)
    ).problems[0]
    # The repair that it prints is one.
    await world.source.execute(message[message.index("alter table") :])
    migration = await world.migrate()
    assert migration.state is MigrationState.MIGRATED
    assert await world.ids("target") == [row["event_id"]]


async def test_rows_that_came_from_another_cluster_where_others_have_moved(world: World) -> None:
    """Once the statement was for everybody's rows, and the guard refused those of who has left."""
    await world.seed(3, world.other)
    await world.migrate(world.other)
    await world.source.execute(
        f"insert into {SOURCE_TABLE} (event_id, aggregate_id, aggregate_type, event_type,"
        " tenant_id, version, timestamp, payload, transaction_id) select gen_random_uuid(),"
        " gen_random_uuid(), 'Note', 'world.noted', $1, 1, now(), '{}', '9000000000'",
        world.tenant,
    )
    await world.source.execute(
        f"alter table {SOURCE_TABLE} disable trigger user;"
        f" update {SOURCE_TABLE} set transaction_id = '9000000000';"
        f" alter table {SOURCE_TABLE} enable trigger user;"
        f" select eventsource_guard_renew('{SOURCE_TABLE}'::regclass)"
    )
    found = await world.coordinator.preflight(world.tenant, world.here.source, world.here.target)
    [message] = found.problems
    await world.source.execute(message[message.index("alter table") :])
    await world.assert_moved(await world.migrate())


async def test_events_above_all_that_the_sequence_has_drawn(world: World) -> None:
    """As an import with positions of its own leaves them: a return would have reordered them."""
    await world.seed(20)
    await world.source.execute(
        f"update {SOURCE_TABLE} set global_position = global_position + 5000000000"
        f" where version > 5 and tenant_id = '{world.tenant}'"
    )
    async with refusal(world, PreflightError, "up to 50000000", "no more than 20", "setval("):
        await world.here.start(world.tenant)
    message = (
        await world.coordinator.preflight(world.tenant, world.here.source, world.here.target)
    ).problems[0]
    await world.source.execute(message[message.index("select setval") :])
    before = await world.ids("source")
    process = await world.process(keep_way_back=3600)
    migration = await world.dual_write(process=process)
    migration = await process.coordinator.initiate_cutover(migration.id)
    await process.append(world.tenant)
    await process.coordinator.return_migration(migration.id)
    assert (await world.ids("source"))[:20] == before
    assert len(await world.ids("source")) == 21


async def test_a_tenant_that_came_to_the_target_behind_the_preflight_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.seed(5)
    prepare = preparation.prepare

    async def write_there_first(*arguments: Any, **named: Any) -> None:
        if not await world.ids("target"):
            await insert(world.target, world.tenant, side="target")
        await prepare(*arguments, **named)

    monkeypatch.setattr(preparation, "prepare", write_there_first)
    migration = await world.here.start(world.tenant)
    failed = await world.reach(migration, "failed")
    assert failed.error_message is not None
    assert "already holds events of tenant" in failed.error_message
    await world.coordinator.abort_migration(migration.id)
    # They are not this migration's, so its abort does not delete them.
    assert len(await world.ids("target")) == 1
    await world.here.append(world.tenant)


@pytest.mark.parametrize(
    "absurd",
    [
        {"batch_size": 0},
        {"batch_size": -5},
        {"batch_size": 10.5},
        {"batch_size": True},
        {"batch_size": "1000"},
        {"batch_size": 10**9},
        {"sync_lag_threshold": -1},
        {"sync_lag_threshold": 0.5},
        {"cutover_timeout_seconds": 0},
        {"cutover_timeout_seconds": float("nan")},
        {"cutover_timeout_seconds": float("inf")},
        {"cutover_timeout_seconds": 1e6},
        {"cutover_timeout_seconds": None},
        {"verification_level": "md5"},
        {"sample_percentage": 0},
        {"sample_percentage": 101},
        {"max_events_per_second": 0},
        {"mirror_writes": "no"},
        {"chunk_bytes": 1},
        {"chunk_bytes": 1e6},
        {"copy_jobs": 0},
        {"copy_jobs": 65},
        {"pass_interval_seconds": 0},
        {"lease_seconds": -1},
    ],
    ids=lambda absurd: str(absurd),
)
def test_absurd_settings_raise_at_construction(absurd: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        MigrationConfig(**absurd)
    name, value = next(iter(absurd.items()))
    assert repr(value) in str(caught.value)
    if name != "verification_level":
        assert name in str(caught.value)


def test_an_unknown_setting_raises_at_construction() -> None:
    with pytest.raises(TypeError, match="batch_sise"):
        MigrationConfig(batch_sise=5)  # type: ignore[call-arg]


async def test_an_empty_tenant_moves(world: World) -> None:
    await world.seed(20, world.other)
    migration = await world.migrate()
    assert (migration.state, migration.total_events) == (MigrationState.MIGRATED, 0)
    assert migration.progress_percentage == 100
    result = await world.here.append(world.tenant)
    assert await world.ids("source") == []
    [event] = await world.target.fetch(f"select global_position from {table('target')}")
    assert event[0] == result.global_position
