"""Data that is odd and must pass: moved by the coordinator, compared byte for byte by plain SQL.

Each kind is there before the move, is written while it goes on, and is read back afterwards.
"""

from __future__ import annotations

import hashlib
import io
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource import UnknownEventTypeError
from eventsource.migration import Migration, MigrationState
from tests.support.worlds.three_databases import World, table

ODD_COLUMNS = """
    add column a_number numeric, add column a_float float8, add column a_time timestamptz,
    add column a_day date, add column a_text varchar, add column some_bytes bytea,
    add column some_texts text[], add column a_json json
"""

#: What an insert gives a row, by column; NULL in every other column that takes it.
ODD_ROWS: dict[str, dict[str, str]] = {
    "numeric 1.0": {"a_number": "1.0", "payload": '{"price": 1.0}'},
    "numeric 1.00": {"a_number": "1.00", "payload": '{"price": 1.00}'},
    "numeric NaN": {"a_number": "NaN", "a_float": "NaN"},
    "numeric infinity": {"a_number": "-Infinity", "a_float": "Infinity"},
    "negative zero": {"a_float": "-0", "a_number": "-0.000"},
    "long number": {"a_number": "9" * 400 + "." + "1" * 300, "payload": '{"n": 1e400}'},
    "infinity": {"a_time": "infinity", "a_day": "infinity", "timestamp": "infinity"},
    "minus infinity": {"a_time": "-infinity", "a_day": "-infinity", "timestamp": "-infinity"},
    "BC": {"a_time": "0044-03-15 12:00:00.000001 BC", "timestamp": "4713-01-01 00:00:00+00 BC"},
    "far future": {"timestamp": "294276-12-31 23:59:59.999999+00", "a_day": "5874897-12-31"},
    "emoji": {"actor_id": "👩‍👩‍👧‍👦🏳️‍🌈", "payload": '{"🎉": "é ≠ é 💥"}', "a_text": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢"},
    "right to left": {"actor_id": "‮שלום‬ مرحبا", "payload": '{"مفتاح": "שלום"}'},
    "control characters": {
        "actor_id": "tab\t, newline\n, return\r, back\\slash, 'quote', \x01\x7f"
    },
    "empty texts": {"actor_id": "", "a_text": "", "some_bytes": "\\x", "some_texts": "{}"},
    "spaces": {"actor_id": "  \u00a0 ", "a_text": " \t"},
    "bytes": {"some_bytes": "\\x" + bytes(range(256)).hex()},
    "arrays": {"some_texts": '{"a,b",NULL,"\\"\\\\","{}"}'},
    "json null": {"payload": "null"},
    "json scalar": {"payload": '"only a text"', "metadata": "17"},
    "json array": {"payload": '[1, [2.50, [null, {"k": []}]]]'},
    "nested deeply": {"payload": "[" * 900 + "]" * 900},
    "many keys": {"payload": "{" + ",".join(f'"k{n}": {n}' for n in range(3000)) + "}"},
    "json as written": {"a_json": '{"b" : 1.00 ,"a":"\\u0000","a":2}'},
    "escaped backslash": {"payload": '{"path": "C:\\\\u0000"}'},
    "long names": {"event_type": "x" * 5000, "aggregate_type": "Ü" * 400},
}

_INSERT = """
insert into {table} (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                     timestamp, payload, metadata, actor_id{names})
values ($1, $2, '{aggregate_type}', '{event_type}', $3, $4, '{timestamp}', '{payload}',
        '{metadata}', {actor}{values})
"""
_USUAL = {
    "aggregate_type": "Odd",
    "event_type": "never.registered.AnyWhere",
    "timestamp": "2031-01-01 00:00:00.123456+05:30",
    "payload": "{}",
    "metadata": "{}",
}


def literal(text: str) -> str:
    return text.replace("'", "''")


async def insert_odd(world: World, row: dict[str, str], stream: UUID, version: int) -> None:
    usual = {name: literal(row.get(name, value)) for name, value in _USUAL.items()}
    extra = {name: value for name, value in row.items() if name not in (*_USUAL, "actor_id")}
    names = "".join(f", {name}" for name in extra)
    values = "".join(f", '{literal(value)}'" for value in extra.values())
    actor = f"'{literal(row['actor_id'])}'" if "actor_id" in row else "null"
    text = _INSERT.format(table=table("source"), names=names, values=values, actor=actor, **usual)
    await world.source.execute("set standard_conforming_strings = on")
    await world.source.fetch(text, uuid4(), stream, world.tenant, version)


async def binary_form(connection: asyncpg.Connection, side: str, offset: int, tenant: UUID) -> str:
    """The tenant's rows as the server sends them in binary, every column but the server's own."""
    columns = await connection.fetchval(
        "select string_agg(quote_ident(attname), ', ' order by attname) from pg_attribute"
        " where attrelid = $1::text::regclass and attnum > 0 and not attisdropped"
        " and attname not in ('transaction_id', 'global_position')",
        table(side),
    )
    out = io.BytesIO()
    await connection.copy_from_query(
        f"select global_position - {offset}, {columns} from {table(side)}"
        f" where tenant_id = '{tenant}' order by global_position",
        output=out,
        format="binary",
    )
    return hashlib.sha256(out.getbuffer()).hexdigest()


async def assert_equal_bytes(world: World, migration: Migration) -> None:
    offset = migration.position_offset or 0
    assert migration.state is MigrationState.MIGRATED
    here = await binary_form(world.source, "source", 0, world.tenant)
    assert await binary_form(world.target, "target", offset, world.tenant) == here
    counted = [
        await getattr(world, side).fetchval(
            f"select count(*) from {table(side)} where tenant_id = $1", world.tenant
        )
        for side in ("source", "target")
    ]
    assert counted[0] == counted[1] > 0


@pytest.fixture
async def odd(world: World) -> World:
    """Tables with more columns, and a target that is in use: positions are not those of the source.

    The sessions of the two sides prefer other text forms, on which nothing may depend.
    """
    for side, zone in (("source", "Asia/Tokyo"), ("target", "America/New_York")):
        connection = getattr(world, side)
        name = await connection.fetchval("select current_database()")
        await connection.execute(
            f"alter table {table(side)} {ODD_COLUMNS};"
            f"alter database \"{name}\" set timezone = '{zone}';"
            f'alter database "{name}" set extra_float_digits = -5;'
            f"alter database \"{name}\" set bytea_output = 'escape'"
        )
    await world.seed(3, world.other, side="target")
    return world


async def test_odd_values_arrive_as_they_were_whenever_they_are_written(odd: World) -> None:
    before, during = uuid4(), uuid4()
    for version, row in enumerate(ODD_ROWS.values(), 1):
        await insert_odd(odd, row, before, version if "aggregate_type" not in row else 1)
    process = await odd.process(batch_size=1)
    migration = await odd.dual_write(process=process)
    for version, row in enumerate(ODD_ROWS.values(), 1):
        await insert_odd(odd, row, during, version if "aggregate_type" not in row else 1)
    done = await process.coordinator.initiate_cutover(migration.id)
    assert await odd.ids("target")
    assert done.position_offset
    await assert_equal_bytes(odd, done)
    # The two numbers are one to `=`, and are two here.
    prices = await odd.target.fetch(
        f"select a_number::text || payload::text from {table('target')}"
        " where a_number = 1 order by global_position"
    )
    assert [row[0] for row in prices] == ['1.0{"price": 1.0}', '1.00{"price": 1.00}'] * 2


async def test_events_of_a_type_that_nobody_knows_move_and_are_read_without_their_class(
    odd: World,
) -> None:
    stream = uuid4()
    await insert_odd(odd, {"payload": '{"a": [1.50]}'}, stream, 1)
    done = await odd.migrate()
    await assert_equal_bytes(odd, done)
    (stored,) = [event async for event in odd.here.router.read_stream(
        stream, "Odd", tenant_id=odd.tenant)]  # fmt: skip
    assert (stored.event_type, stored.payload) == (_USUAL["event_type"], {"a": [1.5]})
    with pytest.raises(UnknownEventTypeError):
        _ = stored.event


async def test_a_stream_of_twenty_thousand_events_moves_and_goes_on(world: World) -> None:
    stream, events = uuid4(), 20_000
    await world.source.execute(
        f"""
        insert into {table("source")} (event_id, aggregate_id, aggregate_type, event_type,
            tenant_id, version, timestamp, actor_id, payload)
        select gen_random_uuid(), '{stream}', 'Note', 'world.noted', '{world.tenant}', n, now(),
               case when n % 2 = 0 then 'somebody' end, jsonb_build_object('n', n, 'text', '')
        from generate_series(1, {events}) n
        """
    )
    migration = await world.dual_write()
    await world.here.append(world.tenant, stream, events, 2)
    done = await world.coordinator.initiate_cutover(migration.id)
    await assert_equal_bytes(world, done)
    result = await world.here.append(world.tenant, stream, events + 2)
    assert result.new_version == events + 3
    read = await world.here.router.get_events(stream, "Note", tenant_id=world.tenant)
    assert [event.n for event in read.events] == list(range(1, events + 4))  # type: ignore[attr-defined]


@pytest.mark.parametrize("megabytes", [20, pytest.param(100, marks=pytest.mark.infra)])
async def test_an_event_of_many_megabytes_moves_between_small_ones(
    world: World, megabytes: int
) -> None:
    await world.seed(30)
    await _large_event(world, megabytes)
    await world.seed(30)
    migration = await world.dual_write()
    await world.seed(30)
    # One more for a catch-up pass, which goes by way of a temporary table.
    await _large_event(world, megabytes)
    done = await world.coordinator.initiate_cutover(migration.id)
    await assert_equal_bytes(world, done)
    (longest,) = await world.target.fetchrow(
        f"select max(length(payload::text)) from {table('target')}"
    )
    assert longest > megabytes * 1_000_000


async def _large_event(world: World, megabytes: int) -> None:
    # Hexadecimal digits of hashes: compression hardly makes them smaller than half.
    await world.source.execute(
        f"""
        insert into {table("source")} (event_id, aggregate_id, aggregate_type, event_type,
            tenant_id, version, timestamp, payload)
        select gen_random_uuid(), gen_random_uuid(), 'Note', 'world.noted', '{world.tenant}', 1,
               now(), jsonb_build_object('n', 1, 'text', string_agg(md5(n::text), ''))
        from generate_series(1, {megabytes} * 1000000 / 32 + 1) n
        """
    )
