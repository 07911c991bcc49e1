"""What must hold for the rows of one tenant, given the answers that its writers got.

Pure functions over rows and attempts, without a database and without the product: a checker that
shares code with what it checks repeats its mistakes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from eventsource.testing.records import Attempt, Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """One event as plain SQL reads it; ids are text.

    ``digest`` is the SHA-256 of the text of every column but position and transaction id.
    """

    position: int
    event_id: str
    aggregate_type: str
    aggregate_id: str
    version: int
    digest: str

    @property
    def stream(self) -> tuple[str, str]:
        return self.aggregate_type, self.aggregate_id


@dataclass(frozen=True, slots=True)
class MappingRow:
    """One row of migration_position_mappings."""

    source_position: int
    target_position: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: the invariant's name, what kind of break it is, and where."""

    invariant: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.kind}: {self.detail}"


@dataclass(slots=True)
class History:
    """What the writers know about each event id.

    Times are seconds of one monotonic clock. Rows of the baseline, which were there before any
    writer, count as acknowledged before all time.
    """

    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    baseline: Mapping[str, Row] = field(default_factory=dict)
    first_invoked: dict[str, float] = field(default_factory=dict)
    first_answered: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, attempts: Iterable[Attempt], baseline: Iterable[Row]) -> History:
        before = {row.event_id: row for row in baseline}
        history = cls(acknowledged=set(before), baseline=before)
        history.first_answered = dict.fromkeys(before, -inf)
        every: set[str] = set()
        for attempt in attempts:
            every.update(attempt.event_ids)
            if attempt.outcome is Outcome.OK:
                history.acknowledged.update(attempt.event_ids)
            elif attempt.outcome is Outcome.UNKNOWN:
                history.unknown.update(attempt.event_ids)
            for event_id in attempt.event_ids:
                first = history.first_invoked.get(event_id, inf)
                history.first_invoked[event_id] = min(first, attempt.invoked_at)
                if attempt.outcome is Outcome.OK and attempt.returned_at is not None:
                    first = history.first_answered.get(event_id, inf)
                    history.first_answered[event_id] = min(first, attempt.returned_at)
        history.unknown -= history.acknowledged
        history.refused = every - history.acknowledged - history.unknown
        return history


def acknowledged_exactly_once(history: History, rows: Sequence[Row]) -> Iterator[Violation]:
    """I1: what was answered with OK is there once."""
    count = Counter(row.event_id for row in rows)
    for event_id in history.acknowledged - count.keys():
        yield Violation("I1", "lost", f"event {event_id} was acknowledged and is not there")
    for event_id, times in count.items():
        if times > 1:
            yield Violation("I1", "duplicated", f"event {event_id} is there {times} times")


def answers_were_true(
    attempts: Iterable[Attempt], rows: Sequence[Row], offset: int, elsewhere: Sequence[Row] = ()
) -> Iterator[Violation]:
    """I1: stream, versions and position are those of the answer that the writer got.

    A position that the source answered is the row's without ``offset``; one of a store that the
    tenant has left again is that of its row ``elsewhere``.
    """
    by_id = {row.event_id: row for row in rows}
    left = {row.event_id: row.position for row in elsewhere}
    for attempt in attempts:
        stored = [by_id.get(event_id) for event_id in attempt.event_ids]
        present = [row for row in stored if row is not None]
        if present and len(present) < len(stored):
            yield Violation("I1", "torn", f"a part of the append of {attempt.event_ids} is there")
            continue
        if attempt.outcome is not Outcome.OK or not present:
            continue
        where = f"event {attempt.event_ids[-1]} of {attempt.aggregate_type} {attempt.aggregate_id}"
        if any(row.stream != (attempt.aggregate_type, attempt.aggregate_id) for row in present):
            yield Violation("I1", "wrong_stream", where)
        versions = [row.version for row in present]
        last = attempt.new_version
        if last is None or versions != list(range(last - len(present) + 1, last + 1)):
            yield Violation("I1", "wrong_version", f"{where}: answered {last}, stored {versions}")
        if attempt.expected_version >= 0 and versions[0] != attempt.expected_version + 1:
            found = f"expected {attempt.expected_version}, stored from {versions[0]}"
            yield Violation("I1", "expectation_ignored", f"{where}: {found}")
        position = present[-1].position
        there = left.get(present[-1].event_id)
        if attempt.global_position not in (position, position - offset, there):
            found = f"answered {attempt.global_position}, stored at {position}"
            yield Violation("I1", "wrong_position", f"{where}: {found}")


