"""The cutover, the decision, and what follows a crash."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_CUTOVER = "python/eventsource/migration/steps/cutover.py"
_FLIP = "python/eventsource/migration/steps/decision.py"
_PASSES = "python/eventsource/migration/steps/passes.py"
_ABORT = "python/eventsource/migration/steps/abort.py"
_ROUTER = "python/eventsource/migration/routing/router.py"
_TESTS = "tests/integration/cutover/test_cutover.py"
_RECOVERY = "tests/integration/cutover/test_recovery.py"
_ORDER = "tests/integration/cutover/test_order.py"

_DECIDES = "        await self._commit()\n"
_OPENS = "        await decision.open_target(self.connections.target, self.migration, decided)\n"
_FINISHES = "        await decision.finish(self.connections.migrations, self.migration, decided)\n"

VARIANTS = (
    Variant(
        "delta-read-before-the-grant",
        "the last pass reads before the lock is granted",
        (
            Edit(
                _PASSES,
                "    above: int = 0\n",
                "    above: int = 0\n    early: PassResult | None = None\n",
            ),
            Edit(
                _PASSES,
                "        await self._store(up_to, await self._stand())\n",
                "        await self._store(up_to, await self._stand())\n"
                "        self.early = await self.run_stored()\n",
            ),
            Edit(
                _PASSES,
                '        await failpoints.reach("cutover.barrier.committed")\n'
                "        result = await self.run_stored()",
                "        result = self.early",
            ),
        ),
        (f"{_ORDER}::test_what_commits_while_the_lock_is_waited_for_is_carried",),
    ),
    Variant(
        "decision-on-any-fence",
        "a fence that is not open any more, or not of this generation, is decided on",
        (
            Edit(
                _FLIP,
                " where fence_id = $1 and migration_id = $2 and generation = $3 and state = 'open'",
                " where fence_id = $1 and migration_id = $2 and $3::bigint is not null",
            ),
        ),
        (f"{_ORDER}::test_a_fence_that_somebody_changed_is_not_decided_on",),
    ),
    Variant(
        "stopped-pass-is-enough",
        "the tenant is moved behind a last pass that was stopped on its way",
        (
            Edit(
                _PASSES,
                '            raise MigrationError("the last pass was stopped before its end")\n',
                "            return result\n",
            ),
        ),
        (f"{_ORDER}::test_a_last_pass_that_was_stopped_decides_nothing",),
    ),
    Variant(
        "flip-before-the-decision",
        "the target opens before the fence row is committed",
        (
            Edit(_CUTOVER, _DECIDES, ""),
            Edit(_CUTOVER, _OPENS, f"{_OPENS}{_DECIDES}"),
        ),
        (f"{_ORDER}::test_nothing_is_flipped_before_the_decision_is_committed",),
    ),
    Variant(
        "route-before-the-decision",
        "the route names the target before the fence row is committed",
        (Edit(_CUTOVER, _DECIDES, f"{_FINISHES}{_DECIDES}"),),
        (f"{_ORDER}::test_nothing_is_flipped_before_the_decision_is_committed",),
    ),
    Variant(
        "route-before-the-open-target",
        "the route names a target that is still closed",
        (Edit(_CUTOVER, _OPENS, f"{_FINISHES}{_OPENS}"),),
        (f"{_ORDER}::test_the_route_changes_when_the_target_is_open",),
    ),
    Variant(
        "recovery-without-the-lock",
        "recovery believes a plain read while a COMMIT is under way",
        (
            Edit(
                _FLIP,
                "            if decided is not None or fence is None:\n"
                "                return decided\n",
                "            return decided\n",
            ),
        ),
        (
            f"{_RECOVERY}::test_a_commit_that_is_still_under_way_is_waited_for",
            f"{_RECOVERY}::test_nothing_decided_is_recovered_to_dual_write_and_the_request_is_carried_out",
        ),
    ),
    Variant(
        "recovery-under-a-frozen-snapshot",
        "behind the lock recovery reads what was the case before it waited",
        (
            Edit(
                "python/eventsource/migration/connections/driver_connections.py",
                "set default_transaction_isolation = 'read committed';\n",
                "",
            ),
        ),
        (f"{_RECOVERY}::test_a_commit_that_is_still_under_way_is_waited_for",),
    ),
    Variant(
        "recovery-without-a-claim",
        # Two rules see to it: whoever takes over also ends the sessions of the one before.
        "a driver that was frozen before the lock may still decide after a recovery",
        (
            Edit(
                "python/eventsource/migration/driver/driver.py",
                "            await self.lease.take_over(connections, seconds)\n",
                "",
            ),
            Edit(
                "python/eventsource/migration/driver/stages.py",
                "        await progress.claim(target, self.migration.id, self.lease.owner)\n",
                "",
            ),
        ),
        (f"{_RECOVERY}::test_a_driver_that_was_frozen_before_the_lock_decides_nothing",),
    ),
    Variant(
        "decision-taken-back",
        "recovery opens a fence that has moved",
        (
            Edit(
                "python/eventsource/migration/driver/stages.py",
                "        asked = self.migration.asked_for\n        if decided is None:\n",
                "        asked = self.migration.asked_for\n"
                "        await self.connections.source.connection.execute(\n"
                "            \"update eventsource_fences set state = 'open', generation = 0\")\n"
                "        decided = None\n"
                "        if decided is None:\n",
            ),
        ),
        (
            f"{_ORDER}::test_a_decision_is_never_taken_back",
            f"{_RECOVERY}::test_an_abort_of_what_was_decided_finishes_it",
        ),
    ),
    Variant(
        "one-long-wait-for-the-lock",
        "behind the waiting lock the whole tenant stands still for the budget",
        (
            Edit(_CUTOVER, "ATTEMPT_SHARE = 0.25", "ATTEMPT_SHARE = 1.0"),
            Edit(_CUTOVER, "LONGEST_ATTEMPT = 0.5", "LONGEST_ATTEMPT = 60.0"),
        ),
        (f"{_TESTS}::test_writers_run_between_two_attempts_for_the_lock",),
    ),
    Variant(
        "no-rest-between-two-attempts",
        "the lock is asked for again before the writers that queued behind it have written",
        (
            Edit(
                _CUTOVER,
                "await asyncio.sleep(min(share, max(0.0, deadline - time.monotonic())))",
                "await asyncio.sleep(0)",
            ),
        ),
        (f"{_TESTS}::test_writers_run_between_two_attempts_for_the_lock",),
    ),
    Variant(
        "connection-made-under-the-fence",
        "writers wait for a connection that the cutover could have had before",
        (
            Edit(
                _CUTOVER,
                "                result = await self.passes.under_the_fence()\n",
                "                late = await self.connections.open_target(self.migration.id)\n"
                "                globals()['late'] = late\n"
                "                result = await self.passes.under_the_fence()\n",
            ),
        ),
        (f"{_ORDER}::test_no_connection_is_made_while_writers_wait",),
    ),
    Variant(
        "section-without-a-budget",
        "a target that stalls holds the writers for as long as it likes",
        (
            Edit(
                _CUTOVER, "async with asyncio.timeout(seconds):", "async with asyncio.timeout(60):"
            ),
        ),
        (f"{_TESTS}::test_a_target_that_stalls_under_the_fence_makes_the_cutover_give_up",),
    ),
    Variant(
        "decision-not-flushed",
        "the decision is answered before it is on the source's disk",
        (
            Edit(
                _CUTOVER,
                '            "commit"\n',
                '            "set local synchronous_commit = off; commit"\n',
            ),
        ),
        (f"{_ORDER}::test_the_decision_is_on_disk_before_the_target_is_opened",),
    ),
    Variant(
        "frozen-driver-keeps-the-fence",
        "nobody frees the writers of a driver that is frozen under the fence",
        (
            Edit(
                _CUTOVER,
                "set local idle_in_transaction_session_timeout = {patience};",
                "set local idle_in_transaction_session_timeout = 0;",
            ),
        ),
        (f"{_RECOVERY}::test_a_frozen_driver_does_not_hold_writers_longer_than_its_budget",),
    ),
    Variant(
        "writers-let-go-at-the-decision",
        "writers run into a target that is not open yet",
        (
            Edit(
                _CUTOVER,
                '            f"select pg_advisory_lock({fences.LOCK_CLASS},'
                ' {self.fence.lock_id});"\n',
                "",
            ),
        ),
        (f"{_ORDER}::test_writers_wait_until_the_target_is_open",),
    ),
    Variant(
        "frozen-driver-keeps-the-lock",
        "nobody frees the writers of a driver that is frozen behind the decision",
        (
            Edit(
                _CUTOVER,
                '            f"set idle_session_timeout = {OPENING_MS};"\n',
                "",
            ),
        ),
        (f"{_RECOVERY}::test_a_driver_frozen_behind_the_decision_lets_writers_go",),
    ),
    Variant(
        "writers-let-go-by-nobody",
        "the lock outlives the flip",
        (Edit(_CUTOVER, "; select pg_advisory_unlock_all()", ""),),
        (f"{_ORDER}::test_writers_wait_until_the_target_is_open",),
    ),
    Variant(
        "sequence-not-moved",
        "the first new event at the target draws a position that was carried",
        (
            Edit(
                "python/eventsource/stores/sql/fences.sql",
                "        perform setval(sequence, last_carried);\n",
                "        null;\n",
            ),
        ),
        ("tests/integration/cutover/test_openings.py::test_a_sequence_that_is_not_is_moved",),
    ),
    Variant(
        "abort-ignores-the-decision",
        "an abort removes what was decided on",
        (
            Edit(
                _ABORT,
                "    if await decision.find(connections.fence, migration) is not None:\n",
                "    if False:\n",
            ),
            Edit(
                "python/eventsource/migration/tables/guard.py",
                "        removed = state in (None, fence.state)\n",
                "        removed = True\n",
            ),
        ),
        # Where the journal says that a cutover is under way, recovery asks the fence before.
        (f"{_RECOVERY}::test_a_journal_that_lost_the_decision_rolls_forward_to_it[abort]",),
    ),
    Variant(
        "abort-leaves-rows",
        "an abort leaves the tenant's rows at the target",
        (
            Edit(
                _ABORT,
                "        await progress.delete_copied(connections.source, target, migration)\n"
                '        await failpoints.reach("abort.rows.committed")\n',
                "",
            ),
        ),
        (
            "tests/integration/driver/test_aborts.py::"
            "test_an_abort_from_another_process_leaves_nothing_behind",
        ),
    ),
    Variant(
        "router-ignores-the-fence",
        "a stale router does not follow EVF01",
        (
            Edit(
                "python/eventsource/sqlstates.py",
                'MOVED = "EVF01"',
                'MOVED = "EVF09"',
            ),
        ),
        (
            "tests/integration/routing/test_router.py::"
            "test_a_stale_router_follows_the_fence_with_the_same_expected_version",
        ),
    ),
    Variant(
        "unknown-store-falls-back",
        "a route to an unknown store is taken for the default store",
        (
            Edit(
                _ROUTER,
                "            return self.stores[store_id]\n",
                "            return self.stores.get(store_id, self.default_store)\n",
            ),
        ),
        (
            "tests/integration/routing/test_router.py::"
            "test_an_unknown_store_is_an_error_and_never_another_store",
            "tests/integration/routing/test_router.py::"
            "test_a_router_that_lacks_the_target_does_not_write_elsewhere",
        ),
    ),
)
