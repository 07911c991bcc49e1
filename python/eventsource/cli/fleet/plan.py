"""`fleet plan`: who moves where in which order, what refuses whom, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from eventsource.cli.config import ConfigError
from eventsource.cli.exits import ExitCode
from eventsource.cli.fleet.common import WaveName, bounds_of, waves_of
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, columns, duration, grid, megabytes, visible
from eventsource.cli.tenants import no_event
from eventsource.cli.workspace import Workspace
from eventsource.commands import command
from eventsource.counts import counted
from eventsource.fleet import Candidate, Wave, WaveSettings, checks, planning, seats, selection
from eventsource.fleet.disk import Disks
from eventsource.fleet.planning import Plan
from eventsource.fleet.seats import Seats
from eventsource.fleet.waves import WaveError
from eventsource.tenant_ids import TenantId

ORDERS = ("given", "largest", "smallest")

#: Up to so many tenants are all examined as a whole, of more one for each pair of stores, because
#: what is wrong with the tables is the same for all, and each takes a moment of both servers.
MOST_EXAMINED = 200

#: How often it says how far that is (seconds).
PROGRESS_SECONDS = 5.0

#: Refused tenants that are shown at a terminal; JSON has all.
MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command was asked for."""

    file: Path | None
    query: str | None
    largest: int | None
    from_store: str | None
    to: tuple[str, ...]
    order: str
    sizes: bool
    each: bool
    replace: bool
    settings: WaveSettings


_File = Annotated[
    Path | None,
    typer.Option("--file", metavar="PATH", help="Lines of tenant, to, from; - is standard input."),
]
_Query = Annotated[
    str | None,
    typer.Option("--query", metavar="SQL", help="Its first column names the tenants."),
]
_Largest = Annotated[
    int | None, typer.Option("--largest", metavar="NUMBER", min=1, help="So many of a store.")
]
_FromStore = Annotated[
    str | None,
    typer.Option("--from-store", metavar="STORE", help="Of which, and where --query is asked."),
]
_To = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="STORE", help="Where they go; several share them. Repeatable."),
]
_Order = Annotated[
    str, typer.Option("--order", metavar="ORDER", help="given, largest or smallest first.")
]
_Hours = Annotated[
    str | None,
    typer.Option("--window", metavar="HOURS", help="Such as '22:00-05:00 Europe/Berlin'."),
]
_HoursFor = Annotated[
    str, typer.Option("--window-for", metavar="WHAT", help="all, or cutover alone.")
]
_Attempts = Annotated[
    int, typer.Option("--attempts", metavar="NUMBER", help="How often a tenant is tried.")
]
_StopAfter = Annotated[
    int, typer.Option("--stop-after", metavar="NUMBER", help="Failures in a row that stop it.")
]
_NoSizes = Annotated[bool, typer.Option("--no-sizes", help="Do not count the tenants' rows.")]
_Each = Annotated[bool, typer.Option("--each", help="The whole preflight for each tenant.")]
_Replace = Annotated[bool, typer.Option("--replace", help="Instead of what was planned before.")]


def plan(
    ctx: typer.Context,
    name: WaveName,
    file: _File = None,
    query: _Query = None,
    largest: _Largest = None,
    from_store: _FromStore = None,
    to: _To = None,
    order: _Order = "given",
    window: _Hours = None,
    window_for: _HoursFor = "all",
    attempts: _Attempts = 5,
    stop_after: _StopAfter = 3,
    no_sizes: _NoSizes = False,
    each: _Each = False,
    replaced: _Replace = False,
) -> None:
    """Plan a wave of tenants: choose, check, estimate, record. Nothing moves yet."""
    try:
        settings = WaveSettings(window, window_for, attempts, stop_after)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if order not in ORDERS:
        raise typer.BadParameter(f"{order!r}: write {', '.join(ORDERS)}", param_hint="--order")
    if sum(given is not None for given in (file, query, largest)) != 1:
        raise typer.BadParameter("choose tenants by one of --file, --query and --largest")
    asked = _Asked(
        file, query, largest, from_store, tuple(to or ()), order, not no_sizes, each, replaced,
        settings,
    )  # fmt: skip

    async def make(at: Workspace) -> ExitCode:
        return await _plan(at, name, asked)

    perform(ctx, make)


