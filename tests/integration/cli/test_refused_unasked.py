"""What is refused in any case is refused at once, and with what is known."""

from __future__ import annotations

import pytest

from tests.support.command_line import DEDICATED, SHARED, CommandLine
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
