"""Empty databases for tests, handed on from one test to the next.

Making a database takes longer than most tests: the server copies a thousand files. So one that a
test has done with is cleared, and is used again if it then looks like a new one in everything that
a test may have changed; else it is dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import asyncpg
import pytest

from eventsource.testing import Cluster

#: Seconds; whoever still holds something then keeps the database from being used again.
_PATIENCE = 10

_CLEAR = """
do $clear$
declare
    found record;
begin
    for found in select pubname from pg_publication loop
        execute format('drop publication %I', found.pubname);
    end loop;
    for found in select extname from pg_extension where extname <> 'plpgsql' loop
        execute format('drop extension if exists %I cascade', found.extname);
    end loop;
    for found in select nspname from pg_namespace
        where nspname !~ '^pg_' and nspname <> 'information_schema' loop
        execute format('drop schema %I cascade', found.nspname);
    end loop;
    create schema public authorization pg_database_owner;
    grant usage on schema public to public;
end
$clear$
"""

# Everything outside of the schema public that a statement can leave in a database: what there is of
# each kind, who may do what, and what the database itself has set.
_LOOKS = """
select concat_ws(' ',
    (select md5(string_agg(concat(nspname, nspowner, nspacl), ',' order by nspname))
     from pg_namespace where nspname !~ '^pg_(toast_)?temp_'),
    (select string_agg(extname, ',' order by extname) from pg_extension),
    (select count(*) from pg_class), (select count(*) from pg_proc), (select count(*) from pg_type),
    (select count(*) from pg_operator), (select count(*) from pg_cast),
    (select count(*) from pg_collation), (select count(*) from pg_language),
    (select count(*) from pg_am), (select count(*) from pg_publication),
    (select count(*) from pg_event_trigger), (select count(*) from pg_foreign_data_wrapper),
    (select count(*) from pg_foreign_server), (select count(*) from pg_default_acl),
    (select count(*) from pg_largeobject_metadata), (select count(*) from pg_ts_config),
    (select count(*) from pg_trigger), (select count(*) from pg_seclabel),
    (select count(*) from pg_subscription),
    (select md5(string_agg(concat(oid, proacl), ',' order by oid)) from pg_proc
     where proacl is not null),
    (select md5(string_agg(concat(oid, relacl), ',' order by oid)) from pg_class
     where relacl is not null),
    (select count(*) from pg_attribute where attacl is not null),
    (select md5(string_agg(concat(oid, lanacl), ',' order by oid)) from pg_language),
    (select count(*) from pg_type where typacl is not null),
    (select concat(datacl, datconnlimit, datallowconn, datdba, datistemplate) from pg_database
     where datname = current_database()),
    (select count(*) from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
     where d.datname = current_database()),
    (select count(*) from pg_replication_slots where database = current_database()),
    (select count(*) from pg_prepared_xacts where database = current_database()))
"""


@dataclass(slots=True)
class Databases:
    """The databases of a session's servers that nobody uses just now."""

    _free: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    _looks: dict[int, str] = field(default_factory=dict)

    async def take(self, cluster: Cluster) -> str:
        """The DSN of an empty database."""
        if free := self._free[id(cluster)]:
            return free.pop()
        dsn = await cluster.create_database()
        if id(cluster) not in self._looks:
            connection = await asyncpg.connect(dsn)
            try:
                await connection.execute(_CLEAR)
                self._looks[id(cluster)] = await connection.fetchval(_LOOKS)
            finally:
                await connection.close()
        return dsn

    async def give_back(self, cluster: Cluster, dsn: str) -> None:
        """Clear it for the next, or drop it."""
        try:
            cleared = await _cleared(dsn) == self._looks[id(cluster)]
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            cleared = False
        if cleared:
            self._free[id(cluster)].append(dsn)
        else:
            await cluster.drop_database(urlsplit(dsn).path.lstrip("/"))


async def let_go(connection: asyncpg.Connection) -> None:
    """End what other sessions of the database hold or have left, its settings and its event
    triggers."""
    await connection.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    for (gid,) in await connection.fetch(
        "select gid from pg_prepared_xacts where database = current_database()"
    ):
        await connection.execute(f"rollback prepared '{gid}'")
    # They would have a say in what is cleared.
    for (drop,) in await connection.fetch(
        "select format('drop event trigger %I', evtname) from pg_event_trigger"
    ):
        await connection.execute(drop)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f'alter database "{name}" reset all')


async def _cleared(dsn: str) -> str:
    """What it looks like after everything in it was dropped."""
    settings = {"default_transaction_read_only": "off", "statement_timeout": f"{_PATIENCE}s"}
    connection = await asyncpg.connect(dsn, timeout=_PATIENCE, server_settings=settings)
    try:
        await let_go(connection)
        await connection.execute(_CLEAR)
        return str(await connection.fetchval(_LOOKS))
    finally:
        await connection.close(timeout=_PATIENCE)


@pytest.fixture(scope="session")
def databases() -> Databases:
    """Empty ones of both servers, used again by one test after the other."""
    return Databases()


@pytest.fixture
async def source_dsn(source_cluster: Cluster, databases: Databases) -> AsyncIterator[str]:
    """An empty database on the source server, cleared after the test."""
    async for dsn in _lent(databases, source_cluster):
        yield dsn


@pytest.fixture
async def target_dsn(target_cluster: Cluster, databases: Databases) -> AsyncIterator[str]:
    """An empty database on the target server, cleared after the test."""
    async for dsn in _lent(databases, target_cluster):
        yield dsn


@pytest.fixture
async def control_dsn(source_cluster: Cluster, databases: Databases) -> AsyncIterator[str]:
    """An empty database on the source server for the control tables, cleared after the test."""
    async for dsn in _lent(databases, source_cluster):
        yield dsn


async def _lent(databases: Databases, cluster: Cluster) -> AsyncIterator[str]:
    dsn = await databases.take(cluster)
    yield dsn
    await databases.give_back(cluster, dsn)
