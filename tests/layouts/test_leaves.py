"""Leaves of partitioned tables that come, go and are emptied while a tenant moves."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from eventsource.migration import (
    CutoverTimeoutError,
    MigrationState,
    PreflightError,
    background,
)
from eventsource.migration.journaled import first_pass
from eventsource.migration.journaled.passes import JournaledPasses, PassOutcome
from tests.support.partitioned import (
    HASH,
    LIST,
    NESTED,
    RANGE,
    appending,
    divided_by,
    equal,
    in_dual_write,
    make_room,
    same,
)
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world


class Began:
    """How often everything was carried again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        original = JournaledPasses.begin_again

        async def counted(passes: JournaledPasses) -> None:
            self.times += 1
            await original(passes)

        monkeypatch.setattr(JournaledPasses, "begin_again", counted)


#: A table with rows of both tenants that becomes a leaf of the table divided by range.
_NEXT = """
create table late (like events including all);
insert into late (position, id, tenant, stream, data)
    select 100000 + n, gen_random_uuid(), t, 's', 'late'
    from generate_series(1, 40) n, unnest(array['acme', 'umbrella']) t
    on conflict do nothing;
"""


@divided_by(RANGE)
async def test_a_leaf_that_is_attached_is_carried_and_nothing_else_again(
    divided: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_room(divided)
    await divided.target.execute("create table late partition of events default")
    began = Began(monkeypatch)
    migration = await in_dual_write(divided)
    await divided.source.execute(
        f"{_NEXT} alter table events attach partition late for values from (100000) to (200000)"
    )
    await until(lambda: same(divided), "the rows of the leaf")
    # Its rows are guarded as those of every other leaf are.
    await divided.source.execute(
        "update late set data = 'changed' where position % 3 = 0;"
        "delete from late where position % 5 = 0"
    )
    with pytest.raises(asyncpg.PostgresError) as refused:
        await divided.source.execute("truncate late")
    assert refused.value.sqlstate == "EVF02"
    await until(lambda: same(divided), "what was changed in the leaf")
    await divided.source.execute("create table more partition of events default")
    await divided.coordinators[0].initiate_cutover(migration.id)
    await equal(divided)
    assert began.times == 0
    assert await divided.target.fetchval("select count(*) from events where data = 'changed'") > 0


@divided_by(RANGE)
async def test_a_leaf_that_was_emptied_before_it_was_noticed_begins_everything_again(
    divided: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_room(divided)
    await divided.target.execute("create table late partition of events default")
    began = Began(monkeypatch)
    migration = await in_dual_write(divided)
    await divided.coordinators[0].pause_migration(migration.id)
    await divided.source.execute(
        f"{_NEXT} alter table events attach partition late for values from (100000) to (200000)"
    )
    await divided.source.execute("truncate late")
    # As a pass would have left it that read the leaf before it was emptied.
    await divided.target.execute(
        "select set_config('eventsource.migration', $$" + str(migration.id) + "$$, false);"
        "insert into events (position, id, tenant, stream) values"
        " (100001, gen_random_uuid(), 'acme', 's')"
    )
    await divided.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(divided), "the target to lose it too")
    await divided.reaches(migration, MigrationState.DUAL_WRITE)
    await divided.coordinators[0].initiate_cutover(migration.id)
    await equal(divided)
    assert began.times == 1


@divided_by(LIST)
async def test_a_leaf_that_is_detached_takes_its_rows_along(divided: LayoutWorld) -> None:
    migration = await in_dual_write(divided)
    await divided.source.execute("alter table events detach partition events_acme")

    async def empty() -> bool:
        return not await divided.target.fetchval("select exists (select from events)")

    await until(empty, "the target to lose them too")
    await divided.source.execute(
        "alter table events attach partition events_acme for values in ('acme')"
    )
    await until(lambda: same(divided), "the target to get them again")
    await divided.reaches(migration, MigrationState.DUAL_WRITE)
    await divided.coordinators[0].initiate_cutover(migration.id)
    await equal(divided)


async def test_a_leaf_that_is_attached_during_the_copy_is_carried(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    began = Began(monkeypatch)
    reached, held = asyncio.Event(), asyncio.Event()
    original, chunks = first_pass._write, 0

    async def write(*given: object) -> None:
        nonlocal chunks
        chunks += 1
        if chunks == 3:
            reached.set()
            await held.wait()
        await original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(first_pass, "_write", write)
    async with layout_world(RANGE.layout, RANGE.make, dsns, batch_size=1) as world:
        await make_room(world)
        await world.target.execute("create table late partition of events default")
        for _ in range(100):
            await appending(RANGE)(world.source, "acme", "s")
        migration = await world.start("acme")
        await asyncio.wait_for(reached.wait(), 30)
        # The first pass has passed these positions by.
        await world.source.execute(
            "create table late (like events including all); insert into late (position, id, tenant,"
            " stream) select -n, gen_random_uuid(), 'acme', 's' from generate_series(1, 40) n;"
            "alter table events attach partition late for values from (-1000) to (0)"
        )
        held.set()
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        await until(lambda: same(world), "the rows of the leaf")
        await world.coordinators[0].initiate_cutover(migration.id)
        await equal(world)
    assert began.times == 0


@divided_by(LIST, HASH, NESTED)
async def test_a_leaf_with_the_tenants_rows_is_not_emptied_unseen(divided: LayoutWorld) -> None:
    migration = await in_dual_write(divided)
    mine = await divided.source.fetch(
        "select distinct tableoid::regclass::text as leaf from events where tenant = 'acme'"
    )
    for leaf in ["events", "events_acme"] if mine[0]["leaf"].startswith("events_a") else ["events"]:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await divided.source.execute(f"truncate {leaf}")
        assert refused.value.sqlstate == "EVF02"
    for isolation in ("read committed", "serializable"):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await divided.source.execute(
                f"begin isolation level {isolation}; truncate {mine[0]['leaf']}"
            )
        assert refused.value.sqlstate == "EVF02"
        await divided.source.execute("rollback")
    others_leaves = await divided.source.fetch(
        "select c.oid::regclass::text as leaf from pg_partition_tree('events') p"
        " join pg_class c on c.oid = p.relid where p.isleaf and not exists"
        " (select from events e where e.tableoid = p.relid and e.tenant = 'acme')"
    )
    await divided.source.execute(f"truncate {others_leaves[0]['leaf']}")
    # At the target, too: nothing takes away what has been compared.
    with pytest.raises(asyncpg.PostgresError) as refused:
        await divided.target.execute(f"truncate {mine[0]['leaf']}")
    assert refused.value.sqlstate == "EVF02"
    await divided.reaches(migration, MigrationState.DUAL_WRITE)
    await divided.coordinators[0].initiate_cutover(migration.id)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await divided.source.execute(f"truncate {mine[0]['leaf']}")
    assert refused.value.sqlstate == "EVF02"
    await equal(divided)
    await divided.target.execute("begin; truncate events; rollback")


class Held:
    """Holds the cutover where its fence is held."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        original = JournaledPasses.under_the_fence

        async def held(passes: JournaledPasses) -> PassOutcome:
            self.reached.set()
            await self.go_on.wait()
            return await original(passes)

        monkeypatch.setattr(JournaledPasses, "under_the_fence", held)


@pytest.mark.parametrize(
    ("divided", "change"),
    [
        (LIST, "create table late partition of events for values in ('late')"),
        (LIST, "alter table events detach partition events_acme"),
        (NESTED, "alter table events_acme detach partition events_acme_t"),
        (LIST, "alter table events disable trigger all"),
    ],
    indirect=["divided"],
    ids=["attach", "detach", "detach below a leaf", "disable"],
)
async def test_no_leaf_comes_or_goes_while_the_fence_is_held(
    divided: LayoutWorld, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    migration = await in_dual_write(divided)
    asked = asyncio.create_task(divided.coordinators[0].initiate_cutover(migration.id))
    await asyncio.wait_for(held.reached.wait(), 30)
    with pytest.raises(asyncpg.LockNotAvailableError):
        await divided.source.execute(f"set lock_timeout = '200ms'; {change}")
    held.go_on.set()
    await asked
    await equal(divided)


@divided_by(LIST)
async def test_a_session_that_changes_a_leaf_puts_the_cutover_off(divided: LayoutWorld) -> None:
    migration = await in_dual_write(divided)
    other = await asyncpg.connect(divided.dsns["source"])
    await other.execute(
        "begin; alter table events_acme disable trigger all;"
        " insert into events_acme (id, tenant, stream) values (gen_random_uuid(), 'acme', 'late')"
    )
    with pytest.raises((PreflightError, CutoverTimeoutError)):
        await divided.coordinators[0].initiate_cutover(migration.id)
    await other.execute("commit")
    await other.close()
    await until(lambda: same(divided), "what was written past the guard")
    await divided.reaches(migration, MigrationState.DUAL_WRITE)


@divided_by(LIST)
async def test_a_guard_that_was_mended_does_not_hide_what_passed_it_by(
    divided: LayoutWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = Began(monkeypatch)
    migration = await in_dual_write(divided)
    await divided.coordinators[0].pause_migration(migration.id)
    await divided.source.execute(
        "alter table events disable trigger all; update events set data = 'unseen';"
        " alter table events enable trigger all"
    )
    await divided.coordinators[0].resume_migration(migration.id)
    await until(lambda: same(divided), "what was written past the guard")
    await divided.reaches(migration, MigrationState.DUAL_WRITE)
    await divided.coordinators[0].initiate_cutover(migration.id)
    await equal(divided)
    assert began.times == 1


@divided_by(LIST)
async def test_an_old_snapshot_does_not_empty_a_leaf(divided: LayoutWorld) -> None:
    await divided.source.execute("truncate events_acme")
    old = await asyncpg.connect(divided.dsns["source"])
    await old.execute("begin isolation level repeatable read; select 1 from pg_class limit 1")
    await appending(LIST)(divided.source, "acme", "s")
    await in_dual_write(divided)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await old.execute("truncate events_acme")
    assert refused.value.sqlstate == "EVF02"
    await old.close()
