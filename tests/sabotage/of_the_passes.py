"""Snapshots, passes and their proof, as far as they are Python."""

from __future__ import annotations

from tests.sabotage.variant import Edit, Variant

_PASSES = "python/eventsource/migration/steps/passes.py"
_PROGRESS = "python/eventsource/migration/tables/progress.py"
_BLOCK = "python/eventsource/migration/tables/reserved_block.py"
_MIRROR = "python/eventsource/stores/sql/mirror.sql"
_TESTS = "tests/integration/passes/test_passes.py"
_MIRRORED = "tests/integration/routing/test_mirror.py"

_ON_DISK = f"{_TESTS}::test_everything_a_snapshot_shows_is_on_disk_before_the_snapshot_is_used"

VARIANTS = (
    Variant(
        "no-barrier",
        "a snapshot is used before what it shows is on disk",
        (
            Edit(
                _PASSES,
                "        witness = await self._stand()\n",
                "        witness = Witness(self.at.pass_number + 1, uuid4())\n",
            ),
        ),
        (_ON_DISK,),
    ),
    Variant(
        "transaction-id-carried",
        "the target's rows have the transaction ids of another cluster",
        (
            Edit(
                "python/eventsource/catalog/two_sides.py",
                '            filled.append((column.name, "each side\'s own"))\n',
                "            carried.append(column.name)\n",
            ),
        ),
        (f"{_TESTS}::test_rows_older_than_the_transaction_id_are_carried",),
    ),
    Variant(
        "barrier-not-flushed",
        "the barrier commits without waiting for the disk",
        (
            Edit(
                "python/eventsource/migration/connections/driver_connections.py",
                "set synchronous_commit = on;",
                "set synchronous_commit = off;",
            ),
        ),
        (_ON_DISK,),
    ),
    Variant(
        "barrier-before-the-snapshot",
        "the barrier is passed before the snapshot is taken",
        (
            Edit(
                _PASSES,
                "        taken = await snapshots.take(source.connection)\n",
                "        witness = await self._stand()\n"
                "        taken = await snapshots.take(source.connection)\n",
            ),
            Edit(
                _PASSES,
                '        await failpoints.reach("snapshot.taken")\n'
                "        witness = await self._stand()\n",
                '        await failpoints.reach("snapshot.taken")\n',
            ),
        ),
        (_ON_DISK,),
    ),
    Variant(
        "fresh-snapshot-at-resume",
        "a resumed copy takes another snapshot and keeps its cursor",
        (
            Edit(
                "python/eventsource/migration/steps/bulk_copy.py",
                "        result = await self.passes.run_stored()\n",
                "        from eventsource.migration.tables import snapshots\n"
                "        connections = self.passes.connections\n"
                "        fresh = await snapshots.take(connections.source.connection)\n"
                "        await connections.target.connection.execute(\n"
                '            "update eventsource_copy_progress set snapshot = $1", fresh.text)\n'
                "        await self.passes.refresh()\n"
                "        result = await self.passes.run_stored()\n",
            ),
        ),
        (f"{_TESTS}::test_a_resumed_copy_goes_on_with_the_snapshot_it_began_with",),
    ),
    Variant(
        "pass-begun-by-anybody",
        "a driver that lost the migration begins the last pass all the same",
        (
            Edit(
                _PROGRESS,
                '        " where migration_id = $1 and owner = $2 and pass_number = $3"\n'
                '        f" and exists',
                '        " where migration_id = $1 and $2::uuid is not null"\n'
                '        " and $3::integer is not null"\n'
                '        f" and exists',
            ),
        ),
        (
            "tests/integration/passes/test_progress.py::"
            "test_a_driver_that_lost_the_migration_begins_and_completes_no_pass",
            "tests/integration/passes/test_progress.py::"
            "test_a_pass_that_another_driver_has_begun_meanwhile_is_left_alone",
        ),
    ),
    Variant(
        "tenant-at-the-target-is-taken-over",
        "rows that came to the target behind the preflight are taken for the migration's own",
        (
            Edit(
                _BLOCK,
                "        raise PreflightError([progress.already_there(migration.tenant_id,"
                " target.address.table)])\n",
                "        pass\n",
            ),
        ),
        (
            "tests/integration/preflight/test_preflight.py::"
            "test_a_tenant_that_came_to_the_target_behind_the_preflight_is_left_alone",
        ),
    ),
    Variant(
        "block-not-reserved",
        "another tenant of the target draws a position that the migration carries",
        (
            Edit(
                _BLOCK,
                '    await target.connection.fetchval("select setval($1::text::regclass, $2)",'
                " sequence, last)\n",
                "",
            ),
        ),
        (f"{_TESTS}::test_a_target_in_use_keeps_its_positions_apart",),
    ),
    Variant(
        "mirror-leaves-gaps",
        "the mirror writes an event whose predecessor is missing",
        (Edit(_MIRROR, "where w.first = 1 or exists (", "where w.first >= 1 or exists ("),),
        (f"{_MIRRORED}::test_the_mirror_leaves_a_stream_alone_whose_predecessor_is_missing",),
    ),
    Variant(
        "mirror-draws-positions",
        "the mirror forgets the offset of the carried positions",
        (
            Edit(
                _MIRROR,
                "then ' operator(pg_catalog.+) $2' else",
                "then ' operator(pg_catalog.+) $2 operator(pg_catalog.+) 1' else",
            ),
        ),
        (f"{_MIRRORED}::test_the_mirror_writes_what_was_appended_at_its_carried_position",),
    ),
    Variant(
        "mirror-outlives-its-migration",
        "the mirror goes on when its permission is gone",
        (
            Edit(
                _MIRROR,
                "    return found;\n",
                "    return true;\n",
            ),
        ),
        (
            f"{_MIRRORED}::test_the_mirror_is_bound_to_its_migration",
            "tests/integration/driver/test_aborts.py::"
            "test_what_was_mirrored_goes_with_the_abort_and_nothing_follows",
        ),
    ),
    Variant(
        "verification-looks-away",
        "the comparison before the cutover is not made",
        (
            Edit(
                "python/eventsource/migration/driver/cutting_over.py",
                "        if not asked.force:\n",
                "        if False:\n",
            ),
        ),
        (
            "tests/integration/cutover/test_cutover.py::"
            "test_a_difference_that_the_verification_finds_flips_nothing",
        ),
    ),
    Variant(
        "seal-overlooks-changes",
        "the cutover trusts the proof of the bulk copy although a row was changed since",
        (
            Edit(
                "python/eventsource/migration/consistency/seal.py",
                '_CHANGED = "age(e.xmin) <= (',
                '_CHANGED = "false and age(e.xmin) <= (',
            ),
        ),
        (
            "tests/integration/consistency/test_seal.py::test_whoever_touches_a_row_breaks_the_seal",
            "tests/integration/cutover/test_cutover.py::"
            "test_a_difference_that_the_verification_finds_flips_nothing",
        ),
    ),
    Variant(
        "seal-over-what-was-in-flight",
        "the cutover leaves out an event that was in flight at the bulk copy",
        (
            Edit(
                "python/eventsource/migration/consistency/seal.py",
                "select least($2::bigint, (select min(global_position) - 1",
                "select greatest($2::bigint, (select min(global_position) - 1",
            ),
        ),
        (
            "tests/integration/consistency/test_seal.py::test_an_event_in_flight_at_the_bulk_copy_is_compared",
        ),
    ),
    Variant(
        "foreign-rows-are-taken",
        "rows that came from another cluster are copied by their transaction ids",
        (
            Edit(
                "python/eventsource/migration/tables/snapshots.py",
                '        "select coalesce((select transaction_id >='
                ' pg_snapshot_xmax(pg_current_snapshot())"\n',
                "        \"select coalesce((select transaction_id < '1'::xid8\"\n",
            ),
        ),
        (
            "tests/integration/preflight/test_preflight.py::test_rows_that_came_from_another_cluster",
        ),
    ),
)
