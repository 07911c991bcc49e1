"""The databases as the driver will meet them: reached, in sessions of its own, with its rights."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.connections import ConnectionParameters
from eventsource.hosts import SilentHostsError, unless_silent
from eventsource.identifiers import qualified, quote_identifier
from eventsource.migration.connections.driver_connections import Endpoints
from eventsource.migration.event_table import EventTable, OwnTable
from eventsource.migration.preflight import application_roles
from eventsource.migration.preflight.control import CONTROL_COLUMNS
from eventsource.migration.preflight.event_tables import FENCE_TABLES
from eventsource.migration.preflight.findings import INIT

if TYPE_CHECKING:
    from eventsource.connections import TableAddress
    from eventsource.migration.layouts.declaration import Layout
    from eventsource.migration.preflight.findings import Findings

    Connection = asyncpg.Connection[Any]


#: How often a pooler is asked for its mode: other clients of it may hide the answer once.
ROUNDS = 5

_PRIVILEGES = ("select", "insert", "update", "delete")

_DIRECT = (
    "give the store dsn= with the address of the server itself; control and stores may be reached"
    " through a pooler in session mode only"
)

#: A statement that another session has prepared, or this one has not: what a prepared statement
#: meets at a pooler that lends sessions. Or the pooler refuses to begin a transaction.
_LENT = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.ProtocolViolationError,
)

_RIGHTS = """
select current_user::text as role, name, pg_get_userbyid(c.relowner)::text as owner,
       quote_ident(current_user) as grantee, quote_ident(pg_get_userbyid(c.relowner)) as granted,
       quote_ident(current_database()) as database,
       pg_has_role(c.relowner, 'usage') as owns, row_security_active(c.oid) as filtered,
       has_schema_privilege(c.relnamespace, 'create') as creates,
       has_database_privilege(current_database(), 'temporary') as temporary
from unnest($1::text[]) with ordinality given (name, place)
join pg_class c on c.oid = to_regclass(name)
order by place
"""

#: Who makes triggers and functions of the guard needs the rights of the owner of the others.
_FUNCTION_OWNERS = """
select distinct current_user::text as role, pg_get_userbyid(p.proowner)::text as owner,
       quote_ident(current_user) as grantee, quote_ident(pg_get_userbyid(p.proowner)) as granted
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname = $1 and starts_with(p.proname, 'eventsource_')
  and not pg_has_role(p.proowner, 'usage')
