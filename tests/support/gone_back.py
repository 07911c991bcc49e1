"""Stores that have gone back, without a server that is restored for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tests.support.worlds.three_databases import World, table


async def lose(world: World, events: Sequence[UUID], *, barriers: bool = True) -> None:
    """The source has forgotten these events, and the barriers of every pass, as after a restore.

    It hands their positions out again.
    """
    await world.source.execute(f"alter table {table('source')} disable trigger all")
    await world.source.execute(
        f"delete from {table('source')} where event_id = any ($1::uuid[])", list(events)
    )
    for name in await world.source.fetch(
        "select tgname, tgname ~ 'guard|announce' as always from pg_trigger"
        f" where tgrelid = '{table('source')}'::regclass and not tgisinternal"
    ):
        always = "always" if name["always"] else ""
        await world.source.execute(
            f'alter table {table("source")} enable {always} trigger "{name["tgname"]}"'
        )
    await world.source.execute(
        f"select setval(pg_get_serial_sequence('{table('source')}', 'global_position'),"
        f" (select coalesce(max(global_position), 1) from {table('source')}))"
    )
    if barriers:
        await world.source.execute("delete from eventsource_witnesses")


async def forget_control(world: World) -> None:
    """The control database is there, and empty."""
    await world.control.execute(
        "truncate tenant_migrations, tenant_routing, migration_position_mappings,"
        " migration_audit_log cascade"
    )


async def forget_departure(world: World, *, fence: str) -> None:
    """The source has forgotten the decision; ``fence`` is what it says: "none" or "open"."""
    if fence == "none":
        await world.source.execute("delete from eventsource_fences where role = 'source'")
    else:
        await world.source.execute(
            "update eventsource_fences set state = 'open', generation = generation - 1,"
            " moved_to = null, source_head = null, decided_token = null where role = 'source'"
        )
    await world.source.execute(f"select eventsource_guard_renew('{table('source')}'::regclass)")


async def home_loses(world: World, events: Sequence[UUID]) -> None:
    """The target, where the tenant lives, has forgotten its last events and all barriers.

    It hands their positions out again.
    """
    await world.target.execute(f"alter table {table('target')} disable trigger all")
    first = await world.target.fetchval(
        f"with gone as (delete from {table('target')} where event_id = any ($1::uuid[])"
        " returning global_position) select min(global_position) from gone",
        list(events),
    )
    await world.target.execute(f"alter table {table('target')} enable trigger all")
    await world.target.execute(f"select eventsource_guard_renew('{table('target')}'::regclass)")
    await world.target.execute(
        f"select setval(pg_get_serial_sequence('{table('target')}', 'global_position'), $1)",
        first - 1,
    )
    await world.target.execute("delete from eventsource_witnesses where pass_number > 0")


async def rescued(world: World, side: str = "target") -> set[UUID]:
    rows = await getattr(world, side).fetch("select event_id from eventsource_rescued_events")
    return {row["event_id"] for row in rows}


@dataclass(frozen=True, slots=True)
class Remembered:
    """Fences and progress rows of both stores, as of a moment, as JSON."""

    rows: dict[tuple[str, str], list[str]]

    @classmethod
    async def of(cls, world: World) -> Remembered:
        rows = {}
        for side in ("source", "target"):
            for name in _OF_MIGRATIONS:
                found = await getattr(world, side).fetch(f"select to_jsonb(t)::text from {name} t")
                rows[side, name] = [row[0] for row in found]
        return cls(rows)

    async def put_back(self, world: World) -> None:
        """Both stores say again what they said then; their events stay."""
        for (side, name), rows in self.rows.items():
            connection = getattr(world, side)
            await connection.execute(f"delete from {name}")
            for row in rows:
                columns = ", ".join(json.loads(row))
                await connection.execute(
                    f"insert into {name} ({columns}) overriding system value select {columns}"
                    f" from jsonb_populate_record(null::{name}, $1::text::jsonb)",
                    row,
                )
        for side in ("source", "target"):
            renew = f"select eventsource_guard_renew('{table(side)}'::regclass)"
            await getattr(world, side).execute(renew)


_OF_MIGRATIONS = ("eventsource_fences", "eventsource_copy_progress")


@dataclass(frozen=True, slots=True)
class ControlRows:
    """Everything that the control database says, as of a moment, as JSON."""

    rows: dict[str, list[str]]

    @classmethod
    async def of(cls, world: World) -> ControlRows:
        rows = {}
        for name in _OF_CONTROL:
            found = await world.control.fetch(f"select to_jsonb(t)::text from {name} t")
            rows[name] = [row[0] for row in found]
        return cls(rows)

    async def put_back(self, world: World) -> None:
        """It says again what it said then, and no process is there that remembers more."""
        for process in world.processes:
            await process.stop()
        world.processes.clear()
        await forget_control(world)
        for name, rows in self.rows.items():
            for row in rows:
                columns = ", ".join(json.loads(row))
                await world.control.execute(
                    f"insert into {name} ({columns}) overriding system value select {columns}"
                    f" from jsonb_populate_record(null::{name}, $1::text::jsonb)",
                    row,
                )
        # A backup is older than the leases in it.
        await world.control.execute("update tenant_migrations set driver_expires_at = null")


_OF_CONTROL = (
    "tenant_migrations",
    "tenant_routing",
    "migration_position_mappings",
    "tenant_ways_back",
)
