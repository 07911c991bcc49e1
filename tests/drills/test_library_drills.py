"""The source of another library's tables is lost in part: what the page says to type is enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsource.testing import Cluster
from tests.drills import page
from tests.drills.library import open_library_stage, play
from tests.drills.stage import three_servers
from tests.drills.table import LIBRARY_DRILLS, Drill
from tests.support.appending_libraries import MARTEN, MESSAGE_DB, Library

LIBRARIES = (MARTEN, MESSAGE_DB)

#: Runs with the other tests.
DEFAULT = (MARTEN, LIBRARY_DRILLS[0])


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Cluster]]:
    with three_servers() as started:
        yield started


def test_each_has_its_row_on_the_page() -> None:
    assert len({drill.name for drill in LIBRARY_DRILLS}) == len(LIBRARY_DRILLS)
    assert all(page.rows()[drill.row] for drill in LIBRARY_DRILLS)


@pytest.mark.parametrize(
    ("library", "drill"),
    [
        pytest.param(
            library, drill, id=f"{library}, {drill.name}",
            marks=[] if (library, drill) == DEFAULT else pytest.mark.drills,
        )
        for library in LIBRARIES
        for drill in LIBRARY_DRILLS
    ],
)  # fmt: skip
async def test_nothing_is_lost_that_any_store_still_has(
    servers: dict[str, Cluster], tmp_path: Path, library: Library, drill: Drill
) -> None:
    async with open_library_stage(servers, tmp_path, library) as stage:
        assert await play(stage, drill) == []


@pytest.mark.drills
@pytest.mark.parametrize("library", LIBRARIES, ids=str)
async def test_an_abort_loses_nothing_either(
    servers: dict[str, Cluster], tmp_path: Path, library: Library
) -> None:
    async with open_library_stage(servers, tmp_path, library) as stage:
        assert await play(stage, LIBRARY_DRILLS[0], by_abort=True) == []
