"""A tenant has moved: its subscriptions skip nothing and get twice exactly what the plan says."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from eventsource.migration.repositories import PostgreSQLAuditLogRepository
from eventsource.migration.subscriptions.redelivered import Redelivered
from tests.support.moved_by_hand import Move


@pytest.fixture
async def move(source_dsn: str, target_dsn: str, control_dsn: str) -> AsyncIterator[Move]:
    async with Move.between(source_dsn, target_dsn, control_dsn) as made:
        yield made


@pytest.mark.parametrize("carried", [True, False])
async def test_from_every_checkpoint_nothing_is_skipped_and_repeats_are_predicted(
    move: Move, carried: bool
) -> None:
    moved = await move.interleave()
    head = await move.source.get_global_position()
    for position in range(head + 3):
        await move.checkpoints.save(f"all-{position}", "shared", position)
        await move.checkpoints.save(f"own-{position}", "shared", position, move.tenant)
    await move.perform(carried=carried)
    after = [100, 101]
    for number in after:
        await move.append(move.target, move.tenant, number)
    source_positions = [
        event.global_position async for event in move.source.read_all(0, tenant_id=move.tenant)
    ]

    for position in range(head + 3):
        handled = {
            number for number, at in zip(moved, source_positions, strict=True) if at <= position
        }
        for name in (f"all-{position}", f"own-{position}"):
            plan = await move.migrator.plan_migration(move.migration_id, move.tenant, [name])
            [planned] = plan.planned_migrations
            summary = await move.migrator.migrate_subscriptions(
                move.migration_id, move.tenant, [name]
            )
            assert summary.all_successful
            assert summary.results[0].target_position == planned.planned_target_position
            deliveries = Counter(handled)
            predicted = planned.redelivered_events
            if name.startswith("all"):
                deliveries.update(await move.numbers(name, "shared", None))
            deliveries.update(await move.numbers(name, "dedicated-a", move.tenant))
            assert set(deliveries) == {*moved, *after}, "skipped"
            repeated = sum(deliveries.values()) - len(deliveries)
            assert repeated == planned.redelivered_events, (name, deliveries)
            assert await move.redelivered(name) == Redelivered(name, predicted, repeated, 0)


@pytest.mark.parametrize("held", [0, 3])
@pytest.mark.parametrize("carried", [True, False])
async def test_a_reader_of_all_tenants_of_the_target_is_counted_also_where_it_had_nothing(
    move: Move, held: int, carried: bool
) -> None:
    """It has looked at the target before the tenant came, and found some events or none."""
    for number in range(held):
        await move.append(move.target, uuid4(), number)
    moved = await move.interleave()
    await move.numbers("orders", "dedicated-a", None)
    handled = Counter(await move.numbers("orders", "shared", None))
    await move.perform(carried=carried)
    plan = await move.migrator.plan_migration(move.migration_id, move.tenant, ["orders"])
    [planned] = plan.planned_migrations
    predicted = planned.redelivered_events
    assert "also reads all tenants" in (planned.warning or "")
    await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, ["orders"])
    assert await move.redelivered("orders") == Redelivered("orders", predicted, 0, predicted)
    again = Counter(await move.numbers("orders", "dedicated-a", None))
    assert await move.redelivered("orders") == Redelivered("orders", predicted, again.total(), 0)
    again.update(await move.numbers("orders", "dedicated-a", move.tenant))
    assert set(moved) <= set(handled)
    assert sum(again[number] for number in moved) == planned.redelivered_events


@pytest.mark.parametrize("own", [True, False], ids=["of one tenant", "of all tenants"])
async def test_a_reader_that_lags_and_reads_all_tenants_of_the_target_is_counted_exactly(
    move: Move, own: bool
) -> None:
    await move.numbers("orders", "dedicated-a", None)
    moved = await move.interleave()
    tenant = move.tenant if own else None
    await move.checkpoints.save("orders", "shared", 8, tenant)
    handled = Counter(number for number in moved if number < 8)
    await move.perform()
    summary = await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, ["orders"])
    predicted = summary.results[0].redelivered_events
    if not own:
        handled.update(await move.numbers("orders", "shared", None))
    for reader in (None, move.tenant):
        handled.update(await move.numbers("orders", "dedicated-a", reader))
    assert set(handled) == set(moved)
    assert predicted == handled.total() - len(moved)
    assert await move.redelivered("orders") == Redelivered("orders", predicted, predicted, 0)


async def test_what_nobody_has_foretold_is_counted_too(move: Move) -> None:
    """A reader of all tenants of the target that begins later, and one at the source that was
    to be stopped."""
    moved = await move.interleave()
    await move.checkpoints.save("orders", "shared", 8, move.tenant)
    await move.perform()
    await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, ["orders"])
    assert await move.redelivered("orders") == Redelivered("orders", 0, 0, 0)
    at_the_source = await move.numbers("orders", "shared", move.tenant)
    assert await move.redelivered("orders") == Redelivered("orders", 0, 0, len(at_the_source))
    at_the_target = await move.numbers("orders", "dedicated-a", move.tenant)
    assert at_the_source == at_the_target
    assert await move.redelivered("orders") == Redelivered("orders", 0, len(at_the_source), 0)
    assert await move.numbers("orders", "dedicated-a", None) == moved
    more = len(at_the_source) + len(moved)
    assert await move.redelivered("orders") == Redelivered("orders", 0, more, 0)


async def test_one_that_an_earlier_version_has_carried_over_is_not_guessed(move: Move) -> None:
    await move.interleave()
    await move.checkpoints.save("orders", "shared", 8)
    await move.perform()
    await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, ["orders"])
    await move.control.execute(
        "update migration_audit_log set details ="
        " details #- '{subscriptions,0,read_with_all}' #- '{subscriptions,0,target_read_with_all}'"
    )
    found = await move.redelivered("orders")
    assert (found.predicted, found.so_far, found.left) == (2, None, None)
    assert "an earlier version" in str(found.unknown)


async def test_checkpoints_that_cannot_be_read_are_said(move: Move) -> None:
    await move.interleave()
    await move.perform()
    await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, ["orders"])
    await move.control.execute("drop table subscription_checkpoints")
    found = await move.redelivered("orders")
    assert (found.so_far, found.left) == (None, None)
    assert "cannot be read" in str(found.unknown)


async def test_a_reader_of_one_tenant_leaves_no_checkpoint_where_it_found_nothing(
    move: Move,
) -> None:
    """It would keep the checkpoint from being translated."""
    assert await move.numbers("orders", "dedicated-a", move.tenant) == []
    assert await move.checkpoints.list_checkpoints() == []


async def test_migrating_twice_and_late_changes_no_checkpoint(move: Move) -> None:
    await move.interleave()
    await move.checkpoints.save("orders", "shared", 7)
    await move.perform()
    names = ["orders", "never-ran"]
    await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, names, operator="ada")
    await move.numbers("orders", "dedicated-a", move.tenant)
    await move.numbers("orders", "shared", None)
    before = await move.checkpoints.list_checkpoints()
    summary = await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, names)
    assert await move.checkpoints.list_checkpoints() == before
    assert [result.created for result in summary.results] == [False, False]
    log = await PostgreSQLAuditLogRepository(move.control).get_by_migration(move.migration_id)
    assert [(entry.event_type, entry.operator) for entry in log] == [
        ("subscriptions_migrated", "ada"),
        ("subscriptions_migrated", None),
    ]
    assert log[0].details["subscriptions"][0]["name"] == "orders"


async def test_a_tenant_without_events_moves_its_subscriptions_too(move: Move) -> None:
    for number in range(4):
        await move.append(move.source, uuid4(), number)
    await move.checkpoints.save("orders", "shared", 2)
    await move.perform()
    await move.migrator.migrate_subscriptions(move.migration_id, move.tenant, ["orders"])
    await move.append(move.target, move.tenant, 100)
    assert await move.numbers("orders", "dedicated-a", move.tenant) == [100]


STOPPED_BY_CTRL_C = """
import asyncio, sys
import asyncpg
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository, Subscription

