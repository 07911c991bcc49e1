"""A sequence that no column owns may belong to another role than the tables that draw from it.

A server of version 16 refuses to show its last number to a role that may not read it; one of
version 18 shows null, as of a sequence that has given nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts.presets import presets
from tests.layouts.test_whole import DECLARED, SCHEMA, TABLES, read
from tests.support import others
from tests.support.fingerprint import fingerprint
from tests.support.owning_role import owning_role
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world


@dataclass(frozen=True)
class Numbered:
    """Tables of a role that is no superuser, and the sequence that no column owns."""

    world: LayoutWorld
    tenant: str
    sequence: str
    role: str
    #: Of superusers, by side.
    dsns: dict[str, str]

    async def execute(self, side: str, statements: str) -> None:
        """As a superuser; ``{sequence}`` and ``{role}`` are replaced."""
        connection = await asyncpg.connect(self.dsns[side])
        await connection.execute(statements.format(sequence=self.sequence, role=self.role))
        await connection.close()

    async def fingerprints(self) -> list[object]:
        found: list[object] = []
        for dsn in self.dsns.values():
            connection = await asyncpg.connect(dsn)
            found.append(await fingerprint(connection))
            await connection.close()
        return found


@pytest.fixture(params=["emmett", "whole"])
async def numbered(
    request: pytest.FixtureRequest, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Numbered]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    is_whole = request.param == "whole"

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(TABLES if is_whole else others.EMMETT)

    layout = read(DECLARED) if is_whole else presets()["emmett"]
    async with owning_role(dsns) as role:
        if is_whole:
            for side in ("source", "target"):
                connection = await asyncpg.connect(role.dsns[side])
                await make(connection)
                await connection.close()
        async with layout_world(
            layout, _made if is_whole else make, role.dsns, schema=SCHEMA if is_whole else "public"
        ) as world:
            if is_whole:
                sequence = f'"{SCHEMA}"."tickets"'
                await world.source.execute(
                    f"select nextval('{sequence}') from generate_series(1, 3)"
                )
            else:
                sequence = '"public"."emt_global_message_position"'
                for _ in range(3):
                    await others.to_emmett(world.source, "acme", "s")
            yield Numbered(world, "acme", sequence, role.quoted, dsns)


async def _made(_: asyncpg.Connection) -> None:
    """The tables are there."""


FOREIGN = "alter sequence {sequence} owner to postgres;"

#: What is enough of another role's sequence, by side.
ENOUGH = {
    "source": "grant select on sequence {sequence} to {role}",
    "target": "grant select, update on sequence {sequence} to {role}",
}

#: Side, what the role has there of another's sequence, and what it is told.
LACKING = [
    ("source", "", "may not read sequence {sequence} of the source"),
    ("source", "grant usage, update on sequence {sequence} to {role}",
     "grant select on sequence {sequence} to {role}"),
    ("target", "", "may not read and set sequence {sequence} of the target"),
    ("target", "grant usage on sequence {sequence} to {role}",
     "grant select, update on sequence {sequence} to {role}"),
    ("target", "grant update on sequence {sequence} to {role}",
     "grant select, update on sequence {sequence} to {role}"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("side", "granted", "told"), LACKING, ids=[f"{s}: {g[:20]}" for s, g, _ in LACKING]
)
async def test_what_the_role_lacks_is_told_and_nothing_is_changed(
    numbered: Numbered, side: str, granted: str, told: str
) -> None:
    await numbered.execute(side, FOREIGN + granted)
    before = await numbered.fingerprints()
    with pytest.raises(PreflightError) as refused:
        await numbered.world.start(numbered.tenant)
    assert told.format(sequence=numbered.sequence, role=numbered.role) in str(refused.value)
    assert await numbered.fingerprints() == before


async def test_what_is_enough_moves_the_tenant_and_its_numbers(numbered: Numbered) -> None:
    for side, grant in ENOUGH.items():
        await numbered.execute(side, FOREIGN + grant)
    done = await numbered.world.move(numbered.tenant)
    assert done.state is MigrationState.MIGRATED
    assert await _last(numbered) >= 3


@pytest.mark.parametrize("side", ["source", "target"])
async def test_a_right_that_is_gone_by_the_cutover_is_told_and_the_tenant_stays(
    numbered: Numbered, side: str
) -> None:
    """The answer is a refusal; or, where a pass needs the right before that, the driver waits."""
    world = numbered.world
    [coordinator] = world.coordinators
    migration = await world.start(numbered.tenant)
    await world.reaches(migration, MigrationState.DUAL_WRITE)
    await numbered.execute(side, FOREIGN)
    asked = asyncio.create_task(coordinator.initiate_cutover(migration.id))

    async def told() -> str | None:
        if asked.done():
            return str(asked.exception())
        return (await coordinator.get_migration(migration.id)).error_message

    assert f"sequence {numbered.sequence} of the {side}" in (
        reason := await until(told, "a reason")
    ) or re.search(r"waiting: permission denied for sequence \w+; grant it", reason)
    await numbered.execute(side, ENOUGH[side])
    if asked.done():
        assert isinstance(asked.exception(), PreflightError)
        asked = asyncio.create_task(coordinator.initiate_cutover(migration.id))
    done = await asked
    assert done.state is MigrationState.MIGRATED
    assert await _last(numbered) >= 3


async def _last(numbered: Numbered) -> int:
    last: int = await numbered.world.target.fetchval(f"select last_value from {numbered.sequence}")
    return last
