"""What to do about an error of a server or of the way to it.

It goes by the code and the kind of the error: what a server says may be in any language.
"""

from __future__ import annotations

import socket
import ssl

import asyncpg

from eventsource.sqlstates import sqlstate_of

#: What a prepared statement meets at a pooler that lends sessions.
_LENT = (
    "if {where} leads to a pooler that lends sessions, give the store dsn= with the address of the"
    " server itself, and its pool statement_cache_size=0"
)

#: By SQLSTATE; ``{where}`` is where the address stands.
_OF_A_SERVER = {
    "53300": "all connections that the server, the database or this user may have are taken: wait"
    " until some are free, end sessions that nobody needs, or raise max_connections or the"
    " connection limit of the user or the database",
    "57P03": "the server is starting, stopping or recovering: wait until it takes connections, and"
    " try again",
    "57P01": "the server has ended the session: try again when it has restarted",
    "57P02": "the server has ended the session: try again when it has restarted",
    "57014": "a limit such as statement_timeout, or somebody, has ended the statement: raise the"
    " limit for this user, or try again when the server has less to do",
    "53100": "make room on the server's disk, and try again",
    "53200": "the server is short of memory: try again when it has less to do",
    "25006": "a database takes no writes, as default_transaction_read_only is on there or it is a"
    " standby; look at [control] dsn first",
    "28P01": "check {where}: user and password",
    "28000": "check {where}: the user, and sslmode",
    "3D000": "check {where}: the name of the database, or create it",
    "26000": _LENT,
    "42P05": _LENT,
    "42501": "grant it to the user of the dsn, or use another user",
}

_PG_HBA = "let this user in from this host in the server's pg_hba.conf, or check {where}"

#: Of the way there; the first that fits.
_OF_THE_WAY: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "check {where}: the name of the host"),
    (ssl.SSLError, "check {where}: sslmode and certificates"),
    (TimeoutError, "check {where}: host and port, and the network and the firewall"),
    (ConnectionRefusedError, "check {where}: host and port, and that the server runs"),
    (asyncpg.TargetServerAttributeNotMatched, "check {where}: it has to lead to a primary"),
)


def remedy(error: BaseException, where: str) -> str | None:
    """What to do, None where nothing better is known than to check the address.

    Args:
        where: where the address stands, such as ``[control] dsn``.
    """
    sqlstate = sqlstate_of(error) or ""
    # A name that no language translates.
    if sqlstate == "28000" and "pg_hba.conf" in str(error):
        return _PG_HBA.format(where=where)
    if sqlstate in _OF_A_SERVER:
        return _OF_A_SERVER[sqlstate].format(where=where)
    for kind, what_to_do in _OF_THE_WAY:
        if isinstance(error, kind):
            return what_to_do.format(where=where)
    return None
