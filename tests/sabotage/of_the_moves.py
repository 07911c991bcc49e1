"""Whole moves as one call: what joins, what is left alone, what is not asked for."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_MOVING = "python/eventsource/migration/moving.py"
_SQL = "python/eventsource/migration/repositories/sql/migrations.sql"
_CUTTING_OVER = "python/eventsource/migration/driver/cutting_over.py"
_TESTS = "tests/integration/driver/test_move.py"
_PARKED = "tests/integration/driver/test_parked_moves.py"

_BLOCK = "python/eventsource/migration/tables/reserved_block.py"
_SWAPS = "tests/integration/driver/test_swaps.py"
_COORDINATOR = "python/eventsource/migration/coordinator.py"

#: Of the columns that say what a pause is asked by.
_LATE = "pause_at <= clock_timestamp() and state in"

VARIANTS = (
    Variant(
        "an-arrival-takes-what-a-departure-needs",
        "a tenant that arrives sets the sequence past the block of one that leaves",
        (Edit(_BLOCK, "$1 and role = 'source' and state = 'open'\"\n", '$1 and false"\n'),),
        (
            f"{_SWAPS}::test_an_arrival_waits_for_a_departure_that_needs_its_positions",
            f"{_SWAPS}::test_a_small_arrival_does_not_wait_and_leaves_enough",
        ),
    ),
    Variant(
        "a-librarys-numbers-have-no-end",
        "another library's rows get numbers that the target gives to others",
        (
            Edit(
                "python/eventsource/migration/journaled/underway.py",
                "        if found is not None:\n            raise DataPlaneError(",
                "        if False:\n            raise DataPlaneError(",
            ),
        ),
        ("tests/layouts/test_headroom.py::test_what_the_target_keeps_free_is_never_exceeded",),
    ),
    Variant(
        "a-departure-that-does-not-look-again",
        "a tenant that arrives between a block and its fence is not noticed",
        (Edit(_BLOCK, "used_up or is_used_up(bound, head, headroom[table])", "False"),),
        (f"{_SWAPS}::test_who_arrives_while_another_reserves_is_seen",),
    ),
    Variant(
        "a-way-back-keeps-others-away",
        "nobody arrives in a store that a tenant could leave by its way back",
        (Edit(_BLOCK, '" and (mirrored or bounds is not null) order', '" order'),),
        (f"{_SWAPS}::test_a_way_back_that_stands_keeps_nobody_from_arriving",),
    ),
    Variant(
        "a-move-resumes-what-a-person-paused",
        "a move goes on with what a person has paused",
        (Edit(_MOVING, "migration.state is _S.PAUSED and not migration.parked", "False"),),
        (f"{_PARKED}::test_what_a_person_has_paused_stays_so",),
    ),
    Variant(
        "a-move-parks-what-a-person-paused",
        "a pause of a person becomes one that the next move ends",
        (Edit(_SQL, "$3::boolean and (parked or not pause_requested)", "$3::boolean"),),
        (f"{_PARKED}::test_a_pause_that_a_person_asked_for_first_is_not_parked",),
    ),
    Variant(
        "a-move-goes-on-after-its-time",
        "a move whose time is over is not parked",
        (
            Edit(_MOVING, "self.wish.is_late and migration.state in _PAUSABLE", "False"),
            Edit(_SQL, _LATE, "pause_at is null and state in"),
        ),
        (f"{_PARKED}::test_a_move_whose_time_is_over_pauses_and_the_next_one_goes_on",),
    ),
    Variant(
        "the-time-of-a-move-dies-with-it",
        "only the process that moves pauses when the time is over",
        (Edit(_SQL, _LATE, "pause_at is null and state in"),),
        (
            f"{_PARKED}::test_another_process_pauses_at_the_time_of_a_move_that_has_died",
            f"{_PARKED}::test_in_each_state_whatever_drives_pauses_at_the_time",
        ),
    ),
    Variant(
        "the-time-of-a-move-is-not-written-down",
        "a move keeps the time at which it pauses to itself",
        (
            Edit(
                _COORDINATOR,
                "self.start_migration, wish.tenant_id, *stores, *ids, operator=operator,"
                " until=until",
                "self.start_migration, wish.tenant_id, *stores, *ids, operator=operator",
            ),
            Edit(
                _MOVING, "migration.id, self.wish.until, operator", "migration.id, None, operator"
            ),
        ),
        (f"{_PARKED}::test_another_process_pauses_at_the_time_of_a_move_that_has_died",),
    ),
    Variant(
        "an-older-time-counts",
        "who goes on with a migration is held to the time of an earlier move",
        (Edit(_MOVING, "migration.pause_at != self.wish.until", "False"),),
        (f"{_PARKED}::test_the_next_move_or_a_person_has_its_own_time",),
    ),
    Variant(
        "more-time-makes-a-pause-of-a-person",
        "a driver pauses although another move has given it more time meanwhile",
        (Edit(_SQL, "pause_requested or pause_at <= now())", "true)"),),
        (f"{_PARKED}::test_more_time_in_the_last_moment_leaves_no_pause_of_a_person",),
    ),
    Variant(
        "a-move-begins-beside-a-failed-one",
        "a failed migration is passed over and another one begun",
        (Edit(_MOVING, "found and found[-1].state is _S.FAILED", "False"),),
        (f"{_TESTS}::test_after_a_failure_nothing_begins_until_somebody_has_looked",),
    ),
    Variant(
        "a-move-joins-any-migration",
        "a move joins a migration to another store",
        (
            Edit(
                _MOVING,
                "(active.source_store_id, active.target_store_id) != (wish.source_id,"
                " wish.target_id)",
                "False",
            ),
        ),
        (f"{_TESTS}::test_a_tenant_on_its_way_elsewhere_is_left_alone",),
    ),
    Variant(
        "a-cutover-without-its-permit",
        "the cutover is asked for although its permit was refused",
        (
            Edit(
                _MOVING,
                "                if self.wish.permit is not None:\n"
                "                    await self.wish.permit(connection, migration)\n",
                "",
            ),
        ),
        (f"{_TESTS}::test_without_its_permit_no_cutover_is_asked_for",),
    ),
    Variant(
        "a-withdrawn-cutover-is-carried-out",
        "a cutover goes on after its request was withdrawn",
        (Edit(_SQL, "($9::uuid is null or cutover_request = $9)", "($9::uuid is null or true)"),),
        (f"{_TESTS}::test_a_request_that_was_withdrawn_is_not_carried_out",),
    ),
    Variant(
        "a-withdrawn-cutover-is-a-failure",
        "a migration fails because its cutover was withdrawn",
        (
            Edit(
                _CUTTING_OVER,
                "now.state is MigrationState.DUAL_WRITE and now.cutover_request != asked.id",
                "False",
            ),
        ),
        (f"{_TESTS}::test_a_request_that_is_withdrawn_at_the_last_moment_is_no_failure",),
    ),
    Variant(
        "each-store-of-a-server-counts-alone",
        "two stores of one server take what the server has for both of them",
        (Edit(_SQL, "'server ' || (m.target_identity ->> 'system')", "'nothing'"),),
        ("tests/integration/driver/test_limits.py::test_stores_of_one_server_share_its_places",),
    ),
    Variant(
        "a-database-that-is-away-is-final",
        "a move gives up for good because a store did not answer",
        (Edit(_MOVING, "if not error.passes:", "if True:"),),
        (f"{_TESTS}::test_a_database_that_is_away_is_a_reason_to_try_later",),
    ),
    Variant(
        "repair-asks-for-the-head-of-today",
        "who was decided on asks again for what its source has drawn for others since",
        (
            Edit(
                "python/eventsource/migration/steps/repair.py",
                "            decided_head=decided.source_head,\n",
                "            decided_head=None,\n",
            ),
        ),
        (
            f"{_SWAPS}::"
            "test_a_tenant_that_was_decided_on_waits_for_no_departure_that_leaves_it_enough",
        ),
    ),
    Variant(
        "repair-keeps-headroom-free",
        "who was decided on waits for a departure, and there is enough for both",
        (
            Edit(
                "python/eventsource/migration/tables/reserved_block.py",
                "(0 if is_decided else headroom // LEAST_PART)",
                "(headroom // LEAST_PART)",
            ),
        ),
        (f"{_SWAPS}::test_a_tenant_that_was_decided_on_takes_no_more_than_half_either",),
    ),
)
