"""Rules about tables of other libraries."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_JOURNALED = "python/eventsource/migration/journaled"
_GUARDS = f"{_JOURNALED}/guards.py"
_JOURNAL = "tests/layouts/test_journal.py::"
_MARTEN = "tests/layouts/test_marten.py::"
_PROOF = "tests/layouts/test_proof.py::"
_REFUSED = "tests/layouts/test_refused.py::test_what_cannot_move_is_refused_and_nothing_is_changed"
_TRAVEL = f"{_JOURNAL}test_updates_deletes_and_changes_of_key_and_tenant_travel"
_WHOLE = "tests/layouts/test_whole.py"
_UNSEEN = f"{_JOURNAL}test_what_passes_the_guard_by_is_noticed_and_carried_again"

VARIANTS = (
    Variant(
        "carried-meanwhile-is-a-difference",
        "a comparison names rows that a pass has carried while it looked",
        (
            Edit(
                "python/eventsource/migration/journaled/comparison.py",
                "if apart and carried != await self._carried():\n",
                "if False:\n",
            ),
        ),
        (
            "tests/layouts/test_proof.py::"
            "test_what_a_pass_carries_during_a_comparison_is_no_difference",
        ),
    ),
    Variant(
        "change-goes-on-without-the-lock",
        "a writer of another library's table does not wait for a cutover that has the fence",
        (
            Edit(
                "python/eventsource/stores/sql/journal.sql",
                "        perform pg_advisory_xact_lock_shared(1163281235, lock);\n",
                "",
            ),
        ),
        ("tests/layouts/test_journal.py::test_a_writer_does_not_overtake_a_cutover_that_waits",),
    ),
    Variant(
        "layout-chunks-without-a-barrier",
        "a chunk is committed at the target that a crash of the source may take back",
        (
            Edit(
                f"{_JOURNALED}/first_pass.py",
                "    await passes.barrier()\n",
                "",
            ),
        ),
        (f"{_PROOF}test_a_chunk_is_committed_only_after_a_barrier_that_came_after_its_read",),
    ),
    Variant(
        "layout-guards-between-dollars",
        "the body of a guard ends where a tenant's name says so",
        (
            Edit(
                _GUARDS,
                'f" as {quote_literal(body)}"',
                'f" as $guard${body}$guard$"',
            ),
        ),
        (f"{_MARTEN}test_a_tenant_of_any_name_moves_and_no_other_does[2]",),
    ),
    Variant(
        "layout-tenants-by-their-own-quotes",
        "a tenant's name is put into statements as it is",
        (
            Edit(
                f"{_JOURNALED}/shapes.py",
                "quote_literal(stored(self.tenant_id))",
                "f\"'{stored(self.tenant_id)}'\"",
            ),
        ),
        (f"{_MARTEN}test_a_tenant_of_any_name_moves_and_no_other_does[1]",),
    ),
    Variant(
        "layout-deletes-are-not-written-down",
        "the guard writes down the key that a row has, and not the one that it had",
        (
            Edit(
                f"{_JOURNALED}/bodies.py",
                "    if tg_op <> 'INSERT' then\n        eventsource_before_",
                "    if false then\n        eventsource_before_",
            ),
        ),
        (_TRAVEL,),
    ),
    Variant(
        "layout-children-go-unseen",
        "what is deleted with its parent is not written down",
        (
            Edit(
                f"{_JOURNALED}/bodies.py",
                "        {children_before}\n",
                "        null;\n",
            ),
        ),
        (f"{_PROOF}test_what_goes_with_its_parent_goes_at_the_target_too[no action there]",),
    ),
    Variant(
        "layout-children-come-unseen",
        "what comes to the tenant with its parent is not written down",
        (
            Edit(
                f"{_JOURNALED}/bodies.py",
                "        {children_after}\n",
                "        null;\n",
            ),
        ),
        (f"{_PROOF}test_what_goes_with_its_parent_goes_at_the_target_too",),
    ),
    Variant(
        "layout-guards-walked-past",
        "nobody looks whether triggers were switched off, or a table was rewritten",
        (
            Edit(
                f"{_JOURNALED}/passes.py",
                "        return await watching.seen(self.connections.source)"
                " == self.agreed.watched\n",
                "        return True\n",
            ),
        ),
        (f"{_UNSEEN}[a column rewritten]",),
    ),
    Variant(
        "layout-conditions-of-the-first-tenant",
        "a guard that stands for one tenant lets the second one pass",
        (
            Edit(
                _GUARDS,
                'wanted = ", ".join(map(quote_literal, tenants))',
                'wanted = ", ".join(map(quote_literal, tenants[:1]))',
            ),
        ),
        (f"{_JOURNAL}test_two_tenants_leave_at_the_same_time",),
    ),
    Variant(
        "layout-offset-always-nothing",
        "the numbers of a target in use are given again",
        (
            Edit(
                f"{_JOURNALED}/numbers.py",
                '(row["given"] or 0, row["highest"] or 0) if used else 0',
                "(0, 0) if used else 0",
            ),
        ),
        (f"{_JOURNAL}test_a_target_in_use_keeps_its_own_and_numbers_the_rest_after_it",),
    ),
    Variant(
        "layout-sequences-not-asked-for",
        "the numbers of a sequence that may not be read are given again",
        (
            Edit(
                f"{_JOURNALED}/numbers.py",
                "where not (has_sequence_privilege(",
                "where false and not (has_sequence_privilege(",
            ),
        ),
        (
            "tests/layouts/test_roles_of_sequences.py::test_what_the_role_lacks_is_told_and_nothing_is_changed",
        ),
    ),
    Variant(
        "layout-differences-within-a-row",
        "a row that differs is taken for one that is there",
        (
            Edit(
                f"{_JOURNALED}/comparison.py",
                "for key in here.keys() | there.keys() if here.get(key) != there.get(key)}\n",
                "for key in here.keys() | there.keys() if (key in here) != (key in there)}\n",
            ),
        ),
        (f"{_PROOF}test_a_difference_is_found_before_the_fence_with_table_key_and_column",),
    ),
    Variant(
        "layout-journal-is-no-excuse",
        "a row that is still to be carried is called a difference",
        (
            Edit(f"{_JOURNALED}/comparison.py", "            apart -= waiting\n", ""),
            Edit(
                f"{_JOURNALED}/comparison.py",
                "for key in apart - waiting if",
                "for key in apart if",
            ),
        ),
        (f"{_PROOF}test_verification_finds_nothing_while_the_tenant_writes",),
    ),
    Variant(
        "layout-target-stays-open",
        "others write the tenant's rows at the target before it has arrived",
        (
            Edit(
                _GUARDS,
                "when (not {is_migrator(fence.migration_id, owner)})",
                "when (false)",
            ),
        ),
        (f"{_JOURNAL}test_nobody_else_writes_the_tenant_at_the_target_before_it_has_arrived",),
    ),
    Variant(
        "layout-triggers-of-the-target",
        "a trigger of the target changes carried rows",
        (
            Edit(
                f"{_JOURNALED}/catalogs.py",
                "        if trigger.fires and not ours and",
                "        if False and not ours and",
            ),
        ),
        (f"{_REFUSED}[a trigger of the target]",),
    ),
    Variant(
        "layout-readers-miss-what-arrives",
        "rows arrive below the positions of the target's readers",
        (
            Edit(
                f"{_JOURNALED}/preflight.py",
                "    for name, condition in shape.layout.readers:",
                "    for name, condition in ():",
            ),
        ),
        (f"{_REFUSED}[readers at the target]",),
    ),
    Variant(
        "layout-casts-that-fail",
        "the guard's cast refuses rows of other tenants",
        (
            Edit(
                f"{_JOURNALED}/expressions.py",
                "    if _CAST.search(expression):",
                "    if False:",
            ),
        ),
        (f"{_REFUSED}[a cast that can fail]",),
    ),
    Variant(
        "layout-references-without-a-key",
        "a row is written before the one that says whose it is",
        (
            Edit(
                f"{_JOURNALED}/references.py",
                "    if not valid:",
                "    if False:",
            ),
        ),
        (f"{_REFUSED}[a reference without a key]",),
    ),
    Variant(
        "layout-whole-numbers",
        "a sequence of the target gives numbers again that the source has given",
        (
            Edit(
                f"{_JOURNALED}/cutover.py",
                "        if self._layout.is_whole:",
                "        if False:",
            ),
        ),
        (f"{_WHOLE}::test_a_schema_moves_under_writers_with_its_counters_and_its_numbers",),
    ),
    Variant(
        "layout-whole-numbers-of-a-repair",
        "a restored target gives numbers again",
        (
            Edit(
                f"{_JOURNALED}/repair.py",
                "        if target.layout.is_whole:",
                "        if False:",
            ),
        ),
        (f"{_WHOLE}::test_a_target_that_was_restored_to_before_the_move_gets_its_numbers_again",),
    ),
    Variant(
        "layout-repair-at-the-limit",
        "a target that went back after the decision is filled at the limit of the copy",
        (Edit(f"{_JOURNALED}/repair.py", "    passes.session.set_rate(None)\n", ""),),
        (
            "tests/layouts/test_marten_faults.py::"
            "test_a_target_that_was_restored_to_before_the_move_gets_everything_again",
        ),
    ),
    Variant(
        "layout-whole-new-table",
        "a table that is made while its tenant moves stays where it is",
        (
            Edit(
                f"{_JOURNALED}/whole.py",
                '    return [row["name"] for row in rows if row["name"] not in known]',
                "    return []",
            ),
        ),
        (f"{_WHOLE}::test_a_table_that_comes_while_the_tenant_moves_puts_the_cutover_off",),
    ),
    Variant(
        "layout-whole-another-name",
        "the same tables move under two names",
        (
            Edit(
                f"{_JOURNALED}/whole.py",
                "        if owner is not None:",
                "        if False:",
            ),
        ),
        (f"{_WHOLE}::test_tables_that_are_one_tenants_do_not_move_under_another_name",),
    ),
    Variant(
        "without-its-target-as-one-table",
        "a migration of a layout that ends without its target leaves guards without a fence",
        (
            Edit(
                "python/eventsource/migration/recovery/lost_target.py",
                "open_table(await source.address(), source.layout)",
                "open_table(await source.address())",
            ),
        ),
        (
            "tests/layouts/test_marten_faults.py::"
            "test_a_migration_whose_target_is_gone_ends_without_it",
        ),
    ),
)
