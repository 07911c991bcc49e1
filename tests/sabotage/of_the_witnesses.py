"""What each database witnesses of the others, and what happens when one has gone back in time."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_FENCES = "python/eventsource/migration/tables/fences.py"
_PROGRESS = "python/eventsource/migration/tables/progress.py"
_ABORT = "python/eventsource/migration/steps/abort.py"
_ABORTS = "tests/integration/driver/test_abort_witnesses.py"
_PASSES = "python/eventsource/migration/steps/passes.py"
_WITNESSES = "python/eventsource/migration/tables/witnesses.py"
_FENCES_SQL = "python/eventsource/stores/sql/fences.sql"
_PASSED = "tests/integration/passes/test_passes.py"
_OPENINGS = "tests/integration/cutover/test_openings.py"
_UNASKED_SELF = "        (lambda *_: None)(\n            self.conn"
_VERIFIER = "python/eventsource/migration/consistency/verifier.py"
_ARRIVAL = "python/eventsource/migration/routing/arrival.py"
_IDENTITIES = "python/eventsource/migration/tables/identities.py"
_LATE = "tests/integration/consistency/test_late_events.py"
_PLACES = "tests/integration/driver/test_places.py"
_RESTORED = "tests/acceptance/test_restored_servers.py"

_KEPT = f"{_PASSED}::test_the_barriers_of_the_last_thousand_passes_stay_and_no_others"

VARIANTS = (
    Variant(
        "without-target-and-without-any-barrier",
        "a source from before the first barrier counts as one that has lost nothing",
        (
            Edit(
                "python/eventsource/migration/recovery/lost_target.py",
                "    if stands is not None:\n        return not stands\n",
                "    return stands is False\n",
            ),
        ),
        (
            "tests/integration/recovery/test_places.py::"
            "test_no_migration_ends_without_its_target_where_its_barriers_are_gone",
        ),
    ),
    Variant(
        "barriers-stay-for-ever",
        "every pass of a migration leaves a row at its source",
        (Edit(_WITNESSES, "KEPT_PASSES = 1000\n", "KEPT_PASSES = 1_000_000_000\n"),),
        (_KEPT,),
    ),
    Variant(
        "barriers-of-few-passes",
        "a target that has gone back by an hour misses the barrier that its source had",
        (Edit(_WITNESSES, "KEPT_PASSES = 1000\n", "KEPT_PASSES = 10\n"),),
        (_KEPT,),
    ),
    Variant(
        "closed-taken-for-guarded",
        "a router appends to a target whose fence is closed and whose guard is not there yet",
        (
            Edit(
                "python/eventsource/migration/routing/arrival.py",
                "            return Answer.IS_CLOSED\n",
                "            return Answer.LIVES_HERE\n",
            ),
        ),
        (
            "tests/acceptance/test_restored_servers.py::"
            "test_a_target_that_went_back_is_opened_only_with_everything_in_it",
        ),
    ),
    Variant(
        "abort-of-an-open-target",
        "an abort does not take an open target for a witness of the decision",
        (Edit(_FENCES, 'if fence is not None and fence.state == "open":', "if False:"),),
        (f"{_RESTORED}::test_an_abort_does_not_delete_what_an_open_target_has_acknowledged",),
    ),
    Variant(
        "portions-do-not-look",
        "an abort deletes whatever the fence says meanwhile",
        (
            Edit(
                _PROGRESS,
                '            " and exists (select from aborting)",\n',
                '            "",\n',
            ),
        ),
        (f"{_ABORTS}::test_a_portion_deletes_only_under_an_aborting_fence",),
    ),
    Variant(
        "abort-outside-of-its-block",
        "an abort deletes all rows of the tenant, whoever put them there",
        (
            Edit(
                _PROGRESS,
                '            " and e.global_position <= p.last_target_position"\n'
                '            " where e.tenant_id = $2::text::uuid',
                '            " where e.tenant_id = $2::text::uuid',
            ),
        ),
        (
            f"{_ABORTS}::"
            "test_a_portion_deletes_nothing_of_another_migration_or_outside_of_its_block",
        ),
    ),
    Variant(
        "no-fence-is-nothing-to-do",
        "an abort that does not find its fence says that it has cleaned up",
        (
            Edit(
                _ABORT,
                "if closed is None and at is not None and await progress.holds_copied(target, at):",
                "if False:",
            ),
        ),
        (f"{_ABORTS}::test_the_progress_row_without_its_fence_is_not_taken_for_nothing_to_do",),
    ),
    Variant(
        "passes-into-an-open-target",
        "a pass writes to a target that applications write to",
        (
            Edit(
                _PROGRESS,
                '        f" and exists (select from {target.fences} f where f.migration_id = $1"\n'
                "        \" and f.role = 'target' and f.state in ('closed', 'standby'))\"\n",
                "",
            ),
        ),
        (f"{_ABORTS}::test_no_pass_writes_to_a_target_that_is_open",),
    ),
    Variant(
        "barriers-without-the-one-before",
        "a source that has gone back is read on with the old snapshots",
        (
            Edit(
                _WITNESSES,
                '        " where $5::uuid is null or exists (select from before) returning',
                '        " where $4::integer is null or true returning',
            ),
            Edit(
                _PASSES,
                "            await witnesses.stand_again(\n                connections",
                "            (lambda *_: None)(\n                connections",
            ),
        ),
        # What a restored server has lost is missed at its start as well.
        (
            f"{_PASSED}::"
            "test_a_source_that_lacks_the_barrier_of_the_stored_pass_stops_everything[restored]",
        ),
    ),
    Variant(
        "any-source-under-the-fence",
        "the last pass reads whatever source the address leads to by now",
        (
            Edit(
                _PASSES,
                "        await witnesses.stand_again(\n            self.conn",
                _UNASKED_SELF,
            ),
        ),
        (f"{_PASSED}::test_a_source_that_lacks_the_barrier_under_the_fence_decides_nothing",),
    ),
    Variant(
        "a-dump-is-the-original",
        "a source that came out of a dump counts as the one that was dumped",
        (
            Edit(
                _WITNESSES,
                '"xmin::text::bigint = (xid::text::numeric % 4294967296)::bigint"',
                '"xid is not null"',
            ),
        ),
        (f"{_PASSED}::test_a_source_that_lacks_the_barrier_of_the_stored_pass_stops_everything",),
    ),
    Variant(
        "lost-events-are-not-looked-for",
        "what a source has lost is not looked for when it was started again",
        (
            Edit(
                _PASSES, "        await rescue.look_after_a_restart(", "        (lambda *_: None)("
            ),
        ),
        (f"{_RESTORED}::test_a_source_that_went_back_is_not_moved_however_much_was_written_since",),
    ),
    Variant(
        "abort-without-the-barrier",
        "an abort deletes the only copy of what the source has lost",
        (Edit(_ABORT, "        if at is not None and gone_back:\n", "        if False:\n"),),
        (f"{_PASSED}::test_a_source_that_lacks_the_barrier_of_the_stored_pass_stops_everything",),
    ),
    Variant(
        "opened-whatever-it-holds",
        "a target that was put back to an earlier moment is opened as it is",
        (
            Edit(
                _FENCES_SQL,
                """\
                      where p.migration_id = migration and p.pass_number = pass
                        and p.witness_pass = pass and p.witness_token = token
                        and p.pass_rows = carried and p.pass_digest = digest
                        and p.proven_rows + p.pass_rows = total);
