"""`status` without a name while hundreds are under way, most of them parked."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Any

import pytest

from eventsource.cli import show
from eventsource.migration import MigrationCoordinator
from tests.support.command_line import CommandLine
from tests.support.screen import Screen
from tests.support.terminal import Terminal

PARKED, CATCHING_UP, COPYING = 300, 12, 2

_FILL = """
insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state, paused_from,
                               parked, created_at)
select md5('m' || n)::uuid, md5('t' || n)::uuid::text, 'shared', 'dedicated',
       case when n <= $1::int then 'paused' when n <= $2::int then 'dual_write'
            when n <= $3::int then 'bulk_copy' else 'migrated' end,
       case when n <= $1::int then 'dual_write' end, n <= $1::int, now() - n * interval '1 minute'
from generate_series(1, $3::int + 50) n
"""


class Asked:
    """How often the stores were asked for a lag, and how many of that at once."""

    def __init__(self) -> None:
        self.times = self.now = self.most = 0

    async def get_sync_lag(self, coordinator: MigrationCoordinator, migration_id: object) -> int:
        self.times += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return 1234


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked()
    monkeypatch.setattr(
        MigrationCoordinator, "get_sync_lag", lambda at, id_: made.get_sync_lag(at, id_)
    )
    return made


@pytest.fixture
def many(cli: CommandLine) -> CommandLine:
    cli("init")
    cli.sql("control", _FILL, PARKED, PARKED + CATCHING_UP, PARKED + CATCHING_UP + COPYING)
    return cli


def states_of(found: list[dict[str, Any]]) -> dict[str, int]:
    states = [each["state"] for each in found]
    return {state: states.count(state) for state in states}


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (50, 200)], ids=["80x24", "200x50"])
def test_a_screen_that_is_drawn_again_ends_with_how_many_there_are(
    many: CommandLine, rows: int, columns: int
) -> None:
    """It showed the first rows of fifty and an ellipsis: what is drawn again does not scroll."""
    terminal = Terminal(many, "status", "--watch", size=(rows, columns))
    terminal.read_until("has all")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 0, terminal.output
    screen = Screen(columns)
    screen.feed(terminal.output)
    lines = screen.lines()
    assert screen.wrapped == []
    assert "…" not in "".join(lines)
    assert not [line for line in lines if set(line) == {"."}], lines
    assert len(lines) < rows
    shown = [line for line in lines if re.match("[0-9a-f]{8}", line)]
    assert len(shown) == rows - 5
    hidden = f"{PARKED + CATCHING_UP + COPYING - len(shown)} of them are not shown"
    assert hidden in " ".join(" ".join(lines).split())


def test_it_shows_what_moves_first_and_counts_the_rest_without_a_look_at_the_stores(
    many: CommandLine, asked: Asked
) -> None:
    shown = many("status").stdout
    assert asked.times == 0
    lines = shown.splitlines()
    assert len(lines) == 1 + 50 + 1
    assert (shown.count("dual_write "), shown.count("bulk_copy ")) == (CATCHING_UP, COPYING)
    assert lines[-1] == (
        "314 under way: 300 paused, 12 dual_write, 2 bulk_copy; 264 of them are not shown,"
        " `eventsource-migrate list --active` has all"
    )
    assert len(many("status", "--limit", 3).stdout.splitlines()) == 5
    everything = many("status", "--limit", 1000).stdout.splitlines()
    assert len(everything) == 1 + 314 + 1
    assert "not shown" not in everything[-1]


def test_a_program_gets_the_lag_of_what_catches_up_a_few_at_a_time(
    many: CommandLine, asked: Asked
) -> None:
    found = many.json("status")
    assert states_of(found) == {
        "paused": 50 - CATCHING_UP - COPYING,
        "dual_write": 12,
        "bulk_copy": 2,
    }
    assert {each["lag"] for each in found if each["state"] == "dual_write"} == {1234}
    assert {each["lag"] for each in found if each["state"] != "dual_write"} == {None}
    assert asked.times == CATCHING_UP
    assert 1 < asked.most <= show.LAGS_AT_ONCE


def test_the_lag_of_parked_ones_is_counted_when_it_is_asked_for(
    many: CommandLine, asked: Asked
) -> None:
    shown = many("status", "--lag").stdout
    assert asked.times == 50 - COPYING
    assert "lag" in shown.splitlines()[0].split()
    assert shown.count("1,234") == 50 - COPYING
    assert asked.most <= show.LAGS_AT_ONCE


def test_of_the_only_one_everything_is_shown_with_its_lag(cli: CommandLine, asked: Asked) -> None:
    cli("init")
    cli.sql("control", _FILL, 1, 1, 1)
    assert "lag        1,234 events" in cli("status").stdout
    assert [each["lag"] for each in cli.json("status")] == [1234]
