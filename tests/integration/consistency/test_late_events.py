"""Events that get past the guard after the move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventsource.migration import ConsistencyVerifier, VerificationLevel
from tests.support.worlds.three_databases import World, insert, table


async def slip_past_the_guard(world: World, row: Any = None) -> Any:
    """As a script does that disables triggers for a while."""
    await world.source.execute("alter table events disable trigger all")
    late = row or await insert(world.source, world.tenant)
    await world.source.execute("alter table events enable trigger all")
    return late


@pytest.mark.parametrize("level", list(VerificationLevel))
async def test_an_event_that_got_past_the_guard_is_a_violation_at_every_level(
    world: World, level: VerificationLevel, tmp_path: Path
) -> None:
    await world.seed(20)
    await world.migrate()
    verifier = ConsistencyVerifier(world.here.source, world.here.target)
    assert (await verifier.verify_tenant_consistency(world.tenant, level)).is_consistent
    await world.here.append(world.tenant)
    late = await slip_past_the_guard(world)
    report = await verifier.verify_tenant_consistency(world.tenant, level)
    assert not report.is_consistent
    assert [(v.kind, v.event_id) for v in report.violations] == [("late", late["event_id"])]
    if level is not VerificationLevel.COUNT:
        resumed = await verifier.verify_tenant_consistency(
            world.tenant, level, state_file=tmp_path / "state"
        )
        assert not resumed.is_consistent


async def test_an_event_that_the_target_holds_as_well_is_none(world: World) -> None:
    """Such as one that was carried back."""
    await world.seed(5)
    await world.migrate()
    await world.here.append(world.tenant)
    there = f"select * from {table('target')} where tenant_id = $1 order by global_position desc"
    row = await world.target.fetchrow(f"{there} limit 1", world.tenant)
    assert row is not None
    values = {name: value for name, value in row.items() if name != "transaction_id"}
    names, places = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await world.source.execute("alter table events disable trigger all")
    await world.source.execute(f"insert into events ({names}) values ({places})", *values.values())
    await world.source.execute("alter table events enable trigger all")
    verifier = ConsistencyVerifier(world.here.source, world.here.target)
    assert (await verifier.verify_tenant_consistency(world.tenant)).is_consistent
    await world.source.execute("alter table events disable trigger all")
    await world.source.execute(
        "update events set payload = '{}' where event_id = $1", row["event_id"]
    )
    assert not (await verifier.verify_tenant_consistency(world.tenant)).is_consistent
