"""After a restore: what the stores say of a way back."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_M = "python/eventsource/migration"
_AGAIN = "tests/integration/recovery/test_ways_back_made_again.py"
_JUDGED = "tests/unit/test_judgement.py"
_GONE = "tests/integration/recovery/test_home_gone_back.py"
_VOLUMES = "tests/acceptance/test_restored_servers.py"

_STEP = "python/eventsource/migration/steps/repair.py"
_RETURNED = "tests/integration/afterwards/test_returns_repaired.py"

VARIANTS = (
    Variant(
        "return-compared-with-the-move",
        "a return whose target went back after the decision is never opened",
        (Edit(_STEP, "fresh = self.migration.returns is not None", "fresh = False"),),
        (f"{_RETURNED}::test_what_the_old_store_lacks_is_carried_again_before_it_opens",),
    ),
    Variant(
        "return-opened-over-a-gap",
        "a return whose target went back is opened without a look at what was there before",
        (Edit(_STEP, "if here != there or found != proof.total:", "if found != proof.total:"),),
        (f"{_RETURNED}::test_nothing_is_opened_over_a_gap",),
    ),
    Variant(
        "way-back-not-made-again",
        "a way back that the stores keep is nothing to repair",
        (
            Edit(
                f"{_M}/recovery/kept_ways.py",
                "    for way_id in _ids(survey, tenant_id):\n",
                "    for way_id in []:\n",
            ),
        ),
        (
            f"{_JUDGED}::test_a_way_back_is_what_the_stores_say",
            f"{_AGAIN}::test_a_lost_control_database_has_the_way_back_again",
        ),
    ),
    Variant(
        "half-a-way-back-is-armed",
        "a way back of which one store knows nothing is taken for one that stands",
        (
            Edit(
                f"{_M}/recovery/kept_ways.py",
                "        return _HALF\n    (home, leaving)",
                "        return None\n    (home, leaving)",
            ),
        ),
        (f"{_JUDGED}::test_a_way_back_is_what_the_stores_say",),
    ),
    Variant(
        "way-back-without-its-progress",
        "a way back is armed although the old store does not know how far it is",
        (
            Edit(
                f"{_M}/recovery/kept_ways.py",
                "        or at is None\n        or at.witness is None\n"
                "        or at.proven_snapshot is None\n",
                "",
            ),
        ),
        (f"{_AGAIN}::test_half_a_way_back_is_closed",),
    ),
    Variant(
        "return-is-a-move-of-its-own",
        "a return that is made again has positions that were carried and not drawn",
        (
            Edit(
                f"{_M}/recovery/decisions.py",
                "    if not surveys.is_return(survey, decided.migration_id):\n",
                "    if True:\n",
            ),
        ),
        (
            f"{_JUDGED}::test_a_lost_control_database_knows_what_was_returned_by",
            f"{_AGAIN}::test_a_tenant_that_has_returned_may_go_forth_again",
        ),
    ),
    Variant(
        "way-back-for-a-departure",
        "a tenant whose way back is being made ready is routed to where it has not arrived",
        (
            Edit(
                f"{_M}/recovery/judgement.py",
                '        if surveys.is_of_way_back(fence) or fence.role != "source":\n',
                '        if fence.role != "source":\n',
            ),
        ),
        (f"{_JUDGED}::test_who_may_return_does_not_live_where_only_the_way_back_says_so",),
    ),
    Variant(
        "forgotten-return-stays-awake",
        "a return of which nobody knows any more keeps the old store's writers waiting",
        (
            Edit(
                f"{_M}/recovery/keeping.py",
                "        if step.woken:\n",
                "        if False:\n",
            ),
        ),
        (f"{_AGAIN}::test_a_return_that_nobody_knows_of_any_more_is_given_up",),
    ),
    Variant(
        "home-that-went-back-is-followed",
        "a way back is ended or returned by although home has lost what it had carried",
        (
            Edit(
                f"{_M}/steps/way_back.py",
                "    if not await witnesses.stands(home, way.id, at.witness):\n",
                "    if False:\n",
            ),
        ),
        (f"{_GONE}::test_nobody_ends_or_uses_it_before_that",),
    ),
    Variant(
        "closing-takes-the-proof-away",
        "a way back that is being closed does not look whether home has gone back",
        (
            Edit(
                f"{_M}/driver/follower.py",
                "            await way_back.refuse_gone_back("
                "connections.source, connections.target, way)\n",
                "",
            ),
        ),
        (f"{_GONE}::test_one_that_is_being_closed_takes_nothing_away_before_that",),
    ),
    Variant(
        "decision-taken-for-a-guard",
        "the end of a way back by which the tenant has returned takes the decision away",
        (
            Edit(
                f"{_M}/steps/way_back.py",
                "        await _refuse_decided(home, way)\n",
                "        pass\n",
            ),
        ),
        (f"{_AGAIN}::test_one_by_which_the_tenant_has_returned_is_left_alone",),
    ),
    Variant(
        "in-flight-while-it-is-mended",
        "what is in flight at the new snapshot counts as carried",
        (
            Edit(
                f"{_M}/tables/snapshots.py",
                "if each and int(each) < transaction_id]\n",
                "if False]\n",
            ),
        ),
        (
            f"{_GONE}::test_what_is_in_flight_meanwhile_goes_back_as_well",
            "tests/integration/recovery/test_reconcile.py::"
            "test_what_is_in_flight_while_it_is_reconciled_is_carried",
        ),
    ),
    Variant(
        "only-in-the-old-store-is-nothing",
        "events that only the old store has are nothing to repair",
        (
            Edit(
                f"{_M}/recovery/kept_ways.py",
                "        or survey.barriers.get(way.way_id) is not False\n",
                "        or True\n",
            ),
        ),
        (f"{_GONE}::test_what_it_lost_goes_home_to_where_it_was",),
    ),
    Variant(
        "put-back-at-other-positions",
        "what goes home gets the next positions, below checkpoints of before the restore",
        (
            Edit(
                f"{_M}/steps/put_back.py",
                "            head = max(recorded.get(event_id, 0), head + 1)\n",
                "            head = head + 1\n",
            ),
        ),
        (
            "tests/integration/recovery/test_home_gone_back.py::"
            "test_what_it_lost_goes_home_to_where_it_was",
        ),
    ),
    Variant(
        "put-back-below-readers",
        "what goes home gets its old position although others have read past it",
        (
            Edit(
                f"{_M}/steps/put_back.py",
                "            head = max(recorded.get(event_id, 0), head + 1)\n",
                "            head = recorded.get(event_id, head + 1)\n",
            ),
        ),
        (f"{_GONE}::test_what_somebody_may_have_read_past_gets_the_next_positions",),
    ),
    Variant(
        "carried-back-by-the-move",
        "the passes of a move carry to its target what its way back had brought, as their own",
        (
            Edit(
                f"{_M}/steps/repair.py",
                "        bound = await carried_back.bound()\n",
                "        bound = None\n",
            ),
        ),
        (f"{_VOLUMES}::test_a_target_that_went_back_gets_what_its_way_back_had_carried",),
    ),
    Variant(
        "resumed-wherever-it-is",
        "a failed migration is resumed although nobody knows where it began",
        (
            Edit(
                f"{_M}/coordinator.py",
                "        if migration.state is _S.FAILED and None in (\n",
                "        if False and None in (\n",
            ),
        ),
        (
            "tests/integration/driver/test_environment.py::"
            "test_what_failed_without_recorded_places_is_aborted_and_not_resumed",
        ),
    ),
    Variant(
        "checkpoints-are-not-looked-at",
        "nobody hears of a checkpoint that a store which has gone back does not reach",
        (
            Edit(
                f"{_M}/recovery/checkpoints.py",
                "        if each.position > head:\n",
                "        if False:\n",
            ),
        ),
        (
            "tests/integration/cli/test_recover.py::"
            "test_repair_names_checkpoints_above_what_a_store_has_handed_out",
        ),
    ),
    Variant(
        "way-back-to-another-place",
        "a way back stands after one of its stores has become another place",
        (
            Edit(
                f"{_M}/recovery/recovery.py",
                "        if migration.state is _S.MIGRATED and way is not None"
                ' and way.state == "standby":\n',
                "        if False:\n",
            ),
        ),
        (
            "tests/integration/recovery/test_places.py::"
            "test_a_finished_move_is_bound_to_a_restored_dump_and_keeps_no_way_back",
        ),
    ),
)
