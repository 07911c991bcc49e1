"""The proxy's eyes: whatever the pieces in which bytes arrive, the same messages are seen."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from eventsource.testing.proxy import Session
from eventsource.testing.proxy.framing import (
    HEAD_BYTES,
    Framer,
    Message,
    startup_code,
    startup_parameters,
)


def message(kind: str, body: bytes) -> bytes:
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def fed(framer: Framer, pieces: list[bytes]) -> list[bytes | Message]:
    return [found for piece in pieces for found in framer.feed(piece)]


def passed_on(found: list[bytes | Message]) -> bytes:
    return b"".join(each if isinstance(each, bytes) else each.raw for each in found)


BODIES = st.lists(st.tuples(st.sampled_from("QdZDC"), st.binary(max_size=300)), max_size=20)


@given(BODIES, st.lists(st.integers(0, 4000), max_size=10))
def test_nothing_is_lost_or_reordered_and_every_wanted_message_is_seen(
    bodies: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(message(kind, body) for kind, body in bodies)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    found = fed(Framer("QZ"), pieces)
    assert passed_on(found) == stream
    seen = [(each.kind, each.head) for each in found if isinstance(each, Message)]
    assert seen == [(kind, body) for kind, body in bodies if kind in "QZ"]


def test_a_long_message_is_decided_by_its_head_and_passed_on_in_pieces() -> None:
    body = b"insert \0" + bytes(3 * HEAD_BYTES)
    stream = message("Q", body) + message("Z", b"I")
    pieces = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
    found = fed(Framer("QZ"), pieces)
    assert passed_on(found) == stream
    first, *_, last = found
    assert isinstance(first, Message)
    assert len(first.raw) == HEAD_BYTES
    assert first.head == body[: HEAD_BYTES - 5]
    assert last == Message("Z", b"I", message("Z", b"I"))


def test_a_session_knows_what_a_prepared_statement_executes() -> None:
    session = Session(1)

    def hears(kind: str, body: bytes) -> str | None:
        return session.heard_from_client(Message(kind, body, b""))

    assert hears("P", b"s1\0update fences\0\0\0") is None
    assert hears("P", b"s2\0commit\0\0\0") is None
    assert hears("B", b"p\0s1\0") == "update fences"
    assert hears("E", b"p\0\0\0\0\0") is None
    session.heard_from_server(Message("Z", b"T", b""))
    assert hears("B", b"\0s2\0") == "commit"
    assert hears("E", b"\0\0\0\0\0") is None
    assert list(session.transaction) == ["update fences", "commit"]
    # The same portal again is another run of it.
    assert hears("E", b"p\0\0\0\0\0") == "update fences"
    assert session.ran("UPDATE")
    # What follows is another transaction.
    session.heard_from_server(Message("Z", b"I", b""))
    assert hears("C", b"Ss1\0") is None
    assert hears("Q", b"select 1\0") == "select 1"
    assert list(session.transaction) == ["select 1"]
    assert hears("B", b"\0s1\0") == ""


def test_a_startup_packet_tells_who_connects() -> None:
    body = b"user\0ada\0database\0events\0application_name\0writer\0\0"
    packet = struct.pack("!ii", len(body) + 8, 3 << 16) + body
    assert startup_code(packet) == 3 << 16
    session = Session(1, startup_parameters(packet))
    assert (session.user, session.database, session.application_name) == (
        "ada",
        "events",
        "writer",
    )
    assert Session(2, {"user": "ada"}).database == "ada"
