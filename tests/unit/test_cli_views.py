"""What a screen says of a migration, in words, numbers and widths."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from eventsource.cli import estimates, next_steps, views
from eventsource.cli.audit import lines
from eventsource.cli.output import grid, painted
from eventsource.cli.waiting import what_it_waits_for
from eventsource.migration import (
    Blocker,
    ConsistencyError,
    CutoverTimeoutError,
    InvalidStateTransitionError,
    MigrationAlreadyExistsError,
    MigrationConfig,
    MigrationError,
    MigrationNotFoundError,
    MigrationState,
    PreflightError,
)
from eventsource.migration.driver.lease import process_name
from eventsource.migration.protocol import SPOKEN
from eventsource.migration.repositories.audit import AuditEntry
from eventsource.migration.states import of_journal
from eventsource.said import without_ages
from tests.support.journal_rows import NOW, migration

_S = MigrationState


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "500,000 of 1,000,000 events, 50.0 %"),
        ({"state": _S.PENDING, "events_copied": 0, "total_events": 0}, "not counted yet"),
        (
            {"events_copied": 1_000, "total_events": 0, "progress_percentage": 0.0},
            "1,000 events, not counted yet",
        ),
        ({"state": _S.MIGRATED, "events_copied": 1_000_000}, "1,000,000 events, 100 %"),
        (
            {
                "state": _S.MIGRATED,
                "events_copied": 0,
                "total_events": 0,
                "progress_percentage": 100.0,
            },
            "0 events, 100 %",
        ),
        # Once both were 100 %.
        (
            {
                "state": _S.FAILED,
                "events_copied": 1_000,
                "total_events": 0,
                "progress_percentage": 0.0,
            },
            "1,000 events, not counted",
        ),
        (
            {
                "state": _S.MIGRATED,
                "events_copied": 0,
                "total_events": 0,
                "progress_percentage": 0.0,
            },
            "not counted",
        ),
        ({"state": _S.ROLLED_BACK}, "removed again"),
    ],
)
def test_how_many_events_are_carried_is_said_as_it_is(
    changed: dict[str, object], said: str
) -> None:
    assert views.share(migration(**changed)) == said


def test_what_a_newer_version_carries_on_is_shown_with_what_to_do() -> None:
    newer = migration(protocol=SPOKEN + 1, driver_alive=False, state=of_journal("warming_up"))
    shown = views.details(newer, None)
    assert "warming_up" in shown
    assert f"version {SPOKEN + 1}, and this process speaks {SPOKEN}" in shown
    assert "`eventsource-migrate work` of the newer version" in shown
    assert f"warming_up, protocol {SPOKEN + 1}" in views.table([newer], 200)
    assert [step.what for step in next_steps.of(newer)] == ["look"]
    assert "speaks" not in views.details(migration(), None)


def test_the_time_that_is_left_counts_indexes_and_comparison() -> None:
    left = estimates.left(migration(), NOW)
    assert left is not None
    assert left.indexes is not None
    assert left.comparison is not None
    assert left.copy == pytest.approx(10)
    whole = 1_000_000 / 50_000
    assert left.indexes == pytest.approx(whole * estimates.INDEX_SHARE)
    assert left.total == pytest.approx(10 + left.indexes + left.comparison)
    assert left.comparison > 0
    small = estimates.left(migration(events_copied=100, total_events=40_000), NOW)
    assert small is not None
    assert small.indexes == 0


@pytest.mark.parametrize(
    ("limit", "seconds"), [(None, 10), (100_000, 10), (5_000, 100), (1, 500_000)]
)
def test_the_time_that_is_left_obeys_a_limit_that_was_just_set(
    limit: int | None, seconds: float
) -> None:
    """After `throttle MIGRATION 1` it went on with the seconds of the copy without a limit."""
    left = estimates.left(migration(config=MigrationConfig(max_events_per_second=limit)), NOW)
    assert left is not None
    assert left.copy == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("limit", "slowed", "rate", "is_known"),
    [
        (None, None, 50_000.0, True),
        # Limits that the copy does not reach say nothing about its pace.
        (100_000, None, 50_000.0, True),
        (None, 80_000.0, 50_000.0, True),
        (50, None, 50.0, False),
        (50, None, 47.0, False),
        (50, None, 50_000.0, False),
        (None, 1_000.0, 990.0, False),
    ],
)
def test_what_follows_a_limited_copy_is_not_foretold_from_its_rate(
    limit: int | None, slowed: float | None, rate: float, is_known: bool
) -> None:
    """Under `throttle MIGRATION 50` indexes and comparison took hours, and neither is limited."""
    config = MigrationConfig(max_events_per_second=limit)
    now = datetime.now(UTC)
    for copied in (500_000, 1_000_000):
        found = migration(
            config=config, throttle_rate=slowed, copy_rate=rate, events_copied=copied, copied_at=now
        )
        left = estimates.left(found, now)
        assert left is not None
        assert (left.indexes is not None, left.comparison is not None) == (is_known, is_known)
        assert left.total == left.copy + (left.after or 0)
        pace = views.pace(found) or ""
        if copied == 500_000:
            assert pace.endswith("then indexes and comparison") != is_known
        else:
            assert ("ETA" in pace) == is_known


def test_no_rate_is_said_of_a_copy_that_stands_still_or_that_nobody_drives() -> None:
    stalled = migration(copied_at=NOW - timedelta(seconds=60))
    assert estimates.rate_of(stalled, NOW) is None
    assert estimates.left(stalled, NOW) is None
    assert estimates.rate_of(migration(driver_alive=False), NOW) is None
    assert estimates.left(migration(copy_rate=None), NOW) is None
    assert estimates.left(migration(state=_S.DUAL_WRITE), NOW) is None
    assert estimates.left(migration(total_events=0, progress_percentage=0.0), NOW) is None


def test_the_time_for_indexes_runs_out_while_they_are_built() -> None:
    building = migration(events_copied=1_000_000, copied_at=NOW - timedelta(seconds=2))
    left = estimates.left(building, NOW)
    assert left is not None
    assert left.copy == 0
    assert left.indexes == pytest.approx(20 * estimates.INDEX_SHARE - 2)
    late = estimates.left(migration(events_copied=1_000_000, copied_at=NOW - timedelta(1)), NOW)
    assert late is not None
    assert late.indexes == 0


def test_a_screen_says_who_drives_or_that_nobody_does() -> None:
    assert views.driver(migration()) == "db-tools:4711"
    alone = views.driver(migration(driver_alive=False))
    assert alone is not None
    assert alone.startswith("nobody drives it")
    assert "eventsource-migrate work" in alone
    assert views.driver(migration(state=_S.MIGRATED)) is None
    assert views.driver(migration(state=_S.PAUSED, driver_alive=False)) == "none, it is paused"


def test_between_two_attempts_nobody_is_sent_for_another_driver() -> None:
    """While a store was down `status` said to start `work`, beside a `run` that tried again."""
    for seconds, begins in ((3, "none, between two attempts"), (60, "nobody drives it: start")):
        waits = migration(
            driver_alive=False,
            error_message="waiting: store 'dedicated': connection refused",
            updated_at=datetime.now(UTC) - timedelta(seconds=seconds),
        )
        assert (views.driver(waits) or "").startswith(begins)
    ended = migration(driver_alive=False, updated_at=datetime.now(UTC))
    assert (views.driver(ended) or "").startswith("nobody drives it: start")


def test_the_audit_is_cut_between_words() -> None:
    said = "the cutover failed; in the way: pid 21785 (nightly-report)"
    for width in range(60, 110):
        (_, shown) = lines([entry("cutover_answered", "ada", message=said)], width)
        assert len(shown) <= width
        kept = shown.partition("message ")[2]
        assert kept == said or (kept[-1] == "…" and said.startswith(f"{kept[:-1]} ")), shown


def test_the_last_cutover_is_shown_until_one_succeeds() -> None:
    outcome = {"code": "cutover_timeout", "message": "it did not fit", "at": NOW.isoformat()}
    shown = views.details(migration(state=_S.DUAL_WRITE, cutover_outcome=outcome), 3)
    assert "it did not fit" in shown
    assert "last cutover" in shown
    done = migration(state=_S.MIGRATED, cutover_outcome={"code": "ok"}, completed_at=NOW)
    assert "last cutover" not in views.details(done, None)


def test_a_message_of_several_lines_stays_in_its_column() -> None:
    message = "ERROR: no such thing\nDETAIL:  it is\n  not there"
    shown = views.details(migration(error_message=message), None)
    assert "no such thing DETAIL: it is not there" in shown
    assert grid(("name", "a\n b")) == "name  a b"


def test_a_table_fits_the_terminal_and_its_ids_are_whole_where_they_fit() -> None:
    found = [
        migration(id=uuid4(), state=state, events_copied=12_345_678, total_events=12_345_678)
        for state in _S
    ]
    narrow = views.table(found, 80, {each.id: "ada" for each in found})
    assert max(map(len, narrow.splitlines())) <= 80
    assert "12.3M 100%" in narrow
    assert str(found[0].id) not in narrow
    assert views.short(found[0].id) in narrow
    assert str(found[0].id) in views.table(found, 200)
    assert "12,345,678 100%" in views.table(found, 200)
    long = [migration(target_store_id="a-store-with-a-name-of-forty-characters-x")]
    cut = views.table(long, 80)
    assert max(map(len, cut.splitlines())) <= 80
    assert cut.split()[:4] == ["migration", "tenant", "to", "state"]


def entry(event_type: str, operator: str | None = None, **details: object) -> AuditEntry:
    return AuditEntry(1, UUID(int=1), event_type, details, operator, NOW)


def test_the_audit_is_one_line_each_and_no_wider_than_the_terminal() -> None:
    entries = [
        entry("state:pending", "an-operator-with-a-long-name", source="shared", target="d"),
        entry("cutover_requested", "ada", request="7c9e6679", comparison="done before"),
        entry("cutover_answered", None, code="cutover_timeout", message="x" * 400, blockers=[{}]),
        entry("cutover", None, pause_ms=45.262253000032615, rows=1234, attempts=1),
        entry("verified", "ada", consistent=True, report={"a": 1}),
    ]
    shown = lines(entries, 80)
    assert len(shown) == len(entries) + 1  # and the day
    assert all(len(line) <= 80 for line in shown), shown
    whole = "\n".join(lines(entries, 400))
    assert "pause ms 45.3, rows 1,234, attempts 1" in whole
    assert "comparison done before" in whole
    assert "consistent yes" in whole
    for python in ("{", "[", "=", "True", "7c9e6679"):
        assert python not in whole


def test_a_state_is_painted_and_a_store_that_is_named_like_one_is_not() -> None:
    text = painted("state  failed  'failed' failed-store migrated")
    assert [(span.start, span.end) for span in text.spans] == [(7, 13), (37, 45)]


BLOCKER = Blocker(9442, "nightly-report", "idle in transaction", 11.4, "app", "10.0.0.7")


@pytest.mark.parametrize(
    ("error", "commands"),
    [
        (MigrationNotFoundError(UUID(int=1)), ["list"]),
        (MigrationAlreadyExistsError(UUID(int=1), UUID(int=2)), ["status", "abort"]),
        (PreflightError(["no"]), ["plan"]),
        (ConsistencyError("no"), ["verify", "abort"]),
        (
            CutoverTimeoutError(5.0, 1, [BLOCKER]),
            ["pg_terminate_backend(9442)", "cutover", "abort"],
        ),
        (InvalidStateTransitionError(UUID(int=1), "bulk_copy", "x"), ["run", "abort"]),
        (None, ["run", "abort"]),
    ],
)
def test_every_failure_of_a_migration_has_a_next_step(
    error: BaseException | None, commands: list[str]
) -> None:
    steps = next_steps.after(error, migration())
    assert len(steps) == len(commands)
    for step, command in zip(steps, commands, strict=True):
        assert command in step.command


def test_a_difference_after_the_move_is_no_reason_to_abort_it() -> None:
    """It was offered, and refused when it was pasted."""
    steps = next_steps.after(ConsistencyError("x"), migration(state=_S.MIGRATED))
    assert [step.what for step in steps] == ["compare"]


def test_what_may_be_decided_already_is_not_offered_to_be_undone() -> None:
    """After an interrupt at a cutover `abort` was named, and that answered that it cannot be."""
    paused = migration(state=_S.CUTOVER_PAUSED)
    assert [step.what for step in next_steps.of(paused)] == ["go on", "look"]


def test_a_command_that_is_named_can_be_pasted_into_a_shell() -> None:
    (go_on, _) = next_steps.of(migration(target_store_id="a store; rm -rf x"))
    assert go_on.command.endswith("--to 'a store; rm -rf x'")


def test_who_is_in_the_way_is_named_with_account_and_address() -> None:
    assert str(BLOCKER) == (
        "pid 9442 (nightly-report, idle in transaction, open for 11 s, app@10.0.0.7)"
    )
    assert str(Blocker(1, "x", "active", 61)) == "pid 1 (x, active, open for 1 min)"
    # Whose state may not be seen, of it the age is not known either.
    assert str(Blocker(1, "x", "not shown", 0, "app")) == "pid 1 (x, not shown, app)"


def test_an_audit_row_has_ids_by_their_beginnings_before_it_is_cut() -> None:
    way = uuid4()
    details = {"way_back": str(way), "fence_position": 150413, "rows": 150413}
    entry = AuditEntry(1, uuid4(), "way_back:standby", details, None, NOW)
    assert f"way back {way}, fence position 150413, rows 150,413" in lines([entry], 200)[1]
    narrow = lines([entry], 80)[1]
    assert f"way back {str(way)[:8]}, fence position 150413" in narrow
    assert len(narrow) <= 80


@pytest.mark.parametrize("age", ["4 s", "0.4 s", "3 min 20 s", "2 h 05 min"])
def test_what_only_grows_older_is_no_new_line(age: str) -> None:
    said = "in the way: pid 6007 (nightly-report, open for {}, postgres@127.0.0.1)"
    assert without_ages(said.format(age)) == without_ages(said.format("12 s"))
    assert without_ages(said.format(age)) != without_ages(said.replace("6007", "7").format(age))


def test_two_processes_that_wait_for_the_same_thing_are_one_line() -> None:
    """They take turns to say it, each since it began: that was a line at every turn."""
    said = "waiting: store 'b': too many connections for role \"mig\" (since 2026-12-01 00:4{})"
    utc, local = "6:02 UTC", "6:19+00:00"
    assert without_ages(said.format(utc)) == without_ages(said.format(local))
    assert without_ages(said.format(utc)) != without_ages(said.replace("'b'", "'c'").format(utc))


def test_a_command_does_not_wait_for_itself_as_for_somebody_who_may_be_gone() -> None:
    soon = NOW + timedelta(seconds=10)
    driven = {"driver_alive": True, "driver_expires_at": soon, "state": _S.DUAL_WRITE}
    said = what_it_waits_for(migration(**driven, driver_name=process_name()))
    assert said == "for this process, which drives it; the migration is dual_write"
    said = what_it_waits_for(migration(**driven, driver_name="host-b:7"))
    assert "for driver host-b:7" in said
    assert "if it is gone" in said


def test_what_a_message_names_is_a_next_step_as_well() -> None:
    """A program that asked for JSON was sent to `plan`, and a person to `return`."""
    refused = PreflightError(
        ["it may return: `eventsource-migrate return 1` or `eventsource-migrate way-back close 1`"]
    )
    assert [(step.what, step.command) for step in next_steps.after(refused)][:2] == [
        ("return", "eventsource-migrate return 1"),
        ("way-back close", "eventsource-migrate way-back close 1"),
    ]
    unknown = MigrationError("there is no wave; `eventsource-migrate fleet status` lists all")
    assert [step.what for step in next_steps.after(unknown)] == ["fleet status"]