def nothing_unattempted(history: History, rows: Sequence[Row]) -> Iterator[Violation]:
    """I2: only attempted events are there, and none that was refused."""
    for row in rows:
        if row.event_id in history.refused:
            yield Violation("I2", "refused_is_there", f"event {row.event_id} at {row.position}")
        elif row.event_id not in history.acknowledged and row.event_id not in history.unknown:
            yield Violation("I2", "unattempted", f"event {row.event_id} at {row.position}")


def streams_are_whole(rows: Sequence[Row]) -> Iterator[Violation]:
    """I3: versions 1..n once each, and the position rises with the version."""
    streams: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        streams[row.stream].append(row)
    for (kind, stream), members in streams.items():
        members.sort(key=lambda row: row.version)
        versions = [row.version for row in members]
        if len(set(versions)) < len(versions):
            yield Violation("I3", "version_twice", f"{kind} {stream}")
        if sorted(set(versions)) != list(range(1, versions[-1] + 1)):
            yield Violation("I3", "version_gap", f"{kind} {stream}: {_missing(versions)}")
        for lower, higher in pairwise(members):
            if lower.position >= higher.position and lower.version < higher.version:
                places = f"{lower.version}@{lower.position}, {higher.version}@{higher.position}"
                yield Violation("I3", "position_falls", f"{kind} {stream}: {places}")


def _missing(versions: Sequence[int]) -> str:
    missing = sorted(set(range(1, versions[-1] + 1)) - set(versions))
    return f"{len(missing)} missing, first {missing[:1]}" if missing else f"from {versions[0]}"


def baseline_is_untouched(
    history: History, rows: Sequence[Row], offset: int
) -> Iterator[Violation]:
    """I4, I8: rows that were there before are there with every column as it was."""
    by_id = {row.event_id: row for row in rows}
    for event_id, before in history.baseline.items():
        after = by_id.get(event_id)
        if after is None:
            continue
        if after.digest != before.digest:
            yield Violation("I4", "content_changed", f"event {event_id} at {after.position}")
        if after.position != before.position + offset:
            places = f"was {before.position}, is {after.position}"
            yield Violation("I4", "position_changed", f"event {event_id}: {places}")


def copies_are_equal(
    source: Sequence[Row], target: Sequence[Row], offset: int
) -> Iterator[Violation]:
    """I4: every column equal, the position carried. Missing copies are I7's."""
    by_id = {row.event_id: row for row in target}
    for row in source:
        copy = by_id.get(row.event_id)
        if copy is None:
            continue
        if copy.digest != row.digest:
            yield Violation("I4", "content_differs", f"event {row.event_id} at {row.position}")
        if copy.position != row.position + offset:
            places = f"{row.position} + {offset} became {copy.position}"
            yield Violation("I4", "position_not_carried", f"event {row.event_id}: {places}")


def mapping_is_a_bijection(
    source: Sequence[Row], mapping: Sequence[MappingRow], offset: int
) -> Iterator[Violation]:
    """I5: one mapping row for each row that was moved, and no other."""
    for side in ("source_position", "target_position", "event_id"):
        count: Counter[int | str] = Counter(getattr(row, side) for row in mapping)
        for value, times in count.items():
            if times > 1:
                yield Violation("I5", "mapped_twice", f"{side} {value}: {times} rows")
    mapped = {row.event_id: row for row in mapping}
    for row in source:
        entry = mapped.pop(row.event_id, None)
        if entry is None:
            yield Violation("I5", "not_mapped", f"event {row.event_id} at {row.position}")
        elif (entry.source_position, entry.target_position) != (
            row.position,
            row.position + offset,
        ):
            places = f"{entry.source_position} -> {entry.target_position}"
            yield Violation("I5", "mapped_wrongly", f"event {row.event_id}: {places}")
    for entry in mapped.values():
        yield Violation("I5", "mapped_without_row", f"event {entry.event_id}")


