"""A slice of the fault matrix; ``make faults`` plays the whole of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from eventsource import _core
from eventsource.failpoints import FAILPOINTS
from eventsource.testing import Cluster
from tests.faults import cells, matrix
from tests.faults.arena import Arena
from tests.faults.cells import LEGS, Cell

#: Each word of the registry and each kind of fault, and what once went wrong.
SLICE = [
    # A frozen process kept the table's lock, and every tenant's writers waited.
    Cell("guard.source.created", "freeze"),
    # Thawed behind an abort, a process made the source's fence row for a migration that was over.
    Cell("guard.target.triggers.committed", "abort"),
    Cell("snapshot.stored.committed", "kill"),
    Cell("bulk.chunk.committed", "lose"),
    # A frozen process kept its chunk open, and the next one waited for half a minute.
    Cell("bulk.chunk.recorded", "second"),
    Cell("pass.chunk.proven", "kill"),
    Cell("cutover.fence.held", "second"),
    # The next cutover was refused, since the one before was answered and not yet undone.
    Cell("cutover.delta.copied", "error"),
    Cell("cutover.decision.sent", "kill"),
    Cell("flip.target.before", "freeze"),
    Cell("recovery.lock.held", "freeze"),
    Cell("abort.rows.committed", "kill"),
    Cell("subscriptions.checkpoint.committed", "lose"),
    Cell("cutover.decision.sent", "kill", "return"),
    Cell("return.rested.committed", "second", "rest"),
    Cell("close.retired.committed", "kill", "close"),
    Cell("cleanup.portion.committed", "second", "cleanup"),
]

#: On a busy machine even an append that nobody holds up takes this much longer (seconds).
SLACK = 0.7


def test_every_failpoint_is_in_the_matrix_and_somebody_gets_there() -> None:
    assert set(FAILPOINTS) >= cells.AFTER_A_RESTORE
    every = list(cells.cells())
    assert len(set(map(str, every))) == len(every)
    played = {cell.failpoint for cell in every}
    assert played == {*cells.PLAYED, *cells.AFTERWARDS}
    assert all(cell.journey for cell in every)
    for leg in ("", *LEGS):
        of = [cell for cell in every if cell.leg == leg]
        names = {cell.failpoint for cell in of}
        lost = {cell.failpoint for cell in of if cell.fault == "lose"}
        assert lost == {name for name in names if name.endswith(".committed")}
        aborted = {cell.failpoint for cell in of if cell.fault == "abort"}
        assert aborted == {cell.failpoint for cell in of if cell.aborted_by}
        assert len(of) == 4 * len(names) + len(lost) + len(aborted)
    assert set(SLICE) <= set(every)


def test_every_part_of_a_way_back_is_in_the_matrix() -> None:
    """A failpoint that is added joins by its first word."""
    for leg, words in {
        "return": {"cutover", "flip", "keep", "recovery", "subscriptions"},
        "rest": {"return"},
        "close": {"close"},
        "expire": {"close"},
        "undo": {"close"},
        "cleanup": {"cleanup"},
    }.items():
        wanted = {name for name in FAILPOINTS if name.partition(".")[0] in words}
        there = {cell.failpoint for cell in cells.cells() if cell.leg == leg}
        assert wanted - there <= cells.NOT_ON.get(leg, frozenset()), leg


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arena(
    source_cluster: Cluster, target_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Arena]:
    directory: Path = tmp_path_factory.mktemp("arena")
    async with matrix.arena_for(SLICE, source_cluster, target_cluster, directory) as opened:
        yield opened


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.skipif(not _core.HAS_FAILPOINTS, reason="built without failpoints: `make build`")
@pytest.mark.parametrize("cell", SLICE, ids=str)
async def test_every_promise_is_kept(arena: Arena, cell: Cell) -> None:
    outcome = await matrix.play(arena, cell, SLACK)
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.events > 0
