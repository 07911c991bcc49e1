"""Which tenants a wave moves, and where to: of a file, of a query, or the largest of a store."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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

#: What the first column may be called; a tenant may be called anything else.
HEADINGS = frozenset({"tenant", "tenant_id", "tenant id"})

#: Tenants whose sizes are asked for in one statement.
SIZED_AT_ONCE = 200

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

    Separated by commas, in quotes where a name has one or a line of its own; spaces around a name
    do not count. Empty lines, those that begin with ``#`` and a heading are passed over.

    Raises:
        WaveError: a line cannot be read.
    """
    chosen: list[Choice] = []
    heading = True
    for at, cells in _lines(text, where):
        if not any(cells) or cells[0].startswith("#"):
            continue
        is_heading, heading = heading and cells[0].lower() in HEADINGS, False
        if is_heading:
            continue
        if len(cells) > 3:
            raise WaveError(f"{where}, line {at}: more than tenant, to and from")
        target, source = (cells[n] if len(cells) > n and cells[n] else None for n in (1, 2))
        chosen.append(
            Choice(
                _tenant(cells[0], f"{where}, line {at}", tenant_of),
                source=source,
                target=target,
            )
        )
    return chosen


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line with its number; programs for tables write a mark first."""
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), skipinitialspace=True)
    at = 1
    try:
        for cells in lines:
            yield at, [cell.strip() for cell in cells]
            at = lines.line_num + 1
    except csv.Error as error:
        raise WaveError(f"{where}, line {at}: {error}") from None


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


async def with_sizes(
    choices: Sequence[Choice],
    coordinator: MigrationCoordinator,
    heard: Callable[[int], None] = lambda _: None,
) -> list[Choice]:
    """The same with their sizes, where they are not known; reads some rows of each of them.

    Args:
        heard: is called now and then with how many were sized.
    """
    known: dict[TenantId, StoredTenant] = {}
    unsized = [each for each in choices if each.events is None]
    done = 0
    for store_id in sorted({each.source for each in unsized if each.source is not None}):
        wanted = [each.tenant_id for each in unsized if each.source == store_id]
        for at in range(0, len(wanted), SIZED_AT_ONCE):
            some = wanted[at : at + SIZED_AT_ONCE]
            sized = await coordinator.tenants(store_id, only=some)
            known |= {each.tenant_id: each for each in sized}
            heard(done := done + len(some))
    found = []
    for each in choices:
        if each.events is None:
            size = known.get(each.tenant_id)
            each = replace(each, events=size.events if size else 0, bytes=size.bytes if size else 0)
        found.append(each)
    return found


async def with_sources(
    choices: Sequence[Choice],
    routes: PostgreSQLRoutingRepository,
    default: str,
    of_one: Collection[str] = (),
) -> list[Choice]:
    """The same with the stores in which the tenants live, where none was said.

    Args:
        of_one: stores all of which is one tenant's; who would leave one lives there.

    Raises:
        WaveError: one was said, and the tenant lives elsewhere.
    """
    found = await routes.get_routings([each.tenant_id for each in choices])
    placed = []
    for each in choices:
        route = found.get(each.tenant_id)
        unrouted = each.source if each.source in of_one and each.source else default
        home = route.store_id if route is not None else unrouted
        if each.source not in (None, home) and home != each.target:
            raise WaveError(
                f"tenant {each.tenant_id} lives in {home!r}, not in {each.source!r}; correct it, or"
                " leave the store out"
                if route is not None
                else f"tenant {each.tenant_id} has no route and so lives in the default store,"
                f" {home!r}, not in {each.source!r}; correct it, or give the tenant a route to"
                f" {each.source!r}"
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
