"""The whole move of one tenant in this process: copy, catch up, verify, cut over.

Every step is durable in the databases. The next journey goes on where a cancelled one stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace
from functools import partial

from eventsource.cli import prospects, views
from eventsource.cli.display import Display
from eventsource.cli.output import amount, duration
from eventsource.cli.tenants import examine
from eventsource.cli.under_way import rehearsed
from eventsource.cli.waiting import beside
from eventsource.cli.workspace import Workspace, patiently
from eventsource.counts import counted
from eventsource.migration import (
    ConsistencyError,
    ConsistencyVerifier,
    InvalidStateTransitionError,
    Migration,
    MigrationAlreadyExistsError,
    MigrationError,
    MigrationState,
    PreflightError,
    RoutingError,
    VerificationReport,
    failures,
)
from eventsource.migration.consistency.wording import what_differs
from eventsource.migration.journaled import verification
from eventsource.tenant_ids import TenantId

#: How often the journal is read (seconds).
POLL_SECONDS = 0.2

_S = MigrationState


@dataclass(slots=True)
class Journey:
    """One tenant on its way; ``migration`` is None until there is a durable one.

    Attributes:
        max_pause: what writers may wait at the cutover (seconds); None is as configured.
        may_be_empty: whether a tenant without events is what is meant.
        keep_way_back: for how long (seconds) somebody wants to be able to return; None is as
            configured. A move that could keep no way back is then refused.
        copied: events of the bulk copy since this journey began.
        copy_seconds: how long that took.
        report: of the verification, once it was made.
    """

    at: Workspace
    tenant_id: TenantId
    source_id: str
    target_id: str
    display: Display
    migration: Migration | None = None
    may_be_empty: bool = False
    keep_way_back: float | None = None
    max_pause: float | None = None
    copied: int = 0
    copy_seconds: float = 0.0
    report: VerificationReport | None = None
    #: What an earlier journey had copied, and when this one took it up; None when it began itself.
    _taken_up: tuple[int, float] | None = None

    @property
    def events_per_second(self) -> float | None:
        """The average of the copy, or None when this journey saw none."""
        return self.copied / self.copy_seconds if self.copied and self.copy_seconds else None

    @property
    def unit(self) -> str:
        """What is counted: events, or rows of all tables of a layout."""
        return self.at.unit(self._known)

    @property
    def _known(self) -> Migration:
        assert self.migration is not None
        return self.migration

    async def begin(self) -> None:
        """Start the migration, or go on with the one that is under way to the same target.

        Raises:
            PreflightError: refused; nothing was changed.
            MigrationAlreadyExistsError: the tenant is on its way to another store.
        """
        active = await self._active()
        if active is None:
            try:
                await self._start()
                return
            except (MigrationAlreadyExistsError, PreflightError, RoutingError):
                # Another journey of the tenant may have begun since.
                active = await self._active()
                if active is None:
                    raise
        if (active.source_store_id, active.target_store_id) != (self.source_id, self.target_id):
            raise MigrationAlreadyExistsError(self.tenant_id, active.id)
        await self.at.reach_for_move(self.source_id, self.target_id)
        self.at.about = active
        await self._refuse_without_way_back()
        self.migration = self.at.about = await self.at.coordinator.resume_migration(
            active.id, operator=self.at.operator
        )
        self._taken_up = active.events_copied, time.monotonic()
        self.display.say("resume", f"migration {active.id} goes on, it was {active.state}")

    async def _active(self) -> Migration | None:
        found = await self.at.coordinator.get_migrations_by_tenant(self.tenant_id)
        return next((each for each in found if not each.state.is_final), None)

    async def _start(self) -> None:
        await self.at.reach_for_move(self.source_id, self.target_id)
        source, target = self.at.stores[self.source_id], self.at.stores[self.target_id]
        findings = await examine(
            self.at, self.tenant_id, self.source_id, self.target_id,
            may_be_empty=self.may_be_empty,
        )  # fmt: skip
        await self._refuse_without_way_back()
        for warning in findings.warnings:
            self.at.out.warn(warning)
        self.migration = self.at.about = await self.at.coordinator.start_migration(
            self.tenant_id,
            source,
            target,
            self.source_id,
            self.target_id,
            operator=self.at.operator,
        )
        self.display.say("start", f"migration {self.migration.id}")

    async def _refuse_without_way_back(self) -> None:
        """Before anything is copied: the cutover would be refused for it, hours later."""
        if self.keep_way_back:
            source, target = self.at.stores[self.source_id], self.at.stores[self.target_id]
            config = replace(self.at.settings.migration, keep_way_back=self.keep_way_back)
            prospects.refuse_without(
                await self.at.coordinator.way_back_prospect(source, target, config)
            )

    async def copy(self) -> None:
        """Watch the bulk copy to its end.

        Raises:
            MigrationError: it failed, or somebody paused or aborted it; typed as far as known.
        """
        copying = self._taken_up is None
        while (migration := await self._look()).state not in (_S.DUAL_WRITE, _S.MIGRATED):
            copying = copying or migration.state is _S.BULK_COPY
            self._show_copy(migration)
            await asyncio.sleep(POLL_SECONDS)
        self.display.settle()
        if copying:
            await self._count_copied(migration)
        if (rate := self.events_per_second) is not None:
            spent = f"in {duration(self.copy_seconds)}, {amount(rate)}/s"
            self.display.say("copied", f"{counted(self.copied, self.unit)} {spent}, proven")

    async def _count_copied(self, migration: Migration) -> None:
        """How much was copied in what time; a small tenant is copied between two looks."""
        if self._taken_up is not None:
            before, since = self._taken_up
            self.copied = max(0, migration.events_copied - before)
            self.copy_seconds = time.monotonic() - since
            return
        entries = await patiently(
            self.at, partial(self.at.audit_log.get_by_migration, self._known.id)
        )
        first = {entry.event_type: entry for entry in reversed(entries)}
        began, ended = first[f"state:{_S.BULK_COPY}"], first[f"state:{_S.DUAL_WRITE}"]
        self.copied = ended.details["events"]
        self.copy_seconds = (ended.created_at - began.created_at).total_seconds()

    def _show_copy(self, migration: Migration) -> None:
        if migration.state is _S.PENDING:
            self.display.waiting("prepare", migration.error_message or "fences and first snapshot")
            return
        if migration.state is _S.CUTOVER_PAUSED:
            self.display.waiting("recover", "a cutover was under way: asking the fence")
            return
        done, total = migration.events_copied, migration.total_events
        label = "copy" if migration.throttle_rate is None else "slowed"
        remark = migration.error_message or views.pace(migration) or ""
        if migration.is_counted:
            self.display.progress(label, done, total, remark, self.unit)
        else:
            self.display.waiting(label, f"{views.share(migration, self.unit)}  {remark}".rstrip())

    async def catch_up(self) -> int:
        """Wait until the lag is small enough for a cutover; returns it (events)."""
        while True:
            migration = await self._look()
            if migration.state is not _S.DUAL_WRITE:
                return 0
            lag = await patiently(self.at, partial(self.at.coordinator.get_sync_lag, migration.id))
            if lag <= migration.config.sync_lag_threshold:
                self.display.settle()
                self.display.say("lag", counted(lag, self.unit))
                return lag
            self.display.waiting("lag", migration.error_message or counted(lag, self.unit))
            await asyncio.sleep(POLL_SECONDS)

    async def verify(self) -> VerificationReport:
        """Compare both stores as the migration's configuration says, and put it on record.

        Raises:
            ConsistencyError: they differ.
        """
        config = self._known.config
        level = config.verification_level
        self.display.waiting("verify", f"comparing both stores, level {level}")
        source, target = self.at.stores[self.source_id], self.at.stores[self.target_id]
        if source.layout is not None:
            report = await verification.verify(source, target, self.tenant_id, level)
        else:
            report = await ConsistencyVerifier(source, target).verify_tenant_consistency(
                self.tenant_id, level, sample_percentage=config.sample_percentage
            )
        self.report = report
        self.display.settle()
        found = {
            "level": level,
            "consistent": report.is_consistent,
            "events": report.source_event_count,
            "streams": report.streams_verified,
            "violations": len(report.violations) + len(report.differences),
        }
        await self.at.migrations.audit(self._known.id, "verified", found, self.at.operator)
        of_layout = source.layout is not None
        raise_if_inconsistent(report, of_layout)
        self.display.say("verified", summary_of(report, of_layout))
        return report

    async def rehearse(self) -> None:
        """Do everything of the cutover but the decision. It was verified before.

        Raises:
            CutoverTimeoutError, ConsistencyError: the cutover would have failed.
        """
        self.display.waiting("rehearse", "asking for the fence")
        asked = self.at.coordinator.rehearse_cutover(
            self._known.id, force=True, operator=self.at.operator, max_pause_seconds=self.max_pause
        )
        found = await beside(
            self.at, self._known.id, asked, partial(self.display.waiting, "rehearse")
        )
        self.display.settle()
        self.display.say("rehearse", rehearsed(found, self.unit))

    async def cut_over(self) -> Migration:
        """Move the tenant. It was verified before, so only the last pass is proven under the fence.

        Raises:
            CutoverTimeoutError, ConsistencyError: nothing was flipped, writers go on.
        """
        self.display.waiting("cutover", "asking for the fence")
        asked = self.at.coordinator.initiate_cutover(
            self._known.id, compared=self.report is not None, operator=self.at.operator,
            max_pause_seconds=self.max_pause,
        )  # fmt: skip
        migration = await beside(
            self.at, self._known.id, asked, partial(self.display.waiting, "cutover")
        )
        self.migration = self.at.about = migration
        await self.at.follow_routes()
        self.display.settle()
        self.display.say("cutover", views.moved(migration))
        return migration

    async def _look(self) -> Migration:
        """The journal's row now; keeps a driver at work, raises when the journey is over."""
        migration = self.migration = self.at.about = await patiently(
            self.at, partial(self.at.coordinator.get_migration, self._known.id)
        )
        match migration.state:
            case _S.FAILED:
                raise failures.of_failed(migration)
            case _S.ROLLED_BACK:
                raise MigrationError(
                    f"migration {migration.id} was aborted meanwhile: {migration.error_message}"
                )
            case _S.PAUSED:
                raise MigrationError(
                    f"migration {migration.id} was paused meanwhile; "
                    f"`eventsource-migrate resume {migration.id}` or this command goes on"
                )
            case _S.MIGRATED:
                return migration
        if not migration.driver_alive:
            # Its driver may have been another process that is gone. If the migration ended
            # meanwhile, the next look shows it.
            with contextlib.suppress(InvalidStateTransitionError):
                await patiently(
                    self.at, partial(self.at.coordinator.resume_migration, migration.id)
                )
        return migration


def raise_if_inconsistent(report: VerificationReport, of_layout: bool = False) -> None:
    """Raise ConsistencyError that names the first differences."""
    if report.is_consistent:
        return
    raise ConsistencyError(
        f"source and target differ ({summary_of(report, of_layout)}):"
        f" {what_differs(report, 3)}; nothing was flipped",
        report,
    )


def summary_of(report: VerificationReport, of_layout: bool = False) -> str:
    """One line about a comparison; of a layout the rows of all tables are counted."""
    said = [counted(report.source_event_count, "row" if of_layout else "event")]
    # Of tables of a layout nobody counts streams, and a tenant without events has none.
    if of_them := report.streams_verified:
        about = "about " if report.streams_estimated else ""
        equal = f"{about}{amount(report.streams_consistent)} of {counted(of_them, 'stream')}"
        said.append(f"{equal} equal")
    if since := report.rows_changed_since:
        said.append(f"{counted(since, 'row')} written at the target since left out")
    if gone := report.rows_gone_since:
        said.append(f"{counted(gone, 'row')} gone from the source since left out")
    said += [f"level {report.level}", duration(report.duration_seconds)]
    return ", ".join(said)
