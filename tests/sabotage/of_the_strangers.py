"""Rules about tables as other people have them."""

from __future__ import annotations

from tests.sabotage.variant import CARGO, Edit, Variant

_REFUSED = (
    "tests/strangers/test_strangers.py::"
    "test_what_cannot_be_moved_is_refused_by_name_and_nothing_is_changed"
)
_MOVED = "tests/strangers/test_strangers.py::test_what_is_moved_is_equal_and_fenced"
_UNDER_THE_FENCE = (
    "tests/strangers/test_changes_on_the_way.py::"
    "test_a_change_under_the_fence_is_found_by_the_deciding_statement"
)
_FALSIFIED = "tests/strangers/test_type_numbers.py::test_a_falsified_value_is_found_and_named"
_CATALOG = "python/eventsource/catalog"

VARIANTS = (
    Variant(
        "children-are-no-matter",
        "a table with inheritance children is taken",
        (Edit(f"{_CATALOG}/one_side.py", "    if table.children:\n", "    if False:\n"),),
        (f"{_REFUSED}[child of the source]",),
    ),
    Variant(
        "late-triggers-by-letters",
        "triggers are compared with the guard's by letters and not by bytes",
        (
            Edit(
                f"{_CATALOG}/model.py",
                'return self.name.encode() > f"{GUARD}write".encode()',
                'return "zzzzz" > self.name > f"{GUARD}write"',
            ),
        ),
        (f"{_REFUSED}[trigger with a Cyrillic name]",),
    ),
    Variant(
        "stamps-are-carried",
        "a column of the source's transaction ids is carried to another cluster",
        (
            Edit(
                f"{_CATALOG}/values.py",
                "    return type_.is_of_the_server and type_.name in STAMPS\n",
                "    return False\n",
            ),
        ),
        (f"{_REFUSED}[xid8 that nobody fills]",),
    ),
    Variant(
        "stamping-defaults-are-carried",
        "a column that a default stamps is carried when its type is an ordinary one",
        (
            Edit(
                f"{_CATALOG}/values.py",
                ' or bool(_STAMPING.search(column.default or ""))',
                "",
            ),
        ),
        (f"{_REFUSED}[txid_current() filled at the source only]",),
    ),
    Variant(
        "object-numbers-are-carried",
        "columns of type oid are carried as numbers",
        (Edit(f"{_CATALOG}/values.py", 'type_.name in ("oid", "oidvector")', "False"),),
        (f"{_REFUSED}[oid of a large object]",),
    ),
    Variant(
        "type-numbers-are-compared",
        "arrays of an enum are compared by their bytes",
        (
            Edit(
                f"{_CATALOG}/forms.py",
                "    varying = names_its_parts and not all(part.has_fixed_oid for part in parts)\n",
                "    varying = False\n",
            ),
        ),
        (f"{_MOVED}[composite with enum]",),
    ),
    Variant(
        "values-beside-type-numbers-are-not-compared",
        "a digest leaves out the values of arrays and composites, with the numbers of their types",
        (
            Edit(
                "rust/core/src/row/form.rs",
                "            Some(value) => form.blank(value),\n",
                "            Some(value) => {\n"
                "                value.fill(0);\n"
                "                Ok(())\n"
                "            }\n",
            ),
        ),
        (f"{CARGO}row::form::tests::one_changed_bit_of_a_part_stays_a_difference", _FALSIFIED),
    ),
    Variant(
        "layouts-compare-type-numbers",
        "rows of another library's tables are compared with the numbers of their types",
        (
            Edit(
                "python/eventsource/dataplane.py",
                "list(columns), list(forms)) if forms else copy\n",
                "list(columns), list(forms)) if not forms else copy\n",
            ),
        ),
        ("tests/layouts/test_own_types.py::test_rows_of_a_layout_are_compared_by_value",),
    ),
    Variant(
        "generated-columns-stay-behind",
        "what the source generates is not carried, although the target does not generate it",
        (
            Edit(
                f"{_CATALOG}/two_sides.py",
                "        elif column.is_generated and other is not None and other.is_generated:\n",
                "        elif column.is_generated and other is not None:\n",
            ),
        ),
        (f"{_MOVED}[generated to plain]",),
    ),
    Variant(
        "target-triggers-fire",
        "triggers of the target see the whole history without anybody having said so",
        (
            Edit(
                f"{_CATALOG}/one_side.py",
                "            refuses=not fire,\n",
                "            refuses=False,\n",
            ),
        ),
        (f"{_REFUSED}[outbox trigger]",),
    ),
    Variant(
        "other-sequences-stay",
        "the second sequence of a table is not set past what was carried",
        (
            Edit(
                "python/eventsource/migration/tables/reserved_block.py",
                "        if here is not None and here.last is not None and"
                " (there.last or 0) < here.last:\n",
                "        if False:\n",
            ),
        ),
        (f"{_MOVED}[second sequence]",),
    ),
    Variant(
        "other-sequences-wait-for-the-cutover",
        "who appends at the target during a copy draws numbers that are about to arrive",
        (
            Edit(
                "python/eventsource/migration/steps/preparation.py",
                "    await reserved_block.advance(target, compared.drawn)\n",
                "",
            ),
        ),
        (
            "tests/integration/driver/test_swaps.py::"
            "test_who_appends_during_a_copy_draws_no_number_that_arrives",
        ),
    ),
    Variant(
        "decided-without-a-look",
        "the deciding statement does not look at the guard",
        (
            Edit(
                "python/eventsource/migration/tables/integrity.py",
                "              <> cardinality({names}) then 'guard' end,\n",
                "              < 0 then 'guard' end,\n",
            ),
        ),
        (f"{_UNDER_THE_FENCE}[a guard that is an ordinary trigger]",),
    ),
    Variant(
        "decided-on-other-columns",
        "the deciding statement does not compare the columns with those of the first pass",
        (
            Edit(
                "python/eventsource/migration/tables/integrity.py",
                "    case when {shape} <> {agreed} then 'columns' end,\n",
                "    case when {shape} is null and {agreed} is null then 'columns' end,\n",
            ),
        ),
        (f"{_UNDER_THE_FENCE}[a column on both sides]",),
    ),
    Variant(
        "decided-on-an-unseen-end",
        "a last position of the source that nobody can see is decided on as 0",
        (
            Edit(
                "python/eventsource/migration/tables/integrity.py",
                "              is not true then 'sequence' end\n",
                "              is not true and false then 'sequence' end\n",
            ),
        ),
        (
            "tests/integration/cutover/test_last_position.py::"
            "test_a_sequence_that_the_column_has_lost_refuses_the_cutover",
        ),
    ),
    Variant(
        "unseen-numbers-are-unused",
        "a sequence that may not be read is taken for one that has given nothing",
        (
            Edit(
                f"{_CATALOG}/two_sides.py",
                "        if here is not None and not here.may_read:\n",
                "        if False:\n",
            ),
        ),
        (
            "tests/integration/preflight/test_other_sequences.py::"
            "test_a_sequence_that_may_not_be_read_at_the_source_is_not_taken_for_unused",
        ),
    ),
    Variant(
        "init-changes-first",
        "init adds its column before it has looked at what would refuse the table",
        (
            Edit(
                "python/eventsource/stores/schema_setup.py",
                "    columns = await columns_of(connection, table)\n"
                "    check_columns(table, columns, ADDED)\n",
                "    columns = await columns_of(connection, table)\n"
                '    if "transaction_id" not in columns:\n'
                "        await _add_transaction_id(connection, table)\n"
                "    check_columns(table, columns, ADDED)\n",
            ),
        ),
        (
            "tests/strangers/test_tables_that_init_refuses.py::"
            "test_a_table_that_does_not_fit_is_left_as_it_was[a missing column]",
        ),
    ),
)
