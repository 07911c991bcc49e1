"""Other people's databases: roles, settings, names and locks that are not ours."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_SQL = "python/eventsource/stores/sql"
_GUARD = "python/eventsource/migration/tables/guard.py"
_ROLES = "tests/integration/guard/test_roles.py"
_RENAMED = "tests/integration/stores/test_renamed_tables.py"
_CHANGES = "tests/integration/stores/test_schema_changes.py"
_HIDDEN = "tests/integration/routing/test_hidden_routes.py"
_PAUSES = "tests/integration/routing/test_pauses.py"
_APPLICATION = "tests/integration/preflight/test_application_roles.py"

VARIANTS = (
    Variant(
        "check-granted-to-everybody",
        "any role asks the guard which tenant moved where",
        (
            Edit(
                f"{_SQL}/grants.sql",
                "    {schema}.eventsource_guard_check(integer, text, text),\n"
                "    {schema}.eventsource_guard_check(integer, integer, text, text),\n",
                "",
            ),
        ),
        (f"{_ROLES}::test_a_role_without_rights_learns_nothing_from_functions",),
    ),
    Variant(
        "arriving-tells-everybody",
        "any role learns which tenants arrive in a table",
        (
            Edit(
                f"{_SQL}/feed.sql",
                "has_any_column_privilege({schema}.eventsource_caller(), c.oid, 'select')",
                "has_any_column_privilege("
                "{schema}.eventsource_caller(), c.oid, 'select') is not null",
            ),
        ),
        (f"{_ROLES}::test_a_role_without_rights_learns_nothing_from_functions",),
    ),
    Variant(
        "trigger-with-the-rights-of-the-writer",
        "a role without EXECUTE on the check cannot append",
        (
            Edit(
                f"{_SQL}/guard.sql",
                "language plpgsql security definer'\n"
                "            ' set search_path = pg_catalog, pg_temp as %L'",
                "language plpgsql'\n            ' as %L'",
            ),
        ),
        (f"{_ROLES}::test_a_hardened_database_changes_nothing_for_who_may_insert",),
    ),
    Variant(
        "migrator-by-its-setting-alone",
        "whoever sets eventsource.migration writes into the closed target",
        (Edit(_GUARD, "\" and pg_has_role({owner}::oid, 'usage'))\"", '")"'),),
        (f"{_ROLES}::test_the_setting_alone_makes_nobody_a_migrator",),
    ),
    Variant(
        "eraser-by-its-setting-alone",
        "whoever sets eventsource.migration deletes what a tenant left",
        (
            Edit(
                f"{_SQL}/guard.sql",
                "and pg_has_role({schema}.eventsource_caller(), c.relowner, 'usage')) then",
                "and c.relowner is not null) then",
            ),
        ),
        (f"{_ROLES}::test_the_setting_alone_makes_nobody_a_migrator",),
    ),
    Variant(
        "no-floor-for-any-setting",
        "a session with any eventsource.migration makes the feed skip events",
        (
            Edit(
                f"{_SQL}/feed.sql",
                "        if pg_has_role({schema}.eventsource_caller(),\n"
                "                       (select relowner from pg_class"
                " where oid = tg_relid), 'usage')\n"
                "           and exists (",
                "        if exists (",
            ),
        ),
        (f"{_ROLES}::test_a_foreign_setting_skips_no_event_in_the_feed",),
    ),
    Variant(
        "no-floor-without-a-fence",
        "the owner's session announces no floor for a migration that is none",
        (
            Edit(
                f"{_SQL}/feed.sql",
                "                         and migration_id::text ="
                " current_setting('eventsource.migration', true)) then\n",
                "                        ) then\n",
            ),
        ),
        (f"{_ROLES}::test_only_a_migration_that_arrives_here_announces_no_floor",),
    ),
    Variant(
        "announcement-waits",
        "a role that holds the lock of an announcement stops every writer",
        (
            Edit(
                f"{_SQL}/feed.sql",
                "        perform pg_try_advisory_xact_lock_shared("
                "tg_relid::integer # -1152626862,\n"
                "                                                 floor::bit(32)::integer);\n",
                "        perform pg_advisory_xact_lock_shared("
                "tg_relid::integer # -1152626862, floor::bit(32)::integer);\n",
            ),
        ),
        (f"{_ROLES}::test_whoever_holds_the_lock_of_announcements_stops_no_writer",),
    ),
    Variant(
        "start-does-not-renew",
        "a guard that was lost stays lost",
        (
            Edit(
                "python/eventsource/stores/schema_setup.py",
                "        await _ensure_guard(connection, made)\n",
                "",
            ),
        ),
        (
            f"{_RENAMED}::test_every_start_makes_a_guard_again_that_was_lost",
            f"{_RENAMED}::test_a_renamed_table_takes_its_fences_along",
        ),
    ),
    Variant(
        "fences-stay-with-the-old-name",
        "the next migration makes the guard of a renamed table without those that left it",
        (
            Edit(
                f"{_SQL}/guard.sql", "    perform {schema}.eventsource_fences_follow(events);\n", ""
            ),
        ),
        (
            f"{_RENAMED}::test_without_a_start_in_between_the_next_migration_takes_them",
            f"{_RENAMED}::test_a_swap_is_refused_until_the_owner_says_which_table_is_meant",
        ),
    ),
    Variant(
        "always-is-not-looked-at",
        "ENABLE TRIGGER ALL opens the guard to replica-role sessions",
        (
            Edit(
                f"{_SQL}/bound.sql",
                "exists (select from {schema}.eventsource_guard_weakened(events))",
                "false",
            ),
            Edit(f"{_SQL}/bound.sql", "t.tgenabled = 'A' and t.tgqual", "t.tgqual"),
        ),
        (f"{_RENAMED}::test_every_start_makes_a_guard_again_that_was_lost",),
    ),
    Variant(
        "hidden-route-is-none",
        "a route that row-level security hides is taken for the default store",
        (
            Edit(
                "python/eventsource/migration/repositories/routing.py",
                '            rows[0]["active"]\n',
                "            False\n",
            ),
        ),
        (f"{_HIDDEN}::test_a_route_that_may_be_hidden_is_an_error",),
    ),
    Variant(
        "guard-of-hidden-fences",
        "a guard is made again without the fences that are hidden",
        (
            Edit(
                f"{_SQL}/guard.sql",
                "set row_security = off\nas $renew$",
                "as $renew$",
            ),
            Edit(
                f"{_SQL}/bound.sql",
                "set row_security = off\nas $follow$",
                "as $follow$",
            ),
            Edit(
                f"{_SQL}/fences.sql",
                "set row_security = off\nas $guarded$",
                "as $guarded$",
            ),
            Edit(
                f"{_SQL}/guard.sql",
                "set row_security = off\nas $weakened$",
                "as $weakened$",
            ),
        ),
        (f"{_HIDDEN}::test_a_guard_is_never_made_from_fences_that_are_hidden",),
    ),
    Variant(
        "control-altered-at-every-start",
        "every process that starts asks for exclusive locks on the control tables",
        (
            Edit(
                "python/eventsource/schema_changes.py",
                "                if not await _missing(connection, statements):\n"
                "                    return\n",
                "                pass\n",
            ),
            Edit(
                "python/eventsource/schema_changes.py",
                "for statement in await _missing(connection, statements):",
                "for statement in statements:",
            ),
        ),
        (
            f"{_CHANGES}::"
            "test_appends_of_all_tenants_go_on_while_forty_processes_start_beside_an_idle_reader",
        ),
    ),
    Variant(
        "upgrade-hurried-by-the-role",
        "a role's statement_timeout breaks an upgrade",
        (Edit("python/eventsource/schema_changes.py", '    "statement_timeout": "0",\n', ""),),
        (f"{_CHANGES}::test_a_roles_defaults_neither_break_nor_loop_an_upgrade",),
    ),
    Variant(
        "isolation-error-to-the-caller",
        "writers above read committed see 40001 at the cutover",
        (
            Edit(
                "python/eventsource/migration/routing/router.py",
                "            if waited > OPENING_PATIENCE:\n"
                "                raise error\n"
                "            await asyncio.sleep(random",
                "            raise error\n            await asyncio.sleep(random",
            ),
        ),
        (f"{_PAUSES}::test_no_writer_sees_an_error_whatever_the_default_isolation_is",),
    ),
    Variant(
        "paused-tenant-takes-the-pool",
        "the appends of a paused tenant take every connection of the process",
        (
            Edit(
                "python/eventsource/migration/routing/pauses.py",
                "SHARE, SHARE_OF_ALL = 0.25, 0.5",
                "SHARE, SHARE_OF_ALL = 9.0, 9.0",
            ),
        ),
        (f"{_PAUSES}::test_other_tenants_of_the_process_hardly_wait_for_paused_ones",),
    ),
    Variant(
        "application-not-asked",
        "a tenant moves to where its application may not write",
        (
            Edit(
                "python/eventsource/migration/preflight/access.py",
                "        await application_roles.check(endpoints, roles, findings)\n",
                "        return\n",
            ),
        ),
        (
            f"{_APPLICATION}::"
            "test_what_the_role_lacks_at_the_target_refuses_the_move_with_the_grant",
        ),
    ),
)
