"""A wave: many tenants that move one after another, and what has become of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from eventsource.commands import command
from eventsource.errors import EventSourceError
from eventsource.fleet.windows import Window
from eventsource.migration.errors import PreflightError, RetryLaterError
from eventsource.tenant_ids import TenantId, restored


class WaveState(StrEnum):
    """Where a wave stands; the text is what the control table holds."""

    PLANNED = "planned"
    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"


class Outcome(StrEnum):
    """What has become of a tenant of a wave; one without an outcome is still to be moved."""

    MOVED = "moved"
    REFUSED = "refused"
    FAILED = "failed"
    HELD = "held"

    @property
    def is_bad_news(self) -> bool:
        """Whether it counts for stopping the line. A refusal has changed nothing."""
        return self in (Outcome.FAILED, Outcome.HELD)


class WaveError(EventSourceError):
    """A wave cannot do what was asked."""


class WaveNotFoundError(WaveError):
    """No wave has this name.

    Attributes:
        name: the name that was asked for.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no wave {name!r}; `eventsource-migrate fleet status` lists all")
        self.name = name


class WaveStoppedError(RetryLaterError):
    """The tenant may not cut over: its wave is not running.

    Attributes:
        name: of the wave.
    """

    code = "wave_stopped"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"wave {name!r} is stopped, so none of its tenants cuts over; find out why, then"
            f" `{command('fleet resume', name)}`"
        )
        self.name = name


class OutsideWindowError(RetryLaterError):
    """The tenant may not cut over now, but within the window of its wave.

    Attributes:
        opens: when the window opens next.
    """

    code = "outside_window"

    def __init__(self, window: Window, opens: datetime) -> None:
        super().__init__(
            f"cutovers are allowed within {window} alone; it opens at {opens.isoformat()}"
        )
        self.opens = opens


class NoRoomError(PreflightError):
    """A tenant is too large for what may lie on the disk of its target (``max_disk``).

    Attributes:
        store_id: the target.
        there, brought, most: what lies there, what the tenant would bring with indexes, and what
            may lie there (bytes).
    """

    code = "no_room"

    def __init__(self, store_id: str, there: int, brought: int, most: int) -> None:
        super().__init__(
            [
                f"{store_id!r} has no room for it: {megabytes(there)} lie there or are on their"
                f" way, it brings about {megabytes(brought)}, and max_disk allows"
                f" {megabytes(most)}; let it go to another store, or give that one a larger disk"
                " and max_disk under [fleet] a larger number"
            ]
        )
        self.store_id, self.there, self.brought, self.most = store_id, there, brought, most


def megabytes(size: float) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.2f} GB"


@dataclass(frozen=True, slots=True)
class WaveSettings:
    """How a wave is carried out. What cannot be meant raises ``ValueError``.

    Args:
        window: when it may work, such as ``22:00-05:00 Europe/Berlin``; None is always.
        window_for: ``"all"``, or ``"cutover"``: copies may run at any time then.
        attempts: how often a tenant is tried whose move failed for a reason that passes.
        stop_after: how many tenants in a row may fail before the wave stops. A proof that fails
            stops it at once.
    """

    window: str | None = None
    window_for: str = "all"
    attempts: int = 5
    stop_after: int = 3

    def __post_init__(self) -> None:
        if self.window is not None:
            Window.parse(self.window)
        if self.window_for not in ("all", "cutover"):
            raise ValueError(f'window_for must be "all" or "cutover", not {self.window_for!r}')
        for name, value in (("attempts", self.attempts), ("stop_after", self.stop_after)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
                raise ValueError(f"{name} must be a whole number from 1 to 1000, not {value!r}")

    @property
    def hours(self) -> Window | None:
        """The window, if there is one."""
        return None if self.window is None else Window.parse(self.window)

    def to_json(self) -> str:
        """As the control table stores it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WaveSettings:
        """Those of a wave; fields of later versions are ignored."""
        known = {name: value for name, value in json.loads(text).items() if name in cls.__slots__}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Wave:
    """A wave, as the control database knows it.

    Attributes:
        history: what was done to it: when, what, by whom, and why.
    """

    id: UUID
    name: str
    state: WaveState
    settings: WaveSettings
    created_at: datetime
    created_by: str | None
    started_at: datetime | None
    ended_at: datetime | None
    stopped_at: datetime | None
    stopped_by: str | None
    stop_reason: str | None
    failures_in_row: int
    history: tuple[Mapping[str, Any], ...]

    @classmethod
    def from_row(cls, row: Any) -> Wave:
        """From a row of the ``wave_columns`` statement."""
        values = dict(row)
        values["state"] = WaveState(values["state"])
        values["settings"] = WaveSettings.from_json(values["settings"])
        values["history"] = tuple(json.loads(values["history"]))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class WaveItem:
    """One tenant of a wave.

    Attributes:
        ordinal: its place in the order, from 1.
        events, bytes: about how large it was when the wave was planned; None where unknown.
        attempts: failures so far for reasons that pass.
    """

    wave_id: UUID
    tenant_id: TenantId
    ordinal: int
    source_store_id: str
    target_store_id: str
    events: int | None = None
    bytes: int | None = None
    outcome: Outcome | None = None
    migration_id: UUID | None = None
    attempts: int = 0
    error_code: str | None = None
    error_message: str | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Any) -> WaveItem:
        """From a row of the ``item_columns`` statement."""
        values = {each.name: row[each.name] for each in fields(cls)}
        values["tenant_id"] = restored(values["tenant_id"])
        if values["outcome"] is not None:
            values["outcome"] = Outcome(values["outcome"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tenant that may become part of a wave: from where to where, and how large it is."""

    tenant_id: TenantId
    source_store_id: str
    target_store_id: str
    events: int | None = None
    bytes: int | None = None
