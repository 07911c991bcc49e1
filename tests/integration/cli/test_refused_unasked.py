"""What is refused in any case is refused at once, and with what is known."""

from __future__ import annotations

import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine
from tests.support.night import report_in_the_way
from tests.support.terminal import Terminal


@pytest.mark.parametrize("verb", ["plan", "run", "start"])
def test_a_move_beside_a_way_back_names_the_two_verbs_that_end_it(
    ready: CommandLine, verb: str
) -> None:
    """It said that the control database did not know of the way back, and `repair` found none."""
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    id_ = ready.migration()["id"]
    said = ready(verb, ready.tenant, "--to", SHARED, exit_code=3).output
    assert f"`eventsource-migrate return {id_}` takes it back" in said
    assert f"`eventsource-migrate way-back close {id_}` ends that" in said
    assert "does not know" not in said


def test_a_way_back_that_the_control_database_has_lost_is_a_thing_for_repair(
    ready: CommandLine,
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    ready.sql("control", "delete from tenant_ways_back")
    said = ready("plan", ready.tenant, "--to", SHARED, exit_code=3).output
    assert "of which the control database does not know: `eventsource-migrate repair`" in said


def test_a_paused_migration_is_not_asked_about_before_its_cutover_is_refused(
    ready: CommandLine,
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    ready("pause", "--tenant", ready.tenant)
    terminal = Terminal(ready, "cutover", "--tenant", ready.tenant)
    assert terminal.end() == 1
    assert "[y/N]" not in terminal.output
    assert f"`eventsource-migrate resume {ready.migration()['id']}`" in terminal.said


def test_rows_that_are_kept_or_gone_are_not_asked_about(ready: CommandLine) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    one = ("--tenant", ready.tenant)
    kept = Terminal(ready, "cleanup", *one)
    assert kept.end() == 1
    assert "[y/N]" not in kept.output
    assert "way-back close" in kept.said
    assert "not yet" in ready("cleanup", *one, "--dry-run").output
    assert "way-back close" in ready.json("cleanup", *one, "--dry-run")["not_yet"]
    ready("way-back", "close", *one)
    assert ready.json("cleanup", *one, "--dry-run")["not_yet"] is None
    ready("cleanup", *one, "--backed-up")
    again = Terminal(ready, "cleanup", *one)
    assert again.end() == 0
    assert "[y/N]" not in again.output
    assert "no row of tenant" in again.said


@pytest.mark.parametrize("before", ["dual_write", "paused", "rolled_back"])
def test_a_return_of_a_tenant_that_has_not_moved_says_so(ready: CommandLine, before: str) -> None:
    """It said that the move was made without a way back, and to clean up and move the tenant."""
    ready("run", ready.tenant, "--to", DEDICATED)
    id_ = ready.migration()["id"]
    for verb, state in (("pause", "paused"), ("abort", "rolled_back")):
        if before == state:
            ready(verb, id_)
    said = ready("return", id_, exit_code=1).output
    assert f"is {before} and cannot return" in said
    assert "cleanup" not in said


def test_a_return_that_is_over_is_not_made_to_look_new(ready: CommandLine) -> None:
    """It printed the pause of the return as if it happened now; its way back was "returning"."""
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    first = ready.migration()["id"]
    second = ready.json("return", first, "--yes")["id"]
    again = ready("return", first).output
    assert "nothing to do: the tenant has returned to 'shared' already" in again
    assert "the fence was held" not in again
    assert ready.json("return", first)["id"] == second
    said = " ".join(ready("way-back", "close", first, exit_code=1).output.split())
    assert f"its tenant has returned with migration {second}" in said
    assert "abort the return first" not in said


@pytest.mark.parametrize("returning", [False, True], ids=["move", "return"])
def test_no_way_back_is_closed_that_the_next_cutover_makes_again(
    ready: CommandLine, returning: bool
) -> None:
    """It said that it had ended and what cleans up after it; after the cutover it was armed."""
    ready.write_config("cutover_timeout_seconds = 1\n")
    home, verb = ready.source_dsn, "cutover"
    ready("run", ready.tenant, "--to", DEDICATED, *(["--yes"] if returning else []))
    if returning:
        home, verb = ready.target_dsn, "return"
    with report_in_the_way(home, ready.tenant):
        ready(verb, "--tenant", ready.tenant, "--yes", exit_code=5)
    id_ = ready.migration()["id"]
    assert "waits for the cutover" in ready("way-back", "status", id_).output
    said = " ".join(ready("way-back", "close", id_, "--yes", exit_code=1).output.split())
    assert "is dual_write and cannot close its way back: its cutover prepares one" in said
    assert "cleanup" not in said
    ready("cutover", id_, "--yes")
    assert "is closed" in ready("way-back", "close", id_, "--yes").output