"""

_LACKING = """
select current_user::text as role, name, privilege
from unnest($1::text[]) name, unnest($2::text[]) privilege
where not has_table_privilege(name, privilege)
"""


async def refuse_silent_hosts(
    hosts: Mapping[str, Sequence[tuple[str, int]]], findings: Findings, look: Awaitable[None]
) -> None:
    """Look. Where that takes long, a database whose host does not answer at all is a problem,
    found in `SILENCE_SECONDS`, and whatever else was found is left out."""
    try:
        await unless_silent(look, hosts)
    except SilentHostsError as error:
        del findings.problems[:]
        findings.passing = len(error.names)
        for what in error.names:
            where = ", ".join(f"{host}:{port}" for host, port in hosts[what])
            findings.problems.append(
                f"{what} cannot be used: {where} does not answer; check the host and port of the"
                " DSN, the network and the firewall"
            )


async def check(
    endpoints: Endpoints, roles: Mapping[str, str | None] | None, findings: Findings
) -> None:
    """The driver's own connections can be opened from the stores' details, and suffice; and
    those that write now may go on after the move. ``roles`` are the application's, by side; None
    where another library writes, whose rights are its own business."""
    await asyncio.gather(
        _check_control(endpoints, findings),
        _check_store("source", endpoints, endpoints.source, endpoints.source_layout, findings),
        _check_store("target", endpoints, endpoints.target, endpoints.target_layout, findings),
    )
    if not findings.problems and roles is not None:
        await application_roles.check(endpoints, roles, findings)


async def _check_control(endpoints: Endpoints, findings: Findings) -> None:
    what = "the control database"
    names = [qualified(endpoints.control_schema, name) for name in CONTROL_COLUMNS]
    with findings.unusable(what):
        async with endpoints.connection(endpoints.control) as connection:
            await _check_privileges(connection, what, names, findings)
            await _check_sessions(connection, endpoints, endpoints.control, what, findings)


async def _check_store(
    side: str, endpoints: Endpoints, address: TableAddress, layout: Layout | None,
    findings: Findings,
) -> None:  # fmt: skip
    what, parameters = f"the {side}'s database", address.parameters
    with findings.unusable(what):
        async with endpoints.connection(parameters) as connection:
            table = EventTable(connection, address, layout)
            await _check_rights(table, side, findings)
            names = [table.beside(name) for name in FENCE_TABLES]
            if layout is not None:
                names.append(table.beside("eventsource_changes"))
            await _check_privileges(connection, what, names, findings)
            await _check_sessions(connection, endpoints, parameters, what, findings)


async def _check_rights(table: OwnTable, side: str, findings: Findings) -> None:
    tables, schema = [table.name], table.address.schema
    if table.layout is not None:
        tables = [table.beside(each.name) for each in table.layout.tables]
    rights = await table.connection.fetch(_RIGHTS, tables)
    if not rights:
        return  # there is no such table, and that is said elsewhere
    for found in rights:
        _check_table(found, side, findings)
    for found in await table.connection.fetch(_FUNCTION_OWNERS, schema):
        findings.problems.append(
            f"role {found['role']!r} may not use the guard's functions in the {side}'s schema"
            f" {schema!r}, which role {found['owner']!r} made; connect as that role,"
            f" or grant it: grant {found['granted']} to {found['grantee']}"
        )
    role, grantee = rights[0]["role"], rights[0]["grantee"]
    if not rights[0]["creates"]:
        # Functions of the guard, and indexes that a load of an empty table makes again.
        findings.problems.append(
            f"role {role!r} may make nothing in the {side}'s schema {schema!r}, where the guard's"
            f" functions belong: grant create on schema {quote_identifier(schema)} to {grantee}"
        )
    if not rights[0]["temporary"]:
        findings.problems.append(
            f"role {role!r} may not make temporary tables in the {side}'s database; grant temporary"
            f" on database {rights[0]['database']} to {grantee}"
        )


def _check_table(rights: asyncpg.Record, side: str, findings: Findings) -> None:
    role, owner, name = rights["role"], rights["owner"], rights["name"]
    if not rights["owns"]:
        # Only an owner may make the guard fire always, and only a guard that does is one.
        findings.problems.append(
            f"role {role!r} does not own the {side} table {name} and may not guard it; connect as"
            f" {owner!r}, or grant that role: grant {rights['granted']} to {rights['grantee']}"
        )
    if rights["filtered"]:
        findings.problems.append(
            f"row-level security of the {side} table {name} hides rows from role {role!r}, so that"
            f" neither copy nor proof would see them; connect as a role with BYPASSRLS, or as the"
            " owner of a table without FORCE ROW LEVEL SECURITY"
        )


async def _check_privileges(
    connection: Connection, what: str, names: Sequence[str], findings: Findings
) -> None:
    for row in await connection.fetch(_LACKING, names, _PRIVILEGES):
        findings.problems.append(
            f"role {row['role']!r} lacks {row['privilege'].upper()} on {row['name']} in {what};"
            f" grant it, or connect as the role that ran {INIT.removeprefix('run ')}"
        )


async def _check_sessions(
    connection: Connection, endpoints: Endpoints, parameters: ConnectionParameters, what: str,
    findings: Findings,
) -> None:  # fmt: skip
    """A pooler may lend every transaction another session: locks, settings and listening are lost.

    A guard held by such a session would be held for the pooler's next client.
    """
    kept = endpoints.kept
    if kept is not None and kept.were_alone(parameters):
        return
    if not await _are_lent(connection, endpoints.connection(parameters)):
        if kept is not None:
            kept.found_alone(parameters)
    else:
        findings.problems.append(
            f"{what} is reached through a pooler that lends sessions per transaction, where no"
            f" lock and no setting stays; {_DIRECT}"
        )


async def _are_lent(
    connection: Connection, another: AbstractAsyncContextManager[Connection]
) -> bool:
    """Whether this connection's server session serves other connections while it is idle.

    Another connection opens a transaction, and so keeps a session to itself. A pooler that lends
    them hands it the one that was used last, which is ours; and ours is another one afterwards.
    """
    ask = "select pg_backend_pid()"
    try:
        before = await connection.fetchval(ask)
        # A pooler makes up the process id of the login, and everybody else shows the server's.
        rounds = 1 if before == connection.get_server_pid() else ROUNDS
        async with another as other:
            for _ in range(rounds):
                await other.execute("begin")
                if await other.fetchval(ask) == before or await connection.fetchval(ask) != before:
                    return True
                await other.execute("rollback")
    except _LENT:
        return True
    return False
