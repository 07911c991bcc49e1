"""Digests and proof: rows that are not what was read."""

from __future__ import annotations

from tests.sabotage.variant import CARGO, Edit, Variant

_CORE = "rust/core/src"
_CHUNK = f"{_CORE}/pass/chunk.rs"
_STAGED = f"{_CORE}/pass/staged.rs"
_TESTS = "tests/integration/dataplane/test_passes.py"
_INTERRUPTED = "tests/integration/dataplane/test_interruptions.py"
_CARRIES = f"{_TESTS}::test_the_first_pass_carries_every_row_and_maps_it"

VARIANTS = (
    Variant(
        "do-nothing-without-digest",
        "rows that are there already are skipped and not compared",
        (
            Edit(
                _STAGED,
                "                there.map(|(digest, _)| digest) != Some(&chunk.digests[row])\n",
                "                there.is_none() && row > chunk.digests.len()\n",
            ),
        ),
        (f"{_TESTS}::test_other_content_on_the_target_stops_the_pass",),
    ),
    Variant(
        "bulk-not-proven",
        "what is read back from the target is not compared",
        (
            Edit(
                f"{_CORE}/pass/proof.rs",
                "        if (rows, sequence.finish()) == (range.rows, range.digest) {\n",
                "        if rows >= 0 && sequence.finish() != crate::Digest::ZERO {\n",
            ),
        ),
        (f"{_TESTS}::test_a_row_that_the_target_changes_is_named_by_the_proof",),
    ),
    Variant(
        "unread-copy-is-complete",
        "a bulk copy that was not read back to its end is called proven",
        (
            Edit(
                "python/eventsource/migration/tables/progress.py",
                '        " and (staged or proven_position = last_position)"\n',
                "",
            ),
        ),
        (
            "tests/integration/passes/test_progress.py::"
            "test_a_bulk_copy_that_was_not_read_back_to_its_end_is_not_complete",
        ),
    ),
    Variant(
        "leftover-not-proven",
        "what an earlier driver left unproven is taken for proven",
        (
            Edit(
                f"{_CORE}/pass/progress.rs",
                "where migration_id = $1 and upto_position > $2 order by upto_position",
                "where migration_id = $1 and upto_position > $2 and false order by upto_position",
            ),
        ),
        (f"{_INTERRUPTED}::test_what_an_earlier_driver_left_unproven_is_proven_first",),
    ),
    Variant(
        "xor-digest",
        "a row that is there twice vanishes from the sum",
        (
            Edit(
                f"{_CORE}/row/digest.rs",
                "Digest(self.0.wrapping_add(other.0))",
                "Digest(self.0 ^ other.0)",
            ),
        ),
        (f"{CARGO}row::digest::tests::a_row_that_occurs_twice_does_not_vanish",),
    ),
    Variant(
        "one-row-dropped",
        "a row is lost before its digest is taken",
        (
            Edit(
                _CHUNK,
                "        let event_id = layout.event_id_of(tuple)?;\n",
                "        if position % 64 == 63 {\n            return Ok(());\n        }\n"
                "        let event_id = layout.event_id_of(tuple)?;\n",
            ),
        ),
        (
            _CARRIES,
            f"{CARGO}pass::chunk::tests::"
            "a_row_is_carried_with_its_position_moved_and_nothing_else_changed",
        ),
    ),
    Variant(
        "one-row-dropped-behind-the-digest",
        "a row is lost after its digest was taken",
        (
            Edit(
                _CHUNK,
                "        row[position..position + 8].copy_from_slice(&target);\n",
                "        row[position..position + 8].copy_from_slice(&target);\n"
                "        if target[7] % 64 == 63 {\n            self.batch.truncate(start);\n"
                "        }\n",
            ),
        ),
        (_CARRIES,),
    ),
    Variant(
        "one-bit-flipped-behind-the-digest",
        "one bit of a row changes on its way to the target",
        (
            Edit(
                _CHUNK,
                "        row[position..position + 8].copy_from_slice(&target);\n",
                "        row[position..position + 8].copy_from_slice(&target);\n"
                "        if let Some(last) = row.last_mut() {\n"
                "            *last ^= 1;\n        }\n",
            ),
        ),
        (
            _CARRIES,
            f"{_TESTS}::test_mirrored_rows_are_recognised",
            "tests/integration/cutover/test_cutover.py::test_force_skips_the_verification",
        ),
    ),
    Variant(
        "one-bit-flipped-before-the-digest",
        "one bit of a row changes before its digest: only a comparison of both sides sees it",
        (
            Edit(
                _CHUNK,
                "        // Before the position is moved:",
                "        if let Some(last) = row.last_mut() {\n            *last ^= 1;\n        }\n"
                "        // Before the position is moved:",
            ),
        ),
        (
            _CARRIES,
            "tests/integration/dataplane/test_verify.py::test_what_was_moved_is_consistent",
        ),
    ),
    Variant(
        "two-positions-swapped",
        "two events change places",
        (
            Edit(
                _CHUNK,
                "        let needed = position.saturating_add(self.carrier.offset);\n",
                "        let position = match position {\n            10 => 11,\n"
                "            11 => 10,\n            other => other,\n        };\n"
                "        let needed = position.saturating_add(self.carrier.offset);\n",
            ),
        ),
        (_CARRIES,),
    ),
    Variant(
        "verification-compares-nothing",
        "two rows at one position are taken for equal",
        (
            Edit(
                f"{_CORE}/verify/merge.rs",
                "            if !same {\n",
                "            if !same && source.position < 0 {\n",
            ),
        ),
        (
            "tests/integration/dataplane/test_verify.py::test_a_changed_field_is_named",
            "tests/integration/dataplane/test_verify.py::test_two_swapped_events_are_seen",
        ),
    ),
    Variant(
        "verification-of-one-side",
        "what only the target has is not looked at",
        (
            Edit(
                f"{_CORE}/verify/merge.rs",
                "        if let Some(row) = self.target.next() {\n"
                "            self.suspects.push(row.position);\n",
                "        if let Some(row) = self.target.next() {\n"
                "            self.suspects.extend((row.position < 0).then_some(row.position));\n",
            ),
        ),
        (
            "tests/integration/dataplane/test_verify.py::"
            "test_a_missing_and_an_unexpected_row_are_seen_at_every_level",
        ),
    ),
)
