"""What a writer writes down: every attempt before it is made, and the truth about its end."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource import OptimisticLockError
from eventsource.migration import WritePausedError
from eventsource.testing import Outcome, StoreAddress, WriterConfig
from eventsource.testing.records import RecordFile, RecordReader, load_attempts
from eventsource.testing.writers import outcome_of


def _invoke(records: RecordFile) -> int:
    return records.invoke(
        writer="w",
        task=3,
        tenant_id=uuid4(),
        stream=("Ledger", uuid4()),
        expected_version=0,
        event_ids=[uuid4(), uuid4()],
        path="router",
    )


def test_an_attempt_without_an_answer_is_unknown(tmp_path: Path) -> None:
    records = RecordFile(tmp_path / "r")
    answered, refused, open_ended = _invoke(records), _invoke(records), _invoke(records)
    records.outcome(refused, Outcome.REFUSED, error="WritePausedError: waited")
    records.outcome(answered, Outcome.OK, new_version=2, global_position=7)
    assert open_ended == 3
    first, second, third = load_attempts(tmp_path / "r")
    assert (first.outcome, first.new_version, first.global_position) == (Outcome.OK, 2, 7)
    assert first.returned_at is not None
    assert first.returned_at >= first.invoked_at
    assert len(first.event_ids) == 2
    assert (second.outcome, second.error) == (Outcome.REFUSED, "WritePausedError: waited")
    assert (third.outcome, third.returned_at, third.latency) == (Outcome.UNKNOWN, None, None)


def test_a_half_written_line_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "r"
    reader = RecordReader(path)
    assert list(reader.lines()) == []
    path.write_text('{"kind": "ready"}\n{"kind": "sto')
    assert [line["kind"] for line in reader.lines()] == ["ready"]
    with path.open("a") as file:
        file.write('pped"}\n')
    assert [line["kind"] for line in reader.lines()] == ["stopped"]


class Growing(io.RawIOBase):
    """A file whose writer adds the rest of a line right after a reader has met its end."""

    def __init__(self, *portions: bytes) -> None:
        self._portions = list(portions)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset

    def readinto(self, buffer: Any) -> int:
        portion = self._portions.pop(0) if self._portions else b""
        buffer[: len(portion)] = portion
        return len(portion)


def test_the_rest_of_a_line_is_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r"
    path.touch()
    grown = Growing(b'{"a": 1}\n{"b": ', b"", b'2, "c": 3}\n')
    monkeypatch.setattr(Path, "open", lambda *_: io.BufferedReader(grown))
    reader = RecordReader(path)
    assert list(reader.lines()) == [{"a": 1}]
    monkeypatch.undo()
    path.write_bytes(b'{"a": 1}\n{"b": 2, "c": 3}\n')
    assert list(reader.lines()) == [{"b": 2, "c": 3}]


def _server_error(sqlstate: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": sqlstate, "M": "message"})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OptimisticLockError(uuid4(), "Ledger", 1, 2), Outcome.REFUSED),
        (WritePausedError(uuid4(), 1.0), Outcome.REFUSED),
        (_server_error("EVF01"), Outcome.REFUSED),
        (_server_error("40001"), Outcome.REFUSED),
        (_server_error("55P03"), Outcome.REFUSED),
        (_server_error("08006"), Outcome.UNKNOWN),
        (_server_error("57P01"), Outcome.UNKNOWN),
        (asyncpg.InterfaceError("connection is closed"), Outcome.UNKNOWN),
        (ConnectionResetError(), Outcome.UNKNOWN),
        (TimeoutError(), Outcome.UNKNOWN),
        (KeyError("a defect"), Outcome.UNKNOWN),
    ],
)
def test_only_an_answer_that_rules_the_append_out_counts_as_refused(
    error: Exception, expected: Outcome
) -> None:
    assert outcome_of(error) is expected


def test_a_configuration_crosses_to_the_process_unchanged(tmp_path: Path) -> None:
    config = WriterConfig(
        name="w",
        stores={"shared": StoreAddress("postgresql://u:p@h/d", "t")},
        source="shared",
        tenants=[uuid4()],
        isolation="serializable",
        directory=tmp_path,
    )
    assert WriterConfig.from_json(config.to_json()) == config
