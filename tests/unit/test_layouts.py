"""Layouts: what a declaration says, and every mistake in one by its name."""

from __future__ import annotations

import copy
import tomllib
from typing import Any

import pytest

from eventsource.catalog.layouts import PRESETS, not_ours
from eventsource.identifiers import quote_literal
from eventsource.migration.layouts.declaration import LayoutError
from eventsource.migration.layouts.presets import OWN, presets, recognised
from eventsource.migration.layouts.reading import layout_of

ORDERS = tomllib.loads(
    """
title = "orders"
stays = { checkpoints = "of readers" }
[[tables]]
table = "streams"
key = ["tenant", "id"]
tenant = "tenant"
written_by = "append"
[[tables]]
table = "events"
events = true
key = ["position"]
tenant = { through = "streams", columns = ["stream"], referenced = ["id"] }
numbered = { position = "own:numbers", cause = "like:events" }
"""
)


def changed(path: str, value: Any) -> dict[str, Any]:
    """ORDERS with one entry replaced, or removed by None; ``path`` as in ``tables.0.key``."""
    made: Any = copy.deepcopy(ORDERS)
    *where, last = path.split(".")
    at = made
    for name in where:
        at = at[int(name)] if name.isdigit() else at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    found: dict[str, Any] = made
    return found


def test_a_declaration_is_read() -> None:
    layout = layout_of("orders", ORDERS)
    assert [each.name for each in layout.tables] == ["streams", "events"]
    assert layout.main.tenancy.through is not None
    assert layout.main.numbered[0].sequence == "numbers"
    assert layout.stays == (("checkpoints", "of readers"),)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("tables", [], "tables must be a list"),
        ("tables.1.events", None, "mark exactly one"),
        ("tables.0.events", True, "mark exactly one"),
        ("tables.0.written_by", None, 'say written_by = "append"'),
        ("tables.0.written_by", "projector", 'say written_by = "append"'),
        ("tables.0.key", [], "key must name"),
        ("tables.0.key", ["a" * 64], "64 bytes"),
        ("tables.0.tenant", 5, "tenant must be"),
        ("tables.0.tenant", {"expression": 5}, "tenant must be"),
        ("tables.1.tenant.through", "nobody", "declare it before"),
        ("tables.1.tenant.referenced", ["a", "b"], "tenant must be"),
        ("tables.1.numbered", {"position": "mine"}, 'must be "own"'),
        ("tables.1.numbered", {"position": "like:events"}, "declare it before"),
        ("tables.1.numbered", {"position": "own", "seq": "own:s"}, "a table has one such column"),
        (
            "tables.1.numbered",
            {"position": {"per_tenant": "select 'n'"}},
            "the name of the sequence",
        ),
        ("tables.1.numbered", {"position": {"tenant": "select $1"}}, "the name of the sequence"),
        ("tables.1.numbered", {"position": {"per_tenant": 5}}, "the name of the sequence"),
        ("tables.1.table", "streams", "declared twice"),
        ("tables.0.tenant", "whole", 'write tenant = "whole" once'),
        ("tables.1.tenant", "whole", 'write tenant = "whole" once'),
        ("tenant", "tenant_id", 'can only be "whole" here'),
        ("tenant", "whole", "all rows travel"),
        ("every_table", True, 'goes with tenant = "whole"'),
        ("tables.0.colour", "red", "unknown entry 'colour'"),
        ("colour", "red", "unknown entry 'colour'"),
        ("stops", "everybody", "stops must be one of"),
        ("changes", "guess", "changes must be one of"),
        ("headroom", -1, "headroom must be"),
        ("title", 5, "title must be"),
    ],
)
def test_a_mistake_is_named(path: str, value: Any, complaint: str) -> None:
    with pytest.raises(LayoutError, match=complaint):
        layout_of("orders", changed(path, value))


def test_our_own_tables_are_one_of_them() -> None:
    assert presets()[OWN].is_own
    assert [name for name, each in presets().items() if each.is_own] == [OWN]


def test_what_is_recognised_has_a_layout() -> None:
    assert set(PRESETS.values()) <= set(presets())
    marten = {
        "mt_events": [
            "seq_id",
            "id",
            "stream_id",
            "version",
            "data",
            "type",
            "timestamp",
            "tenant_id",
        ]
    }
    assert [each.name for each in recognised(marten)] == ["marten"]
    said = not_ours("mt_events", {*marten["mt_events"], "mt_dotnet_type"}, ["event_id"])
    assert said is not None
    assert 'layout = "marten"' in said


@pytest.mark.parametrize(
    "text", ["o'brien", "back\\slash", "$guard$", "two\nlines", "%1$I", "тенант"]
)
def test_a_literal_is_quoted(text: str) -> None:
    quoted = quote_literal(text)
    assert quoted.endswith("'")
    assert quoted.startswith("E'" if "\\" in text else "'")
    assert quoted.lstrip("E")[1:-1].replace("''", "'").replace("\\\\", "\\") == text
    with pytest.raises(ValueError, match="NUL"):
        quote_literal(text + "\x00")
