"""Rules about the set-ups that tables of a layout have in somebody's database."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_JOURNALED = "python/eventsource/migration/journaled"
_REFUSED = (
    "tests/layouts/test_tables_of_strangers.py::"
    "test_what_would_fail_later_is_refused_before_anything_is_changed"
)
_LATE = (
    "tests/layouts/test_constraints_of_strangers.py::"
    "test_a_constraint_that_is_checked_late_is_met_at_once"
)
_CAUSES = (
    "tests/layouts/test_references_of_strangers.py::"
    "test_causes_are_written_before_their_effects_and_stay_when_they_change"
)
_ORDERS = (
    "tests/layouts/test_orders_of_strangers.py::"
    "test_rows_are_read_by_columns_that_both_sides_sort_the_same_way"
)
_BESIDE = (
    "tests/layouts/test_layouts_beside_each_other.py::"
    "test_tables_whose_names_begin_the_same_have_guards_of_their_own"
)

VARIANTS = (
    Variant(
        "layout-keys-with-nulls",
        "a key that may be null is taken, and a row with a null stays behind",
        (Edit(f"{_JOURNALED}/keys.py", "(not a.attnotnull or", "(false or"),),
        (f"{_REFUSED}[a key that may be null]",),
    ),
    Variant(
        "layout-labels-that-are-cut",
        "two tables whose names begin the same have one guard",
        (
            Edit(
                "python/eventsource/migration/layouts/declaration.py",
                'return f"{start}_{hashlib.md5(name, usedforsecurity=False).hexdigest()[:12]}"',
                "return start",
            ),
        ),
        (f"{_BESIDE}[subscription_billing]",),
    ),
    Variant(
        "layout-constraints-at-the-commit",
        "a constraint that is checked late is checked when nobody can leave a row out any more",
        (
            Edit(
                f"{_JOURNALED}/transfer.py",
                "            if self.statements.shape.may_be_late:",
                "            if False:",
            ),
        ),
        (f"{_LATE}[a foreign key]",),
    ),
    Variant(
        "layout-effects-before-causes",
        "a row that others of its table refer to is deleted to be written again",
        (
            Edit(
                f"{_JOURNALED}/shapes.py",
                "            name == table.name\n            for each",
                "            name == table.name and each.name != table.name\n            for each",
            ),
        ),
        (f"{_CAUSES}[on delete cascade]",),
    ),
    Variant(
        "layout-scans-in-any-order",
        "rows are read by an index that the target sorts in another way",
        (
            Edit(
                f"{_JOURNALED}/shapes.py",
                "return found is not None and values.innermost(found.type).name in ORDERED",
                "return found is not None",
            ),
        ),
        (f"{_ORDERS}[labels of an enum]",),
    ),
    Variant(
        "layout-columns-of-the-beginning",
        "what is carried again are the columns that the tables had at first",
        (Edit(f"{_JOURNALED}/passes.py", "            await self._look_again()\n", ""),),
        (
            "tests/layouts/test_changes_of_strangers.py::"
            "test_a_column_that_the_target_lacks_is_waited_for",
        ),
    ),
    Variant(
        "layout-tenants-that-no-trigger-sees",
        "a tenant in a virtual column is taken",
        (
            Edit(
                f"{_JOURNALED}/catalogs.py",
                "    if column is not None and column.generated == VIRTUAL:",
                "    if False:",
            ),
        ),
        (
            "tests/layouts/test_tenants_of_strangers.py::"
            "test_a_tenant_in_a_virtual_column_is_refused[the column]",
        ),
    ),
    Variant(
        "layout-expressions-by-any-path",
        "an expression is tried out by another search path than that of the triggers",
        (
            Edit(
                f"{_JOURNALED}/expressions.py",
                "        await connection.execute(_SETTINGS)\n",
                "",
            ),
        ),
        (f"{_REFUSED}[a function without its schema]",),
    ),
    Variant(
        "journal-without-an-identity",
        "a publication of all tables keeps the journal from being emptied",
        (
            Edit(
                "python/eventsource/stores/sql/journal.sql",
                "alter table {schema}.eventsource_changes replica identity full;",
                "null;",
            ),
        ),
        (
            "tests/layouts/test_tables_of_strangers.py::"
            "test_what_an_earlier_version_has_made_gets_an_identity",
        ),
    ),
)