""",
                "                      where p.migration_id = migration);\n",
            ),
        ),
        (f"{_RESTORED}::test_a_target_that_went_back_is_opened_only_with_everything_in_it",),
    ),
    Variant(
        "a-store-is-its-name",
        "a process whose address leads elsewhere carries a migration on there",
        (
            Edit(
                _IDENTITIES,
                "        if here != recorded and not (\n",
                "        if False and not (\n",
            ),
        ),
        (f"{_PLACES}::test_a_process_with_another_target_changes_nothing",),
    ),
    Variant(
        "a-router-follows-anywhere",
        "a router appends at whatever database the name of the target leads to",
        (Edit(_ARRIVAL, "        if route.generation <= 0 or", "        if True or"),),
        (f"{_PLACES}::test_a_router_does_not_follow_a_tenant_to_another_place",),
    ),
    Variant(
        "a-comparison-ends-at-the-fence",
        "events that got past the guard after the move are seen by no comparison",
        (Edit(_VERIFIER, "        if head is None:\n", "        if True:\n"),),
        (f"{_LATE}::test_an_event_that_got_past_the_guard_is_a_violation_at_every_level",),
    ),
    Variant(
        "an-aborted-target-is-opened",
        "a target whose rows an abort is deleting can be opened",
        (
            Edit(
                _FENCES_SQL,
                "and f.state in ('closed', 'standby')\n          and exists (select from {schema}",
                "and f.state <> 'open'\n          and exists (select from {schema}",
            ),
        ),
        (f"{_OPENINGS}::test_only_a_closed_target_is_opened",),
    ),
    Variant(
        "the-sequence-is-set-again",
        "an opening takes back the positions that others have drawn meanwhile",
        (
            Edit(
                _FENCES_SQL,
                "    if sequence is not null and coalesce(pg_sequence_last_value(sequence), 0)"
                " < last_carried then\n",
                "    if last_carried > 0 then\n",
            ),
        ),
        (f"{_OPENINGS}::test_a_sequence_that_is_ahead_is_left_alone",),
    ),
)
