"""A comparison that is interrupted goes on where it stopped, and counts as if it had not been."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventsource.dataplane import Verification, VerifyConfig
from eventsource.migration import ConsistencyVerifier, MigrationError, VerificationReport
from eventsource.migration.connections import timeouts
from eventsource.migration.consistency import resumable
from tests.support.application import SOURCE, TARGET
from tests.support.worlds.three_databases import TARGET_TABLE, World, table

#: Streams have ten events each, so that most of them span ranges.
EVENTS, RANGE = 100, 7
RANGES = EVENTS // RANGE + 1
#: The range that is interrupted.
STOP = 4


class Ranges(list[VerifyConfig]):
    """The ranges that were begun; the one at ``stop_at`` is interrupted."""

    stop_at: int | None = None
    #: Streams that are counted by their names.
    most_names = 32_768


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> Ranges:
    begun = Ranges()
    start = Verification.start

    def noted(config: VerifyConfig) -> Verification:
        config = replace(config, most_names=begun.most_names)
        if config.upto is not None or config.after is not None:
            begun.append(config)
            if len(begun) == begun.stop_at:
                raise asyncio.CancelledError
        return start(config)

    monkeypatch.setattr(resumable, "RANGE_ROWS", RANGE)
    monkeypatch.setattr(Verification, "start", staticmethod(noted))
    return begun


@pytest.fixture
async def moved(world: World) -> World:
    """A tenant of ten streams on both sides, whose migration still follows."""
    await world.seed(EVENTS)
    migration = await world.dual_write()
    # The guard of the target lets this connection pass, as if it were the migration's own.
    await world.target.execute(f"set eventsource.migration = '{migration.id}'")
    return world


async def verify(world: World, state: Path | None, **changes: Any) -> VerificationReport:
    here = world.here
    return await ConsistencyVerifier(here.source, here.target).verify_tenant_consistency(
        changes.pop("tenant", world.tenant),
        changes.pop("level", "hash"),
        state_file=state,
        **changes,
    )


def told(report: VerificationReport) -> dict[str, Any]:
    """Everything but the time it took and the order."""
    return {
        **{k: v for k, v in vars_of(report).items() if k != "duration_seconds"},
        "violations": sorted(map(repr, report.violations)),
        "stream_results": sorted(map(repr, report.stream_results)),
    }


def vars_of(report: VerificationReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__slots__}


async def break_rows(world: World) -> None:
    """Differences in the first, a middle and the last range; two of them in one stream."""
    name = table("target")
    changes = (
        (0, f"update {name} set event_type = 'other'"),
        (8, f"update {name} set actor_id = 'x'"),
        (55, f"delete from {name}"),
        (99, f"update {name} set version = 77"),
    )
    positions = [
        row[0] for row in await world.target.fetch(f"select global_position from {name} order by 1")
    ]
    for nth, change in changes:
        await world.target.execute(f"{change} where global_position = $1", positions[nth])


@pytest.mark.parametrize("level", ["hash", "full"])
@pytest.mark.parametrize("broken", [False, True], ids=["alike", "different"])
@pytest.mark.parametrize("most_names", [32_768, 4], ids=["named", "counted"])
async def test_an_interrupted_comparison_goes_on_and_counts_as_one(
    moved: World, ranges: Ranges, tmp_path: Path, level: str, broken: bool, most_names: int
) -> None:
    ranges.most_names = most_names
    if broken:
        await break_rows(moved)
    whole = await verify(moved, None, level=level)
    assert ranges == []
    assert not whole.streams_estimated
    assert whole.is_consistent is not broken
    assert (whole.streams_verified, whole.streams_consistent) == (10, 7 if broken else 10)
    state = tmp_path / "state.json"
    ranges.stop_at = STOP
    with pytest.raises(asyncio.CancelledError):
        await verify(moved, state, level=level)
    # What is written now is in no comparison that began before.
    await moved.here.append(moved.tenant)
    resumed = await verify(moved, state, level=level)
    assert told(resumed) == told(whole)
    assert not state.exists()
    begun = [config.after for config in ranges]
    assert begun[0] is None
    assert begun[STOP] == begun[STOP - 1]
    later = [after or 0 for after in begun[STOP + 1 :]]
    assert later == sorted(set(later))
    assert len(ranges) in (RANGES + 1, RANGES + 2)
    assert len({config.snapshot for config in ranges}) == 1


async def test_the_state_of_another_comparison_is_refused_and_left_alone(
    moved: World, ranges: Ranges, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    ranges.stop_at = STOP
    with pytest.raises(asyncio.CancelledError):
        await verify(moved, state)
    kept = state.read_text()
    passwords = {urlsplit(dsn).password for dsn in moved.dsns.values()}
    assert not any(password in kept for password in passwords if password)
    for changes, named in (
        ({"tenant": moved.other}, "tenant"),
        ({"level": "full"}, "level"),
        ({"sample_percentage": 50.0}, "sample"),
    ):
        with pytest.raises(MigrationError, match=f"not the same: {named}"):
            await verify(moved, state, **changes)
    for text, told_ in (
        (kept.replace('"version": "', '"version": "9'), "was written by version 9"),
        (kept.replace("source cluster", "source", 1), "not the same"),
        (kept[:100], "does not hold the state"),
        # Before there was a form the file had a name for each stream, however many.
        (kept.replace(', "form": 3', ""), "has the form of an earlier build"),
        # What was then full of names would be taken for all of them.
        (kept.replace('"form": 3', '"form": 2'), "has the form of an earlier build"),
    ):
        state.write_text(text)
        with pytest.raises(MigrationError, match=told_):
            await verify(moved, state)
        assert state.read_text() == text


async def test_the_state_is_of_the_same_size_for_any_number_of_streams(
    moved: World, ranges: Ranges, tmp_path: Path
) -> None:
    sizes = {}
    for most_names, stop_at in ((4, 2 * STOP), (4, 3 * STOP), (32_768, 3 * STOP)):
        state = tmp_path / f"{most_names} {stop_at}.json"
        ranges.clear()
        ranges.most_names, ranges.stop_at = most_names, stop_at
        with pytest.raises(asyncio.CancelledError):
            await verify(moved, state)
        sizes[most_names, stop_at] = len(json.loads(state.read_text())["streams_seen"])
    bounded, later, named = sizes.values()
    assert bounded == later < named


async def test_after_the_move_the_state_from_before_is_refused(
    moved: World, ranges: Ranges, tmp_path: Path
) -> None:
    state = tmp_path / "state.json"
    ranges.stop_at = STOP
    with pytest.raises(asyncio.CancelledError):
        await verify(moved, state)
    (migration,) = await moved.coordinator.get_active_migrations()
    await moved.coordinator.initiate_cutover(migration.id, force=True)
    with pytest.raises(MigrationError, match="last source position"):
        await verify(moved, state)


async def test_counting_has_no_state(moved: World, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count"):
        await verify(moved, tmp_path / "state.json", level="count")


_KILLED = """
import os, signal, sys
from eventsource.cli import main
from eventsource.migration.connections import timeouts
from eventsource.migration.consistency import resumable
resumable.RANGE_ROWS = 7
save = resumable._save
def save_and_die(*arguments):
    save(*arguments)
    if resumable.DIE_AT == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    resumable.DIE_AT -= 1
