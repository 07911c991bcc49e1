"""Waves: what stops the line, what is permitted, what is recorded once."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_CARRIER = "python/eventsource/fleet/carrier.py"
_REPOSITORY = "python/eventsource/fleet/repository.py"
_WAVES = "python/eventsource/migration/repositories/waves.py"
_JOURNAL = "python/eventsource/migration/repositories/migrations.py"
_REQUESTS = "python/eventsource/migration/repositories/requests.py"
_SQL = "python/eventsource/fleet/sql/waves.sql"
_STOP_SQL = "python/eventsource/migration/repositories/sql/waves.sql"
_DISK = "python/eventsource/fleet/disk.py"
_ROOM = "tests/integration/fleet/test_disk.py"
_PAGE = "python/eventsource/web/application.py"
_STOP = "tests/integration/fleet/test_stop_the_line.py"
_TESTS = "tests/integration/fleet/test_waves.py"
_LOOK = "tests/integration/cli/test_page.py"

VARIANTS = (
    Variant(
        "a-failed-proof-stops-no-wave",
        "the journal records a failed proof and lets the wave go on",
        (
            Edit(
                _REQUESTS,
                'if outcome["code"] == ConsistencyError.code:',
                "if False:",
            ),
        ),
        (f"{_STOP}::test_the_journal_stops_the_wave_although_no_worker_lives",),
    ),
    Variant(
        "a-failed-migration-stops-no-wave",
        "a migration fails by its proof and its wave goes on",
        (
            Edit(
                _JOURNAL,
                "if following is MigrationState.FAILED and code == ConsistencyError.code:",
                "if False:",
            ),
        ),
        (f"{_STOP}::test_the_journal_stops_the_wave_although_no_worker_lives",),
    ),
    Variant(
        "any-answer-stops-the-wave",
        "a cutover that had no time stops the wave like a failed proof",
        (
            Edit(
                _REQUESTS,
                'if outcome["code"] == ConsistencyError.code:',
                'if outcome["code"] != "ok":',
            ),
        ),
        (f"{_STOP}::test_another_answer_stops_nothing",),
    ),
    Variant(
        "requests-outlive-the-stop",
        "a cutover that was asked for before the stop is carried out after it",
        (Edit(_WAVES, '    await connection.execute(_SQL["withdraw"], wave_id, cause)\n', ""),),
        (f"{_STOP}::test_a_permit_and_a_stop_follow_each_other",),
    ),
    Variant(
        "the-stop-withdraws-everybodys",
        "the stop of a wave withdraws the cutovers of others",
        (
            Edit(
                _STOP_SQL,
                "where i.wave_id = $1 and i.outcome is null)",
                "where $1::uuid is not null)",
            ),
        ),
        (f"{_STOP}::test_a_wave_of_others_is_not_stopped",),
    ),
    Variant(
        "a-permit-without-a-lock",
        "a cutover is permitted while the wave is being stopped",
        (Edit(_SQL, "where id = $1 for share", "where id = $1"),),
        (f"{_STOP}::test_a_permit_and_a_stop_follow_each_other",),
    ),
    Variant(
        "a-stopped-wave-permits",
        "a tenant of a stopped wave cuts over",
        (Edit(_REPOSITORY, 'row["state"] == WaveState.RUNNING', "True"),),
        (f"{_STOP}::test_a_copy_that_is_under_way_ends_and_is_parked",),
    ),
    Variant(
        "the-outcome-without-the-stop",
        "a failure is recorded and the wave goes on",
        (
            Edit(
                _REPOSITORY,
                "        if outcome is Outcome.FAILED:\n",
                "        if False:\n",
            ),
        ),
        (f"{_STOP}::test_an_outcome_and_the_stop_that_it_causes_are_one_transaction",),
    ),
    Variant(
        "failures-are-not-counted-in-a-row",
        "a tenant that moved does not end a row of failures",
        (
            Edit(
                _SQL,
                "then failures_in_row + 1 else 0 end",
                "then failures_in_row + 1 else failures_in_row end",
            ),
        ),
        (f"{_STOP}::test_so_many_failures_in_a_row_stop_it",),
    ),
    Variant(
        "refusals-count-as-failures",
        "tenants that preflight refuses stop the wave",
        (
            Edit(_REPOSITORY, "        if outcome is Outcome.REFUSED:\n            return\n", ""),
            Edit(
                "python/eventsource/fleet/waves.py",
                "return self in (Outcome.FAILED, Outcome.HELD)",
                "return self is not Outcome.MOVED",
            ),
        ),
        (
            f"{_TESTS}::test_a_refusal_is_held_by_name_and_stops_nothing",
            f"{_STOP}::test_so_many_failures_in_a_row_stop_it",
        ),
    ),
    Variant(
        "two-outcomes",
        "a tenant that is delivered twice has its outcome recorded twice",
        (
            Edit(
                _SQL,
                "where wave_id = $1 and tenant_id = $2 and outcome is null\n"
                "returning tenant_id\n\n-- name: count_failure",
                "where wave_id = $1 and tenant_id = $2\n"
                "returning tenant_id\n\n-- name: count_failure",
            ),
        ),
        (f"{_STOP}::test_so_many_failures_in_a_row_stop_it",),
    ),
    Variant(
        "cutovers-outside-the-window",
        "a tenant cuts over while the window is closed",
        (Edit(_CARRIER, "if hours is not None and not hours.is_open(now):", "if False:"),),
        (f"{_TESTS}::test_copies_by_day_wait_parked_for_the_window_of_cutovers",),
    ),
    Variant(
        "copies-outside-the-window",
        "a move begins while the window is closed",
        (
            Edit(
                _CARRIER,
                "            if not hours.is_open(now):\n"
                "                return hours.opens(now) - now\n",
                "",
            ),
        ),
        (f"{_TESTS}::test_outside_its_window_nothing_begins",),
    ),
    Variant(
        "attempts-without-end",
        "a tenant is tried again and again although its attempts are used up",
        (Edit(_CARRIER, "if attempts < wave.settings.attempts:", "if True:"),),
        (f"{_TESTS}::test_a_tenant_is_held_when_its_attempts_are_used_up",),
    ),
    Variant(
        "waves-fill-the-disk",
        "a tenant begins for which its target's disk has no room",
        (
            Edit(
                _DISK,
                "        if lies + brought > most:\n            raise",
                "        if False:\n            raise",
            ),
        ),
        (f"{_ROOM}::test_a_tenant_without_room_is_refused_by_name_and_the_others_go",),
    ),
    Variant(
        "two-take-the-same-room",
        "tenants begin for which the room is taken by others on their way",
        (Edit(_DISK, "if lies + coming + brought <= most:", "if True:"),),
        (f"{_ROOM}::test_what_is_on_its_way_takes_room_until_it_is_there",),
    ),
    Variant(
        "two-wait-for-each-other",
        "of two tenants that have begun each waits for the room of the other",
        (
            Edit(
                "python/eventsource/fleet/sql/view.sql",
                "< (mine.began_at, mine.wave_id, mine.tenant_id)",
                "<> (mine.began_at, mine.wave_id, mine.tenant_id)",
            ),
        ),
        (f"{_ROOM}::test_what_is_on_its_way_takes_room_until_it_is_there",),
    ),
    Variant(
        "the-page-of-everybody",
        "the page shows everything without its token",
        (
            Edit(
                _PAGE,
                "return hmac.compare_digest(given.encode(), self.token.encode())",
                "return True",
            ),
        ),
        (f"{_LOOK}::test_with_a_token_nobody_looks_without_it",),
    ),
    Variant(
        "the-page-by-any-name",
        "a site whose name points to this machine reads the page",
        (Edit(_PAGE, "            if host in _LOOPBACK:\n", "            if True:\n"),),
        (f"{_LOOK}::test_without_a_token_another_name_of_this_machine_is_refused",),
    ),
)
