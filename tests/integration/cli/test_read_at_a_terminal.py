"""What somebody reads at eighty columns: whole words, whole commands, and no more than there is."""

from __future__ import annotations

import re
import signal

from eventsource.cli.verify import MOST_ROWS
from eventsource.migration.models import NAMED
from tests.support.command_line import DEDICATED, SHARED, CommandLine
from tests.support.screen import Screen
from tests.support.terminal import Terminal


def _shown(terminal: Terminal) -> Screen:
    screen = Screen(80)
    screen.feed(terminal.output)
    assert screen.wrapped == [], terminal.output
    return screen


def test_a_report_is_broken_between_words_and_a_pipe_gets_its_bytes(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    terminal = Terminal(ready, "report", "--tenant", ready.tenant)
    assert terminal.end() == 0
    lines = _shown(terminal).lines()
    assert re.fullmatch(r"sha256 +[0-9a-f]{64}", lines[-1])
    piped = ready("report", "--tenant", ready.tenant).stdout
    assert max(map(len, piped.splitlines())) > 80
    kept = ready.directory / "report.txt"
    kept.write_bytes(piped.encode())
    assert ready.json("report", "--check", kept)["unchanged"] is True


def test_a_mistake_is_broken_between_words(ready: CommandLine) -> None:
    terminal = Terminal(ready, "throttle", "--tenant", ready.tenant, "5k")
    assert terminal.end() == 2
    _shown(terminal)
    assert "write one, such as 5000, or none" in terminal.said


def test_the_ways_on_from_a_run_that_was_interrupted_are_lines_of_their_own(
    ready: CommandLine,
) -> None:
    """A full stop stood at the end of each command, and went with it where it was copied."""
    terminal = Terminal(ready, "run", ready.tenant, "--to", DEDICATED)
    terminal.read_until("[y/N]")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    said = "\n".join(_shown(terminal).lines())
    assert f"go on     eventsource-migrate run {ready.tenant} --to" in said
    assert said.endswith(f"undo      eventsource-migrate abort {ready.migration()['id']}")
    assert f"--to {DEDICATED}." not in terminal.said


def test_a_finished_migration_shows_no_limit_of_its_copy(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--set", "defaults.max_events_per_second=5000")
    one = ("--tenant", ready.tenant)
    assert re.search(r"^limit +5,000 events/s$", ready("status", *one).output, re.MULTILINE)
    ready("cutover", *one)
    assert "limit" not in ready("status", *one).output


def test_a_comparison_shows_the_first_differences_and_which_stores_differ(
    ready: CommandLine,
) -> None:
    """638 streams and as many events filled 4,000 lines. Of 400 events JSON has 100, and it was
    said to have all."""
    between = (ready.tenant, "--from", SHARED, "--to", DEDICATED)
    said = ready("verify", *between, exit_code=4).output
    found = ready.json("verify", *between, exit_code=4)
    streams, violations = len(found["stream_results"]), len(found["violations"])
    assert MOST_ROWS < streams < NAMED == violations
    assert "NOT consistent: 'shared' and 'dedicated' differ: 400 events" in said
    assert f"events {SHARED}" in said
    assert f"and {streams - MOST_ROWS} more; --json has them" in said
    assert f"and at least {NAMED - MOST_ROWS} more; --json has the first {NAMED}" in said
    assert len(said.splitlines()) < 3 * MOST_ROWS


def test_a_way_back_that_was_closed_says_so_once(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    one = ("--tenant", ready.tenant)
    closed = ready("way-back", "close", *one, "--operator", "ada").output
    assert f"`eventsource-migrate cleanup {ready.migration()['id']}`" in closed
    assert re.search(r"^way back +closed by ada$", ready("status", *one).output, re.MULTILINE)


def test_the_layouts_are_a_table(cli: CommandLine) -> None:
    terminal = Terminal(cli, "layouts")
    assert terminal.end() == 0
    lines = _shown(terminal).lines()
    start = lines[0].index("for")
    assert all(line[start - 2 : start] == "  " for line in lines), lines


def test_a_wrong_state_is_named_in_plain_words(cli: CommandLine) -> None:
    said = cli("list", "--state", "nope", exit_code=2).output
    assert "'nope' is not one of" in said
    assert "Value error" not in said
    assert "Value error" not in cli.json("list", "--state", "nope", exit_code=2)["error"]["message"]
