"""Making and upgrading the control tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.catalog.presence import columns_of
from eventsource.migration.errors import PreflightError
from eventsource.named_sql import text
from eventsource.schema_changes import make_missing

if TYPE_CHECKING:
    from eventsource.connections import Executor

#: What each control table has had since the guide; whatever lacks one of them is not ours.
_OURS = {
    "tenant_migrations": ("id", "tenant_id", "source_store_id", "target_store_id", "state"),
    "tenant_routing": ("tenant_id", "store_id", "migration_state", "target_store_id"),
    "migration_position_mappings": ("migration_id", "source_position", "target_position"),
    "migration_audit_log": ("migration_id", "event_type"),
    "migration_waves": ("id", "name", "state", "settings"),
    "migration_wave_items": ("wave_id", "tenant_id", "outcome"),
}

#: Advisory lock that keeps two processes from making the tables at once.
_LOCK = (1163281237, 0)


async def create_schema(pool: Executor) -> None:
    """Create the control tables, or add what an older version or the guide's SQL lacks.

    Any number of processes may do so at once and at any time: what is there is looked at and left
    alone, without a lock.

    Raises:
        PreflightError: tables of these names belong to another library; nothing was changed.
    """
    foreign = await of_another_library(pool)
    if foreign is not None:
        raise PreflightError([foreign])
    script = text("eventsource.migration.repositories.sql", "schema.sql")
    await make_missing(pool, script, _LOCK)


async def of_another_library(connection: Executor) -> str | None:
    """A sentence about control tables that are not ours, None when there is none."""
    present = await columns_of(connection, _OURS)
    foreign = [
        name
        for name, columns in _OURS.items()
        if name in present and not set(columns) <= present[name]
    ]
    if not foreign:
        return None
    return (
        f"the control database has {', '.join(foreign)} of another library (eventsource-py names"
        " its tables so), with other columns; give ours a schema of their own: schema ="
        ' "eventsource_control" under [control], or a pool with that search_path'
    )
