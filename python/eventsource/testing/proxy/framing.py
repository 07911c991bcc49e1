"""PostgreSQL's message framing, version 3: where messages begin, and what some of them say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

CANCEL_REQUEST = 80877102
SSL_REQUEST = 80877103
GSS_REQUEST = 80877104

#: As much of a message is looked at, and held back until its fate is decided. The rest of a longer
#: one, such as an event of 100 MB, is passed on as it comes.
HEAD_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """One message that somebody wants to see.

    Attributes:
        kind: its type, one letter.
        head: its content, cut to HEAD_BYTES.
        raw: the bytes to pass on.
    """

    kind: str
    head: bytes
    raw: bytes


class Framer:
    """Cuts one direction of a connection into messages; those not ``wanted`` pass as bytes.

    Args:
        wanted: the types that are looked at.
    """

    def __init__(self, wanted: str) -> None:
        self._wanted = frozenset(wanted.encode())
        self._held = bytearray()
        # Bytes still to come of a message that is passed on unseen.
        self._unseen = 0

    def feed(self, data: bytes) -> Iterator[bytes | Message]:
        """What can be passed on now, in order: a wanted message, or the bytes of others."""
        held = self._held
        held += data
        given = at = 0
        while True:
            passed = min(self._unseen, len(held) - at)
            at += passed
            self._unseen -= passed
            if self._unseen or len(held) - at < 5:
                break
            length = 1 + int.from_bytes(held[at + 1 : at + 5])
            if held[at] not in self._wanted:
                self._unseen = length
                continue
            seen = min(length, HEAD_BYTES)
            if len(held) - at < seen:
                break
            if at > given:
                yield bytes(held[given:at])
            raw = bytes(held[at : at + seen])
            at = given = at + seen
            self._unseen = length - seen
            yield Message(chr(raw[0]), raw[5:], raw)
        if at > given:
            yield bytes(held[given:at])
        del held[:at]


def texts(head: bytes, count: int) -> list[str]:
    """The first ``count`` zero-terminated strings of a message."""
    return [text.decode("utf-8", "replace") for text in head.split(b"\0", count)[:count]]


def startup_code(packet: bytes) -> int:
    """The version, or which request it is, of a packet that begins a connection."""
    return int(struct.unpack_from("!i", packet, 4)[0])


def startup_parameters(packet: bytes) -> dict[str, str]:
    """What a client says about itself in its startup packet: user, database, settings."""
    words = [word.decode("utf-8", "replace") for word in packet[8:].split(b"\0")]
    return dict(zip(words[0::2], words[1::2], strict=False)) if words else {}
