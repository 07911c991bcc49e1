"""The digest at the end of a report notices every change of a byte."""

from __future__ import annotations

import random
from typing import Any

import pytest

from eventsource.cli.report import pages, seal

REPORT: dict[str, Any] = {
    "made_at": "2026-01-02T03:04:05.678+00:00",
    "product": {"name": "eventsource-migration", "version": "1"},
    "migration": {
        "id": "m", "tenant_id": "t", "from": "<shared>", "to": "dedicated", "state": "migrated",
        "events": 12_345, "carried": 12_345, "asked_at": "2026-01-02T03:00:00.000+00:00",
        "copy_began_at": None, "ended_at": "2026-01-02T03:04:00.000+00:00",
        "position_offset": 7, "fence_position": 99, "message": None, "configuration": {},
    },
    "who": ["ada", "</script><script>alert(1)</script>"],
    "states": [
        {"state": "pending", "since": "2026-01-02T03:00:00.000+00:00", "by": "ada"},
        {"state": "bulk_copy", "since": "2026-01-02T03:00:01.000+00:00", "by": None},
        {"state": "migrated", "since": "2026-01-02T03:04:00.000+00:00", "by": None},
    ],
    "stores": {
        "source": {"store": "<shared>", "identity": None, "server": "16.1"},
        "target": {"store": "dedicated", "identity": None, "unknown": "no route to host"},
    },
    "control": {"server": "16.1"},
    "verification": {
        "level": "hash", "sample_percentage": 100.0, "does_not_see": "nothing", "made": [],
        "every_pass": "compared",
    },
    "rehearsals": [{"at": "2026-01-02T03:02:00.000+00:00", "code": "ok", "pause_ms": 14.2}],
    "cutover": {
        "asked": [], "fence_held_ms": 15.5, "longest_wait_of_a_writer_ms": 14.0,
        "longest_append_ms": 31.4, "longest_append_by": "<web-1> pid 7",
        "routers_that_measured": 3, "lock_wait_ms": 2.0, "in_the_way": [],
    },
    "subscriptions": [],
    "redelivery": [
        {"subscription": "<all>", "predicted": 1420, "so_far": 1400, "left": 20, "unknown": None},
        {"subscription": "own", "predicted": 0, "so_far": 0, "left": 0, "unknown": None},
        {"subscription": "old", "predicted": 3, "so_far": None, "left": None, "unknown": "why"},
    ],
    "way_back": {
        "id": "w", "state": "armed", "reason": None, "back_to": "<shared>", "carried": 1234,
        "lag": 0, "kept_until": "2026-01-09T03:04:00.000+00:00", "followed_at": None,
    },
    "there_and_back": [],
    "cleanups": [
        {"at": "2026-01-02T03:04:05.000+00:00", "by": "ada", "store": "<shared>",
         "home": "dedicated", "rows": 5, "bytes": 9, "deleted": 5},
    ],
    "log": [
        {"at": "2026-01-02T03:00:00.000+00:00", "what": "state:pending", "by": "ada",
         "details": {"request": "x", "pause_ms": 1.23456, "text": "påst <b>", "list": [1, 2]}},
    ],
}  # fmt: skip
KINDS = {"json": pages.as_json, "text": pages.as_text, "html": pages.as_html}


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_as_it_was_made_is_recognised(kind: str) -> None:
    made = KINDS[kind](REPORT).encode()
    assert seal.digest_of(made) in made.decode()


@pytest.mark.parametrize("kind", KINDS)
def test_any_changed_byte_is_noticed(kind: str) -> None:
    made = KINDS[kind](REPORT).encode()
    chance = random.Random(17)
    places = {0, len(made) - 1, len(made) - 10, *(chance.randrange(len(made)) for _ in range(300))}
    for place in places:
        changed = bytearray(made)
        changed[place] ^= 1 << chance.randrange(8)
        with pytest.raises(seal.ReportChangedError):
            seal.digest_of(bytes(changed))
    for other in (made[:-1], made + b"\n", made[: len(made) // 2], b"", made[1:]):
        with pytest.raises(seal.ReportChangedError):
            seal.digest_of(other)


def test_names_of_others_are_text_in_the_page_and_nothing_is_fetched() -> None:
    page = pages.as_html(REPORT)
    assert "<script>alert" not in page
    assert "<shared>" not in page.partition('<script type="application/json"')[0]
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "default-src 'none'" in page


def test_the_picture_shows_each_state_rehearsal_and_wait() -> None:
    page = pages.as_html(REPORT)
    for shown in (
        "bulk_copy: 239.0 s", "14.2 ms", "15.5 ms", "appends in flight: 2.0 ms",
        "of a writer at the fence: 14.0 ms", "from call to answer: 31.4 ms",
    ):  # fmt: skip
        assert shown in page or shown.replace("239.0 s", "0 h 03 min 59 s") in page, shown


def test_the_longest_append_is_beside_the_wait_at_the_fence() -> None:
    text = pages.as_text(REPORT)
    assert "14.0 ms of a writer at the fence" in text
    assert "31.4 ms from call to answer, of 3 routers: <web-1> pid 7" in text
    cutover = {**REPORT["cutover"], "routers_that_measured": 1}
    assert "of 1 router: <web-1>" in pages.as_text({**REPORT, "cutover": cutover})


def test_what_was_redelivered_is_beside_what_was_foretold() -> None:
    text = pages.as_text(REPORT)
    assert "<all>: predicted 1,420, 1,400 so far, 20 to come" in text
    assert "own: predicted 0, 0 by its checkpoints" in text
    assert "old: predicted 3, not known: why" in text


@pytest.mark.parametrize("kind", ["text", "html"])
def test_a_longest_append_that_nobody_has_measured_is_said(kind: str) -> None:
    cutover = {**REPORT["cutover"], "longest_append_ms": None, "routers_that_measured": 0}
    made = KINDS[kind]({**REPORT, "cutover": cutover})
    assert "not measured: no router has reported one" in made
    cutover["fence_held_ms"] = None
    assert "not measured" not in KINDS[kind]({**REPORT, "cutover": cutover})
