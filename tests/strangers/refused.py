"""Set-ups that cannot be moved: each is refused by name before anything is changed."""

from __future__ import annotations

from tests.strangers.stranger import Stranger

_MOOD = "create type mood as enum ('glad', 'sad');"
_PAIR = "create type pair as (a int, b text);"


def _function(name: str, body: str) -> str:
    return (
        f"create function {name}() returns trigger language plpgsql as"
        f" $$ begin {body} end $$;"
    )  # fmt: skip


def _trigger(name: str, when: str, body: str, each: str = "row") -> str:
    return (
        _function("of_theirs", body)
        + f"create trigger {name} {when} on {{t}} for each {each} execute function of_theirs();"
    )


def _torn(others: str, versions: str, other: str = "gen_random_uuid()") -> str:
    """A stream of the tenant with events of another."""
    return (
        "insert into {t} (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,"
        " timestamp, payload) select gen_random_uuid(), '{tenant}', 'A', 'A',"
        f" case when {others} then {other} else '{{tenant}}'::uuid end, v, now(), '{{}}'"
        f" from unnest('{versions}'::int[]) v"
    )


def _forbidding(event: str) -> str:
    return (
        "create function forbid() returns event_trigger"
        " language plpgsql as $$ begin raise exception 'ask the DBA'; end $$;"
        f" create event trigger forbids on {event} execute function forbid()"
    )


_PASS = "return new;"

#: Rows that walk past the guard.
GUARD = [
    Stranger("child of the source", source="create table kid () inherits ({t})",
             refused="inheritance", mends=True),
    Stranger("child of the target", target="create table kid () inherits ({t})",
             refused="inheritance"),
    Stranger("child that has children", source="create table kid () inherits ({t});"
             "create table grandkid () inherits (kid)", refused="inheritance", mends=True),
    Stranger("source that inherits", source="create table elder (event_id uuid not null);"
             "alter table {t} inherit elder", refused="inheritance", mends=True),
    Stranger("trigger after zzz", source=_trigger("zzzz_late", "before insert", _PASS),
             refused="late-trigger", mends=True),
    Stranger("trigger after every letter", source=_trigger('"~late"', "before insert", _PASS),
             refused="late-trigger", mends=True),
    Stranger("trigger with a Cyrillic name", source=_trigger('"ярлык"', "before insert", _PASS),
             refused="late-trigger", mends=True),
    Stranger("late trigger on update", source=_trigger("zzzz_late", "before update", _PASS),
             refused="late-trigger"),
    Stranger("late trigger for replicas",
             source=_trigger("zzzz_late", "before insert", _PASS)
             + "alter table {t} enable replica trigger zzzz_late", refused="late-trigger"),
    Stranger("late trigger at the target",
             target=_trigger("zzzz_late", "before update", _PASS), refused="late-trigger"),
    Stranger("trigger that routes", source="create table elsewhere (like {t} including defaults);"
             + _trigger("routes", "before insert",
                        "insert into elsewhere select new.*; return null;"),
             refused="diverting-trigger"),
    Stranger("trigger that routes by a made statement", source=_trigger(
        "routes", "before insert", "execute 'select 1'; RETURN\n NULL;"),
        refused="diverting-trigger"),
    Stranger("rule instead of insert", source="create rule no_more as on insert to {t} where"
             " new.aggregate_type = 'Old' do instead nothing", refused="rule", mends=True),
    Stranger("rule instead of delete", source="create rule kept as on delete to {t} do instead"
             " nothing", refused="rule", mends=True),
    Stranger("rule at the target", target="create table log (id uuid); create rule noted as on"
             " insert to {t} do also insert into log values (new.event_id)",
             refused="rule", mends=True),
    Stranger("generated tenant", both="alter table {t} drop column tenant_id;"
             "alter table {t} add column tenant_id uuid generated always as"
             " ((payload ->> 'tenant')::uuid) stored", refused="generated-key", seeded=False),
    Stranger("generated version", source="alter table {t} drop column version; alter table {t} add"
             " column version bigint generated always as ((payload ->> 'n')::bigint) stored",
             refused="generated-key", seeded=False),
]  # fmt: skip

