"""`tenants`: who is in a store, and how large."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsource.cli import completion
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, columns
from eventsource.cli.workspace import Workspace
from eventsource.migration import StoredTenant


def tenants(
    ctx: typer.Context,
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="STORE",
            help="[default: the default store]",
            autocompletion=completion.stores,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="N", help="Only the N largest.")
    ] = 20,
) -> None:
    """List the largest tenants of a store, and where they live.

    It reads the whole table once, which nobody waits for.
    """

    async def look(at: Workspace) -> ExitCode:
        store_id = store or at.settings.default_store
        await at.reach_store(store_id)
        found = await at.coordinator.tenants(store_id)
        events = sum(each.events for each in found)
        shown = columns(
            ("tenant", "events", "share", "size", "lives in"),
            (
                (
                    each.tenant_id,
                    amount(each.events),
                    f"{100 * each.events / max(events, 1):.1f} %",
                    _size(each.bytes),
                    _home(each, at.settings.default_store),
                )
                for each in found[:limit]
            ),
            at.out.screen,
        )
        rest = len(found) - limit
        at.out.answer(
            found[:limit],
            shown if found else f"store {store_id!r} holds no event of a tenant",
            *([f"and {rest} smaller ones"] if rest > 0 else []),
        )
        return ExitCode.DONE

    perform(ctx, look)


def _home(tenant: StoredTenant, default_store: str) -> str:
    return default_store if tenant.route is None else tenant.route.store_id


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
