"""The way back, the rehearsal and the clean-up with one of their rules broken."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_CUTOVER = "python/eventsource/migration/steps/cutover.py"
_CLEANUP = "python/eventsource/migration/steps/cleanup.py"
_WAY = "python/eventsource/migration/steps/way_back.py"
_WAYS_SQL = "python/eventsource/migration/repositories/sql/ways_back.sql"
_CUTTING = "python/eventsource/migration/driver/cutting_over.py"
_PASSES = "python/eventsource/migration/steps/passes.py"
_FEED = "python/eventsource/stores/sql/feed.sql"
_GUARD = "python/eventsource/stores/sql/guard.sql"
_FENCES = "python/eventsource/stores/sql/fences.sql"
_SOURCE = "rust/core/src/pass/source.rs"
_STAGED = "rust/core/src/pass/staged.rs"

_REHEARSAL = "tests/integration/cutover/test_rehearsal.py"
_CLEANS = "tests/integration/afterwards/test_cleanup.py"
_BACK = "tests/integration/afterwards/test_way_back.py"
_FOLLOWER = "python/eventsource/migration/driver/follower.py"
_AGAIN = "tests/integration/recovery/test_ways_back_made_again.py"
_READY = "tests/integration/afterwards/test_made_ready.py"
_FORETOLD = "tests/integration/cli/test_way_back_foretold.py"
_CUTTING = "python/eventsource/migration/driver/cutting_over.py"
_GOES = "tests/integration/afterwards/test_what_goes_back.py"

VARIANTS = (
    Variant(
        "way-back-of-a-driver-of-before",
        "a driver that has lost its lease records a way back over that of the next one",
        (Edit(_WAYS_SQL, " and m.driver_owner = $7", " and $7::uuid is not null"),),
        (f"{_READY}::test_a_driver_that_has_lost_its_lease_meanwhile_makes_none",),
    ),
    Variant(
        "returned-by-what-has-ended",
        "a return is asked for whose way back has ended at the old store",
        (Edit(_FOLLOWER, "        if returns:\n", "        if False:\n"),),
        (f"{_AGAIN}::test_what_has_ended_at_the_old_store_takes_nobody_back[half]",),
    ),
    Variant(
        "lost-connection-costs-the-way-back",
        "a way back is given up where a session ended while it was made",
        (Edit(_WAY, "        if _is_lost(error):\n            raise\n", ""),),
        (
            f"{_READY}::"
            "test_a_session_that_the_server_ends_while_it_is_made_does_not_cost_the_way_back"
            "[source-trial's]",
        ),
    ),
    Variant(
        "required-way-back-left-out",
        "a cutover that asks for a way back goes on without one",
        (Edit(_CUTTING, "    if config.require_way_back:\n", "    if False:\n"),),
        (
            f"{_FORETOLD}::"
            "test_what_turns_up_after_the_copy_stops_the_cutover_that_asked_for_one",
        ),
    ),
    Variant(
        "rehearsal-that-decides",
        "a rehearsal commits the decision",
        (
            Edit(
                _CUTOVER,
                "        if self.asked.rehearsal:\n            return so_far\n",
                "        if self.asked.rehearsal:\n            await self._commit()\n"
                "            return so_far\n",
            ),
        ),
        (f"{_REHEARSAL}::test_a_rehearsal_decides_nothing_and_loses_nothing",),
    ),
    Variant(
        "budget-of-the-configuration",
        "a cutover takes the configured budget and not the one that was asked for",
        (
            Edit(
                _CUTOVER,
                "        budget = self.asked.budget_seconds\n",
                "        budget = self.migration.config.cutover_timeout_seconds\n",
            ),
        ),
        (
            f"{_REHEARSAL}::test_a_rehearsal_over_its_budget_is_refused_and_names_who_is_in_the_way",
        ),
    ),
    Variant(
        "clean-up-without-comparison",
        "old rows go portion by portion before all of them were compared",
        (
            Edit(
                _CLEANUP,
                "            await self._prove(portion)\n            rows += len(portion)\n",
                "            rows += len(portion)\n",
            ),
        ),
        (f"{_CLEANS}::test_a_single_row_that_differs_stops_it_before_anything_is_deleted",),
    ),
    Variant(
        "clean-up-without-a-second-look",
        "a portion goes that was compared some time ago",
        (
            Edit(
                _CLEANUP,
                "            await self._prove(portion)\n            deleted +=",
                "            deleted +=",
            ),
        ),
        (f"{_CLEANS}::test_what_changes_after_the_comparison_is_not_deleted",),
    ),
    Variant(
        "clean-up-of-a-home",
        "old rows go without a fence that says that the tenant has left",
        (
            Edit(
                _CLEANUP,
                '        if fence is None or (fence.role, fence.state) != ("source", "moved"):\n',
                "        if fence is None:\n",
            ),
            Edit(
                _CLEANUP,
                "                \" and role = 'source' and state = 'moved' for share\",\n",
                '                " for share",\n',
            ),
        ),
        (f"{_CLEANS}::test_a_fence_that_is_not_the_one_of_a_departure_stops_it",),
    ),
    Variant(
        "report-with-any-digest",
        "a report is taken for unchanged whatever its digest is",
        (
            Edit(
                "python/eventsource/cli/report/seal.py",
                "        if _digest(text[: found.start(1)]) == found[1]:\n",
                "        if found:\n",
            ),
        ),
        ("tests/unit/test_report_seal.py::test_any_changed_byte_is_noticed",),
    ),
    Variant(
        "way-back-without-guard",
        "the store that the tenant may leave again has no guard",
        (Edit(_WAY, "    await _put_up_guard(home)\n    await fail", "    await fail"),),
        (f"{_BACK}::test_an_armed_way_back_keeps_stale_writers_and_changes_away",),
    ),
    Variant(
        "way-back-that-sleeps-on",
        "the guard of a way back is not woken with the opening",
        (
            Edit(
                _FENCES,
                "          and f.generation = -1;\n",
                "          and false;\n",
            ),
        ),
        (f"{_BACK}::test_an_armed_way_back_keeps_stale_writers_and_changes_away",),
    ),
    Variant(
        "anybody-writes-back",
        "a session that only sets the setting writes to the store that the tenant has left",
        (
            Edit(
                _GUARD,
                "              and w.migration_id::text = mine\n"
                "              and pg_has_role(caller, c.relowner,",
                "              and w.migration_id::text = mine\n"
                "              and pg_has_role(c.relowner,",
            ),
        ),
        (
            f"{_BACK}::"
            "test_a_session_that_only_sets_the_setting_does_not_write_to_the_old_store",
        ),
    ),
    Variant(
        "carried-back-and-shown",
        "the feed shows what was carried back before the return",
        (Edit(_FEED, "and f.state in ('standby', 'retired')", "and f.state = 'retired'"),),
        (
            f"{_BACK}::"
            "test_what_was_carried_back_is_hidden_until_the_return_and_the_old_is_not",
        ),
    ),
    Variant(
        "carried-back-hides-the-old",
        "the feed hides all of a tenant that may return",
        (Edit(_FEED, "        select f.tenant_id::uuid, max(m.source_head)\n",
              "        select f.tenant_id::uuid, -1::bigint\n"),),
        (
            f"{_BACK}::"
            "test_what_was_carried_back_is_hidden_until_the_return_and_the_old_is_not",
        ),
    ),
    Variant(
        "closed-and-shown",
        "what a closed way back has carried appears in the feed",
        (Edit(_FEED, "and f.state in ('standby', 'retired')", "and f.state = 'standby'"),),
        (
            f"{_BACK}::"
            "test_what_a_closed_way_back_has_carried_stays_hidden_and_goes_with_the_old_rows",
        ),
    ),
    Variant(
        "end-during-a-return",
        "a way back ends while a return is asked for",
        (
            Edit(
                _WAYS_SQL,
                "    where w.id = $1 and m.id = w.migration_id and w.state = 'standby'\n"
                "      and ($3",
                "    where w.id = $1 and m.id = w.migration_id\n      and ($3",
            ),
        ),
        (f"{_GOES}::test_no_end_comes_between_a_return_and_its_decision",),
    ),
    Variant(
        "return-after-the-end",
        "a tenant returns by a way back whose time is over",
        (
            Edit(
                _WAYS_SQL,
                "      and m.completed_at + make_interval(secs => w.keep_seconds) > now()\n"
                "    returning",
                "    returning",
            ),
        ),
        (f"{_BACK}::test_it_ends_by_itself_and_never_while_a_return_is_asked_for",),
    ),
    Variant(
        "translated-by-the-return-alone",
        "a checkpoint is translated without the move that is returned from",
        (
            Edit(
                "python/eventsource/migration/subscriptions/positions.py",
                "        if migration.returns is None:\n            return self.repository\n",
                "        if True:\n            return self.repository\n",
            ),
        ),
        (f"{_GOES}::test_subscriptions_go_there_and_back_and_skip_nothing",),
    ),
    Variant(
        "earlier-stay-believed",
        "a checkpoint of an earlier stay is kept",
        (
            Edit(
                "python/eventsource/migration/subscriptions/migrator.py",
                "        if target is not None and _is_older(target, migration):\n",
                "        if False:\n",
            ),
        ),
        (
            "tests/unit/test_subscription_migrator.py::"
            "test_a_checkpoint_of_an_earlier_stay_is_not_believed",
        ),
    ),
    Variant(
        "what-lags-is-not-foretold",
        "what a reader of all tenants of the target gets twice is foretold without what it lags",
        (
            Edit(
                "python/eventsource/migration/subscriptions/migrator.py",
                "                migration, LAST_POSITION, target_of_all.position\n",
                "                migration, current, target_of_all.position\n",
            ),
        ),
        (
            "tests/integration/subscriptions/test_move.py::"
            "test_a_reader_that_lags_and_reads_all_tenants_of_the_target_is_counted_exactly",
        ),
    ),
    Variant(
        "redelivery-as-foretold",
        "the report takes what a subscription has read at the source for what it had at the move",
        (
            Edit(
                "python/eventsource/migration/subscriptions/redelivered.py",
                "        return max(recorded, now)\n",
                "        return recorded\n",
            ),
        ),
        (
            "tests/integration/subscriptions/test_move.py::test_what_nobody_has_foretold_is_counted_too",
        ),
    ),
    Variant(
        "longest-append-of-a-rehearsal",
        "an append that met the fence of a rehearsal is taken for one of the cutover",
        (
            Edit(
                "python/eventsource/migration/routing/longest.py",
                "        elif not watch.has_moved:\n",
                "        elif False:\n",
            ),
        ),
        ("tests/unit/test_longest_append.py::test_a_fence_that_opens_again_leaves_nothing",),
    ),
    Variant(
        "back-in-the-order-of-transactions",
        "what goes back goes by transaction and position",
        (
            Edit(
                _SOURCE,
                "                by_position: config.fresh_positions,\n",
                "                by_position: false,\n",
            ),
            Edit(
                "rust/core/src/pass/pipeline.rs",
                "            by_transaction: spec.previous_snapshot.is_some() "
                "&& !config.fresh_positions,\n",
                "            by_transaction: spec.previous_snapshot.is_some(),\n",
            ),
        ),
        (f"{_GOES}::test_a_transaction_that_began_early_and_wrote_late_keeps_its_place",),
    ),
    Variant(
        "back-in-any-order",
        "fresh positions are not drawn in the order of the source",
        (
            Edit(
                _STAGED,
                "         order by stage.global_position\"",
                "         order by stage.global_position desc\"",
            ),
        ),
        (f"{_BACK}::test_a_tenant_returns_with_every_new_event",),
    ),
    Variant(
        "back-at-the-positions-of-the-target",
        "what goes back keeps the positions that it has at the target",
        (Edit(_PASSES, "fresh_positions=fresh,\n", "fresh_positions=False,\n"),),
        (f"{_BACK}::test_a_tenant_returns_with_every_new_event",),
    ),
    Variant(
        "way-back-from-after-the-decision",
        "the way back is made ready when applications append to the target already",
        (
            Edit(_CUTTING, "            await _keep_a_way_back(at, seen)\n", "            pass\n"),
            Edit(
                _CUTTING,
                '    await failpoints.reach("flip.answer.committed")\n',
                '    await _keep_a_way_back(at, None)\n'
                '    await failpoints.reach("flip.answer.committed")\n',
            ),
        ),
        (f"{_GOES}::test_what_is_appended_right_after_the_opening_goes_back_too",),
    ),
    Variant(
        "return-without-the-last-pass",
        "a return is decided by the pass before the fence",
        (
            Edit(
                _CUTOVER,
                "                result = await self.passes.under_the_fence()\n",
                "                result = (\n"
                "                    await self.passes.under_the_fence()\n"
                "                    if self.migration.returns is None\n"
                "                    else _Nothing()\n"
                "                )\n",
            ),
            Edit(
                _CUTOVER,
                "@dataclass(frozen=True, slots=True)\nclass _Prepared:\n",
                "class _Nothing:\n    rows = 0\n\n\n"
                "@dataclass(frozen=True, slots=True)\nclass _Prepared:\n",
            ),
        ),
        (f"{_GOES}::test_what_is_written_right_before_the_fence_returns_with_the_others",),
    ),
    Variant(
        "readers-wait-for-what-goes-back",
        "what a way back writes is announced to readers of the store that the tenant has left",
        (
            Edit(
                _FEED,
                "                         and state in ('closed', 'standby')\n",
                "                         and state = 'closed'\n",
            ),
        ),
        (f"{_GOES}::test_what_is_on_its_way_back_holds_no_reader_of_the_old_store_up",),
    ),
    Variant(
        "end-held-by-the-dead",
        "whoever ends a way back and dies keeps others from it for a minute",
        (
            Edit(
                "python/eventsource/migration/driver/follower.py",
                "CLOSING_SECONDS = 5.0\n",
                "CLOSING_SECONDS = 60.0\n",
            ),
        ),
        (f"{_BACK}::test_an_end_that_a_dead_process_has_begun_is_brought_to_its_end_soon",),
    ),
)  # fmt: skip
