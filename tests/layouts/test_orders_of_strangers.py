"""Databases of other encodings, and columns whose order is another one on the other side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.reading import layout_of
from eventsource.named_sql import text
from eventsource.stores.beside import SCRIPTS
from eventsource.testing import Cluster
from tests.support.fingerprint import fingerprint
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows


def _layout(**more: object) -> Layout:
    events = {"table": "events", "events": True, "key": ["id"], "tenant": "tenant", **more}
    return layout_of("ordered", {"tables": [events]})


@pytest.fixture
async def encoded(
    request: pytest.FixtureRequest,
    source_cluster: Cluster,
    target_cluster: Cluster,
    control_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[dict[str, str]]:
    """Databases of these encodings at the source and at the target."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    dsns = {"control": control_dsn}
    made = []
    clusters = {"source": source_cluster, "target": target_cluster}
    for (side, cluster), encoding in zip(clusters.items(), request.param, strict=True):
        connection = await asyncpg.connect(cluster.dsn())
        name = f"encoded_{side}"
        await connection.execute(
            f"create database {name} template template0 encoding '{encoding}' locale 'C'"
        )
        await connection.close()
        dsns[side] = cluster.dsn(name)
        made.append((cluster, name))
    yield dsns
    for cluster, name in made:
        await cluster.drop_database(name)


#: Letters that these encodings have in another order than Unicode.
_LETTERS = {"LATIN1": "aéÿ", "WIN1252": "€éaž", "KOI8R": "юабцд", "UTF8": "€éaž"}

ENCODINGS = [("LATIN1", "LATIN1"), ("WIN1252", "UTF8"), ("KOI8R", "UTF8"), ("UTF8", "WIN1252")]


@pytest.mark.parametrize("encoded", ENCODINGS, ids=" to ".join, indirect=True)
async def test_a_tenant_moves_between_databases_of_any_encoding(
    encoded: dict[str, str], request: pytest.FixtureRequest
) -> None:
    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "create table events (id text primary key, tenant text not null, n int)"
        )

    letters = _LETTERS[request.node.callspec.params["encoded"][0]]
    tenant = f"tenant {letters[-1]}"
    async with layout_world(_layout(), make, encoded, batch_size=1) as world:
        for number in range(120):
            await _add(world, letters[number % len(letters)], tenant, number)
        migration = await world.start(tenant)
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        for number in range(120, 160):
            await _add(world, letters[number % len(letters)], tenant, number)
        done = await world.coordinators[0].initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        here = await rows(world.source, "events", "true")
        assert sorted(await rows(world.target, "events", "true")) == sorted(here)
        assert len(here) == 160


async def _add(world: LayoutWorld, letter: str, tenant: str, number: int) -> None:
    await world.source.execute(
        "insert into events values ($1, $2, $3)", f"{letter}{number}", tenant, number
    )


def test_every_script_is_one_for_databases_of_any_encoding() -> None:
    for file in SCRIPTS:
        assert text("eventsource.stores", f"sql/{file}").isascii(), file


@dataclass(frozen=True)
class Differs:
    name: str
    both: str
    target: str
    value: str

    def __str__(self) -> str:
        return self.name


_KINDS = "create type kind as enum ('a', 'b', 'c'); alter table events alter k type kind using 'a'"
DIFFERS = [
    Differs("labels of an enum", _KINDS,
            "alter table events alter k type text; drop type kind; create type kind as enum"
            " ('c', 'a', 'b'); alter table events alter k type kind using k::kind",
            "(array['a', 'b', 'c'])[1 + $2 % 3]::kind"),
    Differs("a collation of the column", 'alter table events alter k type text collate "C"',
            'alter table events alter k type text collate "default"',
            "(array['a', 'B', 'é'])[1 + $2 % 3]"),
    Differs("texts under a domain", "create domain slug as text; alter table events alter k type"
            " slug", "select 1", "(array['a', 'B', 'é'])[1 + $2 % 3]"),
    Differs("arrays", "alter table events alter k type text[] using array[k]", "select 1",
            "array[(array['a', 'B', 'é'])[1 + $2 % 3]]"),
]  # fmt: skip


@pytest.mark.parametrize("case", DIFFERS, ids=str)
async def test_rows_are_read_by_columns_that_both_sides_sort_the_same_way(
    case: Differs, dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "create table events (id uuid primary key default gen_random_uuid(),"
            f" tenant text not null, k text not null, n int not null); {case.both};"
            " create unique index on events (tenant, k, n)"
        )

    async with layout_world(_layout(), make, dsns, batch_size=1) as world:
        await world.target.execute(case.target)
        for number in range(120):
            await world.source.execute(
                f"insert into events (tenant, k, n) select $1, {case.value}, $2::int",
                "acme", number,
            )  # fmt: skip
        assert (await world.move("acme")).state is MigrationState.MIGRATED
        here = await rows(world.source, "events", "true")
        assert await rows(world.target, "events", "true") == here


async def test_a_key_may_hold_an_enum_whose_labels_are_in_another_order(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)

    async def make(connection: asyncpg.Connection) -> None:
        at_target = connection.get_server_version().major >= 18
        labels = "'closed', 'open', 'a'" if at_target else "'a', 'open', 'closed'"
        await connection.execute(
            f"create type kind as enum ({labels}); create table events (tenant text not null,"
            " k kind not null, n int not null, data text, primary key (k, n))"
            " partition by list (k);"
            " create table ended partition of events for values in ('closed');"
            " create table others partition of events default"
        )

    async with layout_world(_layout(key=["k", "n"]), make, dsns, batch_size=1) as world:
        add = "insert into events select 'acme', (enum_range(null::kind))[1 + $1 % 3], $1"
        for number in range(90):
            await world.source.execute(add, number)
        migration = await world.start("acme")
        await world.reaches(migration, MigrationState.DUAL_WRITE)
        await world.source.execute("update events set k = 'closed' where k = 'open' and n % 2 = 0")
        await world.source.execute("delete from events where n % 7 = 0")
        done = await world.coordinators[0].initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        here = await rows(world.source, "events", "true")
        assert sorted(await rows(world.target, "events", "true")) == sorted(here)
        assert len(here) == 77


async def test_a_scan_by_what_may_be_in_another_order_is_refused(dsns: dict[str, str]) -> None:
    async def make(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "create type kind as enum ('a', 'b'); create table events (id uuid primary key,"
            " tenant text not null, k kind not null); create index on events (tenant, k)"
        )

    async with layout_world(_layout(scan=["tenant", "k"]), make, dsns) as world:
        before = [await fingerprint(each) for each in (world.source, world.target, world.control)]
        with pytest.raises(PreflightError, match="column k of the scan"):
            await world.start("acme")
        after = [await fingerprint(each) for each in (world.source, world.target, world.control)]
        assert after == before
