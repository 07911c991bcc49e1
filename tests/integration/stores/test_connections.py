"""A connection string read from a live pool opens the same database from anywhere."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from eventsource.connections import connect, connection_parameters
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import Cluster

WHERE = "select current_database()::text, current_user::text, current_setting('work_mem')"


@pytest.mark.parametrize("unix_socket", [False, True])
async def test_what_a_pool_knows_is_enough_to_connect(
    source_cluster: Cluster, unix_socket: bool
) -> None:
    database, role, password = f"odd /?#{uuid4()}", f"us er@{uuid4()}", "p@ss:w/o?r#d% +'\"é"
    await source_cluster.create_database(database)
    admin = await asyncpg.connect(source_cluster.dsn())
    quoted = password.replace("'", "''")
    await admin.execute(f"create role \"{role}\" login password '{quoted}'")
    host = str(source_cluster.socket_dir) if unix_socket else "127.0.0.1"
    try:
        async with asyncpg.create_pool(
            host=host,
            port=source_cluster.port,
            user=role,
            password=password,
            database=database,
            min_size=1,
            server_settings={"work_mem": "5MB", "application_name": "shop"},
        ) as pool:
            parameters = await connection_parameters(pool)
            assert password not in repr(parameters)
        for explicit in (None, parameters.dsn):
            if explicit is not None:
                parameters = await connection_parameters(None, explicit)
            connection = await connect(
                parameters, application_name="mover", server_settings={"lock_timeout": "250"}
            )
            [where] = await connection.fetch(WHERE)
            assert tuple(where) == (database, role, "5MB")
            assert await connection.fetchval("show application_name") == "mover"
            assert await connection.fetchval("show lock_timeout") == "250ms"
            await connection.close()
    finally:
        await admin.execute(f'drop database "{database}" with (force)')
        await admin.execute(f'drop role "{role}"')
        await admin.close()


async def test_the_servers_own_client_reads_the_same_string(
    source_cluster: Cluster, source_dsn: str
) -> None:
    async with asyncpg.create_pool(
        source_dsn, min_size=1, server_settings={"work_mem": "5MB"}
    ) as pool:
        parameters = await connection_parameters(pool)
    process = await asyncio.create_subprocess_exec(
        str(source_cluster.program("psql")),
        "-XAtc",
        "show work_mem",
        await parameters.uri(),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert output.decode().strip() == "5MB"


async def test_parameters_are_read_once_and_need_no_free_connection_after_that(
    source_dsn: str,
) -> None:
    async with asyncpg.create_pool(source_dsn, min_size=1, max_size=1) as pool:
        store = PostgreSQLEventStore(pool)
        first = await store.connection_parameters()
        async with pool.acquire():
            assert await store.connection_parameters() is first


async def test_a_wrong_password_is_not_told(source_cluster: Cluster) -> None:
    dsn = source_cluster.dsn(password="wrong-hunter2")
    with pytest.raises(asyncpg.InvalidPasswordError) as caught:
        await connect(await connection_parameters(None, dsn), application_name="mover")
    assert "hunter2" not in f"{caught.value!r} {caught.value}"
