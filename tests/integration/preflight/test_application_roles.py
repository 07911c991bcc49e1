"""What the application's role may do, at both sides, before its tenant moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration.preflight.findings import Findings
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World, table

COLUMNS = (
    "event_id, aggregate_id, aggregate_type, event_type, tenant_id, version, timestamp, actor_id,"
    " payload, metadata"
)
#: What it lacks at the target, and what the finding must say.
LACKS = {
    "insert": ("revoke insert on {t} from {r}", "cannot append events", "grant insert on"),
    "a column": (
        f"revoke insert on {{t}} from {{r}}; grant insert ({COLUMNS.replace(', actor_id', '')})"
        " on {t} to {r}", "cannot append events", "grant insert on",
    ),
    "select": ("revoke select on {t} from {r}", "cannot read events", "grant select on"),
    "usage": (
        "revoke all on schema public from public; revoke usage on schema public from {r}",
        "cannot reach the table", "grant usage on schema",
    ),
    "feed": (
        "revoke execute on function eventsource_arriving(text) from public",
        "cannot read the feed", "grant execute on function",
    ),
    "what is hidden": (
        "revoke execute on function eventsource_hidden(text) from public",
        "cannot read the feed", "grant execute on function",
    ),
    "head": (
        "revoke select on all sequences in schema public from {r}",
        "cannot read the feed", "grant select on sequence",
    ),
    "sequence": (
        "create sequence drawn owned by {t}.global_position;"
        "alter table {t} alter global_position drop identity;"
        "alter table {t} alter global_position set default nextval('drawn');"
        "grant select on drawn to {r}",
        "cannot draw positions", "grant usage on sequence",
    ),
}  # fmt: skip


@pytest.fixture
async def role(world: World) -> AsyncIterator[str]:
    """One that may do everything at both sides, and has a session at the source."""
    name = f"app_{uuid4().hex[:8]}"
    for side in ("source", "target"):
        await getattr(world, side).execute(
            f"create role {name} login password 'secret'; grant usage on schema public to {name};"
            f" grant select, insert on {table(side)} to {name};"
            f" grant select on all sequences in schema public to {name}"
        )
    yield name
    for side in ("source", "target"):
        await getattr(world, side).execute(f"drop owned by {name}; drop role {name}")


async def connected(world: World, role: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(world.dsns["source"], user=role, password="secret")
    world.connections.append(connection)
    return connection


async def findings(world: World, source: str | None = None, target: str | None = None) -> Findings:
    here = world.here
    pools = here.pools
    return await here.coordinator.preflight(
        world.tenant,
        PostgreSQLEventStore(pools[0], SOURCE_TABLE, application_role=source),
        PostgreSQLEventStore(pools[1], TARGET_TABLE, application_role=target),
    )


@pytest.mark.parametrize("given", [False, True])
async def test_a_role_with_every_right_is_no_finding(world: World, role: str, given: bool) -> None:
    await connected(world, role)
    found = await findings(world, role if given else None)
    assert (found.problems, found.warnings) == ([], [])


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("lacks", LACKS)
async def test_what_the_role_lacks_at_the_target_refuses_the_move_with_the_grant(
    world: World, role: str, lacks: str, given: bool
) -> None:
    await connected(world, role)
    statement, problem, grant = LACKS[lacks]
    await world.target.execute(statement.format(t=table("target"), r=role))
    [found] = (await findings(world, role if given else None)).problems
    for part in (role, problem, "at the target", grant):
        assert part in found
    assert ("application_role" in found) is not given
    # The statement that it names is the remedy.
    await world.target.execute(found.partition("; ")[2].partition("; or name")[0])
    assert (await findings(world, role if given else None)).problems == []


async def test_the_target_may_have_a_role_of_its_own(world: World, role: str) -> None:
    await connected(world, role)
    await world.target.execute(f"revoke insert on {table('target')} from {role}")
    other = f"theirs_{uuid4().hex[:8]}"
    await world.target.execute(
        f"create role {other}; grant usage on schema public to {other};"
        f" grant select, insert on {table('target')} to {other};"
        f" grant select on all sequences in schema public to {other}"
    )
    try:
        assert (await findings(world, None, other)).problems == []
    finally:
        await world.target.execute(f"drop owned by {other}; drop role {other}")


async def test_a_named_role_that_is_not_there_is_a_problem(world: World, role: str) -> None:
    for source, target in (("nobody", role), (role, "nobody")):
        [problem] = (await findings(world, source, target)).problems
        assert "no role 'nobody'" in problem
        assert "application_role" in problem


async def test_a_mirror_without_rights_is_a_warning(world: World, role: str) -> None:
    await world.target.execute(
        "revoke execute on all functions in schema public from public;"
        " grant execute on function eventsource_arriving(text), eventsource_hidden(text)"
        f" to {role}"
    )
    found = await findings(world, role)
    assert found.problems == []
    [warning] = found.warnings
    assert "eventsource_mirror" in warning
    await world.target.execute(warning.partition("; ")[2])
    assert (await findings(world, role)).warnings == []
