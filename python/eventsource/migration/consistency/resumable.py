"""A comparison in ranges of positions, which goes on where an interrupted one stopped.

What is done is kept in a file that is replaced as a whole after every range. Kill the process at
any moment: the next one compares at most one range again.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import eventsource
from eventsource.dataplane import StreamResult, VerifyConfig, Violation
from eventsource.identifiers import qualified
from eventsource.migration.consistency import running
from eventsource.migration.errors import MigrationError
from eventsource.migration.tables import snapshots

if TYPE_CHECKING:
    from eventsource.connections import Executor, TableAddress
    from eventsource.dataplane import VerifyResult

#: Source rows of one range: some seconds of work, and at 10 M events twenty files written.
RANGE_ROWS = 500_000

#: Raised with every change of what the file holds. The first had a name for each stream, the second
#: at most 32,768, which were then all that a comparison kept.
_FORM = 3

_COUNTS = ("source_event_count", "target_event_count")
_NAMES = ("streams_seen", "streams_differing", "streams_only_there")
_STREAMS = ("streams_verified", "streams_consistent", "streams_estimated")
_VIOLATION = (
    "kind", "aggregate_type", "aggregate_id", "version", "position", "event_id", "field", "detail",
)  # fmt: skip
_STREAM = (
    "aggregate_type", "aggregate_id", "source_events", "target_events", "source_version",
    "target_version",
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What the ranges up to ``after`` (a source position) came to.

    Attributes:
        snapshot: of the source, the same for all ranges.
        streams_seen, streams_differing, streams_only_there: names of streams, so that one that
            spans ranges counts once; of so many at most that the file stays small.
        streams_verified, streams_consistent, streams_estimated: of all ranges, once the last one is
            compared.
        seconds: spent on the finished ranges, by all processes.
    """

    snapshot: str
    salt: int
    after: int | None = None
    source_event_count: int = 0
    target_event_count: int = 0
    streams_seen: bytes = b""
    streams_differing: bytes = b""
    streams_only_there: bytes = b""
    streams_verified: int = 0
    streams_consistent: int = 0
    streams_estimated: bool = False
    violations: list[Violation] = field(default_factory=list)
    streams: dict[tuple[str, UUID], StreamResult] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, result: VerifyResult, most: int, seconds: float) -> None:
        """Count a range that was compared; name at most so many differences in all."""
        self.source_event_count += result.source_event_count
        self.target_event_count += result.target_event_count
        for name in (*_NAMES, *_STREAMS):
            setattr(self, name, getattr(result, name))
        self.violations = [*self.violations, *result.violations][:most]
        for stream in result.inconsistent_streams:
            key = stream.aggregate_type, stream.aggregate_id
            if key in self.streams or len(self.streams) < most:
                self.streams[key] = stream
        self.seconds += seconds


async def compare(source: Executor, config: VerifyConfig, path: Path) -> Tally:
    """Compare range after range; the file is removed when all are done.

    Raises:
        MigrationError: the file is of another comparison, or of another version.
        StalledError: no row moved for too long; what is done is in the file.
    """
    taken = await snapshots.take(source)
    subject = await _subject(config, taken.system)
    tally = _load(path, subject)
    if tally is None:
        tally = Tally(config.snapshot or taken.text, config.salt)
    while True:
        began = time.monotonic()
        upto = await _end_of_range(source, config, tally.after)
        # Read again for each range: a password may have changed since the first.
        result = await running.run(
            replace(
                await config.resolved(),
                snapshot=tally.snapshot,
                after=tally.after,
                upto=upto,
                salt=tally.salt,
                **{name: getattr(tally, name) for name in _NAMES},
            )
        )
        tally.add(result, config.max_violations, time.monotonic() - began)
        tally.after = upto
        if upto is None:
            _remove(path)
            return tally
        _save(path, subject, tally)


async def _end_of_range(source: Executor, config: VerifyConfig, after: int | None) -> int | None:
    """The last source position of the range above ``after``; None for the last range."""
    table = qualified(config.source.schema, config.source.table)
    position = await source.fetchval(
        f"select global_position from {table} where tenant_id = $1"
        " and ($2::bigint is null or global_position > $2) and ($3::bigint is null or"
        " global_position <= $3) order by global_position offset $4 limit 1",
        config.tenant_id, after, config.last_source_position, RANGE_ROWS - 1,
    )  # fmt: skip
    return None if position is None else int(position)


async def _subject(config: VerifyConfig, system: str) -> dict[str, Any]:
    """What a comparison is of: a file of anything else is refused."""
    return {
        "tenant": str(config.tenant_id),
        "source": await _place(config.source),
        "source cluster": system,
        "target": await _place(config.target),
        "columns": list(config.columns),
        "offset of the positions": config.offset,
        "last source position": config.last_source_position,
        "level": config.level,
        "sample": config.sample_percentage,
    }


async def _place(address: TableAddress) -> str:
    """A table in words, without user and password."""
    return f"{address.schema}.{address.table} at {(await address.parameters.resolve()).place}"


def _save(path: Path, subject: Mapping[str, Any], tally: Tally) -> None:
    document = {
        "version": eventsource.__version__,
        "form": _FORM,
        "subject": subject,
        "snapshot": tally.snapshot,
        "salt": tally.salt,
        "after": tally.after,
        **{name: getattr(tally, name) for name in _COUNTS},
        **{name: base64.b64encode(getattr(tally, name)).decode() for name in _NAMES},
        "violations": [_record(each, _VIOLATION) for each in tally.violations],
        "streams": [_record(each, _STREAM) for each in tally.streams.values()],
        "seconds": tally.seconds,
    }
    # Whole or not at all: a crash in between leaves the file of the range before.
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise MigrationError(
            f"the state file {path} cannot be written: {error.strerror}"
        ) from error


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _load(path: Path, subject: Mapping[str, Any]) -> Tally | None:
    try:
        document = json.loads(path.read_text())
        version, known = document["version"], document["subject"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise MigrationError(
            f"{path} does not hold the state of a comparison; {_REPAIR}"
        ) from error
    if version != eventsource.__version__:
        raise MigrationError(f"{path} was written by version {version} of this package; {_REPAIR}")
    if document.get("form") != _FORM:
        raise MigrationError(f"{path} has the form of an earlier build of this package; {_REPAIR}")
    if known != subject:
        other = [name for name in subject if known.get(name) != subject[name]]
        raise MigrationError(
            f"{path} is the state of another comparison (not the same: {', '.join(other)});"
            f" {_REPAIR}"
        )
    return Tally(
        snapshot=document["snapshot"],
        salt=document["salt"],
        after=document["after"],
        **{name: document[name] for name in _COUNTS},
        streams_seen=base64.b64decode(document["streams_seen"]),
        streams_differing=base64.b64decode(document["streams_differing"]),
        streams_only_there=base64.b64decode(document["streams_only_there"]),
        violations=[Violation(**_read(each)) for each in document["violations"]],
        streams={
            (each["aggregate_type"], UUID(each["aggregate_id"])): StreamResult(**_read(each))
            for each in document["streams"]
        },
        seconds=document["seconds"],
    )


_REPAIR = "remove it to begin again, or name another file"


def _record(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in names}
    return {name: str(each) if isinstance(each, UUID) else each for name, each in found.items()}


def _read(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: UUID(each) if name in ("aggregate_id", "event_id") else each
        for name, each in record.items()
    }
