"""Rows of the journal as the code sees them, made up for a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from eventsource.migration import Migration, MigrationConfig, MigrationState

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)

_ROW = Migration(
    id=UUID("0a24dcd2-183d-43b1-975d-7788b479c21e"),
    tenant_id=UUID("7c9e6679-7425-40de-944b-e07fc1f90ae7"),
    source_store_id="shared",
    target_store_id="dedicated-a",
    state=MigrationState.BULK_COPY,
    config=MigrationConfig(),
    generation=0,
    progress_percentage=50.0,
    events_copied=500_000,
    total_events=1_000_000,
    error_message=None,
    error_code=None,
    created_at=NOW - timedelta(seconds=20),
    started_at=NOW - timedelta(seconds=19),
    completed_at=None,
    updated_at=NOW,
    paused_from=None,
    pause_requested=False,
    parked=False,
    abort_requested=None,
    cutover_request=None,
    cutover_force=False,
    cutover_outcome=None,
    driver_owner=UUID(int=1),
    driver_name="db-tools:4711",
    driver_alive=True,
    driver_expires_at=NOW + timedelta(seconds=10),
    position_offset=0,
    fence_position=None,
    cutover_pause_ms=None,
    throttle_rate=None,
    throttle_reason=None,
    copy_rate=50_000.0,
    copied_at=NOW - timedelta(seconds=1),
    source_identity=None,
    target_identity=None,
)


def migration(**changed: Any) -> Migration:
    """A migration in the middle of its bulk copy, with other values where they are given."""
    return replace(_ROW, **changed)
