"""What a database or a role is set to for its application is not what the data plane runs with."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import pytest

from eventsource.dataplane import PassSpec
from tests.support.worlds.rows_by_hand import (
    TARGET_TABLE,
    World,
    bare_world,  # noqa: F401 - the fixture "world"
)

#: As an application may want them, and what a pass writes with.
SETTINGS = {
    "synchronous_commit": ("off", "on"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "default_transaction_deferrable": ("on", "off"),
    "statement_timeout": ("7s", "0"),
    "idle_session_timeout": ("7s", "0"),
    "lock_timeout": ("7s", "0"),
    "idle_in_transaction_session_timeout": ("7s", "30s"),
    "row_security": ("on", "off"),
}

SEEN = """
create table seen (name text, value text);
create function look() returns trigger language plpgsql as $$ begin
    insert into seen select name, current_setting(name) from unnest(array[{names}]) name;
    return null;
end $$;
create trigger look after insert on "{table}" for each statement execute function look();
"""


@pytest.mark.parametrize("staged", [False, True], ids=["first", "later"])
async def test_a_pass_writes_with_its_own_settings(world: World, staged: bool) -> None:
    await world.append(300)
    spec = await world.start_pass(PassSpec(0, None, await world.snapshot(), staged))
    names = ", ".join(f"'{name}'" for name in SETTINGS)
    await world.target.execute(SEEN.format(names=names, table=TARGET_TABLE))
    for address in (world.config.source.dsn, world.config.target.dsn, world.config.control_dsn):
        await _set(str(address))
    assert (await (await world.open()).run(spec)).finished
    found = await world.target.fetch("select distinct name, value from seen")
    expected = {name: value for name, (_, value) in SETTINGS.items()}
    if not staged:
        # A chunk of the first pass waits for those before it.
        expected["idle_in_transaction_session_timeout"] = "5min"
    assert {row["name"]: row["value"] for row in found} == expected
    assert len(found) == len(expected)


async def _set(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    database = urlsplit(dsn).path.lstrip("/")
    for name, (value, _) in SETTINGS.items():
        await connection.execute(f"alter database \"{database}\" set {name} = '{value}'")
    await connection.close()
