"""Writer processes on a store without any migration: what they record is what is there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import (
    Outcome,
    StoreAddress,
    WriterConfig,
    WriterProcess,
    check_unmoved,
    longest_append,
)


@pytest.fixture
async def store(source_dsn: str) -> StoreAddress:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=1) as pool:
        await PostgreSQLEventStore(pool, "events").create_schema()
    return StoreAddress(source_dsn)


def _config(store: StoreAddress, directory: Path, tenant: UUID, **options: Any) -> WriterConfig:
    return WriterConfig(
        name="writer",
        stores={"shared": store},
        source="shared",
        frozen=True,
        tenants=[tenant],
        directory=directory,
        **{"tasks": 4, "appends_per_second": 30.0, **options},
    )


@pytest.mark.parametrize(
    "options",
    [
        {"slow_commits": 0.2},
        {"isolation": "repeatable read"},
        {"isolation": "serializable", "slow_commits": 0.2},
        {"replica_role": True},
    ],
    ids=["slow-commits", "repeatable-read", "serializable", "replica-role"],
)
async def test_everything_acknowledged_is_stored_once_and_in_order(
    store: StoreAddress, tmp_path: Path, options: dict[str, Any]
) -> None:
    tenant = uuid4()
    with WriterProcess.start(_config(store, tmp_path, tenant, **options)) as writer:
        writer.wait_for_acknowledged(60, tenant)
    attempts = writer.attempts()
    report = await check_unmoved(store=store, tenant_id=tenant, attempts=attempts)
    report.assert_clean()
    assert report.found == report.acknowledged > 0
    assert report.unknown == 0
    assert 0 < longest_append(attempts, tenant) < 30
    assert {len(attempt.event_ids) for attempt in attempts} <= set(range(1, 11))


async def test_what_a_killed_writer_was_told_is_on_record(
    store: StoreAddress, tmp_path: Path
) -> None:
    tenant = uuid4()
    writer = WriterProcess.start(_config(store, tmp_path, tenant, slow_commits=1.0))
    writer.wait_for_acknowledged(5, tenant)
    writer.kill()
    attempts = writer.attempts()
    report = await check_unmoved(store=store, tenant_id=tenant, attempts=attempts)
    report.assert_clean()
    assert report.unknown > 0
    assert Outcome.UNKNOWN in {attempt.outcome for attempt in attempts}


@pytest.mark.parametrize("how", ["signal", "file", "parent"])
async def test_a_writer_ends_cleanly_when_it_is_told_to(
    store: StoreAddress, tmp_path: Path, how: str
) -> None:
    tenant = uuid4()
    writer = WriterProcess.start(_config(store, tmp_path, tenant))
    writer.wait_for_acknowledged(5, tenant)
    if how == "signal":
        os.kill(writer.pid, signal.SIGTERM)
    elif how == "file":
        writer.config.stop_path.touch()
    else:
        # What the death of the process that started it looks like.
        writer.abandon()
    assert writer.wait(30) == 0
    assert Outcome.UNKNOWN not in {attempt.outcome for attempt in writer.attempts()}
