"""A return compared event by event.

Its rows keep no distance between their positions at both sides: what was appended since the move
has the next positions of the store to which the tenant returns, and old rows those that they had.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.dataplane import StreamResult, Violation
from eventsource.migration.connections.timeouts import LONG_STATEMENT_SECONDS
from eventsource.migration.consistency import both_sides, by_event
from eventsource.migration.consistency.only_in import only_in
from eventsource.migration.models import BEFORE_EVERY_POSITION, VerificationReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import VerificationLevel

#: Streams that differ of which the names are kept; where more do, their number is about right.
MOST_STREAMS = 30_000

Stream = tuple[str, UUID]


@dataclass(slots=True)
class Comparison:
    """A tenant's events at both sides of a return, while both are in use.

    Args:
        source: the store that the tenant leaves, or has left, for `target`.
        head: the last position of the source once the tenant has returned; None before.
        snapshot: of the source: what it shows has to be there; None once the tenant has returned.
        named: differences that are named at most.
    """

    source: AnyTable
    target: AnyTable
    tenant_id: UUID
    columns: Sequence[str]
    head: int | None
    snapshot: str | None
    named: int
    events: int = 0
    equal: int = 0
    violations: list[Violation] = field(default_factory=list)
    differing: set[Stream] = field(default_factory=set)

    async def report(self, level: VerificationLevel) -> VerificationReport:
        """Compare everything; ``level`` is what was asked for."""
        began = time.monotonic()
        # Before the return all that is there now came from the source.
        at_first = await self._last_position() if self.head is None else BEFORE_EVERY_POSITION
        last = await self._what_has_to_be_there()
        await self._what_must_not_be_there(max(at_first, last))
        streams = await self._streams()
        return VerificationReport(
            is_consistent=not self.differing,
            level=level,
            source_event_count=self.events,
            target_event_count=self.equal,
            streams_verified=streams,
            streams_consistent=max(0, streams - len(self.differing)),
            streams_estimated=len(self.differing) >= MOST_STREAMS,
            violations=tuple(self.violations),
            stream_results=[await self._stream(each) for each in self._first()],
            duration_seconds=time.monotonic() - began,
        )

    async def _what_has_to_be_there(self) -> int:
        """Look for every event of the source; the highest position at which one was found."""
        position, last = BEFORE_EVERY_POSITION, BEFORE_EVERY_POSITION
        while rows := await both_sides.portion(
            self.source, self.columns, self.tenant_id, position, self.head, self.snapshot
        ):
            position = rows[-1]["global_position"]
            found = await both_sides.of_events(
                self.target, self.columns, [row["event_id"] for row in rows], None
            )
            there = {row["event_id"]: row for row in found}
            self.events += len(rows)
            self.equal += len(there)
            last = max([last, *(row["global_position"] for row in found)])
            for row in rows:
                await self._compare(row, there.get(row["event_id"]))
        return last

    async def _what_must_not_be_there(self, last: int) -> None:
        """Events of the target up to there that the source does not have."""
        async for row in only_in(
            self.target, self.source, self.tenant_id, BEFORE_EVERY_POSITION, last
        ):
            self._differs(row, "unexpected", None, "the source does not have the event")

    async def _compare(self, row: Any, other: Any | None) -> None:
        if other is None:
            self._differs(row, "missing", None, "the target does not have the event")
        elif row["digest"] != other["digest"]:
            for name in await self._fields(row["event_id"]):
                self._differs(row, "different", name, "the field differs")

    async def _fields(self, event_id: UUID) -> list[str | None]:
        """The names of the fields that differ; None where that cannot be said any more."""
        if len(self.violations) >= self.named:
            return [None]
        here = await by_event.fields(self.source, self.columns, event_id)
        there = await by_event.fields(self.target, self.columns, event_id)
        return [name for name in here if here[name] != there.get(name)] or [None]

    def _differs(self, row: Any, kind: str, name: str | None, detail: str) -> None:
        stream = row["aggregate_type"], row["aggregate_id"]
        if len(self.differing) < MOST_STREAMS:
            self.differing.add(stream)
        if len(self.violations) < self.named:
            at, event = row["global_position"], row["event_id"]
            self.violations.append(
                Violation(kind, *stream, row["version"], at, event, name, detail)
            )

    async def _last_position(self) -> int:
        found: int | None = await self.target.connection.fetchval(
            f"select max(global_position) from {self.target.name} where tenant_id = $1",
            self.tenant_id,
        )
        return BEFORE_EVERY_POSITION if found is None else found

    async def _streams(self) -> int:
        """How many streams were compared."""
        number: int = await self.source.connection.fetchval(
            "select count(*) from (select distinct aggregate_type, aggregate_id"
            f" from {self.source.name} where tenant_id = $1"
            f" and global_position <= coalesce($2::bigint, {2**63 - 1})"
            f"{both_sides.SHOWN.format('$3')}) s",
            self.tenant_id, self.head, self.snapshot, timeout=LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        return number

    def _first(self) -> list[Stream]:
        return sorted(self.differing)[: self.named]

    async def _stream(self, stream: Stream) -> StreamResult:
        counted = []
        for side in (self.source, self.target):
            row = await side.connection.fetchrow(
                "select count(*) as events, coalesce(max(version), 0)::bigint as version"
                f" from {side.name} where tenant_id = $1 and aggregate_type = $2"
                " and aggregate_id = $3",
                self.tenant_id, *stream,
            )  # fmt: skip
            assert row is not None
            counted.append(row)
        here, there = counted
        return StreamResult(
            *stream, here["events"], there["events"], here["version"], there["version"]
        )
