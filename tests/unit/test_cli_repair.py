"""What `repair` says and writes of rows that are not where their tenant lives."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID, uuid4

from eventsource.cli import recover
from eventsource.migration import RepairReport, StrandedEvent, StrandedRow


def report() -> tuple[RepairReport, UUID]:
    event = StrandedEvent(uuid4(), uuid4(), "Note", uuid4(), 3, "shared", None)
    found = [StrandedRow("acme", "mt_events", f"[{number}]", "shop") for number in (61, 62)]
    return RepairReport((), (), [event], True, found), event.event_id


def test_rows_of_other_libraries_are_counted_by_store() -> None:
    lines = recover._events(report()[0])
    assert "1 that only store 'shared' has" in lines[0]
    assert "2 of another library's tables in store 'shop'" in lines[1]
    assert "--export PATH" in lines[1]


def test_the_export_has_events_and_rows(tmp_path: Path) -> None:
    made, event = report()
    recover._export(made, tmp_path / "stranded.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "stranded.jsonl").read_text().splitlines()]
    assert lines[0]["event_id"] == str(event)
    assert [(line["table"], line["key"]) for line in lines[1:]] == [
        ("mt_events", "[61]"),
        ("mt_events", "[62]"),
    ]
    assert lines[1]["tenant_id"] == "acme"
