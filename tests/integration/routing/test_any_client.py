"""Applications that reach their stores by another client find the tenant, and are sent on."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from psycopg import rows
from psycopg.rows import RowFactory

from eventsource.any_client import Route, RouteHiddenError, find_route, moved_to
from tests.layouts.libraries import environment
from tests.support import REPOSITORY
from tests.support.application import TARGET
from tests.support.worlds.three_databases import World, table

PROGRAM = Path(__file__).with_name("any_client_program.py")


@pytest.fixture(scope="session")
def python() -> Path:
    """Other clients, and what our package needs; the package itself is that of this checkout."""
    return environment(
        "clients", "pg8000>=1.31,<2", "psycopg2-binary>=2.9,<3", "sqlalchemy>=2,<3",
        "asyncpg", "pydantic>=2",
    )  # fmt: skip


def insert(world: World) -> str:
    return (
        f"insert into {table('source')} (event_id, aggregate_id, aggregate_type, event_type,"
        ' tenant_id, version, "timestamp", payload, metadata) values'
        f" ('{uuid4()}', '{uuid4()}', 'Note', 'Noted', '{world.tenant}', 1, now(), '{{}}', '{{}}')"
    )


async def moved(world: World) -> None:
    process = await world.process()
    migration = await world.dual_write(process=process)
    await process.coordinator.initiate_cutover(migration.id)


def asked(dsn: str, tenant: object, paramstyle: str | None = None) -> Route | None:
    with psycopg.connect(dsn) as connection:
        return find_route(connection, str(tenant), paramstyle=paramstyle)


async def test_psycopg_finds_the_route_and_is_sent_on(world: World) -> None:
    await world.seed(5)
    dsn = world.dsns["control"]
    assert await asyncio.to_thread(asked, dsn, world.tenant) is None
    await moved(world)
    found = await asyncio.to_thread(asked, dsn, world.tenant, "pyformat")
    assert found is not None
    assert found.store_id == TARGET

    def write() -> BaseException | None:
        with psycopg.connect(world.dsns["source"]) as store:
            try:
                store.execute(insert(world))
            except psycopg.Error as error:
                return error
        return None

    refused = await asyncio.to_thread(write)
    assert refused is not None
    assert moved_to(refused) == found


async def as_others(world: World, side: str) -> str:
    """A role whose password is hashed as on other servers: pg8000 wants no less."""
    connection = await world.connect(side)
    name = f"other_{uuid4().hex[:8]}"
    await connection.execute(
        f"set scram_iterations = 4096; create role {name} superuser login password '{name}'"
    )
    return re.sub(r"//[^@]*@", f"//{name}:{name}@", world.dsns[side])


async def test_other_clients_find_it_and_are_sent_on(world: World, python: Path) -> None:
    await world.seed(5)
    await moved(world)
    control, source = [await as_others(world, side) for side in ("control", "source")]
    asking = await asyncio.create_subprocess_exec(
        str(python), str(PROGRAM), control, source, str(world.tenant),
        insert(world), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "python")},
    )  # fmt: skip
    output, errors = await asyncio.wait_for(asking.communicate(), 60)
    assert asking.returncode == 0, errors.decode()[-2000:]
    found = await asyncio.to_thread(asked, world.dsns["control"], world.tenant)
    assert found is not None
    where = [found.store_id, found.generation]
    said = json.loads(output)
    assert {name: route for name, (route, _) in said.items()} == dict.fromkeys(said, where)
    assert {name: refused[1] for name, (_, refused) in said.items()} == dict.fromkeys(said, where)
    assert set(said) == {"pg8000", "psycopg2", "sqlalchemy"}


async def test_a_route_that_may_be_hidden_is_no_answer(world: World) -> None:
    await world.control.execute("alter table tenant_routing enable row level security")
    role = f"reader_{uuid4().hex[:8]}"
    await world.control.execute(
        f"create role {role} login password 'p'; grant select on tenant_routing to {role}"
    )
    parts = world.dsns["control"].split("@", 1)[1]
    try:
        with pytest.raises(RouteHiddenError, match="create policy"):
            await asyncio.to_thread(asked, f"postgresql://{role}:p@{parts}", world.tenant)
    finally:
        await world.control.execute(f"drop owned by {role}; drop role {role}")


def test_a_paramstyle_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="pyformat"):
        find_route(None, "a", paramstyle="percent")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [ValueError("x"), asyncpg.UniqueViolationError("x"), KeyError({"C": "23505"})]
)
def test_other_errors_say_nothing_of_a_move(error: Exception) -> None:
    assert moved_to(error) is None


def _refusal() -> psycopg.Error:
    error = psycopg.Error("x")
    error.sqlstate = "EVF01"
    error.detail = '{"target_store_id": "there", "generation": 3}'  # type: ignore[attr-defined]
    return error


def test_an_error_within_another_is_found() -> None:
    outer = RuntimeError("wrapped")
    outer.__cause__ = _refusal()
    assert moved_to(outer) == Route("there", 3)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("x"),
        psycopg.errors.SerializationFailure("x"),
        psycopg.OperationalError("the server is away"),
        ConnectionRefusedError(),
        RuntimeError("x"),
    ],
)
def test_what_fails_after_a_refusal_was_followed_is_no_refusal(error: Exception) -> None:
    """Who retries where the refusal is handled would go on for ever."""
    error.__context__ = _refusal()  # as Python does within `except`
    assert moved_to(error) is None


class Row:
    """What an application makes of a row."""

    def __init__(self, **columns: object) -> None:
        self.__dict__.update(columns)


@pytest.mark.parametrize("is_routed", [False, True])
async def test_the_shape_of_a_connections_rows_does_not_matter(
    world: World, is_routed: bool
) -> None:
    """A mapping gives its keys where its values were meant: a store of the name ``store_id``."""
    if is_routed:
        await world.here.routes.set_routing(world.tenant, TARGET)

    def look(shape: RowFactory[Any]) -> Route | None:
        with psycopg.connect(world.dsns["control"], row_factory=shape) as connection:
            return find_route(connection, world.tenant)

    wanted = TARGET if is_routed else None
    shape: Any
    for shape in (rows.tuple_row, rows.dict_row, rows.namedtuple_row, rows.class_row(Row),
                  rows.args_row(lambda *values: list(values)),
                  rows.kwargs_row(OrderedDict)):  # fmt: skip
        found = await asyncio.to_thread(look, shape)
        assert (found and found.store_id) == wanted
    with pytest.raises(TypeError, match="whose rows are tuples, mappings, or objects"):
        await asyncio.to_thread(look, rows.scalar_row)
