"""`status` and `lag`: looking without touching."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import asyncpg
import typer

from eventsource.cli import views
from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform, perform_look
from eventsource.cli.output import amount, described, painted, record
from eventsource.cli.questions import unreported
from eventsource.cli.workspace import Workspace, patiently
from eventsource.counts import counted
from eventsource.errors import EventSourceError
from eventsource.migration import Migration, MigrationCount, MigrationState
from eventsource.migration.repositories import control_place
from eventsource.migration.repositories.listing import LONGEST_PAGE, PAGE
from eventsource.migration.repositories.ways_back import WayBack
from eventsource.migration.routing.route_hook import LateRoute, late

if TYPE_CHECKING:
    from rich.live import Live

#: How often --watch looks (seconds).
WATCH_SECONDS = 0.5

#: Migrations whose stores are asked for the lag at the same time: each takes a session at both.
LAGS_AT_ONCE = 4

#: Lines of a screen for the headings of a table, the sentence below it, and the next prompt.
_AROUND_A_TABLE = 5

#: Only in these both stores hold the tenant's events, and something is done in those that are not
#: paused.
_WITH_LAG = (MigrationState.DUAL_WRITE, MigrationState.PAUSED)
_MOVING = tuple(
    each for each in MigrationState if not each.is_final and each is not MigrationState.PAUSED
)


def status(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow until it is over, or until Ctrl-C.")
    ] = False,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", metavar="NUMBER", min=1, max=LONGEST_PAGE, help="Without one: how many."
        ),
    ] = PAGE,
    lags: Annotated[
        bool, typer.Option("--lag", help="Without one: ask the stores of each for its lag.")
    ] = False,
) -> None:
    """Show how far a migration is; without one, all that are under way."""

    async def look(at: Workspace) -> ExitCode:
        if watch:
            await (
                _watch_all(at, limit) if _all(migration, tenant) else _watch(at, migration, tenant)
            )
            return ExitCode.DONE
        if _all(migration, tenant):
            under_way = await _under_way(at, limit)
            await under_way.count_lags(at, every=lags)
            at.out.answer(under_way.documents(), under_way.shown(at))
            if elsewhere := await control_place.warning(at.control):
                at.out.warn(elsewhere)
            return ExitCode.DONE
        found = await chosen(at, migration, tenant)
        lag = await _lag(at, found)
        way = await _way_back(at, found)
        reports = await at.coordinator.routers(found.id)
        silent = await unreported(at, found)
        hook = await _late_route(at, found)
        control = await control_place.warning_of(at.control, found)
        disagreement = await at.coordinator.disagreement(found.id)
        at.out.answer(
            {
                **views.document(found, lag),
                "way_back": None if way is None else record(way),
                "routers": [record(each) for each in reports],
                "unreported_sessions": silent,
                "route_hook": hook,
                "control": control,
                "stores": disagreement,
            },
            views.details(
                found, lag, way, reports, silent, hook, control, disagreement, at.unit(found)
            ),
        )
        return ExitCode.DONE

    perform_look(ctx, look, watch=watch)


@dataclass(slots=True)
class _UnderWay:
    """Migrations that are not over: some of them, and how many there are.

    Attributes:
        found: those that are shown, oldest first.
        lags: of those whose stores were asked.
    """

    found: list[Migration]
    counts: list[MigrationCount]
    lags: dict[UUID, int | None] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return sum(each.migrations for each in self.counts)

    async def count_lags(self, at: Workspace, *, every: bool) -> None:
        """Of the only one, or of those that catch up; ``every`` asks for paused ones too."""
        if len(self.found) == 1:
            every = True
        elif not every and not at.out.as_json:
            return
        states = _WITH_LAG if every else (MigrationState.DUAL_WRITE,)
        seats = asyncio.Semaphore(LAGS_AT_ONCE)

        async def count(each: Migration) -> None:
            async with seats:
                self.lags[each.id] = await _lag(at, each)

        await asyncio.gather(*(count(each) for each in self.found if each.state in states))

    def documents(self) -> list[dict[str, object]]:
        return [views.document(each, self.lags.get(each.id)) for each in self.found]

    def shown(self, at: Workspace) -> str:
        if not self.found:
            return "no migration is under way; `eventsource-migrate list` shows those that are over"
        if len(self.found) == self.number == 1:
            one = self.found[0]
            return views.details(one, self.lags.get(one.id), unit=at.unit(one))
        lines = [views.table(self.found, at.out.width, lags=self.lags)]
        if self.number > 1:
            lines.append(self._summary())
        return "\n".join(lines)

    def _summary(self) -> str:
        states: Counter[str] = Counter()
        for each in self.counts:
            states[str(each.state)] += each.migrations
        by_state = ", ".join(f"{amount(number)} {state}" for state, number in states.most_common())
        hidden = self.number - len(self.found)
        rest = f"; {amount(hidden)} of them are not shown, `eventsource-migrate list --active` has"
        return f"{amount(self.number)} under way: {by_state}" + (f"{rest} all" if hidden else "")


async def _under_way(at: Workspace, limit: int) -> _UnderWay:
    """Those that something is done for come first: of parked ones there may be hundreds."""
    counts = await at.coordinator.count_migrations(active=True)
    unknown = {each.state for each in counts} - set(MigrationState)
    states = [*_MOVING, *sorted(unknown)]
    moving = await at.coordinator.list_migrations(states=states, limit=limit)
    found = list(moving.migrations)
    if (room := limit - len(found)) and any(each.state not in states for each in counts):
        paused = await at.coordinator.list_migrations(states=[MigrationState.PAUSED], limit=room)
        found += paused.migrations
    return _UnderWay(sorted(found, key=lambda each: (each.created_at, each.id)), counts)


def _all(migration: str | None, tenant: str | None) -> bool:
    return migration is None and tenant is None


async def _way_back(at: Workspace, migration: Migration) -> WayBack | None:
    """None also where the table is not there yet, or the role may not read it."""
    try:
        return await at.coordinator.way_back(migration.id)
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        return None


async def _late_route(at: Workspace, migration: Migration) -> LateRoute | None:
    """What the route hook has still to do for the tenant, where there is a hook or was one."""
    with contextlib.suppress(asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        found = await late(at.control, migration.tenant_id)
        if found is not None and (at.settings.route_hook is not None or found.error):
            return found
    return None


async def _lag(at: Workspace, migration: Migration) -> int | None:
    """The lag, where the stores are known and answer; a status does not fail for it."""
    if migration.state not in _WITH_LAG:
        return None
    try:
        return await at.coordinator.get_sync_lag(migration.id)
    except (EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None


async def _watch(at: Workspace, migration: str | None, tenant: str | None) -> None:
    last: Migration | None = None
    with _live(at) as live:
        while True:
            found = await patiently(at, partial(chosen, at, migration, tenant))
            if live is not None:
                live.update(
                    painted(
                        views.details(found, await _lag(at, found), unit=at.unit(found)),
                        at.out.screen,
                    ),
                    refresh=True,
                )
            elif found != last:
                at.out.answer(described(found), views.line(found))
            last = found
            if found.state.is_final:
                return
            await asyncio.sleep(WATCH_SECONDS)


async def _watch_all(at: Workspace, limit: int) -> None:
    last: list[Migration] = []
    with _live(at) as live:
        while True:
            # A screen that is drawn again does not scroll: what is below its end would not be seen.
            room = limit if live is None else at.out.console.height - _AROUND_A_TABLE
            under_way = await patiently(at, partial(_under_way, at, max(1, min(limit, room))))
            if live is not None:
                if len(under_way.found) == 1:
                    await under_way.count_lags(at, every=True)
                live.update(painted(under_way.shown(at), at.out.screen), refresh=True)
            else:
                for each in under_way.found:
                    if each not in last:
                        at.out.answer(described(each), views.line(each))
            last = under_way.found
            await asyncio.sleep(WATCH_SECONDS)


@contextlib.contextmanager
def _live(at: Workspace) -> Iterator[Live | None]:
    """What is redrawn in place, where output is a terminal."""
    if not at.out.is_live:
        yield None
        return
    from rich.live import Live

    with Live(console=at.out.console, auto_refresh=False) as live:
        yield live


def lag(ctx: typer.Context, migration: MigrationId = None, tenant: TenantOption = None) -> None:
    """Count the events that the target does not hold yet."""

    async def look(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        for store_id in (found.source_store_id, found.target_store_id):
            if store_id in at.settings.stores:
                await at.reach_store(store_id)  # its error names the store
        events = await at.coordinator.get_sync_lag(found.id)
        at.out.answer({"migration_id": found.id, "lag": events}, counted(events, at.unit(found)))
        return ExitCode.DONE

    perform(ctx, look)
