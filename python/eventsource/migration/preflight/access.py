"""The databases as the driver will meet them: reached, in sessions of its own, with its rights."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.connections import ConnectionParameters
from eventsource.hosts import SilentHostsError, unless_silent
from eventsource.identifiers import qualified
from eventsource.migration.connections.driver_connections import Endpoints
from eventsource.migration.event_table import EventTable
from eventsource.migration.preflight import application_roles, rights
from eventsource.migration.preflight.control import CONTROL_COLUMNS

if TYPE_CHECKING:
    from eventsource.connections import TableAddress
    from eventsource.migration.layouts.declaration import Layout
    from eventsource.migration.preflight.findings import Findings

    Connection = asyncpg.Connection[Any]


#: How often a pooler is asked for its mode: other clients of it may hide the answer once.
ROUNDS = 5

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
            await rights.check_privileges(connection, what, names, findings)
            await _check_sessions(connection, endpoints, endpoints.control, what, findings)


async def _check_store(
    side: str, endpoints: Endpoints, address: TableAddress, layout: Layout | None,
    findings: Findings,
) -> None:  # fmt: skip
    what, parameters = f"the {side}'s database", address.parameters
    with findings.unusable(what):
        async with endpoints.connection(parameters) as connection:
            table = EventTable(connection, address, layout)
            await rights.check(table, side, findings)
            names = [table.beside(name) for name in rights.beside(layout)]
            await rights.check_privileges(connection, what, names, findings)
            await _check_sessions(connection, endpoints, parameters, what, findings)


async def refuse_functions_of_others(endpoints: Endpoints) -> None:
    """Asked again of a migration that is under way: the role may be another one than began it.

    It is asked in a session as the driver's will be: those of an application may have a role of
    less rights.

    Raises:
        PreflightError: the role may not change the guard; nothing was changed.
    """
    source, target = endpoints.source, endpoints.target
    async with (
        endpoints.connection(source.parameters) as here,
        endpoints.connection(target.parameters) as there,
    ):
        await rights.refuse_functions_of_others(EventTable(here, source), EventTable(there, target))


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
