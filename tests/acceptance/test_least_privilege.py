"""Three roles in databases that give PUBLIC nothing: a migration's whole life, no error."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource import ExpectedVersion
from eventsource.migration import (
    MigrationConfig,
    MigrationCoordinator,
    MigrationState,
    TenantStoreRouter,
)
from eventsource.migration.repositories import (
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.acceptance.test_privileges import (
    APPLICATION,
    MIGRATOR,
    OPERATOR,
    PASSWORD,
    ROLES,
    Noted,
    as_user,
    command,
    execute,
    make_roles,
    script,
)
from tests.support.waiting import until

STORES = ("shared", "dedicated-a")


@dataclass
class Party:
    """One role's process."""

    stores: dict[str, PostgreSQLEventStore]
    router: TenantStoreRouter
    coordinator: MigrationCoordinator


@dataclass
class Databases:
    """Where they are, and what the application met in them."""

    dsns: dict[str, str]
    config: Path
    written: dict[UUID, int] = field(default_factory=dict)

    async def party(self, stack: AsyncExitStack, role: str) -> Party:
        pools = {
            name: await stack.enter_async_context(
                asyncpg.create_pool(as_user(dsn, role), min_size=0, max_size=6)
            )
            for name, dsn in self.dsns.items()
        }
        stores = {name: PostgreSQLEventStore(pools[name]) for name in STORES}
        routes = PostgreSQLRoutingRepository(pools["control"])
        # An operator's process knows no target, so that it asks and never drives.
        known = {"shared": stores["shared"]} if role == OPERATOR else dict(stores)
        router = TenantStoreRouter(stores["shared"], routes, known)
        migrations = PostgreSQLMigrationRepository(pools["control"])
        config = MigrationConfig(pass_interval_seconds=0.1)
        coordinator = MigrationCoordinator(migrations, routes, router, config)
        stack.push_async_callback(router.close)
        stack.push_async_callback(coordinator.close)
        return Party(stores, router, coordinator)


@pytest.fixture
async def hardened(source_dsn: str, target_dsn: str, control_dsn: str, tmp_path: Path) -> Databases:
    dsns = {"shared": source_dsn, "dedicated-a": target_dsn, "control": control_dsn}
    passwords = [f"alter role {role} password '{PASSWORD}'" for role in ROLES]
    await make_roles((source_dsn, target_dsn), passwords)
    for dsn in dsns.values():
        name = urlsplit(dsn).path.lstrip("/")
        await execute(
            dsn,
            f'revoke all on database "{name}" from public',
            f'grant connect on database "{name}" to {", ".join(ROLES)}',
            f'grant temporary on database "{name}" to {MIGRATOR}',
            script("hardened_database.sql"),
            script("migrator.sql"),
        )
        await execute(as_user(dsn, MIGRATOR), script("hardened.sql"))
    config = tmp_path / "eventsource.toml"
    config.write_text(
        'default_store = "shared"\n'
        f"control.dsn = {json.dumps(as_user(control_dsn, MIGRATOR))}\n"
        + "".join(
            f"stores.{name}.dsn = {json.dumps(as_user(dsns[name], MIGRATOR))}\n"
            f'stores.{name}.application_role = "{APPLICATION}"\n'
            for name in STORES
        )
    )
    await command("init", config=config)
    for dsn in dsns.values():
        await execute(as_user(dsn, MIGRATOR), script("hardened.sql"))
    for name in STORES:
        await execute(as_user(dsns[name], MIGRATOR), script("application_at_stores.sql"))
    control = as_user(control_dsn, MIGRATOR)
    await execute(control, script("application_at_control.sql"), script("operator_at_control.sql"))
    return Databases(dsns, config)


@contextlib.asynccontextmanager
async def writing(at: Databases, party: Party, tenants: list[UUID]) -> AsyncIterator[None]:
    """The application at work: an error of any of its statements fails the test."""
    stopping = False

    async def write_on(tenant: UUID) -> None:
        while not stopping:
            note = Noted(aggregate_id=uuid4(), tenant_id=tenant)
            await party.router.append_events(
                note.aggregate_id, "Note", [note], ExpectedVersion.NO_STREAM
            )
            at.written[tenant] = at.written.get(tenant, 0) + 1
            async for _ in party.router.read_all(tenant_id=tenant, limit=5):
                pass
            await party.router.get_global_position()
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for tenant in tenants:
            group.create_task(write_on(tenant))
        yield
        stopping = True


async def test_a_whole_life_of_a_migration_with_three_roles(hardened: Databases) -> None:
    moving, aborted, bystander = uuid4(), uuid4(), uuid4()
    async with AsyncExitStack() as stack:
        migrator, application, operator = [
            await hardened.party(stack, role) for role in (MIGRATOR, APPLICATION, OPERATOR)
        ]

        async def begin(tenant: UUID) -> UUID:
            started = await migrator.coordinator.start_migration(
                tenant, migrator.stores["shared"], migrator.stores["dedicated-a"], *STORES
            )

            async def mirrors() -> bool:
                now = await operator.coordinator.get_migration(started.id)
                assert now.state is not MigrationState.FAILED, now.error_message
                stats = application.router.dual_write_stats(tenant)
                assert stats is None or stats.failures.total_failures == 0
                return stats is not None and stats.mirrored > 0

            await until(mirrors, "the mirror")
            return started.id

        driving = asyncio.create_task(migrator.coordinator.work())
        stack.callback(driving.cancel)
        async with writing(hardened, application, [moving, aborted, bystander]):
            await until(lambda: _all_have_written(hardened, 3), "appends")
            await command("plan", str(moving), "--to", "dedicated-a", config=hardened.config)
            migration = await begin(moving)
            paused = await operator.coordinator.pause_migration(migration, operator="anna")
            assert paused.state is MigrationState.PAUSED
            await operator.coordinator.resume_migration(migration, operator="anna")
            done = await operator.coordinator.initiate_cutover(migration, operator="anna")
            assert done.state is MigrationState.MIGRATED
            await command("verify", str(moving), config=hardened.config)
            undone = await operator.coordinator.abort_migration(await begin(aborted))
            assert undone.state is MigrationState.ROLLED_BACK
        for tenant, name in ((moving, "dedicated-a"), (aborted, "shared"), (bystander, "shared")):
            store = application.stores[name]
            found = [event async for event in store.read_all(tenant_id=tenant)]
            assert len(found) == hardened.written[tenant]


async def _all_have_written(at: Databases, tenants: int) -> bool:
    return len(at.written) == tenants


@pytest.mark.parametrize("name", ["application_at_stores.sql", "application_at_control.sql"])
def test_no_documented_right_of_the_application_writes_to_tables_of_ours(name: str) -> None:
    for statement in script(name).split(";"):
        rights, _, objects = statement.partition(" on ")
        if "eventsource_fences" in objects or "tenant_" in objects:
            assert rights.split()[-2:] == ["grant", "select"]
