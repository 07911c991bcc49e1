"""A checker that cannot fail is a defect: every kind of break is made by hand and found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from eventsource.testing import invariants
from eventsource.testing.invariants import History, MappingRow, Row, Violation
from eventsource.testing.records import Attempt, Outcome

STREAM = ("Ledger", "stream-1")


def row(number: int, **changes: object) -> Row:
    """Event `e<number>`: the stream's version of that number, at ten times the position."""
    values = Row(10 * number, f"e{number}", *STREAM, number, f"digest-{number}")
    return replace(values, **changes)  # type: ignore[arg-type]


def attempt(first: int, last: int | None = None, **changes: object) -> Attempt:
    """An acknowledged append of e<first> to e<last>, from second <first> on, for half a second."""
    last = last or first
    values = Attempt(
        writer="w",
        task=0,
        tenant_id="t",
        aggregate_type=STREAM[0],
        aggregate_id=STREAM[1],
        expected_version=first - 1,
        event_ids=tuple(f"e{number}" for number in range(first, last + 1)),
        path="router",
        invoked_at=float(first),
        outcome=Outcome.OK,
        returned_at=first + 0.5,
        new_version=last,
        global_position=10 * last,
    )
    return replace(values, **changes)  # type: ignore[arg-type]


def kinds(found: Iterable[Violation]) -> set[str]:
    return {f"{violation.invariant} {violation.kind}" for violation in found}


ATTEMPTS = [attempt(1), attempt(2, 3), attempt(4)]
ROWS = [row(1), row(2), row(3), row(4)]
MAPPING = [MappingRow(row.position, row.position + 100, row.event_id) for row in ROWS]
CARRIED = [replace(row, position=row.position + 100) for row in ROWS]


def judge(attempts: list[Attempt], rows: list[Row], offset: int = 0) -> set[str]:
    """Every rule for the authoritative store."""
    history = History.of(attempts, [])
    return kinds(
        [
            *invariants.acknowledged_exactly_once(history, rows),
            *invariants.answers_were_true(attempts, rows, offset),
            *invariants.nothing_unattempted(history, rows),
            *invariants.streams_are_whole(rows),
            *invariants.order_is_kept(history, rows),
        ]
    )


def test_a_faultless_history_has_no_violation() -> None:
    assert judge(ATTEMPTS, ROWS) == set()
    assert judge(ATTEMPTS, CARRIED, offset=100) == set()


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (lambda: judge(ATTEMPTS, ROWS[:3]), {"I1 lost"}),
        (lambda: judge(ATTEMPTS, [*ROWS, row(4, position=50)]), {"I1 duplicated"}),
        (lambda: judge(ATTEMPTS, [row(1), row(2), row(4)]), {"I1 lost", "I1 torn"}),
        (
            lambda: judge(ATTEMPTS, [row(1, aggregate_id="stream-2"), *ROWS[1:]]),
            {"I1 wrong_stream", "I3 version_gap"},
        ),
        (lambda: judge([attempt(1, new_version=2)], ROWS[:1]), {"I1 wrong_version"}),
        (lambda: judge([attempt(1, expected_version=7)], ROWS[:1]), {"I1 expectation_ignored"}),
        (lambda: judge([attempt(1, global_position=11)], ROWS[:1]), {"I1 wrong_position"}),
        (lambda: judge(ATTEMPTS, [*ROWS, row(5)]), {"I2 unattempted"}),
        (
            lambda: judge([*ATTEMPTS, attempt(5, outcome=Outcome.REFUSED)], [*ROWS, row(5)]),
            {"I2 refused_is_there"},
        ),
        (
            lambda: judge([attempt(1), attempt(2)], [row(1), row(2, version=1)]),
            {"I3 version_twice", "I1 wrong_version", "I1 expectation_ignored"},
        ),
        (lambda: kinds(invariants.streams_are_whole(ROWS[1:])), {"I3 version_gap"}),
        (lambda: kinds(invariants.streams_are_whole([row(1), row(3)])), {"I3 version_gap"}),
        (
            lambda: kinds(invariants.streams_are_whole([row(1), row(2, position=5)])),
            {"I3 position_falls"},
        ),
    ],
)
def test_every_break_of_the_authoritative_store_is_found(
    broken: Callable[[], set[str]], expected: set[str]
) -> None:
    assert expected <= broken()


def test_an_unknown_outcome_may_be_there_or_not() -> None:
    lost_reply = attempt(5, outcome=Outcome.UNKNOWN, returned_at=None, new_version=None)
    assert judge([*ATTEMPTS, lost_reply], ROWS) == set()
    assert judge([*ATTEMPTS, lost_reply], [*ROWS, row(5)]) == set()


def test_a_refused_append_that_was_retried_with_success_counts_as_acknowledged() -> None:
    refused = attempt(4, outcome=Outcome.REFUSED, invoked_at=3.9)
    assert judge([*ATTEMPTS, refused], ROWS) == set()
    assert judge([*ATTEMPTS, refused], ROWS[:3]) == {"I1 lost"}


def test_acknowledged_before_invoked_means_a_lower_position() -> None:
    other = replace(row(2), aggregate_id="stream-2", version=1, position=5)
    history = History.of([attempt(1), attempt(2)], [])
    assert kinds(invariants.order_is_kept(history, [row(1), other])) == {"I6 order_reversed"}


