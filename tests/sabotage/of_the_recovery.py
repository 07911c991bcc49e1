"""After a restore: what the stores say, and what may follow from it."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_SQL = "python/eventsource/stores/sql"
_M = "python/eventsource/migration"
_ROWS = "tests/integration/guard/test_fence_rows.py"
_RECONCILE = "tests/integration/recovery/test_reconcile.py"
_REPAIR = "tests/integration/recovery/test_repair.py"
_PLACES = "tests/integration/recovery/test_places.py"
_JUDGED = "tests/unit/test_judgement.py"
_CHANGED = "tests/integration/routing/test_changed_servers.py"

VARIANTS = (
    Variant(
        "any-fence-is-in-force",
        "the guard obeys whichever fence of the tenant comes first",
        (
            Edit(
                f"{_SQL}/guard.sql",
                "        order by f.generation desc,\n",
                "        order by f.fence_id,\n",
            ),
        ),
        (f"{_ROWS}::test_the_guard_obeys_the_fence_of_the_highest_generation",),
    ),
    Variant(
        "arrivals-taken-for-departures",
        "a tenant that has come back is guarded as if it had left",
        (
            Edit(
                f"{_SQL}/fences.sql",
                "          order by tenant_id, (generation = -1",
                "          order by tenant_id, role, (generation = -1",
            ),
        ),
        (f"{_ROWS}::test_the_guard_obeys_the_fence_of_the_highest_generation",),
    ),
    Variant(
        "frozen-snapshot-sees-the-arrival",
        "a snapshot from before a tenant began to leave again shows the fence of its arrival",
        (
            Edit(
                f"{_SQL}/guard.sql",
                "            where fence_id = guarded for share;",
                "            where lock_id = lock for share;",
            ),
        ),
        (f"{_ROWS}::test_a_snapshot_from_before_the_newest_fence_is_refused",),
    ),
    Variant(
        "a-lock-for-each-fence",
        "two migrations of a tenant do not meet at one lock",
        (
            Edit(
                f"{_M}/tables/fences.py",
                "coalesce((select min(lock_id) from others), id)",
                "id",
            ),
        ),
        (f"{_ROWS}::test_a_tenant_that_leaves_again_is_guarded_by_its_newest_fence",),
    ),
    Variant(
        "fence-raised-over-another",
        "a migration begins over the fence of one that is not over",
        (
            Edit(
                f"{_M}/tables/fences.py",
                "where not exists (select from in_force where generation > $5",
                "where not exists (select from in_force where false and generation > $5",
            ),
        ),
        (f"{_ROWS}::test_a_fence_is_raised_only_over_what_is_over",),
    ),
    Variant(
        "two-departures",
        "two migrations may have a tenant leave at once",
        (
            Edit(
                f"{_SQL}/fences.sql",
                "create unique index if not exists eventsource_fences_departing",
                "create index if not exists eventsource_fences_departing",
            ),
        ),
        (f"{_ROWS}::test_only_one_departure_is_open",),
    ),
    Variant(
        "earlier-stay-forgotten",
        "the upgrade of a fence that had held two stays keeps only the later one",
        (
            Edit(
                f"{_SQL}/fences.sql",
                "        where role = 'target' and state in ('closed', 'aborting')"
                " and moved_to is not null;",
                "        where false;",
            ),
        ),
        ("tests/integration/stores/test_schema.py::test_fences_of_an_earlier_stay_are_kept_apart",),
    ),
    Variant(
        "departed-not-guarded-after-an-abort",
        "after an aborted return the store lets the tenant's writers in",
        (
            Edit(
                f"{_M}/tables/guard.py",
                "        if had_left or await _has_any(table, shared):\n            await renew",
                "        if False:\n            await renew",
            ),
        ),
        (f"{_ROWS}::test_an_aborted_return_changes_no_row_but_its_own",),
    ),
    Variant(
        "lost-events-are-not-kept",
        "what only the target holds goes without a copy",
        (
            Edit(
                f"{_M}/recovery/reconcile.py",
                "    await rescue.keep(target, migration.id,"
                " [event.event_id for event in events])\n",
                "",
            ),
        ),
        (f"{_RECONCILE}::test_what_only_the_target_holds_is_kept_and_the_passes_go_on",),
    ),
    Variant(
        "reconciled-past-the-source",
        "the passes go on from now, and never carry what the target lacks",
        (
            Edit(
                f"{_M}/recovery/reconcile.py",
                "    if found.lowest is not None:\n",
                "    if False:\n",
            ),
        ),
        (f"{_RECONCILE}::test_what_only_the_target_holds_is_kept_and_the_passes_go_on",),
    ),
    Variant(
        "one-of-two-events-is-chosen",
        "of two events of one version a repair drops the one of the target",
        (
            Edit(
                f"{_M}/recovery/reconcile.py",
                "    await _refuse_conflicts(connections, migration, events)\n",
                "",
            ),
        ),
        (f"{_RECONCILE}::test_an_event_whose_place_is_taken_is_nobodys_to_guess",),
    ),
    Variant(
        "put-back-out-of-order",
        "an event is put back into a stream that has gone on",
        (
            Edit(
                f"{_M}/recovery/stranded.py",
                '        if row["version"] <= head[stream]:\n',
                "        if False:\n",
            ),
        ),
        (f"{_RECONCILE}::test_an_event_whose_place_is_taken_is_nobodys_to_guess",),
    ),
    Variant(
        "content-is-not-compared",
        "a row that differs stays as it is at the target",
        (
            Edit(
                f"{_M}/recovery/reconcile.py",
                '            if (row["event_id"], row["digest"],'
                ' row["global_position"] - at.position_offset)\n            not in known\n',
                '            if row["event_id"] not in {each[0] for each in known}\n',
            ),
        ),
        (f"{_RECONCILE}::test_a_row_that_differs_is_carried_again",),
    ),
    Variant(
        "repair-beside-a-driver",
        "a repair changes what a driver has in hand",
        (
            Edit(
                f"{_M}/recovery/repair.py",
                "        if at_work and found.steps:\n",
                "        if False:\n",
            ),
        ),
        (f"{_REPAIR}::test_no_route_is_repaired_while_a_driver_is_at_work",),
    ),
    Variant(
        "mapping-is-believed",
        "a mapping that the control database has lost a part of is taken for whole",
        (
            Edit(
                f"{_M}/steps/mapping.py",
                "    if held == mapped:\n",
                "    if held == mapped or mapped > 0:\n",
            ),
            Edit(
                f"{_M}/recovery/repair.py",
                "        if step.state is not _S.MIGRATED or at is None or head is None:\n",
                "        if True:\n",
            ),
        ),
        (f"{_REPAIR}::test_a_journal_of_an_earlier_time_follows_the_decision",),
    ),
    Variant(
        "route-below-the-routers",
        "a route is put back to a generation that routers have passed",
        (
            Edit(
                f"{_M}/recovery/judgement.py",
                "        generation, made_by = route.generation + 1, None\n",
                "        made_by = None\n",
            ),
        ),
        (f"{_JUDGED}::test_a_route_is_never_put_back_below_what_routers_have_seen",),
    ),
    Variant(
        "forgetful-source-is-believed",
        "a source that has gone back to before the move goes on taking writes",
        (
            Edit(
                f"{_M}/recovery/decisions.py",
                "        if (store_id == decided.source and not knows) or takes:\n",
                "        if False:\n",
            ),
        ),
        (
            f"{_JUDGED}::test_a_source_that_has_gone_back_is_sent_on",
            f"{_REPAIR}::test_a_source_that_has_forgotten_the_move_sends_writers_on_again",
        ),
    ),
    Variant(
        "fence-newer-than-the-route",
        "a move begins from a route that is older than the fences",
        (
            Edit(
                f"{_M}/preflight/admission.py",
                "    if fence is not None and fence.generation > generation:\n",
                "    if False:\n",
            ),
        ),
        (f"{_REPAIR}::test_a_fence_that_is_newer_than_the_route_refuses_a_start",),
    ),
    Variant(
        "dump-taken-for-the-same-place",
        "rows that came in a dump are taken for those of the place where the migration began",
        (
            Edit(
                f"{_M}/tables/witnesses.py",
                '            f" and pass_number = {AT_TARGET} and {_OF_THIS_HISTORY})",',
                '            f" and pass_number = {AT_TARGET})",',
            ),
        ),
        (f"{_PLACES}::test_a_dump_that_was_restored_has_to_be_bound",),
    ),
    Variant(
        "bound-under-the-old-seal",
        "a target that was bound is believed as far as its seal reaches",
        (
            Edit(
                f"{_M}/recovery/rebinding.py",
                "    await reconciled.unseal(target, migration.id)\n",
                "",
            ),
            Edit(
                f"{_M}/recovery/rebinding.py",
                'json.dumps({"verification_level": VerificationLevel.FULL.value})',
                '"{}"',
            ),
        ),
        (f"{_PLACES}::test_a_target_that_was_bound_is_compared_whole",),
    ),
    Variant(
        "bound-to-a-stranger",
        "a migration is bound to a place that has never seen it",
        (
            Edit(
                f"{_M}/recovery/rebinding.py",
                "    await _refuse_stranger(migration, source, target, side)\n",
                "",
            ),
        ),
        (f"{_PLACES}::test_only_a_paused_migration_is_bound_and_only_to_what_knows_it",),
    ),
    Variant(
        "without-a-target-that-answers",
        "an abort leaves out a target that is there",
        (
            Edit(
                f"{_M}/recovery/lost_target.py",
                "    if target is not None and await _is_there(migration, target):\n",
                "    if False:\n",
            ),
        ),
        (f"{_PLACES}::test_a_migration_ends_without_its_target",),
    ),
    Variant(
        "without-target-and-without-barrier",
        "a source that has gone back forgets a target that may have held more",
        (
            Edit(
                f"{_M}/recovery/lost_target.py",
                "        if await _may_lack_what_was_carried(table, migration):\n",
                "        if False:\n",
            ),
        ),
        (f"{_PLACES}::test_no_migration_ends_without_its_target_once_that_may_hold_more",),
    ),
    Variant(
        "asked-once-for-good",
        "a router never asks again whether its store has gone back",
        (
            Edit(
                f"{_M}/routing/arrival.py",
                "        return not known or time.monotonic() - at > BELIEVED_SECONDS\n",
                "        return not known\n",
            ),
        ),
        (f"{_PLACES}::test_a_router_notices_that_its_store_has_gone_back",),
    ),
    Variant(
        "peers-are-not-compared",
        "a comparison reads another database than the one that the tenant left",
        (
            Edit(
                f"{_M}/consistency/verifier.py",
                "        await identities.check_peers(source, target, fence, arriving)\n",
                "",
            ),
        ),
        (f"{_PLACES}::test_a_verifier_of_another_place_is_refused",),
    ),
    Variant(
        "a-route-to-what-is-taken-out",
        "both stores are before the decision, and the copy goes while the route leads there",
        (
            Edit(
                f"{_M}/recovery/judgement.py",
                "    if forgotten is not None:\n",
                "    if False:\n",
            ),
        ),
        (f"{_REPAIR}::test_both_stores_have_gone_back_to_before_the_decision",),
    ),
    Variant(
        "mirrored-and-lost-is-nothing",
        "a source that lacks what a mirror had carried is nothing to repair",
        (
            Edit(
                f"{_M}/steps/rescue.py",
                "    async for _ in _lost(source, target, at):\n        return True\n",
                "",
            ),
        ),
        (
            "tests/integration/recovery/test_reconcile.py::"
            "test_a_source_that_lost_only_what_a_mirror_had_carried_is_reconciled",
        ),
    ),
    Variant(
        "new-connections-are-trusted",
        "an append goes into a server that was restored while the pool connected again",
        (
            Edit(
                "python/eventsource/stores/sessions.py",
                "        return self._trusted != self._latest\n",
                "        return False\n",
            ),
        ),
        (f"{_CHANGED}::test_the_first_append_over_a_new_connection_asks_first",),
    ),
    Variant(
        "one-new-connection-speaks-for-all",
        "of several connections to a restored server only the first one asks",
        (
            Edit(
                "python/eventsource/stores/sessions.py",
                "        return self._trusted != self._latest\n",
                "        before, self._trusted = self._trusted, self._latest\n"
                "        return before != self._latest\n",
            ),
        ),
        (f"{_CHANGED}::test_many_appends_at_once_over_new_connections_all_ask",),
    ),
    Variant(
        "every-append-is-followed",
        "an append that follows no tenant fails once for each connection to a new server",
        (
            Edit(
                "python/eventsource/stores/sessions.py",
                'ContextVar("eventsource_is_followed", default=False)',
                'ContextVar("eventsource_is_followed", default=True)',
            ),
        ),
        (f"{_CHANGED}::test_an_append_that_follows_no_tenant_hears_nothing_of_it",),
    ),
)
