"""Waiting: who takes up what is left, who is held up, and who is allowed to say so."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_BACKGROUND = "python/eventsource/migration/background.py"
_LEASE = "python/eventsource/migration/driver/lease.py"
_PLACES = "tests/integration/driver/test_limits.py"
_WAITS = "python/eventsource/migration/connections/waits.py"
_WAITING = "tests/integration/driver/test_waiting.py"
_ROUTERS = "python/eventsource/migration"
_READINESS = "tests/integration/routing/test_readiness.py"
_LEASES = "tests/integration/driver/test_leases.py"

VARIANTS = (
    Variant(
        "work-ends-with-a-changed-password",
        "a process that drives ends when the password of its control database is changed",
        (
            Edit(
                _BACKGROUND,
                "may_be_mended if was_let_in else may_pass",
                "may_pass",
            ),
        ),
        (
            "tests/integration/driver/test_environment.py::"
            "test_work_outlives_a_password_that_is_changed_and_no_wrong_one",
        ),
    ),
    Variant(
        "calls-drive-in-a-closed-coordinator",
        "a call that still waits begins a driver that nobody ends",
        (Edit(_BACKGROUND, "        if call.may_drive:\n", "        if True:\n"),),
        (
            "tests/integration/driver/test_cancellation.py::"
            "test_a_call_that_still_waits_begins_no_driver_in_a_closed_coordinator[cutover]",
        ),
    ),
    Variant(
        "errors-hide-a-cancellation",
        "a driver that is to end takes what fails at that moment for an outage, and goes on",
        (
            Edit(
                "python/eventsource/migration/driver/driver.py",
                "if (task := asyncio.current_task()) is not None and task.cancelling():\n",
                "if False:\n",
            ),
        ),
        (
            "tests/integration/driver/test_cancellation.py::"
            "test_a_driver_ends_also_where_what_runs_beside_it_fails_at_that_moment",
        ),
    ),
    Variant(
        "nobody-stands-by",
        "a migration that was left to a dead driver is driven by nobody",
        (Edit(_BACKGROUND, "        while self._stands_by_for:\n", "        while False:\n"),),
        (f"{_LEASES}::test_what_a_call_left_to_a_dead_driver_is_taken_up",),
    ),
    Variant(
        "stands-by-for-those-of-before",
        "a migration that is added while the journal is read is forgotten",
        (
            Edit(
                _BACKGROUND,
                "            self._stands_by_for |= {each.id for each in found} - over\n",
                "            self._stands_by_for = {each.id for each in found} - over\n",
            ),
        ),
        (f"{_LEASES}::test_who_is_added_while_the_journal_is_read_is_looked_after",),
    ),
    Variant(
        "lease-believed-without-end",
        "a lease written by a clock that was ahead keeps everybody away",
        (
            Edit(
                _LEASE,
                "        return now - since > migration.config.lease_seconds\n",
                "        return False\n",
            ),
        ),
        (f"{_LEASES}::test_a_lease_is_believed_for_its_length_whatever_the_clock_says",),
    ),
    Variant(
        "renewed-lease-not-believed",
        "a lease that is renewed is taken all the same once it is old",
        (
            Edit(
                _LEASE,
                "        if known != expiry:\n",
                "        if known is None:\n",
            ),
        ),
        (f"{_LEASES}::test_a_lease_that_is_renewed_is_left_alone",),
    ),
    Variant(
        "waits-in-silence",
        "the journal does not say what a driver waits for",
        (
            Edit(
                _WAITS,
                "        if (say := _voice.get()) is not None:\n",
                "        if say := None:\n",
            ),
        ),
        (f"{_WAITING}::test_a_wait_names_the_session_that_is_in_the_way",),
    ),
    Variant(
        "young-sessions-named",
        "sessions that came after the wait began are named as being in the way",
        (
            Edit(
                "python/eventsource/migration/connections/blockers.py",
                "      < clock_timestamp() - make_interval(secs => $1)\n",
                "      < clock_timestamp() + make_interval(secs => $1)\n",
            ),
        ),
        (f"{_WAITING}::test_who_holds_it_as_well_but_came_after_the_wait_began_is_not_in_the_way",),
    ),
    Variant(
        "abort-waits-for-readers",
        "an abort drops its triggers, which waits for every report",
        (
            Edit(
                "python/eventsource/migration/tables/guard.py",
                "in share row exclusive mode",
                "in access exclusive mode",
            ),
        ),
        (f"{_WAITING}::test_a_reader_holds_up_no_abort",),
    ),
    Variant(
        "guard-left-armed",
        "an abort leaves a guard that nobody passes",
        (
            Edit(
                "python/eventsource/migration/tables/guard.py",
                "        await disarm(table, fence)\n        await table.connection.execute(\n",
                "        await table.connection.execute(\n",
            ),
        ),
        (f"{_WAITING}::test_a_reader_holds_up_no_abort",),
    ),
    Variant(
        "limit-under-a-cutover",
        "a cutover that was asked for catches up at the limit of the copy",
        (
            Edit(
                "python/eventsource/migration/driver/throttle.py",
                "        if self.urgent:\n            return None\n        rates",
                "        rates",
            ),
        ),
        (f"{_WAITING}::test_a_cutover_lifts_the_limit",),
    ),
    Variant(
        "tidying-without-a-second-look",
        "a driver that tidies up second sends a statement that is none",
        (
            Edit(
                "python/eventsource/migration/tables/guard.py",
                "        if drops:\n            await table",
                "        if True:\n            await table",
            ),
        ),
        (
            "tests/integration/guard/test_arrivals.py::"
            "test_drivers_that_tidy_up_at_the_same_moment_do_not_meet_an_error",
        ),
    ),
    Variant(
        "moves-without-bound",
        "drivers take all connections that applications need",
        (
            Edit(
                "python/eventsource/migration/driver/lease.py",
                "        if full:\n",
                "        if False:\n",
            ),
            Edit(
                "python/eventsource/migration/repositories/migrations.py",
                "                return False, full\n",
                "                pass\n",
            ),
        ),
        (f"{_PLACES}::test_drivers_that_come_at_the_same_moment_heed_the_limit",),
    ),
    Variant(
        "places-counted-without-a-lock",
        "two drivers count the moves of a store at the same moment, and both find room",
        (
            Edit(
                "python/eventsource/migration/repositories/migrations.py",
                '        await self.pool.execute(_SQL["lock_places"], list(limits))\n',
                "        await asyncio.sleep(0.5)\n",
            ),
            Edit(
                "python/eventsource/migration/repositories/migrations.py",
                "import json\n",
                "import asyncio\nimport json\n",
            ),
        ),
        (f"{_PLACES}::test_of_five_that_ask_for_a_place_at_the_same_moment_one_gets_it",),
    ),
    Variant(
        "recovery-waits-for-a-place",
        "a tenant whose cutover lost its driver waits until others are done",
        (
            Edit(
                "python/eventsource/migration/repositories/sql/migrations.sql",
                "          and (m.state in ('cutover_paused', 'failed') or m.abort_requested",
                "          and (m.state = 'failed' or m.abort_requested",
            ),
            Edit(
                "python/eventsource/migration/driver/places.py",
                "        if migration.state is MigrationState.CUTOVER_PAUSED:\n",
                "        if False:\n",
            ),
        ),
        (f"{_PLACES}::test_a_cutover_and_a_recovery_need_no_place",),
    ),
    Variant(
        "reader-believes-its-route",
        "a reader stays at the old store for as long as the control database is silent",
        (
            Edit(
                "python/eventsource/migration/routing/route_cache.py",
                "        return tenant_id in self._unrecorded or self.is_old(tenant_id)\n",
                "        return False\n",
            ),
        ),
        (
            "tests/integration/routing/test_readers.py::"
            "test_a_reader_follows_the_fence_when_control_is_away",
            "tests/integration/routing/test_readers.py::"
            "test_a_new_reader_follows_the_fence_when_control_knows_nothing",
        ),
    ),
    Variant(
        "cutover-asks-no-router",
        "a tenant moves to where its own processes cannot write",
        (
            Edit(
                f"{_ROUTERS}/repositories/router_reports.py",
                "        if found:\n            raise",
                "        if False:\n            raise",
            ),
        ),
        (f"{_READINESS}::test_a_role_without_the_right_to_insert_is_noticed_and_mended",),
    ),
    Variant(
        "ready-without-trying",
        "a router says that it could write at the target and has not tried",
        (
            Edit(
                f"{_ROUTERS}/routing/readiness.py",
                "                await target.appender.warm(connection)\n",
                "                pass\n",
            ),
        ),
        (f"{_READINESS}::test_a_role_without_the_right_to_insert_is_noticed_and_mended",),
    ),
    Variant(
        "ready-at-another-place",
        "a router is ready at whatever database its address leads to",
        (
            Edit(
                f"{_ROUTERS}/routing/readiness.py",
                "        if fence is None:\n",
                "        if False:\n",
            ),
        ),
        (f"{_READINESS}::test_an_address_of_another_database_is_noticed",),
    ),
    Variant(
        "ended-routers-are-waited-for",
        "a process that has ended keeps the tenant from moving",
        (
            Edit(
                f"{_ROUTERS}/repositories/router_reports.py",
                "        return self.is_live and not self.ready",
                "        return not self.ready",
            ),
        ),
        (f"{_READINESS}::test_one_that_has_ended_is_not_waited_for",),
    ),
)
