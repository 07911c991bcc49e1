"""What differs, in words, for the message of an error: the journal, `status` and JSON show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventsource.dataplane import Violation
    from eventsource.migration.models import VerificationReport


def what_differs(report: VerificationReport, most: int = 5) -> str:
    """The first differences that a comparison has named, and how many more it has.

    A comparison of counts may name none: then both counts.
    """
    named = [*map(str, report.differences), *map(in_words, report.violations)]
    if not named:
        return (
            f"events at the source: {report.source_event_count:,},"
            f" at the target: {report.target_event_count:,}"
        )
    more = len(named) - most
    return "; ".join(named[:most]) + (f"; and {more:,} more" if more > 0 else "")


def in_words(violation: Violation) -> str:
    """What `verify` shows of it in a row of its table."""
    field = "" if violation.field is None else f", field {violation.field}"
    return (
        f"event {violation.event_id} (version {violation.version} of"
        f" {violation.aggregate_type} {violation.aggregate_id}, position {violation.position})"
        f"{field}: {violation.detail}"
    )
