"""Changes of a schema that other people's sessions neither notice nor spoil.

Code that makes tables looks first, and changes only what is missing: under a lock that is asked for
with a short timeout and asked for again, in a session that no role's defaults can hurry.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import asyncpg

from eventsource.retried import Retried

if TYPE_CHECKING:
    from eventsource.connections import AnyConnection, Executor

LOCK_ATTEMPT_MS = 200
LOCK_ATTEMPTS = 100

# A role may have other defaults. A statement may be as long as an index build, and the scripts are
# written for standard strings; an identifier that the server quotes is compared with one of ours.
_SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "check_function_bodies": "on",
}

_PUT = """
select set_config(s.name, v.value, false)
from unnest($1::text[], $2::text[]) as v(name, value) join pg_settings s on s.name = v.name
"""

_PUT_LOCALLY = _PUT.replace("false", "true")

_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)

_Level: TypeAlias = Literal["read_committed"] | None

#: A connection that is gone.
LOST = (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError)


@asynccontextmanager
async def connection_of(executor: Executor) -> AsyncIterator[AnyConnection]:
    """A connection of a pool, or the connection itself, also where statements are retried."""
    if isinstance(executor, Retried):
        executor = executor.executor
    if isinstance(executor, asyncpg.Pool):
        async with executor.acquire() as pooled:
            yield pooled
    else:
        yield cast("asyncpg.Connection[Any]", executor)


@asynccontextmanager
async def tried_out(executor: Executor) -> AsyncIterator[AnyConnection]:
    """A connection inside a transaction of which nothing stays."""
    async with connection_of(executor) as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection
        finally:
            # One that was lost has made nothing; what lost it is the error to report.
            with suppress(*LOST):
                await transaction.rollback()


@asynccontextmanager
async def unhurried(connection: AnyConnection) -> AsyncIterator[None]:
    """The session under settings of ours within the block, and under its own again after it."""
    before = await connection.fetch(
        "select name, setting from pg_settings where name = any($1::text[])", list(_SETTINGS)
    )
    await connection.fetch(_PUT, list(_SETTINGS), list(_SETTINGS.values()))
    try:
        yield
    finally:
        # One that was lost has lost its settings too; what lost it is the error to report.
        with suppress(*LOST):
            names, values = [row[0] for row in before], [row[1] for row in before]
            await connection.fetch(_PUT, names, values)


@asynccontextmanager
async def alone(connection: AnyConnection, lock: int) -> AsyncIterator[None]:
    """One session at a time in a database.

    The lock is asked for without waiting in the server: a session that waits inside a statement
    holds a snapshot, and an index build of the one that has the lock would wait for that snapshot.
    """
    delay = 0.01
    while not await connection.fetchval("select pg_try_advisory_lock($1)", lock):
        await asyncio.sleep(delay * random.uniform(0.5, 1.5))
        delay = min(delay * 1.5, 0.5)
    try:
        yield
    finally:
        with suppress(*LOST):
            await connection.execute("select pg_advisory_unlock($1)", lock)


async def with_short_lock(
    connection: AnyConnection, change: Callable[[], Awaitable[object]]
) -> None:
    """Run ``change`` in a transaction that gives up a lock soon and tries again later.

    Raises:
        asyncpg.LockNotAvailableError: others held the lock through every attempt.
    """
    for attempt in range(LOCK_ATTEMPTS):
        try:
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = {LOCK_ATTEMPT_MS}")
                await change()
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == LOCK_ATTEMPTS - 1:
                raise
        await asyncio.sleep(random.uniform(0.05, 0.25))


async def make_missing(executor: Executor, script: str, lock: tuple[int, ...]) -> None:
    """Run those statements of a script whose object is not there, in one short transaction.

    Somebody who has read a table and forgotten to end the transaction would otherwise hold up the
    ALTER of every process that starts, and the readers of all tenants queue after it. Settings and
    locks are the transaction's own, so that a pooler that lends sessions keeps none of them.

    Raises:
        asyncpg.LockNotAvailableError: others held a table through every attempt.
    """
    statements = [each for each in without_comments(script).split(";") if each.strip()]
    async with connection_of(executor) as connection:
        for attempt in range(LOCK_ATTEMPTS):
            # A role's own time limit may be too short for it; within the transaction there is none.
            with suppress(asyncpg.QueryCanceledError):
                if not await _missing(connection, statements):
                    return
            # In a transaction of the caller's own its isolation level stands.
            level: _Level = None if connection.is_in_transaction() else "read_committed"
            try:
                async with connection.transaction(isolation=level):
                    if level is not None:
                        await connection.execute("set transaction read write")
                    await connection.fetch(_PUT_LOCALLY, list(_SETTINGS), list(_SETTINGS.values()))
                    await connection.execute(f"set local lock_timeout = {LOCK_ATTEMPT_MS}")
                    keys = ", ".join(map(str, lock))
                    await connection.execute(f"select pg_advisory_xact_lock({keys})")
                    # By now another process may have made them.
                    for statement in await _missing(connection, statements):
                        await connection.execute(statement)
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if attempt == LOCK_ATTEMPTS - 1 or connection.is_in_transaction():
                    raise
            await asyncio.sleep(random.uniform(0.05, 0.25))


def without_comments(script: str) -> str:
    """What a server would run of it."""
    return _COMMENT.sub("", script)


async def _missing(connection: AnyConnection, statements: list[str]) -> list[str]:
    """Those that have something to do, found out in one round trip: every process asks that."""
    questions: list[str] = []
    values: list[str] = []
    for statement in statements:
        question, *needed = _look(statement)
        questions.append(_numbered(question, after=len(values)))
        values += needed
    # As text: what an array of booleans is, a session would ask the catalog first.
    answers = await connection.fetchval(
        f"select array[({'), ('.join(questions)})]::text[]", *values
    )
    return [each for each, missing in zip(statements, answers, strict=True) if missing == "true"]


def _numbered(question: str, *, after: int) -> str:
    return re.sub(r"\$(\d+)", lambda found: f"${int(found[1]) + after}", question)


def _look(statement: str) -> tuple[str, ...]:
    """The question whether a statement of a script has anything to do, and its parameters."""
    if found := re.search(r"create table if not exists (\w+)", statement):
        return "select to_regclass($1) is null", found[1]
    if found := re.search(r"create (?:unique )?index if not exists (\w+)\s+on (\w+)", statement):
        return (
            "select not exists (select from pg_index i join pg_class c on c.oid = i.indexrelid"
            " where i.indrelid = to_regclass($1) and c.relname = $2)",
            found[2], found[1],
        )  # fmt: skip
    if found := re.search(r"alter table (\w+)\s+drop constraint if exists (\w+)", statement):
        return (
            "select exists (select from pg_constraint"
            " where conrelid = to_regclass($1) and conname = $2)",
            found[1], found[2],
        )  # fmt: skip
    if found := re.search(r"alter table (\w+)\s+alter column (\w+) type (\w+)", statement):
        return (
            "select exists (select from pg_attribute where attrelid = to_regclass($1)"
            " and attname = $2 and atttypid <> to_regtype($3))",
            found[1], found[2], found[3],
        )  # fmt: skip
    if found := re.search(r"alter table (\w+)\s+add column", statement):
        columns = re.findall(r"add column if not exists (\w+)", statement)
        return (
            "select exists (select from unnest(string_to_array($2, ',')) as wanted(name)"
            " where not exists (select from pg_attribute a where a.attrelid = to_regclass($1)"
            " and a.attname = wanted.name and not a.attisdropped))",
            found[1], ",".join(columns),
        )  # fmt: skip
    raise ValueError(f"nobody can see what this statement would make: {statement.strip()[:80]}")