def test_overlapping_appends_may_have_either_order() -> None:
    overlapping = attempt(2, invoked_at=1.4)
    history = History.of([attempt(1), overlapping], [])
    assert kinds(invariants.order_is_kept(history, [row(1), row(2, position=5)])) == set()


def test_new_events_lie_above_the_baseline() -> None:
    history = History.of([attempt(2)], [row(1)])
    assert kinds(invariants.order_is_kept(history, [row(1), row(2)])) == set()
    below = row(2, position=5)
    assert kinds(invariants.order_is_kept(history, [row(1), below])) == {"I6 order_reversed"}


def test_the_order_check_judges_as_comparing_every_pair_does() -> None:
    # The sweep keeps only one maximum; here is the definition it stands for.
    for swapped in range(1, 6):
        attempts = [
            attempt(n, invoked_at=n * 0.7, returned_at=n * 0.7 + (n % 3)) for n in range(1, 7)
        ]
        rows = [row(n, position=10 * (7 - n if n == swapped else n)) for n in range(1, 7)]
        history = History.of(attempts, [])
        by_definition = {
            later.event_ids[0]
            for earlier, first in zip(attempts, rows, strict=True)
            for later, second in zip(attempts, rows, strict=True)
            if (earlier.returned_at or 0) < later.invoked_at and first.position >= second.position
        }
        found = {v.detail.split()[1] for v in invariants.order_is_kept(history, rows)}
        assert found == by_definition


def test_a_changed_or_moved_row_of_the_baseline_is_found() -> None:
    history = History.of([], ROWS)
    assert kinds(invariants.baseline_is_untouched(history, ROWS, 0)) == set()
    changed = [row(1, digest="other"), row(2, position=21), *ROWS[2:]]
    assert kinds(invariants.baseline_is_untouched(history, changed, 0)) == {
        "I4 content_changed",
        "I4 position_changed",
    }


def test_a_copy_that_differs_is_found() -> None:
    assert kinds(invariants.copies_are_equal(ROWS, CARRIED, 100)) == set()
    changed = [replace(CARRIED[0], digest="other"), *CARRIED[1:]]
    assert kinds(invariants.copies_are_equal(ROWS, changed, 100)) == {"I4 content_differs"}
    shifted = [replace(CARRIED[0], position=111), *CARRIED[1:]]
    assert kinds(invariants.copies_are_equal(ROWS, shifted, 100)) == {"I4 position_not_carried"}


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        (MAPPING, set()),
        (MAPPING[1:], {"I5 not_mapped"}),
        ([*MAPPING, MappingRow(900, 901, "e9")], {"I5 mapped_without_row"}),
        ([*MAPPING, MappingRow(10, 910, "e9")], {"I5 mapped_twice", "I5 mapped_without_row"}),
        ([*MAPPING, MappingRow(910, 110, "e9")], {"I5 mapped_twice", "I5 mapped_without_row"}),
        ([*MAPPING, MAPPING[0]], {"I5 mapped_twice"}),
        ([MappingRow(10, 111, "e1"), *MAPPING[1:]], {"I5 mapped_wrongly"}),
    ],
)
def test_a_mapping_that_is_no_bijection_is_found(
    mapping: list[MappingRow], expected: set[str]
) -> None:
    assert kinds(invariants.mapping_is_a_bijection(ROWS, mapping, 100)) == expected


@pytest.mark.parametrize(
    ("target", "mapping", "offset", "fence", "expected"),
    [
        (CARRIED, [], 100, 45, set()),
        ([*CARRIED, row(9, position=190)], [], 100, 45, set()),
        (CARRIED, [], 101, 45, {"I5 mapped_wrongly"}),
        (CARRIED[1:], [], 100, 45, {"I5 not_mapped"}),
        ([*CARRIED, row(9, position=145)], [], 100, 45, {"I5 mapped_without_row"}),
        (CARRIED, [MappingRow(10, 110, "x")], 100, 45, {"I5 mapped_besides"}),
        (CARRIED, [], None, 45, {"I5 no_offset"}),
    ],
)
def test_an_offset_that_is_no_bijection_is_found(
    target: list[Row],
    mapping: list[MappingRow],
    offset: int | None,
    fence: int,
    expected: set[str],
) -> None:
    found = invariants.offset_is_a_bijection(ROWS, target, mapping, offset, fence)
    assert kinds(found) == expected


def test_two_writer_epochs_are_found() -> None:
    later = row(9, position=190)
    assert kinds(invariants.one_writer_epoch(ROWS, [*CARRIED, later], 100, 45)) == set()
    # Written at the source after the fence was read for the last time.
    assert kinds(invariants.one_writer_epoch([*ROWS, row(5)], CARRIED, 100, 45)) == {
        "I7 left_behind",
        "I7 after_the_decision",
    }
    # Written at the target by an application while the source was still authoritative.
    early = row(9, position=130)
    assert kinds(invariants.one_writer_epoch(ROWS, [*CARRIED, early], 100, 45)) == {
        "I7 before_the_decision"
    }
    assert kinds(invariants.one_writer_epoch(ROWS, CARRIED, 100, None)) == {"I7 no_decision"}
