"""One contract for both checkpoint repositories, and what only a table can get wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.errors import StoreSchemaError
from eventsource.subscriptions import (
    CheckpointRepository,
    InMemoryCheckpointRepository,
    PostgreSQLCheckpointRepository,
)

NIL = UUID(int=0)


@pytest.fixture
async def pool(control_dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(control_dsn, min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture(params=["memory", "postgresql"])
async def repository(request: pytest.FixtureRequest, pool: asyncpg.Pool) -> CheckpointRepository:
    if request.param == "memory":
        return InMemoryCheckpointRepository()
    made = PostgreSQLCheckpointRepository(pool)
    await made.create_schema()
    return made


async def test_a_checkpoint_is_keyed_by_subscription_store_and_tenant(
    repository: CheckpointRepository,
) -> None:
    tenant = uuid4()
    keys = [
        ("orders", "shared", None),
        ("orders", "shared", tenant),
        ("orders", "shared", NIL),
        ("orders", "dedicated", tenant),
        ("invoices", "shared", None),
    ]
    for position, (name, store, of_tenant) in enumerate(keys, start=1):
        assert await repository.get(name, store, of_tenant) is None
        await repository.save(name, store, position, of_tenant)
    for position, (name, store, of_tenant) in enumerate(keys, start=1):
        kept = await repository.get(name, store, of_tenant)
        assert kept is not None
        assert (kept.subscription_name, kept.store_id, kept.tenant_id) == (name, store, of_tenant)
        assert kept.position == position
    assert await repository.get("orders", "shared", uuid4()) is None
    assert len(await repository.list_checkpoints()) == len(keys)
    listed = [(c.store_id, c.tenant_id) for c in await repository.list_checkpoints("orders")]
    assert listed[0] == ("dedicated", tenant)
    assert listed[1] == ("shared", None)
    assert listed[2:] == [("shared", NIL), ("shared", tenant)]


@pytest.mark.parametrize("tenant", [None, uuid4()])
async def test_saving_never_moves_back_unless_forced(
    repository: CheckpointRepository, tenant: UUID | None
) -> None:
    first = await repository.save("orders", "shared", 10, tenant)
    assert first.position == 10
    assert (await repository.save("orders", "shared", 7, tenant)).position == 10
    later = await repository.save("orders", "shared", 12, tenant)
    assert later.position == 12
    assert later.updated_at >= first.updated_at
    assert (await repository.save("orders", "shared", 3, tenant, force=True)).position == 3
    kept = await repository.get("orders", "shared", tenant)
    assert kept is not None
    assert kept.position == 3
    assert len(await repository.list_checkpoints()) == 1


@pytest.mark.parametrize("tenant", [None, uuid4()])
async def test_save_if_absent_keeps_what_is_there(
    repository: CheckpointRepository, tenant: UUID | None
) -> None:
    made, created = await repository.save_if_absent("orders", "shared", 10, tenant)
    assert (made.position, created) == (10, True)
    for position in (5, 50):
        kept, created = await repository.save_if_absent("orders", "shared", position, tenant)
        assert (kept.position, created) == (10, False)


@pytest.mark.parametrize("tenant", [None, uuid4()])
async def test_only_what_was_read_is_replaced(
    repository: CheckpointRepository, tenant: UUID | None
) -> None:
    read = await repository.save("orders", "shared", 4_000, tenant)
    made, created = await repository.save_if_absent("orders", "shared", 10, tenant, over=read)
    assert (made.position, created) == (10, True)
    await repository.save("orders", "shared", 20, tenant)
    kept, created = await repository.save_if_absent("orders", "shared", 10, tenant, over=read)
    assert (kept.position, created) == (20, False)


async def test_a_key_without_name_or_store_is_refused(repository: CheckpointRepository) -> None:
    with pytest.raises(ValueError, match="name of its subscription"):
        await repository.save("", "shared", 1)
    with pytest.raises(ValueError, match="id of its store"):
        await repository.save_if_absent("orders", "", 1)


async def test_of_many_savers_at_once_the_furthest_position_stays(pool: asyncpg.Pool) -> None:
    """A read followed by a write would lose to a slower saver that read earlier."""
    repository = PostgreSQLCheckpointRepository(pool)
    await repository.create_schema()
    order = [(position * 37) % 101 for position in range(101)]
    await asyncio.gather(*(repository.save("orders", "shared", p) for p in order))
    kept = await repository.get("orders", "shared")
    assert kept is not None
    assert kept.position == 100
    assert await pool.fetchval("select count(*) from subscription_checkpoints") == 1


async def test_only_one_of_many_creates_the_checkpoint(pool: asyncpg.Pool) -> None:
    repository = PostgreSQLCheckpointRepository(pool)
    await repository.create_schema()
    tenant = uuid4()
    answers = await asyncio.gather(
        *(repository.save_if_absent("orders", "shared", p, tenant) for p in range(40))
    )
    assert sum(created for _, created in answers) == 1
    assert len({kept.position for kept, _ in answers}) == 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_subscriptions_of_a_role_whose_snapshots_are_frozen_save_at_once(
    control_dsn: str, level: str
) -> None:
    settings = {"default_transaction_isolation": level}
    async with asyncpg.create_pool(
        control_dsn, min_size=1, max_size=4, server_settings=settings
    ) as pool:
        repository = PostgreSQLCheckpointRepository(pool)
        await repository.create_schema()
        await asyncio.gather(
            *(repository.save("orders", "shared", p) for p in range(40)),
            *(repository.save_if_absent(f"orders {p % 3}", "shared", p) for p in range(20)),
            *(repository.save(f"orders {p}", "shared", 7, force=True) for p in range(3)),
        )
        kept = await repository.list_checkpoints()
    found = {each.subscription_name: each.position for each in kept}
    assert found.pop("orders") == 39
    assert sorted(found) == ["orders 0", "orders 1", "orders 2"]


async def test_the_schema_can_be_made_by_several_at_once_and_again(pool: asyncpg.Pool) -> None:
    repository = PostgreSQLCheckpointRepository(pool)
    await asyncio.gather(*(repository.create_schema() for _ in range(6)))
    await repository.save("orders", "shared", 4)
    await repository.create_schema()
    kept = await repository.get("orders", "shared")
    assert kept is not None
    assert kept.position == 4


async def test_a_missing_table_is_an_error_that_names_the_fix(pool: asyncpg.Pool) -> None:
    with pytest.raises(StoreSchemaError, match=r"create_schema\(\)"):
        await PostgreSQLCheckpointRepository(pool).get("orders", "shared")


async def test_one_connection_serves_in_place_of_a_pool(control_dsn: str) -> None:
    connection = await asyncpg.connect(control_dsn)
    try:
        repository = PostgreSQLCheckpointRepository(connection)
        await repository.create_schema()
        async with connection.transaction():
            await repository.save("orders", "shared", 4)
        kept = await repository.get("orders", "shared")
    finally:
        await connection.close()
    assert kept is not None
    assert kept.position == 4
