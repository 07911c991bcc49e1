"""Every drill: what is lost, the moment that it goes back to, and when it happens.

What an operator types then is not here: it is read from the table of
``docs/howto/after-a-disaster.md``, by the words in its first column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Moment = Literal["before", "copy", "dual_write", "decided", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "copy", "dual_write", "decided", "after")

How = Literal["restored", "failed over", "lost", "emptied", "swapped", "rotated"]

RESTORED = "a store, or a store and the control database, was restored or failed over"
GONE_BACK = (
    "`StoreGoneBackError`: the source does not hold a barrier, or lacks events that the target"
    " holds"
)
CONTROL_RESTORED = "the control database was restored"
CONTROL_LOST = "the control database is lost for good"
TARGET_GONE = (
    "the target is lost for good, empty, or was restored to before the copy began, and the"
    " migration has not cut over"
)
ANOTHER_EVENT = "`RepairNeededError`: the source has another event by now"
ABORTED_SINCE = "`neither … nor … knows anything of it`, a note of `repair`"
HOME_GONE_BACK = (
    "the store where a tenant lives was restored or failed over while its way back is open: a"
    " return, `way-back close` and the follower say `StoreGoneBackError`"
)
WAY_UNKNOWN = "a tenant has moved, and no command knows of its way back"
SWAPPED = "`StoreMismatchError`"
ROTATED = "`waiting: … password authentication failed`"


@dataclass(frozen=True, slots=True)
class Drill:
    """One disaster.

    Attributes:
        sides: what it strikes: source, target, control.
        back_to: the moment of the backup; of the last byte that a standby had received.
        at: when it strikes.
        row: the row of the page that answers it.
        default: whether it runs with the other tests.
        followed: whether new events were carried to the store that the tenant has left, and the
            tenant returns in the end.
    """

    sides: tuple[str, ...]
    how: How
    back_to: Moment
    at: Moment
    row: str
    default: bool = False
    followed: bool = False

    @property
    def is_noticed(self) -> bool:
        """Whether the applications end before anything is lost: then everything has a place."""
        return self.followed and self.how == "restored"

    @property
    def name(self) -> str:
        what = "+".join(self.sides)
        then = ", with a way back" if self.followed else ""
        if self.how in ("restored", "failed over"):
            return f"{what} {self.how} to {self.back_to}, at {self.at}{then}"
        return f"{what} {self.how} at {self.at}{then}"


def _later(moment: Moment) -> tuple[Moment, ...]:
    """The moments at which something may be put back to this one."""
    return MOMENTS[MOMENTS.index(moment) :]


def _row_of(sides: tuple[str, ...], back_to: Moment = "after", at: Moment = "after") -> str:
    if (sides, back_to, at) == (("target",), "before", "dual_write"):
        return TARGET_GONE
    return CONTROL_RESTORED if sides == ("control",) else RESTORED


def _restores() -> list[Drill]:
    """Each of the three, to each moment, after the move; and to those before it, on the way."""
    made = [
        Drill((side,), "restored", back_to, "after", _row_of((side,)))
        for side in ("source", "target", "control")
        for back_to in MOMENTS
    ]
    made += [
        Drill((side,), "restored", back_to, "dual_write", _row_of((side,), back_to, "dual_write"))
        for side in ("source", "target", "control")
        for back_to in MOMENTS[:3]
    ]
    made += [
        Drill(sides, "restored", back_to, "after", RESTORED)
        for sides in (("source", "control"), ("target", "control"))
        for back_to in MOMENTS[:4]
    ]
    made += [
        Drill(("source", "target"), "restored", "dual_write", "after", RESTORED),
        Drill(("source", "target", "control"), "restored", "dual_write", "after", RESTORED),
    ]
    return made


def _failovers() -> list[Drill]:
    moments: tuple[tuple[Moment, Moment], ...] = (
        ("copy", "dual_write"), ("dual_write", "dual_write"), ("dual_write", "after"),
        ("after", "after"),
    )  # fmt: skip
    return [
        Drill((side,), "failed over", back_to, at, _row_of((side,)))
        for side in ("source", "target", "control")
        for back_to, at in moments
    ]  # fmt: skip


def _others() -> list[Drill]:
    at: tuple[Moment, ...] = ("copy", "dual_write", "decided", "after")
    made = [Drill(("control",), "lost", each, each, CONTROL_LOST) for each in at]
    made += [Drill(("target",), "emptied", each, each, TARGET_GONE) for each in at[:2]]
    made += [Drill(("source", "target"), "swapped", each, each, SWAPPED) for each in at[:2]]
    made += [
        Drill((side,), "rotated", "dual_write", "dual_write", ROTATED)
        for side in ("source", "target", "control")
    ]
    return made


def _with_a_way_back() -> list[Drill]:
    """The tenant has moved, and what it has appended since is at the old store, too."""
    struck: tuple[tuple[tuple[str, ...], How, Moment, str], ...] = (
        (("target",), "restored", "after", HOME_GONE_BACK),
        (("target",), "restored", "dual_write", RESTORED),
        (("target",), "restored", "before", RESTORED),
        (("target",), "failed over", "after", HOME_GONE_BACK),
        (("source",), "restored", "after", RESTORED),
        (("source",), "restored", "dual_write", RESTORED),
        (("control",), "lost", "after", WAY_UNKNOWN),
        (("control",), "restored", "dual_write", WAY_UNKNOWN),
        (("target", "control"), "restored", "after", HOME_GONE_BACK),
    )
    return [
        Drill(sides, how, back_to, "after", row, followed=True)
        for sides, how, back_to, row in struck
    ]


#: Under tables of other libraries; for each of several.
LIBRARY_DRILLS: tuple[Drill, ...] = (
    Drill(("source",), "restored", "dual_write", "dual_write", GONE_BACK),
    Drill(("source",), "restored", "before", "dual_write", RESTORED),
    Drill(("source",), "failed over", "dual_write", "dual_write", GONE_BACK),
    Drill(("source",), "restored", "dual_write", "after", RESTORED),
    Drill(("source",), "restored", "before", "after", RESTORED),
)

#: Representatives, for every run of the tests.
_DEFAULT = frozenset(
    {
        "control lost at after",
        "source restored to dual_write, at dual_write",
    }
)

DRILLS: tuple[Drill, ...] = tuple(
    replace(d, default=d.name in _DEFAULT)
    for d in (*_restores(), *_failovers(), *_others(), *_with_a_way_back())
)
