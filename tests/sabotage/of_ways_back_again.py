"""After a restore: what the stores say of a way back."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_M = "python/eventsource/migration"
_AGAIN = "tests/integration/recovery/test_ways_back_made_again.py"
_JUDGED = "tests/unit/test_judgement.py"

VARIANTS = (
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
)
