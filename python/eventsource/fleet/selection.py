"""Which tenants a wave moves, and where to: of a file, of a query, or the largest of a store."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from eventsource.errors import EventSourceError
from eventsource.fleet.waves import Candidate, WaveError
from eventsource.tenant_ids import TenantId

if TYPE_CHECKING:
    from eventsource.migration import MigrationCoordinator, StoredTenant
    from eventsource.migration.repositories import PostgreSQLRoutingRepository

    Pool = asyncpg.Pool[Any]

#: A tenant as somebody has written it; ValueError or an EventSourceError where it can be none.
TenantOf: TypeAlias = Callable[[str], TenantId]

#: How long a query of an operator may take (milliseconds).
QUERY_MS = 600_000


@dataclass(frozen=True, slots=True)
class Choice:
    """A tenant that was chosen; what was not said about it is None."""

    tenant_id: TenantId
    source: str | None = None
    target: str | None = None
    events: int | None = None
    bytes: int | None = None


def from_file(text: str, where: str, tenant_of: TenantOf) -> list[Choice]:
    """One tenant a line, then the store it goes to and the one it leaves, if they are said.

    Separated by commas; empty lines, those that begin with ``#`` and a first line that begins with
    ``tenant`` are passed over.

    Raises:
        WaveError: a line cannot be read.
    """
    chosen: list[Choice] = []
    for number, fields in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in fields]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if not chosen and cells[0].lower().startswith("tenant"):
            continue
        if len(cells) > 3:
            raise WaveError(f"{where}, line {number}: more than tenant, to and from")
        target, source = (cells[n] if len(cells) > n and cells[n] else None for n in (1, 2))
        chosen.append(
            Choice(
                _tenant(cells[0], f"{where}, line {number}", tenant_of),
                source=source,
                target=target,
            )
        )
    return chosen


def _tenant(text: str, where: str, tenant_of: TenantOf) -> TenantId:
    try:
        return tenant_of(text)
    except (ValueError, EventSourceError) as error:
        raise WaveError(f"{where}: {error}") from None


async def by_query(pool: Pool, query: str, tenant_of: TenantOf) -> list[Choice]:
    """The tenants that a query names in its first column, in its order.

    It runs in a transaction that may only read. Columns ``to`` and ``from`` name stores, if the
    query has them.

    Raises:
        WaveError: it returns something else, or the database refuses it.
    """
    try:
        async with pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute(f"set local statement_timeout = {QUERY_MS}")
            rows = await connection.fetch(query)
    except asyncpg.PostgresError as error:
        raise WaveError(f"the query failed: {error}") from error
    chosen = []
    for row in rows:
        said = {name: row[name] for name in ("to", "from") if name in row.keys()}  # noqa: SIM118
        if row[0] is None:
            raise WaveError("the query returns a tenant that is null; leave it out")
        tenant = _tenant(str(row[0]), "the query", tenant_of)
        chosen.append(Choice(tenant, source=said.get("from"), target=said.get("to")))
    return chosen


async def largest(
    coordinator: MigrationCoordinator, store_id: str, count: int, default: str
) -> list[Choice]:
    """The largest tenants that live in a store; ``default`` is that of a tenant without a route."""
    chosen = []
    for each in await coordinator.tenants(store_id):
        home = each.route.store_id if each.route is not None else default
        if home == store_id:
            chosen.append(
                Choice(each.tenant_id, source=store_id, events=each.events, bytes=each.bytes)
            )
    return chosen[:count]


async def with_sizes(choices: Sequence[Choice], coordinator: MigrationCoordinator) -> list[Choice]:
    """The same with their sizes, where they are not known; reads these tenants' rows."""
    known: dict[TenantId, StoredTenant] = {}
    unsized = [each for each in choices if each.events is None]
    for store_id in sorted({each.source for each in unsized if each.source is not None}):
        wanted = [each.tenant_id for each in unsized if each.source == store_id]
        known |= {each.tenant_id: each for each in await coordinator.tenants(store_id, only=wanted)}
    found = []
    for each in choices:
        if each.events is None:
            size = known.get(each.tenant_id)
            each = replace(each, events=size.events if size else 0, bytes=size.bytes if size else 0)
        found.append(each)
    return found


async def with_sources(
    choices: Sequence[Choice], routes: PostgreSQLRoutingRepository, default: str
) -> list[Choice]:
    """The same with the stores in which the tenants live, where none was said.

    Raises:
        WaveError: one was said, and the tenant lives elsewhere.
    """
    found = await routes.get_routings([each.tenant_id for each in choices])
    placed = []
    for each in choices:
        route = found.get(each.tenant_id)
        home = route.store_id if route is not None else default
        if each.source not in (None, home) and home != each.target:
            raise WaveError(
                f"tenant {each.tenant_id} lives in {home!r}, not in {each.source!r}; correct it, or"
                " leave the store out"
            )
        placed.append(replace(each, source=home))
    return placed


def distributed(choices: Iterable[Choice], targets: Sequence[str]) -> list[Candidate]:
    """Where each of them goes: what was said, or the target that has least of them so far.

    Those that live in their target already are left out.

    Raises:
        WaveError: there is no target for one of them.
    """
    load = dict.fromkeys(targets, 0)
    candidates = []
    for each in choices:
        assert each.source is not None
        target = each.target
        if target is None:
            if not load:
                raise WaveError(
                    f"nothing says where tenant {each.tenant_id} goes; name a store with --to"
                )
            if each.source in load:
                continue
            target = min(load, key=lambda store: load[store])
        if target in load:
            load[target] += 1 + (each.bytes or 0)
        if target != each.source:
            candidates.append(
                Candidate(each.tenant_id, each.source, target, each.events, each.bytes)
            )
    return candidates


def ordered(candidates: Sequence[Candidate], order: str) -> list[Candidate]:
    """In the order given, or by size. Those whose size is not known come last."""
    if order == "given":
        return list(candidates)
    known = [each for each in candidates if each.bytes is not None]
    sign = -1 if order == "largest" else 1
    known.sort(key=lambda each: sign * (each.bytes or 0))
    return known + [each for each in candidates if each.bytes is None]
