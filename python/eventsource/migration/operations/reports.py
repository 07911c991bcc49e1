"""What can be shown of a migration afterwards: everything that the three databases know of it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from eventsource.connections import redact
from eventsource.errors import EventSourceError
from eventsource.migration.errors import StoreMismatchError
from eventsource.migration.event_table import of_store
from eventsource.migration.operations import afterwards
from eventsource.migration.operations.afterwards import utc
from eventsource.migration.repositories.audit import PostgreSQLAuditLogRepository
from eventsource.migration.steps import authority
from eventsource.migration.subscriptions.redelivered import CARRIED_OVER
from eventsource.migration.tables import fences, identities, progress

if TYPE_CHECKING:
    from eventsource.migration.background import BackgroundDrivers
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.models import Migration
    from eventsource.migration.repositories.audit import AuditEntry
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.routing.router import TenantStoreRouter
    from eventsource.subscriptions.checkpoints import CheckpointRepository

#: What a level of verification does not see; `what-verification-sees.md` has the whole table.
BLIND_SPOTS: dict[str, str | None] = {
    "count": "an event that was replaced by another one of the same stream and version",
    "hash": "two rows that differ and have one digest of 128 bits",
    "full": None,
}

#: How long a store is waited for (seconds); a report is made without one that does not answer.
ASKED_SECONDS = 10.0

#: How long who looks at a migration waits for its stores (seconds).
LOOKED_AT_SECONDS = 2.0

#: Entries of the audit log that say how far something has come.
_OF_VERIFICATION = ("verified", "state:dual_write")


class Reports:
    """Of the coordinator: what says how a move went."""

    _migrations: PostgreSQLMigrationRepository
    _drivers: BackgroundDrivers
    _router: TenantStoreRouter

    async def report(
        self, migration_id: UUID, checkpoints: CheckpointRepository | None = None
    ) -> dict[str, Any]:
        """Everything that is known of a migration, as a document for JSON; changes nothing.

        Times are UTC. What a store that cannot be reached would say is replaced by the reason.

        Args:
            checkpoints: of the subscriptions that were carried over. With them ``redelivery`` has
                how many events each has got twice by now.
        """
        from eventsource import __version__

        migration = await self._migrations.get(migration_id)
        log = await PostgreSQLAuditLogRepository(self._migrations.pool).get_by_migration(
            migration_id
        )
        source, target = await asyncio.gather(
            self._store(migration, "source"), self._store(migration, "target")
        )
        return {
            "made_at": utc(datetime.now(UTC)),
            "product": {"name": "eventsource-migration", "version": __version__},
            "migration": _of_migration(migration),
            "who": sorted({entry.operator for entry in log if entry.operator}),
            "states": [_of_state(entry) for entry in log if entry.event_type.startswith("state:")],
            "stores": {"source": source, "target": target},
            "control": {"server": await self._migrations.pool.fetchval("show server_version")},
            "verification": _verification(migration, log),
            "rehearsals": [
                {"at": utc(entry.created_at), **entry.details}
                for entry in log
                if entry.event_type == "rehearsal_answered"
            ],
            "cutover": {
                **_cutover(migration, log),
                **await afterwards.longest_append(self._migrations, migration.id),
            },
            "subscriptions": [
                {"at": utc(entry.created_at), "by": entry.operator, **entry.details}
                for entry in log
                if entry.event_type == CARRIED_OVER
            ],
            "redelivery": await afterwards.redelivery(
                self._migrations, migration, log, checkpoints, self._router.stores
            ),
            **await afterwards.of(self._migrations, migration, log),
            "log": [
                {
                    "at": utc(entry.created_at),
                    "what": entry.event_type,
                    "by": entry.operator,
                    "details": entry.details,
                }
                for entry in log
            ],
        }

    async def disagreement(self, migration_id: UUID) -> str | None:
        """Which store has gone back to before the move was decided or opened, and what to do; or
        why that cannot be seen now.

        None where the stores agree, or where this process does not know both. Changes nothing.
        """
        migration = await self._migrations.get(migration_id)
        if not self._drivers.knows(migration):
            return None
        try:
            async with asyncio.timeout(LOOKED_AT_SECONDS):
                source, target = [
                    await of_store(each) for each in self._drivers.stores_of(migration)
                ]
                await identities.check(migration, source, target)
                return await authority.disagreement(source, target, migration)
        except StoreMismatchError as error:
            return str(error)
        except (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            reason = redact(str(error)) or "no answer"
            return f"whether a store has gone back cannot be seen now: {reason}"

    async def _store(self, migration: Migration, side: str) -> dict[str, Any]:
        store_id = migration.source_store_id if side == "source" else migration.target_store_id
        recorded = migration.source_identity if side == "source" else migration.target_identity
        described: dict[str, Any] = {
            "store": store_id,
            "identity": asdict(recorded) if recorded is not None else None,
        }
        try:
            async with asyncio.timeout(ASKED_SECONDS):
                table = await of_store(self._drivers.store_of(store_id))
                here = await identities.of(table)
                if recorded is not None and here != recorded:
                    return {**described, "unknown": "the address leads to another place now"}
                if table.layout is not None:
                    described["tables"] = [each.name for each in table.layout.tables]
                described["server"] = await table.connection.fetchval("show server_version")
                described |= await _beside(table, migration, side)
        except (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            described["unknown"] = redact(str(error)) or type(error).__name__
        return described


async def _beside(table: AnyTable, migration: Migration, side: str) -> dict[str, Any]:
    """What the store itself says of the move."""
    found: dict[str, Any] = {}
    fence = await fences.of_migration(table, migration.id, side)
    if fence is not None:
        found["fence"] = {
            "state": fence.state,
            "generation": fence.generation,
            "moved_to": fence.moved_to,
            "source_head": fence.source_head,
        }
        if fence.proof is not None:
            found["decided_on"] = {
                "last_pass": fence.proof.last_pass,
                "token": str(fence.proof.token),
                "rows_of_last_pass": fence.proof.rows,
                "digest_of_last_pass": fence.proof.digest.hex(),
                "events": fence.proof.total,
            }
    at = await progress.read(table, migration.id) if side == "target" else None
    if at is not None:
        found["passes"] = {
            "number": at.pass_number,
            "rows_inserted": at.rows_copied,
            "rows_of_last_pass": at.pass_rows,
            "digest_of_last_pass": at.pass_digest.hex(),
            "bulk_copy_snapshot": at.sealed_snapshot,
            "last_proven_snapshot": at.proven_snapshot,
            "columns": list(at.columns or ()),
        }
    return found


def _of_migration(migration: Migration) -> dict[str, Any]:
    return {
        "id": str(migration.id),
        "tenant_id": str(migration.tenant_id),
        "from": migration.source_store_id,
        "to": migration.target_store_id,
        "state": migration.state.value,
        "events": migration.total_events,
        "carried": migration.events_copied,
        "asked_at": utc(migration.created_at),
        "copy_began_at": utc(migration.started_at),
        "ended_at": utc(migration.completed_at),
        "position_offset": migration.position_offset,
        "fence_position": migration.fence_position,
        "message": migration.error_message,
        "configuration": asdict(migration.config),
    }


def _of_state(entry: AuditEntry) -> dict[str, Any]:
    return {
        "state": entry.event_type.removeprefix("state:"),
        "since": utc(entry.created_at),
        "by": entry.operator,
    }


def _verification(migration: Migration, log: list[AuditEntry]) -> dict[str, Any]:
    level = migration.config.verification_level.value
    made = [entry for entry in log if entry.event_type == "verified"]
    return {
        "level": level,
        "sample_percentage": migration.config.sample_percentage,
        "does_not_see": BLIND_SPOTS[level],
        "made": [{"at": utc(entry.created_at), "by": entry.operator, **entry.details}
                 for entry in made],
        "every_pass": "each row is read back from the target and compared by its digest",
    }  # fmt: skip


def _cutover(migration: Migration, log: list[AuditEntry]) -> dict[str, Any]:
    figures = next((e.details for e in reversed(log) if e.event_type == "cutover"), {})
    asked = [e for e in log if e.event_type == "cutover_requested"]
    return {
        "asked": [
            {"at": utc(entry.created_at), "by": entry.operator, **entry.details} for entry in asked
        ],
        "fence_held_ms": migration.cutover_pause_ms,
        "longest_wait_of_a_writer_ms": migration.longest_wait_ms,
        **figures,
    }
