"""Tenants with a schema each: no more than one of their stores is the default one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from tests.support.command_line import CommandLine
from tests.support.fleet_worker import FleetWorker

TENANTS = ("tenant a", "tenant b", "tenant c")

DECLARED = """
[layouts.orders]
tenant = "whole"
tables = [{ table = "placed", key = ["id"], events = true }]
"""


class Schemas(CommandLine):
    """A store for each of the tenants at either side; the default one is nobody's."""

    def write_config(self, defaults: str = "", **changed: str) -> None:
        stores = f"[stores.shared]\ndsn = {json.dumps(self.source_dsn)}\n"
        for tenant in TENANTS:
            for name, dsn in ((tenant, self.source_dsn), (f"{tenant} alone", self.target_dsn)):
                stores += (
                    f"[stores.{json.dumps(name)}]\ndsn = {json.dumps(dsn)}\n"
                    f'schema = "{tenant}"\nlayout = "orders"\n'
                )
        self.config.write_text(
            f'default_store = "shared"\ncontrol = {{ dsn = {json.dumps(self.control_dsn)} }}\n'
            f"{stores}{DECLARED}"
        )


async def made(dsns: dict[str, str]) -> None:
    for side in ("source", "target"):
        connection = await asyncpg.connect(dsns[side])
        for tenant in TENANTS:
            await connection.execute(
                f'create schema "{tenant}"; create table "{tenant}".placed (id bigserial primary'
                " key, body text)"
            )
            if side == "source":
                await connection.execute(
                    f"insert into \"{tenant}\".placed (body) select 'x' from generate_series(1, 9)"
                )
        await connection.close()


@pytest.mark.timeout(300)
async def test_each_moves_from_the_store_that_is_all_its_own(
    dsns: dict[str, str], tmp_path: Path
) -> None:
    await made(dsns)
    shop = Schemas(dsns["source"], dsns["target"], dsns["control"], tmp_path)
    await asyncio.to_thread(_play, shop)


def _play(shop: Schemas) -> None:
    shop.write_config()
    shop("init")
    first, *others = TENANTS
    words = (first, "--from", first, "--to", f"{first} alone")
    assert shop.json("plan", *words)["events"] == 9
    shop("run", *words, "--yes")
    path = shop.directory / "tenants.csv"
    path.write_text("".join(f"{each},{each} alone,{each}\n" for each in others))
    assert shop.json("fleet", "plan", "night", "--file", path)["refused"] == {}
    shop("fleet", "start", "night")
    with FleetWorker(shop.config, "worker", "--until-done") as worker:
        assert worker.wait(120) == 0, worker.output()
    assert "2 moved" in worker.output()
    for each in TENANTS:
        assert shop.sql("target", f'select count(*) from "{each}".placed')[0][0] == 9
        route = "select store_id from tenant_routing where tenant_id = $1"
        assert shop.sql("control", route, each)[0][0] == f"{each} alone"
    assert shop("run", first, "--to", f"{first} alone", "--yes").output.startswith("nothing to do")
