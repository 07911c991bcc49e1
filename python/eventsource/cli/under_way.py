"""What commands say of a move that has begun, and of what was rehearsed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eventsource.cli import next_steps, prospects, views
from eventsource.cli.exits import ExitCode
from eventsource.cli.output import described, grid, local
from eventsource.counts import counted
from eventsource.migration.rehearsals import Rehearsal, foretold
from eventsource.migration.repositories import control_place

if TYPE_CHECKING:
    from eventsource.cli.workspace import Workspace
    from eventsource.migration import Migration
    from eventsource.tenant_ids import TenantId

#: How many of the last rehearsals have a row of their own.
SHOWN = 5


async def find(
    at: Workspace, tenant_id: TenantId, source_id: str, target_id: str
) -> Migration | None:
    """The tenant's migration between these stores that is not over, if there is one."""
    found = await at.coordinator.get_migrations_by_tenant(tenant_id)
    return next((each for each in found if _is_of(each, source_id, target_id)
                 and not each.state.is_final), None)  # fmt: skip


async def show(at: Workspace, migration: Migration) -> ExitCode:
    """What a cutover of it would take, and what would be left of it: it was planned before."""
    await at.reach_for_move(migration.source_store_id, migration.target_store_id)
    rehearsals = await at.coordinator.rehearsals(migration.id)
    prospect = await at.coordinator.way_back_prospect(
        at.stores[migration.source_store_id], at.stores[migration.target_store_id], migration.config
    )
    steps = next_steps.of(migration)
    if elsewhere := await control_place.warning_of(at.control, migration):
        at.out.warn(elsewhere)
    at.out.answer(
        {
            "outcome": "under_way",
            "migration": described(migration),
            "rehearsals": rehearsals,
            "way_back": prospect,
            "next": steps,
        },
        grid(
            ("migration", migration.id),
            ("tenant", migration.tenant_id),
            ("move", f"{migration.source_store_id!r} to {migration.target_store_id!r}"),
            ("state", f"{migration.state}: it has begun, `status` says how far it is"),
            ("carried", views.share(migration, at.unit(migration))),
            ("cutover", prediction(rehearsals) or "not rehearsed: `cutover --rehearse` says more"),
            *rows(rehearsals),
            *prospects.rows(prospect),
            *((step.what, step.command) for step in steps),
        ),
    )
    return ExitCode.DONE


async def earlier_rehearsals(
    at: Workspace, tenant_id: TenantId, source_id: str, target_id: str
) -> list[Rehearsal]:
    """Rehearsals of the tenant's earlier migrations between these stores, oldest first."""
    found: list[Rehearsal] = []
    for each in await at.coordinator.get_migrations_by_tenant(tenant_id):
        if _is_of(each, source_id, target_id):
            found += await at.coordinator.rehearsals(each.id)
    return found


def _is_of(migration: Migration, source_id: str, target_id: str) -> bool:
    return (migration.source_store_id, migration.target_store_id) == (source_id, target_id)


def prediction(rehearsals: Sequence[Rehearsal]) -> str | None:
    """What a cutover would take, from what was rehearsed; None where nothing was."""
    return foretold(rehearsals)


def rows(rehearsals: Sequence[Rehearsal]) -> list[tuple[str, object]]:
    """One row for each of the last ones."""
    return [("rehearsed", f"{local(each.at)}  {_outcome(each)}") for each in rehearsals[-SHOWN:]]


def _outcome(found: Rehearsal) -> str:
    by = f", by {found.operator}" if found.operator else ""
    if not found.fits:
        return f"did not fit: {found.message}{by}"
    longest = found.longest_wait_ms
    waited = "" if longest is None else f", longest wait of a writer {longest:.1f} ms"
    held = f"fence held {found.pause_ms or 0:.1f} ms of {found.budget_seconds or 0:g} s"
    return f"{held}{waited}{by}"


def rehearsed(found: Rehearsal, unit: str = "event") -> str:
    """What a rehearsal that fitted has shown, in a sentence."""
    longest = found.longest_wait_ms
    waited = "" if longest is None else f" a writer waited at most {longest:.1f} ms;"
    carried = counted(found.rows or 0, f"{unit} was", f"{unit}s were")
    return (
        f"the fence was held {found.pause_ms or 0:.1f} ms of {found.budget_seconds or 0:g} s,"
        f" {found.lock_wait_ms or 0:.1f} ms of that for appends in flight;{waited}"
        f" {carried} carried; nothing was decided"
    )