#: Values that would be others, or that cannot be compared.
VALUES = [
    Stranger("plain to generated", source="alter table {t} add column kind text",
             target="alter table {t} add column kind text generated always as"
             " (payload ->> 'kind') stored", refused="generated-at-target", mends=True),
    Stranger("plain to virtual", source="alter table {t} add column kind text",
             target="alter table {t} add column kind text generated always as"
             " (payload ->> 'kind') virtual", refused="generated-at-target", mends=True),
    Stranger("generated from something else",
             source="alter table {t} add column kind text generated always as"
             " (payload ->> 'kind') stored",
             target="alter table {t} add column kind text generated always as"
             " (upper(payload ->> 'kind')) stored", refused="generated-differently", mends=True),
    Stranger("regclass", both="alter table {t} add column what regclass", refused="object-ids"),
    Stranger("oid of a large object", both="alter table {t} add column blob oid",
             refused="object-ids"),
    Stranger("array of regtype", both="alter table {t} add column what regtype[]",
             refused="object-ids"),
    Stranger("domain over oid", both="create domain lo as oid;"
             "alter table {t} add column blob lo", refused="object-ids"),
    Stranger("composite with regrole", both="create type who as (who regrole, n int);"
             "alter table {t} add column who who", refused="object-ids"),
    Stranger("oidvector", both="alter table {t} add column many oidvector", refused="object-ids"),
    Stranger("xid8 that nobody fills", both="alter table {t} add column seen xid8",
             refused="stamp-without-default", mends=True),
    Stranger("pg_lsn that nobody fills", both="alter table {t} add column seen pg_lsn",
             refused="stamp-without-default"),
    Stranger("cid", both="alter table {t} add column seen cid", refused="stamp-without-default"),
    Stranger("tid", both="alter table {t} add column seen tid", refused="stamp-without-default"),
    Stranger("pg_snapshot filled at the source only",
             both="alter table {t} add column seen pg_snapshot",
             source="alter table {t} alter seen set default pg_current_snapshot()",
             refused="stamp-without-default", mends=True),
    Stranger("txid_current() filled at the source only",
             both="alter table {t} add column seen bigint",
             source="alter table {t} alter seen set default txid_current()",
             refused="stamp-without-default", mends=True),
    Stranger("array of xid8", both="alter table {t} add column seen xid8[]",
             refused="stamp-inside"),
    Stranger("composite with pg_lsn", both="create type mark as (at pg_lsn);"
             "alter table {t} add column seen mark", refused="stamp-inside"),
    Stranger("aclitem", both="alter table {t} add column acl aclitem", refused="no-binary-form"),
    Stranger("aclitem[]", both="alter table {t} add column acl aclitem[]",
             refused="no-binary-form"),
    Stranger("composite with aclitem", both="create type granted as (n int, to_whom aclitem);"
             "alter table {t} add column granted granted[]", refused="no-binary-form"),
]  # fmt: skip

#: Columns that do not fit each other.
COLUMNS = [
    Stranger("column at the source only", source="alter table {t} add column region text",
             refused="missing-column", mends=True),
    Stranger("generated at the source only", source="alter table {t} add column kind text"
             " generated always as (payload ->> 'kind') stored", refused="missing-column",
             mends=True),
    Stranger("integer versions", source="alter table {t} alter version type integer",
             refused="different-type", mends=True),
    Stranger("shorter text", both="alter table {t} add column region varchar(20)",
             target="alter table {t} alter region type varchar(10)", refused="different-type",
             mends=True),
    Stranger("coarser time", source="alter table {t} alter created_at type timestamptz(3)",
             refused="different-type", mends=True),
    Stranger("finer numbers", both="alter table {t} add column price numeric(12, 4)",
             target="alter table {t} alter price type numeric(12, 2)", refused="different-type",
             mends=True),
    Stranger("collation", target='alter table {t} alter actor_id type text collate "C"',
             refused="different-type"),
    Stranger("enum of another schema", source=_MOOD + "alter table {t} add column m mood",
             target="create schema if not exists types;"
             "drop type if exists types.mood cascade;"
             "create type types.mood as enum ('glad', 'sad');"
             "alter table {t} add column m types.mood", refused="different-type"),
    Stranger("array and element", both="alter table {t} add column ns int[]",
             target="alter table {t} alter ns type bigint[]", refused="different-type",
             mends=True),
    Stranger("domain and base", source="create domain short as text;"
             "alter table {t} add column s short", target="alter table {t} add column s text",
             refused="different-type"),
    Stranger("composites of other attributes", source=_PAIR + "alter table {t} add column p pair",
             target="create type pair as (a bigint, b text); alter table {t} add column p pair",
             refused="different-type"),
    Stranger("array of composites of other attributes", source=_PAIR
             + "alter table {t} add column ps pair[]",
             target="create type pair as (a int, c text); alter table {t} add column ps pair[]",
             refused="different-type"),
    Stranger("array of composites in another order", source=_PAIR
             + "alter table {t} add column ps pair[]",
             target="create type pair as (b text, a int); alter table {t} add column ps pair[]",
             refused="different-type"),
    Stranger("composites of other lengths", source="create type priced as (p numeric(9, 2)[]);"
             "alter table {t} add column p priced", target="create type priced as"
             " (p numeric(9, 3)[]); alter table {t} add column p priced",
             refused="different-type"),
    Stranger("array of an enum without a label", source=_MOOD
             + "alter table {t} add column ms mood[]",
             target="create type mood as enum ('glad'); alter table {t} add column ms mood[]",
             refused="enum-labels", mends=True),
    Stranger("array of a domain that asks for more", source="create domain short as text;"
             "alter table {t} add column ss short[]",
             target="create domain short as text check (length(value) < 3);"
             "alter table {t} add column ss short[]", refused="domain-check"),
    Stranger("composites of other attributes, generated on both sides",
             source=_PAIR + "alter table {t} add column p pair generated always as"
             " (row(version, 'x')::pair) stored",
             target="create type pair as (a bigint, b text); alter table {t} add column p pair"
             " generated always as (row(version, 'x')::pair) stored",
             refused="generated-differently"),
    Stranger("enum without a label", source=_MOOD + "alter table {t} add column m mood",
             target="create type mood as enum ('glad'); alter table {t} add column m mood",
             refused="enum-labels", mends=True),
    Stranger("domain that asks for more", both="create domain short as text;"
             "alter table {t} add column s short",
             target="alter domain short add check (length(value) < 3)", refused="domain-check"),
    Stranger("domain that is not null", both="create domain short as text;"
             "alter table {t} add column s short",
             target="alter domain short set not null", refused="domain-check"),
    Stranger("NOT NULL at the target", target="alter table {t} alter actor_id set not null",
             refused="not-null", mends=True),
    Stranger("NOT NULL column of the target", target="alter table {t} add column r text not null",
             refused="not-null"),
    Stranger("default at the source only", both="alter table {t} add column r text not null"
             " default 'eu'", target="alter table {t} alter r drop default",
             refused="no-default", mends=True),
]  # fmt: skip

