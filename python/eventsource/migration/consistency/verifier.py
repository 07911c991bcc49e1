"""Comparing a tenant's events in two stores."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from eventsource.catalog import forms
from eventsource.catalog.two_sides import compare
from eventsource.dataplane import VerifyConfig
from eventsource.migration import event_table
from eventsource.migration.consistency import late, of_a_return, resumable, running, seal
from eventsource.migration.errors import MigrationError, not_proven_yet
from eventsource.migration.event_table import EventTable, of_store
from eventsource.migration.models import NAMED, VerificationLevel, VerificationReport
from eventsource.migration.tables import fences, identities, progress
from eventsource.tenant_ids import TenantId, as_uuid

if TYPE_CHECKING:
    from eventsource.dataplane import KeptSessions
    from eventsource.migration.event_table import AnyTable, Seen
    from eventsource.migration.tables.fences import Fence
    from eventsource.migration.tables.progress import CopyProgress
    from eventsource.stores.postgresql import PostgreSQLEventStore

__all__ = ["ConsistencyVerifier", "VerificationLevel", "VerificationReport"]

#: What is compared: a store, or its table over one connection.
Side: TypeAlias = "PostgreSQLEventStore | AnyTable"


class ConsistencyVerifier:
    """Compares a tenant's events in two stores while both are in use.

    During a migration it compares what its last finished pass promises: every event that pass's
    snapshot shows has to be in the target, and nothing may be in the target that the source lacks.
    Newer events that are still on their way are not a difference.

    Args:
        source_store: where the tenant comes from.
        target_store: where it goes. Either may be the table of a store over one connection, in
            place of the store's pool; a comparison over that cannot go on from a state.
    """

    def __init__(self, source_store: Side, target_store: Side) -> None:
        self._source = source_store
        self._target = target_store

    async def _both(self) -> tuple[AnyTable, AnyTable]:
        return await _table_of(self._source), await _table_of(self._target)

    async def verify_tenant_consistency(
        self,
        tenant_id: TenantId,
        level: VerificationLevel = VerificationLevel.HASH,
        *,
        sample_percentage: float = 100.0,
        state_file: Path | str | None = None,
    ) -> VerificationReport:
        """Compare; the report says what differs, down to stream, position, event id and field.

        Args:
            sample_percentage: share of the streams to compare, 0 < p <= 100.
            state_file: remembers what is compared; the next call with it goes on after that,
                with the snapshot that the first one took. Removed at the end. Not for level COUNT,
                which is one statement on each side.

        Raises:
            MigrationError: ``state_file`` is of another comparison, or was given for a return;
                or the old rows at the source have been cleaned up.
            RetryLaterError: a move between the two has not carried everything once.
        """
        level = VerificationLevel(level)
        config, at = await self._config(tenant_id, level, sample_percentage)
        moved = config.last_source_position is not None
        if at is not None and not moved and at.proven_snapshot is None:
            raise not_proven_yet(at.migration_id)
        if at is not None and at.is_way_back:
            report = await self._compare_a_return(config, level, state_file)
        elif state_file is not None:
            report = await self._resumable(config, level, Path(state_file))
        else:
            report = await self._compare(config, level)
        return await self._with_late_events(report, config)

    async def verify_before_cutover(
        self,
        tenant_id: TenantId,
        level: VerificationLevel,
        sample_percentage: float,
        *,
        seen: Seen | None = None,
        kept: KeptSessions | None = None,
    ) -> VerificationReport:
        """Compare what is not proven yet; at level HASH that is what came after the bulk copy.

        The bulk copy was proven row by row when it was made. Where nobody has touched a row since,
        on either side, its proof stands; otherwise everything is compared. The levels COUNT and
        FULL always compare everything.

        Args:
            seen: both tables, if they were just looked at.
            kept: where the data plane's sessions are kept for a moment.
        """
        level = VerificationLevel(level)
        config, at = await self._config(tenant_id, level, sample_percentage, seen)
        config = replace(config, kept=kept)
        if at is not None:
            config = replace(config, migration_id=at.migration_id)
        if level is VerificationLevel.HASH and at is not None and config.snapshot is not None:
            sealed = await seal.unbroken(*await self._both(), tenant_id, at)
            if sealed is not None:
                config = replace(
                    config,
                    after=sealed.position,
                    began_after=sealed.position,
                    sample_percentage=100.0,
                )
                return await self._compare(config, level, sealed.events)
        return await self._compare(config, level)

    async def _with_late_events(
        self, report: VerificationReport, config: VerifyConfig
    ) -> VerificationReport:
        head = config.last_source_position
        if head is None:
            return report
        found = await late.written_since(
            *await self._both(), config.tenant_id, head, config.columns, NAMED
        )
        if not found:
            return report
        violations = (*found, *report.violations)[:NAMED]
        return replace(report, is_consistent=False, violations=violations)

    async def _compare(
        self, config: VerifyConfig, level: VerificationLevel, proven: int = 0
    ) -> VerificationReport:
        """Compare in one go; ``proven`` events are left out and counted."""
        began = time.monotonic()
        result = await running.run(await config.resolved())
        return VerificationReport(
            is_consistent=not result.violations
            and result.streams_consistent == result.streams_verified,
            level=level,
            source_event_count=proven + result.source_event_count,
            target_event_count=proven + result.target_event_count,
            streams_verified=result.streams_verified,
            streams_consistent=result.streams_consistent,
            streams_estimated=result.streams_estimated,
            violations=tuple(result.violations),
            stream_results=tuple(result.inconsistent_streams),
            duration_seconds=time.monotonic() - began,
        )

    async def _compare_a_return(
        self, config: VerifyConfig, level: VerificationLevel, state_file: Path | str | None
    ) -> VerificationReport:
        if state_file is not None:
            raise MigrationError(
                "a return is compared event by event, which has no state to go on from: leave the"
                " state file out"
            )
        comparison = of_a_return.Comparison(
            *await self._both(), config.tenant_id, config.columns,
            config.last_source_position, config.snapshot, NAMED,
        )  # fmt: skip
        return await comparison.report(level)

    async def _resumable(
        self, config: VerifyConfig, level: VerificationLevel, path: Path
    ) -> VerificationReport:
        if level is VerificationLevel.COUNT:
            raise ValueError("a comparison of level count has no state to go on from")
        assert not isinstance(self._source, EventTable)
        tally = await resumable.compare(self._source.pool, config, path)
        return VerificationReport(
            is_consistent=not tally.violations and not tally.streams_differing,
            level=level,
            source_event_count=tally.source_event_count,
            target_event_count=tally.target_event_count,
            streams_verified=tally.streams_verified,
            streams_consistent=tally.streams_consistent,
            streams_estimated=tally.streams_estimated,
            violations=tuple(tally.violations),
            stream_results=tuple(tally.streams.values()),
            duration_seconds=tally.seconds,
        )

    async def _config(
        self,
        tenant_id: TenantId,
        level: VerificationLevel,
        sample_percentage: float,
        seen: Seen | None = None,
    ) -> tuple[VerifyConfig, CopyProgress | None]:
        """What to compare, and how far a migration of the tenant is."""
        source, target = await self._both()
        at, fence = await _newest(source, target, tenant_id)
        arriving = await fences.of_migration(target, at.migration_id, "target") if at else None
        await identities.check_peers(source, target, fence, arriving)
        moved = fence is not None and fence.state == "moved"
        if at is not None and moved and (when := await fences.cleaned_at(source, at.migration_id)):
            raise MigrationError(
                f"the old rows of tenant {tenant_id} were cleaned up from {when:%Y-%m-%d %H:%M} UTC"
                " on: there is nothing left to compare with. Each was compared in all fields before"
                " it went"
            )
        if seen is None or not seen.is_fresh:
            seen = await event_table.seen(source, target)
        columns = compare(seen.source, seen.target).compared
        config = VerifyConfig(
            source=source.address,
            target=target.address,
            tenant_id=as_uuid(tenant_id),
            columns=columns,
            forms=forms.of_columns(map(seen.source.column, columns)),
            offset=at.position_offset if at else 0,
            level=level.value,
            # After the move the source is complete: all of it has to be there, and what the
            # target holds beyond its head was written by the application since.
            snapshot=at.proven_snapshot if at and not moved else None,
            last_source_position=fence.source_head if fence and moved else None,
            salt=secrets.randbits(64),
            sample_percentage=sample_percentage,
            max_violations=NAMED,
            parallelism=1,
        )
        return config, at


async def _newest(
    source: AnyTable, target: AnyTable, tenant_id: TenantId
) -> tuple[CopyProgress | None, Fence | None]:
    """How far the tenant's newest migration from there to there is, with its fence at the source.

    A way back that sleeps has been written to later than the move that it belongs to.
    """
    found = [
        (at, await fences.of_migration(source, at.migration_id, "source"))
        for at in await progress.all_of_tenant(target, tenant_id)
    ]
    if not found:
        return None, None
    return max(found, key=lambda each: -2 if each[1] is None else each[1].generation)


async def _table_of(side: Side) -> AnyTable:
    return side if isinstance(side, EventTable) else await of_store(side)
