"""Whether a tenant may begin to move: asked before anything is written anywhere."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import asyncpg

from eventsource.connections import both, in_a_sentence, one_of
from eventsource.hosts import hosts_of
from eventsource.migration import failures
from eventsource.migration.connections.driver_connections import Endpoints
from eventsource.migration.errors import (
    MigrationAlreadyExistsError,
    PreflightError,
    RoutingError,
)
from eventsource.migration.event_table import AnyTable, held, of_store
from eventsource.migration.preflight import access, event_tables, surroundings
from eventsource.migration.preflight.answering import within
from eventsource.migration.preflight.control import check_control
from eventsource.migration.preflight.findings import Findings
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
from eventsource.migration.tables import fences, identities
from eventsource.remedies import remedy
from eventsource.tenant_ids import TenantId, as_uuid, checked

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.connections.kept import KeptSessions
    from eventsource.migration.models import MigrationConfig, StoreIdentity, TenantRouting
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore

#: A server that answers, but not within this time, refuses the move too (seconds). A host that is
#: not there is found sooner: see `hosts.SILENCE_SECONDS`.
PREFLIGHT_SECONDS = 10.0

#: How long a preflight waits for a server whose connections are all in use (seconds).
CONNECTION_SECONDS = 60.0

T = TypeVar("T")


#: Source, target, tenant, findings, whether the target's triggers are meant to fire.
Look = Callable[["AnyTable", "AnyTable", TenantId, Findings, bool], Awaitable[None]]


def tenant_of(given: TenantId, source: PostgreSQLEventStore) -> TenantId:
    """A tenant as a caller names it, in the one form in which it is recorded.

    Raises:
        PreflightError: no tenant of the stores can have that id.
    """
    try:
        return as_uuid(given) if source.layout is None else checked(given)
    except ValueError as error:
        raise PreflightError([str(error)]) from None


def unrouted_home(source: PostgreSQLEventStore, source_id: str, default_id: str) -> str:
    """Where a tenant without a route lives that would leave this store.

    In the default store, unless all of this one is one tenant's: of many schemas with a tenant
    each no more than one is the default.
    """
    layout = source.layout
    return source_id if layout is not None and layout.is_whole else default_id


async def generation_of(
    migrations: PostgreSQLMigrationRepository,
    routes: PostgreSQLRoutingRepository,
    tenant_id: TenantId,
    source_store_id: str,
    *,
    default_store_id: str,
) -> int:
    """The generation of the tenant's route, which has to be free and name the source.

    Raises:
        PreflightError: the control database cannot be used.
        MigrationAlreadyExistsError: the tenant has an active migration.
        ProtocolVersionError: it has one that a newer version carries on.
        RoutingError: the tenant lives in another store.
    """
    return await _when_connections_are_free(
        lambda: _generation_of(
            migrations, routes, tenant_id, source_store_id, default_store_id=default_store_id
        )
    )


async def _when_connections_are_free(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while a server has no connection left: others give theirs back.

    Raises:
        PreflightError: there was none for a long time.
    """
    deadline = time.monotonic() + CONNECTION_SECONDS
    while True:
        try:
            return await ask()
        except asyncpg.TooManyConnectionsError as error:
            if time.monotonic() > deadline:
                raise PreflightError(
                    [
                        f"{_place_of(error)} has had no connection left for"
                        f" {CONNECTION_SECONDS:g} s: {in_a_sentence(error)}; {remedy(error, '')}"
                    ],
                    passes=True,
                ) from error
        # Those who ask at the same moment do not ask again at the same moment.
        await asyncio.sleep(random.uniform(0.3, 1.0))


def _place_of(error: asyncpg.TooManyConnectionsError) -> str:
    """What could not be looked at, as the check has noted it with the error."""
    return next(iter(getattr(error, "__notes__", ())), "a database")


async def _generation_of(
    migrations: PostgreSQLMigrationRepository,
    routes: PostgreSQLRoutingRepository,
    tenant_id: TenantId,
    source_store_id: str,
    *,
    default_store_id: str,
) -> int:
    findings = Findings()
    control = "the control database"
    routing: TenantRouting | None = None

    async def look() -> None:
        nonlocal routing
        async with one_of(migrations.pool) as one:
            await check_control(one, findings)
            if findings.problems:
                return
            for migration in await PostgreSQLMigrationRepository(one).get_by_tenant(tenant_id):
                if not migration.state.is_final:
                    failures.refuse_newer(migration)
                    raise MigrationAlreadyExistsError(tenant_id, migration.id)
        routing = await routes.get_routing(tenant_id)

    with findings.unusable(control):
        await access.refuse_silent_hosts(
            {control: _control_hosts(migrations)},
            findings,
            within(PREFLIGHT_SECONDS, look, {control: migrations.pool}),
        )
    findings.raise_if_refused()
    home = routing.store_id if routing else default_store_id
    if home != source_store_id:
        raise RoutingError(
            f"tenant {tenant_id} lives in store {home!r}, not in {source_store_id!r};"
            " start the migration from the store that its route names"
            if routing
            else f"tenant {tenant_id} has no route and so lives in the default store, {home!r},"
            f" not in {source_store_id!r}; start the migration from there, or give the tenant a"
            f" route to {source_store_id!r}"
        )
    return routing.generation if routing else 0


