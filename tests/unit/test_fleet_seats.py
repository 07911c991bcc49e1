"""What a wave takes of the connections of each server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from eventsource.fleet import Candidate, seats

SHARED, ONE, TWO = "shared", "one", "two"


class Server:
    """Answers as a server does that is asked for its connections."""

    def __init__(self, identity: str, usable: int = 97, used: int = 10) -> None:
        self.row = {"identity": identity, "usable": usable, "free": usable - used, "ours": 0}

    async def fetchrow(self, query: str, *args: object) -> Mapping[str, Any]:
        return self.row


def wave(*targets: str) -> list[Candidate]:
    return [Candidate(uuid4(), SHARED, target) for target in targets]


@pytest.mark.parametrize(
    ("places", "candidates", "at_once", "expected"),
    [
        # A server for each; as many moves as there are tenants.
        ("a b c", wave(ONE), {"g": 4}, {"control": 7, "shared": 7, "one": 5}),
        ("a b c", wave(*[ONE] * 9), {"g": 4}, {"control": 28, "shared": 28, "one": 20}),
        # Control and source on one server, and everything on one.
        ("a a c", wave(*[ONE] * 9), {"g": 2}, {"control, shared": 28, "one": 10}),
        ("a a a", wave(*[ONE] * 9), {"g": 2}, {"control, one, shared": 38}),
    ],
)
async def test_needed_is_what_so_many_moves_have_at_each_server(
    places: str, candidates: list[Candidate], at_once: dict[str, int], expected: dict[str, int]
) -> None:
    control, shared, one = map(Server, places.split())
    found = await seats.needed(
        candidates, {SHARED: shared, ONE: one}, control, at_once, {ONE: "g"}  # type: ignore[dict-item, arg-type]
    )  # fmt: skip
    assert {", ".join(each.databases): each.needed for each in found} == expected
    assert {(each.usable, each.free, each.granted) for each in found} == {(97, 87, 48)}


async def test_groups_add_up_and_stores_of_one_group_do_not() -> None:
    servers: dict[str, Any] = {SHARED: Server("s"), ONE: Server("x"), TWO: Server("x")}
    both = wave(ONE, TWO, ONE, TWO)
    control: Any = Server("c")
    together = await seats.needed(both, servers, control, {"g": 2}, {ONE: "g", TWO: "g"})
    assert {each.databases: each.needed for each in together}[(ONE, TWO)] == 10
    apart = await seats.needed(both, servers, control, {"g": 2, "h": 1}, {ONE: "g", TWO: "h"})
    assert {each.databases: each.needed for each in apart} == {
        ("control",): 21, (SHARED,): 21, (ONE, TWO): 15,
    }  # fmt: skip
