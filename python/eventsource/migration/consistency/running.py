"""A comparison from its start to its result, unless a server has gone silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.dataplane import Verification
from eventsource.migration.connections import timeouts

if TYPE_CHECKING:
    from eventsource.dataplane import VerifyConfig, VerifyResult


async def run(config: VerifyConfig) -> VerifyResult:
    """What the comparison finds.

    Where the streams of the ranges before are too many to be named, the source counts all of them
    during the last range: one long statement, of which no row comes before its end.

    Raises:
        StalledError: no row moved for too long.
    """
    verification = Verification.start(config)

    def moved() -> tuple[int, int]:
        seen = verification.progress()
        return seen.source_rows, seen.target_rows

    def patience() -> float:
        counts = config.upto is None and len(config.streams_seen) >= 8 * config.most_names
        return timeouts.LONG_STATEMENT_SECONDS if counts else timeouts.STALLED_SECONDS

    return await timeouts.unless_stalled(verification.result(), moved, patience, "the verification")
