"""`plan`: before each move."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import typer

from eventsource.cli import prospects, readers, under_way
from eventsource.cli.choice import StoreFrom, StoreTo, TenantArgument
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, duration, grid, megabytes
from eventsource.cli.tenants import no_event
from eventsource.cli.workspace import Workspace
from eventsource.identifiers import qualified, quote_identifier
from eventsource.migration.event_table import of_store
from eventsource.migration.journaled import tenants as layout_tenants
from eventsource.migration.preflight import admission
from eventsource.migration.preflight.findings import Findings
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.tenant_ids import TenantId, as_uuid

#: Events per second that a copy reaches on small and on large machines: what an estimate can say
#: without copying anything.
SLOW_RATE, FAST_RATE = 15_000.0, 60_000.0

#: Jobs over all tenants change or delete events too, and fail for all once one has moved.
_ERASURE = (
    "jobs over all tenants are refused at the source from the start (EVF02, EVF01); leave out:"
    " tenant_id::text in (select tenant_id from eventsource_fences)"
)

#: Bytes of a position mapping in the control database, with its indexes.
MAPPING_ROW = 160

#: A mapping of so many bytes is worth a word about how to do without.
WORTH_SAVING = 10**9

#: Rows whose size is looked at for the estimate.
_SAMPLE = 1000


def plan(
    ctx: typer.Context,
    tenant: TenantArgument,
    to: StoreTo,
    source: StoreFrom = None,
) -> None:
    """Check a move and estimate it; changes nothing."""

    async def look(at: Workspace) -> ExitCode:
        at.settings.require_store(to)
        tenant_id = at.tenant(tenant)
        home = await at.home_of(tenant_id)
        if home == to and source is None:
            at.out.answer(
                {"outcome": "already_there", "tenant_id": tenant_id, "store": home},
                f"nothing to do: tenant {tenant_id} lives in {home!r} already",
            )
            return ExitCode.DONE
        begun = await under_way.find(at, tenant_id, source or home, to)
        if begun is not None:
            return await under_way.show(at, begun)
        return await _plan(at, tenant_id, to, source or home)

    perform(ctx, look)


async def _plan(at: Workspace, tenant_id: TenantId, to: str, source_id: str) -> ExitCode:
    at.settings.require_store(source_id)
    await at.reach_for_move(source_id, to)
    # What a start asks first: another name of the same store is not where the tenant lives.
    default = admission.unrouted_home(at.stores[source_id], source_id, at.router.default_store_id)
    await admission.generation_of(
        at.migrations, at.routes, tenant_id, source_id, default_store_id=default
    )
    source, target = at.stores[source_id], at.stores[to]
    findings = await at.coordinator.preflight(tenant_id, source, target)
    findings.raise_if_refused()
    events, average, with_indexes = await _size(source, tenant_id)
    room, saved = _room(at, source, events, events * with_indexes)
    prospect = await at.coordinator.way_back_prospect(source, target)
    earlier = await under_way.earlier_rehearsals(at, tenant_id, source_id, to)
    subscriptions = await readers.of_move(at, tenant_id, source_id, to)
    warnings = list(findings.warnings)
    if not events:
        warnings.append(f"{no_event(tenant_id, source_id)}; `run` asks for --empty to move it")
    shortest, longest = _seconds_of(events, at.settings.migration.max_events_per_second)
    at.out.answer(
        {
            "tenant_id": tenant_id,
            "source": source_id,
            "target": to,
            "events": events,
            "bytes": round(events * average),
            "estimated_seconds": [round(shortest, 1), round(longest, 1)],
            "columns": findings.columns,
            "not_carried": dict(findings.filled),
            "fires": findings.fires,
            "companions": findings.companions,
            "waits": findings.waits,
            "connections": _connections(findings),
            "room": room,
            "subscriptions": subscriptions,
            "way_back": prospect,
            "rehearsals": earlier,
            "remarks": findings.remarks,
            "warnings": warnings,
            "findings": findings.found,
        },
        grid(
            ("tenant", tenant_id),
            ("move", f"{source_id!r} to {to!r}"),
            ("events", f"{amount(events)}, about {megabytes(events * average)}"),
            ("copy", _between(duration(shortest), duration(longest))),
            *_of_findings(findings, await _erasure(source)),
            ("room", _of_room(room, saved)),
            ("subscriptions", readers.described(subscriptions, source_id, datetime.now(UTC))),
            *prospects.rows(prospect),
            ("cutover", under_way.prediction(earlier)),
            *under_way.rows(earlier),
            ("open now", "; ".join(findings.remarks) or None),
            ("preflight", "passed; nothing was changed"),
        ),
    )
    for warning in warnings:
        at.out.warn(warning)
    return ExitCode.DONE


def _room(
    at: Workspace, source: PostgreSQLEventStore, events: int, stored: float
) -> tuple[dict[str, int], int]:
    """Bytes on either side, and how many more they were with a mapping row for each event."""
    # Positions of other libraries' tables are not mapped.
    rows = events * MAPPING_ROW if source.layout is None else 0
    saved = rows if at.settings.migration.position_mapping == "offset" else 0
    return {"target": round(stored), "control": rows - saved}, saved


def _seconds_of(events: int, rate: float | None) -> tuple[float, float]:
    """Of the copy, at least and at most; ``rate`` is the limit that somebody has set."""
    return events / min(FAST_RATE, rate or FAST_RATE), events / min(SLOW_RATE, rate or SLOW_RATE)


async def _erasure(store: PostgreSQLEventStore) -> str:
    """What becomes of jobs over all tenants, and the condition that leaves the moved ones out."""
    if store.layout is None:
        return _ERASURE
    tenancy = store.layout.main.tenancy
    said = "what jobs change and delete is carried while the tenant moves, and refused afterwards"
    if tenancy.column is None and tenancy.expression is None:
        return f"{said} at the source (EVF01)"
    whose = quote_identifier(tenancy.column) if tenancy.column else f"({tenancy.expression})"
    moved = f"(select tenant_id from {(await of_store(store)).fences})"
    return f"{said} at the source (EVF01); leave out: {whose}::text in {moved}"


def _of_findings(findings: Findings, erasure: str) -> list[tuple[str, object]]:
    return [
        ("columns", ", ".join(findings.columns)),
        ("not carried", "; ".join(f"{name} ({why})" for name, why in findings.filled)),
        ("fires", ", ".join(findings.fires) or "no trigger of yours"),
        ("stay", ", ".join(findings.companions) or "no table with this tenant beside it"),
        ("at the fence", findings.waits),
        ("erasure", erasure),
        (
            "connections",
            "{needed} needed at the target, {free} free".format(**_connections(findings)),
        ),
    ]


def _between(least: str, most: str) -> str:
    return f"about {least}" if least == most else f"about {least} to {most}"


def _of_room(room: Mapping[str, float], saved: float) -> str:
    """``saved`` is what the mapping's rows would take where an offset stands for them."""
    control = f"{megabytes(room['control'])} in the control database"
    if saved:
        control = (
            f'none in the control database (position_mapping "offset" saves {megabytes(saved)})'
        )
    elif room["control"] >= WORTH_SAVING:
        control += ' (position_mapping = "offset" needs none)'
    return (
        f"about {megabytes(room['target'])} at the target and {control}; servers do not say over"
        " SQL what is free"
    )


