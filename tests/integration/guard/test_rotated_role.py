"""The role that migrates is replaced while a tenant moves, or may return.

The guard's functions stay with the role that made them, and the new one is told before anything
changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from eventsource.migration import Migration, PreflightError, background
from tests.support.application import Process
from tests.support.owning_role import OwningRole, owning_role
from tests.support.there_and_back import moved
from tests.support.worlds.three_databases import World, make_world

#: All tables, and none of the functions; what it may run it was granted.
_GIVE = """
do $give$
declare each record;
begin
    for each in select c.oid::regclass as name from pg_class c
                where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') loop
        execute format('alter table %s owner to {new}', each.name);
    end loop;
end $give$;
grant execute on all functions in schema public to {new};
alter role {old} nologin
"""


@dataclass
class Rotated:
    """A world of the old role, until it is given to the new one."""

    world: World
    dsns: dict[str, str]
    old: OwningRole
    new: OwningRole

    async def process(self) -> Process:
        return await self.world.process(keep_way_back="1h", lease_seconds=1.0)

    async def at_both(self, statement: str) -> None:
        for side in ("source", "target"):
            connection = await asyncpg.connect(self.dsns[side])
            await connection.execute(statement.format(new=self.new.quoted, old=self.old.quoted))
            await connection.close()

    async def rotate(self) -> Process:
        """All processes of the old role have ended; one of the new role."""
        for each in self.world.processes:
            await each.stop()
        self.world.processes.clear()
        self.world.source.terminate()
        self.world.target.terminate()
        await self.at_both(_GIVE)
        # Who looks is the superuser.
        self.world.dsns = self.dsns
        self.world.source = await self.world.connect("source")
        self.world.target = await self.world.connect("target")
        self.world.dsns = self.new.dsns
        return await self.process()


@pytest.fixture
async def rotated(
    source_dsn: str, target_dsn: str, control_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rotated]:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    dsns = {"source": source_dsn, "target": target_dsn, "control": control_dsn}
    async with owning_role(dsns) as new, owning_role(dsns) as old:
        world = await make_world(old.dsns)
        try:
            yield Rotated(world, dsns, old, new)
        finally:
            await world.close()


Verb = Callable[[Process, Migration], Awaitable[Any]]

BEFORE: dict[str, Verb] = {
    "cutover": lambda at, it: at.coordinator.initiate_cutover(it.id),
    "rehearsal": lambda at, it: at.coordinator.rehearse_cutover(it.id),
    "resume": lambda at, it: at.coordinator.resume_migration(it.id),
    "abort": lambda at, it: at.coordinator.abort_migration(it.id),
    "move": lambda at, it: at.coordinator.move(it.tenant_id, "shared", "dedicated-a"),
}
AFTER: dict[str, Verb] = {
    "return": lambda at, it: at.coordinator.return_migration(it.id),
    "close": lambda at, it: at.coordinator.close_way_back(it.id),
}


async def refused_and_mended(rotated: Rotated, act: Callable[[], Awaitable[Any]]) -> None:
    """Also where the new role has the rights of the old one: the functions have not those of it."""
    before = await rotated.world.fingerprint()
    with pytest.raises(PreflightError) as refused:
        await act()
    mend = f"reassign owned by {rotated.old.quoted} to {rotated.new.quoted}"
    assert mend in str(refused.value)
    assert await rotated.world.fingerprint() == before
    await rotated.at_both("grant {old} to {new}")
    with pytest.raises(PreflightError, match="reassign owned by"):
        await act()
    await rotated.at_both(mend)


@pytest.mark.parametrize("verb", BEFORE)
async def test_a_move_says_whose_the_guard_is(rotated: Rotated, verb: str) -> None:
    world = rotated.world
    await world.seed(20)
    migration = await world.dual_write(process=await rotated.process())
    process = await rotated.rotate()
    await refused_and_mended(rotated, lambda: BEFORE[verb](process, migration))
    await BEFORE[verb](process, migration)


@pytest.mark.parametrize("verb", AFTER)
async def test_a_way_back_says_whose_the_guard_is(rotated: Rotated, verb: str) -> None:
    """A return went through, and kept no way forth: only a log said why."""
    migration = await moved(rotated.world, await rotated.process())
    process = await rotated.rotate()
    await refused_and_mended(rotated, lambda: AFTER[verb](process, migration))
    await AFTER[verb](process, migration)
    if verb == "return":
        back = await process.migrations.get_by_tenant(rotated.world.tenant)
        way = await process.coordinator.way_back(back[-1].id)
        assert way is not None
        assert way.is_open


async def test_a_clean_up_says_whose_the_guard_is(rotated: Rotated) -> None:
    keeper = await rotated.process()
    migration = await moved(rotated.world, keeper)
    await keeper.coordinator.close_way_back(migration.id)
    process = await rotated.rotate()

    async def clean_up() -> None:
        await process.coordinator.cleanup(migration.id, backed_up=True, now=True)

    await refused_and_mended(rotated, clean_up)
    await clean_up()
    assert await rotated.world.rows("source") == []


async def test_what_was_reassigned_is_the_new_role_s(rotated: Rotated) -> None:
    migration = await moved(rotated.world, await rotated.process())
    process = await rotated.rotate()
    await rotated.at_both("reassign owned by {old} to {new}")
    back = await process.coordinator.return_migration(migration.id)
    way = await process.coordinator.way_back(back.id)
    assert way is not None
    assert way.is_open
