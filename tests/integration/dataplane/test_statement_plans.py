"""The statements that the data plane really sends have plans that fit what they are for.

They are taken from the servers' logs while passes run, and explained in sessions that are set up as
those were: once where no statistics were ever collected, as of a table that is being filled or was
just restored, and once where they were. What is asserted are kinds of nodes, indexes and numbers of
rows and pages, never costs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from eventsource.dataplane import PassSpec
from eventsource.migration import MigrationConfig
from eventsource.testing import Cluster
from tests.support.server_log import Plan, Sent, StatementLog, forget_statistics, index_columns
from tests.support.worlds.rows_by_hand import (
    COLUMNS,
    SOURCE_TABLE,
    TARGET_TABLE,
    World,
    build_world,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAPPINGS = "migration_position_mappings"
TABLES = {"source": SOURCE_TABLE, "target": TARGET_TABLE, "control": MAPPINGS}

#: Of the tenant, and of a neighbour whose rows lie between; small tenants have a quarter of all.
EVENTS = 30_000
NEIGHBOUR = uuid4()
#: In which the source was filled.
TRANSACTIONS = 16
#: Rows of a usual catch-up pass.
DELTA = 200
#: Rows of a chunk of the last pass, which carries ten times as many.
SHORT = 500
#: What came after the first pass.
LATER = 5 + 2 * DELTA + 10 * SHORT

KEY = ("global_position",)
IN_ORDER = ("tenant_id", "global_position")
BY_TRANSACTION = ("tenant_id", "transaction_id", "global_position")


@dataclass(slots=True)
class Scene:
    """Two tables of many rows between which passes have run, and what they sent."""

    world: World
    logs: dict[str, StatementLog]
    #: The transaction of somebody else that was open when the source was filled.
    foreign: int = 0

    def sent(self, side: str, *words: str, without: Sequence[str] = ()) -> list[Sent]:
        """The statements that hold all of the words.

        Raises:
            LookupError: there is none.
        """
        found = [
            sent
            for sent in self.logs[side].sent()
            if all(word in sent.text for word in words)
            and not any(word in sent.text for word in without)
        ]
        if not found:
            raise LookupError(f"nobody sent {words} to the {side}")
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["16 to 18", "18 to 16"])
async def scene(
    request: pytest.FixtureRequest, source_cluster: Cluster, target_cluster: Cluster
) -> AsyncIterator[Scene]:
    clusters = {"source": source_cluster, "target": target_cluster, "control": source_cluster}
    if request.param == "18 to 16":
        clusters |= {"source": target_cluster, "target": source_cluster}
    dsns = {side: await cluster.create_database() for side, cluster in clusters.items()}
    world = await build_world(dsns["source"], dsns["target"], dsns["control"])
    logs = {
        side: await StatementLog.begin(cluster, dsns[side], "eventsource-migrate")
        for side, cluster in clusters.items()
    }
    made = Scene(world, logs)
    for side, table in TABLES.items():
        # What is known about the tables is for the tests to say.
        await getattr(world, side).execute(f'alter table "{table}" set (autovacuum_enabled = off)')
    await play(made)
    yield made
    await world.close()
    for side, cluster in clusters.items():
        await cluster.drop_database(dsns[side].rpartition("/")[2])


async def play(scene: Scene) -> None:
    """A first pass, and catch-up passes with a list of transactions in flight and without."""
    world, usual = scene.world, MigrationConfig()
    foreign, early = await world.connect_source(), await world.connect_source()
    await foreign.execute("begin")
    scene.foreign = int(await foreign.fetchval("select pg_current_xact_id()::text"))
    await fill(world, TRANSACTIONS - 1)
    await early.execute("begin")
    await world.append(5, connection=early)
    await fill(world, 1)
    session = await world.open(chunk_rows=usual.chunk_rows, chunk_bytes=usual.chunk_bytes)
    first = await world.bulk()
    await session.run(first)
    # Again, as after an interruption: what is mapped and not copied is forgotten first.
    await session.run(first)
    await early.execute("commit")
    await append_in_ten(world, DELTA)
    upper = await world.snapshot()
    second = await world.start_pass(PassSpec(1, first.snapshot, upper, staged=True))
    assert (await session.run(second)).rows == DELTA + 5
    await foreign.execute("rollback")
    previous = await quiet_snapshot(world)
    await append_in_ten(world, DELTA)
    upper = await world.snapshot()
    third = await world.start_pass(PassSpec(2, previous, upper, staged=True))
    assert (await session.run(third)).rows == DELTA
    await session.close()
    session = await world.open(chunk_rows=SHORT)
    long = await world.start_pass(PassSpec(3, await quiet_snapshot(world), None, staged=True))
    await append_in_ten(world, 10 * SHORT)
    assert (await session.run(long)).rows == 10 * SHORT
    await session.close()
    await world.control.execute(
        f"insert into {MAPPINGS} (migration_id, source_position, target_position, event_id)"
        " select $1::uuid, n, n, gen_random_uuid() from generate_series(1, $2::int) n",
        uuid4(),
        EVENTS,
    )


async def fill(world: World, transactions: int) -> None:
    """Rows of the tenant, of one like it and of a hundred small ones, in turn."""
    tenants = f"'{world.tenant}', '{world.tenant}', '{world.tenant}'"
    neighbours = f"'{NEIGHBOUR}', '{NEIGHBOUR}', '{NEIGHBOUR}'"
    for _ in range(transactions):
        await insert(
            world.source,
            EVENTS // TRANSACTIONS * 8 // 3,
            f"(array[{tenants}, {neighbours}])[n % 8 + 1]::uuid",
        )


async def insert(
    connection: asyncpg.Connection,
    count: int,
    tenant: str,
    transaction_id: str = "pg_current_xact_id()",
) -> None:
    """Events of the tenants that the expression says for each `n`, null being a small one."""
    await connection.execute(
        f"""
        insert into {SOURCE_TABLE} (event_id, aggregate_id, aggregate_type, event_type, tenant_id,
            version, timestamp, payload, transaction_id)
        select gen_random_uuid(), gen_random_uuid(), 'Order', 'Changed',
            coalesce({tenant}, md5((n % 100)::text)::uuid), 1, now(),
            jsonb_build_object('n', n, 'text', repeat('x', 300)), {transaction_id}
        from generate_series(1, {count}) as n
        """
    )


async def append_in_ten(world: World, count: int) -> None:
    for _ in range(10):
        await world.append(count // 10)


async def quiet_snapshot(world: World) -> str:
    """One that lists no transaction: those of other databases have nothing to do here."""
    _, following, _ = (await world.snapshot()).split(":")
    return f"{following}:{following}:"


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["never collected", "collected"]
)
async def statistics(request: pytest.FixtureRequest, scene: Scene) -> str:
    """What the planner knows about the tables."""
    known: str = request.param
    for side, table in TABLES.items():
        connection = getattr(scene.world, side)
        if known == "collected":
            await connection.execute(f'analyze "{table}"')
        else:
            await forget_statistics(connection, f'"{table}"')
    return known


async def test_the_first_pass_reads_the_tenants_rows_in_their_order(
    scene: Scene, statistics: str
) -> None:
    for sent in scene.sent("source", "copy (", "order by tenant_id, global_position limit"):
        async with scene.logs["source"].session_like(sent.pid) as session:
            plan = await Plan.of(session, sent.query)
            read = await index_columns(session, plan)
        assert plan.kinds == {"Limit", "Index Scan"}, str(plan)
        assert read == {IN_ORDER}, str(plan)
        # Rows that the snapshot does not show are read and left out.
        assert plan.rows_read(SOURCE_TABLE) <= plan.rows + LATER, str(plan)


@pytest.mark.parametrize("listed", [True, False], ids=["some in flight", "none in flight"])
async def test_a_catch_up_pass_reads_what_is_new_however_much_the_tenant_has(
    scene: Scene, statistics: str, listed: bool
) -> None:
    """Also beside a transaction of somebody else that is older than all the tenant's rows."""
    words = ["copy (", "order by transaction_id, global_position limit"]
    in_flight = "transaction_id = any ("
    sent, *_ = (
        scene.sent("source", *words, in_flight, str(scene.foreign))
        if listed
        else scene.sent("source", *words, without=[in_flight])
    )
    async with scene.logs["source"].session_like(sent.pid) as session:
        before = await Plan.of(session, sent.query)
        read = await index_columns(session, before)
        # Older than the snapshot that the pass goes on from, younger than the foreign transaction.
        ids = f"({scene.foreign} + 1 + n % {TRANSACTIONS - 1})::text::xid8"
        await insert(session, EVENTS, f"'{scene.world.tenant}'::uuid", ids)
        after = await Plan.of(session, sent.query)
    assert read == {BY_TRANSACTION}, str(before)
    assert not before.kinds & {"Seq Scan", "Gather", "Gather Merge"}, str(before)
    assert before.rows_read(SOURCE_TABLE) == before.rows == DELTA + 5 * listed, str(before)
    # At worst a page for each row, and the way down to where each range begins.
    assert before.buffers <= before.rows + 20, str(before)
    assert after.rows_read(SOURCE_TABLE) == after.rows == before.rows, str(after)
    # An index may have grown by a level.
    assert after.buffers <= before.buffers + 5, str(after)


