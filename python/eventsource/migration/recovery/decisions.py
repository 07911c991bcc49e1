"""What was decided about a tenant, and which stores and which journal do not say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventsource.migration.recovery import survey as surveys
from eventsource.migration.recovery.judged import Decided, Journal, NameStranded, SendOn, Step
from eventsource.migration.recovery.report import Change, ChangeKind
from eventsource.migration.states import MigrationState

if TYPE_CHECKING:
    from uuid import UUID

    from eventsource.migration.recovery.survey import Survey
    from eventsource.migration.tables.fences import Fence
    from eventsource.tenant_ids import TenantId

_S = MigrationState


def decides(fence: Fence) -> bool:
    """Whether a fence is a witness of a decision."""
    return (fence.role, fence.state) in (("source", "moved"), ("target", "open"))


def decisions_of(survey: Survey, tenant_id: TenantId) -> list[Decided]:
    """Every decision that any store knows of, oldest first."""
    newest = {}
    for _, fence in sorted(survey.of_tenant(tenant_id), key=lambda each: each[1].generation):
        if decides(fence):
            newest[fence.migration_id] = fence.generation
    return [
        Decided(
            tenant_id,
            migration_id,
            generation,
            surveys.source_of(survey, migration_id),
            surveys.target_of(survey, migration_id),
            _is_open(survey, migration_id, generation),
        )
        for migration_id, generation in sorted(newest.items(), key=lambda each: each[1])
    ]


def _is_open(survey: Survey, migration_id: UUID, generation: int) -> bool:
    own = survey.own(migration_id, "target")
    return own is not None and (own[1].state, own[1].generation) == ("open", generation)


def decided_of(survey: Survey, tenant_id: TenantId) -> Decided | None:
    """The newest decision that any store knows of."""
    found = decisions_of(survey, tenant_id)
    return found[-1] if found else None


def returned_by(survey: Survey, decided: Decided) -> UUID | None:
    """The move that a decision has taken back; None when it is no return."""
    if not surveys.is_return(survey, decided.migration_id):
        return None
    for each in decisions_of(survey, decided.tenant_id):
        if (each.source, each.target, each.generation) == (
            decided.target,
            decided.source,
            decided.generation - 1,
        ):
            return each.migration_id
    return None


def send_on(survey: Survey, decided: Decided) -> Iterator[tuple[Step, Change]]:
    """Every other store that would take the tenant's writes sends them to where it lives."""
    assert decided.source is not None
    forgetful = set()
    for store_id in survey.identities:
        rows = [fence for store, fence in survey.of_tenant(decided.tenant_id) if store == store_id]
        if store_id == decided.target:
            continue
        knows = any(f.state == "moved" and f.generation == decided.generation for f in rows)
        newest = max((f.generation for f in rows), default=None)
        takes = any(f.state == "open" and f.generation == newest for f in rows)
        if (store_id == decided.source and not knows) or takes:
            forgetful.add(store_id)
    if decided.migration_id in survey.sent_on and decided.source not in forgetful:
        yield NameStranded(decided, decided.source), Change(
            ChangeKind.FENCE, decided.tenant_id, decided.migration_id,
            f"store {decided.source!r} had gone back to before tenant {decided.tenant_id} moved to"
            f" {decided.target!r}, and a driver has sent it on: what was appended there meanwhile"
            " is named",
        )  # fmt: skip
    for store_id in sorted(forgetful):
        yield SendOn(decided, store_id), Change(
            ChangeKind.FENCE, decided.tenant_id, decided.migration_id,
            f"store {store_id!r} has gone back to before tenant {decided.tenant_id} moved to"
            f" {decided.target!r}: its fence says so again (generation {decided.generation})",
        )  # fmt: skip


def journal_of_decisions(survey: Survey, decided: Decided) -> Iterator[tuple[Step, Change]]:
    """The journal's rows of the newest decision, and of those before it that both stores know."""
    for each in decisions_of(survey, decided.tenant_id):
        if each.migration_id == decided.migration_id:
            continue
        if each.target_is_open and survey.own(each.migration_id, "source") is not None:
            yield from _journal_of(survey, each, _S.MIGRATED)
    yield from _journal_of(
        survey, decided, _S.MIGRATED if decided.target_is_open else _S.CUTOVER_PAUSED
    )


def _journal_of(
    survey: Survey, decided: Decided, due: MigrationState
) -> Iterator[tuple[Step, Change]]:
    assert decided.source is not None
    assert decided.target is not None
    row = survey.journal.get(decided.migration_id)
    if row is not None and row.state in (due, _S.CUTOVER_PAUSED):
        return
    said = "has no row" if row is None else f"says {row.state}"
    what = "is finished" if due is _S.MIGRATED else "is due for a driver, which opens the target"
    yield Journal(
        decided.tenant_id, decided.migration_id, decided.source, decided.target,
        decided.generation - 1, due, row is None, returned_by(survey, decided),
    ), Change(
        ChangeKind.JOURNAL, decided.tenant_id, decided.migration_id,
        f"migration {decided.migration_id} has decided, and the journal {said}: the move {what}",
    )  # fmt: skip
