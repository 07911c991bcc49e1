"""The judge of the torture for tables of other libraries sees what it is there for.

Real tables of Marten in two schemas: the target's are the source's, as a move leaves them, with one
thing that is wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest

from tests.layouts.torture import judge
from tests.layouts.torture.libraries import MARTEN
from tests.layouts.torture.writer import Attempt
from tests.support import marten
from tests.support.worlds.layouts import SOURCE, TARGET

TENANT, STREAMS = "acme", [str(UUID(int=number)) for number in (1, 2)]
PAST = [str(UUID(int=100 + number)) for number in range(6)]
NEWER = [str(UUID(int=200 + number)) for number in range(2)]

#: How far numbers are moved.
DISTANCE = 1000

_MOVE = f"""
insert into target.mt_streams select * from source.mt_streams;
insert into target.mt_events select seq_id + {DISTANCE}, id, stream_id, version, data, type,
    timestamp, tenant_id, mt_dotnet_type, is_archived from source.mt_events;
select setval('target.mt_events_sequence', {2 * DISTANCE});
"""

#: What is done to the target after the move, and what the judge calls it. The first stream has
#: `PAST[0::2]`, and only the second stream is written to afterwards.
WRONG_ROWS = {
    f"delete from mt_events where id = '{PAST[4]}'": "I1 lost",
    f"delete from mt_events where id = '{NEWER[1]}'": "I3 torn",
    f"update mt_events set id = '{UUID(int=999)}' where id = '{PAST[4]}'": "I2 invented",
    f"update mt_events set data = '{{}}' where id = '{PAST[0]}'": "I5 differs: mt_events",
    f"update mt_streams set type = 'other' where id = '{STREAMS[0]}'": "I5 differs: mt_streams",
    f"update mt_events set is_archived = true where id = '{PAST[0]}'": "I5 changed",
    f"update mt_events set seq_id = {DISTANCE + 50} where id = '{PAST[0]}'": "I6 distances",
    f"update mt_events set seq_id = 1 where id = '{NEWER[0]}'": "I6 order",
    f"update mt_streams set version = 7 where id = '{STREAMS[1]}'": "I4 no_such_stream",
}


@dataclass
class Stores:
    source: asyncpg.Connection
    target: asyncpg.Connection
    attempts: list[Attempt] = field(default_factory=list)

    async def moved(self) -> list[str]:
        sides = await judge.look_at_both(self.source, self.target, MARTEN, TENANT)
        return judge.moved(MARTEN, *sides, PAST, self.attempts)

    async def stayed(self) -> list[str]:
        sides = await judge.look_at_both(self.source, self.target, MARTEN, TENANT)
        return judge.stayed(MARTEN, *sides, PAST, self.attempts)


@pytest.fixture
async def stores(source_dsn: str) -> AsyncIterator[Stores]:
    source, target = [
        await asyncpg.connect(source_dsn, server_settings={"search_path": schema})
        for schema in ("source", "target")
    ]
    for schema in ("source", "target"):
        tables = marten.TABLES.replace("{s}", schema)
        await source.execute(f"create schema {schema}; {tables}")
    for number, event in enumerate(PAST):
        await MARTEN.append(source, TENANT, STREAMS[number % 2], [event])
    yield Stores(source, target)
    await source.close()
    await target.close()


async def _move(stores: Stores) -> None:
    """And an append afterwards, as its writer has recorded it."""
    await stores.source.execute(_MOVE)
    await MARTEN.append(stores.target, TENANT, STREAMS[1], NEWER)
    stores.attempts.append(Attempt("w", 1, TENANT, STREAMS[1], TARGET, NEWER, outcome="ok"))


async def test_nothing_is_wrong_with_a_move_that_went_well(stores: Stores) -> None:
    await _move(stores)
    assert await stores.moved() == []


@pytest.mark.parametrize(("statement", "called"), WRONG_ROWS.items(), ids=WRONG_ROWS.values())
async def test_a_wrong_row_is_named(stores: Stores, statement: str, called: str) -> None:
    await _move(stores)
    assert await stores.target.execute(statement) in ("UPDATE 1", "DELETE 1")
    found = await stores.moved()
    assert any(each.startswith(called) for each in found), found


async def test_an_append_that_was_refused_for_no_reason_is_named(stores: Stores) -> None:
    await _move(stores)
    ids = [str(UUID(int=300))]
    stores.attempts.append(
        Attempt("w", 2, TENANT, STREAMS[0], TARGET, ids, outcome="error", error="XX000 broken")
    )
    [only] = await stores.moved()
    assert only.startswith("I7 refused: w 2: XX000"), only


async def test_an_append_whose_answer_was_lost_may_be_there_or_not(stores: Stores) -> None:
    await _move(stores)
    missing = Attempt("w", 2, TENANT, STREAMS[1], TARGET, [str(UUID(int=300))])
    stores.attempts.append(missing)
    assert await stores.moved() == []
    await MARTEN.append(stores.target, TENANT, STREAMS[1], missing.ids)
    assert await stores.moved() == []


async def test_a_tenant_that_stays_has_left_nothing_at_the_target(stores: Stores) -> None:
    assert await stores.stayed() == []
    await stores.source.execute("insert into target.mt_streams select * from source.mt_streams")
    assert await stores.stayed() == [f"I13 left_behind: {len(STREAMS)} rows at the target"]


async def test_nobody_is_sent_on_by_a_tenant_that_stays(stores: Stores) -> None:
    refused = Attempt(
        "w", 1, TENANT, STREAMS[0], SOURCE, NEWER, outcome="refused", error="EVF01 moved"
    )
    stores.attempts.append(refused)
    assert await stores.stayed() == ["I13 sent_on: w 1"]


async def test_what_a_migration_has_left_beside_the_tables_is_named(stores: Stores) -> None:
    tables = ("changes", "fences", "witnesses", "copy_progress")
    for table in tables:
        await stores.source.execute(f"create table eventsource_{table} (id int)")
    assert await judge.left(stores.source, MARTEN) == []
    for table in tables:
        await stores.source.execute(f"insert into eventsource_{table} values (1)")
    assert await judge.left(stores.source, MARTEN) == [
        f"I13 left_behind: 1 rows of eventsource_{table}" for table in tables
    ]
