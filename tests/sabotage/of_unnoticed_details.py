"""More lines that could go without a test that noticed: the data plane's, and those of SQL."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_CORE = "rust/core/src"
_VERIFY = "tests/integration/dataplane/test_verify.py::test_a_"
_INTERRUPTED = "tests/integration/dataplane/test_interruptions.py::test_"

_RIGHTS = "tests/integration/routing/test_mirror_rights.py::test_"
_TIMES = "tests/integration/afterwards/test_other_tenants_and_times.py::test_"
_SQL = "python/eventsource/stores/sql"
_STATES = "tests/layouts/test_guard_states.py::test_"
_OVERTAKEN = (
    "tests/layouts/test_changes_during_a_pass.py"
    "::test_a_pass_that_is_overtaken_changes_nothing_at_the_target"
)
_JOURNALED = "python/eventsource/migration/journaled"
_BARRIERS = (
    "tests/layouts/test_changes_during_a_pass.py"
    "::test_nothing_is_committed_before_a_barrier_that_came_after_its_read"
)

VARIANTS = (
    Variant(
        "counting-without-versions",
        "a stream whose last version differs is consistent where events are counted",
        (
            Edit(
                f"{_CORE}/verify/count.rs",
                "(Some(left), Some(right)) if left == right => {",
                "(Some(left), Some(right))\n"
                "                if left.stream == right.stream && left.events == right.events =>\n"
                "            {",
            ),
        ),
        (f"{_VERIFY}last_version_is_seen_at_every_level",),
    ),
    Variant(
        "stream-type-unquoted",
        "streams of a type with an apostrophe cannot be compared once they differ",
        (
            Edit(
                f"{_CORE}/verify/recheck.rs",
                "stream.aggregate_type.replace('\\'', \"''\");",
                "stream.aggregate_type.clone();",
            ),
        ),
        (f"{_VERIFY}stream_may_be_of_a_type_with_any_name",),
    ),
    Variant(
        "stream-type-unescaped",
        "streams of a type with a backslash count as streams without events once they differ",
        (
            Edit(
                f"{_CORE}/verify/recheck.rs",
                "kind.replace('\\\\', \"\\\\\\\\\")",
                "kind",
            ),
        ),
        (f"{_VERIFY}stream_may_be_of_a_type_with_any_name",),
    ),
    Variant(
        "ends-the-owners-sessions",
        "a driver that comes back ends the sessions of the one that has taken over",
        (
            Edit(
                f"{_CORE}/pass/pipeline.rs",
                "!config.is_first && progress.is_ours(target.client(), &read_progress).await? {",
                "!config.is_first {\n            drop(progress);",
            ),
        ),
        (f"{_INTERRUPTED}a_driver_that_is_not_the_recorded_one_ends_nobodys_sessions",),
    ),
    Variant(
        "fresh-position-mapped-once",
        "the mapping says a position that an event has not got in the end",
        (
            Edit(
                f"{_CORE}/pass/positions.rs",
                'true => "update set target_position = excluded.target_position",',
                'true => "nothing",',
            ),
        ),
        (f"{_INTERRUPTED}fresh_positions_are_mapped_as_they_are_drawn_again",),
    ),
    Variant(
        "layout-portion-without-barrier",
        "a portion of a pass has what a crash of the source takes back",
        (
            Edit(
                f"{_JOURNALED}/large_pass.py",
                "    await passes.barrier()\n    async with transfer.landing():\n        if shape",
                "    async with transfer.landing():\n        if shape",
            ),
        ),
        (_BARRIERS,),
    ),
    Variant(
        "layout-parents-gone-without-barrier",
        "parents go that a crash of the source brings back",
        (
            Edit(
                f"{_JOURNALED}/large_pass.py",
                (
                    "        await passes.barrier()\n"
                    "        async with transfer.landing():\n            staged"
                ),
                "        async with transfer.landing():\n            staged",
            ),
        ),
        (_BARRIERS,),
    ),
    Variant(
        "layout-not-written-down-differs",
        "what a full journal has not written down counts as a difference",
        (
            Edit(
                f"{_JOURNALED}/comparison.py",
                "if tally.differing and await looking.is_in_the_dark():",
                "if False:",
            ),
        ),
        (
            "tests/layouts/test_journal_size.py::test_what_was_not_written_down_is_no_difference",
            "tests/layouts/test_journal_size.py"
            "::test_a_cutover_takes_what_was_not_written_down_for_no_difference",
        ),
    ),
    Variant(
        "layout-old-snapshot-refused-for-good",
        "a transaction from before the guard is told to abort the migration",
        (
            Edit(
                f"{_SQL}/journal.sql",
                "        if not found then\n            raise exception 'the tenant began",
                "        if false then\n            raise exception 'the tenant began",
            ),
        ),
        (f"{_STATES}a_snapshot_from_before_the_guard_is_sent_back",),
    ),
    Variant(
        "layout-deleted-by-anybody",
        "who sets the setting deletes the old rows of a layout, whatever the role",
        (
            Edit(
                f"{_SQL}/journal.sql",
                "pg_has_role({schema}.eventsource_caller(), c.relowner, 'usage')",
                "c.relowner is not null",
            ),
        ),
        (f"{_STATES}the_setting_alone_lets_nobody_delete_what_has_moved",),
    ),
    Variant(
        "layout-aborting-sends-elsewhere",
        "writers hear of a move while it is undone",
        (
            Edit(
                f"{_SQL}/journal.sql",
                "if fence.state in ('open', 'aborting') then",
                "if fence.state in ('open') then",
            ),
        ),
        (f"{_STATES}who_writes_while_an_abort_takes_the_guard_off_is_not_sent_elsewhere",),
    ),
    Variant(
        "layout-numbers-given-twice",
        "an abort sets a sequence back that others have drawn from",
        (
            Edit(
                f"{_JOURNALED}/undoing.py",
                '" and ($4 or pg_sequence_last_value(seqrelid) = any ($3::bigint[]))"',
                '" and (true or $4 or pg_sequence_last_value(seqrelid) = any ($3::bigint[]))"',
            ),
        ),
        (f"{_STATES}an_abort_sets_no_sequence_back_that_others_have_drawn_from",),
    ),
    Variant(
        "layout-lost-fence-is-nothing",
        "an abort leaves rows and triggers at a target whose fence somebody has removed",
        (
            Edit(
                f"{_JOURNALED}/undoing.py",
                "if closed is None and at is not None and not at.is_spoiled:",
                "if False:",
            ),
        ),
        ("tests/layouts/test_removed_by_hand.py::test_an_abort_leaves_nothing_all_the_same",),
    ),
    Variant(
        "late-triggers-fire",
        "a trigger that has come to the target since fires for what is carried",
        (
            Edit(
                "python/eventsource/migration/tables/late_triggers.py",
                "if now is not None and now != self.seen and (problems := await look()):",
                "if False and (problems := await look()):",
            ),
        ),
        ("tests/integration/passes/test_late_triggers.py::test_no_pass_carries_events_past_it",),
    ),
    Variant(
        "cutovers-wait-for-columns",
        "a cutover that its passes wait for something with is answered by nobody",
        (
            Edit(
                "python/eventsource/migration/driver/stages.py",
                "if asked is not None:\n                await cutting_over.refuse_unfit",
                "if False:\n                await cutting_over.refuse_unfit",
            ),
        ),
        ("tests/layouts/test_late_triggers.py::test_a_cutover_says_what_its_passes_wait_for",),
    ),
    Variant(
        "functions-without-their-tables",
        "functions of the guard whose owner may not read the fences any more are taken for whole",
        (
            Edit(
                "python/eventsource/migration/preflight/rights.py",
                "where not (usable and works)",
                "where not usable",
            ),
        ),
        ("tests/integration/guard/test_rotated_role.py::test_a_way_back_says_whose_the_guard_is",),
    ),
    Variant(
        "abort-again-beside-a-driver",
        "a migration that is driven is aborted as if it were over",
        (
            Edit(
                "python/eventsource/migration/repositories/sql/migrations.sql",
                "or driver_owner is null or driver_expires_at < now())\n    returning id\n"
                "), audit as (\n    insert into migration_audit_log (migration_id, event_type,"
                " details, operator)\n    select id, 'abort_requested', json_build_object("
                "'reason', $2::text)::jsonb, $3 from asked",
                "or true)\n    returning id\n"
                "), audit as (\n    insert into migration_audit_log (migration_id, event_type,"
                " details, operator)\n    select id, 'abort_requested', json_build_object("
                "'reason', $2::text)::jsonb, $3 from asked",
            ),
        ),
        (
            "tests/integration/recovery/test_abort_again.py::test_one_that_is_driven_is_left_to_its_driver",
        ),
    ),
    Variant(
        "layout-late-abort-deletes",
        "an abort that comes back deletes the rows of a later migration",
        (
            Edit(
                f"{_JOURNALED}/undoing.py",
                'f" and exists (select from {target.fences} where migration_id = $1"',
                'f" or exists (select from {target.fences} where migration_id = $1"',
            ),
        ),
        (f"{_STATES}an_abort_that_comes_back_late_deletes_nothing_of_a_later_migration",),
    ),
    Variant(
        "layout-writes-under-an-abort",
        "a pass writes rows that an abort has just deleted",
        (
            Edit(
                f"{_JOURNALED}/carriage.py",
                " and f.role = 'target' and f.state = 'closed') returning true",
                " and f.role = 'target') returning true",
            ),
        ),
        (_OVERTAKEN,),
    ),
    Variant(
        "layout-deletes-for-another-driver",
        "a driver that was taken over from deletes what its follower has carried",
        (
            Edit(
                f"{_JOURNALED}/large_pass.py",
                (
                    "                await carriage.store(\n"
                    "                    transfer.writing, passes.connections.target,"
                    " passes.migration.id,\n"
                    "                    passes.owner, passes.agreed,\n"
                    "                )  # fmt: skip\n"
                    "                await transfer.writing.execute(\n"
                    "                    statements.delete_changed"
                ),
                (
                    "                await transfer.writing.execute(\n"
                    "                    statements.delete_changed"
                ),
            ),
        ),
        (_OVERTAKEN,),
    ),
    Variant(
        "mirrors-under-an-abort",
        "the mirror writes where an abort has deleted, or where the tenant writes itself",
        (
            Edit(
                f"{_SQL}/mirror.sql",
                "and role = 'target' and state = 'closed' and mirrored",
                "and role = 'target' and mirrored",
            ),
        ),
        (f"{_RIGHTS}nothing_is_mirrored_to_a_target_that_is_not_closed",),
    ),
    Variant(
        "mirrors-other-tenants",
        "who may insert writes rows of any tenant past the guard",
        (
            Edit(
                f"{_SQL}/mirror.sql",
                "where (r ->> %7$s)::uuid = $3\n              -- What",
                "where $3 is not null\n              -- What",
            ),
        ),
        (f"{_RIGHTS}rows_of_another_tenant_are_not_mirrored",),
    ),
    Variant(
        "way-back-for-everybody",
        "a way back lets rows of other tenants through that have moved",
        (
            Edit(
                f"{_SQL}/guard.sql",
                "where w.lock_id = lock and w.role = 'target'",
                "where w.role = 'target'",
            ),
        ),
        (f"{_TIMES}a_way_back_lets_no_row_of_another_tenant_through",),
    ),
    Variant(
        "hidden-since-the-first-time",
        "readers never see what a tenant wrote between two moves away",
        (
            Edit(
                f"{_SQL}/feed.sql",
                "select f.tenant_id::uuid, max(m.source_head)",
                "select f.tenant_id::uuid, min(m.source_head)",
            ),
        ),
        (f"{_TIMES}who_left_twice_hides_nothing_of_the_time_between",),
    ),
    *(
        Variant(
            f"data-plane-as-the-role-{name}",
            f"a pass runs {what}, if the role does",
            (Edit(f"{_CORE}/server/connect.rs", f"    set {setting}; \\\n", ""),),
            (
                "tests/integration/dataplane/test_settings.py::test_a_pass_writes_with_its_own_settings",
            ),
        )
        for name, what, setting in (
            ("flushes", "without a flush at its commits", "synchronous_commit = on"),
            (
                "reads",
                "with a snapshot of its own",
                "default_transaction_isolation = 'read committed'",
            ),
            ("gives-up", "no longer than an application's statement", "statement_timeout = 0"),
            (
                "lets-go",
                "with a transaction that nobody ends",
                "idle_in_transaction_session_timeout = '30s'",
            ),
        )
    ),
)
