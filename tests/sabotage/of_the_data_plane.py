"""Rows on their way, as far as they are Rust."""

from __future__ import annotations

from tests.sabotage.variant import CARGO, Edit, Variant

_CORE = "rust/core/src"
_CHUNK = f"{_CORE}/pass/chunk.rs"
_SOURCE = f"{_CORE}/pass/source.rs"
_PROGRESS = f"{_CORE}/pass/progress.rs"
_KEPT = "tests/integration/dataplane/test_kept_sessions.py"
_STRAIGHT = "tests/integration/dataplane/test_straight_chunks.py"
_TESTS = "tests/integration/dataplane/test_passes.py"
_INTERRUPTED = "tests/integration/dataplane/test_interruptions.py"
_CARRIES = f"{_TESTS}::test_the_first_pass_carries_every_row_and_maps_it"
_LOST = f"{_INTERRUPTED}::test_a_driver_that_lost_the_migration_commits_nothing"

VARIANTS = (
    Variant(
        "any-name-in-a-certificate",
        "the host's name is not compared with the certificate's for asyncpg",
        (
            Edit(
                "python/eventsource/dsn/tls.py",
                '    made.check_hostname = tls.mode == "verify-full"\n',
                "    made.check_hostname = False\n",
            ),
        ),
        ("tests/integration/dataplane/test_tls.py::test_only_verify_full_asks_for_the_name",),
    ),
    Variant(
        "any-authority",
        "asyncpg trusts certificates of any authority",
        (
            Edit(
                "python/eventsource/dsn/tls.py",
                '    made.verify_mode = ssl.CERT_REQUIRED if tls.mode.startswith("verify") else'
                " ssl.CERT_NONE\n",
                "    made.verify_mode = ssl.CERT_NONE\n",
            ),
            Edit(
                "python/eventsource/dsn/tls.py",
                '    made.check_hostname = tls.mode == "verify-full"\n',
                "    made.check_hostname = False\n",
            ),
        ),
        (
            "tests/integration/dataplane/test_tls.py"
            "::test_a_certificate_that_is_not_right_is_refused",
        ),
    ),
    Variant(
        "position-instead-of-transaction",
        "a pass takes what lies behind the last position that the snapshot before it showed",
        (
            Edit(
                _SOURCE,
                "&format!(\"transaction_id >= '{}'::xid8\", previous.xmax),",
                '&format!("global_position > (select coalesce(max(global_position), 0)'
                " from {} where tenant_id = '{}' and {})\", self.table, self.tenant_id,"
                " visible_in(previous)),",
            ),
            Edit(_SOURCE, "if waiting.is_empty() {", "if waiting.len() < usize::MAX {"),
        ),
        (f"{_TESTS}::test_transactions_in_flight_at_a_snapshot_belong_to_the_next_pass",),
    ),
    Variant(
        "last-chunk-forgotten",
        "a pass is complete although a stop came before its last chunk was written",
        (
            Edit(
                f"{_CORE}/pass/pipeline.rs",
                "reader.join().await? && !unwritten",
                "reader.join().await?",
            ),
        ),
        (f"{_INTERRUPTED}::test_a_chunk_that_was_read_when_the_stop_came_is_not_lost",),
    ),
    Variant(
        "straight-and-not-proven",
        "a chunk that goes straight into the table is not compared",
        (
            Edit(
                f"{_CORE}/pass/straight.rs",
                "Ok(found.wrong(chunk).is_empty())",
                "Ok(found.wrong(chunk).len() <= chunk.rows())",
            ),
        ),
        (f"{_STRAIGHT}::test_a_row_that_the_target_changes_on_its_way_in_is_not_committed",),
    ),
    Variant(
        "straight-in-a-circle",
        "a chunk waits without end for a mirror that waits for the chunk after it",
        (
            Edit(
                f"{_CORE}/pass/straight.rs",
                "\"begin; set local lock_timeout = '100ms'\"",
                '"begin; set local lock_timeout = 0"',
            ),
        ),
        (f"{_STRAIGHT}::test_a_mirror_that_writes_meanwhile_is_waited_for",),
    ),
    Variant(
        "straight-held-open",
        "each connection that a large transaction took keeps its pass waiting for five seconds",
        (Edit(f"{_CORE}/pass/straight.rs", "        drop(client);\n", ""),),
        (f"{_STRAIGHT}::test_its_connections_end_when_they_are_closed",),
    ),
    Variant(
        "straight-past-the-stage",
        "a chunk is committed before the one that was left to the stage",
        (
            Edit(
                f"{_CORE}/pass/later.rs",
                "        if ready && self.refused.is_empty() {\n",
                "        if ready {\n",
            ),
        ),
        (
            f"{_STRAIGHT}::"
            "test_a_chunk_of_which_the_mirror_has_put_something_there_goes_through_the_stage",
        ),
    ),
    Variant(
        "connections-opened-under-the-fence",
        "the last pass logs in while writers wait",
        (
            Edit(
                f"{_CORE}/pass/pipeline.rs",
                "            Some(_) if lane.is_some() => run.config.jobs - 1,\n",
                "            _ if lane.is_some() => run.config.jobs - 1,\n",
            ),
        ),
        (f"{_STRAIGHT}::test_the_last_pass_opens_no_connection",),
    ),
    Variant(
        "in-flight-forgotten",
        "a pass leaves out what was in flight at the snapshot before it",
        (Edit(_SOURCE, "if waiting.is_empty() {", "if waiting.len() < usize::MAX {"),),
        (f"{_TESTS}::test_transactions_in_flight_at_a_snapshot_belong_to_the_next_pass",),
    ),
    Variant(
        "pass-without-an-upper-end",
        "a pass takes rows that its own snapshot does not show",
        (
            Edit(
                _SOURCE,
                "    match upper {\n        Some(upper) => format!(",
                "    match upper.filter(|_| false) {\n        Some(upper) => format!(",
            ),
        ),
        (f"{_TESTS}::test_a_later_pass_leaves_what_its_snapshot_does_not_show",),
    ),
    Variant(
        "old-rows-forgotten",
        "rows older than the transaction_id column are not copied",
        (Edit(_SOURCE, " and (transaction_id is null or {})", " and ({})"),),
        (f"{_TESTS}::test_rows_from_before_the_transaction_id_are_carried",),
    ),
    Variant(
        "checkpoint-in-its-own-transaction",
        "the rows commit before the progress row that describes them",
        (
            Edit(
                f"{_CORE}/pass/direct.rs",
                "        let client = self.target.client();\n        let totals = run\n",
                "        let client = self.target.client();\n"
                '        self.target.batch("commit").await?;\n        let totals = run\n',
            ),
        ),
        (_LOST,),
    ),
    Variant(
        "no-owner-compare-and-set",
        "a driver that lost the migration commits its chunk",
        (
            Edit(
                _PROGRESS,
                "where migration_id = $1 and owner = $2 and pass_number = $3 \\\n      and last",
                "where migration_id = $1 and $2::uuid is not null and pass_number = $3 \\\n"
                "      and last",
            ),
        ),
        (_LOST,),
    ),
    Variant(
        "no-cursor-compare-and-set",
        "two drivers with one token both commit",
        (
            Edit(
                _PROGRESS,
                "is not distinct from $4::text::xid8 and last_position = $10",
                "is not distinct from $4::text::xid8 and $10::bigint is not null",
            ),
        ),
        (f"{_INTERRUPTED}::test_two_drivers_with_the_same_token_do_not_both_commit",),
    ),
    Variant(
        "no-lease-compare",
        "a chunk is mapped whoever has the lease",
        (
            Edit(
                f"{_CORE}/pass/positions.rs",
                "where id = $1 and driver_owner = $2 for share",
                "where id = $1 and $2::uuid is not null for share",
            ),
        ),
        (_LOST,),
    ),
    Variant(
        "snapshot-not-compared",
        "a pass runs with another snapshot than the one that is stored",
        (
            Edit(
                _PROGRESS,
                "if stored.snapshots != [&spec.previous_snapshot, &spec.snapshot].map(text) {",
                "if stored.snapshots.len() > 2 {",
            ),
        ),
        (f"{_INTERRUPTED}::test_a_pass_that_the_progress_row_does_not_know_is_refused",),
    ),
    Variant(
        "lower-end-one-too-high",
        "a pass leaves out the first transaction behind the snapshot before it",
        (
            Edit(
                _SOURCE,
                "&format!(\"transaction_id >= '{}'::xid8\", previous.xmax),",
                "&format!(\"transaction_id > '{}'::xid8\", previous.xmax),",
            ),
        ),
        (
            f"{_TESTS}::test_mirrored_rows_are_recognised",
            f"{_TESTS}::test_transactions_in_flight_at_a_snapshot_belong_to_the_next_pass",
        ),
    ),
    Variant(
        "cursor-one-too-high",
        "a row between two chunks is left out",
        (
            Edit(
                _SOURCE,
                "('{tenant}', {after}) and tenant_id <=",
                "('{tenant}', {after} + 1) and tenant_id <=",
            ),
        ),
        (_CARRIES,),
    ),
    Variant(
        "mapping-of-a-crash-kept",
        "mapping rows whose events were never written stay",
        (
            Edit(
                f"{_CORE}/pass/pipeline.rs",
                "            self.positions.forget_after(totals.cursor.position).await?;\n",
                "",
            ),
        ),
        (f"{_INTERRUPTED}::test_mapping_rows_without_events_are_removed_at_the_next_start",),
    ),
    Variant(
        "data-plane-session-keeps-its-settings",
        "the next user of a kept session plans as the last one did",
        (Edit(f"{_CORE}/server/kept.rs", '    reset role; \\\n    reset all"', '    reset role"'),),
        (f"{_KEPT}::test_a_kept_session_has_no_setting_of_its_last_user",),
    ),
    Variant(
        "data-plane-session-keeps-its-marks",
        "a kept session is taken for one of a driver that still works",
        (
            Edit(
                f"{_CORE}/server/kept.rs",
                "    select pg_catalog.pg_advisory_unlock_all(); \\\n",
                "",
            ),
        ),
        (f"{_KEPT}::test_a_kept_session_has_nothing_of_its_last_user_and_serves_the_next",),
    ),
    Variant(
        "frozen-driver-keeps-its-locks",
        "the next driver waits for the open transaction of one that hangs",
        (
            Edit(
                f"{_CORE}/pass/pipeline.rs",
                "        if !config.is_first && progress.is_ours(",
                "        if false && progress.is_ours(",
            ),
        ),
        (f"{_INTERRUPTED}::test_a_driver_that_hangs_does_not_hold_up_the_next_one",),
    ),
    Variant(
        "mapping-one-off",
        "the mapping names the position next to the event's",
        (
            Edit(
                f"{_CORE}/pass/positions.rs",
                "rows.put_i64(key.position + self.offset);",
                "rows.put_i64(key.position + self.offset + 1);",
            ),
        ),
        (_CARRIES,),
    ),
    Variant(
        "block-left",
        "positions beyond the reserved block are written",
        (Edit(_CHUNK, "        if needed > last {\n", "        if needed > last && last < 0 {\n"),),
        (f"{_TESTS}::test_the_reserved_block_of_positions_is_not_left",),
    ),
    Variant(
        "dropped-rows-not-counted",
        "nobody counts what the target's COPY took",
        (
            Edit(
                f"{_CORE}/pass/direct.rs",
                "if taken != chunk.rows() as u64 {",
                "if taken > chunk.rows() as u64 {",
            ),
        ),
        (f"{_TESTS}::test_a_trigger_that_drops_rows_is_noticed",),
    ),
    Variant(
        "row-security-on",
        "policies of the table filter copy and proof alike",
        (
            Edit(
                f"{_CORE}/server/connect.rs", "set row_security = off; ", "set row_security = on; "
            ),
        ),
        (
            "tests/integration/dataplane/test_verify.py::"
            "test_row_security_is_an_error_and_not_a_filter",
        ),
    ),
    Variant(
        "standby-is-read",
        "a standby is read, whose snapshots call running transactions finished",
        (
            Edit(
                _SOURCE,
                '"select pg_catalog.pg_is_in_recovery()"',
                '"select pg_catalog.pg_is_in_recovery() and false"',
            ),
        ),
        (f"{_TESTS}::test_a_standby_is_not_read",),
    ),
    Variant(
        "password-in-a-dsn-error",
        "the message about a bad DSN quotes it",
        (
            Edit(
                f"{_CORE}/server/dsn.rs",
                ".map_err(|error| DsnError::Invalid(crate::error::chain(&error)))?;",
                '.map_err(|error| DsnError::Invalid(format!("{uri}: {error}")))?;',
            ),
        ),
        (
            "tests/integration/dataplane/test_connect.py::test_failures_to_connect_say_why",
            f"{CARGO}server::dsn::tests::no_message_shows_the_password",
        ),
    ),
)
