"""A number is said with its noun as people say it; one tenant was "1 tenants"."""

from __future__ import annotations

import re

import pytest

from eventsource.cli import views
from eventsource.cli.fleet.plan import _preflight
from eventsource.cli.waiting import what_it_waits_for
from eventsource.counts import counted
from eventsource.migration import MigrationConfig, MigrationState
from eventsource.migration.subscriptions.migrator import _about_source
from tests.support import REPOSITORY
from tests.support.journal_rows import migration


@pytest.mark.parametrize(
    ("number", "noun", "plural", "said"),
    [
        (0, "event", None, "0 events"),
        (1, "event", None, "1 event"),
        (2_000, "row", None, "2,000 rows"),
        (1, "process", "processes", "1 process"),
        (3, "process", "processes", "3 processes"),
        (1, "event was", "events were", "1 event was"),
        (0.6, "event", None, "1 event"),
    ],
)
def test_a_number_comes_with_its_noun(
    number: float, noun: str, plural: str | None, said: str
) -> None:
    assert counted(number, noun, plural) == said


def test_one_of_each_is_one_at_the_screens() -> None:
    one = migration(
        events_copied=1, total_events=1, state=MigrationState.MIGRATED, progress_percentage=100.0
    )
    assert views.share(one) == "1 event, 100 %"
    slow = migration(
        config=MigrationConfig(max_events_per_second=1), throttle_rate=1.0, throttle_reason="x"
    )
    assert "slowed to 1 event/s" in (views.slowed(slow) or "")
    assert "limited to 1 event/s" in what_it_waits_for(slow)
    assert "the one that the rest allows was examined" in _preflight(0, 1, 1)
    assert "1 of 3 was examined" in _preflight(0, 1, 3)
    assert "its event is delivered" in _about_source(one, None, 1)[0]


#: A number that may be one, and a noun in the plural right after it.
_BARE = re.compile(
    r"\{(?:amount\([^{}]*\)|len\([^{}]*\)|[^{}]*:,)\} (?:\w+ )?"
    r"(?:events|rows|tenants|streams|migrations|routes|moves|connections|processes)\b"
)

#: "4 of the tenant's events", "2 migrations have ids": never one, or not of the noun.
_MEANT = ("of the", "of its", "migrations have ids", "all {", "each.events")


def test_no_message_puts_a_bare_number_before_a_plural() -> None:
    """Every one of them goes by `counted`."""
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in sorted((REPOSITORY / "python").rglob("*.py"))
        if "testing" not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _BARE.search(line) and not any(each in line for each in _MEANT)
    ]
    assert found == []
