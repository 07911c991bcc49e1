"""A control database with 100,000 migrations, and every statement that is made of it."""

from __future__ import annotations

import ast
import hashlib
import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

import eventsource
from eventsource.fleet import checks
from eventsource.migration.repositories import listing
from eventsource.migration.repositories.listing import Wanted
from eventsource.migration.repositories.migrations import INSERT, TRANSITION
from eventsource.migration.states import MigrationState
from eventsource.named_sql import statements
from tests.support.application import SOURCE, TARGET

MIGRATIONS, TENANTS = 100_000, 5_000

#: Tables that have a row for each migration, tenant or move.
TABLES = (
    "tenant_migrations", "migration_wave_items", "migration_audit_log", "tenant_routing",
    "migration_position_mappings", "tenant_ways_back", "migration_route_hooks",
    "migration_router_reports",
)  # fmt: skip

#: Where statements stand.
FILES = {
    "eventsource.migration.repositories.sql": (
        "control_place.sql", "listing.sql", "lookups.sql", "migrations.sql", "positions.sql",
        "route_hooks.sql", "router_reports.sql", "routing.sql", "waves.sql", "ways_back.sql",
    ),
    "eventsource.fleet.sql": ("view.sql", "waves.sql"),
}  # fmt: skip

#: Parts of statements, which :func:`composed` puts together.
PARTS = {
    "listing.of_states", "listing.active", "listing.over", "listing.of_tenant",
    "listing.source_store_id", "listing.target_store_id", "listing.since", "listing.until",
    "listing.operator", "listing.after", "listing.newest", "listing.each", "listing.count",
    "listing.by_pair", "migrations.insert", "migrations.select_columns", "migrations.transition",
    "routing.select", "ways_back.select_columns",
    "waves.wave_columns", "waves.item_columns", "positions.through_returns",
    "positions.lowest_target_after_through_returns", "positions.highest_target_through_returns",
    "positions.count_through_returns",
}  # fmt: skip

_FILL = (
    """
insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,
    events_copied, total_events, created_at, started_at, completed_at, config, cutover_pause_ms)
select md5('m' || n)::uuid, md5('t' || n)::uuid::text, 'shared', 'dedicated-a',
       case when n <= 40 then 'bulk_copy' when n % 4000 = 50 then 'failed' else 'migrated' end,
       n * 131 % 30000, n * 131 % 30000, now() - n * interval '1 minute',
       now() - n * interval '1 minute', now(), $2::text::jsonb,
       case when n > 40 then n % 90 / 7.0 end
from generate_series(1, $1::int) n
""",
    """
insert into migration_audit_log (migration_id, event_type, details, created_at, operator)
select m.id, e.type, case e.type when 'cutover_answered' then '{"code": "ok"}'::jsonb else '{}' end,
       m.created_at + e.after,
       case when e.type <> 'state:pending' then null
            when hashtext(m.id::text) % 1000 = 0 then 'ada' else 'cron' end
from tenant_migrations m cross join (values
    ('state:pending', interval '0 s'), ('state:bulk_copy', interval '1 s'),
    ('state:dual_write', interval '2 s'), ('cutover_answered', interval '3 s'),
    ('state:migrated', interval '3 s')) as e(type, after)
""",
    """
with waves as (
    insert into migration_waves (id, name, state, settings)
    select md5('w' || n)::uuid, 'wave ' || n, case when n = 1 then 'running' else 'done' end, '{}'
    from generate_series(1, $1::int / $2::int) n
)
insert into migration_wave_items (wave_id, tenant_id, ordinal, source_store_id, target_store_id,
    events, bytes, outcome, migration_id, began_at, ended_at)
select md5('w' || ((n - 1) / $2::int + 1))::uuid, md5('t' || n)::uuid::text, (n - 1) % $2::int + 1,
       'shared', 'dedicated-a', 1000, 100000,
       case when n > 1000 then 'moved' when n > 900 then 'refused' end, md5('m' || n)::uuid,
       case when n <= 40 or n > 900 then now() end,
       case when n > 900 then now() - (n % 3000) * interval '1 s' end
from generate_series(1, $1::int) n
""",
    """
insert into tenant_routing (tenant_id, store_id, generation, migration_id, updated_at)
select tenant_id, target_store_id, 1, id, created_at from tenant_migrations
""",
    """
insert into migration_route_hooks (tenant_id, generation) select tenant_id, 1 from tenant_routing
""",
    """
insert into migration_position_mappings (migration_id, source_position, target_position, event_id)
select id, 1, 2, id from tenant_migrations
""",
    """
insert into migration_router_reports (migration_id, router, ready)
select id, 'router', true from tenant_migrations
""",
    """
insert into tenant_ways_back (id, migration_id, tenant_id, state, generation, keep_seconds)
select id, id, tenant_id, case when created_at > now() - interval '2 hours' then 'standby'
                               else 'closed' end, 1, 86400
from tenant_migrations
""",
)

