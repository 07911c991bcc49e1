"""Two layouts in one schema: what stands beside the tables of one is none of the other's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from eventsource.migration import MigrationState, PreflightError, background
from eventsource.migration.layouts.reading import layout_of
from tests.support.worlds.layouts import LayoutWorld, layout_world, rows

#: Names whose beginnings are the same, and one that is cut within a letter.
PAIRS = [
    ("subscription_billing_events_eu_v1", "subscription_billing_events_eu_v2"),
    ("événements_des_abonnements_éu_1", "événements_des_abonnements_éu_2"),
    ("a" * 62 + "1", "a" * 62 + "2"),
]


@asynccontextmanager
async def _both(
    names: tuple[str, str], dsns: dict[str, str], shared: str | None = None
) -> AsyncIterator[list[LayoutWorld]]:
    async with AsyncExitStack() as stack:
        worlds: list[LayoutWorld] = []
        for name in names:
            tables: list[dict[str, Any]] = [
                {"table": name, "events": True, "key": ["id"], "tenant": "tenant"}
            ]
            if shared is not None:
                tables.insert(
                    0, {"table": shared, "key": ["id"], "tenant": "tenant", "written_by": "append"}
                )

            async def make(
                connection: asyncpg.Connection, tables: list[dict[str, Any]] = tables
            ) -> None:
                for each in tables:
                    await connection.execute(
                        f'create table if not exists "{each["table"]}" (id uuid primary key default'
                        " gen_random_uuid(), tenant text not null)"
                    )

            layout = layout_of(f"of_{len(worlds)}", {"tables": tables})
            worlds.append(await stack.enter_async_context(layout_world(layout, make, dsns)))
        yield worlds


@pytest.mark.parametrize("names", PAIRS, ids=lambda names: names[0][:20])
async def test_tables_whose_names_begin_the_same_have_guards_of_their_own(
    names: tuple[str, str], dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    async with _both(names, dsns) as worlds:
        moving = []
        for world, name in zip(worlds, names, strict=True):
            append = f"insert into \"{name}\" (tenant) select '{name}' from generate_series(1, 20)"
            await world.source.execute(append)
            moving.append((world, name, append, await world.start(name)))
            await world.reaches(moving[-1][3], MigrationState.DUAL_WRITE)
        for world, name, append, migration in moving:
            await world.source.execute(append)
            done = await world.coordinators[0].initiate_cutover(migration.id)
            assert done.state is MigrationState.MIGRATED
            here = await rows(world.source, f'"{name}"', "true")
            assert await rows(world.target, f'"{name}"', "true") == here
            assert len(here) == 40
        for world, _, append, _ in moving:
            with pytest.raises(asyncpg.PostgresError) as refused:
                await world.source.execute(append)
            assert refused.value.sqlstate == "EVF01"


async def test_a_table_of_two_layouts_keeps_the_guard_that_it_has(
    dsns: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "POLL_SECONDS", 0.01)
    async with _both(("orders", "invoices"), dsns, shared="streams") as (orders, invoices):
        for name in ("streams", "orders", "invoices"):
            await orders.source.execute(f"insert into {name} (tenant) values ('acme')")
            await orders.source.execute(f"insert into {name} (tenant) values ('umbrella')")
        migration = await orders.start("acme")
        await orders.reaches(migration, MigrationState.DUAL_WRITE)
        with pytest.raises(PreflightError, match="guarded for tenants of another layout"):
            await invoices.start("umbrella")
        await orders.source.execute("insert into streams (tenant) values ('acme')")
        done = await orders.coordinators[0].initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        assert await rows(orders.target, "streams", "true") == await rows(
            orders.source, "streams", "tenant = 'acme'"
        )
