"""What a writer process writes down about every append, before it is made and after it returned.

One JSON object per line. An attempt whose second line is missing was made by a process that died:
nobody knows whether it was stored.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID


class Outcome(StrEnum):
    """The answer that the writer got to one append."""

    OK = "ok"
    """It is stored."""
    REFUSED = "refused"
    """It is not stored, and never will be."""
    UNKNOWN = "unknown"
    """The connection or the process was lost meanwhile: stored, or not."""


def clock() -> float:
    """Seconds of CLOCK_MONOTONIC: one time line for all processes of one machine."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of ``append_events``. Times are seconds of ``clock``; ids are text as in SQL.

    ``returned_at`` is None when the process died before the call returned. ``new_version`` and
    ``global_position`` are those of the answer. A retry is another attempt with the same ids.
    """

    writer: str
    task: int
    tenant_id: str
    aggregate_type: str
    aggregate_id: str
    expected_version: int
    event_ids: tuple[str, ...]
    path: str
    invoked_at: float
    outcome: Outcome = Outcome.UNKNOWN
    returned_at: float | None = None
    new_version: int | None = None
    global_position: int | None = None
    error: str | None = None

    @property
    def latency(self) -> float | None:
        """Seconds that the caller waited for the answer."""
        return None if self.returned_at is None else self.returned_at - self.invoked_at


class RecordFile:
    """Appends records to a file, each in one system call: none is lost to kill -9."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._next = 0

    def note(self, kind: str, **fields: Any) -> None:
        """Write one line; `kind` says what it is."""
        os.write(self._file, (json.dumps({"kind": kind, **fields}) + "\n").encode())

    def invoke(
        self,
        *,
        writer: str,
        task: int,
        tenant_id: UUID,
        stream: tuple[str, UUID],
        expected_version: int,
        event_ids: Sequence[UUID],
        path: str,
    ) -> int:
        """Record that an append is about to be made; returns the number for its outcome."""
        self._next += 1
        self.note(
            "invoke",
            attempt=self._next,
            writer=writer,
            task=task,
            tenant_id=str(tenant_id),
            aggregate_type=stream[0],
            aggregate_id=str(stream[1]),
            expected_version=expected_version,
            event_ids=[str(event_id) for event_id in event_ids],
            path=path,
            invoked_at=clock(),
        )
        return self._next

    def outcome(self, attempt: int, outcome: Outcome, **answer: Any) -> None:
        """Record how an append ended: `new_version` and `global_position`, or `error`."""
        self.note("return", attempt=attempt, outcome=outcome, returned_at=clock(), **answer)

    def close(self) -> None:
        os.close(self._file)


def load_attempts(path: Path) -> list[Attempt]:
    """Every attempt of one record file, in the order in which they were made."""
    invoked: dict[int, dict[str, Any]] = {}
    for line in RecordReader(path).lines():
        kind = line.pop("kind")
        if kind == "invoke":
            line["event_ids"] = tuple(line["event_ids"])
            invoked[line.pop("attempt")] = line
        elif kind == "return":
            line["outcome"] = Outcome(line["outcome"])
            invoked[line.pop("attempt")].update(line)
    return [Attempt(**fields) for fields in invoked.values()]


class RecordReader:
    """Reads a record file that may still be growing, each line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        """The complete lines that were not given before."""
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            lines.seek(self._offset)
            for line in lines:
                # After one that is not complete: what comes next may be the rest of it.
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)


def longest_append(attempts: Iterable[Attempt], tenant_id: UUID | None = None) -> float:
    """Seconds of the longest append that was answered with OK, of one tenant or of all."""
    wanted = None if tenant_id is None else str(tenant_id)
    return max(
        (
            attempt.latency
            for attempt in attempts
            if attempt.outcome is Outcome.OK
            and attempt.latency is not None
            and wanted in (None, attempt.tenant_id)
        ),
        default=0.0,
    )
