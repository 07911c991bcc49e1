"""Whether a tenant may begin to move: asked before anything is written anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration import preflight
from eventsource.migration.errors import MigrationAlreadyExistsError, RoutingError
from eventsource.migration.links import Endpoints, address_of
from eventsource.migration.preflight import Findings

if TYPE_CHECKING:
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore

#: A refusal comes within this time (seconds).
PREFLIGHT_SECONDS = 10.0


async def generation_of(
    migrations: PostgreSQLMigrationRepository,
    routes: PostgreSQLRoutingRepository,
    tenant_id: UUID,
    source_store_id: str,
    *,
    default_store_id: str,
) -> int:
    """The generation of the tenant's route, which has to be free and name the source.

    Raises:
        PreflightError: the control database cannot be used.
        MigrationAlreadyExistsError: the tenant has an active migration.
        RoutingError: the tenant lives in another store.
    """
    findings = Findings()
    with findings.unusable("the control database"):
        await preflight.check_control(migrations.pool, findings)
        if not findings.problems:
            for migration in await migrations.get_by_tenant(tenant_id):
                if not migration.state.is_final:
                    raise MigrationAlreadyExistsError(tenant_id, migration.id)
            routing = await routes.get_routing(tenant_id)
    findings.raise_if_refused()
    home = routing.store_id if routing else default_store_id
    if home != source_store_id:
        raise RoutingError(
            f"tenant {tenant_id} lives in store {home!r}, not in {source_store_id!r};"
            " start the migration from the store that its route names"
        )
    return routing.generation if routing else 0


async def examine(
    migrations: PostgreSQLMigrationRepository,
    tenant_id: UUID,
    source: PostgreSQLEventStore,
    target: PostgreSQLEventStore,
) -> Findings:
    """Everything that would refuse this move, without changing anything."""
    findings = Findings()

    async def check() -> None:
        with findings.unusable("the control database"):
            await preflight.check_control(migrations.pool, findings)
        addresses = []
        for side, store in (("source", source), ("target", target)):
            with findings.unusable(f"the {side}'s database"):
                addresses.append(await address_of(store))
        if len(addresses) < 2:
            return
        with findings.unusable("a store's database"):
            await preflight.check_stores(
                source.pool, addresses[0], target.pool, addresses[1], tenant_id, findings
            )
        if not findings.problems:
            with findings.unusable("a database"):
                await _check_reach(migrations, source, target)

    with findings.unusable("a database"):
        await preflight.within(PREFLIGHT_SECONDS, check)
    return findings


async def _check_reach(
    migrations: PostgreSQLMigrationRepository,
    source: PostgreSQLEventStore,
    target: PostgreSQLEventStore,
) -> None:
    """The driver's own connections can be opened with what the stores tell."""
    endpoints = await Endpoints.of(migrations, source, target)
    for parameters in (endpoints.control, endpoints.source, endpoints.target):
        connection = await preflight.reach(parameters)
        await connection.close()
