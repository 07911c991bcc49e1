"""Which tenants a wave moves and where to, and what is said of how long that takes."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from eventsource.fleet import Candidate, WaveError
from eventsource.fleet.planning import SLOW, Rates, measured, planned
from eventsource.fleet.report import Reported, as_csv, as_html
from eventsource.fleet.selection import Choice, distributed, from_file, ordered
from eventsource.tenant_ids import as_uuid, checked

A, B, C = (UUID(int=n) for n in (1, 2, 3))


def test_a_file_has_a_tenant_a_line_and_perhaps_its_stores() -> None:
    text = f"tenant,to,from\n# the first ones\n{A}\n\n {B} , large \n{C},,old\n"
    assert from_file(text, "x.csv", as_uuid) == [
        Choice(A), Choice(B, target="large"), Choice(C, source="old"),
    ]  # fmt: skip


def test_a_file_may_name_tenants_as_their_tables_do() -> None:
    quoted = "\"two\r\nlines, one 'name'\""
    text = f'\ufeffTenant_id,to\r\n{quoted}, large \r\ntenant-1\ntenant\nsay "hi" ,\n'
    assert from_file(text, "x.csv", checked) == [
        Choice("two\r\nlines, one 'name'", target="large"), Choice("tenant-1"),
        Choice("tenant"), Choice('say "hi"'),
    ]  # fmt: skip
    assert from_file("tenant-1\n", "x.csv", checked) == [Choice("tenant-1")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'"{A}\n",b\n{B},b,c,d', "line 3: more than tenant"),
        ("seven", "line 1: 'seven' is no UUID"),
        (f"{A}\n{B}\n{C};large", "line 3"),
        (f"{A},b,c,d", "more than tenant, to and from"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(WaveError, match=said):
        from_file(text, "x.csv", as_uuid)


def test_tenants_go_to_the_store_that_has_least_of_them() -> None:
    sizes = [700, 300, 200, 200, 100]
    choices = [Choice(uuid4(), source="shared", bytes=size) for size in sizes]
    found = [each.target_store_id for each in distributed(choices, ["a", "b"])]
    assert found == ["a", "b", "b", "b", "a"]


def test_without_sizes_they_are_shared_out_in_turn() -> None:
    choices = [Choice(uuid4(), source="shared") for _ in range(5)]
    found = [each.target_store_id for each in distributed(choices, ["a", "b"])]
    assert found == ["a", "b", "a", "b", "a"]


def test_who_lives_in_the_target_already_is_left_out() -> None:
    choices = [Choice(A, source="a"), Choice(B, source="shared", target="b"), Choice(C, source="b")]
    assert distributed(choices, ["a", "b"]) == [Candidate(B, "shared", "b")]


def test_without_any_target_it_is_refused() -> None:
    with pytest.raises(WaveError, match="--to"):
        distributed([Choice(A, source="shared")], [])


@pytest.mark.parametrize(
    ("order", "expected"), [("given", "bac"), ("largest", "abc"), ("smallest", "bac")]
)
def test_the_order_is_the_given_one_or_by_size(order: str, expected: str) -> None:
    sized = {"b": 2, "a": 9, "c": None}
    candidates = [Candidate(UUID(int=ord(n)), "s", n, bytes=size) for n, size in sized.items()]
    assert "".join(each.target_store_id for each in ordered(candidates, order)) == expected


def test_a_plan_takes_as_long_as_its_busiest_group() -> None:
    rates = Rates(events_per_second=1000, seconds=1.0, moves=20)
    to_a = [Candidate(uuid4(), "s", "a", events=9_000, bytes=100) for _ in range(8)]
    to_b = [Candidate(uuid4(), "s", "b", events=9_000, bytes=100) for _ in range(2)]
    made = planned(to_a + to_b, rates, {"g": 4, "b": 1}, {"a": "g", "b": "b"})
    assert made.seconds == (20.0, 20.0)
    assert (made.tenants, made.events, made.measured) == (10, 90_000, 20)
    assert made.arrivals["a"].disk_bytes == 2400
    alone = planned(to_a[:1], rates, {"g": 4}, {"a": "g"})
    assert alone.seconds == (10.0, 10.0)
    assumed = planned(to_a, None, {"g": 4}, {"a": "g"})
    assert 0 < assumed.seconds[0] < assumed.seconds[1]


class Moved:
    """Stands for the waves: the last moves that the journal has."""

    def __init__(self, *moves: tuple[int, float, float]) -> None:
        names = ("events", "copy_seconds", "seconds")
        self.rows = [dict(zip(names, each, strict=True)) for each in moves]

    async def fetch(self, _: str) -> list[dict[str, float]]:
        return self.rows


async def rates_of(*moves: tuple[int, float, float]) -> Rates | None:
    return await measured(Moved(*moves))  # type: ignore[arg-type]


async def test_how_fast_moves_are_is_measured_on_large_ones_and_what_each_costs_on_small_ones() -> (
    None
):
    """A small one would say that a copy is slow, and few that every day is like that one."""
    large, small = (90_000, 2.0, 9.0), [(10, 0.5, seconds) for seconds in (3.0, 1.0, 2.0)]
    assert await rates_of(large, *small) == Rates(45_000, 2.0, 4)
    assert await rates_of(large, large, large) == Rates(45_000, SLOW[1], 3)
    assert await rates_of(large, large) is None
    assert await rates_of(*small) is None


def reported(**changed: object) -> Reported:
    values = dict.fromkeys(Reported.__slots__)
    return Reported(**values | {"outcome": "held", "tenant_id": A, "proof": ""} | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["=1+1", "+1", "@x", "<script>alert(1)</script>", 'a "b", c'])
def test_a_report_shows_what_an_error_says_as_text(text: str) -> None:
    rows = [reported(error_message=text)]
    line = as_csv(rows).splitlines()[1]
    assert not any(cell.startswith(("=", "+", "@")) for cell in line.split(","))
    page = as_html(FAKE, rows)  # type: ignore[arg-type]
    assert "<script" not in page


class FAKE:
    """As much of a wave as a report reads."""

    name, history = "<b>", ({"at": "now", "what": "planned", "by": None},)

    class state:
        value = "done"
