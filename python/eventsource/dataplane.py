"""The interface of the Rust data plane: what goes in, what comes out, and how it fails.

One call moves a range, maps a batch or verifies a table; nothing here works per event. Rust opens
its own connections, releases the interpreter while it works, and drops an operation when its
awaitable is cancelled: what was not committed is rolled back by the servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final
from uuid import UUID

from eventsource import _core
from eventsource._core import (
    KeptSessions,
    PassResult,
    Progress,
    StreamResult,
    VerifyProgress,
    VerifyResult,
    Violation,
)
from eventsource.connections import TableAddress
from eventsource.errors import EventSourceError

__all__ = [
    "DataPlaneError",
    "KeptSessions",
    "PassResult",
    "PassSession",
    "PassSessionConfig",
    "PassSpec",
    "Progress",
    "StreamResult",
    "TableAddress",
    "Verification",
    "VerifyConfig",
    "VerifyProgress",
    "VerifyResult",
    "Violation",
    "blanked",
]


class DataPlaneError(EventSourceError):
    """The data plane failed.

    `kind` says what to do about it:

    - `connect`: no connection came about (address, TLS, credentials, database).
    - `connection_lost`: an open connection ended. Whether a commit in flight took place is in the
      target's progress row; open another session and go on from there.
    - `standby`: the server that should be read is not a primary.
    - `ownership_lost`: another driver works on the migration. Nothing was committed.
    - `inconsistent`: rows of the target differ from the source's. Nothing was committed;
      `detail["differences"]` names up to 20 of `detail["total"]`, each with `kind` (`missing` or
      `different`), source `position`, `event_id` and the first `field` that differs.
    - `positions_exhausted`: the block of positions reserved on the target is used up
      (`detail["needed"]`, `detail["last"]`).
    - `unique_violation`: a row is already there under another identity (`detail["constraint"]`).
    - `sql`: the server refused a statement (`detail["sqlstate"]`).
    - `cancelled`: the operation was dropped before its end.
    - `protocol`: a server sent what it should not, or the session was misused.

    `detail["side"]` is `source`, `target` or `control` where a database is concerned.
    """

    def __init__(self, kind: str, message: str, detail: dict[str, Any] | None = None) -> None:
        super().__init__(kind, message, detail)
        self.kind = kind
        self.message = message
        self.detail = detail or {}

    def __str__(self) -> str:
        return self.message

    @property
    def sqlstate(self) -> str | None:
        """What the server answered, where it was a server."""
        code: str | None = self.detail.get("sqlstate")
        return code


@dataclass(frozen=True, slots=True)
class PassSessionConfig:
    """What all passes of one migration share.

    `owner` is the token of the driver, compared at every commit with the progress row of the
    target and the migration's row of the control database. `columns` are the carried columns in
    order, never `transaction_id`; `forms` has one text for each of them, or none when all are plain
    (`eventsource.catalog.forms`). Target positions are source positions plus `offset` and never
    above `last_target_position`. A chunk is one transaction of the target: at most `chunk_rows`
    rows and about `chunk_bytes` bytes, and less where all chunks on their way would otherwise take
    more than 32 MB; a row that is wider makes a chunk of its own. A pass that is not staged writes
    `jobs` chunks at the same time and commits them in order.

    With `fresh_positions` the target gives each row its next position instead, in the order of the
    source, and rows are known by their event id; `offset` is 0 then, and every pass is taken for a
    staged one. Without `mapping_rows` no row is mapped: `offset` says where each is. `journal` is
    the control table whose row names the owner. What ends well is `kept` for a moment for the next
    session of this process that wants the same address.

    The driver is taken for the only one: opening a session ends other sessions of the same
    migration on target and control, provided that `owner` is the one in the progress row. Where it
    `is_first`, nobody has had the migration before, and there are none.
    """

    migration_id: UUID
    tenant_id: UUID
    owner: UUID
    source: TableAddress
    target: TableAddress
    control_dsn: str = field(repr=False)
    control_schema: str
    columns: tuple[str, ...]
    offset: int
    last_target_position: int
    chunk_rows: int
    chunk_bytes: int
    max_events_per_second: float | None = None
    jobs: int = 3
    journal: str = "tenant_migrations"
    fresh_positions: bool = False
    mapping_rows: bool = True
    is_first: bool = False
    forms: tuple[str, ...] = ()
    kept: KeptSessions | None = field(default=None, repr=False, compare=False)

    async def resolved(self) -> PassSessionConfig:
        """With connection strings as Rust reads them, and passwords of now."""
        return replace(
            self, source=await self.source.resolved(), target=await self.target.resolved()
        )


@dataclass(frozen=True, slots=True)
class PassSpec:
    """One pass: the rows visible in `snapshot` and not in `previous_snapshot` (text forms).

    Without `previous_snapshot` it is the first pass and takes rows older than every snapshot too;
    without `snapshot` it takes everything committed. `staged` is for rows that may already be on
    the target: they are compared there instead of being written blindly.
    """

    number: int
    previous_snapshot: str | None
    snapshot: str | None
    staged: bool


@final
class PassSession:
    """The open, prepared connections of one migration; one operation at a time.

    An operation that fails or is cancelled ends the session: its connections are closed and the
    servers roll back what was open. Open another one to go on.
    """

    __slots__ = ("_session",)

    def __init__(self, session: _core.PassSession) -> None:
        self._session = session

    @staticmethod
    async def open(config: PassSessionConfig) -> PassSession:
        """Connect to source, target and control, and prepare every statement there."""
        return PassSession(await _core.PassSession.open(config))

    async def run(self, spec: PassSpec) -> PassResult:
        """Run a pass from where its progress row stands, to its end or to a requested stop.

        Counts and digest of the result cover the whole pass, earlier runs included.
        """
        return await self._session.run(spec)

    def progress(self) -> Progress:
        """What the current pass has committed so far. Cheap, callable at any time."""
        return self._session.progress()

    def request_stop(self) -> None:
        """Let the pass end after the chunk it is at. Holds for the rest of the session."""
        self._session.request_stop()

    def set_rate(self, max_events_per_second: float | None) -> None:
        """Change the limit of a pass that may be running; `None` lifts it."""
        self._session.set_rate(max_events_per_second)

    async def close(self) -> None:
        """Wait for a running operation, then close the connections. Twice is a no-op."""
        await self._session.close()


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """Which rows of a tenant to compare, and how closely (`level`: `count`, `hash` or `full`).

    Source rows that `snapshot` shows have to be on the target; without it, those visible at the
    start. Everything that the target has must be on the source. Rows after `last_source_position`
    are left out on both sides. `sample_percentage` is a share of the streams, above 0 and at most
    100. The result names at most `max_violations` violations and as many streams. `parallelism`
    ranges are compared at the same time, each on two connections.

    A comparison may be one of a sequence over source positions in `(after, upto]` (None: without
    end), which levels other than `count` allow. `streams_seen`, `streams_differing` and
    `streams_only_there` of the result before it make its streams counted once; all of them have
    the same `salt`, and the first began after `began_after`. Fewer than `most_names` streams are
    counted here, more of them by the source's server, once.

    A driver names its `migration_id`, so that its successor can end the comparison's sessions.
    `forms` and `kept` are as for a pass.
    """

    source: TableAddress
    target: TableAddress
    tenant_id: UUID
    columns: tuple[str, ...]
    offset: int
    level: str
    snapshot: str | None = None
    last_source_position: int | None = None
    after: int | None = None
    upto: int | None = None
    began_after: int | None = None
    streams_seen: bytes = field(default=b"", repr=False)
    streams_differing: bytes = field(default=b"", repr=False)
    streams_only_there: bytes = field(default=b"", repr=False)
    most_names: int = 131_072
    salt: int = 0
    sample_percentage: float = 100.0
    max_violations: int = 100
    parallelism: int = 1
    migration_id: UUID | None = None
    forms: tuple[str, ...] = ()
    kept: KeptSessions | None = field(default=None, repr=False, compare=False)

    async def resolved(self) -> VerifyConfig:
        """With connection strings as Rust reads them, and passwords of now."""
        return replace(
            self, source=await self.source.resolved(), target=await self.target.resolved()
        )


@final
class Verification:
    """A comparison that runs by itself, and stops when nobody refers to it any more."""

    __slots__ = ("_verification",)

    def __init__(self, verification: _core.Verification) -> None:
        self._verification = verification

    @staticmethod
    def start(config: VerifyConfig) -> Verification:
        """Begin; connecting happens in the background, its failures are `result`'s."""
        return Verification(_core.Verification.start(config))

    async def result(self) -> VerifyResult:
        """Wait for the end; callable once. What differs is in the result, not an exception."""
        return await self._verification.result()

    def progress(self) -> VerifyProgress:
        """Rows read so far on each side."""
        return self._verification.progress()


def blanked(copy: bytes, columns: Sequence[str], forms: Sequence[str]) -> bytes:
    """A whole binary COPY of these columns without the numbers that a database gives to its types.

    Raises:
        DataPlaneError: kind ``protocol``: a value does not have the form of its column.
    """
    return _core.blanked(copy, list(columns), list(forms)) if forms else copy
