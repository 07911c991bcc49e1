"""What routers say of themselves: whether they could write where a tenant is about to live.

The driver of a cutover knows the databases, and not the processes that append: what their roles may
do at the target, whether a packet gets there, and which database their configuration means. Nor
does it know how long their appends took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.declared import as_declared
from eventsource.migration.errors import MigrationError, RoutersNotReadyError
from eventsource.named_sql import statements

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "router_reports.sql")

#: How often a router says it again (seconds).
INTERVAL = 5.0

#: How long a report is believed (seconds): a process that has ended is not waited for.
BELIEVED = 3 * INTERVAL


@dataclass(frozen=True, slots=True)
class RouterReport:
    """What one router has said of the target of a migration.

    Attributes:
        router: the host and the process, with a number where it has several routers.
        ready: whether it could append there.
        reason: why not.
        seen_at: when it said so last.
        is_live: whether that was less than 15 seconds ago.
        left_out_by: who decided that the cutover does not wait for it.
        sessions: how many it has at the source; 0 from a version that does not say so.
        longest_append_ms: the longest append for the tenant that ended between the raising of the
            fence and one second after the move, from call to answer, in milliseconds; None until it
            is reported, and where there was none.
    """

    migration_id: UUID
    router: str
    ready: bool
    reason: str | None
    seen_at: datetime
    is_live: bool
    left_out_by: str | None
    sessions: int = 0
    longest_append_ms: float | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether a cutover is refused for its sake."""
        return self.is_live and not self.ready and self.left_out_by is None

    def __str__(self) -> str:
        return f"{self.router}: {self.reason or 'ready'}"


class RouterReports:
    """The reports in the control database."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    async def report(
        self, migration_id: UUID, router: str, reason: str | None, sessions: int
    ) -> None:
        """Say that a router is ready, or why it is not, and how many sessions it has."""
        await self._pool.execute(
            _SQL["report"], migration_id, router, reason is None, reason, sessions
        )

    async def longest_append(self, migration_id: UUID, router: str, seconds: float) -> None:
        """Say how long the longest append of a router took at the cutover."""
        await self._pool.execute(_SQL["longest_append"], migration_id, router, seconds * 1000)

    async def of_migration(self, migration_id: UUID) -> list[RouterReport]:
        """All that was said, by name; empty where the table is not there yet."""
        try:
            rows = await self._pool.fetch(_SQL["of_migration"], migration_id, BELIEVED)
        except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
            return []
        return [RouterReport(**as_declared(RouterReport, row)) for row in rows]

    async def leave_out(self, migration_id: UUID, router: str, operator: str | None) -> None:
        """The cutover does not wait for this router.

        Raises:
            MigrationError: no router of that name has reported.
        """
        if await self._pool.fetchval(_SQL["leave_out"], migration_id, router, operator):
            return
        known = ", ".join(repr(each.router) for each in await self.of_migration(migration_id))
        raise MigrationError(
            f"no router {router!r} has said anything of migration {migration_id}; those that have:"
            f" {known or 'none'}"
        )

    async def refuse_unready(self, migration_id: UUID) -> None:
        """Nothing, where every router that has said something could write at the target.

        Raises:
            RoutersNotReadyError: some could not.
        """
        found = [each for each in await self.of_migration(migration_id) if each.is_waited_for]
        if found:
            raise RoutersNotReadyError(migration_id, said(found))


def said(reports: Sequence[RouterReport]) -> str:
    """What several have said, in a line."""
    return "; ".join(map(str, reports))
