"""`cleanup --all`: whose old rows go, and whose stay."""

from __future__ import annotations

from tests.support.command_line import DEDICATED, SHARED, CommandLine

_MOVE = ("--to", DEDICATED, "--yes", "--keep-way-back", "0")


def test_the_rows_of_all_go_that_have_left_long_enough(ready: CommandLine) -> None:
    for tenant in (ready.tenant, ready.other):
        ready("run", tenant, *_MOVE)
    ready.sql(
        "control",
        "update tenant_migrations set completed_at = completed_at - interval '2 hours'"
        " where tenant_id = $1",
        str(ready.other),
    )
    cleaning = ("cleanup", "--all", "--backed-up", "--older-than")
    assert "nothing was deleted" in ready(*cleaning, "3h").output
    [only] = ready.json(*cleaning, "1h")
    assert (only["tenant_id"], only["deleted"]) == (str(ready.other), 40)
    assert (ready.count("source"), ready.count("source", ready.other)) == (400, 0)
    found = {each["tenant_id"]: each["deleted"] for each in ready.json(*cleaning, "0")}
    assert found == {str(ready.tenant): 400, str(ready.other): 0}
    assert (ready.count("source"), ready.count("target")) == (0, 400)


def test_the_rows_of_who_came_back_stay(ready: CommandLine) -> None:
    """They are the ones that count; those that the way there has left are another migration's."""
    ready("run", ready.tenant, "--to", DEDICATED, "--yes", "--keep-way-back", "1h")
    there = ready.json("list")[0]["id"]
    ready("return", there, "--yes", "--keep-way-back", "0")
    [only] = ready.json("cleanup", "--all", "--backed-up", "--now")
    assert (only["store_id"], only["home_id"], only["deleted"]) == (DEDICATED, SHARED, 400)
    assert (ready.count("source"), ready.count("target")) == (400, 0)


def test_a_tenant_without_a_route_keeps_its_rows_by_name(ready: CommandLine) -> None:
    """It ended with a KeyError."""
    ready("run", ready.tenant, *_MOVE)
    ready.sql("control", "delete from tenant_routing where tenant_id = $1", str(ready.tenant))
    said = ready("cleanup", "--all", "--backed-up", exit_code=1).output
    assert f"tenant {ready.tenant} has no route any more" in said
    assert ready.count("source") == 400