async def show(event):
    print(event.payload["number"], flush=True)
    if event.payload["number"] == 4:
        await asyncio.sleep(3600)

async def main():
    async with asyncpg.create_pool(sys.argv[1], min_size=1, max_size=2) as source:
        async with asyncpg.create_pool(sys.argv[2], min_size=1, max_size=2) as control:
            checkpoints = PostgreSQLCheckpointRepository(control)
            store = PostgreSQLEventStore(source)
            await Subscription("s", store, "shared", checkpoints, show, batch_size=2).run()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


async def test_ctrl_c_ends_a_running_subscription_before_the_batch_in_hand(
    move: Move, source_dsn: str, control_dsn: str
) -> None:
    for number in range(1, 6):
        await move.append(move.source, move.tenant, number)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPPED_BY_CTRL_C, source_dsn, control_dsn,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode().strip() for _ in range(4)]
    assert lines == ["1", "2", "3", "4"]
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        rest, complaints = await process.communicate()
    assert (process.returncode, rest.decode().strip(), complaints.decode()) == (
        0,
        "interrupted",
        "",
    )
    second = [event async for event in move.source.read_all(0, limit=2)][-1]
    kept = await move.checkpoints.get("s", "shared")
    assert kept is not None
    assert kept.position == second.global_position
