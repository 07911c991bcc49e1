"""The cells of the matrix: every failpoint, everything that can happen there, in every journey.

The same failpoint lies on several ways: a cutover is one of a move, or one of a return. A leg says
which of them a cell is about, and what was done before without a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eventsource.failpoints import FAILPOINTS

_MOVE = ["start", "follow", "cutover", "subscriptions"]

#: What the process does that is to arrive at the failpoint, by the failpoint's first word.
JOURNEYS: dict[str, list[str]] = {
    **dict.fromkeys(("preflight", "start", "lease", "guard", "snapshot", "journal"), _MOVE),
    **dict.fromkeys(("bulk", "load", "follow", "keep", "cutover", "flip"), _MOVE),
    **dict.fromkeys(("recovery", "subscriptions"), _MOVE),
    # Until it was there it follows, and no cutover comes between.
    "pass": ["start", "follow", "gate:go", "cutover", "subscriptions"],
    "pause": ["start", "follow", "pause", "resume", "cutover", "subscriptions"],
    "resume": ["start", "follow", "pause", "resume", "cutover", "subscriptions"],
    "rehearsal": ["start", "follow", "rehearse", "cutover", "subscriptions"],
    "abort": ["start", "follow", "abort"],
}


@dataclass(frozen=True, slots=True)
class Leg:
    """A part of a tenant's way after its move.

    Attributes:
        words: first words of the failpoints on it.
        before: what another process does first, without a fault.
        steps: what the process does that is to arrive at the failpoint.
        end: what whoever comes last wants.
        ends: where the tenant may be then.
        abort: what is wanted where a second process aborts; None where nothing can be aborted.
        keep: ``keep_way_back`` (seconds).
    """

    words: tuple[str, ...]
    before: tuple[str, ...]
    steps: tuple[str, ...]
    end: str
    ends: frozenset[str]
    abort: str | None = None
    keep: float = 3600.0


_HOME = (*_MOVE, "handled", "follow_back")

LEGS: dict[str, Leg] = {
    # The return's own cutover, which keeps a way forth again.
    "return": Leg(
        ("lease", "keep", "cutover", "flip", "recovery", "subscriptions", "return"),
        _HOME, ("return", "subscriptions"), "return", frozenset({"returned"}), "stay",
    ),
    # Events are carried before anybody returns.
    "follow": Leg(
        ("pass",), (*_MOVE, "handled"), ("follow_back", "gate:go", "return", "subscriptions"),
        "return", frozenset({"returned"}), "stay",
    ),
    # A return that does not come through in its time, and is aborted.
    "rest": Leg(
        ("return",), _HOME, ("return_refused", "abort"), "stay", frozenset({"stayed"}),
    ),
    "close": Leg(("close",), _HOME, ("close",), "close", frozenset({"closed"})),
    "expire": Leg(("close",), _HOME, ("expire",), "close", frozenset({"closed"})),
    # The way back of a move that is aborted after all.
    "undo": Leg(
        ("close",), (), ("start", "follow", "cutover_refused", "abort"), "abort",
        frozenset({"rolled_back"}),
    ),
    "cleanup": Leg(
        ("cleanup",), (*_HOME, "close"), ("cleanup",), "cleanup", frozenset({"cleaned"}),
    ),
}  # fmt: skip

#: Reached only when a database was restored: see tests/acceptance/test_restored_servers.py.
AFTER_A_RESTORE = frozenset(
    {"repair.carried.committed", "repair.proof.committed", "abort.rescued.committed"}
)
#: Reached on legs alone.
AFTERWARDS = frozenset(
    {"cleanup.portion.committed", "return.rested.committed"}
    | {"close.retired.committed", "close.guard.committed"}
)
#: No return comes there: it aborts nothing, and nobody arrives in its home for the first time.
NOT_ON = {
    "return": frozenset({"return.rested.committed", "flip.arrival.dropped"}),
}
#: Of tables of other libraries: see tests/layouts.
PLAYED = tuple(
    name
    for name in FAILPOINTS
    if name not in AFTER_A_RESTORE | AFTERWARDS and not name.startswith("layout.")
)

#: At the second chunk a part is committed already.
ARRIVALS = {"bulk.chunk": 2, "bulk.mapping": 2, "load.index": 2, "cleanup.portion": 2}


@dataclass(frozen=True, slots=True)
class Cell:
    """One failpoint, what happens there, and on which leg; "" is the move itself."""

    failpoint: str
    fault: str
    leg: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.leg, self.failpoint, self.fault)))

    @property
    def journey(self) -> list[str]:
        if self.leg:
            return list(LEGS[self.leg].steps)
        return JOURNEYS[self.failpoint.partition(".")[0]]

    @property
    def before(self) -> list[str]:
        return list(LEGS[self.leg].before) if self.leg else []

    @property
    def aborts(self) -> bool:
        return "abort" in self.journey

    @property
    def needs_an_empty_table(self) -> bool:
        return self.failpoint.startswith("load.")

    @property
    def end(self) -> str:
        """What whoever comes last wants."""
        if self.leg:
            return LEGS[self.leg].end
        return "abort" if self.aborts else "cutover"

    @property
    def ends(self) -> set[str]:
        """Where it may end: what failed for good is aborted, everything else goes on."""
        if self.leg:
            return set(LEGS[self.leg].ends)
        if self.aborts:
            return {"rolled_back"}
        # What was decided before the abort was asked for stays decided.
        either = self.fault in ("error", "abort")
        return {"migrated", "rolled_back"} if either else {"migrated"}

    @property
    def aborted_by(self) -> str | None:
        """What a second process wants that aborts; None where there is nothing to abort."""
        if self.leg:
            return LEGS[self.leg].abort
        return None if self.aborts else "abort"

    def config(self, common: dict[str, Any]) -> dict[str, Any]:
        """Of the migration."""
        return {**common, "keep_way_back": LEGS[self.leg].keep} if self.leg else common


def cells() -> Iterator[Cell]:
    """All of them. A reply can be lost where a COMMIT was just carried out; what is being aborted
    need not be aborted by another process as well."""
    for failpoint in PLAYED:
        yield from _of(failpoint, "")
    for name, leg in LEGS.items():
        for on_it in on_the_way(FAILPOINTS, leg):
            if on_it not in NOT_ON.get(name, ()):
                yield from _of(on_it, name)


def on_the_way(names: Iterable[str], leg: Leg) -> Iterator[str]:
    """The failpoints that lie on a leg."""
    return (name for name in names if name.partition(".")[0] in leg.words)


def _of(failpoint: str, leg: str) -> Iterator[Cell]:
    for fault in ("kill", "freeze", "error", "second"):
        yield Cell(failpoint, fault, leg)
    if Cell(failpoint, "abort", leg).aborted_by is not None:
        yield Cell(failpoint, "abort", leg)
    if failpoint.endswith(".committed"):
        yield Cell(failpoint, "lose", leg)
