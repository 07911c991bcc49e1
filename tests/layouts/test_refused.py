"""What cannot move is refused by name before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import PreflightError
from eventsource.migration.layouts.declaration import LayoutTable, Tenancy, Through
from eventsource.migration.layouts.presets import presets
from tests.support import marten, others
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world


@dataclass(frozen=True)
class Refused:
    name: str
    says: str
    both: str = ""
    source: str = ""
    target: str = ""
    tenant: Tenancy | None = None

    def __str__(self) -> str:
        return self.name


_STAMPING = (
    "create function stamp() returns trigger language plpgsql as $$ begin new.type := 'x';"
    " return new; end $$; create trigger stamp before insert on mt_events for each row"
    " execute function stamp()"
)

REFUSED = [
    Refused("a trigger of the target", "trigger 'stamp' of the target table", target=_STAMPING),
    Refused(
        "a statement trigger of the target", "trigger 'late' of the target table",
        target="create function late() returns trigger language plpgsql as $$ begin return null;"
        " end $$; create trigger late after insert on mt_streams for each statement execute"
        " function late()",
    ),
    Refused(
        "a rule of the target", "rule 'swallow' of the target table",
        target="create rule swallow as on delete to mt_events do instead nothing",
    ),
    Refused(
        "a rule of the source", "rule 'elsewhere' of the source table",
        source="create rule elsewhere as on insert to mt_streams do also nothing",
    ),
    Refused("no such table at the target", "the target has no table",
            target="drop table mt_events; drop table mt_streams; create table mt_events (n int)"),
    Refused("a column less at the target", "lacks the source's column mt_dotnet_type",
            target="alter table mt_events drop column mt_dotnet_type"),
    Refused("another type at the target", "is jsonb at the source and json at the target",
            target="alter table mt_events alter column data type json"),
    Refused("no unique index on the key", "has no unique index on exactly (seq_id)",
            both="alter table mt_events drop constraint pkey_mt_events_seq_id"),
    Refused("a stamp that is not declared", "counts in terms of its own cluster only",
            both="alter table mt_events add column txid xid8"),
    Refused("a large object", "a number that means an object of this database only",
            both="alter table mt_events add column attachment oid"),
    Refused("children that inherit", "has children that inherit from it",
            source="create table mine () inherits (mt_events)"),
    Refused("a target where new sessions only read", "the target is read-only",
            target="do $$ begin execute format('alter database %I set"
            " default_transaction_read_only = on', current_database()); end $$"),
    Refused("readers at the target", "holds positions of readers",
            target="insert into mt_event_progression values ('orders', 5)"),
    Refused("the tenant at the target", "already holds events of tenant acme",
            target="insert into mt_streams (tenant_id, id) values ('acme', gen_random_uuid())"),
    Refused("an expression that is volatile", "cannot be 'clock_timestamp()::text'",
            tenant=Tenancy(expression="clock_timestamp()::text")),
    Refused("an expression that asks a table", "cannot be '(select 1)'",
            tenant=Tenancy(expression="(select 1)")),
    Refused("an expression that is two", "parentheses are not balanced",
            tenant=Tenancy(expression="type)::text) stored, drop_it int check ((1 = 1")),
    Refused("a cast that can fail", "a cast that fails",
            tenant=Tenancy(expression="(data ->> 'tenant')::uuid")),
    Refused("a column that is not there", "has no column owner",
            tenant=Tenancy(column="owner")),
    Refused("a tenant in json", "two of its values may be one tenant",
            tenant=Tenancy(column="data")),
    Refused("a tenant inside of bytes", "is inside of packed, which is bytea: only the library",
            both="alter table mt_events add column packed bytea",
            tenant=Tenancy(expression="encode(substr(packed, 1, 4), 'escape')")),
    Refused("a tenant that is bytes", "is inside of Packed, which is bytea: only the library",
            both='alter table mt_events add column "Packed" bytea',
            tenant=Tenancy(column="Packed")),
    Refused("numbers without a gap", "the EventStore of Elixir counts in stream $all",
            source="create table stream_events (event_id uuid, stream_id bigint, stream_version"
            " bigint, original_stream_id bigint, original_stream_version bigint)"),
    Refused("numbers without a gap, in another way", "eventually counts in aggregate_types",
            source='create table aggregate_types (id text, "offset" bigint)'),
    Refused("a reference without a key", "no validated foreign key",
            source="alter table mt_events drop constraint fkey_mt_events_stream",
            tenant=Tenancy(through=Through("mt_streams", ("stream_id",), ("id",)))),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=str)
async def test_what_cannot_move_is_refused_and_nothing_is_changed(
    shop: LayoutWorld, case: Refused
) -> None:
    for _ in range(3):
        await marten.append(shop.source, "acme", uuid4(), 2)
    for connection, statements in (
        (shop.source, case.both), (shop.target, case.both),
        (shop.source, case.source), (shop.target, case.target),
    ):  # fmt: skip
        if statements:
            await connection.execute(statements)
    if case.tenant is not None:
        layout = presets()["marten"]

        tenancy = case.tenant

        def told(table: LayoutTable) -> LayoutTable:
            return replace(table, tenancy=tenancy) if table.name == "mt_events" else table

        for store in shop.stores.values():
            store.layout = replace(layout, tables=tuple(map(told, layout.tables)))
    await shop.refuses("acme", case.says)


async def test_two_layouts_are_refused(shop: LayoutWorld) -> None:
    shop.stores[TARGET].layout = replace(presets()["marten"], name="other")
    with pytest.raises(PreflightError, match="give both stores the same one"):
        await shop.start("acme")


async def test_what_passes_preflight_says_what_travels_and_what_stays(shop: LayoutWorld) -> None:
    await shop.source.execute("create table mt_doc_order (id uuid, tenant_id varchar)")
    for _ in range(3):
        await marten.append(shop.source, "acme", uuid4(), 2)
    findings = await shop.coordinators[0].preflight(
        "acme", shop.stores[SOURCE], shop.stores[TARGET]
    )
    assert findings.problems == []
    assert "mt_events.seq_id" in findings.columns
    assert any("mt_doc_order" in each for each in findings.companions)
    found = await shop.coordinators[0].tenants(SOURCE)
    assert [(each.tenant_id, each.events) for each in found] == [("acme", 6)]


async def test_bytes_beside_the_tenants_column_are_carried(shop: LayoutWorld) -> None:
    for connection in (shop.source, shop.target):
        await connection.execute("alter table mt_events add column tenant_ids bytea default 'x'")
    await marten.append(shop.source, "acme", uuid4(), 2)
    findings = await shop.coordinators[0].preflight(
        "acme", shop.stores[SOURCE], shop.stores[TARGET]
    )
    assert findings.problems == []
    assert findings.waits == "writers of this tenant wait"


async def test_links_in_streams_of_several_tenants_are_named(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(others.RAILS)

    async with layout_world(presets()["rails-event-store"], make, dsns) as world:
        for tenant in ("acme", "umbrella"):
            for _ in range(3):
                await others.to_rails(world.source, tenant, "s")
        look = world.coordinators[0].preflight
        findings = await look("acme", world.stores[SOURCE], world.stores[TARGET])
        assert not any("events of other tenants" in each for each in findings.warnings)
        assert findings.waits is not None
        assert "every write of any tenant to event_store_events_in_streams" in findings.waits
        await world.source.execute(
            "insert into event_store_events_in_streams (stream, event_id, created_at)"
            " select '$by_day', event_id, now() from event_store_events"
        )
        findings = await look("acme", world.stores[SOURCE], world.stores[TARGET])
        assert any(
            each.startswith('3 rows of "public"."event_store_events_in_streams"')
            and "'$by_day'" in each
            for each in findings.warnings
        )
        assert findings.problems == []