def offset_is_a_bijection(
    source: Sequence[Row],
    target: Sequence[Row],
    mapping: Sequence[MappingRow],
    offset: int | None,
    fence_position: int | None,
) -> Iterator[Violation]:
    """I5 without rows: up to the fence, source and target differ by the offset in every row."""
    if offset is None or fence_position is None:
        yield Violation("I5", "no_offset", f"offset {offset}, fence {fence_position}")
        return
    if mapping:
        yield Violation("I5", "mapped_besides", f"{len(mapping)} rows beside the offset")
    carried = {row.event_id: row.position for row in target}
    for row in source:
        found = carried.pop(row.event_id, None)
        if found is None:
            yield Violation("I5", "not_mapped", f"event {row.event_id} at {row.position}")
        elif found != row.position + offset:
            places = f"{row.position} -> {found}, offset {offset}"
            yield Violation("I5", "mapped_wrongly", f"event {row.event_id}: {places}")
    for event_id, position in carried.items():
        if position <= fence_position + offset:
            yield Violation("I5", "mapped_without_row", f"event {event_id} at {position}")


def order_is_kept(history: History, rows: Sequence[Row]) -> Iterator[Violation]:
    """I6: what was acknowledged before another was invoked has the lower position.

    One sweep over invocations and answers in the order of time, keeping the highest position
    acknowledged so far: O(n log n).
    """
    invoked = sorted(
        (history.first_invoked[row.event_id], row.position, row.event_id)
        for row in rows
        if row.event_id in history.first_invoked and row.event_id not in history.baseline
    )
    answered = sorted(
        (history.first_answered[row.event_id], row.position, row.event_id)
        for row in rows
        if row.event_id in history.first_answered
    )
    highest, holder, following = 0, "", 0
    for time, position, event_id in invoked:
        while following < len(answered) and answered[following][0] < time:
            if answered[following][1] > highest:
                _, highest, holder = answered[following]
            following += 1
        if position <= highest and event_id != holder:
            detail = f"event {event_id} at {position} began after {holder} at {highest} was stored"
            yield Violation("I6", "order_reversed", detail)


def one_writer_epoch(
    source: Sequence[Row], target: Sequence[Row], offset: int, fence_position: int | None
) -> Iterator[Violation]:
    """I7: nothing at the source after the decision, no application's row at the target before it.

    The decision has no time that both servers share, so positions separate the sides: all that
    the source holds was carried, and what only the target holds lies above the source's head.
    """
    if fence_position is None:
        yield Violation("I7", "no_decision", "the migration has no fence position")
        return
    there = {row.event_id for row in target}
    for row in source:
        if row.event_id not in there:
            yield Violation("I7", "left_behind", f"event {row.event_id} at {row.position}")
        if row.position > fence_position:
            places = f"at {row.position}, the decision at {fence_position}"
            yield Violation("I7", "after_the_decision", f"event {row.event_id} {places}")
    carried = {row.event_id for row in source}
    for row in target:
        if row.event_id not in carried and row.position <= fence_position + offset:
            places = f"at {row.position}, the decision at {fence_position + offset}"
            yield Violation("I7", "before_the_decision", f"event {row.event_id} {places}")


def one_epoch_of_a_stay(left: Sequence[Row], home: Sequence[Row]) -> Iterator[Violation]:
    """I4, I7: all that a store had when the tenant left it again is at home, as it was.

    ``home`` gave each row of the stay a position of its own, in their order, before the decision;
    so what was written there since lies above.
    """
    there = {row.event_id: row for row in home}
    carried = set()
    for row in left:
        copy = there.get(row.event_id)
        if copy is None:
            yield Violation("I7", "left_behind", f"event {row.event_id} at {row.position}")
            continue
        carried.add(row.event_id)
        if copy.digest != row.digest:
            yield Violation("I4", "content_differs", f"event {row.event_id} at {row.position}")
    decided = max((there[event_id].position for event_id in carried), default=0)
    for row in home:
        if row.event_id not in carried and row.position <= decided:
            places = f"at {row.position}, the decision after {decided}"
            yield Violation("I7", "before_the_decision", f"event {row.event_id} {places}")