async def _plan(at: Workspace, name: str, asked: _Asked) -> ExitCode:
    candidates = await _candidates(at, asked)
    stores = {
        store_id: await at.reach_store(store_id)
        for store_id in sorted(
            {store for c in candidates for store in (c.source_store_id, c.target_store_id)}
        )
    }
    refused = await checks.of_all(candidates, at.migrations, stores)
    rest = [c for c in candidates if c.tenant_id not in refused]
    examined = _examined(rest, asked.each)
    heard = _progress(at, "examined", len(examined))
    refused |= await checks.of_each(examined, at.coordinator, stores, heard)
    disks = await Disks.seen(candidates, bounds_of(at))
    refused |= disks.too_large([c for c in candidates if c.tenant_id not in refused])
    pools = {store_id: store.pool for store_id, store in stores.items()}
    servers = await seats.needed(
        candidates, pools, at.control, at.settings.group_limits, at.settings.groups
    )
    waves = waves_of(at)
    rates = await planning.measured(waves)
    estimate = planning.planned(
        candidates, rates, at.settings.group_limits, at.settings.groups, disks
    )
    wave = await waves.create(
        name, candidates, asked.settings, by=at.operator, replace=asked.replace
    )
    sources = {each.tenant_id: each.source_store_id for each in candidates}
    for tenant in estimate.empty[:MOST_LINES]:
        at.out.warn(f"{no_event(visible(tenant), sources[tenant])}; it would be moved without one")
    if (more := len(estimate.empty) - MOST_LINES) > 0:
        at.out.warn(f"and {more} more without an event; --json has them")
    _answer(at, wave, estimate, refused, (len(examined), len(rest)), servers)
    return ExitCode.DONE


def _examined(candidates: list[Candidate], each: bool) -> list[Candidate]:
    if each or len(candidates) <= MOST_EXAMINED:
        return candidates
    return checks.one_of_each_pair(candidates)


def _progress(at: Workspace, what: str, number: int) -> Callable[[int], None]:
    """Say now and then how far it is with the tenants: each takes a while."""
    said = time.monotonic()

    def heard(done: int) -> None:
        nonlocal said
        if (now := time.monotonic()) - said >= PROGRESS_SECONDS:
            said = now
            at.out.say(f"{what} {amount(done)} of {counted(number, 'tenant')}")

    return heard


async def _candidates(at: Workspace, asked: _Asked) -> list[Candidate]:
    for store_id in (*asked.to, *filter(None, [asked.from_store])):
        at.settings.require_store(store_id)
    choices = await _chosen(at, asked)
    if asked.from_store is not None:
        choices = [replace(each, source=each.source or asked.from_store) for each in choices]
    of_one = {
        store_id
        for store_id, store in at.stores.items()
        if store.layout is not None and store.layout.is_whole
    }
    choices = await selection.with_sources(choices, at.routes, at.settings.default_store, of_one)
    for each in choices:
        for store_id in filter(None, (each.source, each.target)):
            at.settings.require_store(store_id)
    if asked.sizes:
        unsized = sum(each.events is None for each in choices)
        heard = _progress(at, "sized", unsized)
        choices = await selection.with_sizes(choices, at.coordinator, heard)
    candidates = selection.distributed(choices, asked.to)
    _say_who_stays(at, choices, len(candidates))
    return selection.ordered(candidates, asked.order)


def _say_who_stays(at: Workspace, choices: list[selection.Choice], candidates: int) -> None:
    """Those that live where they would go are left out; WaveError where that is all of them."""
    if not (staying := len(choices) - candidates):
        return
    if not candidates:
        homes = ", ".join(repr(home) for home in sorted({each.source or "" for each in choices}))
        of_them = "the tenant lives" if staying == 1 else f"all {amount(staying)} tenants live"
        raise WaveError(f"nothing to do: {of_them} in {homes} already")
    at.out.say(f"left out: {counted(staying, 'tenant')} that would stay in the same store")


