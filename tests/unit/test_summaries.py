"""The line about a comparison counts what was counted, and nothing else."""

from __future__ import annotations

import pytest

from eventsource.cli.journey import summary_of
from eventsource.migration import VerificationLevel, VerificationReport


@pytest.mark.parametrize(
    ("events", "streams", "estimated", "said"),
    [
        # Of tables of a layout nobody counts streams: it was "0 of 0 streams equal".
        (400, 0, False, "400 events, level hash, 0.1 s"),
        (0, 0, False, "0 events, level hash, 0.1 s"),
        (400, 20, False, "400 events, 20 of 20 streams equal, level hash, 0.1 s"),
        (1, 1, False, "1 event, 1 of 1 stream equal, level hash, 0.1 s"),
        (90_000, 40_000, True, "90,000 events, about 40,000 of 40,000 streams equal, level"),
    ],
)
def test_streams_are_said_where_somebody_has_counted_them(
    events: int, streams: int, estimated: bool, said: str
) -> None:
    report = VerificationReport(
        True, VerificationLevel.HASH, events, events, streams, streams, [], [], 0.1,
        streams_estimated=estimated,
    )  # fmt: skip
    assert summary_of(report).startswith(said)
