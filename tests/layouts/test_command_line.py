"""The verbs with tables of another library, for a tenant whose name a shell would split."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from uuid import uuid4

import asyncpg

from eventsource.testing import Cluster
from tests.support import marten
from tests.support.command_line import CommandLine

TENANT = "o'brien & sons\n$guard$"


class Shop(CommandLine):
    """Two stores with Marten's tables."""

    def write_config(self, defaults: str = "", **changed: str) -> None:
        self.config.write_text(
            'default_store = "shared"\n'
            f"control = {{ dsn = {json.dumps(self.control_dsn)} }}\n"
            f'[stores.shared]\ndsn = {json.dumps(self.source_dsn)}\nlayout = "marten"\n'
            f'[stores.dedicated]\ndsn = {json.dumps(self.target_dsn)}\nlayout = "marten"\n'
        )


async def prepared(dsns: dict[str, str]) -> None:
    for side in ("source", "target"):
        connection = await asyncpg.connect(dsns[side])
        await marten.make(connection)
        if side == "source":
            for tenant in (TENANT, "umbrella"):
                for _ in range(5):
                    await marten.append(connection, tenant, uuid4(), 3)
        await connection.close()


async def test_the_verbs_work_with_a_layout(dsns: dict[str, str], tmp_path: Path) -> None:
    await prepared(dsns)
    await asyncio.to_thread(_use, Shop(dsns["source"], dsns["target"], dsns["control"], tmp_path))


async def test_what_init_would_make_beside_the_tables_of_a_library_is_shown_as_sql(
    dsns: dict[str, str], tmp_path: Path, source_cluster: Cluster
) -> None:
    await prepared(dsns)
    shop = Shop(dsns["source"], dsns["target"], dsns["control"], tmp_path)
    await asyncio.to_thread(_look_before_init, shop, source_cluster.program("psql"))


def _look_before_init(shop: Shop, psql: Path) -> None:
    shop.write_config()
    lacking = shop("init", "--check", exit_code=1).output
    assert re.search(r"store shared +\d+ to run: ", lacking), lacking
    parts = shop.json("init", "--print-sql")["parts"]
    dsns = [shop.control_dsn, shop.source_dsn, shop.target_dsn, shop.control_dsn]
    for part, dsn in zip(parts, dsns, strict=True):
        subprocess.run(
            [psql, "-q", "-v", "ON_ERROR_STOP=1", "-1", dsn], text=True, check=True,
            input="".join(f"{statement};\n" for statement in part["pending"]),
            capture_output=True,
        )  # fmt: skip
    assert shop.json("init", "--check")["is_complete"]
    assert shop.json("init", "--print-sql")["parts"] == [{**part, "pending": []} for part in parts]


def _use(shop: Shop) -> None:
    shop.write_config()
    assert "mt_streams, key (tenant_id, id)" in shop("layouts", "marten").output
    assert "emmett" in shop("layouts").output
    assert shop("layouts", "nothing", exit_code=2).exit_code == 2
    shop("init")
    shop("init")
    planned = shop.json("plan", TENANT, "--to", "dedicated")
    assert planned["events"] == 15
    assert "mt_events.seq_id" in planned["columns"]
    assert planned["waits"] == "writers of this tenant wait"
    assert "at the fence" in shop("plan", TENANT, "--to", "dedicated").output
    shop("run", TENANT, "--to", "dedicated", "--yes")
    assert "nothing to do" in shop("run", TENANT, "--to", "dedicated", "--yes").output
    for level in ("count", "hash", "full"):
        said = shop("verify", TENANT, "--level", level).output
        assert re.search(r"consistent: \d+ rows, level", said), said
    assert len(shop.json("list", "--tenant", TENANT)) == 1
    assert shop.json("list", "--tenant", "umbrella") == []
    # What the application writes there now is none of the comparison's business.
    shop.sql("target", "update mt_events set is_archived = true where version = 1")
    shop.sql(
        "target",
        "select mt_quick_append_events(id, 'order', tenant_id, array[gen_random_uuid()],"
        " array['placed'], array['Placed'], array['{}'::jsonb]) from mt_streams limit 1",
    )
    for level in ("count", "full"):
        assert "consistent: " in shop("verify", TENANT, "--level", level).output
    shop.sql("target", "delete from mt_events where seq_id = 2")
    found = shop.json("verify", TENANT, exit_code=4)
    assert found["differences"][0]["table"] == "mt_events"
    assert found["differences"][0]["key"] == "[2]"
    assert "is not at the target" in shop("verify", TENANT, exit_code=4).output