async def _chosen(at: Workspace, asked: _Asked) -> list[selection.Choice]:
    store_id = asked.from_store or at.settings.default_store
    if asked.file is not None:
        try:
            text = (
                typer.get_text_stream("stdin").read()
                if str(asked.file) == "-"
                else asked.file.read_text(encoding="utf-8")
            )
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--file {asked.file} cannot be read: {error}") from None
        return selection.from_file(text, str(asked.file), at.tenant)
    store = await at.reach_store(store_id)
    if asked.query is not None:
        return await selection.by_query(store.pool, asked.query, at.tenant)
    assert asked.largest is not None
    return await selection.largest(
        at.coordinator, store_id, asked.largest, at.settings.default_store
    )


def _preflight(refused: int, examined: int, of: int) -> str:
    said = f"{amount(refused)} would be refused"
    if examined == of:
        all_of_them = "the one" if of == 1 else f"all {amount(of)}"
        all_of_them += " that the rest allows"
        return f"{said}; {all_of_them} {'was' if of == 1 else 'were'} examined as a whole"
    was = "was" if examined == 1 else "were"
    return (
        f"{said}; {amount(examined)} of {amount(of)} {was} examined as a whole, one for each"
        " pair of stores; --each examines all"
    )


#: Where no store that something comes to has a bound.
_FREE = "not known: PostgreSQL does not show it; max_disk under [fleet] bounds what may lie there"


def _arrivals(at: Workspace, plan: Plan) -> str:
    return columns(
        ("to", "tenants", "events", "disk", "there now", "max_disk", "at once"),
        (
            (
                store,
                amount(each.tenants),
                amount(each.events),
                megabytes(each.disk_bytes),
                None if each.there_bytes is None else megabytes(each.there_bytes),
                None if each.max_bytes is None else megabytes(each.max_bytes),
                at.settings.group_limits[at.settings.groups[store]],
            )
            for store, each in plan.arrivals.items()
        ),
    )


def _servers(servers: list[Seats]) -> str:
    return columns(
        ("server of", "connections", "for moves now", "free", "in all"),
        (
            (", ".join(each.databases), each.needed, each.granted, each.free, each.usable)
            for each in servers
        ),
    )


def _answer(
    at: Workspace,
    wave: Wave,
    plan: Plan,
    refused: dict[TenantId, str],
    examined: tuple[int, int],
    servers: list[Seats],
) -> None:
    shortest, longest = plan.seconds
    arriving = plan.arrivals.values()
    takes = duration(longest)
    if shortest != longest:
        takes = f"{duration(shortest)} to {takes}"
    based = "assumed: nothing moved yet"
    if plan.measured:
        based = f"measured of {counted(plan.measured, 'move')}"
    at.out.answer(
        {
            "wave": wave,
            "plan": plan,
            "refused": refused,
            "examined": examined[0],
            "servers": servers,
        },
        grid(
            ("wave", f"{wave.name}, planned"),
            ("tenants", amount(plan.tenants)),
            ("events", f"{amount(plan.events)}, about {megabytes(plan.bytes)}"),
            ("takes", f"about {takes} ({based})"),
            ("window", wave.settings.window and f"{wave.settings.window}, {_for(wave)}"),
            ("not sized", amount(plan.unsized) if plan.unsized else None),
            ("preflight", _preflight(len(refused), *examined)),
            ("free disk", _FREE if all(each.max_bytes is None for each in arriving) else None),
        ),
        _arrivals(at, plan),
        _servers(servers),
    )
    for each in servers:
        if each.needed > each.granted:
            at.out.warn(
                f"the server of {', '.join(each.databases)} has room for"
                f" {counted(each.granted, 'connection')} of moves, and as many at once as at_once"
                f" allows take {each.needed}: some will wait for a place; lower at_once under"
                " [fleet], or raise max_connections"
            )
    for tenant, why in list(refused.items())[:MOST_LINES]:
        at.out.warn(f"tenant {visible(tenant)} would be refused: {why}")
    if len(refused) > MOST_LINES:
        at.out.warn(f"and {len(refused) - MOST_LINES} more; --json has them")
    at.out.say(f"begin: {command('fleet start', wave.name)}")


def _for(wave: Wave) -> str:
    return "for cutovers" if wave.settings.window_for == "cutover" else "for all"