@pytest.mark.parametrize("statistics", ["never collected"], indirect=True)
async def test_a_chunk_of_a_long_catch_up_pass_reads_what_it_carries(
    scene: Scene, statistics: str
) -> None:
    for sent in scene.sent("source", "copy (", f"global_position limit {SHORT})"):
        async with scene.logs["source"].session_like(sent.pid) as session:
            plan = await Plan.of(session, sent.query)
        assert plan.rows_read(SOURCE_TABLE) == plan.rows, str(plan)


@pytest.mark.parametrize("loading", [True, False], ids=["primary key alone", "all indexes"])
async def test_the_proof_reads_back_along_the_primary_key(
    scene: Scene, statistics: str, loading: bool
) -> None:
    """The primary key alone is what a large tenant's empty target has while it is loaded."""
    for sent in scene.sent("target", "copy (", "order by global_position)"):
        async with scene.logs["target"].session_like(sent.pid) as session:
            if loading:
                await drop_secondary_indexes(session)
            plan = await Plan.of(session, sent.query)
            read = await index_columns(session, plan)
        assert plan.kinds == {"Index Scan"}, str(plan)
        # Where the tenant's own index is there, it has the same order.
        assert read == {KEY} or (not loading and read == {IN_ORDER}), str(plan)
        assert plan.rows_read(TARGET_TABLE) == plan.rows, str(plan)


