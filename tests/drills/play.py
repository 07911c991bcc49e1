"""Plays one drill: the move, the disaster, what the page says to type, and the judgement."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.testing import invariants, read_rows
from eventsource.testing.invariants import History
from tests.drills import page
from tests.drills.stage import described
from tests.drills.table import ABORTED_SINCE, ANOTHER_EVENT, MOMENTS, Drill
from tests.support.waiting import until
from tests.support.worlds.two_servers import SHARED

if TYPE_CHECKING:
    from eventsource.testing.invariants import Row
    from tests.drills.stage import Stage

#: What the writers do while nobody has noticed anything (seconds).
UNNOTICED = 1.5

#: Until a driver has said that it cannot log in (seconds).
NOTICED = 5.0

#: How long a migration may take to come to rest under `work` (seconds).
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Survivors:
    """What any store held after the disaster, before anybody typed anything."""

    tenant: set[UUID]
    bystander: set[UUID]


async def play(stage: Stage, drill: Drill) -> list[str]:
    """Every promise that was broken."""
    await _up_to_the_disaster(stage, drill)
    found = await _strike(stage, drill)
    await asyncio.sleep(UNNOTICED)
    await stage.end_writers()
    survivors = await survivors_of(stage)
    found += await answer(stage, drill)
    before = await rows_at_home(stage)
    found += await judge(stage, survivors, before)
    if drill.is_noticed and survivors.tenant - {UUID(row.event_id) for row in before}:
        found.append("not everything is at home that the other store has had")
    # Life goes on, and the move comes to its end.
    stage.write()
    await stage.acknowledged(5)
    if await _under_way(stage):
        with stage.working():
            await stage.routers_are_ready()
            await stage.type("cutover MIGRATION")
    await stage.acknowledged(5)
    await stage.end_writers()
    found += await _judge_since(stage, before)
    rows = await rows_at_home(stage)
    found += await judge(stage, survivors, rows)
    if drill.followed:
        found += await _return(stage, survivors, rows)
    return found


async def _return(stage: Stage, survivors: Survivors, rows: list[Row]) -> list[str]:
    """By the way back, or by a move of its own where that has ended; with all that home had."""
    migration = await stage.migration()
    assert migration is not None
    ways = await stage.sql(
        "control", "select state from tenant_ways_back where migration_id = $1"
        " order by created_at desc limit 1", migration["id"],
    )  # fmt: skip
    if not ways or ways[0]["state"] != "standby":
        with stage.working():
            await stage.type("way-back close MIGRATION", exit_code=None)
        await stage.type("cleanup MIGRATION --now --backed-up")
        return []
    stage.write()
    await stage.acknowledged(5)
    await stage.type("return MIGRATION")
    await stage.acknowledged(5)
    await stage.end_writers()
    if await _home(stage) != "source":
        return ["the tenant did not return"]
    returned = await rows_at_home(stage)
    ids = {row.event_id for row in returned}
    acknowledged = {
        str(event)
        for attempt in stage.attempts(stage.ended[-1:])
        if attempt.tenant_id == str(stage.tenant) and attempt.outcome == "ok"
        for event in attempt.event_ids
    }
    lost = ({row.event_id for row in rows} | acknowledged) - ids
    found = [f"{len(lost)} events are lost by the return"] if lost else []
    return found + await judge(stage, survivors, returned)


async def _up_to_the_disaster(stage: Stage, drill: Drill) -> None:
    if drill.how == "rotated":
        for side in drill.sides:
            await stage.log_in_as_application(side)
    stage.write()
    await stage.acknowledged(5)
    for moment in MOMENTS[: MOMENTS.index(drill.at) + 1]:
        if moment in ("copy", "decided") and moment not in (drill.back_to, drill.at):
            continue
        await stage.advance(moment)
        if moment == drill.back_to and drill.how == "restored":
            await asyncio.to_thread(stage.snapshot, drill.sides)
        if moment == drill.back_to and drill.how == "failed over":
            await stage.follow(drill.sides)
        if moment in (drill.back_to, drill.at) and stage.writers:
            await stage.acknowledged(5)
    if drill.followed:
        await _follow(stage)
    if drill.is_noticed:
        await stage.end_writers()


async def _follow(stage: Stage) -> None:
    """Events of after the backup are at the store that the tenant has left, too."""
    before = await stage.held("target")
    await stage.acknowledged(10)
    appended = await stage.held("target") - before
    assert appended

    async def carried() -> bool:
        return appended <= await stage.held("source")

    with stage.working():
        await until(carried, "the new events at the old store", PATIENCE)


async def _strike(stage: Stage, drill: Drill) -> list[str]:
    match drill.how:
        case "restored":
            await stage.restore(drill.sides)
        case "failed over":
            await stage.fail_over(drill.sides)
        case "lost" | "emptied":
            await stage.end_writers()
            for side in drill.sides:
                await stage.empty(side)
        case "rotated":
            return await _rotate(stage, drill)
        case "swapped":
            pass
    return []


async def _rotate(stage: Stage, drill: Drill) -> list[str]:
    """A driver that has the old password waits and says so; nothing fails."""
    before = await stage.migration()
    assert before is not None
    with stage.working():
        await until(lambda: _is_driven(stage), "a driver")
        for side in drill.sides:
            await stage.rotate(side)
        await asyncio.sleep(NOTICED)
    said = (stage.directory / "work.log").read_text()
    found = []
    if "waiting" not in said or "password authentication failed" not in said:
        found.append(f"`work` with the old password says: {said}")
    after = await stage.migration()
    if after is None or after["state"] != before["state"]:
        found.append(f"the migration was {before['state']}, and is {described(after)}")
    return found


async def _is_driven(stage: Stage) -> bool:
    row = await stage.migration()
    return row is not None and bool(row["driven"])


async def survivors_of(stage: Stage) -> Survivors:
    held = [await stage.held(side) for side in ("source", "target")]
    others = [await stage.held(side, stage.bystander) for side in ("source", "target")]
    return Survivors(set().union(*held), set().union(*others))


async def answer(stage: Stage, drill: Drill) -> list[str]:
    """Type what the page says; whatever a wrong configuration may not change is compared."""
    if drill.how == "swapped":
        return await _with_the_wrong_configuration(stage)
    if drill.how == "rotated":
        # The page's first step.
        stage.write_config()
    commands = page.rows()[drill.row]
    for command in commands:
        if command == "work":
            await _work(stage)
            continue
        said = await stage.type(command, exit_code=None if "repair" in command else 0)
        if "has another event by now" in said:
            [abort] = page.rows()[ANOTHER_EVENT]
            await stage.type(abort)
            break
        if "knows anything of it" in said:
            [abort] = page.rows()[ABORTED_SINCE]
            await stage.type(abort)
            break
    row = await stage.migration()
    if row is not None and row["state"] == "paused":
        await stage.type(page.rows()["a migration is `paused` after a repair"][0])
        await _work(stage)
    row = await stage.migration()
    if row is not None and row["state"] == "failed":
        return [f"failed: {row['error_message']}"]
    if drill.how not in ("rotated", "emptied"):
        said = await stage.type("repair --yes")
        if "nothing to repair" not in said:
            return [f"a second repair finds something: {said}"]
    return []


async def _with_the_wrong_configuration(stage: Stage) -> list[str]:
    """Another process has source and target swapped: it changes nothing and says so."""
    found = []
    row = await stage.migration()
    assert row is not None
    before = await _state(stage)
    stage.write_config(source=stage.dsns["target"], target=stage.dsns["source"])
    for command in ("abort MIGRATION", "cutover MIGRATION", "resume MIGRATION"):
        said = await stage.type(command, exit_code=None)
        if "Nothing was changed" not in said:
            found.append(f"{command} with the wrong configuration: {said}")
    with stage.working():
        await asyncio.sleep(NOTICED)
    said = (stage.directory / "work.log").read_text()
    if "Nothing was changed" not in said:
        found.append(f"`work` with the wrong configuration: {said}")
    if await _state(stage) != before:
        found.append("the wrong configuration changed something")
    stage.write_config()
    await _work(stage)
    return found


async def _state(stage: Stage) -> list[object]:
    """What must not change: fences, rows, the journal's state."""
    row = await stage.migration()
    found: list[object] = [row["state"] if row else None]
    for side in ("source", "target"):
        fences = await stage.sql(
            side, "select role, state, generation, migration_id from eventsource_fences order by 1"
        )
        found.append([tuple(each) for each in fences])
    found.append(len(await stage.held("target")))
    return found


