"""What each database witnesses of the others, and what happens when one has gone back in time."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_FENCES = "python/eventsource/migration/tables/fences.py"
_PROGRESS = "python/eventsource/migration/tables/progress.py"
_ABORT = "python/eventsource/migration/steps/abort.py"
_ABORTS = "tests/integration/driver/test_abort_witnesses.py"
_RESTORED = "tests/acceptance/test_restored_servers.py"

VARIANTS = (
    Variant(
        "abort-of-an-open-target",
        "an abort does not take an open target for a witness of the decision",
        (Edit(_FENCES, 'fence.role != "target" or fence.state == "open"', "False"),),
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
                '            " where e.tenant_id = $2',
                '            " where e.tenant_id = $2',
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
        (Edit(_ABORT, "    if closed is None and at is not None:\n", "    if False:\n"),),
        (f"{_ABORTS}::test_the_progress_row_without_its_fence_is_not_taken_for_nothing_to_do",),
    ),
    Variant(
        "passes-into-an-open-target",
        "a pass writes to a target that applications write to",
        (
            Edit(
                _PROGRESS,
                '        f" and exists (select from {target.fences} f where f.migration_id = $1"\n'
                "        \" and f.role = 'target' and f.state = 'closed')\"\n",
                "",
            ),
        ),
        (f"{_ABORTS}::test_no_pass_writes_to_a_target_that_is_open",),
    ),
)
