"""Foreign keys of a target: to rows of the same table, and to tables that no layout carries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.journaled import large_pass, passes
from eventsource.migration.layouts.reading import layout_of
from tests.support.fingerprint import fingerprint
from tests.support.waiting import until
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

CAUSED = """
create table events (
    {key} primary key, id uuid not null unique default gen_random_uuid(), tenant text not null,
    n int not null, cause {type} references events {rule}, unique (tenant, id)
);
"""

KINDS = """
create table kinds (a int, b text, primary key (a, b));
create table events (
    position bigint generated always as identity primary key, tenant text not null,
    a int default 1, b text default 'é', foreign key (a, b) references kinds (a, b) {rule}
);
"""


@asynccontextmanager
async def _world(
    tables: str, dsns: dict[str, str], key: str = "position", **settings: Any
) -> AsyncIterator[LayoutWorld]:
    events: dict[str, Any] = {"table": "events", "events": True, "key": [key], "tenant": "tenant"}
    if key == "position":
        events["numbered"] = {"position": "own"}
        events["numbered"] |= {"cause": "like:events"} if "cause bigint" in tables else {}

    layout = layout_of("referring", {"tables": [events]})
    async with layout_world(layout, tables, dsns, **settings) as world:
        yield world


_CHAIN = (
    "insert into events (tenant, n, cause) select 'acme', $1, (select {key} from events"
    " where tenant = 'acme' and n = $1 - 1)"
)


async def _chain(world: LayoutWorld, key: str, first: int, last: int) -> None:
    for n in range(first, last):
        await world.source.execute(_CHAIN.format(key=key), n)


@pytest.mark.parametrize("rule", ["", "on delete cascade", "deferrable initially deferred"])
async def test_causes_are_written_before_their_effects_and_stay_when_they_change(
    rule: str, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    tables = CAUSED.format(
        key="position bigint generated always as identity", type="bigint", rule=rule
    )
    async with _world(tables, dsns, batch_size=2) as world:
        await _chain(world, "position", 0, 150)
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        # Others that did not change refer to what changes: in a pass over few keys and over many.
        await world.source.execute("update events set n = n where n % 50 = 1")
        await asyncio.sleep(0.2)
        with monkeypatch.context() as many:
            many.setattr(passes, "EXACT_KEYS", 0)
            many.setattr(large_pass, "PORTION", 7)
            await world.source.execute("update events set n = n where n % 3 = 1")
            await _chain(world, "position", 150, 190)
            await asyncio.sleep(0.4)
        await world.source.execute("update events set n = n where n < 100")
        done = await world.coordinators[0].initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        here = await rows(world.source, "events", "true")
        assert await rows(world.target, "events", "true") == here
        assert len(here) == 190


async def test_many_rows_without_an_order_among_them_are_refused(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    tables = CAUSED.format(key="name uuid default gen_random_uuid()", type="uuid", rule="")
    async with _world(tables, dsns, key="name") as world:
        await _chain(world, "name", 0, 50)
        assert (await world.move("acme")).state is MigrationState.MIGRATED
        assert len(await rows(world.target, "events", "true")) == 50
        await world.source.execute(
            "insert into events (tenant, n) select 'umbrella', i from generate_series(1, 1001) i"
        )
        with pytest.raises(PreflightError, match='drop constraint "events_cause_fkey"'):
            await world.start("umbrella")


async def test_a_reference_to_a_number_that_is_moved_is_one_of_a_layout(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    tables = CAUSED.format(
        key="position bigint generated always as identity", type="bigint", rule=""
    )
    async with _world(tables, dsns) as world:
        await _chain(world, "position", 0, 5)
        declared = world.layout
        [events] = declared.tables
        less = replace(declared, tables=(replace(events, numbered=events.numbered[:1]),))
        for store in world.stores.values():
            store.layout = less
        with pytest.raises(PreflightError, match=r'numbered = \{ cause = "like:events" \}'):
            await world.start("acme")
        for store in world.stores.values():
            store.layout = declared
        # Where the target is in use, the numbers are others.
        await world.target.execute("insert into events (tenant, n) values ('umbrella', 7)")
        await world.move("acme")
        causes = await world.target.fetch(
            "select e.n, c.n as before from events e join events c on c.position = e.cause"
            " where e.tenant = 'acme' order by 1"
        )
        assert [tuple(row) for row in causes] == [(n, n - 1) for n in range(1, 5)]


@pytest.mark.parametrize(
    ("more", "rows_of_both", "says"),
    [("", "", "declare streams before it"),
     ("alter table streams add column last uuid references events", "", None),
     ("alter table streams add column last uuid references events",
      "; update streams set last = (select id from events)", "so neither can be written first")],
    ids=["in the wrong order", "in a circle that nobody uses", "in a circle"],
)  # fmt: skip
async def test_tables_that_others_refer_to_are_declared_first(
    more: str, rows_of_both: str, says: str | None, dsns: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    tables: list[dict[str, Any]] = [
        {"table": "events", "events": True, "key": ["id"], "tenant": "tenant"},
        {"table": "streams", "key": ["id"], "tenant": "tenant", "written_by": "append"},
    ]
    if more:
        tables.reverse()

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "create table streams (id uuid primary key, tenant text not null); create table events"
            " (id uuid primary key, tenant text not null, stream uuid references streams);" + more
        )

    async with layout_world(layout_of("two", {"tables": tables}), make, dsns) as world:
        await world.source.execute(
            "insert into streams values (gen_random_uuid(), 'acme'); insert into events select"
            " gen_random_uuid(), 'acme', id from streams" + rows_of_both
        )
        if says is None:
            assert (await world.move("acme")).state is MigrationState.MIGRATED
            return
        with pytest.raises(PreflightError, match=says):
            await world.start("acme")


#: The same, and divided: of a foreign key there is one for each partition then.
DIVIDED = KINDS.replace(
    "create table events",
    "create table kinds_1 partition of kinds for values in (1);"
    " create table kinds_2 partition of kinds default; create table events",
).replace("primary key (a, b));", "primary key (a, b)) partition by list (a);")


@pytest.mark.parametrize(
    ("tables", "rule"), [(KINDS, ""), (KINDS, "deferrable initially deferred"), (DIVIDED, "")]
)
async def test_what_no_table_of_the_layout_carries_has_to_be_there(
    tables: str, rule: str, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    async with _world(tables.format(rule=rule), dsns) as world:
        await world.source.execute("insert into kinds values (1, 'é'), (2, 'o''x')")
        for tenant in ("acme", "umbrella"):
            await world.source.execute("insert into events (tenant) values ($1)", tenant)
        await world.source.execute("insert into events (tenant, a) values ('acme', null)")
        before = [await fingerprint(each) for each in (world.source, world.target, world.control)]
        with pytest.raises(PreflightError, match=r"row of public\.kinds for a = 1, b = é"):
            await world.start("acme")
        after = [await fingerprint(each) for each in (world.source, world.target, world.control)]
        assert after == before
        await world.target.execute("insert into kinds values (1, 'é')")
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        # What comes meanwhile is waited for.
        await world.source.execute("insert into events values (default, 'acme', 2, 'o''x')")

        async def waits() -> bool:
            found = await world.coordinators[0].get_migration(migration.id)
            return "goes on by itself" in (found.error_message or "")

        await until(waits, "the migration to say what it waits for")
        await world.target.execute("insert into kinds values (2, 'o''x')")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        done = await world.coordinators[0].initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        here = await rows(world.source, "events", "tenant = 'acme'")
        assert await rows(world.target, "events", "true") == here
        assert len(here) == 3
