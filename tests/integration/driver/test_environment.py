"""What is wrong with logins, rights and addresses: a driver waits and says so, and throws nothing
away; what is wrong with the data can be mended and resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from eventsource.dataplane import DataPlaneError
from eventsource.errors import ConnectionDetailsError, CredentialsError
from eventsource.migration import InvalidStateTransitionError, Migration, MigrationState
from eventsource.migration.errors import ConsistencyError, MigrationError, MissingRowError
from eventsource.migration.failures import may_be_mended, may_pass
from eventsource.migration.repositories import PostgreSQLMigrationRepository
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import Process
from tests.support.refusals import SECRET, as_owner, migrating_as
from tests.support.waiting import until
from tests.support.worlds.three_databases import TARGET_TABLE, World

_END = (
    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = $1"
    " and application_name in ('eventsource-migrate', 'eventsource-mirror')"
)

#: What an administrator may do to the role of a migration for a while, and how it is undone.
HARMS = {
    "no login": ("alter role {role} nologin", "alter role {role} login"),
    "another password": (
        "alter role {role} password 'somebody-elses'",
        "alter role {role} password '{password}'",
    ),
    "no rights": (
        "revoke all on eventsource_copy_progress from {role}; alter table"
        " eventsource_copy_progress owner to postgres",
        "alter table eventsource_copy_progress owner to {role};"
        " grant all on eventsource_copy_progress to {role}",
    ),
    "no table": (
        "alter table eventsource_copy_progress rename to away",
        "alter table away rename to eventsource_copy_progress",
    ),
    # As after an upgrade of the program alone.
    "an older table": (
        "alter table eventsource_copy_progress rename column witness_token to away",
        "alter table eventsource_copy_progress rename column away to witness_token",
    ),
}


@asynccontextmanager
async def waiting_for(world: World, migration: Migration, *told: str) -> AsyncIterator[None]:
    """Until the journal says all of it, and that nobody has the lease, again and again."""
    journal = PostgreSQLMigrationRepository(world.control)

    async def says() -> bool:
        seen = await journal.get(migration.id)
        assert seen.state is not MigrationState.FAILED, seen.error_message
        return seen.is_waiting and all(each in str(seen.error_message) for each in told)

    async def is_free() -> bool:
        return not (await journal.get(migration.id)).driver_alive

    await until(says, "the driver to say what it waits for")
    await until(is_free, "the lease to be free between two attempts")
    yield

    async def is_silent() -> bool:
        return (await journal.get(migration.id)).error_message is None

    await until(is_silent, "the message to be cleared")


@pytest.mark.parametrize("harm", HARMS)
async def test_what_is_wrong_with_a_role_is_waited_for(world: World, harm: str) -> None:
    await world.seed(30)
    do, undo = HARMS[harm]
    async with as_owner(world) as role:
        process = await world.process(**migrating_as(world, role))
        migration = await process.start(world.tenant)
        await world.reach(migration, "dual_write")
        names = {"role": role, "password": SECRET}
        await world.target.execute(do.format(**names))
        await world.target.execute(_END, role)
        async with waiting_for(world, migration, "store 'dedicated-a'", "since "):
            await world.target.execute(undo.format(**names))
        done = await process.coordinator.initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        await process.stop()
    await world.assert_moved(done)


async def test_a_rotated_password_is_asked_for_again(world: World) -> None:
    """As a token of 15 minutes: the old one is refused, and the function knows the new one."""
    await world.seed(30)
    async with as_owner(world) as role:
        passwords = ["first"]
        await world.target.execute(f"alter role {role} password 'first'")

        async def now() -> str:
            return passwords[-1]

        host = urlsplit(world.dsns["target"]).netloc.rpartition("@")[2]
        without = f"postgresql://{role}@{host}{urlsplit(world.dsns['target']).path}"
        process = await world.process(
            target_store=lambda pool: PostgreSQLEventStore(
                pool, TARGET_TABLE, dsn=without, password=now
            )
        )
        migration = await process.start(world.tenant)
        await world.reach(migration, "dual_write")
        await world.target.execute(f"alter role {role} password 'second'")
        await world.target.execute(_END, role)
        async with waiting_for(world, migration, "store 'dedicated-a'", "password authentication"):
            passwords.append("second")
        done = await process.coordinator.initiate_cutover(migration.id)
        assert done.state is MigrationState.MIGRATED
        await process.stop()
    await world.assert_moved(done)


async def test_a_process_with_a_wrong_setting_lets_a_right_one_drive(world: World) -> None:
    await world.seed(30)
    migration = await world.dual_write()
    await world.here.stop()
    async with as_owner(world) as role:
        wrong = await world.process(**migrating_as(world, role))
        await world.target.execute(f"alter role {role} nologin")
        working = asyncio.create_task(wrong.coordinator.work(poll_seconds=0.1))
        right = await world.process()
        async with waiting_for(world, migration, "store 'dedicated-a'"):
            helping = asyncio.create_task(right.coordinator.work(poll_seconds=0.1))
        done = await right.coordinator.initiate_cutover(migration.id)
        for task in (working, helping):
            task.cancel()
        await wrong.stop()
        await right.stop()
    assert done.state is MigrationState.MIGRATED
    await world.assert_moved(done)


async def test_what_failed_is_resumed_once_it_is_mended(world: World) -> None:
    await world.seed(30)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.control.execute(
        "update tenant_migrations set state = 'failed', paused_from = 'dual_write'"
    )
    await world.coordinator.resume_migration(migration.id, operator="eve")
    await world.reach(migration, "dual_write")
    routing = await world.here.routes.get_routing(world.tenant)
    assert routing is not None
    assert routing.migration_id == migration.id
    done = await world.coordinator.initiate_cutover(migration.id)
    assert done.state is MigrationState.MIGRATED
    assert done.error_message is None
    await world.assert_moved(done)


@pytest.mark.parametrize("side", ["source", "target"])
async def test_what_failed_without_recorded_places_is_aborted_and_not_resumed(
    world: World, side: str
) -> None:
    """An older version began it: nobody can prove that the stores of today are those of then."""
    await world.seed(5)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.control.execute(
        "update tenant_migrations set state = 'failed', paused_from = 'dual_write',"
        f" {side}_identity = null"
    )
    with pytest.raises(InvalidStateTransitionError, match=f"abort {migration.id}"):
        await world.coordinator.resume_migration(migration.id)
    assert (await world.here.migrations.get(migration.id)).state is MigrationState.FAILED
    assert (await world.coordinator.abort_migration(migration.id)).state == "rolled_back"


async def test_after_an_abort_nothing_that_failed_is_resumed(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.control.execute(
        "update tenant_migrations set state = 'failed', paused_from = 'dual_write'"
    )
    assert (await world.here.migrations.get(migration.id)).may_resume
    assert await world.here.migrations.request_abort(migration.id, "enough", None)
    await world.here.migrations.withdraw_abort(migration.id)
    assert not (await world.here.migrations.get(migration.id)).may_resume
    with pytest.raises(InvalidStateTransitionError):
        await world.coordinator.resume_migration(migration.id)
    aborted = await world.coordinator.abort_migration(migration.id)
    assert aborted.state is MigrationState.ROLLED_BACK


async def test_a_tenant_that_was_routed_elsewhere_is_not_resumed(world: World) -> None:
    await world.seed(10)
    migration = await world.dual_write()
    await world.coordinator.pause_migration(migration.id)
    await world.control.execute(
        "update tenant_migrations set state = 'failed', paused_from = 'dual_write'"
    )
    await world.control.execute(
        "update tenant_routing set migration_id = null, generation = generation + 1"
    )
    with pytest.raises(MigrationError, match="not routed"):
        await world.coordinator.resume_migration(migration.id)
    assert (await world.here.migrations.get(migration.id)).state is MigrationState.FAILED


def made(sqlstate: str) -> asyncpg.PostgresError:
    error = asyncpg.PostgresError("x")
    setattr(error, "sqlstate", sqlstate)  # noqa: B010 - of the class, says its stub
    return error


@pytest.mark.parametrize(
    "error",
    [
        *map(made, ("08006", "28000", "28P01", "3D000", "42501", "42P01", "3F000", "42703")),
        *map(made, ("25006", "42883", "53300", "57P01", "57P03", "58030", "XX000", "XX001")),
        OSError(), TimeoutError(), MissingRowError("x"), ConnectionDetailsError("x"),
        CredentialsError("x"), DataPlaneError("standby", "x"),
    ],
)  # fmt: skip
def test_an_error_of_the_environment_never_ends_a_migration(error: Exception) -> None:
    assert may_be_mended(error)


@pytest.mark.parametrize(
    "error",
    [
        *map(made, ("23505", "22P02", "23514", "428C9", "P0001")), ConsistencyError("x"),
        MigrationError("x"), ValueError("x"),
    ],
)  # fmt: skip
def test_a_fact_about_the_data_does(error: Exception) -> None:
    assert not may_be_mended(error)


@pytest.mark.parametrize("sqlstate", ["28P01", "28000", "3D000", "42501", "42P01", "42703"])
def test_a_call_that_somebody_waits_for_is_told_at_once(sqlstate: str) -> None:
    assert not may_pass(made(sqlstate))


@pytest.mark.parametrize("was_let_in", [True, False])
async def test_work_outlives_a_password_that_is_changed_and_no_wrong_one(
    world: World, monkeypatch: pytest.MonkeyPatch, was_let_in: bool
) -> None:
    """One that is wrong from the start is an error at once."""
    migrations = world.here.coordinator._drivers._migrations
    look, answers = migrations.get_active, [was_let_in, False, False]

    async def get_active() -> Sequence[Migration]:
        if answers and not answers.pop(0):
            raise made("28P01")
        return await look()

    monkeypatch.setattr(migrations, "get_active", get_active)
    working: asyncio.Task[None] = asyncio.create_task(
        world.here.coordinator.work(poll_seconds=0.01)
    )

    async def has_gone_on() -> bool:
        return working.done() or not answers

    await until(has_gone_on, "an answer")
    if was_let_in:
        await asyncio.sleep(0.1)
        assert not working.done()
        working.cancel()
    else:
        with pytest.raises(asyncpg.PostgresError, match="x"):
            await working


async def test_a_call_of_a_role_that_may_not_drive_ends_with_the_reason(world: World) -> None:
    await world.seed(3)
    migration = await world.dual_write()
    await world.here.stop()
    async with as_owner(world) as role:
        process = await world.process(**migrating_as(world, role))
        await world.control.execute(
            f"alter table tenant_migrations owner to postgres;"
            f" revoke all on tenant_migrations from {role};"
            f" grant select on tenant_migrations to {role}"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="tenant_migrations"):
            async with asyncio.timeout(20):
                await process.coordinator.resume_migration(migration.id)
        await process.stop()


async def test_a_refusal_that_was_mended_is_not_raised_by_a_later_call(world: World) -> None:
    """Nobody called while the role might not drive; it does by now."""
    await world.seed(3)
    migration = await world.dual_write()
    await world.coordinator.close()
    async with as_owner(world) as role:
        process = await world.process(**migrating_as(world, role))
        await world.control.execute(f"revoke update on tenant_migrations from {role}")
        process.coordinator._drivers.stand_by(migration.id)
        await until(lambda: _refused(process), "a refusal")
        await world.control.execute(f"grant update on tenant_migrations to {role}")

        async def is_driven() -> bool:
            return (await world.here.migrations.get(migration.id)).driver_alive

        await until(is_driven, "a driver")
        paused = await process.coordinator.pause_migration(migration.id)
        assert paused.state is MigrationState.PAUSED
        await process.stop()


async def _refused(process: Process) -> bool:
    return bool(process.coordinator._drivers._refused)
