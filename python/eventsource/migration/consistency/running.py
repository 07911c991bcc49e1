"""A comparison from its start to its result, unless a server has gone silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.dataplane import Verification
from eventsource.migration.connections import timeouts

if TYPE_CHECKING:
    from eventsource.dataplane import VerifyConfig, VerifyResult


async def run(config: VerifyConfig) -> VerifyResult:
    """What the comparison finds.

    At level count both servers count before they send a row, in one long statement. So does the
    source during the last range, where the streams of the ranges before are too many to be named.

    Raises:
        StalledError: no row moved for too long.
    """
    verification = Verification.start(config)

    def moved() -> tuple[int, int]:
        seen = verification.progress()
        return seen.source_rows, seen.target_rows

    def patience() -> float:
        many = config.upto is None and len(config.streams_seen) >= 8 * config.most_names
        if many or config.level == "count":
            return timeouts.LONG_STATEMENT_SECONDS
        return timeouts.STALLED_SECONDS

    return await timeouts.unless_stalled(verification.result(), moved, patience, "the verification")
