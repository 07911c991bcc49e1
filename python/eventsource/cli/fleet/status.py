"""`fleet status`: the waves, and what one of them is at."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Annotated

import typer

from eventsource.cli.exits import ExitCode
from eventsource.cli.fleet.common import waves_of
from eventsource.cli.invocation import perform_look
from eventsource.cli.output import amount, columns, duration, grid
from eventsource.cli.workspace import Workspace, patiently
from eventsource.fleet import WaveState
from eventsource.fleet.view import Moving, WaveView, overview, view_of

#: How often --watch looks (seconds).
WATCH_SECONDS = 1.0

#: What is shown of a wave at a terminal at most; JSON has all.
MOST_LINES = 20


def status(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[WAVE]", help="Without it, all waves.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow until it is done, or until Ctrl-C.")
    ] = False,
) -> None:
    """Show how far a wave is: what moves, what waits, what did not move and why."""

    async def look(at: Workspace) -> ExitCode:
        if watch:
            await _watch(at, name)
            return ExitCode.DONE
        views, more = await _views(at, name)
        at.out.answer(views if name is None else views[0], _shown(views, name, at.out.screen))
        if more:
            at.out.warn(f"and {amount(more)} older waves that are done: fleet status WAVE")
        return ExitCode.DONE

    perform_look(ctx, look, watch=watch)


async def _views(at: Workspace, name: str | None) -> tuple[list[WaveView], int]:
    """What is shown, and how many waves are not."""
    waves = waves_of(at)
    if name is None:
        return await overview(waves)
    return [await view_of(waves, await waves.get(name))], 0


async def _watch(at: Workspace, name: str | None) -> None:
    last = ""
    with contextlib.ExitStack() as stack:
        live = None
        if at.out.is_live:
            from rich.live import Live

            live = stack.enter_context(Live(console=at.out.console, auto_refresh=False))
        while True:
            views, _ = await patiently(at, partial(_views, at, name))
            shown = _shown(views, name, at.out.screen)
            if live is not None:
                live.update(shown, refresh=True)
            elif shown != last:
                at.out.answer(views if name is None else views[0], shown)
            last = shown
            if name is not None and views[0].wave.state is WaveState.DONE:
                return
            await asyncio.sleep(WATCH_SECONDS)


def _shown(views: list[WaveView], name: str | None, screen: int | None) -> str:
    if name is not None:
        return _details(views[0], screen)
    if not views:
        return "no wave yet; `eventsource-migrate fleet plan` makes one"
    return columns(
        ("wave", "state", "tenants", "moved", "moving", "waiting", "not moved", "left"),
        (
            (
                view.wave.name,
                view.wave.state,
                amount(view.tenants),
                amount(view.count("moved")),
                amount(view.count("begun")),
                amount(view.count("waiting")),
                amount(_bad(view)),
                _left(view),
            )
            for view in views
        ),
        screen,
    )


def _left(view: WaveView) -> str | None:
    return f"about {duration(view.eta_seconds)}" if view.eta_seconds else None


def _bad(view: WaveView) -> int:
    return sum(view.count(what) for what in ("refused", "failed", "held"))


def _details(view: WaveView, screen: int | None) -> str:
    wave, settings = view.wave, view.wave.settings
    pace = view.tenants_per_second
    has = "has" if (moved := view.count("moved")) == 1 else "have"
    parts = [
        grid(
            ("wave", wave.name),
            ("state", wave.state),
            ("stopped by", wave.stopped_by),
            ("because", wave.stop_reason),
            ("window", settings.window and f"{settings.window}, for {settings.window_for}"),
            ("tenants", f"{amount(moved)} of {amount(view.tenants)} {has} moved"),
            ("not moved", _counts(view)),
            ("pace", f"{pace * 60:,.1f} tenants a minute" if pace else None),
            ("left", _left(view)),
            (
                "pauses",
                view.longest_pause_ms
                and f"{view.median_pause_ms:.1f} ms, at most {view.longest_pause_ms:.1f} ms",
            ),
        )
    ]
    if view.moving:
        parts.append(_moving(view, screen))
    if view.troubles:
        parts.append(_troubles(view, screen))
    return "\n\n".join(parts)


def _counts(view: WaveView) -> str | None:
    bad = [f"{view.count(what)} {what}" for what in ("failed", "held", "refused")]
    return ", ".join(bad) if _bad(view) else None


def _moving(view: WaveView, screen: int | None) -> str:
    shown = columns(
        ("tenant", "from", "to", "phase", "copied", "rate", "left", "waits for"),
        (_line(each) for each in view.moving[:MOST_LINES]),
        screen,
    )
    return shown + _more(len(view.moving))


def _line(each: Moving) -> tuple[object, ...]:
    rate, left = each.events_per_second, each.eta_seconds
    return (
        each.tenant_id,
        each.source_store_id,
        each.target_store_id,
        each.phase,
        f"{amount(each.events_copied)} ({each.percent:.0f} %)",
        None if rate is None else f"{amount(rate)}/s",
        None if left is None else duration(left),
        each.waits_for,
    )


def _troubles(view: WaveView, screen: int | None) -> str:
    shown = columns(
        ("tenant", "outcome", "code", "why"),
        (
            (each.tenant_id, each.outcome, each.error_code, each.error_message)
            for each in view.troubles[:MOST_LINES]
        ),
        screen,
    )
    return shown + _more(len(view.troubles))


def _more(number: int) -> str:
    return f"\nand {number - MOST_LINES} more; --json has them" if number > MOST_LINES else ""
