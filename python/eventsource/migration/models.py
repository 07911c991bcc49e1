"""What the control tables hold, as frozen records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsource.dataplane import StreamResult, Violation
from eventsource.declared import as_declared
from eventsource.migration.configuration import MigrationConfig as MigrationConfig
from eventsource.migration.configuration import VerificationLevel as VerificationLevel
from eventsource.migration.protocol import SPOKEN
from eventsource.migration.states import MigrationState, TenantMigrationState, of_journal
from eventsource.tenant_ids import TenantId, restored

#: How a message begins that says what a driver waits for.
WAITING = "waiting: "


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Which place a store is; ``name`` is for messages and is not compared."""

    system: str
    database_oid: int
    schema_oid: int
    table_oid: int
    name: str = field(compare=False)

    def describe(self) -> str:
        """For a message."""
        return (
            f"{self.name} (cluster {self.system}, database {self.database_oid}, table"
            f" {self.table_oid})"
        )

    def to_json(self) -> str:
        """As the control table stores it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class CutoverRequest:
    """A cutover that somebody has asked for, or its rehearsal.

    ``force`` leaves the comparison before it out; ``budget_seconds`` is what the writers may wait.
    """

    id: UUID
    rehearsal: bool
    force: bool
    budget_seconds: float


@dataclass(frozen=True, slots=True)
class Migration:
    """One tenant's move, as the control table knows it.

    Positions are global positions; ``position_offset`` is target minus source, None until the
    block at the target is reserved; ``fence_position`` is the source's head at the decision.
    ``generation`` is that of the route at the start; the flip makes it one higher. The identities
    are those of both stores at the start, None in a migration of an older version, and so is that
    of the control database.
    ``throttle_rate`` is what the copy is held to at the moment to spare the source (events per
    second) and ``throttle_reason`` why; both are None while the source copes with the copy.
    ``copy_rate`` is how fast the bulk copy is (events per second) and ``copied_at`` when it brought
    something last.
    ``parked`` says of a pause, or of one that is asked for, that the next
    :meth:`MigrationCoordinator.move` ends it: a move had no more time, or was not allowed to cut
    over. ``pause_at`` is when a move has no more time: from then on a pause is asked for.
    ``cutover_pause_ms`` is how long the fence was held, ``longest_wait_ms`` the longest that an
    append had waited for it when it was let go. ``returns`` is the migration that is taken back
    by this one, which has no offset then: its events get the next positions of its target.
    ``protocol`` is the version of the protocol that a process has to speak to carry it on.
    """

    id: UUID
    tenant_id: TenantId
    source_store_id: str
    target_store_id: str
    state: MigrationState
    config: MigrationConfig = field(repr=False)
    generation: int
    progress_percentage: float
    events_copied: int
    total_events: int
    error_message: str | None
    error_code: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    paused_from: MigrationState | None
    pause_requested: bool
    parked: bool
    abort_requested: str | None
    cutover_request: UUID | None
    cutover_force: bool
    cutover_outcome: dict[str, Any] | None
    driver_owner: UUID | None
    driver_name: str | None
    driver_alive: bool
    driver_expires_at: datetime | None
    position_offset: int | None
    fence_position: int | None
    cutover_pause_ms: float | None
    throttle_rate: float | None
    throttle_reason: str | None
    copy_rate: float | None
    copied_at: datetime | None
    source_identity: StoreIdentity | None
    target_identity: StoreIdentity | None
    cutover_budget: float | None = None
    rehearsal_request: UUID | None = None
    rehearsal_options: dict[str, Any] | None = None
    rehearsal_outcome: dict[str, Any] | None = None
    longest_wait_ms: float | None = None
    returns: UUID | None = None
    pause_at: datetime | None = None
    protocol: int = SPOKEN
    control_identity: StoreIdentity | None = None

    @property
    def is_counted(self) -> bool:
        """Whether ``total_events`` is known yet: a large tenant is counted while it is copied."""
        return self.total_events > 0 or self.progress_percentage == 100

    @property
    def is_newer(self) -> bool:
        """Whether a newer version carries it on, and this one leaves it alone."""
        return self.protocol > SPOKEN

    @property
    def maps_rows(self) -> bool:
        """Whether each event that it carries has a row in the mapping.

        The positions of a return are drawn at its target: nothing but a row says which they are.
        """
        return self.returns is not None or self.config.position_mapping == "rows"

    @property
    def asked_for(self) -> CutoverRequest | None:
        """What a driver carries out next: a cutover before a rehearsal."""
        budget = self.config.cutover_timeout_seconds
        if self.cutover_request is not None:
            most = self.cutover_budget or budget
            return CutoverRequest(self.cutover_request, False, self.cutover_force, most)
        if self.rehearsal_request is not None:
            options = self.rehearsal_options or {}
            most = options.get("max_pause_seconds") or budget
            return CutoverRequest(self.rehearsal_request, True, bool(options.get("force")), most)
        return None

    @property
    def waits_for_a_place(self) -> bool:
        """Whether nobody drives it yet because its stores have no room for one more."""
        return (self.error_message or "").startswith("waiting for a place")

    @property
    def is_waiting(self) -> bool:
        """Whether ``error_message`` says what a driver waits for."""
        return (self.error_message or "").startswith((WAITING, "waiting for "))

    @property
    def may_resume(self) -> bool:
        """Whether it goes on: it is not over, or it has failed and no abort was asked for since."""
        if self.state is MigrationState.FAILED:
            return self.paused_from is not None and self.abort_requested is None
        return not self.state.is_final

    @classmethod
    def from_row(cls, row: Any) -> Migration:
        """From a row of the ``select_columns`` statement."""
        values = as_declared(cls, row)
        values["tenant_id"] = restored(values["tenant_id"])
        values["state"] = of_journal(values["state"])
        values["config"] = MigrationConfig.from_json(values["config"])
        if values["paused_from"] is not None:
            values["paused_from"] = of_journal(values["paused_from"])
        for side in ("source_identity", "target_identity", "control_identity"):
            if values[side] is not None:
                values[side] = StoreIdentity(**json.loads(values[side]))
        for document in ("cutover_outcome", "rehearsal_options", "rehearsal_outcome"):
            if values[document] is not None:
                values[document] = json.loads(values[document])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class TenantRouting:
    """Where a tenant lives. A higher generation is a newer owner."""

    tenant_id: TenantId
    store_id: str
    migration_state: TenantMigrationState
    target_store_id: str | None
    generation: int
    migration_id: UUID | None
    updated_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Any) -> TenantRouting:
        """From a row of the ``select`` statement."""
        values = as_declared(cls, {each.name: row[each.name] for each in fields(cls)})
        values["tenant_id"] = restored(values["tenant_id"])
        values["migration_state"] = TenantMigrationState(values["migration_state"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class StoredTenant:
    """A tenant with rows in a store.

    Attributes:
        events: its rows there.
        bytes: about what they take there, without indexes.
        route: where it lives, which may be another store: rows that a move left are rows too. None
            when it has no route, and so lives in the default store.
    """

    tenant_id: TenantId
    events: int
    bytes: int
    route: TenantRouting | None


#: Bounds of a PostgreSQL bigint, for ranges that are open on one side.
BEFORE_EVERY_POSITION = -(2**63)


LAST_POSITION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class MappedPosition:
    """Where one event of the tenant stands at the source and at the target."""

    source_position: int
    target_position: int
    event_id: UUID


@dataclass(frozen=True, slots=True)
class TableDifference:
    """A row of a layout's table that is not the same on both sides.

    Attributes:
        table: its name.
        key: the row's key at the source, as JSON; None where the whole table is meant.
        column: the columns that differ; None where the row is on one side only.
        detail: how it differs.
    """

    table: str
    key: str | None
    column: str | None
    detail: str

    def __str__(self) -> str:
        row = "" if self.key is None else f" row {self.key}"
        column = "" if self.column is None else f", column {self.column}"
        return f"{self.table}{row}{column}: {self.detail}"


#: Differences of a kind that a report names; of our own tables more are counted in their streams.
NAMED = 100


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What a comparison found.

    Attributes:
        source_event_count: events of the tenant that were compared in the source.
        target_event_count: events in the target that belong to them.
        streams_verified: streams compared; before a cutover those with events newer than the
            bulk copy.
        streams_consistent: of these, how many are equal.
        streams_estimated: whether one of the two is about right and not exact: more than 30,000
            streams differ, or a source with more streams than that could not count them.
        violations: up to 100 differences: stream, position, event id, field.
        stream_results: the streams that differ, bounded likewise.
        duration_seconds: how long it took, interruptions left out.
        differences: of tables of a layout, in place of violations: up to 100 rows.
        rows_changed_since: of tables of a layout, after the move: rows of the source that are
            others at the target and were written there since, which is no difference.
        rows_gone_since: likewise, rows of the target that the source has no more.
    """

    is_consistent: bool
    level: VerificationLevel
    source_event_count: int
    target_event_count: int
    streams_verified: int
    streams_consistent: int
    violations: Sequence[Violation]
    stream_results: Sequence[StreamResult]
    duration_seconds: float
    differences: Sequence[TableDifference] = ()
    streams_estimated: bool = False
    rows_changed_since: int = 0
    rows_gone_since: int = 0
