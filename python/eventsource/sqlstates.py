"""The SQLSTATEs that decide anything here: the guard's own, and PostgreSQL's.

The guard raises its own in ``stores/sql/guard.sql``. Codes and classes of PostgreSQL are those of
its manual, appendix A.
"""

from __future__ import annotations

#: The tenant has moved; DETAIL says to which store, as JSON.
MOVED = "EVF01"

#: The statement is one that the guard never lets through: the tenant's history does not change.
REFUSED = "EVF02"

#: The tenant is arriving here and is not open yet.
NOT_OPEN_YET = "EVF03"

#: A lock was not granted in time: at the guard, that a cutover holds the tenant.
LOCK_TIMEOUT = "55P03"

#: The transaction's snapshot is older than what it would have to see; it has to begin again.
SERIALIZATION_FAILURE = "40001"

#: The server ended a transaction that was idle for too long, or took too long.
ENDED_BY_THE_SERVER = ("25P03", "25P04")

#: A privilege is missing.
NOT_PERMITTED = "42501"

#: A statement writes where nothing may be written: at a standby, or where the role reads only.
READ_ONLY = "25006"

#: A relation, a schema, a column or a function is not there: nobody drops a table that is being
#: moved, but an address may lead to another database, and tables of ours may be older ones.
NOT_THERE = ("42P01", "3F000", "42703", "42883")

#: Classes about the environment, which somebody mends: login, database, system, internal error.
ENVIRONMENT_CLASSES = ("28", "3D", "58", "XX")

#: Classes that time heals: connection, resources, operator intervention, rollback, locks.
PASSING_CLASSES = ("08", "53", "57", "40", "55")


def sqlstate_of(error: BaseException) -> str | None:
    """The code that a server gave; None where it was no answer of a server."""
    return getattr(error, "sqlstate", None)


def waited_at_the_guard(error: BaseException) -> bool:
    """Whether a lock timeout is the guard's: a role's own ends waits for other locks just so.

    Its functions have had names that begin so in every version; the server says where it was.
    """
    context = getattr(error, "context", None) or ""
    return sqlstate_of(error) == LOCK_TIMEOUT and "eventsource_guard" in context