resumable._save = save_and_die
resumable.DIE_AT = int(sys.argv.pop(1))
main()
"""


async def test_a_killed_command_goes_on_where_it_was_killed(moved: World, tmp_path: Path) -> None:
    state, config = tmp_path / "state.json", tmp_path / "eventsource.toml"
    config.write_text(
        f'default_store = "{SOURCE}"\n'
        f"control = {{ dsn = {json.dumps(moved.dsns['control'])} }}\n"
        f"[stores.{SOURCE}]\ndsn = {json.dumps(moved.dsns['source'])}\n"
        f"[stores.{TARGET}]\ndsn = {json.dumps(moved.dsns['target'])}\n"
        f'table = "{TARGET_TABLE}"\n'
    )
    command = ["--config", config, "--json", "verify", moved.tenant, "--state", state]

    async def run(die_at: int) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED, str(die_at), *map(str, command),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output

    done = []
    for _ in range(2):
        code, output = await run(die_at=3)
        assert (code, output) == (-signal.SIGKILL, b"")
        done.append(json.loads(state.read_text())["source_event_count"])
    assert done == [3 * RANGE, 6 * RANGE]
    code, output = await run(die_at=0)
    report = json.loads(output)
    assert (code, report["is_consistent"]) == (0, True)
    assert (report["source_event_count"], report["streams_verified"]) == (EVENTS, 10)
    assert not state.exists()


async def test_a_comparison_with_a_state_gives_up_on_a_server_that_is_silent(
    moved: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It waited without end, where one without a state gives up."""
    monkeypatch.setattr(timeouts, "STALLED_SECONDS", 1.0)

    async def silence_the_target(*_: Any) -> None:
        """Now that the comparison knows the table; this is the last range."""
        await moved.target.execute(f"begin; lock table {table('target')}")

    monkeypatch.setattr(resumable, "_end_of_range", silence_the_target)
    with pytest.raises(timeouts.StalledError):
        await asyncio.wait_for(verify(moved, tmp_path / "state.json"), 20)


async def test_a_count_that_takes_its_time_is_waited_for(
    moved: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row comes before a server has counted all: a large tenant's count was always given up."""
    monkeypatch.setattr(timeouts, "STALLED_SECONDS", 0.1)
    start = Verification.start

    def counted_slowly(config: VerifyConfig) -> Verification:
        return start(replace(config, target=replace(config.target, table="slow")))

    monkeypatch.setattr(Verification, "start", staticmethod(counted_slowly))
    await moved.target.execute(
        f"create view slow as select e.* from {table('target')} as e,"
        " (select pg_sleep(1) offset 0) as first"
    )
    assert (await verify(moved, None, level="count")).is_consistent
