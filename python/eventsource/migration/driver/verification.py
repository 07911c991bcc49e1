"""The comparison of both stores that a cutover asks for, before its fence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource.migration.consistency import ConsistencyVerifier
from eventsource.migration.consistency.wording import what_differs
from eventsource.migration.errors import ConsistencyError
from eventsource.migration.models import VerificationLevel

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import DriverConnections
    from eventsource.migration.event_table import Seen
    from eventsource.migration.models import Migration


async def verify(connections: DriverConnections, migration: Migration, seen: Seen) -> None:
    """Compare as the migration's configuration says; ConsistencyError where they differ."""
    level = migration.config.verification_level
    if migration.returns is not None:
        # Positions are others there; every row that is not older was compared by its pass.
        level = VerificationLevel.COUNT
    verifier = ConsistencyVerifier(connections.source, connections.target)
    report = await verifier.verify_before_cutover(
        migration.tenant_id,
        level=level,
        sample_percentage=migration.config.sample_percentage,
        seen=seen,
        kept=connections.endpoints.kept_by_the_data_plane,
    )
    if not report.is_consistent:
        raise ConsistencyError(f"source and target differ: {what_differs(report)}", report)