def _connections(findings: Findings) -> dict[str, int | None]:
    needed, free = findings.connections or (None, None)
    return {"needed": needed, "free": free}


async def _size(store: PostgreSQLEventStore, tenant_id: TenantId) -> tuple[int, float, float]:
    """The tenant's events, the average bytes of one, and those with its share of the indexes."""
    if store.layout is not None:
        events, average = await layout_tenants.size_of(await of_store(store), tenant_id)
        return events, average, 2 * average
    name = qualified(await store.resolve_schema(), store.table_name)
    tenant = as_uuid(tenant_id)
    async with store.pool.acquire() as connection:
        events = await connection.fetchval(
            f"select count(*) from {name} where tenant_id = $1", tenant
        )
        average = await connection.fetchval(
            "select avg(pg_column_size(sample.*))::float8 from"
            f" (select * from {name} where tenant_id = $1 limit $2) sample",
            tenant,
            _SAMPLE,
        )
        # Without statistics the indexes are taken for as large as the rows.
        whole = await connection.fetchval(
            "select (pg_total_relation_size(oid) / nullif(greatest(reltuples, 0), 0))::float8"
            " from pg_class where oid = $1::text::regclass",
            name,
        )
    average = average or 0.0
    return events, average, max(average, whole or 2 * average)
