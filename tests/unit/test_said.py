"""What is tried again and again is logged when it begins and when it changes."""

from __future__ import annotations

import logging

import pytest

from eventsource.said import Said

NAME = "eventsource.test"


def test_a_thing_is_said_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    said = Said(logging.getLogger(NAME))
    for text in ("away", "away", "open for 3 s", "open for 2 min 05 s", "away", "away"):
        said.warn("store a", text)
    said.warn("store b", "away")
    assert [each.getMessage() for each in caplog.records] == [
        "away", "open for 3 s", "away", "away",
    ]  # fmt: skip


def test_what_fails_again_after_a_success_is_news(caplog: pytest.LogCaptureFixture) -> None:
    said = Said(logging.getLogger(NAME))
    for _ in range(2):
        said.warn(1, "away")
        said.over(1)
        said.over(1)
    assert len(caplog.records) == 2
