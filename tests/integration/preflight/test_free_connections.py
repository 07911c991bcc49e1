"""How many connections the target has free, for a role that is shown little of others' sessions."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.support.owning_role import owning_role
from tests.support.worlds.three_databases import World, make_world

SESSIONS = 20


async def _free(world: World) -> int:
    found = await world.coordinator.preflight(world.tenant, world.here.source, world.here.target)
    assert not found.problems
    assert found.connections is not None
    return found.connections[1]


async def test_sessions_of_other_roles_are_not_free(
    source_dsn: str, target_dsn: str, control_dsn: str
) -> None:
    """Once they were: a role that may not read their kind counted none of them."""
    dsns = {"source": source_dsn, "target": target_dsn, "control": control_dsn}
    async with owning_role(dsns) as role:
        world = await make_world(role.dsns)
        before = await _free(world)
        others = await asyncio.gather(*(asyncpg.connect(target_dsn) for _ in range(SESSIONS)))
        # Of other tests, and of the server itself, some may come and go.
        assert abs(before - SESSIONS - await _free(world)) < SESSIONS / 2
        await asyncio.gather(*(each.close() for each in others))
        await world.close()


@pytest.mark.parametrize(
    "limit",
    [
        "alter role {role} connection limit {most}",
        'alter database "{database}" connection limit {most}',
    ],
)
async def test_a_limit_of_the_role_or_of_the_database_counts_as_the_servers_does(
    source_dsn: str, target_dsn: str, control_dsn: str, limit: str
) -> None:
    """A plan said that 196 were free, and the move waited for good for its second one."""
    dsns = {"source": source_dsn, "target": target_dsn, "control": control_dsn}
    async with owning_role(dsns) as role:
        world = await make_world(role.dsns)
        superuser = await asyncpg.connect(target_dsn)
        database = await superuser.fetchval("select current_database()")
        names = {"role": role.quoted, "database": database, "most": SESSIONS}
        await superuser.execute(limit.format(**names))
        assert 0 < await _free(world) < SESSIONS
        await superuser.execute(limit.format(**names | {"most": 6}))
        found = await world.coordinator.preflight(
            world.tenant, world.here.source, world.here.target
        )
        [warned] = [each for each in found.warnings if "free for this role" in each]
        assert "or the connection limit of the role or the database" in warned
        await superuser.execute(limit.format(**names | {"most": -1}))
        await superuser.close()
        await world.close()
