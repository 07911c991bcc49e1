"""A process that makes one call of `move`, to be killed.

``python -m tests.support.moving_process JOB.json`` moves the tenant of the job, slowly.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime
from pathlib import Path
from uuid import UUID

from eventsource.migration import DeadlineReachedError
from tests.support.application import SOURCE, TARGET
from tests.support.child_process import ChildProcess
from tests.support.whole_moves import CRAWLING
from tests.support.worlds.three_databases import World


class MovingProcess(ChildProcess):
    """Starts this file as a process of its own, in a world of three databases."""

    def __init__(self, world: World, directory: Path, until: datetime) -> None:
        file = directory / "job.json"
        file.touch(mode=0o600)
        job = {"dsns": world.dsns, "tenant": str(world.tenant), "until": until.isoformat()}
        file.write_text(json.dumps(job))
        super().__init__(
            [sys.executable, "-m", "tests.support.moving_process", str(file)],
            directory / "moving.log",
        )


async def _move(job: dict[str, str]) -> None:
    world = World(job["dsns"], None, None, None)  # type: ignore[arg-type]
    process = await world.process(lease_seconds=1.0, **CRAWLING)
    until = datetime.fromisoformat(job["until"])
    try:
        await process.coordinator.move(UUID(job["tenant"]), SOURCE, TARGET, until=until)
    except DeadlineReachedError:
        print("parked")


if __name__ == "__main__":
    asyncio.run(_move(json.loads(Path(sys.argv[1]).read_text())))
