"""Everything a command works with, opened from the configuration and closed again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from eventsource.cli import hooks
from eventsource.cli.config import ConfigError, Settings, StoreSettings
from eventsource.cli.exits import DatabaseUnavailableError
from eventsource.cli.output import Output
from eventsource.connections import ConnectionParameters, address_of, create_pool, in_a_sentence
from eventsource.errors import ConnectionDetailsError
from eventsource.hosts import SilentHostsError, hosts_of, unless_silent
from eventsource.identifiers import quote_identifier
from eventsource.migration.errors import PreflightError
from eventsource.migration.failures import PASSING, may_be_mended, may_pass
from eventsource.remedies import remedy
from eventsource.tenant_ids import TenantId, as_uuid, checked

if TYPE_CHECKING:
    from eventsource.migration.coordinator import MigrationCoordinator
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories import (
        PostgreSQLAuditLogRepository,
        PostgreSQLMigrationRepository,
        PostgreSQLRoutingRepository,
    )
    from eventsource.migration.routing.router import TenantStoreRouter
    from eventsource.migration.subscriptions.migrator import SubscriptionMigrator
    from eventsource.stores.postgresql import PostgreSQLEventStore
    from eventsource.subscriptions import PostgreSQLCheckpointRepository

    Pool = asyncpg.Pool[Any]

T = TypeVar("T")

#: Connections of one pool; the coordinator and the driver open their own besides.
_POOL_SIZE = 4

#: How often a database that is away is asked again (seconds).
_AWAY_SECONDS = 1.0

_UNREACHABLE = (
    OSError,
    ConnectionDetailsError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


@dataclass
class Workspace:
    """Pools, stores and the parts of the product on top of them.

    Each part is loaded when a command first asks for it: a help text, or a mistake in the
    configuration, waits for none of them.

    Attributes:
        operator: who is recorded in the audit log.
        control, checkpoints_pool: pools of the control database and of the checkpoints.
        stores: every store of the configuration by id; opened when first used.
        about: the migration that the command turned out to be about, for what is said at its end.
    """

    settings: Settings
    out: Output
    operator: str
    control: Pool
    checkpoints_pool: Pool
    stores: dict[str, PostgreSQLEventStore]
    about: Migration | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings, out: Output, operator: str) -> AsyncIterator[Workspace]:
        """Connect to the control database, and to the others when they are needed.

        Drivers that still work when the block is left are stopped; what is durable stays.

        Raises:
            DatabaseUnavailableError: the control database cannot be reached.
        """
        async with contextlib.AsyncExitStack() as stack:
            control = await _pool(settings.control_dsn, stack, settings.control_schema)
            await _reach(control, "the control database", settings.control_dsn, "[control] dsn")
            checkpoints = control
            if settings.subscriptions_dsn != settings.control_dsn:
                checkpoints = await _pool(settings.subscriptions_dsn, stack)
            stores = {
                store_id: await _store(entry, stack) for store_id, entry in settings.stores.items()
            }
            workspace = cls(settings, out, operator, control, checkpoints, stores)
            await stack.enter_async_context(hooks.calling(settings.on_change))
            stack.push_async_callback(workspace._close)
            with _named(settings):
                yield workspace

    async def _close(self) -> None:
        # What nobody has asked for is not made in order to be closed.
        for part in ("coordinator", "router"):
            if part in self.__dict__:
                await getattr(self, part).close()

    @cached_property
    def migrations(self) -> PostgreSQLMigrationRepository:
        from eventsource.migration.repositories import PostgreSQLMigrationRepository

        return PostgreSQLMigrationRepository(self.control)

    @cached_property
    def routes(self) -> PostgreSQLRoutingRepository:
        from eventsource.migration.repositories import PostgreSQLRoutingRepository

        return PostgreSQLRoutingRepository(self.control)

    @cached_property
    def audit_log(self) -> PostgreSQLAuditLogRepository:
        from eventsource.migration.repositories import PostgreSQLAuditLogRepository

        return PostgreSQLAuditLogRepository(self.control)

    @cached_property
    def router(self) -> TenantStoreRouter:
        from eventsource.migration.routing.router import TenantStoreRouter

        return TenantStoreRouter(
            default_store=self.stores[self.settings.default_store],
            routing_repo=self.routes,
            stores=dict(self.stores),
        )

    @cached_property
    def coordinator(self) -> MigrationCoordinator:
        from eventsource.migration.coordinator import MigrationCoordinator

        return MigrationCoordinator(
            self.migrations, self.routes, self.router, self.settings.migration,
            route_hook=self.settings.route_hook,
        )  # fmt: skip

    async def follow_routes(self) -> None:
        """Run the route hook for what has changed, and warn of what it could not do."""
        try:
            left = await self.coordinator.follow_routes()
        except (*PASSING, asyncpg.PostgresError) as error:
            # The tenant has moved all the same.
            self.out.warn(f"the route hook cannot be run: {in_a_sentence(error)}")
            return
        for each in left:
            self.out.warn(
                f"the route hook has not run yet for tenant {each.tenant_id} in"
                f" {each.store_id!r}: {each.error}; `work` tries again"
            )

    @cached_property
    def checkpoints(self) -> PostgreSQLCheckpointRepository:
        from eventsource.subscriptions import PostgreSQLCheckpointRepository

        return PostgreSQLCheckpointRepository(self.checkpoints_pool)

    @cached_property
    def subscriptions(self) -> SubscriptionMigrator:
        from eventsource.migration.repositories import PostgreSQLPositionMappingRepository
        from eventsource.migration.subscriptions.migrator import SubscriptionMigrator
        from eventsource.migration.subscriptions.positions import PositionMapper

        mapper = PositionMapper(PostgreSQLPositionMappingRepository(self.control), self.stores)
        return SubscriptionMigrator(mapper, self.checkpoints)

    def tenant(self, given: str) -> TenantId:
        """A tenant as somebody has typed it, in the form in which it is returned everywhere.

        Raises:
            ConfigError: no tenant of these stores can have that id.
        """
        try:
            if any(store.layout is not None for store in self.stores.values()):
                return checked(given)
            return as_uuid(given)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def of_layout(self, migration: Migration) -> bool:
        """Whether it moves rows of another library's tables, as far as the configuration knows."""
        store = self.stores.get(migration.source_store_id)
        return store is not None and store.layout is not None

    def unknown_stores(self, migration: Migration) -> list[str]:
        """Its stores that the configuration does not have: this process cannot drive it then."""
        both = migration.source_store_id, migration.target_store_id
        return [store_id for store_id in both if store_id not in self.stores]

    def unit(self, migration: Migration) -> str:
        """What is counted while it moves: of a layout the rows of all its tables."""
        return "row" if self.of_layout(migration) else "event"

    async def home_of(self, tenant_id: TenantId) -> str:
        """The id of the store that holds the tenant: by its route, or else the default one."""
        routing = await self.routes.get_routing(tenant_id)
        return routing.store_id if routing is not None else self.settings.default_store

    async def reach_store(self, store_id: str) -> PostgreSQLEventStore:
        """The store, after making sure that its database answers.

        Raises:
            ConfigError: there is no store of this id.
            DatabaseUnavailableError: it cannot be reached.
        """
        entry = self.settings.require_store(store_id)
        store = self.stores[store_id]
        await _reach(store.pool, f"store {store_id!r}", entry.dsn, f"[stores.{store_id}] dsn")
        return store

    async def reach_for_move(self, *store_ids: str) -> None:
        """As `reach_store`, for a move: an unreachable store is a reason to refuse it."""
        reached = await asyncio.gather(
            *(self.reach_store(store_id) for store_id in store_ids), return_exceptions=True
        )
        problems = []
        for outcome in reached:
            if isinstance(outcome, DatabaseUnavailableError):
                problems.append(str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
        if problems:
            raise PreflightError(problems)


async def patiently(
    at: Workspace, ask: Callable[[], Awaitable[T]], *, was_let_in: bool = False
) -> T:
    """Ask again while a database is away: drivers wait for it, and so do those who watch them.

    Args:
        was_let_in: this process has been answered before: then what somebody has to mend, such as
            a password that was changed, is waited for as well.
    """
    waits = may_be_mended if was_let_in else may_pass
    warned = ""
    while True:
        try:
            return await ask()
        except Exception as error:
            if not waits(error):
                raise
            if (reason := in_a_sentence(error) or type(error).__name__) != warned:
                at.out.warn(f"waiting for a database: {reason}")
                warned = reason
        await asyncio.sleep(_AWAY_SECONDS)


@contextlib.asynccontextmanager
async def own_pool(settings: Settings, max_size: int) -> AsyncIterator[Pool]:
    """Connections to the control database for something that keeps some of them for itself."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _pool(settings.control_dsn, stack, settings.control_schema, max_size)


async def _pool(
    dsn: str,
    stack: contextlib.AsyncExitStack,
    schema: str | None = None,
    max_size: int = _POOL_SIZE,
) -> Pool:
    path = (("search_path", quote_identifier(schema)),) if schema is not None else ()
    try:
        opened: Pool = await create_pool(
            ConnectionParameters(dsn, settings=path),
            min_size=0,
            max_size=max_size,
            command_timeout=None,
            server_settings={"application_name": "eventsource-cli"},
        )
    except _UNREACHABLE as error:
        where = ConnectionParameters(dsn)
        raise DatabaseUnavailableError(f"{where}: {in_a_sentence(error)}") from error
    stack.push_async_callback(_close_pool, opened)
    return opened


async def _close_pool(pool: Pool) -> None:
    """Politely but briefly: a cancelled task may still hold a connection."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1):
            await pool.close()
    pool.terminate()


async def _store(entry: StoreSettings, stack: contextlib.AsyncExitStack) -> PostgreSQLEventStore:
    from eventsource.migration.layouts.store import LayoutStore
    from eventsource.stores.postgresql import PostgreSQLEventStore

    pool = await _pool(entry.dsn, stack)
    if entry.layout is not None:
        return LayoutStore(pool, entry.layout, dsn=entry.dsn, schema=entry.schema)
    return PostgreSQLEventStore(
        pool,
        entry.table,
        dsn=entry.dsn,
        schema=entry.schema,
        application_role=entry.application_role,
    )


async def _reach(pool: Pool, what: str, dsn: str, where: str) -> None:
    async def ask() -> None:
        async with pool.acquire() as connection:
            await connection.execute("select 1")

    try:
        try:
            await unless_silent(ask(), {what: hosts_of(pool)})
        except SilentHostsError:
            raise TimeoutError("the host does not answer") from None
    except _UNREACHABLE as error:
        raise _unreachable(error, what, dsn, where) from error


def _unreachable(error: BaseException, what: str, dsn: str, where: str) -> DatabaseUnavailableError:
    reason = in_a_sentence(error) or type(error).__name__
    return DatabaseUnavailableError(
        f"{what} ({ConnectionParameters(dsn)}) cannot be reached: {reason};"
        f" {remedy(error, where) or f'check {where}'}"
    )


@contextlib.contextmanager
def _named(settings: Settings) -> Iterator[None]:
    """Of a connection that cannot be opened within the block, say which database it is.

    What its server says is the same for all of them: that a password is wrong, of which user.
    """
    try:
        yield
    except _UNREACHABLE as error:
        if (address := address_of(error)) is None:
            raise
        for what, dsn, where in _places(settings):
            if dsn == address.dsn:
                raise _unreachable(error, what, dsn, where) from error
        raise


def _places(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Each database of the configuration: what it is, its dsn, and where that stands."""
    yield "the control database", settings.control_dsn, "[control] dsn"
    for store_id, entry in settings.stores.items():
        yield f"store {store_id!r}", entry.dsn, f"[stores.{store_id}] dsn"
    yield "the database of the checkpoints", settings.subscriptions_dsn, "[subscriptions] dsn"
