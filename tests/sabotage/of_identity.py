"""Who may carry what on: newer versions, and databases that are other places than before."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_NEWER = "tests/integration/driver/test_newer_versions.py"
_JOURNAL = "python/eventsource/migration/repositories/sql/migrations.sql"
_WAYS = "python/eventsource/migration/repositories/sql/ways_back.sql"

VARIANTS = (
    Variant(
        "older-version-asks",
        "a process asks something of a migration that a newer version carries on",
        (
            Edit(
                "python/eventsource/migration/failures.py",
                "    if migration.is_newer:\n",
                "    if migration.is_newer and migration.state.is_final:\n",
            ),
        ),
        (f"{_NEWER}::test_nothing_is_asked_of_a_migration_of_a_newer_version",),
    ),
    Variant(
        "older-version-drives",
        "a process begins to drive a migration that a newer version carries on",
        (
            Edit(
                "python/eventsource/migration/background.py",
                "return self.knows(migration) and not self._left_alone.leaves(migration)",
                "return self.knows(migration)",
            ),
        ),
        (f"{_NEWER}::test_work_leaves_it_alone_and_says_so_once",),
    ),
    Variant(
        "older-version-leases",
        "what a newer version has taken over since the look is leased all the same",
        (Edit(_JOURNAL, " and protocol <= $6\n", " and $6::integer is not null\n"),),
        (f"{_NEWER}::test_what_is_taken_over_between_look_and_change_is_left_as_it_is",),
    ),
    Variant(
        "older-version-changes-the-state",
        "the state of what a newer version has taken over since the look is changed",
        (Edit(_JOURNAL, "      and protocol <= $10\n", "      and $10::integer is not null\n"),),
        (f"{_NEWER}::test_what_is_taken_over_between_look_and_change_is_left_as_it_is",),
    ),
    Variant(
        "older-version-follows-a-way-back",
        "a way back that a newer version carries on is followed",
        (
            Edit(
                "python/eventsource/migration/driver/follower.py",
                "if not self.knows(move) or self.leaves(way):\n",
                "if not self.knows(move):\n",
            ),
            Edit(_WAYS, " and protocol <= $5\n  and", " and $5::integer is not null\n  and"),
        ),
        (f"{_NEWER}::test_a_way_back_of_a_newer_version_is_neither_followed_nor_used_nor_ended",),
    ),
)
