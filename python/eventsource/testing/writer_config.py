"""What a writer process does; crosses to it as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """One event store: where its database is and which table holds the events."""

    # Holds a password, and a failing test prints what it can.
    dsn: str = field(repr=False)
    table: str = "events"


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """What one writer process does.

    Args:
        name: recorded with every attempt.
        stores: addresses by store id, among them `source`, the router's default.
        source: id of the store where the tenants live at first.
        control_dsn: database of the routing table; not used when `frozen`.
        tenants: whom it writes for, one at random per append.
        frozen: writes to the source store only, as a process that never heard of a migration.
        tasks: how many append at the same time.
        streams_per_task, shared_streams: how many streams of each tenant a task owns, and how
            many all tasks of all processes share.
        max_events: an append has 1 to this many events.
        expect_any: share of the appends that expect no version of the stream; the others read it
            first.
        appends_per_second: of each task; None is as fast as it goes.
        isolation: default transaction isolation of its sessions.
        replica_role: its sessions run with session_replication_role = replica.
        pooled: its connections go through a pooler in transaction mode, where neither prepared
            statements nor settings of a session last; `isolation` and `replica_role` are not used.
        slow_commits: share of the appends that stay open for `slow_commit_seconds` before their
            commit, in a transaction of their own on the source.
        focus: share of the appends that go to the tenant named in the focus file, if any.
        payload_bytes: length of the text in each event.
        stop_with_stdin: end when standard input closes, so that no writer outlives its parent.
    """

    name: str
    stores: dict[str, StoreAddress]
    source: str
    tenants: list[UUID]
    control_dsn: str | None = field(default=None, repr=False)
    frozen: bool = False
    tasks: int = 8
    streams_per_task: int = 3
    shared_streams: int = 2
    max_events: int = 10
    expect_any: float = 0.1
    appends_per_second: float | None = 10.0
    isolation: str = "read committed"
    replica_role: bool = False
    pooled: bool = False
    slow_commits: float = 0.0
    slow_commit_seconds: float = 0.2
    focus: float = 0.7
    payload_bytes: int = 120
    seed: int = 0
    stop_with_stdin: bool = False
    directory: Path = field(default_factory=Path)

    @property
    def records_path(self) -> Path:
        """Where the writer records its attempts, one JSON object a line."""
        return self.directory / f"{self.name}.jsonl"

    @property
    def stop_path(self) -> Path:
        """The writer stops when this file is there."""
        return self.directory / f"{self.name}.stop"

    @property
    def focus_path(self) -> Path:
        """Names the tenant that gets most appends."""
        return self.directory / "focus"

    def to_json(self) -> str:
        """As the writer's process reads it."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` has written."""
        values: dict[str, Any] = json.loads(text)
        values["stores"] = {key: StoreAddress(**at) for key, at in values["stores"].items()}
        values["tenants"] = [UUID(tenant) for tenant in values["tenants"]]
        values["directory"] = Path(values["directory"])
        return cls(**values)
