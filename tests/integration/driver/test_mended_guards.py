"""What others take away from the guards while a migration runs is made again by who drives next."""

from __future__ import annotations

import pytest

from eventsource.migration.recovery.report import ChangeKind
from tests.support.one_fence import refused, triggers
from tests.support.worlds.three_databases import World, insert, table

TAKEN = {
    "all dropped": """
        do $$ declare name text; begin
            for name in select tgname from pg_trigger where tgname like 'zzz%' loop
                execute format('drop trigger %I on {t}', name);
            end loop;
        end $$""",
    "enabled all": "alter table {t} enable trigger all",
    "disabled": "alter table {t} disable trigger user",
    "one dropped": """
        do $$ declare name text; begin
            select tgname into name from pg_trigger where tgname like 'zzz%write';
            execute format('drop trigger %I on {t}', name);
        end $$""",
}


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("taken", TAKEN)
async def test_a_driver_that_begins_makes_the_guards_again(
    world: World, taken: str, side: str
) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await getattr(world, side).execute(TAKEN[taken].format(t=table(side)))
    await world.coordinator.resume_migration(migration.id)
    done = await world.coordinator.initiate_cutover(migration.id) if side == "source" else None
    if done is None:
        await world.reach(migration, "dual_write")
        migration = await _driven(world, migration)
    assert {enabled for _, enabled in await triggers(world, side)} == {"A"}
    writer = await world.connect(side, session_replication_role="replica")
    refusal = "EVF01" if side == "source" else "EVF03"
    await refused(insert(writer, world.tenant, side=side), refusal)


@pytest.mark.parametrize("taken", ["all dropped", "disabled"])
async def test_an_event_that_no_guard_saw_is_carried_all_the_same(world: World, taken: str) -> None:
    """The column's default stamps it: passes do not depend on the guard to find what is new."""
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.source.execute(TAKEN[taken].format(t=table("source")))
    unseen = await insert(world.source, world.tenant)
    await world.coordinator.resume_migration(migration.id)
    await world.coordinator.initiate_cutover(migration.id)
    assert await world.target.fetchval(
        f"select count(*) from {table('target')} where event_id = $1", unseen["event_id"]
    )


async def _driven(world: World, migration):  # type: ignore[no-untyped-def]
    """Until a pass has been made since: the driver has looked at the guards before it."""
    before = await world.target.fetchval("select pass_number from eventsource_copy_progress")
    while before == await world.target.fetchval(
        "select pass_number from eventsource_copy_progress"
    ):
        await world.here.append(world.tenant)
    return migration


async def test_a_swap_of_tables_refuses_the_next_move_before_anything_is_changed(
    world: World,
) -> None:
    await world.migrate()
    await world.source.execute(
        "alter table events rename to events_old;"
        " create table events (like events_old including all)"
    )
    here = world.here
    found = await here.coordinator.preflight(world.other, here.source, here.target)
    [problem] = [each for each in found.problems if "by its oid" in each]
    assert "create_schema" in problem


async def test_functions_of_another_version_refuse_a_move_until_init_has_run(world: World) -> None:
    await world.source.execute("drop function eventsource_guard_stands(regclass)")
    here = world.here
    [problem] = (await here.coordinator.preflight(world.tenant, here.source, here.target)).problems
    assert "eventsource_guard_stands of another version; run `eventsource-migrate init`" in problem
    await here.source.create_schema()
    assert (await here.coordinator.preflight(world.tenant, here.source, here.target)).problems == []


@pytest.mark.parametrize("taken", TAKEN)
async def test_a_repair_makes_the_guard_of_who_has_left_again(world: World, taken: str) -> None:
    """A restore without its triggers: there was nothing to repair, and old routes wrote on."""
    await world.seed(10)
    await world.migrate()
    await world.source.execute(TAKEN[taken].format(t=table("source")))
    planned = await world.coordinator.repair(dry_run=True)
    assert [each.kind for each in planned.changes] == [ChangeKind.GUARD]
    await world.coordinator.repair()
    assert (await world.coordinator.repair()).changes == ()
    for role in ("origin", "replica"):
        writer = await world.connect(session_replication_role=role)
        await refused(insert(writer, world.tenant), "EVF01")