async def drop_secondary_indexes(session: asyncpg.Connection) -> None:
    statements = await session.fetch(
        """
        select case when k.oid is null then format('drop index %s', i.indexrelid::regclass)
               else format('alter table %s drop constraint %I', k.conrelid::regclass, k.conname) end
        from pg_index i left join pg_constraint k on k.conindid = i.indexrelid
        where i.indrelid = $1::text::regclass and not i.indisprimary
        """,
        f'"{TARGET_TABLE}"',
    )
    for (statement,) in statements:
        await session.execute(statement)


@pytest.mark.parametrize("rows", [DELTA, EVENTS // 3], ids=["short", "long"])
async def test_a_staged_chunk_does_not_scan_the_target(
    scene: Scene, statistics: str, rows: int
) -> None:
    """Neither where it is inserted nor where it is read back."""
    words = ["eventsource_stage", "on conflict do nothing"]
    inserts = scene.sent("target", "insert into", *words)[0]
    reads_back = scene.sent("target", "copy (", "eventsource_stage")[0]
    assert inserts.pid == reads_back.pid
    async with scene.logs["target"].session_like(inserts.pid) as session:
        await stage(session, scene.world, rows)
        inserting = await Plan.of(session, inserts.query)
        reading = await Plan.of(session, reads_back.query)
        read = await index_columns(session, reading)
    (written,) = [node for node in inserting.nodes() if "Conflicting Tuples" in node]
    assert (written["Tuples Inserted"], written["Relation Name"]) == (rows, TARGET_TABLE)
    assert inserting.scans(TARGET_TABLE) == set(), str(inserting)
    assert reading.scans(TARGET_TABLE) == {"Index Scan"}, str(reading)
    assert read == {KEY}, str(reading)
    assert reading.rows_read(TARGET_TABLE) == reading.rows == rows, str(reading)
    # The way down the index for each row, and the row's own page.
    assert reading.buffers <= 6 * rows, str(reading)


async def test_a_chunk_that_goes_straight_reads_its_own_range(
    scene: Scene, statistics: str
) -> None:
    """Before it is copied, and when it is read back."""
    looks = scene.sent("target", "select global_position from", " limit ")
    reads_back = scene.sent("target", "copy (", "global_position between")
    for sent in (*looks, *reads_back):
        async with scene.logs["target"].session_like(sent.pid) as session:
            plan = await Plan.of(session, sent.query)
            read = await index_columns(session, plan)
        assert plan.scans(TARGET_TABLE) <= {"Index Scan", "Index Only Scan"}, str(plan)
        assert read in ({KEY}, {IN_ORDER}), str(plan)
        assert plan.rows_read(TARGET_TABLE) == plan.rows, str(plan)


async def stage(session: asyncpg.Connection, world: World, rows: int) -> None:
    """Move rows from the table into the temporary one: a chunk that nobody has mirrored."""
    names = ", ".join(COLUMNS)
    await session.execute(
        f"""
        insert into pg_temp.eventsource_stage ({names})
            select {names} from "{TARGET_TABLE}" where tenant_id = '{world.tenant}'
            order by global_position limit {rows};
        delete from "{TARGET_TABLE}" where global_position in
            (select global_position from pg_temp.eventsource_stage)
        """
    )


async def test_the_mapping_is_not_scanned_where_a_chunk_is_mapped_or_a_rest_forgotten(
    scene: Scene, statistics: str
) -> None:
    inserts = scene.sent("control", f'insert into "public"."{MAPPINGS}"')
    # A first pass forgets everything behind position 0, one that goes on what is behind its cursor.
    forgets = scene.sent("control", f'delete from "public"."{MAPPINGS}"', without=["> '0'"])
    for sent in (*inserts, *forgets):
        async with scene.logs["control"].session_like(sent.pid) as session:
            plan = await Plan.of(session, sent.query)
            read = await index_columns(session, plan)
        assert "Seq Scan" not in plan.kinds, str(plan)
        if sent in forgets:
            assert read == {("migration_id", "source_position")}, str(plan)
            assert plan.rows_read(MAPPINGS) <= LATER, str(plan)
        else:
            assert plan.scans(MAPPINGS) == set(), str(plan)
            assert len(plan.root["Conflict Arbiter Indexes"]) == 1, str(plan)


async def test_no_statement_is_compiled_before_it_runs(scene: Scene) -> None:
    """Servers that can took a second for each staged chunk; those of the wheel cannot."""
    for log in scene.logs.values():
        pids = {sent.pid for sent in log.sent()}
        assert pids
        for pid in pids:
            async with log.session_like(pid) as session:
                assert await session.fetchval("show jit") == "off"
