"""The control database as a move needs it."""

from __future__ import annotations

from eventsource.catalog.presence import columns_of
from eventsource.connections import Executor, one_of
from eventsource.migration.preflight.findings import Findings
from eventsource.migration.repositories import control_place, hidden_rows
from eventsource.migration.repositories.schema import of_another_library

#: The control tables, and what schema.sql adds to those of the guide.
CONTROL_COLUMNS = {
    "tenant_migrations": (
        "config", "generation", "error_code", "paused_from", "pause_requested", "parked",
        "pause_at", "abort_requested",
        "cutover_request", "cutover_force", "cutover_outcome", "driver_owner", "driver_name",
        "driver_expires_at", "position_offset", "fence_position", "cutover_pause_ms", "updated_at",
        "source_identity", "target_identity", "cutover_budget", "rehearsal_request",
        "rehearsal_options", "rehearsal_outcome", "longest_wait_ms", "returns",
        "protocol", "control_identity",
    ),
    "tenant_routing": ("generation", "migration_id"),
    "migration_position_mappings": ("source_position", "target_position", "event_id"),
    "migration_audit_log": ("details", "operator"),
    "migration_waves": ("history",),
    "migration_wave_items": ("outcome", "migration_id"),
    "tenant_ways_back": ("state", "keep_seconds", "generation", "protocol"),
    "migration_router_reports": ("ready", "left_out_by", "sessions", "longest_append_ms"),
    "migration_route_hooks": ("generation", "error"),
}  # fmt: skip


_SERVER = """
select pg_is_in_recovery() as standby, current_setting('transaction_read_only') = 'on' as read_only
"""


async def check_control(connection: Executor, findings: Findings) -> None:
    """The control tables exist, with the columns that this version needs."""
    async with one_of(connection) as one:
        await _check(one, findings)


async def _check(connection: Executor, findings: Findings) -> None:
    server = await connection.fetchrow(_SERVER)
    if server["standby"]:
        findings.problems.append(
            "the control database is on a standby, and migrations must be written there; connect"
            " to the primary"
        )
        return
    if server["read_only"]:
        findings.problems.append(
            "the control database is read-only (default_transaction_read_only is on)"
        )
        return
    foreign = await of_another_library(connection)
    if foreign is not None:
        findings.problems.append(foreign)
        return
    present = await columns_of(connection, CONTROL_COLUMNS)
    missing = [name for name in CONTROL_COLUMNS if name not in present]
    if missing:
        findings.problems.append(
            f"the control database lacks {', '.join(missing)}; run `eventsource-migrate init` or"
            " eventsource.migration.create_schema(pool)"
        )
        return
    findings.problems += await hidden_rows.problems(connection, CONTROL_COLUMNS, hidden_rows.WRITES)
    if elsewhere := await control_place.warning(connection):
        findings.warnings.append(elsewhere)
    for name, columns in CONTROL_COLUMNS.items():
        if lacking := [column for column in columns if column not in present[name]]:
            findings.problems.append(
                f"the control table {name} lacks {', '.join(lacking)}: it was made by an older"
                " version or by hand; run `eventsource-migrate init` or"
                " eventsource.migration.create_schema(pool), which adds them"
            )
