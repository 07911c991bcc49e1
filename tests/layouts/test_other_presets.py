"""A tenant of message-db, of Rails Event Store and of Emmett moves live, each as it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg
import pytest

from eventsource.migration import MigrationState, background
from eventsource.migration.layouts.presets import presets
from tests.support import others
from tests.support.worlds.layouts import layout_world


@dataclass(frozen=True)
class Library:
    """``rows`` are queries over the tenant's rows, without what each side fills for itself."""

    preset: str
    tables: str
    append: others.Append
    rows: tuple[str, ...]
    ids: str

    def __str__(self) -> str:
        return self.preset


LIBRARIES = [
    Library(
        "message-db", others.MESSAGE_DB, others.to_message_db,
        (
            "select to_jsonb(t)::text from message_store.messages t"
            " where stream_name like $1 || ':%'",
        ),
        "select id::text from message_store.messages",
    ),
    Library(
        "rails-event-store", others.RAILS, others.to_rails,
        (
            "select to_jsonb(t)::text from event_store_events t"
            " where metadata ->> 'tenant_id' = $1",
            "select to_jsonb(s)::text from event_store_events_in_streams s join event_store_events"
            " t using (event_id) where metadata ->> 'tenant_id' = $1",
        ),
        "select event_id::text from event_store_events",
    ),
    Library(
        "emmett", others.EMMETT, others.to_emmett,
        (
            "select (to_jsonb(t) - 'transaction_id')::text from emt_messages t"
            " where partition = $1",
            "select to_jsonb(t)::text from emt_streams t where partition = $1",
        ),
        "select message_id from emt_messages",
    ),
]  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
async def test_a_tenant_moves_while_it_writes_and_an_abort_leaves_nothing(
    library: Library, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(library.tables)

    async with layout_world(presets()[library.preset], make, dsns) as world:
        for tenant in ("acme", "umbrella"):
            for number in range(40):
                await library.append(world.source, tenant, f"s{number % 4}")
        await world.leaves_nothing_when_aborted("acme")

        async with others.Writers(dsns["source"], library.append, ["acme", "umbrella"]) as writers:
            await asyncio.sleep(0.3)
            moved = await world.move("acme")
            await asyncio.sleep(0.3)
        assert moved.state is MigrationState.MIGRATED
        assert writers.errors == []
        assert writers.sent_on == {"acme": 2, "umbrella": 0}
        for query in library.rows:
            here, there = [
                sorted(row[0] for row in await each.fetch(query, "acme"))
                for each in (world.source, world.target)
            ]
            assert here == there
            assert len(here) > 0
            assert await world.target.fetch(query, "umbrella") == []
        held = {row[0] for row in await world.target.fetch(library.ids)}
        assert set(writers.acknowledged["acme"]) <= held
        if library.preset == "emmett":
            # Readers go by transaction and position: all that was carried came before what follows.
            carried = await world.target.fetch("select distinct transaction_id from emt_messages")
            assert len(carried) == 1
        await library.append(world.target, "acme", "s1")
        await library.append(world.source, "umbrella", "s1")


#: Everything that a name can do to a statement, at once; and names that differ in little from it.
HOSTILE = 'o\'brien \\ $guard$; select $guard$ %1$I %s {0} {on}\n"quoted" тенант 租户'
NEARLY = [HOSTILE + " ", HOSTILE.replace("\\", "\\\\"), HOSTILE.upper()]


@pytest.mark.parametrize("library", LIBRARIES, ids=str)
async def test_a_tenant_of_any_name_moves_and_no_other_does(
    library: Library, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(library.tables)
        if library.preset == "emmett":
            await connection.execute(
                "create table emt_streams_rest partition of emt_streams default;"
                "create table emt_messages_rest partition of emt_messages default"
            )

    async with layout_world(presets()[library.preset], make, dsns) as world:
        for tenant in (HOSTILE, *NEARLY):
            for _ in range(3):
                await library.append(world.source, tenant, "s")
        migration = await world.start(HOSTILE)
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        for tenant in (HOSTILE, *NEARLY):
            await library.append(world.source, tenant, "late")
        await world.coordinators[0].initiate_cutover(migration.id)
        moved = await world.target.fetch(library.ids)
        assert len(moved) == 4
        with pytest.raises(asyncpg.PostgresError) as refused:
            await library.append(world.source, HOSTILE, "late")
        assert refused.value.sqlstate == "EVF01"
        for tenant in NEARLY:
            await library.append(world.source, tenant, "late")
        await library.append(world.target, HOSTILE, "late")
