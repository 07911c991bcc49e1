"""Who may carry what on: newer versions, and databases that are other places than before."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_NEWER = "tests/integration/driver/test_newer_versions.py"
_ELSEWHERE = "tests/integration/recovery/test_control_elsewhere.py"
_AUTHORITY = "tests/integration/recovery/test_authority.py"
_OF_LAYOUTS = "tests/layouts/test_authority.py"
_SERVERS = "tests/integration/routing/test_changed_servers.py"
_ROWS_KEPT = "tests/layouts/test_source_gone_back.py"
_JOURNALED = "python/eventsource/migration/journaled"
_FOLLOWERS = "tests/integration/afterwards/test_followers.py"
_STAGES = "python/eventsource/migration/driver/stages.py"
_FOLLOWER = "python/eventsource/migration/driver/follower.py"
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
                "if self.knows(move) and not self.leaves(way)]",
                "if self.knows(move)]",
            ),
            Edit(_WAYS, " and protocol <= $5\n  and", " and $5::integer is not null\n  and"),
        ),
        (f"{_NEWER}::test_a_way_back_of_a_newer_version_is_neither_followed_nor_used_nor_ended",),
    ),
    Variant(
        "copy-of-the-control-unseen",
        "a copy of the control database counts as the same place",
        (
            Edit(
                "python/eventsource/migration/repositories/control_place.py",
                "    if place is None or place == migration.control_identity:\n",
                "    if place is None or place.system == migration.control_identity.system:\n",
            ),
        ),
        (f"{_ELSEWHERE}::test_a_copy_is_warned_of_until_it_is_repaired",),
    ),
    Variant(
        "source-is-not-reminded",
        "a driver that meets an open target leaves the source that takes the tenant as it is",
        (Edit(_STAGES, "if (said := await self._remind()) is not None:", "if (said := None):"),),
        (
            f"{_AUTHORITY}::test_a_driver_reminds_it_and_goes_on_to_the_end",
            f"{_AUTHORITY}::test_an_abort_finds_the_decision_and_reminds_its_source",
        ),
    ),
    Variant(
        "recovery-gives-a-tenant-back",
        "a recovery that finds no decision does not ask the target",
        (
            Edit(
                _STAGES,
                "            await fences.refuse_open(target, self.migration.tenant_id,"
                " self.migration.id)\n",
                "",
            ),
        ),
        (f"{_AUTHORITY}::test_a_driver_reminds_it_and_goes_on_to_the_end[cutover_paused]",),
    ),
    Variant(
        "way-back-into-a-store-that-takes-the-tenant",
        "a way back is followed, used and ended although its store has forgotten the departure",
        (
            Edit(_FOLLOWER, "        await self._remind(old, way, move)\n", ""),
            Edit(_FOLLOWER, "            await self._remind(connections.source, way, move)\n", ""),
        ),
        (
            f"{_AUTHORITY}::"
            "test_who_follows_a_way_back_carries_nothing_to_a_store_that_takes_the_tenant",
            f"{_AUTHORITY}::test_a_way_back_is_not_used_or_ended_before_its_store_has_left_again",
        ),
    ),
    Variant(
        "sent-away-from-home",
        "a tenant that has returned is sent away again by the move that it took back",
        (
            Edit(
                "python/eventsource/migration/steps/authority.py",
                '    if home is None or home.state != "open"',
                '    if home is None or home.state == "never"',
            ),
        ),
        (f"{_AUTHORITY}::test_who_has_come_home_is_not_sent_away_by_its_first_move",),
    ),
    Variant(
        "long-catch-up-taken-away",
        "a catch-up of a way back that takes longer than a minute is taken from a living process",
        (
            Edit(
                _FOLLOWER,
                "await self._held(way.id, owner, self._carry(passes, way, owner, stay))",
                "await self._carry(passes, way, owner, stay)",
            ),
        ),
        (f"{_FOLLOWERS}::test_a_long_catch_up_is_not_taken_away_from_a_process_that_lives",),
    ),
    Variant(
        "layout-source-is-not-reminded",
        "a source of a layout that has forgotten the decision goes on taking the tenant's rows",
        (
            Edit(
                "python/eventsource/migration/driver/stages.py",
                "        kind = kind_of(source)\n",
                "        if source.layout is not None:\n"
                "            return None\n"
                "        kind = kind_of(source)\n",
            ),
        ),
        (f"{_OF_LAYOUTS}::test_nothing_is_carried_again_to_where_the_tenant_lives",),
    ),
    Variant(
        "home-is-emptied-for-another-first-pass",
        "a first pass that begins again empties a target where the tenant lives",
        (
            Edit(
                f"{_JOURNALED}/first_pass.py",
                "\" and role = 'target' and state = 'closed')\"",
                "\" and role = 'target')\"",
            ),
        ),
        (f"{_OF_LAYOUTS}::test_nothing_is_carried_again_to_where_the_tenant_lives",),
    ),
    Variant(
        "reminded-without-the-guards",
        "a store of a layout from before the start says `moved`, and no trigger asks it",
        (
            Edit(
                f"{_JOURNALED}/authority.py",
                "    await guarded.each(guarded.renew, fence)\n",
                "",
            ),
        ),
        (f"{_OF_LAYOUTS}::test_a_repair_reminds_a_source_that_was_restored",),
    ),
    Variant(
        "reminded-without-its-offset",
        "a decision that is written again says that the positions were not moved",
        (
            Edit(
                "python/eventsource/migration/steps/authority.py",
                "            at.position_offset if at else arrived.position_offset,\n",
                "            arrived.position_offset,\n",
            ),
        ),
        (f"{_OF_LAYOUTS}::test_nothing_is_carried_again_to_where_the_tenant_lives",),
    ),
    Variant(
        "numbers-taken-for-rows",
        "what a store that had gone back wrote under a number given before is not named",
        (
            Edit(
                f"{_JOURNALED}/only_there.py",
                'return f"(select md5(mine::text) from (select {row}) mine)"',
                """return "''\"""",
            ),
        ),
        (f"{_OF_LAYOUTS}::test_a_row_is_known_by_its_number_only_where_nothing_else_says_it",),
    ),
    Variant(
        "events-taken-for-their-numbers",
        "an event of a number that another one has at the target is not named",
        (
            Edit(
                f"{_JOURNALED}/only_there.py",
                """return f"subject.{quote_identifier(event_id)}::text\"""",
                """return "''\"""",
            ),
        ),
        (f"{_OF_LAYOUTS}::test_a_row_is_known_by_its_number_only_where_nothing_else_says_it",),
    ),
    Variant(
        "lost-rows-are-not-kept",
        "of another library's tables what only the target holds goes without a copy",
        (
            Edit(
                f"{_JOURNALED}/reconciliation.py",
                "    lost = await rescue.keep_lost(source, target, migration, agreed)\n",
                "    lost: Sequence[Row] = []\n",
            ),
        ),
        (f"{_ROWS_KEPT}::test_a_repair_keeps_what_only_the_target_has_and_the_move_goes_on",),
    ),
    Variant(
        "aborted-rows-are-not-kept",
        "an abort deletes the only copy of rows of another library that the source has lost",
        (
            Edit(
                f"{_JOURNALED}/undoing.py",
                "        if gone_back and agreed is not None:\n",
                "        if False:\n",
            ),
        ),
        (f"{_ROWS_KEPT}::test_an_abort_keeps_what_only_the_target_has",),
    ),
    Variant(
        "rows-as-they-were-are-not-kept",
        "a row that was changed at a source which has lost that goes without a copy",
        (Edit(f"{_JOURNALED}/only_there.py", ", as_they_are=True\n", "\n"),),
        (f"{_ROWS_KEPT}::test_a_repair_keeps_what_only_the_target_has_and_the_move_goes_on",),
    ),
    Variant(
        "copied-over-what-was-there",
        "a copy that begins again leaves rows at the target that the source has lost",
        (
            Edit(
                f"{_JOURNALED}/reconciliation.py",
                "    await first_pass.empty_target(target, shape, target.connection, migration,"
                " owner)\n",
                "",
            ),
        ),
        (f"{_ROWS_KEPT}::test_a_repair_keeps_what_only_the_target_has_and_the_move_goes_on",),
    ),
    Variant(
        "subscriptions-trust-new-connections",
        "a subscription reads from a server that was restored while the pool connected again",
        (
            Edit(
                "python/eventsource/migration/routing/known_routes.py",
                "        return asked(store, ask, sessions)\n",
                "        return store\n",
            ),
        ),
        (f"{_SERVERS}::test_a_subscription_asks_before_it_reads_over_a_new_connection",),
    ),
    Variant(
        "subscriptions-share-what-a-router-has-seen",
        "a subscription reads over a connection over which only a router has asked",
        (
            Edit(
                "python/eventsource/migration/routing/known_routes.py",
                "        sessions = self._sessions[store_id]\n",
                "        sessions = store.appender.sessions\n",
            ),
        ),
        (f"{_SERVERS}::test_a_subscription_asks_before_it_reads_over_a_new_connection",),
    ),
    Variant(
        "subscriptions-follow-older-routes",
        "a subscription goes back to where a restored control database says that its tenant lives",
        (
            Edit(
                "python/eventsource/migration/routing/known_routes.py",
                "            if known is None or known.generation <= route.generation:\n",
                "            if True:\n",
            ),
        ),
        (
            "tests/integration/subscriptions/test_following.py::"
            "test_it_stays_where_the_tenant_lives_when_the_control_database_goes_back",
        ),
    ),
    Variant(
        "reads-trust-new-connections",
        "a read goes to a server that was restored while the pool connected again",
        (
            Edit(
                "python/eventsource/stores/asked.py",
                "if not await self._sessions.leads_elsewhere(connection):",
                "if True:",
            ),
        ),
        (f"{_SERVERS}::test_the_first_read_over_a_new_connection_asks_first",),
    ),
)
