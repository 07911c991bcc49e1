"""Lines that could go without a test that noticed, until each got one."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_MIRROR = "tests/integration/routing/test_mirror.py::test_the_mirror_"
_KEPT = (
    "tests/integration/driver/test_abort_witnesses.py"
    "::test_what_a_source_has_lost_that_has_the_barrier_is_kept"
)
_MEANWHILE = (
    "tests/layouts/test_changes_during_a_pass.py"
    "::test_a_row_that_others_refer_to_changes_after_the_keys_were_read"
)

VARIANTS = (
    Variant(
        "trusts-no-server-again",
        "a server that was only started again is asked over each connection, for good",
        (
            Edit(
                "python/eventsource/stores/sessions.py",
                (
                    '        """The server that was seen last is the one that was meant."""\n'
                    "        self._trusted = self._latest"
                ),
                ('        """The server that was seen last is the one that was meant."""'),
            ),
        ),
        (
            "tests/integration/routing/test_changed_servers.py::test_a_server_that_was_started_again_is_asked_once_and_not_over_each_connection",
        ),
    ),
    Variant(
        "aborted-not-sought-at-the-target",
        "an aborted migration that its target has again is taken for clean",
        (
            Edit(
                "python/eventsource/migration/recovery/lost_target.py",
                '    for store, side in ((source, "source"), (target, "target")):',
                '    for store, side in ((source, "source"),):',
            ),
        ),
        (
            "tests/integration/recovery/test_repair.py::test_what_a_target_that_was_put_back_has_of_an_aborted_migration_goes_again",
        ),
    ),
    Variant(
        "finished-migration-unannounced",
        "a session that names a finished migration writes past the readers",
        (
            Edit(
                "python/eventsource/stores/sql/feed.sql",
                ("state in ('closed', 'standby')\n                         and migration_id"),
                (
                    "state in ('closed', 'standby', 'open')\n"
                    "                         and migration_id"
                ),
            ),
        ),
        (
            "tests/integration/guard/test_arrivals.py::test_who_says_it_is_a_migration_that_is_over_is_waited_for_as_everybody",
        ),
    ),
    Variant(
        "aborting-tenant-shown",
        "readers see half of a tenant while an abort deletes it",
        (
            Edit(
                "python/eventsource/stores/sql/feed.sql",
                "              and state in ('closed', 'aborting'));",
                "              and state in ('closed'));",
            ),
        ),
        (
            "tests/integration/driver/test_aborts.py::test_readers_see_nothing_of_a_tenant_whose_rows_are_going",
        ),
    ),
    Variant(
        "layout-target-back-within-a-pass",
        "a target of a layout that was put back to within a pass lacks what it wrote",
        (
            Edit(
                "python/eventsource/migration/journaled/passes.py",
                "(consumed == at.pass_number and at.pass_is_open)",
                "False",
            ),
        ),
        ("tests/layouts/test_target_gone_back.py::test_what_was_carried_since_is_carried_again",),
    ),
    Variant(
        "layout-consumes-without-a-trace",
        "a target of a layout that was put back lacks what the journal has no more",
        (
            Edit(
                "python/eventsource/migration/journaled/changes.py",
                ' where exists (select from gone)",',
                ' where false and exists (select from gone)",',
            ),
        ),
        ("tests/layouts/test_target_gone_back.py::test_what_was_carried_since_is_carried_again",),
    ),
    Variant(
        "layout-fenced-pass-without-barrier",
        "the target has what a crash of the source takes back",
        (
            Edit(
                "python/eventsource/migration/journaled/passes.py",
                "target has it.\n        await witnesses.stand_again(\n",
                "target has it.\n        lambda: (\n",
            ),
        ),
        (
            "tests/layouts/test_journal.py::test_what_is_read_under_the_fence_is_on_disk_before_the_target_has_it",
        ),
    ),
    Variant(
        "layout-exact-pass-over-a-full-journal",
        "a journal that overflows before the fence is taken for all that was written",
        (
            Edit(
                "python/eventsource/migration/journaled/changes.py",
                ("    if len(rows) > limit or await overflowed(connection, source, fence_id):"),
                "    if len(rows) > limit:",
            ),
        ),
        (
            "tests/layouts/test_journal_size.py::test_a_cutover_does_not_take_a_journal_that_overflows_for_all_that_was_written",
        ),
    ),
    Variant(
        "decides-against-a-later-fence",
        "a tenant is decided on where a later fence speaks",
        (
            Edit(
                "python/eventsource/migration/steps/decision.py",
                '        " and o.generation > $3)"\n',
                '        " and o.generation > $3 and false)"\n',
            ),
        ),
        (
            "tests/integration/guard/test_fence_rows.py::test_nothing_is_decided_where_a_later_fence_speaks",
        ),
    ),
    Variant(
        "readiness-asked-once",
        "a router that stops being ready during the comparison is not heard",
        (
            Edit(
                "python/eventsource/migration/driver/cutting_over.py",
                (
                    "        await reports.refuse_unready(at.migration.id)\n"
                    "        if not await _enter"
                ),
                "        if not await _enter",
            ),
        ),
        (
            "tests/integration/routing/test_readiness.py::test_a_process_that_is_not_ready_any_more_after_the_comparison_is_heard",
        ),
    ),
    Variant(
        "cleanup-under-a-way-back",
        "a clean-up deletes what a newer way back needs",
        (
            Edit(
                "python/eventsource/migration/steps/cleanup.py",
                "        if await standby.stands_by(self.old, self.tenant_id):",
                "        if False:",
            ),
        ),
        (
            "tests/integration/afterwards/test_cleanup.py::test_nothing_goes_that_a_way_back_needs_which_was_made_since",
        ),
    ),
    Variant(
        "cleanup-of-who-came-back",
        "a clean-up goes on when the tenant has come back",
        (
            Edit(
                "python/eventsource/migration/steps/cleanup.py",
                " or await self._in_force() != fence",
                "",
            ),
        ),
        (
            "tests/integration/afterwards/test_cleanup.py::test_it_ends_with_the_portion_in_which_the_tenant_comes_back",
        ),
    ),
    Variant(
        "cleanup-holds-no-fence",
        "a fence is changed while a portion of old rows goes",
        (
            Edit(
                "python/eventsource/migration/steps/cleanup.py",
                "state = 'moved' for share\"",
                "state = 'moved'\"",
            ),
        ),
        (
            "tests/integration/afterwards/test_cleanup.py::test_nobody_changes_the_fence_while_a_portion_goes",
        ),
    ),
    Variant(
        "cleanup-forgets-positions",
        "a clean-up deletes an event that is at another position at home",
        (
            Edit(
                "python/eventsource/migration/steps/cleanup.py",
                '            return f"is at position',
                '            return None and f"is at position',
            ),
        ),
        (
            "tests/integration/afterwards/test_cleanup.py::test_what_changes_after_the_comparison_is_not_deleted",
        ),
    ),
    Variant(
        "put-back-beside-an-append",
        "an append in flight is not waited for when events are put back",
        (
            Edit(
                "python/eventsource/migration/steps/put_back.py",
                "lock table {home.name} in share row exclusive mode",
                "lock table {home.name} in access share mode",
            ),
        ),
        (
            "tests/integration/recovery/test_home_gone_back.py::test_an_append_that_is_under_way_is_waited_for",
        ),
    ),
    Variant(
        "heartbeat-ignores-a-lost-lease",
        "a driver goes on whose lease another one has",
        (
            Edit(
                "python/eventsource/migration/driver/heartbeat.py",
                'raise LeaseLostError(f"another driver carries {self.migration.id} on")',
                "pass",
            ),
        ),
        (
            "tests/integration/driver/test_leases.py::test_a_driver_whose_lease_another_one_has_ends",
        ),
    ),
    Variant(
        "layout-holds-tables-silently",
        "the session that holds the tables of a layout ends during a long cutover",
        (
            Edit(
                "python/eventsource/migration/journaled/cutover.py",
                '                await held.execute("select 1")',
                "                pass",
            ),
        ),
        ("tests/layouts/test_journal.py::test_tables_are_held_for_as_long_as_a_cutover_takes",),
    ),
    Variant(
        "abort-believes-a-dumped-barrier",
        "an abort deletes what a source that came in a dump has lost",
        (
            Edit(
                "python/eventsource/migration/tables/witnesses.py",
                'f" and {_OF_THIS_HISTORY} returning pass_number",',
                '" returning pass_number",',
            ),
        ),
        (_KEPT,),
    ),
    Variant(
        "abort-after-a-start-of-the-source",
        "an abort deletes what a source has lost in a crash since the last pass",
        (
            Edit(
                "python/eventsource/migration/steps/abort.py",
                "    return at.source_started not in (None, now.started)\n",
                "    return False\n",
            ),
        ),
        (_KEPT,),
    ),
    Variant(
        "retry-resumes-a-stopped-wave",
        "a wave that somebody has stopped goes on when one of its tenants is to be tried again",
        (
            Edit(
                "python/eventsource/fleet/repository.py",
                '"begun again", [WaveState.DONE.value]',
                '"begun again", [WaveState.DONE.value, WaveState.STOPPED.value]',
            ),
        ),
        (
            "tests/integration/fleet/test_waves.py"
            "::test_a_wave_that_is_stopped_stays_so_when_a_tenant_is_to_be_tried_again",
        ),
    ),
    Variant(
        "mirror-beyond-the-kept-positions",
        "the mirror writes where no abort looks",
        (
            Edit(
                "python/eventsource/stores/sql/mirror.sql",
                "              and (r ->> %8$s)::bigint + $2 <= $4\n",
                "",
            ),
        ),
        (f"{_MIRROR}leaves_alone_what_lies_beyond_the_kept_positions",),
    ),
    Variant(
        "mirror-over-a-gap",
        "the mirror writes an event whose stream begins at the target and goes on without it",
        (
            Edit(
                "python/eventsource/stores/sql/mirror.sql",
                "                                      and p.version = w.first - 1)",
                "                                      )",
            ),
        ),
        (f"{_MIRROR}leaves_a_stream_alone_whose_predecessor_is_missing",),
    ),
    Variant(
        "layout-row-before-its-parent",
        "a pass over many keys fails at a row that refers to one that came later",
        (
            Edit(
                "python/eventsource/migration/journaled/large_pass.py",
                "await passes.write_down(number, await transfer.upsert_what_can_be(table, staged))",
                "await transfer.upsert(table, staged)",
            ),
        ),
        (_MEANWHILE,),
    ),
    Variant(
        "layout-parent-before-its-rows",
        "a pass over many keys fails at a row that is gone with those that refer to it",
        (
            Edit(
                "python/eventsource/migration/journaled/large_pass.py",
                "await passes.write_down(number, await transfer.delete_what_can_be(table",
                "await transfer.writing.execute(statements.delete_gone(table",
            ),
        ),
        (_MEANWHILE,),
    ),
)
