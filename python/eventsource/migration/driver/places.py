"""How many migrations may be driven at once: each takes connections that applications need.

The journal counts those whose lease is in force, for the source, the target and the control
database, under a lock for each; so all processes heed the same number. A migration for which there
is no room waits without a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from eventsource.migration.connections import room
from eventsource.migration.driver.lease import SERVER
from eventsource.migration.failures import PASSING
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.models import Migration

#: The most connections that a migration has at the server of each.
AT_SOURCE, AT_CONTROL, AT_TARGET = 7, 7, 5

#: What all migrations together may have of a server's connections, and of those that others leave.
SHARE, SHARE_OF_FREE = 0.5, 0.8

#: The name under which the control database counts; no store has an empty id.
CONTROL = ""

#: An application may hold all connections of its pool for longer than this (seconds).
LOOK_SECONDS = 1.0

#: How long a look at a server is good for (seconds).
FRESH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Server:
    identity: str
    connections: int


class Places:
    """The limits as this process sees them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, _Server]] = {}

    async def of(
        self, migration: Migration, control: Executor, source: Executor, target: Executor
    ) -> Mapping[str, int]:
        """How many moves each store, and the control database, has room for; at least one.

        A server that cannot be asked now limits nothing: the driver finds out that it is away.
        """
        if migration.state is MigrationState.CUTOVER_PAUSED:
            return {}  # writers may be waiting
        given = migration.config.max_moves_per_store
        names = {
            CONTROL: (control, AT_CONTROL),
            migration.source_store_id: (source, AT_SOURCE),
            migration.target_store_id: (target, AT_TARGET),
        }
        identities = {
            migration.source_store_id: migration.source_identity,
            migration.target_store_id: migration.target_identity,
        }
        servers = {}
        for name, (executor, _) in names.items():
            with contextlib.suppress(*PASSING, asyncpg.PostgresError):
                async with asyncio.timeout(LOOK_SECONDS):
                    servers[name] = await self._look(name, executor)
        limits = {}
        for name, server in servers.items():
            # Databases of one server share its connections.
            cost = sum(
                each
                for other, (_, each) in names.items()
                if other in servers and servers[other].identity == server.identity
            )
            limits[name] = max(1, server.connections // cost)
            of_server = identities.get(name)
            if of_server is not None:
                # Several stores on one server share what it has.
                limits[f"{SERVER}{of_server.system}"] = max(limits[name], given or 0)
            if given is not None and name != CONTROL:
                limits[name] = given
        return limits

    async def _look(self, name: str, executor: Executor) -> _Server:
        now = time.monotonic()
        at, server = self._seen.get(name, (float("-inf"), None))
        if server is None or now - at > FRESH_SECONDS:
            seen = await room.of_server(executor)
            mine = min(seen.usable * SHARE, (seen.free + seen.ours) * SHARE_OF_FREE)
            server = _Server(seen.identity, int(mine))
            self._seen[name] = now, server
        return server
