"""`fleet plan`, `fleet status` and the page with five thousand tenants in the journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationConfig
from tests.support.command_line import DEDICATED, CommandLine
from tests.support.fleet_page import served
from tests.support.full_journal import TENANTS, fill

#: What each of them may take (seconds), and how many times as long as it takes with nothing there:
#: on a machine that does other things as well everything is slow.
SECONDS, TIMES_AS_LONG = 1.0, 4.0


def quickest(ask: Callable[[], object]) -> float:
    """How long it takes at best of three (seconds)."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        ask()
        took.append(time.monotonic() - began)
    return min(took)


async def _fill(dsn: str) -> None:
    control = await asyncpg.connect(dsn)
    try:
        await fill(control, MigrationConfig().to_json(), 2 * TENANTS)
    finally:
        await control.close()


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_each_answers_in_less_than_a_second(ready: CommandLine) -> None:
    empty = quickest(lambda: ready("fleet", "status"))
    small = ready.directory / "few.csv"
    small.write_text(str(ready.other))
    to = ("--to", DEDICATED, "--no-sizes", "--replace")
    plan_of_one = quickest(lambda: ready("fleet", "plan", "one", "--file", small, *to))
    asyncio.run(_fill(ready.control_dsn))
    took = {
        "status": (quickest(lambda: ready("fleet", "status", "wave 1")), empty),
        "status of all": (quickest(lambda: ready("fleet", "status")), empty),
        "list": (quickest(lambda: ready("list")), empty),
        "status of migrations": (quickest(lambda: ready("status")), empty),
    }
    assert f"of {TENANTS:,} have moved" in ready("fleet", "status", "wave 1").output
    tenants = ready.directory / "tenants.csv"
    tenants.write_text("\n".join(str(uuid4()) for _ in range(TENANTS)))
    plan = quickest(lambda: ready("fleet", "plan", "many", "--file", tenants, *to))
    took["plan"] = (plan, plan_of_one)
    shown = ready("fleet", "plan", "many", "--file", tenants, *to).output
    assert "1 of 5,000 was examined as a whole, one for each pair of stores" in shown
    with served(ready) as page:
        page.json("/api/now")
        took["page"] = (quickest(lambda: page.json("/api/now")), empty)
        assert {each["tenants"] for each in page.json("/api/now")["waves"]} >= {TENANTS}
    slow = {
        name: at for name, (at, least) in took.items() if at > max(SECONDS, TIMES_AS_LONG * least)
    }
    assert slow == {}, took
