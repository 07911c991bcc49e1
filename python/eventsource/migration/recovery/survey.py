"""What all stores say, beside what the control database says: read, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast
from uuid import UUID

from eventsource.migration.journaled import tenants as layout_tenants
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.models import Migration, StoreIdentity, TenantRouting
from eventsource.migration.repositories import control_place, lookups
from eventsource.migration.repositories.ways_back import WaysBack
from eventsource.migration.steps import rescue
from eventsource.migration.tables import fences, guard, identities, progress, tenants, witnesses
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.migration.repositories.ways_back import WayBack
    from eventsource.migration.tables.fences import Fence
    from eventsource.migration.tables.progress import CopyProgress


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that a repair looks at.

    Attributes:
        fences: every fence, with the id of its store.
        progress: every progress row, by the id of its store and its migration.
        barriers: whether the source of a migration has the stored barrier, and every event that a
            mirror has carried since.
        residents: the tenants that have rows in each store.
        identities: which place each store is.
        ways: the ways back of which the control database knows.
        control: which place that is.
        sent_on: the migrations whose source a driver has reminded that it had decided, and of whose
            events nobody has heard since.
        layouts: the stores whose tables are another library's.
        unguarded: those whose guard is not what their fences say.
    """

    fences: Sequence[tuple[str, Fence]]
    progress: Mapping[tuple[str, UUID], CopyProgress]
    barriers: Mapping[UUID, bool]
    residents: Mapping[str, frozenset[TenantId]]
    identities: Mapping[str, StoreIdentity]
    journal: Mapping[UUID, Migration]
    routes: Mapping[TenantId, TenantRouting]
    default_store_id: str
    ways: Mapping[UUID, WayBack] = field(default_factory=dict)
    control: StoreIdentity | None = None
    sent_on: frozenset[UUID] = frozenset()
    layouts: frozenset[str] = frozenset()
    unguarded: frozenset[str] = frozenset()

    def of_tenant(self, tenant_id: TenantId) -> list[tuple[str, Fence]]:
        return [each for each in self.fences if each[1].tenant_id == tenant_id]

    def own(self, migration_id: UUID, role: str) -> tuple[str, Fence] | None:
        """A migration's fence on one side, and the store that has it."""
        for store_id, fence in self.fences:
            if (fence.migration_id, fence.role) == (migration_id, role):
                return store_id, fence
        return None

    def peer_of(self, fence: Fence) -> str | None:
        """The store that a fence names as the other one of its migration."""
        if fence.peer is None:
            return None
        peer = StoreIdentity(**json.loads(fence.peer))
        return next((name for name, here in self.identities.items() if here == peer), None)


async def look(
    tables: Mapping[str, AnyTable],
    migrations: PostgreSQLMigrationRepository,
    routes: PostgreSQLRoutingRepository,
    default_store_id: str,
) -> Survey:
    """Read everything; of two ids of one table the first stands for both.

    Raises:
        StoreSchemaError: a store has no event table.
    """
    found: list[tuple[str, Fence]] = []
    copied: dict[tuple[str, UUID], CopyProgress] = {}
    residents: dict[str, frozenset[TenantId]] = {}
    places: dict[str, StoreIdentity] = {}
    for store_id, table in tables.items():
        here = await identities.of(table)
        if here is None or here in places.values():
            continue
        places[store_id] = here
        found += [(store_id, fence) for fence in await fences.everything(table)]
        for at in await progress.everything(table):
            copied[store_id, at.migration_id] = at
        residents[store_id] = frozenset(await _residents(table))
    survey = Survey(
        found, copied, {}, residents, places,
        {each.id: each for each in await migrations.get_all()},
        {each.tenant_id: each for each in await routes.get_all()},
        default_store_id,
        {each.id: each for each in await WaysBack(migrations.pool).get_all()},
        await control_place.here(migrations.pool),
        frozenset(await lookups.sent_on(migrations.pool)),
        frozenset(name for name in places if tables[name].layout is not None),
        frozenset([name for name in places if not await _is_guarded(tables[name])]),
    )  # fmt: skip
    barriers = {}
    for (store_id, migration_id), at in copied.items():
        source = source_of(survey, migration_id)
        if at.witness is None or source is None or source not in tables:
            continue
        stands = await witnesses.stands(tables[source], migration_id, at.witness)
        arriving = survey.own(migration_id, "target")
        is_own = tables[source].layout is None
        # Reads all of the tenant, and nobody reconciles what is over.
        if is_own and stands and arriving is not None and arriving[1].state == "closed":
            stands = not await rescue.has_lost(tables[source], tables[store_id], at)
        barriers[migration_id] = stands
    return replace(survey, barriers=barriers)


async def _is_guarded(table: AnyTable) -> bool:
    if table.layout is None:
        return await guard.stands(table)
    # It only asks, which a pool does as well.
    return await Guarded(cast("OwnTable", table), table.layout).stands()


async def _residents(table: AnyTable) -> list[TenantId]:
    if table.layout is not None:
        return await layout_tenants.ids(table)
    return await tenants.ids(table.connection, table.name)


def source_of(survey: Survey, migration_id: UUID) -> str | None:
    """The store that a migration leaves: by its fence there, the journal, or its other fence."""
    own = survey.own(migration_id, "source")
    if own is not None:
        return own[0]
    if migration_id in survey.journal:
        return survey.journal[migration_id].source_store_id
    other = survey.own(migration_id, "target")
    return survey.peer_of(other[1]) if other is not None else None


def target_of(survey: Survey, migration_id: UUID) -> str | None:
    """The store that a migration goes to, in the same way."""
    own = survey.own(migration_id, "target")
    if own is not None:
        return own[0]
    if migration_id in survey.journal:
        return survey.journal[migration_id].target_store_id
    other = survey.own(migration_id, "source")
    if other is None:
        return None
    return survey.peer_of(other[1]) or other[1].moved_to


def is_of_way_back(fence: Fence) -> bool:
    """Whether a fence that has decided nothing is one of a way back, on either side."""
    return (
        fence.state in ("standby", "retired")
        or fence.generation < 0
        or (fence.role == "source" and not fence.mirrored)
    )


def is_return(survey: Survey, migration_id: UUID) -> bool:
    """Whether a migration was a way back before."""
    sides = (survey.own(migration_id, "source"), survey.own(migration_id, "target"))
    return any(side is not None and not side[1].mirrored for side in sides)
