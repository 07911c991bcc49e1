"""How a migration is carried out: what an operator may choose."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum

from eventsource.durations import seconds_of
from eventsource.migration.protocol import FIRST, OFFSET

#: Batches that are committed together as one chunk.
BATCHES_PER_CHUNK = 20


class VerificationLevel(StrEnum):
    """How much of each event is compared.

    ``COUNT`` compares the number of events and the version of every stream; ``HASH`` a 128-bit
    digest of every event; ``FULL`` every field of every event.
    """

    COUNT = "count"
    HASH = "hash"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class MigrationConfig:
    """How a migration is carried out. Out-of-range values raise ``ValueError``.

    Args:
        batch_size: events per batch; twenty batches are one chunk, the unit that is committed.
        sync_lag_threshold: how small the lag (events) must be before the fence is asked for. The
            lag at the flip is always 0.
        cutover_timeout_seconds: the hard budget of the pause that writers may see.
        verification_level: what is compared before the fence is asked for.
        sample_percentage: share of the streams that this comparison reads, 0 < p <= 100. The
            proof of the passes always covers every row.
        max_events_per_second: throttle of the copy; None is as fast as it goes. The only field
            that can be changed later (:meth:`MigrationCoordinator.set_rate`).
        max_source_slowdown: slow the copy down while the source commits this many times slower,
            or has this many times more active sessions or replication lag, than before the copy.
            None does not watch the source.
        mirror_writes: whether routers write new events to the target at once.
        target_triggers: ``"refuse"`` or ``"fire"``: whether a target whose own triggers would fire
            for carried rows is refused, or meant to see the tenant's whole history.
        chunk_bytes: bytes after which a chunk ends early.
        copy_jobs: connections to the target on which the bulk copy writes chunks at the same time,
            and then builds the indexes that it did without. More need more cores there.
        pass_interval_seconds: pause between two catch-up passes while nothing is asked.
        max_moves_per_store: how many migrations may be driven at once that leave or enter a store.
            None is what its server has connections for. Recovery, an abort and a cutover of a
            tenant in dual-write are not limited.
        keep_way_back: for how long after the flip (seconds, or a text such as "7d") the tenant can
            return with every new event, and its old rows are kept at the source. 0 is not at all.
        require_way_back: whether a cutover that could keep no way back is refused. Without, the
            tenant moves all the same, and its migration says why it cannot return.
        lease_seconds: after how long without a sign of life another driver may take over.
        position_mapping: ``"rows"`` keeps a row for each event in the control database,
            ``"offset"`` only what all have in common: target position minus source position. A
            return keeps rows in any case, of what was appended since the move.
        journal_max_bytes: of a layout: what the keys of changed rows may take at the source while
            nothing carries them. Beyond it they are no longer written down, and everything is
            carried again.
    """

    batch_size: int = 1000
    sync_lag_threshold: int = 100
    cutover_timeout_seconds: float = 5.0
    verification_level: VerificationLevel = VerificationLevel.HASH
    sample_percentage: float = 100.0
    max_events_per_second: float | None = None
    max_source_slowdown: float | None = None
    mirror_writes: bool = True
    target_triggers: str = "refuse"
    chunk_bytes: int = 32 * 1024 * 1024
    copy_jobs: int = 3
    pass_interval_seconds: float = 0.5
    lease_seconds: float = 10.0
    max_moves_per_store: int | None = None
    keep_way_back: float = 604800.0
    require_way_back: bool = False
    position_mapping: str = "rows"
    journal_max_bytes: int = 8 * 1024**3

    def __post_init__(self) -> None:
        object.__setattr__(self, "verification_level", _level(self.verification_level))
        _whole("batch_size", self.batch_size, 1, 1_000_000)
        _whole("sync_lag_threshold", self.sync_lag_threshold, 0, 10_000_000)
        _within("cutover_timeout_seconds", self.cutover_timeout_seconds, 0.05, 300)
        _within("sample_percentage", self.sample_percentage, 0.01, 100)
        if self.max_events_per_second is not None:
            _within("max_events_per_second", self.max_events_per_second, 1, 1e9)
        if self.max_source_slowdown is not None:
            _within("max_source_slowdown", self.max_source_slowdown, 1.1, 1000)
        for name in ("mirror_writes", "require_way_back"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {value!r}")
        if self.target_triggers not in ("refuse", "fire"):
            raise ValueError(
                f'target_triggers must be "refuse" or "fire", not {self.target_triggers!r}'
            )
        if self.position_mapping not in ("rows", "offset"):
            raise ValueError(
                f'position_mapping must be "rows" or "offset", not {self.position_mapping!r}'
            )
        _whole("chunk_bytes", self.chunk_bytes, 64 * 1024, 1024**3)
        _whole("copy_jobs", self.copy_jobs, 1, 64)
        _within("pass_interval_seconds", self.pass_interval_seconds, 0.01, 3600)
        if self.max_moves_per_store is not None:
            _whole("max_moves_per_store", self.max_moves_per_store, 1, 1000)
        _within("lease_seconds", self.lease_seconds, 1, 3600)
        object.__setattr__(self, "keep_way_back", seconds_of("keep_way_back", self.keep_way_back))
        _within("keep_way_back", self.keep_way_back, 0, 31536000)
        _whole("journal_max_bytes", self.journal_max_bytes, 64 * 1024, 1024**5)

    @property
    def fires(self) -> bool:
        """Whether the target's own triggers are meant to see the carried rows."""
        return self.target_triggers == "fire"

    @property
    def protocol(self) -> int:
        """Which version of the protocol a process has to speak to carry this out."""
        return OFFSET if self.position_mapping == "offset" else FIRST

    @property
    def chunk_rows(self) -> int:
        """Rows after which a chunk ends."""
        return self.batch_size * BATCHES_PER_CHUNK

    def to_json(self) -> str:
        """As the control table stores it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MigrationConfig:
        """The configuration a migration was started with; fields of later versions are ignored."""
        known = {name: value for name, value in json.loads(text).items() if name in cls.__slots__}
        return cls(**known)


def _level(value: str) -> VerificationLevel:
    try:
        return VerificationLevel(value)
    except ValueError:
        raise ValueError(f"verification_level must be count, hash or full, not {value!r}") from None


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, float):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    _within(name, value, low, high)


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {_plain(low)} and {_plain(high)}, not {value!r}")


def _plain(number: float) -> str:
    """As people write it: 1,000,000,000 and not 1e+09."""
    return f"{number:,.12g}"
