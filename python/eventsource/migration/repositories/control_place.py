"""Which place the control database is, beside the one that the journal remembers.

A control database that was restored, copied or dumped elsewhere says what was true at an earlier
moment, or what another copy says too. That is for somebody to know, and refuses nothing: the fences
of the stores have the last word.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.migration.models import Migration, StoreIdentity
from eventsource.migration.protocol import SPOKEN
from eventsource.named_sql import statements
from eventsource.retried import Retried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "control_place.sql")

#: What keeps a role or an old journal from an answer: then nothing is said.
_UNKNOWN = (
    asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError,
)  # fmt: skip

#: How long who only looks waits for an answer (seconds).
ASKED_SECONDS = 2.0


async def here(control: Executor) -> StoreIdentity | None:
    """The place that this process has for its control database; None where it may not know."""
    try:
        row = await Retried(control).fetchrow(_SQL["here"])
    except _UNKNOWN:
        return None
    return StoreIdentity(**dict(row)) if row is not None else None


async def as_json(control: Executor) -> str | None:
    """The same, as the journal stores it."""
    place = await here(control)
    return place.to_json() if place is not None else None


async def warning_of(control: Executor, migration: Migration) -> str | None:
    """A sentence, where a migration began with a control database at another place."""
    if migration.control_identity is None:
        return None
    place = await here(control)
    if place is None or place == migration.control_identity:
        return None
    return sentence(place, migration.control_identity, [migration.id])


async def warning(control: Executor) -> str | None:
    """A sentence, where those under way, or the last one that began, did so at another place."""
    try:
        async with asyncio.timeout(ASKED_SECONDS):
            place = await here(control)
            if place is None:
                return None
            rows = await Retried(control).fetch(_SQL["elsewhere"], place.to_json())
    except (*_UNKNOWN, TimeoutError):
        return None
    if not rows:
        return None
    recorded = StoreIdentity(**json.loads(rows[0]["control_identity"]))
    return sentence(place, recorded, [row["id"] for row in rows])


def sentence(place: StoreIdentity, recorded: StoreIdentity, began: Sequence[UUID]) -> str:
    """What somebody should know before anything is moved."""
    others = f" and {len(began) - 1} more" if len(began) > 1 else ""
    return (
        f"the control database is {place.describe()} here, and migration {began[0]}{others} began"
        f" with {recorded.describe()}: it was restored, copied or upgraded since. Let no process"
        " use the other one, and run `eventsource-migrate repair`, which brings this one in line"
        " with what the stores say and ends this warning"
    )


async def bind(control: Executor, operator: str | None) -> None:
    """From now on the journal is at home here."""
    place = await here(control)
    if place is not None:
        await control.execute(_SQL["bind"], place.to_json(), SPOKEN, operator)