#: What the target would refuse, do besides, or run out of.
TARGETS = [
    Stranger("foreign key", both="create table kinds (name text primary key)",
             target="alter table {t} add foreign key (event_type) references kinds",
             refused="foreign-key", mends=True),
    Stranger("foreign key to itself", both="alter table {t} add column cause uuid",
             target="alter table {t} add foreign key (cause) references {t} (event_id)",
             refused="foreign-key", mends=True),
    Stranger("tenants without this one", target="create table tenants (id uuid primary key);"
             "alter table {t} add foreign key (tenant_id) references tenants",
             refused="foreign-key"),
    Stranger("check", target="alter table {t} add check (version < 1000)",
             refused="check-constraint", mends=True),
    Stranger("check that old rows need not meet",
             target="alter table {t} add check (event_type <> 'x') not valid",
             refused="check-constraint", mends=True),
    Stranger("exclusion", target="alter table {t} add exclude (created_at with =)",
             refused="exclusion-constraint", mends=True),
    Stranger("integer sequence", target="alter sequence {t_sequence} as integer",
             refused="sequence-end", mends=True),
    Stranger("tight maximum", target="alter sequence {t_sequence} maxvalue 5000",
             refused="sequence-end", mends=True),
    Stranger("positions that sessions keep", target="alter sequence {t_sequence} cache 20",
             refused="sequence-cache", mends=True),
    Stranger("second sequence that counts down",
             both="create sequence down increment -1; alter table {t} add column n bigint default"
             " nextval('down')", refused="other-sequence", mends=True),
    Stranger("second sequence at the target only", source="alter table {t} add column n bigint",
             target="alter table {t} add column n bigserial", refused="other-sequence"),
    Stranger("sequence from 0", source="alter sequence {t_sequence} minvalue -3 start -3 restart"
             " -3",
             refused="low-positions", mends=True),
    Stranger("sequence below 0", source="alter sequence {t_sequence} minvalue -9 start -9 restart"
             " -9", refused="low-positions"),
    Stranger("event at position 0", source="insert into {t} (global_position, event_id,"
             " aggregate_id, aggregate_type, event_type, tenant_id, version, timestamp, payload)"
             " values (0, gen_random_uuid(), gen_random_uuid(), 'A', 'A', '{tenant}', 1, now(),"
             " '{}')", refused="low-positions"),
    Stranger("event above the sequence", source="insert into {t} (global_position, event_id,"
             " aggregate_id, aggregate_type, event_type, tenant_id, version, timestamp, payload)"
             " values (7000000, gen_random_uuid(), gen_random_uuid(), 'A', 'A', '{tenant}', 1,"
             " now(), '{}')", refused="high-positions", mends=True),
    Stranger("published without an identity", target="alter table {t} replica identity nothing;"
             "drop publication if exists all_of_it; create publication all_of_it for table {t}",
             refused="no-replica-identity", mends=True),
    Stranger("published with a filter over another column",
             target="drop publication if exists some_of_it; create publication some_of_it for table"
             " {t} where (aggregate_type = 'x' and version > 0)",
             refused="no-replica-identity", mends=True),
    Stranger("published without its key", target="drop publication if exists some_of_it;"
             "create publication some_of_it for table {t} (event_type)",
             refused="no-replica-identity", mends=True),
    Stranger("published by a list with an identity of all columns",
             target="alter table {t} replica identity full; drop publication if exists some_of_it;"
             "create publication some_of_it for table {t} (global_position) where (version > 0)",
             refused="no-replica-identity", mends=True),
    Stranger("event trigger that forbids triggers",
             source=_forbidding("ddl_command_start when tag in ('CREATE TRIGGER')"),
             refused="event-trigger"),
    Stranger("event trigger that forbids drops", target=_forbidding("sql_drop"),
             refused="event-trigger"),
    Stranger("event trigger that forbids indexes",
             target=_forbidding("ddl_command_end when tag in ('CREATE INDEX')"),
             refused="event-trigger"),
    Stranger("unique at the target only",
             target="alter table {t} add constraint once unique (tenant_id, actor_id)",
             refused="unique-constraint", mends=True),
    Stranger("unique index at the target only",
             target='create unique index "only once" on {t} (tenant_id) where version = 1',
             refused="unique-constraint", mends=True),
    Stranger("unique of a part of the source's", source="create unique index on {t} (actor_id,"
             " tenant_id) where version > 5", target="create unique index on {t} (actor_id,"
             " tenant_id) where version > 4", refused="unique-constraint", mends=True),
    Stranger("unique over an expression",
             target="create unique index on {t} ((payload ->> 'order'), tenant_id)",
             refused="unique-constraint", mends=True),
    Stranger("unique that is checked late", both="alter table {t} add constraint once unique"
             " (event_id, tenant_id) deferrable initially deferred",
             refused="deferrable-constraint", mends=True),
    Stranger("exclusion that may be checked late", both="alter table {t} add constraint once"
             " exclude (event_id with =) deferrable", refused="deferrable-constraint", mends=True),
    Stranger("outbox trigger", target="create table outbox (id uuid);" + _trigger(
        "to_outbox", "after insert", "insert into outbox values (new.event_id); return null;"),
        refused="target-triggers"),
    Stranger("outbox trigger ALWAYS", target="create table outbox (id uuid);" + _trigger(
        "to_outbox", "after insert", "insert into outbox values (new.event_id); return null;")
        + "alter table {t} enable always trigger to_outbox", refused="target-triggers"),
    Stranger("trigger that fires for a migration only", target=_function(
        "of_theirs", "return null;") + "create trigger migrating after insert on {t} for each row"
        " when (current_setting('eventsource.migration', true) is not null)"
        " execute function of_theirs()", refused="target-triggers"),
    Stranger("trigger that steps aside or not", target=_function(
        "of_theirs", "return null;") + "create trigger either after insert on {t} for each row"
        " when (new.version > 1 or current_setting('eventsource.migration', true) is null)"
        " execute function of_theirs()", refused="target-triggers"),
    Stranger("trigger with the setting for an argument", target=_function(
        "of_theirs", "return null;") + "create trigger named after insert on {t} for each row"
        " execute function of_theirs('eventsource.migration is null')",
        refused="target-triggers"),
    Stranger("notifying statement trigger", target=_trigger(
        "notifies", "after insert", "perform pg_notify('events', ''); return null;",
        "statement"), refused="target-triggers"),
    Stranger("trigger that swallows", target=_trigger(
        "swallows", "before insert", "if new.version > 1 then return null; end if; return new;"),
        refused="target-triggers"),
    Stranger("trigger that stamps", target=_trigger(
        "stamps", "before insert", "new.actor_id := 'robot'; return new;"),
        refused="target-triggers"),
    Stranger("events that nobody may delete", target=_trigger(
        "immutable", "before update or delete", "raise exception 'events are immutable';"),
        refused="target-triggers"),
    *(
        Stranger(f"stream of two tenants, {kind}", source=_torn(whose, versions),
                 refused="mixed-streams")
        for kind, whose, versions in (
            ("the other amid", "v = 2", "{1, 2, 3}"),
            ("the other at first", "v = 1", "{1, 2, 3}"),
            ("the other at last", "v = 3", "{1, 2, 3}"),
        )
    ),
    Stranger("stream of two tenants, versions not unique", source='alter table {t} drop constraint'
             ' "{t_versions}";' + _torn("v = 2", "{1, 1, 2, 3}"), refused="mixed-streams"),
    Stranger("stream with an event of nobody", source=_torn("v = 2", "{1, 2, 3}", "null"),
             refused="mixed-streams"),
]  # fmt: skip

REFUSED = [*GUARD, *VALUES, *COLUMNS, *TARGETS]
