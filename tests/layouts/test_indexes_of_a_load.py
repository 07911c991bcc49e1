"""Which indexes of an empty target a load does without."""

from __future__ import annotations

import tomllib
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.journaled import loading
from eventsource.migration.layouts.presets import presets
from eventsource.migration.layouts.reading import layout_of
from eventsource.migration.tables import deferred_indexes
from tests.support import marten, others
from tests.support.fingerprint import fingerprint
from tests.support.worlds.layouts import layout_world

#: By preset and table: what is dropped.
DROPPED = {
    "message-db": {
        "messages": ["messages_category", "messages_correlation", "messages_id", "messages_stream",
                     "messages_twice"],
    },
    # `event_id` is what the other table refers to.
    "rails-event-store": {
        "event_store_events": ["index_on_type"],
        "event_store_events_in_streams": ["index_streams_event", "index_streams_position"],
    },
    # The pass reads along (tenant_id, stream_id, version), and streams are deleted by it.
    "marten": {"mt_events": ["mt_events_type"]},
    # Partitioned tables keep theirs.
    "emmett": {},
}  # fmt: skip

MADE = {
    "message-db": others.MESSAGE_DB_INDEXED,
    "rails-event-store": others.RAILS
    + "create index index_on_type on event_store_events (event_type);"
    "create index index_on_event_id on event_store_events_in_streams (event_id)",
    "marten": marten.TABLES.replace("{s}.", "") + "create index mt_events_type on mt_events (type)",
    "emmett": others.EMMETT + "create index emt_type on emt_messages (message_type)",
}


@pytest.mark.parametrize("preset", DROPPED)
async def test_what_the_load_reads_by_stays(
    preset: str, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", 1)
    append = {
        "message-db": others.to_message_db, "rails-event-store": others.to_rails,
        "emmett": others.to_emmett,
    }  # fmt: skip

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(MADE[preset])

    saved: list[deferred_indexes.Index] = []
    save = deferred_indexes._save

    async def noted(target: Any, migration_id: Any, dropped: Any) -> None:
        saved.extend(dropped or ())
        await save(target, migration_id, dropped)

    monkeypatch.setattr(deferred_indexes, "_save", noted)
    async with layout_world(presets()[preset], make, dsns) as world:
        for number in range(10):
            if preset == "marten":
                await marten.append(world.source, "acme", uuid4(), 2)
            else:
                await append[preset](world.source, "acme", f"s{number % 2}")
        before = [await fingerprint(each, journal=False) for each in (world.source, world.target)]
        migration = await world.reaches(await world.start("acme"), MigrationState.DUAL_WRITE)
        dropped: dict[str, list[str]] = {}
        for index in saved:
            if index.name not in dropped.setdefault(str(index.table), []):
                dropped[str(index.table)].append(index.name)
        assert dropped == DROPPED[preset]
        await world.coordinators[0].abort_migration(migration.id)
        after = [await fingerprint(each, journal=False) for each in (world.source, world.target)]
        assert after == before


#: Each has an index that is asked for by its tenant, its key, its parent or its children, and one
#: that is asked for by nothing.
ORDERS = """
create table owners (id bigint primary key, code text not null, tenant text not null, note text);
create unique index owners_code on owners (code);
create index owners_note on owners (note);
create table orders (
    id bigserial primary key, number int not null, ref text not null unique, tenant text not null,
    note text
);
create unique index orders_tenant on orders (tenant, number);
create index orders_ref on orders (ref, note);
create index orders_note on orders (note, ref);
create table lines (
    id bigserial primary key, order_ref text not null references orders (ref), note text
);
create index lines_order on lines (order_ref, note);
create index lines_note on lines (note, order_ref);
"""

DECLARED = """
[layouts.orders]
title = "orders"
[[layouts.orders.tables]]
table = "owners"
written_by = "append"
key = ["code"]
tenant = "tenant"
[[layouts.orders.tables]]
table = "orders"
events = true
key = ["id"]
tenant = "tenant"
numbered = { id = "own" }
[[layouts.orders.tables]]
table = "lines"
written_by = "append"
key = ["id"]
tenant = { through = "orders", columns = ["order_ref"], referenced = ["ref"] }
numbered = { id = "own" }
"""


async def _make_orders(connection: asyncpg.Connection) -> None:
    await connection.execute(ORDERS)


async def _fill_orders(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "insert into owners select n, 'c' || n, 'acme' from generate_series(1, 20) n;"
        "insert into orders (number, ref, tenant) select n, 'r' || n, 'acme'"
        " from generate_series(1, 20) n;"
        "insert into lines (order_ref) select 'r' || n from generate_series(1, 20) n"
    )


@pytest.mark.parametrize("filled", [(), ("owners",), ("orders",)], ids=str)
async def test_an_index_is_kept_for_what_asks_by_it_and_for_rows_that_came_since(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch, filled: tuple[str, ...]
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deferred_indexes, "WORTH_IT", 1)
    [(name, entry)] = tomllib.loads(DECLARED)["layouts"].items()
    async with layout_world(layout_of(name, entry), _make_orders, dsns) as world:
        await _fill_orders(world.source)
        worth, defer = loading.worth, deferred_indexes.defer_some
        dropped: dict[str, set[str]] = {}

        async def looked(*args: Any) -> Any:
            found = await worth(*args)
            assert set(found) == {"owners", "orders", "lines"}
            if "owners" in filled:
                await world.target.execute("insert into owners values (99, 'c99', 'umbrella')")
            if "orders" in filled:
                await world.target.execute(
                    "insert into orders (id, number, ref, tenant) values (99, 1, 'r99', 'umbrella')"
                )
            return found

        async def noted(target: Any, *args: Any) -> None:
            before = await _names(world.target)
            await defer(target, *args)
            for table in before:
                now = {row["relname"] for row in await target.connection.fetch(_INDEXES, table)}
                dropped[table] = before[table] - now

        monkeypatch.setattr(loading, "worth", looked)
        monkeypatch.setattr(deferred_indexes, "defer_some", noted)
        everything = await _names(world.target)
        await world.move("acme")
        assert await _names(world.target) == everything
        one = {name: {f"{name}_note"} for name in everything}
        if "owners" in filled:
            one["owners"] = set()
        # Where events have come since, the tables are in use.
        assert dropped == ({} if "orders" in filled else one)


_INDEXES = """
select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = $1::text::regclass
"""


async def _names(connection: asyncpg.Connection) -> dict[str, set[str]]:
    return {
        table: {row["relname"] for row in await connection.fetch(_INDEXES, table)}
        for table in ("owners", "orders", "lines")
    }
