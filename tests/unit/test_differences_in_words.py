"""The error of a comparison says what differs in words; it quoted the records of the data plane."""

from __future__ import annotations

from uuid import UUID

import pytest

from eventsource.cli.journey import raise_if_inconsistent
from eventsource.dataplane import Violation
from eventsource.migration import ConsistencyError, VerificationLevel, VerificationReport
from eventsource.migration.consistency.wording import what_differs
from eventsource.migration.journaled.comparison import refuse_differences
from eventsource.migration.models import TableDifference

EVENT, STREAM = UUID(int=7), UUID(int=9)


def violation(kind: str, field: str | None, detail: str) -> Violation:
    return Violation(kind, "Order", STREAM, 3, 12, EVENT, field, detail)


def report(
    violations: list[Violation], differences: list[TableDifference] | None = None
) -> VerificationReport:
    return VerificationReport(
        False, VerificationLevel.HASH, 1, 2, 1, 0, violations, [], 0.1, differences or []
    )


KINDS = [
    ("missing", None, "the target does not have the event"),
    ("unexpected", None, "the source does not have the event"),
    ("different", "payload", "9 bytes on the source, 10 on the target"),
    ("late", None, "written at the source after the tenant had moved: its guard was off"),
]


@pytest.mark.parametrize(("kind", "field", "detail"), KINDS)
def test_every_kind_of_difference_is_said_in_words(
    kind: str, field: str | None, detail: str
) -> None:
    with pytest.raises(ConsistencyError) as caught:
        raise_if_inconsistent(report([violation(kind, field, detail)]))
    named = "" if field is None else f", field {field}"
    assert (
        f"event {EVENT} (version 3 of Order {STREAM}, position 12){named}: {detail}; nothing was"
    ) in str(caught.value)
    assert "<Violation" not in str(caught.value)
    assert "None" not in str(caught.value)


@pytest.mark.parametrize("refuse", [raise_if_inconsistent, refuse_differences])
def test_rows_of_a_layout_are_named_by_both_comparisons(refuse: object) -> None:
    """`run` named none of them."""
    difference = TableDifference("mt_events", '["7"]', "data", "differs")
    with pytest.raises(ConsistencyError, match=r"mt_events row .*, column data: differs"):
        refuse(report([], [difference]))  # type: ignore[operator]


def test_the_first_are_named_and_the_others_counted() -> None:
    said = what_differs(report([violation("missing", None, "gone")] * 7), 3)
    assert said.count("gone") == 3
    assert said.endswith("; and 4 more")


def test_where_no_row_is_named_both_counts_are() -> None:
    assert what_differs(report([])) == "events at the source: 1, at the target: 2"
