"""What a comparison keeps of wide rows while one side waits for the other."""

from __future__ import annotations

from eventsource.dataplane import Verification, VerifyConfig
from tests.support.waiting import until
from tests.support.worlds.rows_by_hand import (
    COLUMNS,
    TARGET_TABLE,
    World,
    bare_world,  # noqa: F401 - the fixture "world"
)

ROWS, SIZE = 24, 2_000_000

#: One goes to the merge, two wait, and the next has no room.
MOST = 4


async def test_few_wide_rows_wait_for_the_other_side(world: World) -> None:
    """Batches were counted and their bytes were not: sixteen of them for each side and range."""
    await world.append(ROWS, size=SIZE)
    session = await world.open()
    await session.run(await world.bulk())
    blocker = await world.connect_target()
    await blocker.execute("begin")
    await blocker.execute(f'lock table "{TARGET_TABLE}"')
    config = world.config
    verification = Verification.start(
        VerifyConfig(config.source, config.target, world.tenant, COLUMNS, config.offset, "full")
    )
    seen: list[int] = []

    async def source_waits() -> bool:
        if verification.progress().source_rows > MOST:
            return True
        blocked = await world.source.fetchval(
            "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'"
            " and application_name = 'eventsource-migrate'"
        )
        seen.append(verification.progress().source_rows if blocked else -1)
        return len(seen) > 10 and len({*seen[-10:]}) == 1 and seen[-1] >= 0

    await until(source_waits, "the source's rows to wait")
    assert verification.progress().source_rows <= MOST
    await blocker.execute("commit")
    result = await verification.result()
    assert (result.source_event_count, result.violations) == (ROWS, [])
