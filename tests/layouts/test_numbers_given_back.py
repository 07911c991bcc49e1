"""An abort sets the target's sequence back, and gives no number to two that somebody has drawn."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.migration.journaled import numbers, preparation, undoing
from tests.support import marten
from tests.support.worlds.layouts import LayoutWorld

_SEQUENCE = "mt_events_sequence"


async def drawn(dsn: str) -> int | None:
    """A number for an application that waits for a moment only."""
    connection = await asyncpg.connect(dsn, server_settings={"lock_timeout": "100ms"})
    try:
        return int(await connection.fetchval(f"select nextval('{_SEQUENCE}')"))
    except asyncpg.LockNotAvailableError:
        return None
    finally:
        await connection.close()


async def given(world: LayoutWorld) -> int:
    return int(
        await world.target.fetchval(f"select coalesce(pg_sequence_last_value('{_SEQUENCE}'), 0)")
    )


def drawing_at(
    world: LayoutWorld, monkeypatch: pytest.MonkeyPatch, begins: str, method: str = "fetchval"
) -> list[int]:
    """Somebody draws right after the first statement of that kind at the target."""
    found: list[int] = []
    statement = getattr(asyncpg.Connection, method)
    done = False

    async def and_draw(self: asyncpg.Connection[Any], query: str, *args: Any, **kw: Any) -> Any:
        nonlocal done
        answer = await statement(self, query, *args, **kw)
        if not done and begins in query and _SEQUENCE in str(args):
            done = True
            if (number := await drawn(world.dsns["target"])) is not None:
                found.append(number)
        return answer

    monkeypatch.setattr(asyncpg.Connection, method, and_draw)
    return found


async def test_nobody_has_drawn_and_no_gap_is_left(shop: LayoutWorld) -> None:
    await marten.append(shop.target, "other", uuid4(), 3)
    before = await given(shop)
    await shop.leaves_nothing_when_aborted("acme")
    assert await given(shop) == before


@pytest.mark.parametrize("begins", ["pg_sequence_last_value", "select seqcache"])
async def test_who_draws_while_an_abort_gives_them_back(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch, begins: str
) -> None:
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    give_back = undoing._give_numbers_back
    found: list[int] = []

    async def give(*args: Any) -> None:
        nonlocal found
        with monkeypatch.context() as patched:
            found = drawing_at(shop, patched, begins)
            await give_back(*args)

    monkeypatch.setattr(undoing, "_give_numbers_back", give)
    await shop.coordinators[0].abort_migration(migration.id)
    assert all([await given(shop) >= each for each in found])


async def test_who_draws_while_they_are_kept(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await marten.append(shop.target, "other", uuid4(), 3)
    take = numbers.taken
    found: list[int] = []

    async def taken(*args: Any) -> Any:
        answer = await take(*args)
        if (args[0].address.schema, found) == ("public", []) and not args[0].layout.is_whole:
            number = await drawn(shop.dsns["target"])
            found.append(number or 0)
        return answer

    migration = None
    with monkeypatch.context() as patched:
        reserve = preparation._agree

        async def agree(*args: Any, **kw: Any) -> Any:
            patched.setattr(numbers, "taken", taken)
            return await reserve(*args, **kw)

        patched.setattr(preparation, "_agree", agree)
        migration = await shop.start("acme")
        await shop.reaches(migration, MigrationState.DUAL_WRITE)
    assert found
    await shop.coordinators[0].abort_migration(migration.id)
    assert await given(shop) >= max(found)


async def test_a_draw_that_is_under_way_leaves_a_gap(shop: LayoutWorld) -> None:
    """Its number is not known to anybody else yet."""
    holder = await asyncpg.connect(shop.dsns["target"])
    await holder.execute("begin")
    number = await holder.fetchval(f"select nextval('{_SEQUENCE}')")
    try:
        migration = await shop.start("acme")
        await shop.reaches(migration, MigrationState.DUAL_WRITE)
        await shop.coordinators[0].abort_migration(migration.id)
        assert await given(shop) > number
    finally:
        await holder.close()
