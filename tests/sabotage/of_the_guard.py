"""The guard: what every writer of the tenant meets."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_SQL = "python/eventsource/stores/sql/guard.sql"
_PYTHON = "python/eventsource/migration/tables/guard.py"
_TESTS = "tests/integration/guard/test_guard.py"
_INSTALLATION = "tests/integration/guard/test_installation.py"
_PASSES = "tests/integration/guard/test_let_through.py"
_ARRIVALS = "tests/integration/guard/test_arrivals.py"

_WAIT = "        perform pg_advisory_xact_lock_shared(1163281235, lock);\n"
_LOCK = (
    "    if not pg_try_advisory_xact_lock_shared(1163281235, lock) then\n"
    "        perform set_config('lock_timeout', patience, true);\n"
    f"{_WAIT}    end if;\n"
)
_CHECK = """\
            into fence from {schema}.eventsource_fences f
            where f.lock_id = lock
"""

VARIANTS = (
    Variant(
        "guard-in-one-statement",
        "the guard locks and checks in one statement, with the snapshot from before its wait",
        (
            Edit(_SQL, _LOCK, ""),
            Edit(
                _SQL,
                _CHECK,
                """\
            into fence
            from pg_advisory_xact_lock_shared(1163281235, lock), {schema}.eventsource_fences f
            where f.lock_id = lock