async def places_of(
    tenant_id: TenantId, generation: int, source: AnyTable, target: AnyTable
) -> tuple[StoreIdentity | None, StoreIdentity | None]:
    """Which places the stores are, for a tenant whose route nothing there is newer than.

    Raises:
        PreflightError: a fence is newer than the tenant's route.
    """

    async def place_of(table: AnyTable) -> StoreIdentity | None:
        async with held(table) as one:
            await _refuse_older_route(tenant_id, generation, one)
            return await identities.of(one)

    return await both(place_of(source), place_of(target))


async def _refuse_older_route(tenant_id: TenantId, generation: int, table: AnyTable) -> None:
    """A decision has to be newer than everything that a fence says of the tenant."""
    fence = await fences.read(table, tenant_id)
    if fence is not None and fence.generation > generation:
        raise PreflightError(
            [
                f"the fence of tenant {tenant_id} in {table.name} is of generation"
                f" {fence.generation}, and its route of {generation}: the control database has"
                " gone back, or a store has; `eventsource-migrate repair` says what lives where"
            ]
        )


async def examine(
    migrations: PostgreSQLMigrationRepository,
    tenant_id: TenantId,
    source: PostgreSQLEventStore,
    target: PostgreSQLEventStore,
    *,
    config: MigrationConfig,
    look: Look | None = None,
    kept: KeptSessions | None = None,
    with_control: bool = True,
) -> Findings:
    """Everything that would refuse this move, without changing anything.

    Args:
        kept: where sessions are kept for who moves the tenant next.
        look: looks at tables of another library's kind, in place of what is known of our own.
        with_control: whether the control database is looked at, too.
    """
    return await _when_connections_are_free(
        lambda: _examine(migrations, tenant_id, source, target, config, look, kept, with_control)
    )


async def _examine(
    migrations: PostgreSQLMigrationRepository,
    tenant_id: TenantId,
    source: PostgreSQLEventStore,
    target: PostgreSQLEventStore,
    config: MigrationConfig,
    look: Look | None,
    kept: KeptSessions | None,
    with_control: bool,
) -> Findings:
    findings = Findings()
    hosts = {"the control database": _control_hosts(migrations)}
    places: dict[str, Executor] = {"the control database": migrations.pool}
    for side, store in (("source", source), ("target", target)):
        hosts[f"the {side}'s database"] = store.hosts()
        places[f"the {side}'s database"] = store.pool

    async def check() -> None:
        with findings.unusable("the control database"):
            if with_control:
                await check_control(migrations.pool, findings)
        tables: list[AnyTable] = []
        for side, store in (("source", source), ("target", target)):
            with findings.unusable(f"the {side}'s database"):
                tables.append(await of_store(store))
        if len(tables) < 2:
            return
        findings.tables = here, there = tables[0], tables[1]
        # At the same time: a large tenant's rows take as long to look at as it takes to log in.
        # What the driver's own connections show counts where the tables are what they have to be.
        beside, roles = Findings(), None
        if look is None:
            roles = {"source": source.application_role, "target": target.application_role}

        async def of_access() -> None:
            with beside.unusable("a database"):
                endpoints = await Endpoints.at(migrations, here, there, kept)
                await access.check(endpoints, roles, beside)

        sound, _ = await both(_look_at(here, there, tenant_id, findings, config, look), of_access())
        if sound:
            findings.add(beside)

    with findings.unusable("a database"):
        await access.refuse_silent_hosts(hosts, findings, within(PREFLIGHT_SECONDS, check, places))
    return findings


async def _look_at(
    source: AnyTable,
    target: AnyTable,
    tenant_id: TenantId,
    findings: Findings,
    config: MigrationConfig,
    look: Look | None,
) -> bool:
    """Both tables, and what is about them; whether they can take part."""
    with findings.unusable("a store's database"):
        if look is not None:
            await look(source, target, tenant_id, findings, config.fires)
        else:
            await event_tables.check_stores(
                source, target, as_uuid(tenant_id), findings, fire=config.fires
            )
    if findings.problems:
        return False
    with findings.unusable("a store's database"):
        await surroundings.look(source, target, config.copy_jobs, findings, companions=look is None)
    return True


def _control_hosts(migrations: PostgreSQLMigrationRepository) -> list[tuple[str, int]]:
    return hosts_of(cast("asyncpg.Pool[Any]", migrations.pool))
