"""Row-level security on tables of ours: what is hidden is never taken for what is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationError, RoutingError
from eventsource.migration.event_table import EventTable
from eventsource.migration.preflight.control import check_control
from eventsource.migration.preflight.findings import Findings
from eventsource.migration.repositories import PostgreSQLRoutingRepository
from eventsource.migration.tables import fences, guard
from tests.support.one_fence import guarded, refused
from tests.support.worlds.three_databases import World, insert

HIDING = {
    "no policy": "alter table {t} enable row level security",
    "forced": "alter table {t} enable row level security; alter table {t} force row level security",
    "policy of another role": "alter table {t} enable row level security;"
    " create policy p on {t} for select to pg_monitor using (true)",
    "policy that shows some": "alter table {t} enable row level security;"
    " create policy p on {t} using (store_id = 'somewhere else')",
    "restricted": "alter table {t} enable row level security;"
    " create policy p on {t} using (true);"
    " create policy q on {t} as restrictive using (store_id = 'somewhere else')",
    "policy for writing only": "alter table {t} enable row level security;"
    " create policy p on {t} for update using (true)",
}

SHOWING = {
    "off": "alter table {t} disable row level security",
    "for all": "alter table {t} enable row level security; create policy p on {t} using (true)",
    "for the role": "alter table {t} enable row level security;"
    " create policy p on {t} for select to {role} using (true)",
}


@pytest.fixture
async def role(world: World) -> AsyncIterator[str]:
    """One that may read everything of ours and owns nothing."""
    name = f"reader_{uuid4().hex[:8]}"
    for connection in (world.control, world.source):
        await connection.execute(
            f"do $$ begin create role {name}; exception when duplicate_object then end $$;"
            f" grant select on all tables in schema public to {name}"
        )
    yield name
    for connection in (world.control, world.source):
        await connection.execute(f"drop owned by {name}")
    await world.control.execute(f"drop role {name}")


async def as_role(world: World, side: str, role: str) -> asyncpg.Connection:
    connection = await world.connect(side)
    await connection.execute(f"set role {role}")
    return connection


@pytest.mark.parametrize("rule", HIDING)
async def test_a_route_that_may_be_hidden_is_an_error(world: World, role: str, rule: str) -> None:
    await world.control.execute(
        f"insert into tenant_routing (tenant_id, store_id) values ('{world.tenant}', 'dedicated-a')"
    )
    await world.control.execute(HIDING[rule].format(t="tenant_routing"))
    routes = PostgreSQLRoutingRepository(await as_role(world, "control", role))
    for tenant in (world.tenant, world.other):
        with pytest.raises(RoutingError, match="create policy eventsource_reads on tenant_routing"):
            await routes.get_routing(tenant)
    with pytest.raises(RoutingError):
        await routes.get_routings([world.tenant, world.other])
    findings = Findings()
    await check_control(routes.pool, findings)
    assert any("row-level security of tenant_routing" in each for each in findings.problems)


@pytest.mark.parametrize(
    ("policies", "is_enough"),
    [
        (["to {role} using (true)"], True),
        (
            ["for select using (true)", "for insert with check (true)", "for update using (true)",
             "for delete using (true)"],
            True,
        ),
        (["for select using (true)"], False),
        (["using (true) with check (store_id <> '')"], False),
        (["using (true)", "as restrictive for insert with check (store_id <> '')"], False),
    ],
)  # fmt: skip
async def test_who_migrates_needs_policies_for_what_it_writes(
    world: World, role: str, policies: list[str], is_enough: bool
) -> None:
    await world.control.execute("alter table tenant_routing enable row level security")
    for number, policy in enumerate(policies):
        await world.control.execute(
            f"create policy p{number} on tenant_routing {policy.format(role=role)}"
        )
    findings = Findings()
    await check_control(await as_role(world, "control", role), findings)
    found = [each for each in findings.problems if "row-level security of tenant_routing" in each]
    assert (found == []) is is_enough
    for each in found:
        remedy = each.split("; ")[1].split(", or ")[0]
        await world.control.execute(f"drop policy p{len(policies) - 1} on tenant_routing; {remedy}")
        again = Findings()
        await check_control(await as_role(world, "control", role), again)
        assert not any("row-level security of tenant_routing" in each for each in again.problems)


@pytest.mark.parametrize("rule", SHOWING)
async def test_a_route_that_is_not_there_and_cannot_be_hidden_is_none(
    world: World, role: str, rule: str
) -> None:
    await world.control.execute(
        f"insert into tenant_routing (tenant_id, store_id) values ('{world.tenant}', 'dedicated-a')"
    )
    await world.control.execute(SHOWING[rule].format(t="tenant_routing", role=role))
    routes = PostgreSQLRoutingRepository(await as_role(world, "control", role))
    assert await routes.get_routing(world.other) is None
    assert (await routes.get_routings([world.tenant, world.other])).keys() == {world.tenant}


@pytest.mark.parametrize("rule", HIDING)
async def test_a_fence_that_may_be_hidden_is_an_error(world: World, role: str, rule: str) -> None:
    it = await guarded(world)
    await world.source.execute(HIDING[rule].format(t="eventsource_fences"))
    table = EventTable(await as_role(world, "source", role), it.table.address)
    with pytest.raises(MigrationError, match="row-level security"):
        await fences.read(table, world.tenant)


async def test_a_guard_is_never_made_from_fences_that_are_hidden(world: World) -> None:
    """It would be made without them."""
    it = await guarded(world)
    await it.set_state("moved")
    owner = f"owner_{uuid4().hex[:8]}"
    await world.source.execute(
        f"create role {owner}; grant usage, create on schema public to {owner};"
        f" alter table events owner to {owner}; alter table eventsource_fences owner to {owner};"
        f" grant all on all functions in schema public to {owner};"
        " alter table eventsource_fences enable row level security;"
        " alter table eventsource_fences force row level security"
    )
    try:
        table = EventTable(await as_role(world, "source", owner), it.table.address)
        error = await refused(guard.renew(table), "42501")
        # The role may not replace the functions of another owner either, and that is as well.
        assert "row-level security" in str(error)
        await refused(insert(world.source, world.tenant), "EVF01")
    finally:
        await table.connection.close()
        await world.source.execute(
            f"reassign owned by {owner} to postgres; drop owned by {owner}; drop role {owner}"
        )
