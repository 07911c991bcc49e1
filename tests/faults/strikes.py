"""A database goes back in time in the middle of a schedule, and the page is followed.

The judge knows what the database itself has lost: only what some store still held afterwards has to
be at home, or be named. What is acknowledged after the repair is judged as always.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.testing import Attempt, invariants, read_rows
from eventsource.testing.invariants import History, Row
from tests.drills import play
from tests.drills.stage import Stage
from tests.drills.table import CONTROL_RESTORED, RESTORED, TARGET_GONE, Drill

if TYPE_CHECKING:
    from tests.drills.play import Survivors
    from tests.faults.schedule import Strike

_UNDER_WAY = ("pending", "bulk_copy", "dual_write", "cutover_paused", "paused", "failed")


@dataclass(slots=True)
class Struck:
    """One strike of a schedule.

    Attributes:
        survivors: what any store held right after it.
        before, others: rows of the tenant at home and of the bystander, once it was repaired.
    """

    stage: Stage
    strike: Strike
    survivors: Survivors | None = None
    before: Sequence[Row] = ()
    others: Sequence[Row] = ()

    @property
    def is_over(self) -> bool:
        return self.survivors is not None

    async def prepare(self) -> None:
        """A copy of the volumes, or standbys that receive nothing from now on."""
        self.stage.write_config()
        if self.strike.how == "restored":
            await asyncio.to_thread(self.stage.snapshot, self.strike.sides)
        else:
            await self.stage.follow(self.strike.sides)

    async def happen(self) -> None:
        """Writers and drivers run."""
        if self.strike.how == "restored":
            await self.stage.restore(self.strike.sides)
        else:
            await self.stage.fail_over(self.strike.sides)

    async def answered(self) -> list[str]:
        """Nobody runs: what the page says is typed. Every promise that was broken."""
        self.survivors = await play.survivors_of(self.stage)
        drill = Drill(self.strike.sides, self.strike.how, "after", "after", await self._row())
        # An armed moment may have failed it before.
        said = await play.answer(self.stage, drill)
        found = [each for each in said if not each.startswith("failed: failpoint ")]
        self.before = await play.rows_at_home(self.stage)
        self.others = await read_rows(self.stage.store("source"), self.stage.bystander)
        return found + await play.judge(self.stage, self.survivors, list(self.before))

    async def _row(self) -> str:
        if self.strike.sides == ("control",):
            return CONTROL_RESTORED
        migration = await self.stage.migration()
        if self.strike.sides == ("target",) and migration and migration["state"] in _UNDER_WAY:
            with contextlib.suppress(asyncpg.UndefinedTableError):
                rows = await self.stage.sql(
                    "target",
                    "select from eventsource_copy_progress where migration_id = $1",
                    migration["id"],
                )
                if not rows and not await self._is_decided(migration["id"]):
                    return TARGET_GONE
        return RESTORED

    async def _is_decided(self, migration: UUID) -> bool:
        """Whoever decided may have died before the control database heard of it."""
        return bool(
            await self.stage.sql(
                "source",
                "select from eventsource_fences where migration_id = $1 and role = 'source'"
                " and state = 'moved'",
                migration,
            )
        )

    async def broken(self, attempts: Sequence[Attempt]) -> list[str]:
        """What was broken at the end of the schedule; ``attempts`` are those since the repair."""
        assert self.survivors is not None
        rows = await play.rows_at_home(self.stage)
        found = await play.judge(self.stage, self.survivors, rows)
        others = await read_rows(self.stage.store("source"), self.stage.bystander)
        for tenant, now, then in (
            (self.stage.tenant, rows, self.before),
            (self.stage.bystander, others, self.others),
        ):
            own = [each for each in attempts if each.tenant_id == str(tenant)]
            history = History.of(own, then)
            broken = [
                *invariants.acknowledged_exactly_once(history, now),
                *invariants.nothing_unattempted(history, now),
                *invariants.streams_are_whole(now),
                *invariants.order_is_kept(history, now),
            ]
            found += [str(each) for each in broken]
        return found

    async def close(self) -> None:
        await self.stage.close()
