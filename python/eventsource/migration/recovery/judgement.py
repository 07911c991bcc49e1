"""What follows from a survey: who lives where, and what does not say so yet.

Nothing is asked and nothing is changed here. The highest generation in any store speaks: a decision
is there as the ``moved`` of a source or as the ``open`` of a target, and either of them suffices.
What says less has gone back, whether it is a store or the control database.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.counts import counted
from eventsource.migration.errors import ProtocolVersionError
from eventsource.migration.recovery import kept_ways
from eventsource.migration.recovery import survey as surveys
from eventsource.migration.recovery.decisions import (
    decided_of,
    decides,
    journal_of_decisions,
    send_on,
)
from eventsource.migration.recovery.judged import (
    CleanAgain,
    ControlPlace,
    Decided,
    Guard,
    Home,
    Journal,
    Reconcile,
    Step,
)
from eventsource.migration.recovery.report import Change, ChangeKind
from eventsource.migration.states import MigrationState
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.migration.recovery.survey import Survey

_S = MigrationState


@dataclass(frozen=True, slots=True)
class Judgement:
    """The steps of a repair with their sentences, and what is left to somebody else."""

    steps: list[tuple[Step, Change]]
    notes: list[str]


def judge(survey: Survey) -> Judgement:
    """What a repair changes, tenant by tenant; nothing where everybody agrees."""
    judgement = Judgement([], [])
    newer = {each.tenant_id: each for each in survey.journal.values() if each.is_newer}
    spoken_of = sorted(
        {fence.tenant_id for _, fence in survey.fences} | set(survey.routes), key=str
    )
    for tenant_id in spoken_of:
        if tenant_id in newer:
            judgement.notes.append(_of_newer(newer[tenant_id]))
        else:
            _judge_tenant(survey, tenant_id, judgement)
    judgement.notes.extend(_unknown_to_both(survey))
    judgement.steps.extend(_guards(survey))
    judgement.steps.extend(_control_place(survey))
    judgement.notes.extend(_strangers(survey))
    return judgement


def _judge_tenant(survey: Survey, tenant_id: TenantId, judgement: Judgement) -> None:
    decided = decided_of(survey, tenant_id)
    if decided is not None and (decided.source is None or decided.target is None):
        missing = "it left" if decided.source is None else "it went to"
        judgement.notes.append(
            f"tenant {tenant_id} moved by migration {decided.migration_id} (generation"
            f" {decided.generation}), and no store of this configuration is the one that {missing};"
            " add the store and repair again"
        )
        return
    steps = judgement.steps
    home = _home(survey, tenant_id, decided, judgement)
    if decided is not None:
        steps.extend(send_on(survey, decided))
        steps.extend(journal_of_decisions(survey, decided))
    elif home is not None:
        # First: of what is taken out of a target next, nobody may think that it is at home there.
        steps.append(home)
    undecided = _undecided(survey, tenant_id, decided)
    for migration_id in undecided:
        steps.extend(_of_undecided(survey, migration_id, decided))
        judgement.notes.extend(_lost_target(survey, migration_id))
    if home is not None and decided is not None:
        steps.append(home)
    generation = home[0].generation if home is not None and isinstance(home[0], Home) else None
    steps.extend(kept_ways.of_tenant(survey, tenant_id, decided, undecided, generation))


def _guards(survey: Survey) -> Iterator[tuple[Step, Change]]:
    """After everything that a fence was made again for: that makes its guard again, too."""
    for store_id in sorted(survey.unguarded):
        yield Guard(store_id), Change(
            ChangeKind.GUARD, None, None,
            f"triggers of the guard of store {store_id!r} are gone or switched off (a restore"
            " without them, or `enable trigger all`), so that writers with an old route may get"
            " past it: they are made again; `eventsource-migrate verify` names what was written"
            " meanwhile",
        )  # fmt: skip


def _control_place(survey: Survey) -> Iterator[tuple[Step, Change]]:
    """Last: a repair that does not come to its end is still warned of."""
    began = sorted(
        each.id
        for each in survey.journal.values()
        if each.control_identity not in (None, survey.control) and not each.is_newer
    )
    if survey.control is not None and began:
        yield ControlPlace(), Change(
            ChangeKind.CONTROL, None, None,
            f"the control database is {survey.control.describe()} now, and"
            f" {counted(len(began), 'migration')} began when it was another"
            " place: this one is recorded",
        )  # fmt: skip


def _of_newer(migration: Migration) -> str:
    return (
        f"nothing of tenant {migration.tenant_id} was changed:"
        f" {ProtocolVersionError(migration.id, migration.protocol)}"
    )


def _undecided(survey: Survey, tenant_id: TenantId, decided: Decided | None) -> list[UUID]:
    """The tenant's migrations that were under way when a store, or all, were last written to."""
    over = {
        fence.migration_id
        for _, fence in survey.of_tenant(tenant_id)
        # A way back is kept below all generations, and ends in its own ways.
        if decides(fence) or surveys.is_of_way_back(fence)
    }
    rows = {
        fence.migration_id: fence
        for _, fence in survey.of_tenant(tenant_id)
        if fence.migration_id not in over
    }
    return sorted(rows)


