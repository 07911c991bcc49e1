"""What the stores say of ways back, and what the control database does not.

Nothing is asked and nothing is changed here. A way back stands when the tenant's home and the store
that it has left both have its fence, and the latter knows how far it is. What is left of one that
does not stand, or that has ended, is taken away: otherwise it would keep the tenant from every
other move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.recovery import survey as surveys
from eventsource.migration.recovery.decisions import decides, decisions_of, returned_by
from eventsource.migration.recovery.judged import Decided, KeptWay, ReconcileWay, Step
from eventsource.migration.recovery.report import Change, ChangeKind
from eventsource.migration.tables.standby import ASLEEP, STANDBY

if TYPE_CHECKING:
    from eventsource.migration.recovery.survey import Survey
    from eventsource.migration.tables.fences import Fence
    from eventsource.tenant_ids import TenantId

_HALF = "one of the stores knows nothing of it any more"
_ENDED = "it had ended, and a store has it again"
_OVERTAKEN = "the tenant's route has had a later generation"
_EARLIER = "the tenant has moved on"
_NOWHERE = "no store has anything of it any more"


@dataclass(frozen=True, slots=True)
class _Way:
    """Both sides of one: ``home`` where the tenant lives, ``old`` where it could return to."""

    way_id: UUID
    home: tuple[str, Fence] | None
    old: tuple[str, Fence] | None

    @property
    def leaves_something(self) -> bool:
        """Whether a fence of it is still in the way of something."""
        return (self.home is not None and self.home[1].state == "open") or (
            self.old is not None and self.old[1].state == STANDBY
        )


def of_tenant(
    survey: Survey,
    tenant_id: TenantId,
    decided: Decided | None,
    undecided: Sequence[UUID],
    generation: int | None,
) -> Iterator[tuple[Step, Change]]:
    """The rows that its ways back need; nothing for those that a return has in hand.

    Args:
        generation: the one that its route is about to get; None leaves it as it is.
    """
    for way_id in _ids(survey, tenant_id):
        way = _Way(way_id, survey.own(way_id, "source"), survey.own(way_id, "target"))
        journal = survey.journal.get(way_id)
        if journal is not None and not journal.state.is_final:
            continue
        step = _judge(survey, way, decided, undecided, generation)
        if step is not None:
            yield step, Change(ChangeKind.WAY_BACK, tenant_id, step.move, _sentence(survey, step))
        yield from _reconciled(survey, way, decided)


def _reconciled(
    survey: Survey, way: _Way, decided: Decided | None
) -> Iterator[tuple[Step, Change]]:
    """Home lacks the barrier that the old store names: it lacks events that were carried, too."""
    if (
        decided is None
        or not decided.target_is_open
        or way.home is None
        or way.old is None
        or (way.home[0], way.old[0]) != (decided.target, decided.source)
        or (way.home[1].state, way.old[1].state) != ("open", STANDBY)
        or survey.barriers.get(way.way_id) is not False
    ):
        return
    home, old = way.home[0], way.old[0]
    yield ReconcileWay(decided.tenant_id, way.way_id, decided.migration_id, home, old), Change(
        ChangeKind.RECONCILE, decided.tenant_id, decided.migration_id,
        f"store {home!r}, where tenant {decided.tenant_id} lives, has gone back, and {old!r}, to"
        " which it may return, may have events that it has lost: those that have a place go home,"
        " to their positions, and all of them are kept in eventsource_rescued_events",
    )  # fmt: skip


def _ids(survey: Survey, tenant_id: TenantId) -> list[UUID]:
    fences = {
        fence.migration_id
        for _, fence in survey.of_tenant(tenant_id)
        if (surveys.is_of_way_back(fence) or not fence.mirrored)
    }
    return sorted(
        fences | {each.id for each in survey.ways.values() if each.tenant_id == tenant_id}
    )


def _judge(
    survey: Survey,
    way: _Way,
    decided: Decided | None,
    undecided: Sequence[UUID],
    generation: int | None,
) -> KeptWay | None:
    row = survey.ways.get(way.way_id)
    said = row.state if row is not None else None
    made = _decision_of(survey, way)
    if made is not None:
        move = returned_by(survey, made)
        if move is None or said == "returning" or not _is_known(survey, made.tenant_id, move):
            return None
        return _row(way, made.tenant_id, move, made.generation - 1, "returning", None)
    if not way.leaves_something:
        return _of_nothing(survey, way)
    found = _move_of(survey, way, decided, undecided)
    if found is None:
        return None
    move, tenant_id = found, _tenant(way)
    if decided is None or move != decided.migration_id:
        if move in undecided:
            # Made ready again with the cutover; an abort takes it away.
            state, reason = "preparing", None
            if said in ("preparing", "standby", "closing"):
                return None
        else:
            state, reason = "closing", _EARLIER
            if said == "closing":
                return None
        return _row(way, tenant_id, move, 0, state, reason)
    reason = _why_not(survey, way, decided, generation)
    if said in ("closed", "refused"):
        reason = _ENDED
    if said == "closing" or (said in ("standby", "returning") and reason is None):
        return None
    state = "standby" if reason is None else "closing"
    return _row(way, tenant_id, move, decided.generation, state, reason)


def _why_not(survey: Survey, way: _Way, decided: Decided, generation: int | None) -> str | None:
    """Why nobody can return by it; None when somebody can, also after the target is opened."""
    if not decided.target_is_open and way.way_id in survey.ways:
        # Who opens it puts back what is there.
        return None
    if way.home is None or way.old is None:
        return _HALF
    (home, leaving), (old, standing) = way.home, way.old
    at = survey.progress.get((old, way.way_id))
    if (
        (home, old) != (decided.target, decided.source)
        or (leaving.state, standing.state) != ("open", STANDBY)
        or leaving.generation != (decided.generation if decided.target_is_open else ASLEEP)
        or at is None
        or at.witness is None
        or at.proven_snapshot is None
    ):
        return _HALF
    route = survey.routes.get(decided.tenant_id)
    if generation is None:
        generation = route.generation if route is not None else decided.generation
    return None if generation == decided.generation else _OVERTAKEN


def _of_nothing(survey: Survey, way: _Way) -> KeptWay | None:
    """One that only the control database knows: it has ended since the backup."""
    row = survey.ways.get(way.way_id)
    if row is None or row.state not in ("preparing", "standby"):
        return None
    moves = {each.migration_id for each in decisions_of(survey, row.tenant_id)}
    both = {row.source_store_id, row.target_store_id}
    if row.migration_id not in moves or not both <= set(survey.identities):
        return None
    return KeptWay(row.tenant_id, way.way_id, row.migration_id, row.generation, "closing", _NOWHERE)


def _decision_of(survey: Survey, way: _Way) -> Decided | None:
    """The decision of its return."""
    sides = [side[1] for side in (way.home, way.old) if side is not None]
    if not any(decides(fence) for fence in sides):
        return None
    found = decisions_of(survey, sides[0].tenant_id)
    return next(each for each in found if each.migration_id == way.way_id)


def _move_of(
    survey: Survey, way: _Way, decided: Decided | None, undecided: Sequence[UUID]
) -> UUID | None:
    """The migration whose way back it is."""
    row = survey.ways.get(way.way_id)
    if row is not None:
        return row.migration_id
    home = way.home[0] if way.home is not None else None
    old = way.old[0] if way.old is not None else None
    # While a move is under way, its way back is asleep on both sides.
    for migration_id in undecided:
        ends = surveys.source_of(survey, migration_id), surveys.target_of(survey, migration_id)
        if _is_between(home, old, ends):
            return migration_id
    if decided is None:
        return None
    for each in reversed(decisions_of(survey, decided.tenant_id)):
        if _is_between(home, old, (each.source, each.target)) and _is_known(
            survey, each.tenant_id, each.migration_id
        ):
            return each.migration_id
    return None


def _is_between(home: str | None, old: str | None, ends: tuple[str | None, str | None]) -> bool:
    return home in (None, ends[1]) and old in (None, ends[0])


def _is_known(survey: Survey, tenant_id: TenantId, migration_id: UUID) -> bool:
    """Whether the journal has its row, or gets it in this repair."""
    if migration_id in survey.journal:
        return True
    decisions = decisions_of(survey, tenant_id)
    return any(
        each.migration_id == migration_id
        and (each == decisions[-1] or (each.target_is_open and survey.own(migration_id, "source")))
        for each in decisions
    )


def _tenant(way: _Way) -> TenantId:
    side = way.home or way.old
    assert side is not None
    return side[1].tenant_id


def _row(
    way: _Way, tenant_id: TenantId, move: UUID, generation: int, state: str, reason: str | None
) -> KeptWay:
    return KeptWay(
        tenant_id, way.way_id, move, generation, state, reason,
        way.home[0] if way.home is not None else None,
        way.old[0] if way.old is not None else None,
        way.old is not None and way.old[1].state == STANDBY and way.old[1].generation != ASLEEP,
    )  # fmt: skip


def _sentence(survey: Survey, step: KeptWay) -> str:
    row = survey.ways.get(step.way_id)
    said = "does not know" if row is None else f"says {row.state}"
    what = {
        "standby": "the stores keep it: it is armed again",
        "preparing": "it was being made ready: that is done again with the cutover",
        "returning": "the tenant has returned by it",
        "closing": f"{step.reason}: it is closed by `eventsource-migrate way-back close"
        f" {step.move}`, or by `eventsource-migrate work`",
    }[step.state]
    return f"of the way back of migration {step.move} the control database {said}: {what}"
