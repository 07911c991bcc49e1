"""A role that is no superuser, at both stores; what it makes there is its own."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg

_NUMBERS = itertools.count(1)
_SIDES = ("source", "target")


@dataclass(frozen=True, slots=True)
class OwningRole:
    """Its name, quoted, and the addresses with it at source and target."""

    quoted: str
    dsns: dict[str, str]


@contextlib.asynccontextmanager
async def owning_role(dsns: dict[str, str]) -> AsyncIterator[OwningRole]:
    """Make the role, and drop it with all that it owns."""
    # Roles are the server's, and other tests use it too.
    name = f"migrator-{next(_NUMBERS)}@billing.{urlsplit(dsns['source']).path[1:]}"
    role = OwningRole(f'"{name}"', dict(dsns))
    for side in _SIDES:
        parts = urlsplit(dsns[side])
        await _run(
            dsns[side],
            f"drop role if exists {role.quoted};"
            f" create role {role.quoted} login password 'not-the-superuser';"
            f" grant usage, create on schema public to {role.quoted};"
            f' grant create on database "{parts.path[1:]}" to {role.quoted}',
        )
        address = f"{name.replace('@', '%40')}:not-the-superuser@{parts.hostname}:{parts.port}"
        role.dsns[side] = parts._replace(netloc=address).geturl()
    try:
        yield role
    finally:
        for side in _SIDES:
            await _run(dsns[side], f"drop owned by {role.quoted} cascade; drop role {role.quoted}")


async def _run(dsn: str, statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()