#: Makes a plan that knows no parameters, as a session does that runs a statement often.
_PLAN = """
create or replace function pg_temp.generic_plan(statement text) returns json language plpgsql as $$
declare plan json;
begin
    execute 'explain (generic_plan, format json) ' || statement into plan;
    return plan;
end $$
"""


async def fill(control: asyncpg.Connection, config: str, migrations: int = MIGRATIONS) -> None:
    """Rows of so many migrations of as many tenants, in waves of 5,000; 40 are under way."""
    # Foreign keys are looked at row by row, which takes longer than all the rest.
    await control.execute("set session_replication_role = replica")
    for each in _FILL:
        given = (migrations, config if "config" in each else TENANTS)
        await control.execute(each, *given[: each.count("$1") and (2 if "$2" in each else 1)])
    await control.execute("reset session_replication_role")
    await control.execute(
        "update tenant_migrations set driver_expires_at = now() + interval '1 hour',"
        " driver_owner = id where state = 'bulk_copy'"
    )
    for table in (*TABLES, "migration_waves"):
        await control.execute(f"vacuum analyze {table}")
    await control.execute(_PLAN)


def named() -> Iterator[tuple[str, str]]:
    """Every whole statement of the files, by its file and name."""
    for package, files in FILES.items():
        for file in files:
            for name, statement in statements(package, file).items():
                whole = f"{file.removesuffix('.sql')}.{name}"
                if whole not in PARTS:
                    yield whole, statement


