"""Leases, transitions and routes: who may move what."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_ENVIRONMENT = "tests/integration/driver/test_environment.py"
_SQL = "python/eventsource/migration/repositories/sql/migrations.sql"
_ROUTES = "python/eventsource/migration/routing/route_cache.py"
_MIRROR = "python/eventsource/migration/routing/mirror.py"
_PERMIT = "python/eventsource/stores/sql/mirror.sql"
_TESTS = "tests/integration/driver/test_journal.py"
_MIRRORED = "tests/integration/routing/test_mirror.py"
_NEWER = f"{_TESTS}::test_what_a_fence_told_is_newer_than_a_route_that_was_read"

VARIANTS = (
    Variant(
        "lease-taken-from-the-living",
        "a second driver takes the lease of one that lives",
        (
            Edit(
                _SQL,
                "or driver_expires_at is null\n       or driver_expires_at < now() or",
                "or driver_expires_at is null\n       or driver_expires_at > '-infinity' or",
            ),
        ),
        (f"{_TESTS}::test_a_lease_is_not_taken_from_a_driver_that_lives",),
    ),
    Variant(
        "frozen-reader-keeps-its-copy-open",
        "a driver that was frozen while it reads keeps its copy open at the source after an abort",
        (
            Edit(
                "python/eventsource/migration/connections/driver_connections.py",
                "            session_marks.end(source, (driver, reader), keep),\n",
                "            session_marks.end(source, (driver,), keep),\n",
            ),
        ),
        (
            "tests/acceptance/test_killed_driver.py::"
            "test_an_abort_goes_through_beside_a_driver_frozen_while_it_reads",
        ),
    ),
    Variant(
        "frozen-comparison-keeps-its-copy-open",
        "a driver that was frozen while it compares keeps its copy open after an abort",
        (
            Edit(
                "python/eventsource/migration/consistency/verifier.py",
                "config = replace(config, migration_id=at.migration_id)",
                "config = replace(config, migration_id=None)",
            ),
        ),
        (
            "tests/acceptance/test_killed_driver.py::"
            "test_an_abort_goes_through_beside_a_driver_frozen_while_it_compares",
        ),
    ),
    Variant(
        "thawed-driver-goes-on",
        "a driver that was frozen through an abort makes fence and triggers for what is over",
        (
            Edit(
                "python/eventsource/migration/driver/driver.py",
                "            await self.lease.take_over(connections, seconds)\n",
                "",
            ),
        ),
        (
            "tests/integration/driver/test_leases.py::"
            "test_a_driver_that_wakes_up_after_an_abort_leaves_nothing",
        ),
    ),
    Variant(
        "request-unanswered-in-a-pause",
        "who asks for the cutover while a pause is carried out waits until somebody resumes",
        (
            Edit(
                "python/eventsource/migration/repositories/migrations.py",
                "                    if following is MigrationState.PAUSED:\n",
                "                    if following is MigrationState.FAILED:\n",
            ),
        ),
        (
            "tests/integration/driver/test_overtaken_requests.py::"
            "test_a_cutover_asked_for_while_a_pause_is_carried_out_is_refused",
        ),
    ),
    Variant(
        "transition-by-anybody",
        "a driver that lost the lease changes the state",
        (
            Edit(
                _SQL,
                "and state = $2::text and ($4::uuid is null or driver_owner = $4)",
                "and state = $2::text and ($4::uuid is null or $4::uuid is not null)",
            ),
        ),
        (f"{_TESTS}::test_the_state_changes_for_its_driver_only_and_from_what_the_driver_saw",),
    ),
    Variant(
        "transition-from-any-state",
        "the state changes although it is not the one that was seen",
        (
            Edit(
                _SQL,
                "where id = $1 and state = $2::text and (",
                "where id = $1 and $2::text is not null and (",
            ),
        ),
        (f"{_TESTS}::test_the_state_changes_for_its_driver_only_and_from_what_the_driver_saw",),
    ),
    Variant(
        "two-connections-for-a-refusal",
        "whoever is refused a change of state waits for a second connection with the first in hand",
        (
            Edit(
                "python/eventsource/migration/repositories/migrations.py",
                "                if moved is not None:\n",
                "                if moved is None:\n"
                "                    current = await self.get(migration.id)\n"
                "                    _explain_refusal(current, following, owner)\n"
                "                if moved is not None:\n",
            ),
        ),
        (f"{_TESTS}::test_a_change_of_state_that_is_refused_needs_no_second_connection",),
    ),
    Variant(
        "a-login-ends-a-migration",
        "a login that is refused for a moment throws the copy away",
        (
            Edit(
                "python/eventsource/sqlstates.py",
                'ENVIRONMENT_CLASSES = ("28", "3D", "58", "XX")',
                'ENVIRONMENT_CLASSES = ("3D", "58", "XX")',
            ),
        ),
        (f"{_ENVIRONMENT}::test_what_is_wrong_with_a_role_is_waited_for",),
    ),
    Variant(
        "lease-kept-while-waiting",
        "a process with a wrong setting keeps the lease from one with a right one",
        (
            Edit(
                "python/eventsource/migration/driver/driver.py",
                "        await self.lease.try_to_release(self.migrations)\n\n    async def _answer",
                "\n    async def _answer",
            ),
        ),
        (f"{_ENVIRONMENT}::test_a_process_with_a_wrong_setting_lets_a_right_one_drive",),
    ),
    Variant(
        "resumed-after-an-abort",
        "a migration whose abort has begun is resumed over the rows that are left",
        (
            Edit(
                _SQL,
                "        paused_from = case when state <> 'failed' then paused_from end\n",
                "        paused_from = paused_from\n",
            ),
        ),
        (f"{_ENVIRONMENT}::test_after_an_abort_nothing_that_failed_is_resumed",),
    ),
    Variant(
        "resumed-without-its-route",
        "a failed migration is resumed although the tenant was routed elsewhere since",
        (
            Edit(
                "python/eventsource/migration/repositories/migrations.py",
                "        if migration.state is MigrationState.FAILED and not following.is_final:\n",
                "        if False:\n",
            ),
        ),
        (f"{_ENVIRONMENT}::test_a_tenant_that_was_routed_elsewhere_is_not_resumed",),
    ),
    Variant(
        "connection-not-given-back",
        "a change of state that is cancelled at its BEGIN keeps a connection of the pool",
        (
            Edit(
                "python/eventsource/connections.py",
                "        async with executor.acquire() as pooled,"
                ' pooled.transaction(isolation="read_committed"):\n'
                "            yield pooled\n",
                "        pooled = await executor.acquire()\n"
                "        begun = pooled.transaction()\n"
                "        await begun.start()\n"
                "        yield pooled\n"
                "        await begun.commit()\n"
                "        await executor.release(pooled)\n",
            ),
        ),
        (
            "tests/integration/driver/test_cancellation.py::"
            "test_a_change_of_state_that_is_cancelled_gives_its_connection_back",
        ),
    ),
    Variant(
        "old-route-wins",
        "a route that was read takes back what the fence told",
        (
            Edit(
                _ROUTES,
                "        if known is not None and known.generation > route.generation:\n",
                "        if False:\n",
            ),
        ),
        (_NEWER,),
    ),
    Variant(
        "old-fence-wins",
        "a router follows a fence that is older than its route",
        (
            Edit(
                _ROUTES,
                "        if known is not None and known.generation >= generation:\n",
                "        if False:\n",
            ),
        ),
        (_NEWER,),
    ),
    Variant(
        "abort-leaves-mirrors",
        "mirrors keep their permission while an abort deletes what they wrote",
        (
            Edit(
                "python/eventsource/migration/steps/abort.py",
                "fences.begin_abort(target,",
                "fences.refuse_open(target,",
            ),
        ),
        (
            "tests/integration/driver/test_aborts.py::"
            "test_what_was_mirrored_goes_with_the_abort_and_nothing_follows",
        ),
    ),
    Variant(
        "abort-overtakes-a-mirror",
        "an abort deletes before a mirror that has looked at the fence has written",
        (Edit(_PERMIT, "mirrored\n        for share;", "mirrored;"),),
        (f"{_MIRRORED}::test_an_abort_waits_for_a_mirror_that_writes_and_deletes_what_it_wrote",),
    ),
    Variant(
        "frozen-mirror-keeps-the-fence",
        "a process that freezes while it mirrors keeps the target from opening",
        (Edit(_MIRROR, '    "idle_in_transaction_session_timeout": "1000",\n', ""),),
        (f"{_MIRRORED}::test_a_mirror_that_freezes_does_not_keep_the_target_from_opening",),
    ),
    Variant(
        "throttle-under-the-fence",
        "the rate of the copy makes writers wait in the last pass",
        (
            Edit(
                "python/eventsource/migration/steps/passes.py",
                "        self.session.set_rate(None)\n",
                "",
            ),
            # The limit is lifted for the passes before, and what is lifted stays so.
            Edit(
                "python/eventsource/migration/driver/throttle.py",
                "        if self.urgent:\n            return None\n        rates",
                "        rates",
            ),
        ),
        ("tests/integration/driver/test_throttle.py::test_the_last_pass_is_not_throttled",),
    ),
    Variant(
        "repair-at-the-limit",
        "a target that went back after the decision is filled at the limit of the copy",
        (
            Edit(
                "python/eventsource/migration/steps/repair.py",
                "        passes.session.set_rate(None)\n",
                "",
            ),
        ),
        (
            "tests/integration/cutover/test_recovery.py::"
            "test_what_is_carried_again_while_writers_wait_is_not_throttled",
        ),
    ),
)
