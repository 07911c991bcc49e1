"""How many connections a wave has at each server, and how many that server has left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.fleet.waves import Candidate
from eventsource.migration.connections import room
from eventsource.migration.driver.places import (
    AT_CONTROL,
    AT_SOURCE,
    AT_TARGET,
    SHARE,
    SHARE_OF_FREE,
)

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: How the control database is called among the stores.
CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Seats:
    """The connections of one server.

    Attributes:
        databases: the stores on it, and ``control``.
        needed: by as many moves at the same time as the limits of the groups allow.
        granted: what moves may take of it now; where that is less, some of them wait for a place.
        free: those that nobody has at the moment.
        usable: those that ordinary roles may have.
    """

    databases: tuple[str, ...]
    needed: int
    granted: int
    free: int
    usable: int


async def needed(
    candidates: Sequence[Candidate],
    executors: Mapping[str, Executor],
    control: Executor,
    at_once: Mapping[str, int],
    groups: Mapping[str, str],
) -> list[Seats]:
    """What the wave needs at most, and what there is, for each server.

    Args:
        executors: of each store.
        at_once: how many move at the same time, by group.
        groups: of each target.
    """
    rooms = {CONTROL: await room.of_server(control)}
    for name in sorted(executors):
        rooms[name] = await room.of_server(executors[name])
    server_of = {name: each.identity for name, each in rooms.items()}
    costs: dict[str, Counter[str]] = {}
    tenants: Counter[str] = Counter()
    for each in candidates:
        group = groups[each.target_store_id]
        tenants[group] += 1
        cost: Counter[str] = Counter()
        cost[server_of[CONTROL]] += AT_CONTROL
        cost[server_of[each.source_store_id]] += AT_SOURCE
        cost[server_of[each.target_store_id]] += AT_TARGET
        # Whichever of its tenants move together: at each server the most that one of them takes.
        costs[group] = costs.get(group, Counter()) | cost
    total: Counter[str] = Counter()
    for group, cost in costs.items():
        for server, number in cost.items():
            total[server] += number * min(at_once[group], tenants[group])
    found: dict[str, Seats] = {}
    for name, seen in rooms.items():
        databases = (*(found[seen.identity].databases if seen.identity in found else ()), name)
        granted = int(min(seen.usable * SHARE, (seen.free + seen.ours) * SHARE_OF_FREE))
        found[seen.identity] = Seats(
            databases, total[seen.identity], granted, seen.free, seen.usable
        )
    return list(found.values())
