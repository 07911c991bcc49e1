"""A role that belongs to the owner of a table, and does not have its rights."""

from __future__ import annotations

from functools import partial

import asyncpg
import pytest

from tests.support.owning_role import owning_role
from tests.support.worlds.three_databases import make_world, table


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_member_that_does_not_inherit_is_told_how_it_would(
    source_dsn: str, target_dsn: str, control_dsn: str, side: str
) -> None:
    """It was told to grant what it had already."""
    dsns = {"source": source_dsn, "target": target_dsn, "control": control_dsn}
    async with owning_role(dsns) as role:
        world = await make_world(role.dsns)
        superuser = await asyncpg.connect(dsns[side])
        keeper = f"keeper_{await superuser.fetchval('select current_database()')}"
        await superuser.execute(
            f"create role {keeper}; alter role {role.quoted} noinherit;"
            f" grant {keeper} to {role.quoted}; alter table {table(side)} owner to {keeper};"
            f" grant select, insert, update, delete on {table(side)} to {role.quoted};"
            f" grant all on all sequences in schema public to {role.quoted}"
        )
        try:
            look = partial(world.coordinator.preflight, world.tenant)
            found = await look(world.here.source, world.here.target)
            [problem] = found.problems
            assert f"does not own the {side} table" in problem
            assert "it is a member that does not" in problem
            await superuser.execute(problem.rpartition(": ")[2])
            assert (await look(world.here.source, world.here.target)).problems == []
        finally:
            await world.close()
            await superuser.execute(
                f"reassign owned by {keeper} to {role.quoted}; drop role {keeper}"
            )
            await superuser.close()
