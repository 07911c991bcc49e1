"""Rules about empty tables that are loaded without their indexes."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_DEFERRED = "python/eventsource/migration/tables/deferred_indexes.py"
_JOURNALED = "python/eventsource/migration/journaled"
_LOADING = f"{_JOURNALED}/loading.py"
_TESTS = "tests/layouts/test_loading.py::"
_LEFT_OUT = "tests/layouts/test_left_out_rows.py::"
_KEPT = (
    "tests/layouts/test_indexes_of_a_load.py::"
    "test_an_index_is_kept_for_what_asks_by_it_and_for_rows_that_came_since"
)

VARIANTS = (
    Variant(
        "loading-table-takes-writes",
        "others write to a table that has lost its unique constraints",
        (
            Edit(
                _DEFERRED,
                "when (not {guard.is_migrator(fence.migration_id, owner)})",
                "when (false and not {guard.is_migrator(fence.migration_id, owner)})",
            ),
        ),
        (
            "tests/acceptance/test_deferred_indexes.py::test_killed_between_the_drop_and_the_build",
            f"{_TESTS}test_others_wait_until_the_indexes_are_back",
        ),
    ),
    Variant(
        "constraints-not-restored",
        "unique constraints come back as plain indexes",
        (
            Edit(
                _DEFERRED,
                "        await _restore_constraints(table, mine)\n",
                "        mine[:] = []\n",
            ),
        ),
        (
            "tests/integration/passes/test_bulk_copy.py::test_two_tenants_move_at_once_into_one_empty_table",
            f"{_TESTS}test_others_wait_until_the_indexes_are_back",
        ),
    ),
    Variant(
        "cancelled-build-leaves-a-transaction",
        "what a driver writes after a build that was cancelled is taken back with it",
        (
            Edit(
                _DEFERRED,
                '        await connection.execute(\n            f"{_BUILD_MEMORY}; {index',
                '        await connection.execute("begin")\n'
                '        await connection.execute(\n            f"{_BUILD_MEMORY}; {index',
            ),
            Edit(
                _DEFERRED,
                '        await failpoints.reach("load.index.committed")\n',
                '        await connection.execute("commit")\n'
                '        await failpoints.reach("load.index.committed")\n',
            ),
        ),
        (
            "tests/integration/passes/test_build_memory.py::"
            "test_a_build_that_is_cancelled_leaves_no_transaction",
        ),
    ),
    Variant(
        "layout-load-passes-for-whole",
        "rows that were deleted because a unique value was there twice are not carried again",
        (Edit(_LOADING, '    passes.agreed = replace(passes.agreed, watched="")\n', ""),),
        (f"{_TESTS}test_rows_that_exchange_a_unique_value_begin_the_copy_again",),
    ),
    Variant(
        "layout-load-for-every-version",
        "a process of an earlier version moves a tenant over to tables without their indexes",
        (
            Edit(
                f"{_JOURNALED}/preparation.py",
                "        await connections.migrations.require_protocol("
                "migration.id, owner, LOADED)\n",
                "        pass\n",
            ),
        ),
        (f"{_TESTS}test_others_wait_until_the_indexes_are_back",),
    ),
    Variant(
        "layout-load-in-a-table-in-use",
        "indexes are dropped from a table in which another migration arrives",
        (
            Edit(
                _LOADING,
                "    if await reserved_block.is_in_use(target, migration_id):\n        return\n",
                "",
            ),
        ),
        (f"{_TESTS}test_two_tenants_move_at_once_into_one_empty_table",),
    ),
    Variant(
        "layout-load-drops-what-others-have-filled",
        "indexes are dropped from a table that got rows since it was looked at",
        (
            Edit(
                _LOADING,
                "if each.name in tables and await _is_empty(target, each)",
                "if each.name in tables",
            ),
        ),
        (_KEPT,),
    ),
    Variant(
        "layout-load-drops-what-parents-are-deleted-by",
        "an abort looks through all rows of a table for each of their parents",
        (
            Edit(
                _LOADING,
                "    wanted += [set(columns) for _, columns, _ in shape.parents_of(table)]\n",
                "",
            ),
        ),
        (_KEPT,),
    ),
    Variant(
        "layout-abort-leaves-indexes-away",
        "an abort in the middle of a load leaves a library's table without its indexes",
        (
            Edit(
                f"{_JOURNALED}/undoing.py",
                "        await deferred_indexes.build(target, (), migration, closed)\n",
                "",
            ),
        ),
        (f"{_TESTS}test_an_abort_leaves_the_catalog_as_it_was",),
    ),
    Variant(
        "layout-forgets-what-is-left-out",
        "a row that the target does not take yet, and its children, are in no later pass",
        (
            Edit(
                f"{_JOURNALED}/first_pass.py",
                "        await passes.write_down(agreed.table_no, left_out)\n",
                "",
            ),
        ),
        (
            f"{_LEFT_OUT}test_children_of_a_row_that_came_later_are_carried",
            f"{_LEFT_OUT}test_nobody_moves_without_a_row_that_the_target_keeps_out",
        ),
    ),
    Variant(
        "layout-large-pass-forgets-what-is-left-out",
        "as above, of a pass over many keys",
        (
            Edit(
                f"{_JOURNALED}/large_pass.py",
                "await passes.write_down(number, await transfer.write_what_can_be(table, sent))",
                "await transfer.write_what_can_be(table, sent)",
            ),
        ),
        (f"{_LEFT_OUT}test_nobody_moves_without_a_row_that_a_large_pass_left_out",),
    ),
    Variant(
        "layout-carries-again-without-end",
        "a row that the target never takes has everything carried again for ever",
        (
            Edit(
                f"{_JOURNALED}/passes.py",
                "            self.exchanges += 1\n",
                "",
            ),
        ),
        (f"{_LEFT_OUT}test_what_another_row_of_the_target_keeps_out_is_an_error_in_time",),
    ),
    Variant(
        "layout-begins-again-at-its-end",
        "a first pass that begins again and is interrupted goes on where it ended",
        (Edit(f"{_JOURNALED}/passes.py", ", self.agreed.to_json()\n", "\n"),),
        (
            "tests/layouts/test_journal_size.py::"
            "test_a_copy_that_begins_again_and_is_interrupted_begins_at_its_first_row",
        ),
    ),
)