""",
            ),
        ),
        (f"{_TESTS}::test_a_writer_that_waited_sees_what_was_decided_meanwhile",),
    ),
    Variant(
        "guard-stable",
        "the guard's function is STABLE and keeps the snapshot of the writer's statement",
        (Edit(_SQL, "plpgsql volatile security definer", "plpgsql stable security definer"),),
        (f"{_TESTS}::test_a_writer_that_waited_sees_what_was_decided_meanwhile",),
    ),
    Variant(
        "guard-without-lock",
        "the guard reads the fence without the shared lock",
        (Edit(_SQL, _LOCK, ""),),
        (
            f"{_TESTS}::test_a_writer_in_flight_keeps_the_lock_from_the_cutover",
            f"{_TESTS}::test_a_writer_that_waited_sees_what_was_decided_meanwhile",
        ),
    ),
    Variant(
        "guard-goes-on-without-the-lock",
        "a writer that does not get the lock at once looks at the fence without it",
        (Edit(_SQL, _WAIT, ""),),
        (
            f"{_TESTS}::test_a_writer_that_waited_sees_what_was_decided_meanwhile",
            f"{_TESTS}::test_a_writer_does_not_overtake_a_cutover_that_waits",
        ),
    ),
    Variant(
        "guard-without-patience",
        "a writer waits at the fence for as long as its holder likes",
        (
            Edit(_SQL, "        perform set_config('lock_timeout', patience, true);\n", ""),
            Edit(_SQL, "set lock_timeout = '10s'\n", "set lock_timeout = 0\n"),
        ),
        (f"{_TESTS}::test_an_append_that_waited_too_long_is_told_that_writes_are_paused",),
    ),
    Variant(
        "guard-with-the-rights-of-the-writer",
        "a role that may only insert cannot read the fence",
        (
            Edit(_SQL, "plpgsql volatile security definer", "plpgsql volatile"),
            # Either of them is enough: what the triggers call runs with their rights.
            Edit(
                _SQL,
                "returns trigger language plpgsql security definer'",
                "returns trigger language plpgsql'",
            ),
        ),
        (f"{_TESTS}::test_a_role_that_may_only_insert_meets_the_guard",),
    ),
    Variant(
        "guard-without-for-share",
        "a frozen snapshot reads the fence without FOR SHARE and sees the old one for ever",
        (
            Edit(
                _SQL,
                "where fence_id = guarded for share;",
                "where fence_id = guarded;",
            ),
        ),
        (
            f"{_TESTS}::test_a_snapshot_older_than_the_decision_is_refused",
            f"{_TESTS}::test_a_frozen_snapshot_that_waits_out_the_decision_is_refused",
        ),
    ),
    Variant(
        "pass-of-any-tenant",
        "a transaction that was let through for one tenant is for all",
        (Edit(_SQL, "(lock::pg_catalog.int8 operator", "(0::pg_catalog.int8 operator"),),
        (f"{_PASSES}::test_the_pass_of_one_tenant_is_not_that_of_another",),
    ),
    Variant(
        "pass-of-any-transaction",
        "what one transaction was let through by lets the next one through after the decision",
        (Edit(_SQL, "pg_catalog.pg_current_xact_id()::pg_catalog.text", "'0'"),),
        (f"{_PASSES}::test_the_pass_of_one_transaction_is_not_that_of_another",),
    ),
    Variant(
        "pass-of-any-change",
        "who was let through for an append may change events, too",
        (Edit(_SQL, "passed := tg_op operator(pg_catalog.=) 'INSERT'", "passed := true"),),
        (f"{_PASSES}::test_a_pass_is_one_for_appends_alone",),
    ),
    Variant(
        "pass-under-a-frozen-snapshot",
        "a frozen snapshot is let through without the row's lock",
        (Edit(_SQL, "        if not frozen then\n", "        if true then\n"),),
        (f"{_PASSES}::test_under_a_frozen_snapshot_nothing_is_remembered",),
    ),
    Variant(
        "pass-without-a-secret",
        "a pass is made where there is no secret to make it with",
        (Edit(_SQL, "        end)::pg_catalog.text\n", "        else 0 end)::pg_catalog.text\n"),),
        (f"{_PASSES}::test_without_the_secret_every_row_looks",),
    ),
    Variant(
        "pass-of-a-way-back-that-is-closed",
        "nobody who closes a way back waits for a pass that was let through and writes on",
        (
            Edit(
                _SQL,
                "caller, c.relowner, 'usage')\n            for share of w;",
                "caller, c.relowner, 'usage');",
            ),
        ),
        (f"{_PASSES}::test_who_closes_a_way_back_waits_for_a_pass_that_looks_no_more",),
    ),
    Variant(
        "pass-of-a-lock-that-is-gone",
        "a transaction remembers what a savepoint that was rolled back had been let through by",
        (
            Edit(
                _SQL,
                "pg_catalog.current_setting('eventsource.passed', true) operator(pg_catalog.<>) ''",
                "pg_catalog.pg_current_xact_id_if_assigned() is not null",
            ),
            Edit(
                _SQL,
                "pg_catalog.current_setting('eventsource.passed', true)\n"
                "                        operator(pg_catalog.=) %1$I.eventsource_guard_pass(seat)",
                "pg_catalog.pg_sequence_last_value('public.eventsource_fence_secret'::"
                "pg_catalog.regclass) operator(pg_catalog.>) 0",
            ),
        ),
        (
            f"{_PASSES}::test_a_savepoint_that_is_rolled_back_takes_lock_and_memory_along",
            f"{_PASSES}::test_an_error_that_is_caught_takes_lock_and_memory_along",
        ),
    ),
    Variant(
        "guard-not-always",
        "a session with session_replication_role = replica walks past the triggers",
        (
            Edit(
                _SQL,
                "enable always trigger %I',\n                                         home",
                "enable trigger %I',\n                                         home",
            ),
        ),
        (
            f"{_TESTS}::test_a_replica_role_session_meets_the_guard",
            f"{_INSTALLATION}::test_the_triggers_fire_always_and_after_those_of_the_application",
        ),
    ),
    Variant(
        "guard-on-insert-only",
        "rows that become the tenant's by an UPDATE are not guarded",
        (Edit(_SQL, "_write before insert or update'", "_write before insert'"),),
        (f"{_TESTS}::test_a_foreign_row_cannot_be_made_the_tenants",),
    ),
    Variant(
        "guard-lets-changes-through",
        "events of the tenant may be updated and given away while they are copied",
        (
            Edit(_SQL, "_write before insert or update'", "_write before insert'"),
            Edit(_SQL, "_change before update or delete'", "_change before delete'"),
        ),
        (f"{_TESTS}::test_the_tenant_appends_while_its_fence_is_open_but_changes_nothing",),
    ),
    Variant(
        "guard-sorts-first",
        "a trigger of the application may still change the tenant behind the guard",
        (
            Edit(
                _SQL,
                "create or replace trigger zzz_eventsource_guard_write",
                "create or replace trigger aaa_eventsource_guard_write",
            ),
            Edit(
                _SQL,
                "home, event, 'zzz_eventsource_guard_' || kind);\n        end loop;\n    end if;",
                "home, event, case kind when 'write' then 'aaa' else 'zzz' end"
                " || '_eventsource_guard_' || kind);\n        end loop;\n    end if;",
            ),
        ),
        (
            f"{_INSTALLATION}::test_the_triggers_fire_always_and_after_those_of_the_application",
            f"{_TESTS}::test_a_row_that_another_trigger_gives_to_the_tenant_is_guarded",
        ),
    ),
    Variant(
        "guard-forgets-who-left",
        "a tenant that has left is no longer guarded when another one leaves",
        (
            Edit(
                "python/eventsource/stores/sql/fences.sql",
                "    where f.role = 'source' or f.state = 'standby' and f.generation <> -1\n",
                "    where f.role = 'source' and f.state = 'open'\n",
            ),
        ),
        (f"{_INSTALLATION}::test_a_tenant_that_has_left_stays_guarded_whoever_comes_and_goes",),
    ),
    Variant(
        "guard-made-without-the-lock",
        "of two tenants that begin at once one is not guarded, or does not begin",
        (
            Edit(
                _SQL,
                "    execute format('lock table %I.%I in share row exclusive mode',"
                " home, event);\n",
                "",
            ),
        ),
        (f"{_INSTALLATION}::test_two_tenants_that_begin_at_once_are_both_guarded",),
    ),
    Variant(
        "guard-of-a-fence-that-goes",
        "a tenant whose migration was aborted meets a guard without a fence",
        (
            Edit(
                _SQL,
                "where table_name = event for key share;",
                "where table_name = event;",
            ),
        ),
        (
            f"{_INSTALLATION}::test_an_abort_takes_along_a_guard_that_another_migration_makes_meanwhile",
        ),
    ),
    Variant(
        "writer-chooses-transaction-id",
        "a writer can place its event before a snapshot that never showed it",
        (
            Edit(
                _SQL,
                "'new.transaction_id := pg_catalog.pg_current_xact_id();'",
                "''",
            ),
        ),
        (f"{_TESTS}::test_no_writer_chooses_its_transaction_id",),
    ),
    Variant(
        "target-not-closed",
        "applications may write at the target before the flip",
        (
            Edit(
                "python/eventsource/migration/tables/fences.py",
                'state = "open" if role == "source" else "closed"',
                'state = "open"',
            ),
        ),
        (f"{_TESTS}::test_the_target_is_closed_to_applications_and_open_to_the_migrator",),
    ),
    Variant(
        "target-closed-to-inserts-only",
        "another tenant's row at the target can be made the arriving tenant's",
        (Edit(_PYTHON, '"write": "after insert or update on', '"write": "after insert on'),),
        (f"{_TESTS}::test_the_target_is_closed_to_applications_and_open_to_the_migrator",),
    ),
    Variant(
        "copy-row-by-row",
        "the target's guard makes the server write the rows of a copy one by one",
        (Edit(_PYTHON, '"write": "after insert or update', '"write": "before insert or update'),),
        (f"{_TESTS}::test_the_rows_of_a_copy_into_the_target_are_written_page_by_page",),
    ),
    Variant(
        "missing-fence-is-open",
        "a guard whose row is gone lets writers through",
        (
            Edit(
                _SQL,
                """\
            raise exception 'fence % is missing', guarded
                using errcode = 'EVF02', hint = 'Abort the migration of this tenant.';
