"""A table that is there gets what a store needs, while writers go on, or a refusal with the fix."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from eventsource.errors import StoreSchemaError
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.store_tables import FILL, OLD_TABLE, Pool, append, catalogue


class TestAnExistingTable:
    @pytest.fixture(autouse=True)
    async def _old_table(self, pool: Pool) -> None:
        await pool.execute(OLD_TABLE)
        await pool.execute(FILL)

    async def test_gets_the_transaction_id_without_a_rewrite(self, pool: Pool) -> None:
        filenode = "select pg_relation_filenode('events')"
        before = await pool.fetchval(filenode)
        store = PostgreSQLEventStore(pool)
        await store.create_schema()
        assert await pool.fetchval(filenode) == before
        position = await append(store)
        assert (
            await pool.fetchval("select count(*) from events where transaction_id is null") == 500
        )
        assert await pool.fetchval(
            "select pg_visible_in_snapshot(transaction_id, pg_current_snapshot()) from events "
            "where global_position = $1",
            position,
        )
        assert [row.global_position async for row in store.read_all(498)] == [499, 500, 501]

    async def test_gets_its_missing_indexes_and_loses_a_broken_one(
        self, pool: Pool, source_dsn: str
    ) -> None:
        blocker = await asyncpg.connect(source_dsn)
        await blocker.execute("begin isolation level repeatable read; select 1 from events limit 1")
        building = asyncio.create_task(
            pool.execute(
                "create index concurrently half on events (tenant_id, global_position)", timeout=0.5
            )
        )
        with pytest.raises(asyncio.TimeoutError):
            await building
        await blocker.close()
        usable = "select indisvalid from pg_index where indexrelid = 'half'::regclass"
        assert await pool.fetchval(usable) is False

        await PostgreSQLEventStore(pool).create_schema()
        definitions = {str(row[4]) for row in await catalogue(pool) if row[0] == "i"}
        assert not any(" half " in one for one in definitions)
        for columns in (
            "(tenant_id, global_position)",
            "(tenant_id, transaction_id, global_position)",
        ):
            assert (
                sum(one.endswith(f"public.events USING btree {columns}") for one in definitions)
                == 1
            )

    @pytest.mark.alone
    async def test_is_upgraded_while_writers_go_on(self, pool: Pool, source_dsn: str) -> None:
        """A writer that waited behind the upgrade's lock request waited no longer than one try."""
        holder = await asyncpg.connect(source_dsn)
        await holder.execute("begin")
        await holder.execute(FILL)
        upgrading = asyncio.create_task(PostgreSQLEventStore(pool).create_schema())
        longest = 0.0
        writer = await asyncpg.connect(source_dsn)
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            started = time.monotonic()
            await writer.execute(FILL.replace("500", "1"))
            longest = max(longest, time.monotonic() - started)
        assert not upgrading.done()
        assert longest < 1.0, "a lock request of 0.2 s, on a machine that may be busy"
        await holder.execute("commit")
        await asyncio.wait_for(upgrading, 30)
        await writer.close()
        await holder.close()

    async def test_with_duplicates_is_refused_by_name_and_left_clean(self, pool: Pool) -> None:
        await pool.execute("alter table events drop constraint events_event_id_key")
        twice = await pool.fetchval(
            "update events set event_id = (select event_id from events where global_position = 1) "
            "where global_position = 2 returning event_id"
        )
        store = PostgreSQLEventStore(pool)
        with pytest.raises(StoreSchemaError, match=str(twice)):
            await store.create_schema()
        assert await pool.fetchval("select count(*) from pg_index where not indisvalid") == 0
        await pool.execute("delete from events where global_position = 2")
        await store.create_schema()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("drop column payload", "column payload is missing .*add column payload jsonb"),
            ("drop column tenant_id, drop column metadata", "tenant_id.*metadata"),
            ("alter payload type json", "payload is json, not jsonb .*type jsonb using"),
            ("alter timestamp type timestamp", "timestamp is timestamp without time zone"),
            ("alter event_id type text", "event_id is text, not uuid"),
            ("add column region text not null default ''; alter table events alter region "
             "drop default", "region is not null and has no default"),
            ("alter global_position drop default; drop sequence events_global_position_seq",
             r"draws from no sequence \(alter table .* as identity"),
            ("alter global_position drop default", "draws from no sequence"),
        ],
    )  # fmt: skip
    async def test_that_does_not_fit_is_refused_with_the_fix(
        self, pool: Pool, change: str, message: str
    ) -> None:
        await pool.execute(f"alter table events {change}")
        with pytest.raises(StoreSchemaError, match=message):
            await PostgreSQLEventStore(pool).create_schema()

    async def test_whose_sequence_is_not_its_own_is_refused(self, pool: Pool) -> None:
        await pool.execute("alter sequence events_global_position_seq owned by none")
        with pytest.raises(StoreSchemaError, match="alter sequence … owned by"):
            await PostgreSQLEventStore(pool).create_schema()

    @pytest.mark.parametrize(
        ("change", "message"),
        [("cache 20", "cache 1"), ("cycle", "no cycle"), ("increment -1 minvalue -9", "upwards")],
    )
    async def test_whose_sequence_makes_feeds_skip_is_refused(
        self, pool: Pool, change: str, message: str
    ) -> None:
        await pool.execute(f"alter sequence events_global_position_seq {change}")
        with pytest.raises(StoreSchemaError, match=message):
            await PostgreSQLEventStore(pool).create_schema()
        with pytest.raises(StoreSchemaError, match=message):
            await PostgreSQLEventStore(pool).get_global_position()

    async def test_of_positions_always_generated_accepts_carried_ones(self, pool: Pool) -> None:
        await pool.execute(
            "alter table events alter global_position drop default; "
            "drop sequence events_global_position_seq; "
            "alter table events alter global_position add generated always as identity (start 600)"
        )
        await PostgreSQLEventStore(pool).create_schema()
        identity = await pool.fetchval(
            "select attidentity::text from pg_attribute "
            "where attrelid = 'events'::regclass and attname = 'global_position'"
        )
        assert identity == "d", "generated by default"