def composed() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Every statement that code puts together, with parameters as it gets them."""
    sql = statements("eventsource.migration.repositories.sql", "migrations.sql")
    places = statements("eventsource.migration.repositories.sql", "positions.sql")
    routes = statements("eventsource.migration.repositories.sql", "routing.sql")["select"]
    waves = statements("eventsource.fleet.sql", "waves.sql")
    select, items = sql["select_columns"], waves["item_columns"]
    wave_columns = waves["wave_columns"]
    one, tenant, wave = UUID(int=1), str(UUID(int=1)), uuid4()
    order = "order by created_at, id"
    active = "where state not in ('migrated', 'rolled_back', 'failed')"
    yield "get", f"{select} where id = $1", (one,)
    made = (one, tenant, SOURCE, TARGET, "{}", 0, "{}", None, None, None, None, 1, None)
    yield "insert", INSERT, made
    moved = (one, "pending", "bulk_copy", one, "{}", None, None, None, None, 1)
    yield "transition", TRANSITION, moved
    yield "get_active", f"{select} {active} {order}", ()
    ids = [str(one), str(wave)]
    yield "get_many", f"{select} where id = any ($1::text[]::uuid[]) {order}", (ids,)
    yield "get_by_tenant", f"{select} where tenant_id = $1 {order}", (tenant,)
    yield "route", f"{routes} r.tenant_id = $1", (tenant,)
    yield "routes", f"{routes} r.tenant_id = any($1::text[])", ([tenant],)
    yield from _of_ways_back(one, tenant)
    for name, given in (
        ("lowest_target_after", (1,)),
        ("highest_target", ()),
        ("count", (1, 2, 3)),
    ):
        statement = f"{places['through_returns']} {places[f'{name}_through_returns']}"
        yield f"mapping.{name}", statement, (one, *given)
    yield "wave", f"{wave_columns} where name = $1", ("wave 1",)
    yield "wave by id", f"{wave_columns} where id = $1", (wave,)
    newest = "order by created_at desc, id"
    yield "waves", f"{wave_columns} {newest} limit $1", (20,)
    yield "waves in state", f"{wave_columns} where state = $1 {newest} limit $2", ("running", 20)
    yield "waves not done", f"{wave_columns} where state <> 'done' {newest} limit $1", (20,)
    yield "waves by id", f"{wave_columns} where id = any ($1::uuid[]) {newest}", ([wave],)
    yield "find", f"{items} where wave_id = $1 and tenant_id = $2", (wave, tenant)
    yield (
        "items",
        f"{items} where wave_id = $1 and ordinal > $2"
        " and ($3::text is null or outcome = $3) and (not $4 or outcome is null)"
        " order by ordinal limit $5",
        (wave, 0, None, True, 100),
    )
    seen = statements("eventsource.fleet.sql", "view.sql")
    running = UUID(hashlib.md5(b"w1").hexdigest())
    yield "view.pauses", seen["pauses"], (running,)
    yield "view.proofs", seen["proofs"], (running, 0, 2000)
    hooks = statements("eventsource.migration.repositories.sql", "route_hooks.sql")
    yield "route_hooks.pending_lately", hooks["pending_lately"], (100, 900.0)
    yield "checks", checks._ACTIVE, ([tenant],)
    yield from _listed()


def _of_ways_back(one: UUID, tenant: str) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    way = statements("eventsource.migration.repositories.sql", "ways_back.sql")["select_columns"]
    yield "way.get", f"{way} where w.id = $1", (one,)
    yield (
        "way.of_migration",
        f"{way} where w.migration_id = $1 order by w.created_at desc limit 1",
        (one,),
    )
    yield (
        "way.of_tenant",
        f"{way} where w.tenant_id = $1 and w.state in ('preparing', 'standby', 'closing')"
        " order by w.created_at desc limit 1",
        (tenant,),
    )
    yield "way.standing_by", f"{way} where w.state = 'standby' order by w.created_at, w.id", ()
    yield (
        "way.due",
        f"{way} where w.state in ('standby', 'closing')"
        " and (w.state = 'closing' or m.state = 'migrated')"
        " and coalesce(w.driver_expires_at < now(), true)"
        " order by w.followed_at nulls first, w.id",
        (),
    )


def _listed() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """`list` with each of its filters, and with each two of them."""
    now = datetime.now(UTC)
    failed, moved = (MigrationState.FAILED,), (MigrationState.MIGRATED,)
    filters: dict[str, dict[str, Any]] = {
        "failed": {"states": failed},
        "migrated": {"states": moved},
        "active": {"active": True},
        "over": {"active": False},
        "tenant": {"tenant_id": UUID(int=1)},
        "from": {"source_store_id": SOURCE},
        "from nowhere": {"source_store_id": "nowhere"},
        "to": {"target_store_id": TARGET},
        "since": {"since": now - timedelta(days=1)},
        "until": {"until": now - timedelta(days=30)},
        "ada": {"operator": "ada"},
        "cron": {"operator": "cron"},
    }
    after = UUID("b5a27bcc-d16a-4562-27f5-6f7dc8dd2bde")
    yield "list", *_with(listing.paged(Wanted(), None), 51)
    for number in (1, 2):
        for names in itertools.combinations(filters, number):
            given = [filters[name] for name in names]
            if len({key for each in given for key in each}) < number:
                continue
            wanted = Wanted(**{key: value for each in given for key, value in each.items()})
            name = f"list {' and '.join(names)}"
            yield name, *_with(listing.paged(wanted, None), 51)
            yield f"{name} after", *_with(listing.paged(wanted, after), 51)
            yield f"{name}, left", *_with(listing.left(wanted, after), listing.COUNTED)


def _with(made: tuple[str, list[object]], limit: int) -> tuple[str, tuple[Any, ...]]:
    return made[0], (*made[1], limit)


_ROOMS = ("migration/repositories", "fleet", "cli")
_LOOKS = re.compile(r"^(select|update|insert into|delete from|with|where|and) ")


def written_in_code() -> Iterator[tuple[str, str]]:
    """Where code of the rooms with control-plane statements has one in itself: file and text."""
    package = Path(eventsource.__file__).parent
    for room in _ROOMS:
        for path in sorted((package / room).rglob("*.py")):
            tree = ast.parse(path.read_text())
            docs = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(
                    node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
                )
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in docs
                    and _LOOKS.match(text := " ".join(node.value.split()))
                    and re.search("[=<>(]", text)
                    and (room != "cli" or any(table in text for table in TABLES))
                ):
                    yield str(path.relative_to(package)), text
