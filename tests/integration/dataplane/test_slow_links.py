"""Links so slow that one chunk takes longer than a transaction may usually be idle."""

from __future__ import annotations

import asyncio

import pytest

from eventsource.testing.proxy import Proxy
from tests.support.worlds.rows_by_hand import (
    TARGET_TABLE,
    World,
    bare_world,  # noqa: F401 - the fixture "world"
)

ROWS = 2000


@pytest.mark.infra
async def test_rows_of_the_first_pass_wait_for_a_mapping_of_half_a_minute(world: World) -> None:
    """The target ended their transaction after 30 s at every attempt: no chunk was committed."""
    await world.append(ROWS)
    spec = await world.bulk()
    async with Proxy(world.config.control_dsn) as proxy:
        session = await world.open(control_dsn=proxy.dsn, chunk_rows=ROWS)
        proxy.throttle(3000)
        result = await asyncio.wait_for(session.run(spec), 120)
        assert (result.rows, result.finished) == (ROWS, True)
        proxy.restore()
        await session.close()
    await world.assert_moved()


async def test_rows_of_the_first_pass_may_wait_as_long_as_a_pass_may_stand_still(
    world: World,
) -> None:
    """The same without the half minute."""
    await world.append(10)
    await world.target.execute(
        "create table waits (patience text); create function note() returns trigger"
        " language plpgsql as $$ begin insert into waits"
        " values (current_setting('idle_in_transaction_session_timeout')); return null; end $$;"
        f' create trigger note after insert on "{TARGET_TABLE}"'
        " for each statement execute function note()"
    )
    session = await world.open()
    await session.run(await world.bulk())
    assert await world.target.fetchval("select patience from waits") == "5min"
