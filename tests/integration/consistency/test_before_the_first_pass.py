"""Two stores are not compared before the move between them has carried everything once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventsource.migration import ConsistencyVerifier, RetryLaterError
from eventsource.migration.models import VerificationLevel
from eventsource.migration.steps.bulk_copy import BulkCopier
from tests.support.worlds.three_databases import World


@pytest.mark.parametrize("level", VerificationLevel)
async def test_the_verifier_says_that_it_is_too_early(
    world: World, monkeypatch: pytest.MonkeyPatch, level: VerificationLevel
) -> None:
    """It reported what was still to be copied as differences; the command line knew better."""
    await world.seed(40)
    verifier = ConsistencyVerifier(world.here.source, world.here.target)
    going_on = asyncio.Event()
    run = BulkCopier.run

    async def waiting(self: BulkCopier, stopped: asyncio.Event | None = None) -> Any:
        await going_on.wait()
        return await run(self, stopped)

    monkeypatch.setattr(BulkCopier, "run", waiting)
    migration = await world.here.start(world.tenant)
    await world.reach(migration, "bulk_copy")
    with pytest.raises(RetryLaterError, match=f"no pass of migration {migration.id}"):
        await verifier.verify_tenant_consistency(world.tenant, level)
    going_on.set()
    await world.reach(migration, "dual_write")
    report = await verifier.verify_tenant_consistency(world.tenant, level)
    assert report.is_consistent
    assert report.source_event_count == 40
