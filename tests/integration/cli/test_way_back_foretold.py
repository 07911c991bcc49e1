"""Whether a tenant can return is said before the cutover; what was asked for is not left out."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.support.command_line import DEDICATED, CommandLine
from tests.support.terminal import Terminal

#: What keeps events from going back: at which side, how it is made, and what is said of it.
OBSTACLES = {
    "cached positions": (
        "source", "alter table events alter global_position set cache 20", "one after the other",
    ),
    "a column of one side": ("target", "alter table events add column extra text", "extra"),
}  # fmt: skip


@pytest.fixture(params=list(OBSTACLES))
def obstacle(ready: CommandLine, request: pytest.FixtureRequest) -> str:
    side, statement, reason = OBSTACLES[request.param]
    ready.sql(side, statement)
    return reason


def test_a_plan_says_that_there_will_be_a_way_back(ready: CommandLine) -> None:
    plan = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "kept for 7 days after the cutover" in plan, plan
    ready.write_config("keep_way_back = 0\n")
    plan = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "none: keep_way_back is 0" in plan
    assert ready.json("plan", ready.tenant, "--to", DEDICATED)["way_back"]["keep_seconds"] == 0


def test_a_plan_says_where_one_role_does_all(ready: CommandLine) -> None:
    mine = ready.sql("source", "select current_user")[0][0]
    assert ready.json("plan", ready.tenant, "--to", DEDICATED)["way_back"]["role"] == mine
    assert f"{mine!r} does all" in ready("plan", ready.tenant, "--to", DEDICATED).output
    role = f"shop_{uuid4().hex[:8]}"
    for side in ("source", "target"):
        ready.sql(side, f"create role {role}")
        ready.sql(side, f"grant usage on schema public to {role}")
        ready.sql(side, f"grant all on events, events_global_position_seq to {role}")
    text = ready.config.read_text()
    named = f"[stores.shared]\napplication_role = {role!r}\n"
    ready.config.write_text(text.replace("[stores.shared]\n", named))
    plan = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "kept for 7 days" in plan
    assert "does all" not in plan


def test_a_plan_says_why_there_will_be_none(ready: CommandLine, obstacle: str) -> None:
    plan = ready("plan", ready.tenant, "--to", DEDICATED).output
    assert "none: " in plan
    assert obstacle in plan
    (refusal,) = ready.json("plan", ready.tenant, "--to", DEDICATED)["way_back"]["refusals"]
    assert obstacle in refusal


def test_by_default_the_move_goes_on_and_says_so(ready: CommandLine, obstacle: str) -> None:
    done = ready("run", ready.tenant, "--to", DEDICATED, "--yes").output
    assert "way back  none: " in done
    assert obstacle in done


def test_one_that_was_asked_for_is_refused_before_anything_is_copied(
    ready: CommandLine, obstacle: str
) -> None:
    command = ("run", ready.tenant, "--to", DEDICATED, "--yes")
    refused = ready(*command, "--keep-way-back", "2d", exit_code=3).output
    assert obstacle in refused
    assert "--keep-way-back 0" in refused
    assert ready.sql("control", "select * from tenant_migrations") == []
    ready(*command, "--keep-way-back", "0")
    assert ready.migration()["state"] == "migrated"


def test_what_turns_up_after_the_copy_stops_the_cutover_that_asked_for_one(
    ready: CommandLine,
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--keep-way-back", "2d")
    assert ready.migration()["state"] == "dual_write"
    side, statement, reason = OBSTACLES["cached positions"]
    ready.sql(side, statement)
    refused = ready("cutover", "--tenant", ready.tenant, "--yes", exit_code=3).output
    assert reason in refused
    assert ready.migration()["state"] == "dual_write"
    # The writers go on at the source.
    assert ready.sql("source", "select state from eventsource_fences")[0][0] == "open"
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--keep-way-back", "0")
    assert ready.migration()["state"] == "migrated"


@pytest.mark.parametrize("verb", ["run", "cutover"])
def test_the_question_says_whether_the_tenant_may_return(ready: CommandLine, verb: str) -> None:
    ready("run", ready.tenant, "--to", DEDICATED)
    which = (ready.tenant, "--to", DEDICATED) if verb == "run" else ("--tenant", ready.tenant)
    seen = []
    for _ in range(2):
        terminal = Terminal(ready, verb, *which)
        terminal.read_until("[y/N]")
        seen.append(" ".join(terminal.output.split()))
        terminal.type("n\n")
        assert terminal.end() == 0, terminal.output
        ready.sql("source", OBSTACLES["cached positions"][1])
    assert "it may return for 7 days after that" in seen[0]
    assert "there will be no way back (the sequence of 'events'" in seen[1]
    assert ready.migration()["state"] == "dual_write"


def test_a_way_forth_that_was_asked_for_keeps_the_tenant_from_returning_without(
    ready: CommandLine,
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--keep-way-back", "1h")
    id_ = ready.migration()["id"]
    ready.sql("target", "alter table events alter global_position set cache 20")
    refused = ready("return", id_, "--keep-way-back", "1h", "--yes", exit_code=3).output
    assert "one after the other" in refused
    assert ready.migration()["state"] == "dual_write"
    ready("abort", ready.migration()["id"])
    # Without the option it is as for the move, which does not ask it of the return.
    assert "returned" in ready("return", id_, "--yes").output


@pytest.mark.parametrize(
    ("verb", "question", "done"),
    [
        (("return",), "back to 'shared' now", "returned"),
        (("way-back", "close"), "End the way back of tenant", "is closed"),
    ],
    ids=["return", "close"],
)
def test_at_a_terminal_it_is_asked_before(
    ready: CommandLine, verb: tuple[str, ...], question: str, done: str
) -> None:
    ready("run", ready.tenant, "--to", DEDICATED, "--yes")
    id_ = ready.migration()["id"]
    for answer in ("", "y"):
        terminal = Terminal(ready, *verb, id_)
        terminal.read_until("[y/N]")
        assert question in " ".join(terminal.output.split())
        assert ready.json("way-back", "status", id_)["state"] == "standby"
        terminal.type(f"{answer}\n")
        assert terminal.end() == 0, terminal.output
        assert ("nothing was asked for" in terminal.output) is (answer == "")
    assert done in " ".join(terminal.output.split())
