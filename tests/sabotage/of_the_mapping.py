"""Offsets in place of mapping rows, and streams that are counted by the source."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_POSITIONS = "python/eventsource/migration/subscriptions/positions.py"
_OFFSET = "tests/integration/subscriptions/test_offset_mapping.py"
_LIVE = "tests/integration/subscriptions/test_live.py"
_VERIFY = "tests/integration/dataplane/test_verify.py"
_PREDICTED = (
    f"{_LIVE}::test_running_subscriptions_get_everything_and_twice_only_what_was_predicted[offset]"
)

VARIANTS = (
    Variant(
        "offset-one-too-high",
        "what a return goes back over is translated one too high",
        (
            Edit(
                _POSITIONS,
                "at_least = max(source_position, carried.after) + carried.shift\n",
                "at_least = max(source_position, carried.after) + carried.shift + 1\n",
            ),
        ),
        (f"{_OFFSET}::test_a_return_over_it_skips_and_repeats_what_one_over_rows_does[3-1]",),
    ),
    Variant(
        "offset-of-another-stay",
        "a return over a return takes the move the other way round",
        (
            Edit(
                _POSITIONS,
                "await self.repository.migration(move.returns), not is_inverted\n",
                "await self.repository.migration(move.returns), True\n",
            ),
        ),
        (f"{_OFFSET}::test_a_return_over_it_skips_and_repeats_what_one_over_rows_does[3-2]",),
    ),
    Variant(
        "offset-counts-beyond-the-fence",
        "what was appended at the target since the move is counted as carried",
        (
            Edit(
                _POSITIONS,
                "last = LAST_POSITION - offset if move.fence_position is None else"
                " move.fence_position\n",
                "last = LAST_POSITION - offset\n",
            ),
        ),
        (f"{_OFFSET}::test_what_is_appended_at_the_target_since_is_not_counted",),
    ),
    Variant(
        "offset-and-rows",
        "a migration that keeps its offset maps each event all the same",
        (
            Edit(
                "python/eventsource/migration/steps/passes.py",
                "mapping_rows=migration.maps_rows,\n",
                "mapping_rows=True,\n",
            ),
        ),
        (_PREDICTED,),
    ),
    Variant(
        "offset-completed-with-rows",
        "the opening maps the events of a migration that keeps its offset",
        (
            Edit(
                "python/eventsource/migration/steps/mapping.py",
                "    if not migration.maps_rows:\n        return\n",
                "",
            ),
        ),
        (_PREDICTED,),
    ),
    Variant(
        "offset-for-every-version",
        "a process that knows mapping rows only takes an offset for a migration without events",
        (
            Edit(
                "python/eventsource/migration/configuration.py",
                'return OFFSET if self.position_mapping == "offset" else FIRST\n',
                "return FIRST\n",
            ),
        ),
        (f"{_OFFSET}::test_what_an_earlier_version_would_misread_needs_a_newer_protocol",),
    ),
    Variant(
        "strays-are-not-counted",
        "a stream that only the target has is missing from a count at the source",
        (
            Edit(
                "rust/core/src/verify/recheck.rs",
                "Counting::Target => self.only_there(strays, outcome).await,",
                "Counting::Target => Ok(drop(strays)),",
            ),
        ),
        (f"{_VERIFY}::test_a_missing_and_an_unexpected_row_are_seen_at_every_level[counted-hash]",),
    ),
    Variant(
        "streams-before-the-seal-are-counted",
        "the source counts streams that are not compared before a cutover",
        (
            Edit(
                "rust/core/src/verify/counting.rs",
                "selection.condition_of_all(config.began_after)",
                "selection.condition_of_all(None)",
            ),
        ),
        (f"{_VERIFY}::test_what_comes_after_a_position_is_counted_from_there",),
    ),
)
