"""How long a migration has still to go, as far as can be said from its row of the journal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from eventsource.migration import Migration, MigrationState

#: Time of what follows the copy, as shares of the time that copying all events takes: building the
#: indexes that the target was loaded without, and comparing both stores before the cutover.
INDEX_SHARE, COMPARISON_SHARE = 0.35, 0.35

#: A target that has to keep up with others is loaded with its indexes; so is a small tenant's.
WITHOUT_INDEXES_FROM = 50_000

#: A copy that has brought nothing for so long is not as fast as it was (seconds).
STALLED_SECONDS = 10.0

#: A copy that is faster than this share of its limit is as fast as the limit lets it be.
LIMITED_FROM = 0.8


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that are left.

    Attributes:
        copy: until the last event is copied.
        indexes: for building indexes after that.
        comparison: for comparing both stores before a cutover.

    Both are not limited and are known from the copy's rate: None while that is limited.
    """

    copy: float
    indexes: float | None
    comparison: float | None

    @property
    def after(self) -> float | None:
        """What follows the copy; None where that is not known."""
        if self.indexes is None or self.comparison is None:
            return None
        return self.indexes + self.comparison

    @property
    def total(self) -> float:
        """Until the tenant could be moved over, as far as that is known."""
        return self.copy + (self.after or 0.0)


def rate_of(migration: Migration, now: datetime | None = None) -> float | None:
    """How fast the copy is at the moment (events per second); None when it does not move."""
    now = now or datetime.now(UTC)
    if not migration.driver_alive or migration.copied_at is None:
        return None
    if (now - migration.copied_at).total_seconds() > STALLED_SECONDS:
        return None
    return migration.copy_rate


def is_building_indexes(migration: Migration) -> bool:
    """Whether everything is copied, and the target's indexes are not there yet."""
    copied = migration.events_copied >= migration.total_events
    return migration.state is MigrationState.BULK_COPY and copied and migration.total_events > 0


def left(migration: Migration, now: datetime | None = None) -> Estimate | None:
    """What is left of the bulk copy and of what follows it; None when that cannot be said."""
    now = now or datetime.now(UTC)
    if migration.state is not MigrationState.BULK_COPY or not migration.copy_rate:
        return None
    if not migration.is_counted:
        return None
    indexes, comparison = _what_follows(migration, migration.copy_rate)
    if is_building_indexes(migration):
        if not migration.driver_alive or migration.copied_at is None:
            return None
        spent = (now - migration.copied_at).total_seconds()
        return Estimate(0.0, None if indexes is None else max(0.0, indexes - spent), comparison)
    if (rate := rate_of(migration, now)) is None:
        return None
    # A limit that somebody has set a moment ago is not in the rate yet.
    limit = migration.config.max_events_per_second or rate
    missing = migration.total_events - migration.events_copied
    return Estimate(missing / min(rate, limit), indexes, comparison)


def _what_follows(migration: Migration, rate: float) -> tuple[float | None, float | None]:
    """Seconds for indexes and comparison, whose pace no limit changes; None from a limited rate."""
    limits = (migration.config.max_events_per_second, migration.throttle_rate)
    if any(limit is not None and rate >= LIMITED_FROM * limit for limit in limits):
        return None, None
    whole = migration.total_events / rate
    indexes = whole * INDEX_SHARE if migration.total_events >= WITHOUT_INDEXES_FROM else 0.0
    return indexes, whole * COMPARISON_SHARE


def elapsed(migration: Migration, now: datetime | None = None) -> float:
    """Seconds from the start to the end, or to now."""
    end = migration.completed_at or now or datetime.now(UTC)
    return max(0.0, (end - migration.created_at).total_seconds())
