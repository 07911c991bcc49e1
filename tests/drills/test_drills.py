"""A restore, a failover, a loss, a wrong configuration: what the page says to type is enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsource.testing import Cluster
from tests.drills import page
from tests.drills.play import play
from tests.drills.stage import open_stage, three_servers
from tests.drills.table import DRILLS, Drill


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Cluster]]:
    with three_servers() as started:
        yield started


def test_there_are_enough_of_them_and_each_has_its_row_on_the_page() -> None:
    assert len({drill.name for drill in DRILLS}) == len(DRILLS) >= 40
    assert {drill.row for drill in DRILLS} <= set(page.rows())
    assert sum(drill.default for drill in DRILLS) == 2
    # What is to be typed is there, but where a configuration is to be corrected.
    assert all(page.rows()[drill.row] for drill in DRILLS)


@pytest.mark.parametrize(
    "drill",
    [
        pytest.param(drill, id=drill.name, marks=[] if drill.default else pytest.mark.drills)
        for drill in DRILLS
    ],
)
async def test_a_disaster_loses_nothing_that_any_store_still_has(
    servers: dict[str, Cluster], tmp_path: Path, drill: Drill
) -> None:
    async with open_stage(servers, tmp_path) as stage:
        assert await play(stage, drill) == []
