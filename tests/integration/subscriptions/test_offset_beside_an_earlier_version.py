"""A process of a version that knows mapping rows only, beside a migration that keeps its offset."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from eventsource.migration.protocol import OFFSET
from tests.support import earlier
from tests.support.moved_by_hand import SOURCE_ID, TARGET_ID, Move

#: What brought the offset in place of rows.
BROUGHT_BY = "migration/subscriptions/held.py"

_ASKED = """
import asyncio, json, sys
from uuid import UUID
import asyncpg
from eventsource.migration import PositionMapper, ProtocolVersionError, SubscriptionMigrator
from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
from eventsource.subscriptions import PostgreSQLCheckpointRepository

async def main(dsn, migration, tenant):
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        mapper = PositionMapper(PostgreSQLPositionMappingRepository(pool))
        found = [await mapper.translate(UUID(migration), each) for each in range(-2, 19)]
        migrator = SubscriptionMigrator(mapper, PostgreSQLCheckpointRepository(pool))
        try:
            await migrator.migrate_subscriptions(UUID(migration), UUID(tenant), ["Orders"])
            refused = None
        except ProtocolVersionError as error:
            refused = error.needed
        print(json.dumps({"translated": found, "needed": refused}))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_it_translates_as_well_and_moves_no_subscription(
    source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path
) -> None:
    """Its count of events would be 0, so what it would foretell is wrong: it is refused."""
    environment = earlier.environment_before(BROUGHT_BY, tmp_path)
    async with Move.between(source_dsn, target_dsn, control_dsn) as moved:
        await moved.interleave()
        await moved.perform(offset=500)
        migration, fence = uuid4(), 15
        await moved.control.execute(
            "insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,"
            " position_offset, fence_position, protocol, config)"
            " values ($1, $2, $3, $4, 'migrated', 500, $5, $6, $7::text::jsonb)",
            migration, str(moved.tenant), SOURCE_ID, TARGET_ID, fence, OFFSET,
            json.dumps({"position_mapping": "offset"}),
        )  # fmt: skip
        await moved.checkpoints.save("Orders", SOURCE_ID, 5, moved.tenant)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _ASKED, control_dsn, str(migration), str(moved.tenant)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        said = json.loads(done.stdout)
        assert said["translated"] == [min(each, fence) + 500 for each in range(-2, 19)]
        assert said["needed"] == OFFSET
        assert await moved.checkpoints.get("Orders", TARGET_ID, moved.tenant) is None
