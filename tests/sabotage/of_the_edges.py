"""What applications see: appends, checkpoints, errors."""

from __future__ import annotations

from .variant import Edit, Variant

_CONNECTIONS = "python/eventsource/connections.py"
_POSITIONS = "python/eventsource/migration/positions.py"
_CONTRACT = "tests/integration/test_store_contract.py"

VARIANTS = (
    Variant(
        "checkpoint-one-too-high",
        "a translated checkpoint skips an event",
        (
            Edit(
                _POSITIONS,
                "(source_position if fence is None else min(source_position, fence)) + offset",
                "(source_position if fence is None else min(source_position, fence)) + offset + 1",
            ),
        ),
        (
            "tests/unit/test_positions.py::"
            "test_a_carried_checkpoint_delivers_exactly_what_the_largest_valid_one_delivers",
            "tests/integration/test_subscriptions_move.py::"
            "test_from_every_checkpoint_nothing_is_skipped_and_repeats_are_predicted",
        ),
    ),
    Variant(
        "checkpoint-beyond-the-fence",
        "a checkpoint that is ahead of the fence skips the tenant's first new events",
        (
            Edit(
                _POSITIONS,
                "min(source_position, fence)) + offset",
                "source_position) + offset",
            ),
        ),
        (
            "tests/unit/test_positions.py::"
            "test_a_carried_checkpoint_delivers_exactly_what_the_largest_valid_one_delivers",
        ),
    ),
    Variant(
        "mapped-checkpoint-too-high",
        "a checkpoint that is translated by mapping rows stands on the next event",
        (Edit(_POSITIONS, "            return lowest - 1\n", "            return lowest\n"),),
        (
            "tests/unit/test_positions.py::"
            "test_any_monotone_mapping_translates_to_the_largest_valid_position",
        ),
    ),
    Variant(
        "password-in-an-error",
        "messages show the password of a connection string",
        (
            Edit(
                _CONNECTIONS,
                '    return _NAMED_PASSWORD.sub(r"\\1***", _URI_PASSWORD.sub(r"\\1***", text))\n',
                "    return text\n",
            ),
        ),
        (
            "tests/unit/test_connections.py::test_redact_hides_every_password",
            "tests/unit/test_cli_output.py::test_a_failure_is_one_line_without_a_password",
        ),
    ),
    Variant(
        "password-in-a-repr",
        "the repr of a store's address shows its password",
        (
            Edit(
                "python/eventsource/dataplane.py",
                "    dsn: str = field(repr=False)\n",
                "    dsn: str\n",
            ),
        ),
        ("tests/unit/test_dataplane.py::test_no_repr_shows_a_password",),
    ),
    Variant(
        "any-version-will-do",
        "an append does not look at the version it expects",
        (
            Edit(
                "python/eventsource/stores/memory.py",
                "    return version == expected\n",
                "    return True\n",
            ),
        ),
        ("tests/unit/test_memory_store.py",),
    ),
    Variant(
        "taken-id-is-a-success",
        "an event id that is stored with another payload counts as stored",
        (
            Edit(
                "python/eventsource/stores/repeated.py",
                '            (stored.same_payload, "with another payload"),\n',
                "",
            ),
        ),
        (_CONTRACT,),
    ),
    Variant(
        "feed-passes-what-is-in-flight",
        "a reader of the feed passes positions whose transactions have not ended",
        (
            Edit(
                "python/eventsource/stores/sql/feed.sql",
                "    perform pg_advisory_xact_lock_shared(tg_relid::integer # -1152626862,\n"
                "                                         floor::bit(32)::integer);\n",
                "",
            ),
        ),
        (
            "tests/integration/test_store_feed.py::"
            "test_a_position_in_flight_is_waited_for_and_never_passed",
        ),
    ),
)