def _of_undecided(
    survey: Survey, migration_id: UUID, decided: Decided | None
) -> Iterator[tuple[Step, Change]]:
    row = survey.journal.get(migration_id)
    own = survey.own(migration_id, "source") or survey.own(migration_id, "target")
    assert own is not None
    fence = own[1]
    source, target = (
        surveys.source_of(survey, migration_id),
        surveys.target_of(survey, migration_id),
    )
    stale = decided is not None and fence.generation < decided.generation
    missing = row is None and source is not None and target is not None
    if missing:
        assert source is not None
        assert target is not None
        state = _S.FAILED if stale else _where_it_stood(survey, migration_id, target)
        then = "it is aborted" if stale else f"it is paused in {state}; resume it or abort it"
        yield Journal(
            fence.tenant_id, migration_id, source, target, fence.generation, state, is_missing=True
        ), Change(
            ChangeKind.JOURNAL, fence.tenant_id, migration_id,
            f"migration {migration_id} was under way, and the journal has no row: {then}",
        )  # fmt: skip
    if (stale and (missing or row is not None)) or (
        row is not None and row.state in (_S.ROLLED_BACK, _S.MIGRATED)
    ):
        yield CleanAgain(migration_id), Change(
            ChangeKind.CLEAN_AGAIN, fence.tenant_id, migration_id,
            f"migration {migration_id} is over, and a store that has gone back holds its fence"
            " again: it is aborted once more, and what only its target holds is kept",
        )  # fmt: skip
        return
    if survey.barriers.get(migration_id) is False:
        is_own = source not in survey.layouts
        kept, then = (
            ("eventsource_rescued_events", "the passes go on") if is_own
            else ("eventsource_rescued_rows", "the copy begins again")
        )  # fmt: skip
        yield Reconcile(migration_id), Change(
            ChangeKind.RECONCILE, fence.tenant_id, migration_id,
            f"the source of migration {migration_id} has gone back: what only the target holds is"
            f" kept in {kept} and taken out of the target, and {then} from what the source holds"
            " now",
        )  # fmt: skip


def _lost_target(survey: Survey, migration_id: UUID) -> Iterator[str]:
    """A migration under way whose target knows nothing of it: that is not for a driver to mend."""
    row = survey.journal.get(migration_id)
    if (
        row is not None
        and _has_begun(survey, row)
        and not _knows_target(survey, row)
        and survey.own(migration_id, "source") is not None
    ):
        yield (
            f"migration {migration_id} is {row.state}, and its target {row.target_store_id!r} knows"
            " nothing of it: it was lost, emptied, or has gone back to before the copy. The source"
            f" has everything: end it with `eventsource-migrate abort {migration_id}"
            " --without-target`, and move the tenant again"
        )


def _unknown_to_both(survey: Survey) -> Iterator[str]:
    """Migrations under way that were aborted after the backup of the control database."""
    for row in sorted(survey.journal.values(), key=lambda each: each.id):
        if (
            not row.is_newer
            and row.source_store_id in survey.identities
            and _has_begun(survey, row)
            and not _knows_target(survey, row)
            and survey.own(row.id, "source") is None
        ):
            yield (
                f"migration {row.id} is {row.state}, and neither {row.source_store_id!r} nor"
                f" {row.target_store_id!r} knows anything of it: it was aborted, and the control"
                " database has gone back to before that. The tenant is where it was: end it with"
                f" `eventsource-migrate abort {row.id}`"
            )


def _has_begun(survey: Survey, row: Migration) -> bool:
    return (
        row.state not in (_S.PENDING, _S.FAILED)
        and not row.state.is_final
        and row.target_store_id in survey.identities
    )


def _knows_target(survey: Survey, row: Migration) -> bool:
    return (
        survey.own(row.id, "target") is not None or (row.target_store_id, row.id) in survey.progress
    )


def _where_it_stood(survey: Survey, migration_id: UUID, target: str) -> MigrationState:
    at = survey.progress.get((target, migration_id))
    if at is None or at.snapshot is None:
        return _S.PENDING
    return _S.BULK_COPY if at.proven_snapshot is None else _S.DUAL_WRITE


