"""A column beside the position may draw from a sequence of another role than the table's.

Its last number is null to a role that may not read it, as of a sequence that has given nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from eventsource.migration import PreflightError, background
from tests.support.owning_role import owning_role
from tests.support.worlds.three_databases import World, make_world, table

EVENTS = 50


@dataclass(frozen=True)
class Numbered:
    """Stores of a role that is no superuser, with a column whose sequence is not the role's."""

    world: World
    role: str
    #: Of superusers, by side.
    dsns: dict[str, str]

    async def execute(self, side: str, statements: str) -> None:
        """As a superuser; ``{role}`` and ``{table}`` are replaced."""
        connection = await asyncpg.connect(self.dsns[side])
        await connection.execute(statements.format(role=self.role, table=table(side)))
        await connection.close()

    async def problems(self) -> list[str]:
        here = self.world.here
        found = await self.world.coordinator.preflight(self.world.tenant, here.source, here.target)
        return found.problems


@pytest.fixture
async def numbered(
    source_dsn: str, target_dsn: str, control_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Numbered]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    dsns = {"source": source_dsn, "target": target_dsn, "control": control_dsn}
    async with owning_role(dsns) as role:
        world = await make_world(role.dsns)
        found = Numbered(world, role.quoted, dsns)
        for side in ("source", "target"):
            await found.execute(
                side,
                "create sequence tickets;"
                "alter table {table} add column ticket bigint unique default nextval('tickets');"
                "grant select, update, usage on sequence tickets to {role}",
            )
        await world.seed(EVENTS)
        yield found
        await world.close()


async def test_a_sequence_that_may_not_be_read_at_the_source_is_not_taken_for_unused(
    numbered: Numbered,
) -> None:
    """Once it was: the target gave the first events after the move the numbers of carried ones."""
    await numbered.execute("source", "revoke all on sequence tickets from {role}")
    with pytest.raises(PreflightError, match=r"may not read sequence public\.tickets"):
        await numbered.world.dual_write()
    [problem] = await numbered.problems()
    await numbered.execute("source", problem.rpartition("; ")[2])
    await _goes_on(numbered.world)


@pytest.mark.parametrize("lacking", ["select, usage", "update"])
async def test_a_sequence_that_may_not_be_set_at_the_target_refuses_the_move(
    numbered: Numbered, lacking: str
) -> None:
    await numbered.execute("target", f"revoke {lacking} on sequence tickets from {{role}}")
    [problem] = await numbered.problems()
    assert "may not read and set sequence public.tickets of the target" in problem
    await numbered.execute("target", problem.rpartition("; ")[2])
    await _goes_on(numbered.world)


async def _goes_on(world: World) -> None:
    """The tenant moves, and the target's next number is none of those that were given."""
    await world.assert_moved(await world.migrate())
    assert await world.target.fetchval("select nextval('tickets')") > EVENTS
