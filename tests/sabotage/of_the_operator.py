"""The operator's side: what the command line counts, refuses and asks."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_CLI = "python/eventsource/cli"
_COUNTS = "tests/integration/driver/test_counts.py"
_CHOOSING = "tests/integration/cli/test_choosing.py"
_SAYS = "tests/integration/cli/test_what_it_says.py"

VARIANTS = (
    Variant(
        "mirrored-events-uncounted",
        "what mirrors brought to the target is missing from the count",
        (
            Edit(
                "python/eventsource/migration/tables/progress.py",
                "        return self.proven_rows + (self.pass_rows if self.pass_is_open else 0)\n",
                "        return self.rows_copied\n",
            ),
            Edit(
                "python/eventsource/migration/steps/decision.py",
                "        decided.proof.total if decided.proof is not None else None,\n",
                "        None,\n",
            ),
        ),
        (f"{_COUNTS}::test_what_mirrors_brought_counts_as_carried",),
    ),
    Variant(
        "first-of-several-ids",
        "a beginning that several ids have in common takes the newest of them",
        (Edit(f"{_CLI}/choice.py", "    if len(ids) == 1:\n", "    if ids:\n"),),
        (f"{_CHOOSING}::test_a_beginning_that_two_ids_have_in_common_is_refused",),
    ),
    Variant(
        "mistyped-tenant-moves",
        "a tenant that the source does not know is moved",
        (
            Edit(
                f"{_CLI}/tenants.py",
                "    if not may_be_empty and not await has_events(at, tenant_id, source_id):\n",
                "    if False and not await has_events(at, tenant_id, source_id):\n",
            ),
        ),
        (f"{_CHOOSING}::test_a_tenant_that_the_source_does_not_know_is_refused",),
    ),
    Variant(
        "cutover-without-a-question",
        "a cutover at a terminal is not asked for",
        (
            Edit(
                f"{_CLI}/cutover.py",
                "        if not yes and questions.at_a_terminal() and not is_refused:\n",
                "        if False and not is_refused:\n",
            ),
        ),
        (f"{_CHOOSING}::test_what_cannot_be_taken_back_is_asked_at_a_terminal",),
    ),
    Variant(
        "typo-gets-a-checkpoint",
        "a mistyped subscription gets a checkpoint that nobody uses",
        (
            Edit(
                f"{_CLI}/subscriptions.py",
                "        if not from_start:\n",
                "        if False:\n",
            ),
        ),
        (f"{_CHOOSING}::test_a_subscription_that_nobody_knows_gets_no_checkpoint",),
    ),
    Variant(
        "appends-unannounced",
        "a subscription does not hear of what other processes append",
        (
            Edit(
                "python/eventsource/migration/routing/bells.py",
                "        if self.heard:\n",
                "        if False:\n",
            ),
        ),
        (
            "tests/integration/subscriptions/test_hearing.py::"
            "test_what_another_process_appends_is_delivered_at_once",
        ),
    ),
    Variant(
        "usage-errors-in-words",
        "a mistake in the options prints no JSON where JSON was asked for",
        (
            Edit(
                f"{_CLI}/group.py",
                '        if not standalone_mode or "--json" not in given:\n',
                "        if True:\n",
            ),
        ),
        (f"{_SAYS}::test_a_mistake_is_json_where_json_was_asked_for",),
    ),
)
