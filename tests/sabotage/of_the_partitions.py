"""Rules about partitioned tables of other libraries."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_JOURNALED = "python/eventsource/migration/journaled"
_GROWTH = f"{_JOURNALED}/growth.py"
_PARTITIONS = f"{_JOURNALED}/partitions.py"
_REFUSED = "tests/layouts/test_refused.py::test_what_cannot_move_is_refused_and_nothing_is_changed"
_TESTS = "tests/layouts/test_partitions.py::"
_LEAVES = "tests/layouts/test_leaves.py::"
_ATTACHED = f"{_LEAVES}test_a_leaf_that_is_attached_is_carried_and_nothing_else_again"
_DURING = f"{_LEAVES}test_a_leaf_that_is_attached_during_the_copy_is_carried"
_EMPTIED = f"{_LEAVES}test_a_leaf_with_the_tenants_rows_is_not_emptied_unseen"
_FENCED = f"{_LEAVES}test_no_leaf_comes_or_goes_while_the_fence_is_held"
_PLACELESS = f"{_TESTS}test_a_target_without_a_place_for_the_tenant_is_refused"

VARIANTS = (
    Variant(
        "leaves-emptied-unseen",
        "the guard refuses to empty the root, and no leaf",
        (
            Edit(
                f"{_JOURNALED}/guards.py",
                "        if below := await partitions.below(self.table.connection, [name]):\n",
                "        if below := []:\n",
            ),
        ),
        (f"{_EMPTIED}[list]",),
    ),
    Variant(
        "leaves-emptied-by-an-old-snapshot",
        "a transaction with an old snapshot empties a leaf whose rows it does not see",
        (
            Edit(
                f"{_JOURNALED}/bodies.py",
                "    if current_setting('transaction_isolation') in ('repeatable read',"
                " 'serializable') then\n        -- An old",
                "    if false then\n        -- An old",
            ),
        ),
        (f"{_LEAVES}test_an_old_snapshot_does_not_empty_a_leaf",),
    ),
    Variant(
        "leaves-of-others-not-emptied",
        "other tenants cannot empty their leaves while one moves",
        (
            Edit(
                f"{_JOURNALED}/bodies.py",
                "    if eventsource_there_ then\n",
                "    if true then\n",
            ),
        ),
        (f"{_EMPTIED}[list]",),
    ),
    Variant(
        "new-leaves-taken-for-known",
        "a leaf that came is known from now on, and what is in it is not written down",
        (
            Edit(
                _GROWTH,
                "        await _write_down(passes, name, table)\n",
                "        pass\n",
            ),
        ),
        (_DURING,),
    ),
    Variant(
        "new-leaves-begin-everything-again",
        "a large copy begins again whenever an application adds a leaf",
        (
            Edit(
                _GROWTH,
                "    if not now.has_only_grown(agreed.watched, agreed.tables):\n",
                "    if True:\n",
            ),
        ),
        (f"{_ATTACHED}[range]",),
    ),
    Variant(
        "new-leaves-emptied-before",
        "a leaf that was emptied after a pass had read it is taken for one that just came",
        (
            Edit(
                _GROWTH,
                "    if len(leaves) > len(now.added):\n",
                "    if False:\n",
            ),
        ),
        (
            f"{_LEAVES}test_a_leaf_that_was_emptied_before_it_was_noticed_begins_everything_again"
            "[range]",
        ),
    ),
    Variant(
        "new-leaves-not-covered",
        "a leaf that came later can be emptied",
        (
            Edit(
                _GROWTH,
                "    await cover(source, passes.migration.id)\n    now",
                "    now",
            ),
            Edit(
                f"{_JOURNALED}/cutover.py",
                "            or await partitions.uncovered(source)\n",
                "",
            ),
        ),
        (f"{_ATTACHED}[range]",),
    ),
    Variant(
        "leaves-below-leaves-go",
        "the lock of the cutover keeps what is directly below the root, and nothing further down",
        (
            Edit(
                f"{_JOURNALED}/cutover.py",
                '                    names = await partitions.below(held, names, kinds="p")\n',
                "                    names = []\n",
            ),
        ),
        (f"{_FENCED}[detach below a leaf]",),
    ),
    Variant(
        "leaves-changed-by-others",
        "a session that switches the triggers of a leaf off commits after the decision",
        (
            Edit(
                f"{_JOURNALED}/cutover.py",
                "        if held := await partitions.held(source):\n",
                "        if held := []:\n",
            ),
        ),
        (f"{_LEAVES}test_a_session_that_changes_a_leaf_puts_the_cutover_off[list]",),
    ),
    Variant(
        "mended-guards-hide",
        "a guard that was switched off is made again, and what passed it by is not looked for",
        (
            Edit(
                f"{_JOURNALED}/guards.py",
                "was_weak=bool(was_weak)",
                "was_weak=False",
            ),
        ),
        (f"{_LEAVES}test_a_guard_that_was_mended_does_not_hide_what_passed_it_by[list]",),
    ),
    Variant(
        "placeless-rows",
        "a target that has no partition for the tenant is noticed in the middle of the copy",
        (
            Edit(
                f"{_JOURNALED}/preflight.py",
                "await partitions.problems_of(source, target, expected)",
                "[]",
            ),
        ),
        (f"{_PLACELESS}[list]",),
    ),
    Variant(
        "hashes-of-another-table",
        "a target that lacks some of its hash partitions is taken for complete",
        (
            Edit(
                _PARTITIONS,
                '_share(nodes, node["name"]) < 1:\n',
                '_share(nodes, node["name"]) < 0:\n',
            ),
        ),
        (f"{_PLACELESS}[hash]",),
    ),
    Variant(
        "places-of-the-sources-numbers",
        "a place is looked for at the numbers of the source, not at those of the target",
        (
            Edit(
                f"{_JOURNALED}/preflight.py",
                'Statements(shape, await numbers.expected(target, shape), "0")',
                'Statements(shape, dict.fromkeys(await numbers.expected(target, shape), 0), "0")',
            ),
        ),
        (f"{_TESTS}test_a_place_is_looked_for_where_the_numbers_will_be[range]",),
    ),
    Variant(
        "missing-places-end-the-migration",
        "a partition that is missing at the target ends the migration instead of being waited for",
        (
            Edit(
                f"{_JOURNALED}/transfer.py",
                "            if error.constraint_name is not None:\n",
                "            if True:\n",
            ),
        ),
        (f"{_TESTS}test_a_place_that_is_missing_later_is_waited_for[range]",),
    ),
    Variant(
        "times-as-the-writer-has-them",
        "a time in a key is another text in the journal for each time zone",
        (
            Edit(
                f"{_JOURNALED}/guards.py",
                " set timezone = 'UTC'\"\n",
                '"\n',
            ),
        ),
        (
            f"{_TESTS}test_a_time_in_a_key_is_the_same_whatever_the_writers_time_zone_is"
            "[range of time]",
        ),
    ),
    Variant(
        "times-as-the-database-has-them",
        "a time is read at the target in the way in which the source writes it",
        (
            Edit(
                "python/eventsource/migration/connections/driver_connections.py",
                "set timezone = 'UTC';\nset datestyle = 'ISO, MDY';\n",
                "",
            ),
        ),
        (
            f"{_TESTS}test_a_time_in_a_key_is_the_same_whatever_the_writers_time_zone_is"
            "[range of time]",
        ),
    ),
    Variant(
        "tenants-inside-of-bytes",
        "a tenant that only the library can read is looked for by the guard",
        (
            Edit(
                f"{_JOURNALED}/ownership.py",
                'column.type.name == "bytea" and',
                'column.type.name == "" and',
            ),
        ),
        (f"{_REFUSED}[a tenant inside of bytes]",),
    ),
    Variant(
        "gaps-in-dense-numbers",
        "a tenant leaves tables whose readers stop at the gap that it makes",
        (
            Edit(
                f"{_JOURNALED}/ownership.py",
                "    if shape.layout.is_whole:\n",
                "    if True:\n",
            ),
        ),
        (f"{_REFUSED}[numbers without a gap]",),
    ),
    Variant(
        "streams-divided-unsaid",
        "links go out of streams of several tenants, and plan says nothing",
        (
            Edit(
                f"{_JOURNALED}/ownership.py",
                '        if row["links"]:\n',
                "        if False:\n",
            ),
        ),
        ("tests/layouts/test_refused.py::test_links_in_streams_of_several_tenants_are_named",),
    ),
)
