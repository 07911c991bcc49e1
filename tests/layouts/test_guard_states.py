"""What the guard of a layout's tables says in each state of the fence, and what an abort keeps."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.migration.recovery.report import ChangeKind
from eventsource.migration.tables import progress
from tests.support import marten
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_a_snapshot_from_before_the_guard_is_sent_back(
    shop: LayoutWorld, isolation: str
) -> None:
    """It does not show what the fence says: retried, the transaction passes."""
    await marten.append(shop.source, "acme", uuid4(), 1)
    early = await asyncpg.connect(shop.dsns["source"])
    await early.execute(f"begin isolation level {isolation}")
    await early.fetchval("select count(*) from pg_class")
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    with pytest.raises(asyncpg.SerializationError, match="began to migrate"):
        await marten.append(early, "acme", uuid4(), 1)
    await early.execute("rollback")
    await marten.append(early, "acme", uuid4(), 1)
    await early.close()


async def test_who_writes_while_an_abort_takes_the_guard_off_is_not_sent_elsewhere(
    shop: LayoutWorld,
) -> None:
    await marten.append(shop.source, "acme", uuid4(), 2)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await shop.stop()
    await shop.source.execute("update eventsource_fences set state = 'aborting'")
    stream = uuid4()
    await marten.append(shop.source, "acme", stream, 1)
    await shop.source.execute("delete from mt_streams where id = $1", stream)


async def test_the_setting_alone_lets_nobody_delete_what_has_moved(shop: LayoutWorld) -> None:
    await marten.append(shop.source, "acme", uuid4(), 2)
    done = await shop.move("acme")
    await shop.source.execute(
        "drop role if exists app_deletes; create role app_deletes;"
        " grant select, insert, update, delete on mt_events, mt_streams to app_deletes"
    )
    await shop.source.execute("select set_config('eventsource.migration', $1, false)", str(done.id))
    await shop.source.execute("set role app_deletes")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await shop.source.execute("delete from mt_events where tenant_id = 'acme'")
    assert refused.value.sqlstate == "EVF01"
    await shop.source.execute("reset role; drop owned by app_deletes; drop role app_deletes")
    assert await shop.source.execute("delete from mt_events where tenant_id = 'acme'") == "DELETE 2"


async def test_an_abort_sets_no_sequence_back_that_others_have_drawn_from(
    shop: LayoutWorld,
) -> None:
    """A number that is given twice is in the way of the other, or before what readers have seen."""
    await marten.append(shop.source, "acme", uuid4(), 2)
    await marten.append(shop.target, "umbrella", uuid4(), 2)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    await marten.append(shop.target, "umbrella", uuid4(), 1)
    drawn = await shop.target.fetchval("select max(seq_id) from mt_events")
    await shop.coordinators[0].abort_migration(migration.id)
    await marten.append(shop.target, "umbrella", uuid4(), 1)
    assert await shop.target.fetchval("select max(seq_id) from mt_events") == drawn + 1


async def test_an_abort_that_comes_back_late_deletes_nothing_of_a_later_migration(
    shop: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has ended it meanwhile, and the tenant arrives again."""
    await marten.append(shop.source, "acme", uuid4(), 4)
    migration = await shop.start("acme")
    await shop.reaches(migration, MigrationState.DUAL_WRITE)
    spoil = progress.spoil

    async def and_be_late(*given: object) -> None:
        await spoil(*given)  # type: ignore[arg-type]
        await shop.target.execute("delete from eventsource_fences")

    monkeypatch.setattr(progress, "spoil", and_be_late)
    await shop.coordinators[0].abort_migration(migration.id)

    async def aborted() -> bool:
        now = await shop.coordinators[0].get_migration(migration.id)
        return now.state is MigrationState.ROLLED_BACK

    await until(aborted, "the abort")
    assert await shop.target.fetchval("select count(*) from mt_events") == 4


async def test_a_repair_makes_the_guard_of_who_has_left_again(shop: LayoutWorld) -> None:
    """A restore without its triggers: there was nothing to repair, and old routes wrote on."""
    await marten.append(shop.source, "acme", uuid4(), 2)
    await shop.move("acme")
    repair = shop.coordinators[0].repair
    assert (await repair(dry_run=True)).changes == ()
    await shop.source.execute(
        "do $$ declare name text; begin for name in select tgname from pg_trigger"
        " where tgrelid = 'mt_events'::regclass and tgname like 'zzz%' loop"
        " execute format('drop trigger %I on mt_events', name); end loop; end $$;"
        " alter table mt_streams disable trigger all; alter table mt_streams enable trigger all"
    )
    assert [each.kind for each in (await repair(dry_run=True)).changes] == [ChangeKind.GUARD]
    await repair()
    assert (await repair()).changes == ()
    for role in ("origin", "replica"):
        await shop.source.execute(f"set session_replication_role = {role}")
        with pytest.raises(asyncpg.PostgresError, match="has moved"):
            await marten.append(shop.source, "acme", uuid4(), 1)