async def _work(stage: Stage) -> None:
    """`work` until the migration rests: over, paused, or following in dual-write."""
    with stage.working():

        async def rests() -> bool:
            row = await stage.migration()
            if row is None or row["state"] in ("migrated", "rolled_back", "paused", "failed"):
                return True
            return row["state"] == "dual_write" and bool(row["driven"]) and not row["error_message"]

        await until(rests, "the migration at rest", PATIENCE)
        if await _under_way(stage):
            # Not only for a moment: it makes passes.
            await asyncio.sleep(2)


async def _under_way(stage: Stage) -> bool:
    row = await stage.migration()
    return row is not None and row["state"] in ("pending", "bulk_copy", "dual_write")


async def _home(stage: Stage) -> str:
    routes = await stage.sql(
        "control", "select store_id from tenant_routing where tenant_id = $1", str(stage.tenant)
    )
    return "source" if not routes or routes[0][0] == SHARED else "target"


async def rows_at_home(stage: Stage) -> list[Row]:
    return await read_rows(stage.store(await _home(stage)), stage.tenant)


async def judge(stage: Stage, survivors: Survivors, rows: list[Row]) -> list[str]:
    """Nothing is lost that any store still had, and what is not at home is named."""
    at_home = {UUID(row.event_id) for row in rows}
    named = await stage.rescued("source") | await stage.rescued("target") | _exported(stage)
    found = []
    silent = survivors.tenant - at_home - named
    if silent:
        found.append(f"{len(silent)} events are lost, or not named: {sorted(silent)[:3]}")
    held = await stage.held("source") | await stage.held("target")
    gone = survivors.tenant - held
    if gone:
        found.append(f"{len(gone)} events that a store had are in none: {sorted(gone)[:3]}")
    lost = survivors.bystander - {
        UUID(row.event_id) for row in await read_rows(stage.store("source"), stage.bystander)
    }
    if lost:
        found.append(f"the bystander lost {len(lost)} events")
    found += [str(each) for each in invariants.streams_are_whole(rows)]
    return found


def _exported(stage: Stage) -> set[UUID]:
    file = stage.directory / "stranded.jsonl"
    if not file.exists():
        return set()
    return {UUID(json.loads(line)["event_id"]) for line in file.read_text().splitlines()}


async def _judge_since(stage: Stage, before: list[Row]) -> list[str]:
    """The independent checker's invariants, for everything since the repair."""
    rows = await rows_at_home(stage)
    attempts = [
        each for each in stage.attempts(stage.ended[-1:]) if each.tenant_id == str(stage.tenant)
    ]
    history = History.of(attempts, before)
    found = [
        *invariants.acknowledged_exactly_once(history, rows),
        *invariants.nothing_unattempted(history, rows),
        *invariants.streams_are_whole(rows),
        *invariants.order_is_kept(history, rows),
    ]
    answered = [each for each in attempts if each.outcome == "ok"]
    if not answered:
        found_nothing = "nobody could append after the repair"
        return [*map(str, found), found_nothing]
    return [str(each) for each in found]