""",
                "            return;\n",
            ),
        ),
        (f"{_TESTS}::test_without_its_fence_row_the_guard_lets_nobody_through",),
    ),
    Variant(
        "triggers-wait-without-limit",
        "CREATE TRIGGER queues every tenant's writers behind a long transaction",
        (
            Edit(
                "python/eventsource/migration/tables/brief_locks.py",
                "set local lock_timeout = {lock_timeout_ms}",
                "set local lock_timeout = 0",
            ),
        ),
        (
            f"{_INSTALLATION}::test_writers_hardly_wait_for_an_installation_that_waits_for_a_transaction",
        ),
    ),
    Variant(
        "triggers-before-the-row",
        "the fence row is not committed when its triggers appear",
        (
            Edit(
                "python/eventsource/migration/steps/preparation.py",
                "    opened = await fences.raise_fence(\n        source,",
                "    await source.connection.execute('begin')\n"
                "    opened = await fences.raise_fence(\n        source,",
            ),
            Edit(
                "python/eventsource/migration/steps/preparation.py",
                "    at = await progress.claim(target, migration.id, owner)\n",
                "    await source.connection.execute('commit')\n"
                "    at = await progress.claim(target, migration.id, owner)\n",
            ),
        ),
        (f"{_INSTALLATION}::test_the_fence_row_is_committed_before_its_triggers_exist",),
    ),
    Variant(
        "arrived-but-guarded",
        "the triggers of a tenant that has arrived stay at the target",
        (
            Edit(
                _PYTHON,
                "    deadline = time.monotonic() + seconds\n",
                "    return\n    deadline = time.monotonic() + seconds\n",
            ),
        ),
        (f"{_ARRIVALS}::test_a_tenant_that_has_arrived_has_no_triggers",),
    ),
    Variant(
        "unguarded-before-the-arrival",
        "one tenant's cutover takes along the triggers of another that is still arriving",
        (
            Edit(
                _PYTHON,
                "                       and f.state <> 'open' and starts_with",
                "                       and false and starts_with",
            ),
        ),
        (f"{_ARRIVALS}::test_one_that_is_still_arriving_keeps_its_own",),
    ),
    Variant(
        "tidying-waits",
        "dropping the triggers of a tenant that has arrived makes everybody wait behind a query",
        (
            Edit(
                _PYTHON,
                "lock_timeout_ms=TIDY_LOCK_TIMEOUT_MS",
                "lock_timeout_ms=1000",
            ),
        ),
        (
            f"{_ARRIVALS}::"
            "test_a_long_query_at_the_target_holds_up_neither_the_cutover_nor_anybody_else",
        ),
    ),
)
