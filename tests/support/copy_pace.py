"""How far a copy is, and how fast, by what the target has committed."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.waiting import until
from tests.support.worlds.three_databases import World


@dataclass(frozen=True)
class Copied:
    """What is committed at the target, and when that was by its own clock."""

    rows: int
    seconds: float


async def copied(world: World, beyond: int) -> Copied:
    row = await until(
        lambda: world.target.fetchrow(
            "select pass_rows, extract(epoch from updated_at)::float8"
            " from eventsource_copy_progress where pass_rows > $1",
            beyond,
        ),
        f"more than {beyond} rows",
    )
    return Copied(row[0], row[1])


async def speed(world: World, rows: int) -> float:
    """Events per second over so many rows from now on."""
    began = await copied(world, beyond=0)
    ended = await copied(world, beyond=began.rows + rows)
    return (ended.rows - began.rows) / (ended.seconds - began.seconds)
