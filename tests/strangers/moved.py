"""Set-ups that look odd and move: equal in every value, and fenced."""

from __future__ import annotations

from tests.strangers.own_types import OWN_TYPES
from tests.strangers.refused import _MOOD, _PAIR, _trigger
from tests.strangers.stranger import Stranger

_NOTHING = "return null;"

MOVED = [
    Stranger("as it is made"),
    Stranger("generated to plain", source="alter table {t} add column kind text generated always"
             " as (payload ->> 'kind') stored", target="alter table {t} add column kind text"),
    Stranger("generated on both sides", both="alter table {t} add column kind text generated"
             " always as (payload ->> 'kind') stored"),
    Stranger("two generated columns, one of them plain at the target",
             source="alter table {t} add column a int generated always as (version * 2) stored,"
             " add column b int generated always as (version * 3) stored",
             target="alter table {t} add column a int generated always as (version * 2) stored,"
             " add column b int"),
    Stranger("xid8 stamp", both="alter table {t} add column txid xid8 default"
             " pg_current_xact_id()", filled=("txid",)),
    Stranger("txid_current() in a bigint", both="alter table {t} add column txid bigint not null"
             " default txid_current()", filled=("txid",)),
    Stranger("domain over xid8", both="create domain moment as xid8; alter table {t} add column"
             " txid moment default pg_current_xact_id()", filled=("txid",)),
    Stranger("pg_lsn stamp", both="alter table {t} add column lsn pg_lsn default"
             " pg_current_wal_insert_lsn()", filled=("lsn",)),
    Stranger("stamp at the source only", source="alter table {t} add column txid xid8 default"
             " pg_current_xact_id()", filled=("txid",)),
    Stranger("enum", both=_MOOD + "alter table {t} add column m mood",
             values={"m": "(array['glad', 'sad'])[1 + g % 2]::mood"}),
    Stranger("enum with more labels at the target", both=_MOOD
             + "alter table {t} add column m mood",
             target="alter type mood add value 'bored' before 'sad'",
             values={"m": "(array['glad', 'sad'])[1 + g % 2]::mood"}),
    Stranger("range over an enum", both=_MOOD + "create type moods as range (subtype = mood);"
             "alter table {t} add column ms moods", values={"ms": "moods('glad', 'sad', '[]')"}),
    Stranger("multirange", both="alter table {t} add column spans int4multirange",
             values={"spans": "int4multirange(int4range(1, g), int4range(g + 5, g + 9))"}),
    Stranger("arrays of the server's types", both="alter table {t} add column ns int[], add column"
             " ts text[]", values={"ns": "array[g, null, 2]", "ts": "array['a,b', null, '\"']"}),
    Stranger("domain over an array", both="create domain words as text[];"
             "alter table {t} add column w words", values={"w": "array['a', 'b']::words"}),
    Stranger("domain with a check on both sides", both="create domain short as text check"
             " (length(value) < 9); alter table {t} add column s short", values={"s": "'abc'"}),
    Stranger("composite of the server's types", both=_PAIR + "alter table {t} add column p pair",
             values={"p": "row(g, 'x')::pair"}),
    Stranger("modifiers", both="alter table {t} add column a varchar(9), add column b char(5), add"
             " column c numeric(9, 3), add column d bit(3), add column e timestamp(2)",
             values={"a": "'ab'", "b": "'ab'", "c": "g / 7.0", "d": "b'101'", "e": "now()"}),
    Stranger("second sequence", both="alter table {t} add column seq bigserial unique"),
    Stranger("second identity", both="alter table {t} add column seq int generated always as"
             " identity unique"),
    Stranger("second sequence that nobody owns", both="create sequence mine; alter table {t} add"
             " column seq bigint default nextval('mine') unique"),
    Stranger("target trigger that steps aside", target="create table outbox (id uuid);"
             "create function to_outbox() returns trigger language plpgsql as $$ begin"
             " insert into outbox values (new.event_id); return null; end $$;"
             "create trigger to_outbox after insert on {t} for each row when"
             " (current_setting('eventsource.migration', true) is null)"
             " execute function to_outbox()"),
    Stranger("statement trigger that steps aside", target=_trigger(
        "tells", "after insert", "perform pg_notify('events', ''); return null;", "statement")
        .replace("for each statement", "for each statement when (coalesce("
                 "current_setting('eventsource.migration', true), '') = '')")),
    Stranger("target trigger that shall fire", target="create table outbox (id uuid);" + _trigger(
        "to_outbox", "after insert", "insert into outbox values (new.event_id); return null;"),
        config={"target_triggers": "fire"}),
    Stranger("stamp by a target trigger that shall fire",
             both="alter table {t} add column seen xid8",
             target=_trigger("seen", "before insert",
                             "new.seen := pg_current_xact_id(); return new;"),
             filled=("seen",), config={"target_triggers": "fire"}),
    Stranger("disabled target trigger", target=_trigger("asleep", "after insert", _NOTHING)
             + "alter table {t} disable trigger asleep"),
    Stranger("target trigger for replicas", target=_trigger("afar", "after insert", _NOTHING)
             + "alter table {t} enable replica trigger afar"),
    Stranger("target trigger on update", target=_trigger("updates", "after update", _NOTHING)),
    Stranger("source trigger that enriches", source=_trigger(
        "enriches", "before insert", "new.metadata := new.metadata || '{\"seen\": 1}';"
        " return new;")),
    Stranger("source trigger to an outbox", source="create table outbox (id uuid);" + _trigger(
        "zzzz_to_outbox", "after insert",
        "insert into outbox values (new.event_id); return null;")),
    Stranger("tenant that is there", target="create table tenants (id uuid primary key);"
             "insert into tenants values ('{tenant}');"
             "alter table {t} add foreign key (tenant_id) references tenants"),
    Stranger("check on both sides", both="alter table {t} add constraint low check"
             " (version < 1e6)"),
    Stranger("more columns at the target", target="alter table {t} add column region text,"
             " add column n int not null default 7", filled=("region", "n")),
    Stranger("other order, dropped columns", both="alter table {t} add column a int, add column b"
             " text", target="alter table {t} drop column a, drop column metadata, add column a"
             " int, add column metadata jsonb not null default '{}'",
             values={"a": "g", "b": "'b'"}),
    Stranger("published with its key", target="drop publication if exists"
             " all_of_it; create publication all_of_it for table {t}"),
    Stranger("published with a filter and a list over its key",
             target="drop publication if exists some_of_it; create publication some_of_it for table"
             " {t} (event_type, global_position) where (global_position > 0)"),
    Stranger("published with a filter, inserts only",
             target="drop publication if exists some_of_it; create publication some_of_it for table"
             " {t} (event_type) where (version > 0) with (publish = 'insert')"),
    Stranger("unique on both sides, by an expression and in part",
             both="create unique index on {t} ((payload ->> 'order'), tenant_id);"
             "create unique index on {t} (actor_id) where version < 0"),
    Stranger("unique at the target that follows from the source's",
             target="create unique index on {t} (tenant_id, event_id) include (version);"
             "create unique index on {t} (event_id, lower(event_type)) where version > 1;"
             "alter table {t} add unique (aggregate_id, version, aggregate_type, tenant_id)"),
    Stranger("unique that the source checks late", source="alter table {t} add constraint once"
             " unique (event_id, tenant_id) deferrable"),
    Stranger("event trigger that notes what is changed", both="create table noted (tag text);"
             "create function note() returns event_trigger"
             " language plpgsql as $$ begin insert into noted values (tg_tag); end $$;"
             "create event trigger notes on ddl_command_end execute function note()"),
    Stranger("identifiers that are quoted",
             both="do $$ begin execute format('alter database %I set quote_all_identifiers = on',"
             " current_database()); end $$"),
    Stranger("backslashes that escape",
             both="do $$ begin execute format('alter database %I set standard_conforming_strings ="
             " off', current_database()); end $$"),
    Stranger("type by the search path on one side", both="create schema if not exists types;"
             "drop type if exists types.mood cascade;"
             "create type types.mood as enum ('glad', 'sad');"
             "alter table {t} add column m types.mood", source="do $$ begin execute format("
             "'alter database %I set search_path = types, public', current_database()); end $$",
             values={"m": "'sad'::types.mood"}),
    *OWN_TYPES,
]  # fmt: skip