def _home(
    survey: Survey, tenant_id: TenantId, decided: Decided | None, judgement: Judgement
) -> tuple[Step, Change] | None:
    route = survey.routes.get(tenant_id)
    if decided is None:
        return _home_without_decision(survey, tenant_id, judgement)
    assert decided.target is not None
    if route is not None and (
        route.store_id == decided.target and route.generation >= decided.generation
    ):
        return None
    said = "has no route" if route is None else f"is routed to {route.store_id!r}"
    generation: int = decided.generation
    made_by: UUID | None = decided.migration_id
    if route is not None and route.generation >= generation:
        # Routers keep the highest that they have seen: a lower one would not reach them. The store
        # does not know this generation, so they do not ask it.
        generation, made_by = route.generation + 1, None
    return Home(tenant_id, decided.target, generation, made_by), Change(
        ChangeKind.ROUTE, tenant_id, decided.migration_id,
        f"tenant {tenant_id} {said} and lives in {decided.target!r} since generation"
        f" {decided.generation}",
    )  # fmt: skip


def _home_without_decision(
    survey: Survey, tenant_id: TenantId, judgement: Judgement
) -> tuple[Step, Change] | None:
    """A route that a move has made, of which no store knows any more."""
    route = survey.routes.get(tenant_id)
    made = survey.journal.get(route.migration_id) if route and route.migration_id else None
    if route is None or made is None or route.store_id != made.target_store_id:
        return _home_of_departing(survey, tenant_id)
    if not {route.store_id, made.source_store_id} <= set(survey.identities):
        return None  # of another kind, or of another configuration: nobody has looked
    before = made.source_store_id
    forgotten = survey.own(made.id, "source")
    if forgotten is not None:
        return Home(tenant_id, before, route.generation + 1, None), Change(
            ChangeKind.ROUTE, tenant_id, route.migration_id,
            f"tenant {tenant_id} is routed to {route.store_id!r}, and both stores have gone back to"
            f" before that was decided: it lives in {before!r}",
        )  # fmt: skip
    if tenant_id in survey.residents.get(route.store_id, ()):
        judgement.notes.append(
            f"tenant {tenant_id} is routed to {route.store_id!r} (generation {route.generation}),"
            " and no store has a fence of that move; its rows are in "
            + ", ".join(sorted(map(repr, _stores_of(survey, tenant_id))))
            + ". Nothing was changed: find out which of them is right"
        )
        return None
    return Home(tenant_id, before, route.generation + 1, None), Change(
        ChangeKind.ROUTE, tenant_id, route.migration_id,
        f"tenant {tenant_id} is routed to {route.store_id!r}, which does not know it, and"
        f" {before!r} has not let it go: both have gone back to before the move, and it lives in"
        f" {before!r}",
    )  # fmt: skip


def _home_of_departing(survey: Survey, tenant_id: TenantId) -> tuple[Step, Change] | None:
    """A tenant that leaves a store of which no route knows lives there."""
    if tenant_id in survey.routes:
        return None
    for store_id, fence in survey.of_tenant(tenant_id):
        if surveys.is_of_way_back(fence) or fence.role != "source":
            continue
        if store_id != survey.default_store_id:
            return Home(tenant_id, store_id, fence.generation, None), Change(
                ChangeKind.ROUTE, tenant_id, fence.migration_id,
                f"tenant {tenant_id} has no route, and is leaving {store_id!r}: it lives there",
            )  # fmt: skip
    return None


def _stores_of(survey: Survey, tenant_id: TenantId) -> list[str]:
    return [name for name, residents in survey.residents.items() if tenant_id in residents]


def _strangers(survey: Survey) -> Iterator[str]:
    """Rows of tenants in a store of which nobody says that they are there."""
    spoken = {(store_id, fence.tenant_id) for store_id, fence in survey.fences}
    for store_id, residents in survey.residents.items():
        found = []
        for tenant_id in sorted(residents, key=str):
            route = survey.routes.get(tenant_id)
            home = route.store_id if route is not None else survey.default_store_id
            if home == store_id or (store_id, tenant_id) in spoken:
                continue
            # Its fence is about to say again that this one has left.
            decided = decided_of(survey, tenant_id)
            if decided is None or decided.source != store_id:
                found.append(tenant_id)
        if found:
            named = ", ".join(map(str, found[:5])) + (", …" if len(found) > 5 else "")
            yield (
                f"store {store_id!r} holds rows of {counted(len(found), 'tenant')} that no fence"
                f" there speaks of, and no route leads there ({named}); nothing was changed:"
                " if they live there, set their routes"
            )


def drivers_at_work(journal: dict[UUID, Migration]) -> list[Migration]:
    """The migrations that a driver has in hand now."""
    return [each for each in journal.values() if each.driver_alive]
