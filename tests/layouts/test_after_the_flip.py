"""What the verbs say and do once a tenant has moved in another library's tables."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from tests.support import marten, others
from tests.support.command_line import CommandLine, wait_until

#: A shop that refers to its events by two columns, and whose links have the tenant by reference.
TABLES = """
create table accounts (tenant text, no bigint, primary key (tenant, no));
create sequence placed_at;
create table placed (at bigint, region int, tenant text not null, no bigint,
                     primary key (at, region),
                     foreign key (tenant, no) references accounts on delete cascade);
create table links (id bigint generated always as identity primary key, at bigint not null,
                    region int not null, foreign key (at, region) references placed);
"""

DECLARED = """
[[layouts.shop.tables]]
table = "accounts"
key = ["tenant", "no"]
tenant = "tenant"
written_by = "append"
[[layouts.shop.tables]]
table = "placed"
events = true
key = ["at", "region"]
tenant = "tenant"
numbered = { at = "own:placed_at" }
[[layouts.shop.tables]]
table = "links"
key = ["id"]
tenant = { through = "placed", columns = ["at", "region"], referenced = ["at", "region"] }
numbered = { id = "own", at = "like:placed" }
written_by = "append"
"""


async def to_shop(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    async with connection.transaction():
        number = int(stream.removeprefix("s"))
        await connection.execute(
            "insert into accounts values ($1, $2) on conflict do nothing", tenant, number
        )
        at = await connection.fetchval(
            "insert into placed values (nextval('placed_at'), 1, $1, $2) returning at",
            tenant, number,
        )  # fmt: skip
        await connection.execute("insert into links (at, region) values ($1, 1)", at)
    return str(at)


async def to_marten(connection: asyncpg.Connection, tenant: str, stream: str) -> str:
    return str((await marten.append(connection, tenant, uuid4()))[0])


@dataclass(frozen=True)
class Kind:
    """``old`` are the tenant's rows by table, those first that refer to others."""

    name: str
    tables: str
    append: others.Append
    old: tuple[str, ...]
    tenant: str
    declared: str = ""

    def __str__(self) -> str:
        return self.name


KINDS = [
    Kind(
        "marten", marten.TABLES.replace("{s}", "public"), to_marten,
        ("mt_events where tenant_id = 'acme'", "mt_streams where tenant_id = 'acme'"),
        '"tenant_id"::text',
    ),
    Kind(
        "message-db", others.MESSAGE_DB, others.to_message_db,
        ("message_store.messages where stream_name like 'acme:%'",),
        "(split_part(stream_name, ':', 1))::text",
    ),
    Kind(
        "shop", TABLES, to_shop,
        ("links l using placed p where p.at = l.at and p.tenant = 'acme'",
         "placed where tenant = 'acme'", "accounts where tenant = 'acme'"),
        '"tenant"::text', DECLARED,
    ),
]  # fmt: skip


class Shop(CommandLine):
    """Two stores with the tables of a layout."""

    kind: Kind

    def write_config(self, defaults: str = "", **changed: str) -> None:
        stores = "".join(
            f'[stores.{name}]\ndsn = {json.dumps(dsn)}\nlayout = "{self.kind}"\n'
            for name, dsn in (("shared", self.source_dsn), ("dedicated", self.target_dsn))
        )
        self.config.write_text(
            f'default_store = "shared"\ncontrol = {{ dsn = {json.dumps(self.control_dsn)} }}\n'
            f"{stores}{self.kind.declared}"
        )


