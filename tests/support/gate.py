"""What continuous integration leaves to `make thorough`: instances of kinds whose others it runs.

Each line is a pattern of test ids. What it names takes long, and another test that is not named
here notices the same mistakes earlier or at less cost. Everything else runs every time.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

LEFT_OUT: dict[str, tuple[str, ...]] = {
    "acceptance/test_deferred_indexes.py": (
        "test_a_target_in_use_keeps_its_indexes",
        "test_a_row_changed_on_its_way_fails_the_proof_and_is_named",
        "test_an_abort_in_the_middle_of_the_load_restores_the_indexes",
    ),
    "acceptance/test_demo.py": (
        "test_kept_servers_answer_other_commands",
        "test_demo_prints_one_json_document_and_progress_beside_it",
        "test_ctrl_c_ends_servers_and_writers[[]servers*",
        "test_ctrl_c_ends_servers_and_writers[[]writers*",
    ),
    "acceptance/test_killed_driver.py": (
        "test_an_abort_goes_through_beside_a_driver_frozen_while_it_compares",
        "test_an_abort_goes_through_beside_a_driver_frozen_while_it_reads",
        "test_killed_in_dual_write*",
        "test_killed_with_the_fence_held",
        "test_killed_in_the_bulk_copy[[]rows]",
    ),
    "acceptance/test_link_faults.py": (
        "test_a_move_outlives_a_link_that_swallows_everything*",
        "test_a_move_outlives_the_lost_reply_to_a_commit[[]source-*",
    ),
    "acceptance/test_many_moves.py": (
        "test_what_is_recorded_is_driven_without_taking_connections_from_others",
        "test_tenants_that_are_gathered_in_one_process_all_arrive[[]20]",
    ),
    "acceptance/test_memory.py": ("*[[]catch-up pass]",),
    "acceptance/test_one_tenant_moves.py": (
        "test_tenants_move_in_a_row_and_nothing_is_lost",
        "test_a_tenant_moves_whatever_sessions_its_writers_have[[]serializable]",
        "test_a_tenant_moves_whatever_sessions_its_writers_have[[]replica-role]",
        "test_a_tenant_moves_whatever_sessions_its_writers_have[[]repeatable-read]",
    ),
    "acceptance/test_other_majors.py": (
        "test_tables_from_before_*[[]18 to 1[45]]",
        "test_a_cutover_over_its_budget_*[[]1[4567] to 1[78]]",
        "test_an_abort_leaves_nothing_behind[[]1[4567] to 1[78]]",
        "test_a_cutover_over_its_budget_*[[]18 to 1[45]]",
        "test_an_abort_leaves_nothing_behind[[]18 to 1[45]]",
        "test_a_cutover_over_its_budget_*[[]18 to 17]",
        "test_tables_from_before_*[[]18 to 17]",
        "test_tables_from_before_*[[]16 to 17]",
        "test_tables_from_before_*[[]17 to 18]",
        "test_an_abort_leaves_nothing_behind[[]18 to 17]",
    ),
    "acceptance/test_poolers.py": (
        "test_everything_behind_a_session_pooler_moves",
        "*[[]source-statement]",
        "*[[]target-transaction]",
        "*[[]target-statement]",
        "*[[]control-transaction]",
    ),
    "acceptance/test_restored_servers.py": (
        "test_an_abort_does_not_delete_what_an_open_target_has_acknowledged[[]bulk_copy]",
        "test_an_abort_does_not_delete_what_an_open_target_has_acknowledged[[]paused]",
        "test_a_target_that_went_back_is_opened_only_with_everything_in_it[[]dual_write]",
        "test_a_source_that_went_back_*[[]a pass]",
        "test_a_target_that_went_back_gets_*[[]before]",
    ),
    "acceptance/test_returns.py": (
        "test_ten_returns_under_many_writers",
        "test_a_tenant_goes_there_and_back_under_writers_and_nothing_is_lost[[]offset]",
    ),
    "acceptance/test_server_faults.py": ("*[[]target crash*", "*[[]control crash*"),
    "acceptance/test_server_storage.py": ("test_a_full_disk_of_the_target_is_waited_for",),
    "drills/test_drills.py": ("*[[]control lost at after]",),
    "faults/test_matrix.py": (
        "*[[]cleanup-cleanup.portion.committed-second]",
        "*[[]rest-return.rested.committed-second]",
        "*[[]cutover.fence.held-second]",
        "*[[]guard.source.created-freeze]",
        "*[[]snapshot.stored.committed-kill]",
        "*[[]bulk.chunk.recorded-second]",
        "*[[]pass.chunk.proven-kill]",
        "*[[]cutover.delta.copied-error]",
        "*[[]flip.target.before-freeze]",
        "*[[]recovery.lock.held-freeze]",
        "*[[]return-cutover.decision.sent-kill]",
        "*[[]close-close.retired.committed-kill]",
    ),
    "faults/test_torture.py": ("test_every_promise_is_kept[[]13]",),
    "integration/afterwards/test_cleanup.py": (
        "test_a_single_row_that_differs_*[[]another*",
        "test_a_single_row_that_differs_*[[]an actor*",
    ),
    "integration/afterwards/test_made_ready.py": (
        "*[[]source-driver's]",
        "*[[]target-trial's]",
        "*[[]source-trial's]",
    ),
    "integration/afterwards/test_way_back.py": (
        "test_a_driver_that_dies_is_followed_by_another_one[[]before the opening]",
        "test_a_driver_that_dies_is_followed_by_another_one[[]while it is made ready]",
        "test_a_driver_that_dies_is_followed_by_another_one[[]before the return's fence]",
        "test_a_driver_that_dies_is_followed_by_another_one[[]before the journal]",
    ),
    "integration/cli/test_choosing.py": ("*[[]y-abort]", "*[[]-cutover]", "*[[]no-abort]"),
    "integration/cli/test_fleet.py": ("test_a_worker_outlives_its_connections",),
    "integration/cli/test_init.py": ("test_a_check_names_what_got_lost_*[[]control-*",),
    "integration/cli/test_interruption.py": (
        "test_an_interrupted_copy_stays_and_run_goes_on_with_it[[]15-143]",
        "test_run_waits_for_a_server_that_restarts_and_goes_on[[]target]",
        "test_run_goes_on_with_a_migration_that_was_paused",
        "test_output_without_a_terminal_is_plain_lines",
        "test_an_interrupted_copy_can_be_aborted",
    ),
    "integration/cli/test_metrics.py": (
        "test_readiness_ends_with_the_control_database",
        "test_an_alert_rings_only_for_a_way_back_that_nobody_follows[[]left alone]",
        "test_a_hook_that_fails_or_hangs_stops_no_migration[[]import time*",
        "test_an_alert_rings_only_for_a_way_back_that_nobody_follows[[]followed]",
    ),
    "integration/cli/test_move.py": ("test_without_time_it_parks_*",),
    "integration/cli/test_output.py": (
        "test_a_command_that_waits_says_for_which_session[[]abort]",
        "test_output_that_cannot_be_written_is_one_line[[]| true-*",
        "test_a_run_whose_output_is_gone_says_how_to_go_on[[]>/dev/full]",
        "test_a_terminal_that_is_closed_ends_a_command_as_sigterm_does[[]True]",
    ),
    "integration/cli/test_page.py": (
        "test_a_control_database_that_restarts_is_said_and_waited_for",
        "test_it_shows_the_history_of_a_tenant",
    ),
    "integration/cli/test_page_in_a_browser.py": (
        "test_it_shows_waves_moves_and_the_history_of_a_tenant",
    ),
    "integration/cli/test_plan.py": ("test_a_transaction_is_named_after_seconds_*[[]target]",),
    "integration/cli/test_signals.py": ("*[[]SIGTERM at *",),
    "integration/cli/test_status_of_many.py": ("test_a_screen_that_is_drawn_again_*[[]200x50]",),
    "integration/cli/test_verbs.py": ("test_a_tenant_goes_back_where_it_came_from_only_by_*",),
    "integration/cli/test_way_back_foretold.py": (
        "*[[]a column of one side]",
        "test_a_plan_says_why_there_will_be_none*",
        "test_the_question_says_whether_the_tenant_may_return[[]run]",
        "test_at_a_terminal_it_is_asked_before[[]close]",
        "test_by_default_the_move_goes_on_and_says_so*",
        "test_a_way_forth_that_was_asked_for_keeps_the_tenant_from_returning_without",
    ),
    "integration/consistency/test_resumable_verification.py": (
        "*[[]*-different-full]",
        "*[[]*-alike-hash]",
    ),
    "integration/cutover/test_openings.py": (
        "*[[]decided_token-None]",
        "*[[]decided_total-21]",
        "*[[]decided_pass-1]",
    ),
    "integration/dataplane/test_several_hosts.py": (
        "test_a_silent_host_does_not_use_up_the_time_of_the_others",
    ),
    "integration/dataplane/test_statement_plans.py": ("*[[]18 to 16-*", "*[[]18 to 16]"),
    "integration/driver/test_aborts.py": ("*[[]paused-dual_write]", "*[[]running-pending]"),
    "integration/driver/test_environment.py": ("*[[]an older table]", "*[[]another password]"),
    "integration/driver/test_leases.py": (
        "*[[]*-40 min]",
        "*[[]40 min]",
        "test_what_a_call_left_to_a_dead_driver_is_taken_up[[]work]",
    ),
    "integration/driver/test_limits.py": (
        "test_drivers_that_come_at_the_same_moment_heed_the_limit",
        "test_a_cutover_and_a_recovery_need_no_place[[]dual_write]",
    ),
    "integration/driver/test_mended_guards.py": ("*[[]*dropped-target]", "*[[]enabled all-source]"),
    "integration/driver/test_move.py": (
        "test_without_its_permit_no_cutover_is_asked_for[[]error1]",
        "test_after_a_failure_nothing_begins_*[[]inconsistent-*",
        "test_what_is_under_way_is_joined[[]pending]",
        "test_what_is_under_way_is_joined[[]bulk_copy]",
    ),
    "integration/driver/test_parked_moves.py": (
        "test_what_a_person_has_paused_stays_so[[]True]",
        "test_in_each_state_whatever_drives_pauses_at_the_time[[]pending]",
        "test_in_each_state_whatever_drives_pauses_at_the_time[[]dual_write]",
    ),
    "integration/driver/test_places.py": (
        "*[[]*another table]",
        "test_a_process_with_another_target_changes_nothing[[]no table]",
        "test_a_router_does_not_follow_*[[]by the fence-no table]",
        "test_a_router_does_not_follow_*[[]by the route-no table]",
    ),
    "integration/driver/test_source_load.py": (
        "test_the_copy_slows_down_while_a_replica_is_behind_and_recovers",
    ),
    "integration/driver/test_swaps.py": (
        "test_two_tenants_change_places_under_load[[]together]",
        "test_two_tenants_change_places_under_load[[]leaves first]",
    ),
    "integration/driver/test_waiting.py": (
        "test_a_wait_names_the_session_that_is_in_the_way[[]abort]",
        "test_a_reader_holds_up_no_abort[[]bulk_copy-*",
        "test_a_pause_needs_the_control_database_alone[[]no driver-*",
        "test_a_wait_names_the_session_that_is_in_the_way[[]start]",
        "test_a_reader_holds_up_no_abort[[]dual_write-target]",
    ),
    "integration/fleet/test_plans.py": ("test_no_statement_reads_a_whole_table",),
    "integration/fleet/test_queue.py": (
        "test_the_queue_is_dropped_while_it_works",
        "test_what_passes_is_tried_again_after_a_while",
    ),
    "integration/fleet/test_stop_the_line.py": (
        "test_the_journal_stops_the_wave_although_no_worker_lives[[]failure]",
    ),
    "integration/passes/test_bulk_copy.py": (
        "test_an_index_that_would_not_come_back_*[[]a constraint's *",
    ),
    "integration/passes/test_odd_data.py": (
        "test_a_stream_of_twenty_thousand_events_moves_and_goes_on",
        "test_an_event_of_many_megabytes_moves_between_small_ones[[]20]",
    ),
    "integration/passes/test_passes.py": (
        "test_a_source_that_lacks_the_barrier_*[[]dumped]",
        "test_a_source_that_lacks_the_barrier_*[[]another]",
    ),
    "integration/preflight/test_bad_input.py": (
        "test_a_name_that_is_only_odd_moves[[]select *",
        "test_a_name_that_is_only_odd_moves[[]events; *",
    ),
    "integration/preflight/test_standby.py": ("test_a_standby_takes_no_part[[]source]",),
    "integration/recovery/test_home_gone_back.py": (
        "test_what_it_lost_goes_home_to_where_it_was[[]lost]",
        "test_what_is_in_flight_meanwhile_goes_back_as_well[[]what is put back]",
    ),
    "integration/recovery/test_places.py": (
        "test_a_migration_ends_without_its_target[[]bulk_copy]",
    ),
    "integration/recovery/test_reconcile.py": (
        "test_what_only_the_target_holds_is_kept_and_the_passes_go_on[[]60]",
        "test_what_only_the_target_holds_is_kept_and_the_passes_go_on[[]3]",
    ),
    "integration/recovery/test_repair.py": (
        "test_a_journal_of_an_earlier_time_*[[]paused]",
        "test_a_journal_of_an_earlier_time_*[[]bulk_copy]",
        "test_a_control_database_that_is_lost_is_made_again[[]3]",
    ),
    "integration/recovery/test_ways_back_made_again.py": (
        "test_a_return_that_nobody_knows_of_any_more_is_given_up",
        "test_one_that_waited_for_the_cutover_is_made_ready_again_with_it",
        "test_a_control_database_from_before_the_arming_*[[]bulk_copy]",
        "test_a_control_database_from_before_the_arming_*[[]preparing]",
        "test_half_a_way_back_is_closed[[]at the old store]",
        "test_half_a_way_back_is_closed[[]its progress]",
        "test_one_by_which_the_tenant_has_returned_*[[]its time is over]",
        "test_one_by_which_the_tenant_has_returned_*[[]is closed]",
        "test_stores_that_have_an_ended_one_again_*[[]refused]",
        "test_a_tenant_that_has_returned_may_go_forth_again[[]2]",
        "test_one_that_was_closed_after_the_backup_*",
    ),
    "integration/stores/test_schema_changes.py": (
        "test_appends_of_all_tenants_go_on_*[[]events]",
        "test_appends_of_all_tenants_go_on_*[[]tenant_migrations]",
    ),
    "integration/subscriptions/test_following.py": (
        "test_it_follows_there_and_back_under_writers[[]tenants]",
    ),
    "integration/subscriptions/test_move.py": ("test_from_every_checkpoint_*[[]False]",),
    "integration/subscriptions/test_outages.py": ("test_run_goes_on_after_restarts_*[[]handler]",),
    "layouts/test_authority.py": ("test_a_repair_reminds_*[[]before the start]",),
    "layouts/test_compaction.py": ("test_what_a_pass_has_carried_goes_*",),
    "layouts/test_journal.py": (
        "test_two_tenants_leave_at_the_same_time",
        "test_much_at_once_goes_in_portions_and_is_equal",
    ),
    "layouts/test_journal_size.py": (
        "test_writers_lose_nothing_while_it_overflows",
        "test_a_writer_that_has_seen_it_full_is_waited_for[[]read committed]",
    ),
    "layouts/test_leaves.py": (
        "test_a_leaf_that_is_detached_takes_its_rows_along*",
        "test_a_leaf_with_the_tenants_rows_is_not_emptied_unseen[[]list]",
        "test_a_leaf_with_the_tenants_rows_is_not_emptied_unseen[[]hash]",
        "test_no_leaf_comes_or_goes_while_the_fence_is_held[[]attach]",
        "test_no_leaf_comes_or_goes_while_the_fence_is_held[[]disable]",
    ),
    "layouts/test_marten.py": (
        "test_a_tenant_of_any_name_moves_and_no_other_does[[]1]",
        "test_a_tenant_of_any_name_moves_and_no_other_does[[]4]",
    ),
    "layouts/test_marten_faults.py": (
        "test_another_process_goes_on[[]layout.chunk.written]",
        "test_another_process_goes_on[[]layout.exact.written]",
    ),
    "layouts/test_marten_partitioned.py": (
        "test_a_name_is_a_value_in_the_statements_of_a_layout",
        "test_an_abort_gives_the_numbers_back",
        "*[[]marten]",
    ),
    "layouts/test_more_presets.py": (
        "*[[]marten with *",
        "*[[]eventsource-py-partitioned-0.8]",
        "*[[]our columns by list]",
    ),
    "layouts/test_other_presets.py": ("*[[]rails-event-store]", "*[[]emmett]"),
    "layouts/test_partitions.py": (
        "test_a_tenant_moves_while_writers_use_root_and_leaves[[]list]",
        "test_a_tenant_moves_while_writers_use_root_and_leaves[[]range]",
        "test_a_target_without_a_place_for_the_tenant_is_refused[[]range]",
        "test_a_default_partition_is_a_place[[]list]",
    ),
    "layouts/test_refused.py": (
        "*[[]a statement trigger of the target]",
        "*[[]a rule of the target]",
        "*[[]another type at the target]",
        "*[[]a stamp that is not declared]",
        "*[[]children that inherit]",
        "*[[]the tenant at the target]",
        "*[[]an expression that asks a table]",
        "*[[]an expression that is two]",
        "*[[]a cast that can fail]",
        "*[[]a column that is not there]",
    ),
    "layouts/test_whole.py": (
        "test_tables_that_are_one_tenants_do_not_move_under_another_name",
        "test_a_driver_that_dies_when_numbers_are_handed_over_loses_none",
    ),
    "strangers/test_changes_on_the_way.py": (
        "test_a_column_that_came_meanwhile_*[[]hash]",
        "test_a_column_that_came_meanwhile_*[[]count]",
        "test_a_change_before_the_cutover_*[[]a late trigger]",
        "test_a_change_before_the_cutover_*[[]a child]",
    ),
    "unit/test_side_by_side.py": (
        "test_one_at_a_time_they_run_as_well[[]options1]",
        "test_one_at_a_time_they_run_as_well[[]options0]",
    ),
}

PATTERNS = tuple(f"tests/{file}::{name}" for file, names in LEFT_OUT.items() for name in names)

#: Marks of tests that other targets run.
ELSEWHERE = ("infra", "strangers", "packages", "fleet", "drills")

#: Every test that was collected, and whether continuous integration would run it.
COLLECTED = pytest.StashKey[dict[str, bool]]()


def is_left_out(nodeid: str) -> bool:
    return any(fnmatchcase(nodeid, pattern) for pattern in PATTERNS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Before pytest chooses by marks.
    config.stash[COLLECTED] = {
        item.nodeid: not any(item.get_closest_marker(mark) for mark in ELSEWHERE) for item in items
    }
    for item in items:
        if is_left_out(item.nodeid):
            item.add_marker(pytest.mark.thorough)
