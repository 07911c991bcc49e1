"""Returning a tenant to the store that it has left, and ending that possibility."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from eventsource.migration.errors import (
    InvalidStateTransitionError,
    MigrationError,
    PreflightError,
    ProtocolVersionError,
)
from eventsource.migration.models import MigrationConfig
from eventsource.migration.operations import prospects
from eventsource.migration.operations.cutovers import Cutovers, refuse_budget
from eventsource.migration.operations.prospects import Prospect
from eventsource.migration.repositories.ways_back import WayBack, WaysBack
from eventsource.migration.states import MigrationState
from eventsource.migration.tables import fences
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration.background import BackgroundDrivers
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore


#: Until then the next cutover prepares a new way back, whatever became of the last one.
_OVER = (MigrationState.MIGRATED, MigrationState.ROLLED_BACK, MigrationState.FAILED)
_CLOSE_TOO_EARLY = "close its way back: its cutover prepares one; close it after that"


class Returns(Cutovers):
    """Of the coordinator: what is about ways back, and cutovers, of which a return is one."""

    _migrations: PostgreSQLMigrationRepository
    _drivers: BackgroundDrivers
    _config: MigrationConfig

    async def way_back_prospect(
        self,
        source: PostgreSQLEventStore,
        target: PostgreSQLEventStore,
        config: MigrationConfig | None = None,
    ) -> Prospect:
        """Whether a move between these stores would keep a way back; changes nothing.

        Args:
            config: of the migration, where it is not the coordinator's.
        """
        return await prospects.of(source, target, config or self._config)

    async def way_back(self, migration_id: UUID) -> WayBack | None:
        """The way back of a migration; None where none was ever prepared."""
        await self._migrations.get(migration_id)
        ways = WaysBack(self._migrations.pool)
        way = await ways.of_migration(migration_id)
        if way is None or way.is_newer:
            return way
        if way.state == "returning" and way.return_state == "rolled_back":
            # Its return was aborted, and who did that died before this was written.
            await ways.give_up(way.id)
            way = await ways.of_migration(migration_id)
        return way

    async def ways_back(self) -> list[WayBack]:
        """Every way back, oldest first."""
        return await WaysBack(self._migrations.pool).get_all()

    async def set_keep_way_back(
        self,
        migration_id: UUID,
        time: float | str,
        *,
        required: bool = False,
        operator: str | None = None,
    ) -> Migration:
        """Change for how long the tenant may return after the move; 0 is not at all.

        Args:
            required: whether the cutover is refused when no way back can be kept.

        Raises:
            ValueError: no time that a MigrationConfig takes.
            InvalidStateTransitionError: the migration is over.
        """
        seconds = MigrationConfig(keep_way_back=time).keep_way_back  # type: ignore[arg-type]
        await self._migrations.get_to_change(migration_id)
        changed = await self._migrations.set_keep_way_back(
            migration_id, seconds, operator, required=required and seconds > 0
        )
        migration = await self._migrations.get(migration_id)
        if not changed:
            raise InvalidStateTransitionError(
                migration_id, migration.state, "have another keep_way_back"
            )
        return migration

    async def return_migration(
        self,
        migration_id: UUID,
        *,
        operator: str | None = None,
        max_pause_seconds: float | None = None,
        keep_way_back: float | str | None = None,
        require_way_back: bool = False,
    ) -> Migration:
        """Move the tenant back to the source of a finished migration, with every new event.

        What was appended since is there already but for the last moment, so this is one cutover:
        its writers wait for milliseconds. Returns the finished migration of the return, whose own
        way back leads forth again.

        Args:
            keep_way_back: for how long (seconds, or a text such as "7d") the tenant can go forth
                again in the same way; None is as for the move.
            require_way_back: whether the return is refused when that cannot be kept. It counts
                when the return is asked for first.

        Raises:
            InvalidStateTransitionError: there is no way back (any more); the reason is in it.
            StoreGoneBackError: the tenant's home has gone back: repair first.
            CutoverTimeoutError, ConsistencyError: as of a cutover; the tenant stays, and the return
                stays asked for: ask again, or abort it, and the way back stands by as before.
            ValueError: ``max_pause_seconds`` or ``keep_way_back`` is out of its range.
        """
        way = await self.way_back(migration_id)
        if way is None:
            raise await self._no_way_back(migration_id)
        refuse_newer(way)
        move = await self._migrations.get(migration_id)
        refuse_budget(move.config, max_pause_seconds)
        if way.state == "standby":
            await self._ask(way, move, keep_way_back, operator, require_way_back)
        elif way.state != "returning":
            raise InvalidStateTransitionError(migration_id, why_not(way), "return")
        return await self._drivers_cutover(way.id, operator, max_pause_seconds)

    async def _no_way_back(self, migration_id: UUID) -> MigrationError:
        """Why a tenant cannot return in that way, and how it goes back instead."""
        move = await self._migrations.get(migration_id)
        if move.state is not MigrationState.MIGRATED:
            return InvalidStateTransitionError(migration_id, move.state, "return")
        why, first = "it was made without, or by a version that had none", f"`cleanup {move.id}`"
        if self._drivers.store_of(move.source_store_id).layout is not None:
            why = "ways back are kept between tables of our own only"
            first = f"its old rows are gone: {fences.deleting_old_rows(move.id)}"
        return MigrationError(
            f"migration {migration_id} has no way back: {why}; move the tenant back with a"
            f" migration of its own, after {first}"
        )

    async def refuse_beside_a_way_back(self, tenant_id: TenantId) -> None:
        """A tenant that may still return does not leave in another direction.

        Raises:
            PreflightError: naming the two verbs that end that.
        """
        way = await WaysBack(self._migrations.pool).of_tenant(tenant_id)
        if way is None or way.state == "preparing":
            return
        moved = f"tenant {tenant_id} has already moved, from {way.target_store_id!r} to"
        if way.shown in ("expired", "closing"):
            rest = f"and {what_is_left_of(way.migration_id)}, and lets it move on"
        else:
            rest = (
                f"and may still return: `eventsource-migrate return {way.migration_id}` takes it"
                f" back, `eventsource-migrate way-back close {way.migration_id}` ends that and"
                " lets it move on"
            )
        raise PreflightError([f"{moved} {way.source_store_id!r}, {rest}"])

    async def _known_way_back(self, tenant_id: TenantId) -> list[str]:
        """What refuses a move beside a way back, where the control database knows of one."""
        try:
            await self.refuse_beside_a_way_back(tenant_id)
        except PreflightError as refused:
            return list(refused.problems)
        except (asyncpg.PostgresError, OSError):
            # What is wrong with the control database is among what was found.
            pass
        return []

    async def _ask(
        self,
        way: WayBack,
        move: Migration,
        keep_way_back: float | str | None,
        operator: str | None,
        required: bool,
    ) -> None:
        # What the move required of its own way back is not asked of the way forth.
        config: dict[str, object] = {"require_way_back": required}
        if keep_way_back is not None:
            kept = MigrationConfig(keep_way_back=keep_way_back)  # type: ignore[arg-type]
            config["keep_way_back"] = kept.keep_way_back
        await self._drivers.refuse_other_places(move)
        await self._drivers.refuse_gone_back(way, returns=True)
        ways = WaysBack(self._migrations.pool)
        if not await ways.ask_return(way, config, operator):
            now = await ways.get(way.id)
            assert now is not None
            if now.state != "returning":
                raise InvalidStateTransitionError(way.migration_id, why_not(now), "return")

    async def _drivers_cutover(
        self, way_id: UUID, operator: str | None, max_pause_seconds: float | None
    ) -> Migration:
        migration = await self._migrations.get(way_id)
        if migration.state is MigrationState.MIGRATED:
            return migration
        return await self.initiate_cutover(
            way_id, operator=operator, max_pause_seconds=max_pause_seconds
        )

    async def close_way_back(
        self, migration_id: UUID, *, reason: str = "closed", operator: str | None = None
    ) -> WayBack:
        """End the way back of a migration now; what it has carried goes with the old rows.

        Raises:
            InvalidStateTransitionError: there is none that could be closed: the tenant has not
                moved yet, or a return is asked for.
            StoreGoneBackError: the tenant's home has gone back, and the old store may have events
                that it has lost: repair first.
        """
        way = await self.way_back(migration_id)
        if way is None:
            raise MigrationError(f"migration {migration_id} has no way back")
        refuse_newer(way)
        if way.moved_state not in _OVER:
            raise InvalidStateTransitionError(migration_id, way.moved_state, _CLOSE_TOO_EARLY)
        ways = WaysBack(self._migrations.pool)
        if way.state in ("closed", "refused"):
            return way
        await self._drivers.refuse_other_places(await self._migrations.get(migration_id))
        await self._drivers.refuse_gone_back(way)
        if way.state != "closing" and not await ways.end(
            way.id, reason, now=True, operator=operator
        ):
            await _refuse_unless_ending(ways, way)
        await self._drivers.close_way_back(way.id)
        found = await ways.get(way.id)
        assert found is not None
        return found


async def _refuse_unless_ending(ways: WaysBack, before: WayBack) -> None:
    """What nobody could end: by now another process may have ended it, or asked for the return.

    Raises:
        InvalidStateTransitionError: it is not ended.
    """
    way = await ways.get(before.id)
    assert way is not None
    if way.state in ("closing", "closed"):
        return
    first = (
        f": abort the return first (`eventsource-migrate abort {way.id}`)"
        if way.state == "returning" and way.shown != "returned"
        else ""
    )
    raise InvalidStateTransitionError(way.migration_id, why_not(way), f"close its way back{first}")


def refuse_newer(way: WayBack) -> None:
    """Before anything is done with it.

    Raises:
        ProtocolVersionError: a newer version carries it on.
    """
    if way.is_newer:
        raise ProtocolVersionError(way.migration_id, way.protocol)


def what_is_left_of(migration_id: UUID) -> str:
    """Of a way back whose time is over, while nobody has ended it; as the end of "and …"."""
    return (
        f"the way back of migration {migration_id} is over, but nothing has taken it down"
        f" yet: a `work` does, or `eventsource-migrate way-back close {migration_id}`"
    )


def why_not(way: WayBack) -> str:
    """Why nobody can return by it, as the end of "is …"."""
    why = f" ({way.reason})" if way.reason else ""
    if way.state == "standby" and way.is_over:
        return f"finished (its way back ended at {way.kept_until:%Y-%m-%d %H:%M:%S} UTC)"
    if way.state == "standby":
        return f"{way.moved_state}: its way back waits for the cutover"
    if way.shown == "returned":
        return f"over (its tenant has returned with migration {way.id})"
    if way.state == "returning":
        return f"returning (migration {way.id})"
    return f"without a way back: it is {way.state}{why}"