async def _in(
    kind: Kind, dsns: dict[str, str], directory: Path, play: Callable[[Shop], None]
) -> None:
    for side in ("source", "target"):
        connection = await asyncpg.connect(dsns[side])
        await connection.execute(kind.tables)
        if side == "source":
            for tenant in ("acme", "umbrella"):
                for number in range(6):
                    await kind.append(connection, tenant, f"s{number % 2}")
        await connection.close()
    shop = Shop(dsns["source"], dsns["target"], dsns["control"], directory)
    shop.kind = kind
    shop.write_config()
    await asyncio.to_thread(play, shop)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_tenant_goes_back_as_every_verb_says_that_refuses_to_take_it(
    kind: Kind, dsns: dict[str, str], tmp_path: Path
) -> None:
    def play(shop: Shop) -> None:
        shop("init")
        shop("start", "acme", "--to", "dedicated")
        assert "cannot return" in shop("return", "--tenant=acme", exit_code=1).output
        shop("abort", "--tenant=acme", "--yes")
        shop("run", "acme", "--to", "dedicated", "--yes")
        said = [
            shop("return", "--tenant=acme", "--yes", exit_code=1).output,
            shop("cleanup", "--tenant=acme", exit_code=1).output,
            shop("plan", "acme", "--to", "shared", exit_code=3).output,
        ]
        way = shop("way-back", "status", "--tenant=acme", exit_code=1).output
        assert "run --keep-way-back" not in way
        [setting] = {
            command for text in said for command in re.findall(r"`(set event[^`]*)`", text)
        }
        for each in kind.old:
            with pytest.raises(asyncpg.PostgresError, match="has moved"):
                shop.sql("source", f"delete from {each}")
            shop.sql("source", f"do $$ begin {setting}; delete from {each}; end $$")
            # Of some of them, too: what is left says nothing.
            assert "nothing left to compare" in shop("verify", "acme", exit_code=1).output
        for level in ("count", "hash", "full"):
            compared = shop("verify", "acme", "--level", level, exit_code=1).output
            assert "there is nothing left to compare with" in compared
        shop("run", "acme", "--to", "shared", "--yes")
        assert "consistent: " in shop("verify", "acme", "--level", "full").output

    await _in(kind, dsns, tmp_path, play)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_rows_are_called_rows_and_the_report_names_the_tables(
    kind: Kind, dsns: dict[str, str], tmp_path: Path
) -> None:
    def play(shop: Shop) -> None:
        shop("init")
        ran = shop("run", "acme", "--to", "dedicated", "--yes", "--rehearse").output
        migration = shop.json("list")[0]["id"]
        report = shop("report", migration).output
        tables = [re.split(r"[ .]", each.replace("message_store.", ""))[0] for each in kind.old]
        for said in (ran, report, *(shop(verb, migration).output for verb in ("status", "lag"))):
            assert re.search(r"\d row", said), said
            assert not re.search(r"\d events?\b", said), said
        [named] = re.findall(r"^tables +(.*)$", report, re.MULTILINE)
        assert set(named.split(", ")) == set(tables)
        source = shop.json("report", migration)["stores"]["source"]
        assert set(source["tables"]) == set(tables)

    await _in(kind, dsns, tmp_path, play)


async def test_nobody_is_sent_to_carry_subscriptions_that_read_no_such_tables(
    dsns: dict[str, str], tmp_path: Path
) -> None:
    def play(shop: Shop) -> None:
        shop("init")
        ran = shop("--json", "run", "acme", "--to", "dedicated", "--yes")
        commands = [each["command"] for each in json.loads(ran.stdout)["next"]]
        assert commands == [f"eventsource-migrate report {shop.json('list')[0]['id']}"]
        for options in (
            ("plan",),
            ("plan", "x"),
            ("migrate", "x"),
            ("migrate", "x", "--from-start"),
        ):
            verb, *names = options
            said = shop("subscriptions", verb, "--tenant=acme", *names, exit_code=1).output
            assert "no subscription reads them" in said

    await _in(KINDS[0], dsns, tmp_path, play)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_the_condition_of_the_plan_leaves_out_who_has_moved(
    kind: Kind, dsns: dict[str, str], tmp_path: Path
) -> None:
    def play(shop: Shop) -> None:
        shop("init")
        planned = shop("plan", "umbrella", "--to", "dedicated").output
        [condition] = re.findall(r"^erasure .*leave out: (.*)$", planned, re.MULTILINE)
        assert condition.startswith(kind.tenant)
        shop("run", "umbrella", "--to", "dedicated", "--yes")
        table = kind.old[-1].split(" where")[0] if kind.name != "marten" else "mt_events"
        [left] = shop.sql("source", f"select count(*) from {table} where not {condition}")
        [every] = shop.sql("source", f"select count(*) from {table}")
        assert 0 < left[0] < every[0]

    await _in(kind, dsns, tmp_path, play)


async def test_a_clean_up_of_all_goes_past_the_tables_of_another_library(
    dsns: dict[str, str], tmp_path: Path
) -> None:
    def play(shop: Shop) -> None:
        shop("init")
        shop("run", "acme", "--to", "dedicated", "--yes")
        said = shop("cleanup", "--all", "--dry-run").output
        assert "the rows of tenant acme in 'shared' stay" in said

    await _in(KINDS[0], dsns, tmp_path, play)


async def test_a_target_that_was_put_back_is_not_opened_from_what_is_left_of_old_rows(
    dsns: dict[str, str], tmp_path: Path
) -> None:
    def play(shop: Shop) -> None:
        shop("init")
        shop("run", "acme", "--to", "dedicated", "--yes")
        migration = shop.json("list")[0]["id"]
        shop.sql(
            "source",
            f"do $$ begin set eventsource.migration = '{migration}';"
            " delete from mt_events where tenant_id = 'acme' and version = 1; end $$",
        )
        guards = shop.sql(
            "target",
            "select format('drop trigger %I on %s', tgname, tgrelid::regclass) from pg_trigger"
            " where tgname ~ '_guard_'",
        )
        kept = "mt_streams, mt_events, eventsource_fences, eventsource_copy_progress"
        for each in (*(row[0] for row in guards), f"truncate {kept}"):
            shop.sql("target", each)
        shop("repair", "--yes")
        working = shop.popen("work")
        try:
            wait_until(lambda: "a later state of the target" in shop("status", migration).output)
        finally:
            working.terminate()
            working.wait(30)
        assert shop.json("list")[0]["state"] == "cutover_paused"
        assert shop.sql("target", "select from eventsource_fences where state = 'open'") == []

    await _in(KINDS[0], dsns, tmp_path, play)
