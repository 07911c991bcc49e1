"""What people ask of the journal: ids by their first characters, who began what, and counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.declared import uuid_of
from eventsource.named_sql import statements
from eventsource.retried import Retried

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "lookups.sql")

_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


#: The length of an id as text, and where its dashes are.
_LENGTH, _DASHES = 36, (8, 13, 18, 23)


def ids_of(prefix: str) -> tuple[UUID, UUID] | None:
    """The lowest and the highest id that begins so; None where no id does."""
    if len(prefix) > _LENGTH:
        return None
    ends = []
    for digit in "0f":
        whole = prefix + "".join(
            "-" if at in _DASHES else digit for at in range(len(prefix), _LENGTH)
        )
        if not _ID.fullmatch(whole):
            return None
        ends.append(UUID(whole))
    return ends[0], ends[1]


async def ids_beginning_with(pool: Executor, prefix: str, limit: int = 10) -> list[UUID]:
    """Migrations whose id begins so, newest first."""
    if (ends := ids_of(prefix.lower())) is None:
        return []
    rows = await Retried(pool).fetch(_SQL["ids_between"], *ends, limit)
    return [uuid_of(row["id"]) for row in rows]


async def offered(pool: Executor, prefix: str, limit: int) -> list[tuple[str, str]]:
    """The same as text, with what they are."""
    if (ends := ids_of(prefix.lower())) is None:
        return []
    rows = await pool.fetch(_SQL["offered"], *ends, limit)
    return [(row[0], f"{row[2]}, tenant {row[1]} to {row[3]}") for row in rows]


async def operators_of(pool: Executor, migration_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Who started each of the migrations, as far as it is known."""
    rows = await Retried(pool).fetch(_SQL["operators_of"], [*map(str, migration_ids)])
    return {uuid_of(row["migration_id"]): row["operator"] for row in rows}


async def reported(pool: Executor, digest: str) -> Any:
    """Migration, time and operator of the report with this digest; None where none was made."""
    return await Retried(pool).fetchrow(_SQL["reported"], digest)


async def sent_on(pool: Executor) -> list[UUID]:
    """Migrations whose source a driver has reminded of its decision since a repair looked at it."""
    return [uuid_of(row["migration_id"]) for row in await Retried(pool).fetch(_SQL["sent_on"])]


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all migrations that the journal knows.

    Attributes:
        states: how many migrations are in each state.
        outcomes: how many cutovers ended so; ``ok``, or the code of an error.
        pauses: for each bound (seconds) how many fences were held no longer.
        pause_count, pause_sum: all of them, and their seconds.
    """

    states: Mapping[str, int]
    outcomes: Mapping[str, int]
    pauses: Mapping[float, int]
    pause_count: int
    pause_sum: float


async def totals(pool: Executor, bounds: Sequence[float]) -> Totals:
    """Counts over the whole journal, for metrics; ``bounds`` are of the pauses (seconds)."""
    ask = Retried(pool).fetch
    states = await ask(_SQL["states"])
    outcomes = await ask(_SQL["outcomes"])
    rows = await ask(_SQL["pauses"], sorted(-bound * 1000 for bound in bounds))
    held = sorted(bounds, reverse=True)
    return Totals(
        {row["state"]: row["n"] for row in states},
        {row["code"]: row["n"] for row in outcomes},
        {
            bound: sum(row["n"] for row in rows if row["bounds"] > at)
            for at, bound in enumerate(held)
        },
        sum(row["n"] for row in rows),
        float(sum(row["seconds"] for row in rows)),
    )
