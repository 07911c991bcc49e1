"""What the tables of somebody's database may be like, and what a move of theirs says to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts.reading import layout_of
from tests.support.fingerprint import fingerprint
from tests.support.worlds.layouts import SOURCE, TARGET, LayoutWorld, layout_world, rows

PLAIN = """
create table events (
    position bigint generated always as identity primary key,
    id uuid not null unique default gen_random_uuid(), tenant text not null, ext text, at date,
    data jsonb not null default '{}'
);
"""

World = Callable[..., AbstractAsyncContextManager[LayoutWorld]]


@pytest.fixture
def world_of(dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of a table like that, with more on one side or on both, and another declaration."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    @asynccontextmanager
    async def made(
        *, tables: str = PLAIN, both: str = "", source: str = "", target: str = "", **declared: Any
    ) -> AsyncIterator[LayoutWorld]:
        events: dict[str, Any] = {
            "table": "events", "events": True, "key": ["position"], "tenant": "tenant",
            "numbered": {"position": "own"},
        }  # fmt: skip
        layout = layout_of("strangers", {"tables": [{**events, **declared}]})

        async def make(connection: asyncpg.Connection) -> None:
            await connection.execute(tables + both)

        async with layout_world(layout, make, dsns) as world:
            for connection, more in ((world.source, source), (world.target, target)):
                if more:
                    await connection.execute(more)
            yield world

    return made


@dataclass(frozen=True)
class Refused:
    name: str
    says: str
    both: str = ""
    source: str = ""
    target: str = ""
    declared: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


#: A column of PostgreSQL that makes itself.
_MADE = "generated always as (data ->> '{}') stored"

#: A function of somebody's own, in the schema of their tables.
_OWNER_OF = (
    "create function owner_of(d jsonb) returns text language plpgsql immutable as"
    " $$ begin return d ->> 'tenant'; end $$"
)

REFUSED = [
    Refused("a key that may be null", 'alter column "ext" set not null',
            both="create unique index on events (tenant, ext)",
            declared={"key": ["tenant", "ext"], "numbered": {}}),
    Refused("a key that may be null at the target", "key of the target table",
            both="create unique index on events (tenant, ext);",
            source="alter table events alter column ext set not null",
            declared={"key": ["tenant", "ext"], "numbered": {}}),
    Refused("a scan by what may be null", "column at of the scan of the source table",
            both="create index on events (tenant, at)", declared={"scan": ["tenant", "at"]}),
    Refused("rows of the target that a publication cannot name", "replica identity full",
            target="alter table events drop constraint events_pkey; create unique index on events"
            " (position); create publication everything for all tables"),
    Refused("generated in another way", "is generated as text from (data ->> 'k'::text) in the",
            source=f"alter table events add column kind text {_MADE.format('k')}",
            target=f"alter table events add column kind text {_MADE.format('kind')}"),
    Refused("generated at the target alone", 'alter column "ext" drop expression',
            target="alter table events drop column ext, add column ext text "
            + _MADE.format("k")),
    Refused("a check of the target alone", 'drop constraint "late"',
            source="insert into events (tenant, at) values ('acme', '1999-01-01'); alter table"
            " events add constraint late check (at > '2000-01-01') not valid",
            target="alter table events add constraint late check (at > '2000-01-01')"),
    Refused("an exclusion of the target alone", 'drop constraint "one"',
            target="alter table events add constraint one exclude using gist"
            " (int8range(position, position, '[]') with &&)"),
    Refused("a label that the target's enum lacks", "alter type \"public\".\"mood\" add value 'c'",
            both="create type mood as enum ('a', 'b'); alter table events add column m mood[]",
            source="alter type mood add value 'c'"),
    Refused("a domain that is stricter at the target", "asks for CHECK ((VALUE > 0))",
            both="create domain size as int; alter table events add column s size",
            target="alter domain size add check (value > 0)"),
    Refused("a function without its schema", "stand with their schema, as in public.owner_of",
            both=_OWNER_OF, declared={"tenant": {"expression": "owner_of(data)"}}),
    Refused("a function that the target has not", "of the target cannot be",
            source=_OWNER_OF, declared={"tenant": {"expression": "public.owner_of(data)"}}),
    Refused("a function that calls another one without its schema", "function inner_of",
            both=_OWNER_OF.replace("owner_of", "inner_of") + ";" + _OWNER_OF.replace(
                "d ->> 'tenant'", "public.inner_of(d) || inner_of(d)"),
            source="insert into events (tenant) values ('acme')",
            declared={"tenant": {"expression": "public.owner_of(data)"}}),
    Refused("numbers that nobody declared", 'numbered = { position = "own" }',
            declared={"key": ["id"], "numbered": {}}),
    Refused("numbers that end at the target", "no maxvalue",
            target="alter sequence events_position_seq maxvalue 200"),
    Refused("numbers that are used up at the target", "ends at 9223372036854775807",
            target="select setval('events_position_seq', 9223372036854775800)"),
    Refused("numbers of a smaller type", "make the column a bigint",
            both="alter table events alter position type int",
            source="select setval('events_position_seq', 2147483000)",
            target="select setval('events_position_seq', 5)"),
    Refused("numbers that are texts", "numbered are numbers",
            both="create sequence s; alter table events add column no text default nextval('s')",
            declared={"numbered": {"no": "own:s"}}),
    Refused("numbers from 0 into a table in use", "has numbers below 1",
            both="alter sequence events_position_seq minvalue 0 restart 0",
            source="insert into events (tenant) values ('acme')",
            target="insert into events (tenant) values ('umbrella'), ('umbrella')"),
    Refused("numbers below 0 into a table in use", "move into an empty table",
            both="alter sequence events_position_seq minvalue -1000 restart -1000",
            source="insert into events (tenant) values ('acme')",
            target="insert into events (tenant) values ('umbrella')"),
    Refused("numbers that are counted downwards", "is counted downwards",
            both="alter sequence events_position_seq increment -1 minvalue -1000"),
]  # fmt: skip


_DIVIDED = (
    "drop table events; create table events (position bigint generated always as identity,"
    " tenant text not null, ext text, primary key (position, tenant)) partition by list (tenant);"
    " create table rest partition of events default partition by hash (position);"
    " create table rest_0 partition of rest for values with (modulus 1, remainder 0);"
)
_IN_A_LEAF: dict[str, Any] = {"both": _DIVIDED, "declared": {"key": ["position", "tenant"]}}
REFUSED += [
    Refused("a trigger of a leaf", 'alter table public.rest_0 disable trigger "late"',
            target="create function late() returns trigger language plpgsql as $$ begin new.ext :="
            " 'x'; return new; end $$; create trigger late before insert on rest_0 for each row"
            " execute function late()", **_IN_A_LEAF),
    Refused("a trigger between root and leaf", 'alter table public.rest disable trigger "late"',
            target="create function late() returns trigger language plpgsql as $$ begin return"
            " null; end $$; create trigger late after delete on rest for each row"
            " execute function late()", **_IN_A_LEAF),
    Refused("a check of a leaf", 'alter table public.rest_0 drop constraint "late"',
            target="alter table rest_0 add constraint late check (ext is null)", **_IN_A_LEAF),
    Refused("a leaf that a crash empties", "alter table public.rest_0 set logged",
            target="alter table rest_0 set unlogged", **_IN_A_LEAF),
    Refused("a leaf of the source that a crash empties", "partition public.rest_0 of the source",
            source="alter table rest_0 set unlogged", **_IN_A_LEAF),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=str)
async def test_what_would_fail_later_is_refused_before_anything_is_changed(
    world_of: World, case: Refused
) -> None:
    async with world_of(
        both=case.both, source=case.source, target=case.target, **case.declared
    ) as world:
        await world.refuses("acme", case.says)


async def test_a_tenant_moves_where_everything_is_published(world_of: World) -> None:
    async with world_of() as world:
        for connection in (world.source, world.target):
            await connection.execute("create publication everything for all tables")
        await world.source.execute("insert into events (tenant) values ('acme')")
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        await world.coordinators[0].abort_migration(migration.id)
        found = await world.coordinators[0].preflight(
            "acme", world.stores[SOURCE], world.stores[TARGET]
        )
        for side in ("source", "target"):
            assert any(f"of the {side} is published as well" in each for each in found.warnings)
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        await world.source.execute("insert into events (tenant) values ('acme')")
        await world.source.execute("update events set ext = 'x'")
        done = await world.coordinators[0].initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        here = await rows(world.source, "events", "true")
        assert await rows(world.target, "events", "true") == here


_FORBIDDING = (
    "create function forbid() returns event_trigger language plpgsql as $$ begin raise exception"
    " 'ask the DBA'; end $$; create event trigger forbids on {}"
)


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    "event",
    ["ddl_command_start", "ddl_command_start when tag in ('CREATE TRIGGER')",
     "ddl_command_end when tag in ('CREATE FUNCTION', 'DROP FUNCTION')", "sql_drop"],
)  # fmt: skip
async def test_event_triggers_that_forbid_what_a_move_makes_are_named(
    world_of: World, side: str, event: str
) -> None:
    async with world_of() as world:
        connection = getattr(world, side)
        await connection.execute(_FORBIDDING.format(event) + " execute function forbid()")
        before = await fingerprint(connection)
        with pytest.raises(PreflightError) as refused:
            await world.start("acme")
        assert f"event triggers of the {side} (forbids)" in str(refused.value)
        assert "ask the DBA" in str(refused.value)
        assert await fingerprint(connection) == before
        await connection.execute("alter event trigger forbids disable")
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        await world.coordinators[0].abort_migration(migration.id)


async def test_event_triggers_that_forbid_nothing_are_no_matter(world_of: World) -> None:
    async with world_of() as world:
        for connection in (world.source, world.target):
            await connection.execute(
                "create table log (tag text); create function note() returns event_trigger"
                " language plpgsql as $$ begin insert into public.log values (tg_tag); end $$;"
                " create event trigger notes on ddl_command_end execute function note()"
            )
        await world.source.execute("insert into events (tenant) values ('acme')")
        assert (await world.move("acme")).state is MigrationState.MIGRATED
        assert await world.source.fetchval("select count(*) from log where tag ~ 'TRIGGER'") > 0


async def test_numbers_below_1_arrive_in_a_table_that_is_empty(world_of: World) -> None:
    async with world_of(both="alter sequence events_position_seq minvalue -5 restart -5") as world:
        await world.source.execute(
            "insert into events (tenant) select 'acme' from generate_series(1, 20)"
        )
        assert (await world.move("acme")).state is MigrationState.MIGRATED
        here = await rows(world.source, "events", "true")
        assert await rows(world.target, "events", "true") == here


async def test_further_numbers_are_named_with_their_sequence(world_of: World) -> None:
    async with world_of(both="alter table events add column seq bigserial") as world:
        found = await world.coordinators[0].preflight(
            "acme", world.stores[SOURCE], world.stores[TARGET]
        )
        assert any("select setval('public.events_seq_seq', …)" in each for each in found.warnings)


async def test_what_the_target_does_not_generate_is_carried(world_of: World) -> None:
    made = "alter table events add column kind text " + _MADE.format("k")
    async with world_of(source=made, target="alter table events add column kind text") as world:
        await world.source.execute(
            """insert into events (tenant, data) select 'acme', '{"k": "paid"}' from"""
            " generate_series(1, 10)"
        )
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        await world.source.execute(
            """update events set data = '{"k": "late"}' where position > 5"""
        )
        await world.coordinators[0].initiate_cutover(migration.id)
        here = await rows(world.source, "events", "true")
        assert await rows(world.target, "events", "true") == here
        assert await world.target.fetchval("select count(distinct kind) from events") == 2


#: By what is done to the target's sequence: what mends it.
SEQUENCES = {
    "as integer": "as bigint minvalue 1 maxvalue 9223372036854775807",
    "maxvalue 3000000001": "as bigint minvalue 1 maxvalue 9223372036854775807",
    "increment -1 minvalue -9000000000 maxvalue 9000000000": "increment 1",
    "minvalue 4000000000 start 4000000000 restart 4000000000": "as bigint minvalue 1",
}


@pytest.mark.parametrize("change", SEQUENCES)
async def test_a_sequence_that_cannot_go_on_refuses_a_tenant_with_a_schema(
    change: str, dsns: dict[str, str]
) -> None:
    layout = layout_of(
        "alone",
        {
            "tenant": "whole",
            "tables": [{"table": "events", "key": ["position"], "events": True}],
        },
    )

    async with layout_world(layout, PLAIN, dsns) as world:
        await world.source.execute("select setval('events_position_seq', 3000000000)")
        mended = f'alter sequence "public"."events_position_seq" {SEQUENCES[change]}'
        await world.target.execute(f"alter sequence events_position_seq {change}")
        with pytest.raises(PreflightError) as refused:
            await world.start("acme")
        assert mended in str(refused.value)


async def test_what_an_earlier_version_has_made_gets_an_identity(world_of: World) -> None:
    async with world_of() as world:
        await world.source.execute("alter table eventsource_changes replica identity default")
        await world.stores[SOURCE].create_schema()
        assert (
            await world.source.fetchval(
                "select relreplident::text from pg_class where relname = 'eventsource_changes'"
            )
            == "f"
        )


async def test_what_a_leaf_has_and_no_carried_row_sets_off_is_no_matter(world_of: World) -> None:
    quiet = (
        "create function late() returns trigger language plpgsql as $$ begin return null; end $$;"
        " create trigger late after insert on rest_0 for each statement execute function late();"
        " create trigger off before insert on rest_0 for each row execute function late();"
        " alter table rest_0 disable trigger off; alter table rest_0 add check (ext <> 'x')"
    )
    known = "alter table rest_0 add check (ext <> 'x')"
    async with world_of(source=known, target=quiet, **_in_a_leaf()) as world:
        await world.source.execute("insert into events (tenant) values ('acme')")
        assert (await world.move("acme")).state is MigrationState.MIGRATED
        assert await world.target.fetchval("select count(*) from rest_0") == 1


def _in_a_leaf() -> dict[str, Any]:
    return {"both": _DIVIDED, "key": ["position", "tenant"]}
