"""Other forms of the tables that presets are for: divided by time or by archiving, with tags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.layouts.declaration import Layout, LayoutTable, Numbering, Tenancy
from eventsource.migration.layouts.presets import presets
from eventsource.migration.layouts.reading import layout_of
from tests.support import marten, others
from tests.support.worlds.layouts import layout_world

#: As Marten has them with archived streams in a partition of their own.
_ARCHIVED = (
    ("primary key (tenant_id, id)\n);", "primary key (tenant_id, id, is_archived)\n)"
     " partition by list (is_archived);"
     "create table {s}.mt_streams_archived partition of {s}.mt_streams for values in (true);"
     "create table {s}.mt_streams_default partition of {s}.mt_streams default;"),
    ("primary key (seq_id),", "primary key (seq_id, is_archived),"),
    ("foreign key (tenant_id, stream_id)", "foreign key (tenant_id, stream_id, is_archived)"),
    ("(tenant_id, id) on delete cascade\n);", "(tenant_id, id, is_archived)\n)"
     " partition by list (is_archived);"
     "create table {s}.mt_events_archived partition of {s}.mt_events for values in (true);"
     "create table {s}.mt_events_default partition of {s}.mt_events default;"),
    ("on {s}.mt_events (tenant_id, stream_id, version)",
     "on {s}.mt_events (tenant_id, stream_id, version, is_archived)"),
    ("    update {s}.mt_streams set is_archived = true"
     " where id = streamid and tenant_id = tenantid;\n"
     "    update {s}.mt_events set is_archived = true"
     " where stream_id = streamid and tenant_id = tenantid;\n",
     "    insert into {s}.mt_streams (tenant_id, id, type, version, is_archived)"
     " select tenant_id, id, type, version, true from {s}.mt_streams"
     " where id = streamid and tenant_id = tenantid and not is_archived;\n"
     "    insert into {s}.mt_events (seq_id, id, stream_id, version, data, type, tenant_id,"
     " is_archived) select seq_id, id, stream_id, version, data, type, tenant_id, true"
     " from {s}.mt_events"
     " where stream_id = streamid and tenant_id = tenantid and not is_archived;\n"
     "    delete from {s}.mt_events where stream_id = streamid and tenant_id = tenantid"
     " and not is_archived;\n"
     "    delete from {s}.mt_streams where id = streamid and tenant_id = tenantid"
     " and not is_archived;\n"),
)  # fmt: skip

#: With keys of streams that are texts.
_TEXTS = (
    ("id uuid not null, type varchar", "id varchar not null, type varchar"),
    ("stream_id uuid", "stream_id varchar"),
    ("stream uuid,", "stream varchar,"),
    ("streamid uuid,", "streamid varchar,"),
)

_TAGS = """
create table {s}.mt_event_tag_customer (
    value text not null, tenant_id varchar not null default '*DEFAULT*', seq_id bigint not null
        references {s}.mt_events (seq_id),
    primary key (value, tenant_id, seq_id)
);
"""


def _changed(*changes: tuple[tuple[str, str], ...]) -> str:
    text = marten.TABLES
    for old, new in (each for group in changes for each in group):
        assert old in text, old
        text = text.replace(old, new)
    return text.replace("{s}", '"public"')


async def _to_marten(connection: asyncpg.Connection, tenant: str, stream: str | UUID) -> str:
    event = uuid4()
    await connection.fetchval(
        "select mt_quick_append_events($1, 'order', $2, $3, $4, $5, $6::text[]::jsonb[])",
        stream, tenant, [event], ["placed"], ["Shop.Placed"], [json.dumps({"a": 1})],
    )  # fmt: skip
    return str(event)


async def to_uuids(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    key = uuid4() if len(stream) < 5 else UUID(stream)
    # Marten adds nothing to a stream that is archived.
    stored = await _to_marten(connection, tenant, key if len(stream) < 5 else uuid4())
    if stored[0] in "012":
        await connection.execute(
            "select mt_archive_stream((select stream_id from mt_events where id = $1), $2)",
            UUID(stored), tenant,
        )  # fmt: skip
    return stored


async def to_texts(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    return await _to_marten(connection, tenant, f"order/{stream} 'é'")


async def with_tags(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    async with connection.transaction():
        stored = await _to_marten(connection, tenant, uuid4())
        await connection.execute(
            "insert into mt_event_tag_customer (value, tenant_id, seq_id)"
            " select $1, tenant_id, seq_id from mt_events where id = $2",
            stream, UUID(stored),
        )  # fmt: skip
    return stored


_DIVIDED = """
create sequence events_global_position_seq;
create table events (
    global_position bigint not null default nextval('events_global_position_seq'),
    event_id uuid not null, aggregate_id uuid not null, aggregate_type varchar(255) not null,
    event_type varchar(255) not null, tenant_id uuid, actor_id varchar(255), version int not null,
    timestamp timestamptz not null, payload jsonb not null,
    created_at timestamptz not null default now(),{txid}
    primary key (global_position, timestamp), unique (event_id, timestamp),
    unique (aggregate_id, aggregate_type, version, timestamp)
) partition by range (timestamp);
alter sequence events_global_position_seq owned by events.global_position;
create table events_old partition of events for values from (minvalue) to ('2026-01-01');
create table events_new partition of events for values from ('2026-01-01') to (maxvalue);
"""

TENANTS = {name: str(UUID(int=number)) for number, name in enumerate(("acme", "umbrella"), 1)}


async def to_eventsource_py(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    event = uuid4()
    await connection.execute(
        "insert into events (event_id, aggregate_id, aggregate_type, event_type, tenant_id,"
        " version, timestamp, payload)"
        " values ($1, $2, 'Order', 'Placed', $3, 1, $4::text::timestamptz, '{}')",
        event, uuid4(), UUID(TENANTS[tenant]),
        f"202{5 + event.int % 2}-06-01 12:00:00.123456+0{event.int % 9}",
    )  # fmt: skip
    return str(event)


#: The columns of this package's own table, which itself cannot be divided.
_OURS = """
create table events (
    global_position bigint generated by default as identity, event_id uuid not null,
    aggregate_id uuid not null, aggregate_type text not null, event_type text not null,
    tenant_id uuid not null, version bigint not null, timestamp timestamptz not null,
    actor_id text, payload jsonb not null, metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    transaction_id xid8 not null default pg_current_xact_id(),
    primary key (global_position, tenant_id), unique (event_id, tenant_id),
    unique (aggregate_id, aggregate_type, version, tenant_id)
) partition by {by};
"""

_OURS_BY_LIST = _OURS.replace("{by}", "list (tenant_id)") + "".join(
    f"create table events_{name} partition of events for values in ('{tenant}');"
    for name, tenant in TENANTS.items()
)

_OURS_BY_HASH = _OURS.replace("{by}", "hash (tenant_id)") + "".join(
    f"create table events_{n} partition of events for values with (modulus 2, remainder {n});"
    for n in range(2)
)


@dataclass(frozen=True)
class Form:
    name: str
    layout: Callable[[], Layout]
    tables: str
    append: others.Append
    rows: tuple[str, ...]
    ids: str
    tenant: str = "acme"

    def __str__(self) -> str:
        return self.name


def _with_tags() -> Layout:
    layout = presets()["marten"]
    tags = LayoutTable(
        "mt_event_tag_customer", ("value", "tenant_id", "seq_id"), Tenancy(column="tenant_id"),
        numbered=(Numbering("seq_id", like="mt_events"),),
    )  # fmt: skip
    return replace(layout, tables=(*layout.tables, tags))


def _ours() -> Layout:
    return layout_of(
        "ours",
        {
            "tables": [
                {
                    "table": "events", "events": True, "key": ["global_position", "tenant_id"],
                    "tenant": "tenant_id", "numbered": {"global_position": "own"},
                    "stamps": ["transaction_id"],
                }
            ]
        },
    )  # fmt: skip


_STREAMS = "select to_jsonb(t)::text from mt_streams t where tenant_id = $1"
_EVENTS = "select to_jsonb(t)::text from mt_events t where tenant_id = $1"
_LISTED = (
    "select (to_jsonb(t) - 'txid' - 'transaction_id')::text from events t"
    " where tenant_id::text = $1"
)

FORMS = [
    Form("marten-archived", lambda: presets()["marten-archived"], _changed(_ARCHIVED), to_uuids,
         (_STREAMS, _EVENTS), "select id::text from mt_events"),
    Form("marten with texts", lambda: presets()["marten"], _changed(_TEXTS), to_texts,
         (_STREAMS, _EVENTS), "select id::text from mt_events"),
    Form("marten with tags", _with_tags, _changed() + _TAGS.replace("{s}", "public"), with_tags,
         (_STREAMS, _EVENTS, "select to_jsonb(t)::text from mt_event_tag_customer t"
          " where tenant_id = $1"), "select id::text from mt_events"),
    Form("eventsource-py-partitioned", lambda: presets()["eventsource-py-partitioned"],
         _DIVIDED.replace("{txid}", "txid xid8 default pg_current_xact_id(),"), to_eventsource_py,
         (_LISTED,), "select event_id::text from events", TENANTS["acme"]),
    Form("eventsource-py-partitioned-0.8", lambda: presets()["eventsource-py-partitioned-0.8"],
         _DIVIDED.replace("{txid}", ""), to_eventsource_py,
         (_LISTED,), "select event_id::text from events", TENANTS["acme"]),
    Form("our columns by list", _ours, _OURS_BY_LIST, to_eventsource_py,
         (_LISTED,), "select event_id::text from events", TENANTS["acme"]),
    Form("our columns by hash", _ours, _OURS_BY_HASH, to_eventsource_py,
         (_LISTED,), "select event_id::text from events", TENANTS["acme"]),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=str)
async def test_a_tenant_of_another_form_moves_while_it_writes(
    form: Form, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(form.tables)

    async with layout_world(form.layout(), make, dsns) as world:
        for tenant in ("acme", "umbrella"):
            for number in range(40):
                await form.append(world.source, tenant, f"s{number % 4}")
        await world.leaves_nothing_when_aborted(form.tenant)
        async with others.Writers(dsns["source"], form.append, ["acme", "umbrella"]) as writers:
            await asyncio.sleep(0.3)
            moved = await world.move(form.tenant)
            await asyncio.sleep(0.3)
        assert moved.state is MigrationState.MIGRATED
        assert writers.errors == []
        assert writers.sent_on == {"acme": 2, "umbrella": 0}
        for query in form.rows:
            here, there = [
                sorted(row[0] for row in await each.fetch(query, form.tenant))
                for each in (world.source, world.target)
            ]
            assert here == there
            assert len(here) > 0
        held = {row[0] for row in await world.target.fetch(form.ids)}
        assert set(writers.acknowledged["acme"]) <= held
        await form.append(world.target, "acme", "s1")
        await form.append(world.source, "umbrella", "s1")


async def test_tags_follow_the_numbers_of_their_events(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    form = FORMS[2]

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(form.tables)

    async with layout_world(form.layout(), make, dsns) as world:
        for number in range(20):
            await form.append(world.source, "acme", f"s{number}")
            await form.append(world.target, "native", "n")
        await world.move("acme")
        tagged = (
            "select t.value, e.id from mt_event_tag_customer t join mt_events e using (seq_id)"
            " where t.tenant_id = 'acme' and e.tenant_id = 'acme' order by e.id"
        )
        here, there = [await each.fetch(tagged) for each in (world.source, world.target)]
        assert here == there
        assert len(here) == 20
