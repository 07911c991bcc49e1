"""Whether a tenant may begin to move: asked before anything is written anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from eventsource.hosts import hosts_of
from eventsource.migration.connections.driver_connections import Endpoints
from eventsource.migration.errors import MigrationAlreadyExistsError, RoutingError
from eventsource.migration.event_table import AnyTable, of_store
from eventsource.migration.preflight import access, event_tables, surroundings
from eventsource.migration.preflight.control import check_control
from eventsource.migration.preflight.findings import Findings, within

if TYPE_CHECKING:
    import asyncpg

    from eventsource.migration.models import MigrationConfig, TenantRouting
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore

#: A server that answers, but not within this time, refuses the move too (seconds). A host that is
#: not there is found sooner: see `reach.SILENCE_SECONDS`.
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
    control = "the control database"
    await access.refuse_silent_hosts({control: _control_hosts(migrations)}, findings)
    findings.raise_if_refused()
    routing: TenantRouting | None = None

    async def look() -> None:
        nonlocal routing
        await check_control(migrations.pool, findings)
        if not findings.problems:
            for migration in await migrations.get_by_tenant(tenant_id):
                if not migration.state.is_final:
                    raise MigrationAlreadyExistsError(tenant_id, migration.id)
            routing = await routes.get_routing(tenant_id)

    with findings.unusable(control):
        await within(PREFLIGHT_SECONDS, look)
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
    *,
    config: MigrationConfig,
) -> Findings:
    """Everything that would refuse this move, without changing anything."""
    findings = Findings()
    hosts = {"the control database": _control_hosts(migrations)}
    for side, store in (("source", source), ("target", target)):
        hosts[f"the {side}'s database"] = store.hosts()
    await access.refuse_silent_hosts(hosts, findings)
    if findings.problems:
        return findings

    async def check() -> None:
        with findings.unusable("the control database"):
            await check_control(migrations.pool, findings)
        tables: list[AnyTable] = []
        for side, store in (("source", source), ("target", target)):
            with findings.unusable(f"the {side}'s database"):
                tables.append(await of_store(store))
        if len(tables) < 2:
            return
        with findings.unusable("a store's database"):
            await event_tables.check_stores(
                tables[0], tables[1], tenant_id, findings, fire=config.fires
            )
        if not findings.problems:
            with findings.unusable("a store's database"):
                await surroundings.look(tables[0], tables[1], config.copy_jobs, findings)
            with findings.unusable("a database"):
                roles = {"source": source.application_role, "target": target.application_role}
                endpoints = await Endpoints.of(migrations, source, target)
                await access.check(endpoints, roles, findings)

    with findings.unusable("a database"):
        await within(PREFLIGHT_SECONDS, check)
    return findings


def _control_hosts(migrations: PostgreSQLMigrationRepository) -> list[tuple[str, int]]:
    return hosts_of(cast("asyncpg.Pool[Any]", migrations.pool))
