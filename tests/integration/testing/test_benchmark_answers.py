"""What the benchmarks compare answers by: red for every difference, and workloads as described."""

from __future__ import annotations

from itertools import pairwise

import asyncpg
import pytest

from benchmarks import arrivals
from benchmarks.arrivals import Target, write_large
from benchmarks.workload import (
    OTHER,
    TENANT,
    Streams,
    WrongAnswerError,
    build,
    fingerprint,
    make_store,
)

_STREAMS = """
select aggregate_id, array_agg(version order by global_position) as versions,
       min(global_position) as first, max(global_position) as last
from events where tenant_id = $1 group by 1 order by first
"""


@pytest.mark.parametrize(
    "change",
    [
        "delete from events where global_position = (select max(global_position) from events)",
        "update events set payload = payload || '{\"line\": -1}' where global_position = 2",
        "update events set global_position = 1000 where global_position = 2",
        f"update events set tenant_id = '{OTHER}' where global_position = 2",
    ],
    ids=["a lost row", "another payload", "another position", "another tenant"],
)
async def test_a_copy_that_differs_has_another_fingerprint(source_dsn: str, change: str) -> None:
    await build(source_dsn, 40, (TENANT,))
    right = await fingerprint(source_dsn)
    connection = await asyncpg.connect(source_dsn)
    assert await connection.execute(change) in ("DELETE 1", "UPDATE 1")
    await connection.close()
    assert await fingerprint(source_dsn) != right


async def test_positions_from_an_offset_on_have_the_same_fingerprint(
    source_dsn: str, target_dsn: str
) -> None:
    await build(source_dsn, 40, (TENANT,), streams=Streams.TOGETHER)
    await build(target_dsn, 40, (TENANT,), streams=Streams.TOGETHER, first=901)
    for dsn in (source_dsn, target_dsn):
        connection = await asyncpg.connect(dsn)
        await connection.execute("update events set timestamp = 'epoch', created_at = 'epoch'")
        await connection.close()
    right = await fingerprint(source_dsn)
    assert await fingerprint(target_dsn, offset=900) == right
    assert await fingerprint(target_dsn) != right


@pytest.mark.parametrize("streams", Streams)
async def test_streams_are_whole_and_lie_as_described(source_dsn: str, streams: Streams) -> None:
    await build(source_dsn, 100, streams=streams)
    connection = await asyncpg.connect(source_dsn)
    try:
        found = await connection.fetch(_STREAMS, TENANT)
        events = await connection.fetch(
            "select event_id from events where tenant_id = $1 order by global_position", TENANT
        )
    finally:
        await connection.close()
    assert [row["versions"] for row in found] == [list(range(1, 21))] * 5
    ids = [[row[name] for row in rows] for name, rows in (("aggregate_id", found),
                                                          ("event_id", events))]  # fmt: skip
    rising = all(each == sorted(each) for each in ids)
    apart = all(row["last"] < later["first"] for row, later in pairwise(found))
    assert (rising, apart) == ((True, True) if streams is Streams.TOGETHER else (False, False))


async def test_a_transaction_has_arrived_when_all_of_it_is_there(
    source_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_store(source_dsn)
    connection = await asyncpg.connect(source_dsn)
    try:
        large = await write_large(connection, 200)
        target = Target(connection, 0)
        assert await target.has_all(large) >= 0
        await connection.execute("delete from events where global_position = $1", large.first + 7)
        monkeypatch.setattr(arrivals, "LONGEST_SECONDS", 0.0)
        with pytest.raises(WrongAnswerError):
            await target.has_all(large)
    finally:
        await connection.close()
