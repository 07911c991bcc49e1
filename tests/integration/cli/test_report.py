"""The report of a move, and the check of a report."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.command_line import DEDICATED, CommandLine


def _moved(ready: CommandLine) -> str:
    answer = ready.json(
        "run", ready.tenant, "--to", DEDICATED, "--yes", "--rehearse", "--operator", "ada"
    )
    return str(answer["migration"]["id"])


def test_a_report_says_what_was_moved_by_whom_and_how_long_writers_waited(
    ready: CommandLine,
) -> None:
    migration = _moved(ready)
    found = ready.json("report", migration)
    assert found["migration"]["events"] == found["migration"]["carried"] == 400
    assert found["who"] == ["ada"]
    assert [each["code"] for each in found["rehearsals"]] == ["ok"]
    assert found["cutover"]["fence_held_ms"] > 0
    assert found["stores"]["source"]["decided_on"]["events"] == 400
    assert found["stores"]["target"]["passes"]["columns"]
    assert found["verification"]["made"][0]["consistent"] is True
    assert found["states"][-1]["state"] == "migrated"
    [asked] = found["cutover"]["asked"]
    assert (asked["force"], asked["comparison"], asked["by"]) == (False, "done before", "ada")
    text = ready("report", migration).output
    for shown in ("400 of 400", "'ada'"[1:-1], "level hash", "1 of 1 fitted", "sha256"):
        assert shown in text


def test_a_report_names_no_comparison_that_was_left_out(ready: CommandLine) -> None:
    """Once it was `before the fence`, and saw every difference, of one that was forced as well."""
    migration = _moved(ready)
    ready.sql("control", "delete from migration_audit_log where event_type = 'verified'")
    for comparison, said in (
        ("before the fence", "level hash: before the fence"),
        ("left out", "the comparison of both stores: left out"),
        (None, "the comparison of both stores: not made"),
    ):
        change = "delete from migration_audit_log"
        if comparison is not None:
            change = (
                "update migration_audit_log set details ="
                f" jsonb_set(details, '{{comparison}}', to_jsonb('{comparison}'::text))"
            )
        ready.sql("control", f"{change} where event_type = 'cutover_requested'")
        shown = " ".join(ready("report", migration).output.split())
        assert said in shown
        assert ("It does not see" in shown) is (comparison == "before the fence")


def test_a_changed_byte_is_noticed_and_an_unknown_report_too(
    ready: CommandLine, tmp_path: Path
) -> None:
    migration = _moved(ready)
    page = tmp_path / "move.html"
    ready("report", migration, "--html", str(page))
    assert ready.json("report", "--check", str(page))["unchanged"] is True
    made = page.read_bytes()
    for place in (10, len(made) // 2, len(made) - 8):
        changed = bytearray(made)
        changed[place] ^= 1
        page.write_bytes(bytes(changed))
        refused = ready("report", "--check", str(page), exit_code=1)
        assert "report" in refused.output
    page.write_bytes(made)
    ready.sql("control", "delete from migration_audit_log where event_type = 'reported'")
    refused = ready("report", "--check", str(page), exit_code=1)
    assert "no audit log" in refused.output


def test_what_nobody_has_measured_is_not_drawn_as_none(ready: CommandLine, tmp_path: Path) -> None:
    """Once the drawing had 0.0 ms for the longest append, beside the words that nobody measured."""
    migration = _moved(ready)
    ready.sql("control", "update tenant_migrations set longest_wait_ms = null")
    page = tmp_path / "move.html"
    ready("report", migration, "--html", str(page))
    drawn = page.read_text().partition(">the cutover</text>")[2].partition("</svg>")[0]
    assert drawn.count(">not measured</text>") == 2
    assert " 0.0 ms</title>" not in drawn


def test_what_came_after_the_move_has_rows_of_its_own(ready: CommandLine) -> None:
    first = _moved(ready)
    text = ready("report", first).output
    assert f"eventsource-migrate return {first}" in text
    assert "there, back" not in text
    second = ready.json("return", first)["id"]
    found = ready.json("report", first)
    assert found["way_back"]["state"] == "returned"
    assert [each["id"] for each in found["there_and_back"]] == [first, second]
    again = ready.json("report", second)
    assert again["there_and_back"] == found["there_and_back"]
    assert again["way_back"]["state"] == "armed"
    text = ready("report", second).output
    assert text.count("\nthere, back ") == 2
    assert f"migration {second} (this one)" in text
    ready("way-back", "close", second)
    ready("cleanup", second, "--backed-up", "--now", "--operator", "eve")
    text = ready("report", second).output
    assert "400 old rows in 'dedicated', each compared with 'shared' first" in text
    assert "by eve" in text
    assert "closed to 'dedicated'" in text


def test_why_there_is_no_way_back_is_in_the_report(ready: CommandLine) -> None:
    ready.sql("source", "alter table events alter global_position set cache 20")
    text = ready("report", _moved(ready)).output
    assert "one after the other" in text.partition("\nat ")[0]


def test_the_json_of_a_report_can_be_kept_and_checked(ready: CommandLine, tmp_path: Path) -> None:
    migration = _moved(ready)
    kept = tmp_path / "move.json"
    kept.write_text(ready("--json", "report", migration).output)
    assert json.loads(kept.read_text())["migration"]["id"] == migration
    ready("report", "--check", str(kept))


def test_a_report_is_made_while_a_store_is_away(ready: CommandLine) -> None:
    migration = _moved(ready)
    ready.write_config(**{DEDICATED: "postgresql://nobody@127.0.0.1:9/none"})
    found = ready.json("report", migration)
    assert "unknown" in found["stores"]["target"]
    assert found["stores"]["source"]["decided_on"]["events"] == 400
