"""Identifiers are quoted in one place, and what cannot be one is refused there."""

from __future__ import annotations

import pytest

from eventsource.identifiers import qualified, quote_identifier


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("events", '"events"'),
        ("events_dedicated-a", '"events_dedicated-a"'),
        ("Events", '"Events"'),
        ("a.b", '"a.b"'),
        ('say "hi"', '"say ""hi"""'),
        ("events; drop table x", '"events; drop table x"'),
        ("événements", '"événements"'),
        ("x" * 63, '"' + "x" * 63 + '"'),
    ],
)
def test_a_name_becomes_one_quoted_identifier(name: str, quoted: str) -> None:
    assert quote_identifier(name) == quoted


@pytest.mark.parametrize("name", ["", "a\x00b", "x" * 64, "é" * 32])
def test_what_the_server_would_refuse_or_cut_is_refused_here(name: str) -> None:
    with pytest.raises(ValueError, match="identifier"):
        quote_identifier(name)


def test_a_schema_is_quoted_on_its_own() -> None:
    assert qualified("my schema", "a.b") == '"my schema"."a.b"'
    assert qualified(None, "a.b") == '"a.b"'
