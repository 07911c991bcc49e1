"""`layouts`: which kinds of tables tenants can move between, and what each of them means."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from eventsource.cli.config import ConfigError, load
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import invocation_of, perform, run
from eventsource.cli.output import columns, grid
from eventsource.cli.workspace import Workspace
from eventsource.migration.layouts import deriving
from eventsource.migration.layouts.declaration import Layout, LayoutTable, Stops
from eventsource.migration.layouts.presets import presets

_STOPS = {
    Stops.TENANT: "this tenant",
    Stops.CATEGORY: "this tenant, and others of its category: the library locks that",
    Stops.TABLE: "all tenants of the table: the library locks that",
}


def layouts(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[LAYOUT]")] = None,
    whole: Annotated[
        str | None,
        typer.Option(
            "--whole",
            metavar="STORE",
            help="Write a new layout for the schema of this store, all of which is one tenant's.",
        ),
    ] = None,
) -> None:
    """List the layouts of other libraries' tables, or explain one.

    Needs no database, but to write a new layout: that reads the catalog of a store.
    """
    if whole is not None:
        perform(ctx, partial(_declare, name or "orders", whole))
        return
    invocation = invocation_of(ctx)

    async def show() -> ExitCode:
        known = dict(presets())
        if name is None or name not in known:
            try:
                known.update(load(invocation.config, invocation.overrides).layouts)
            except ConfigError:
                if invocation.config is not None:
                    raise
        if name is None:
            invocation.out.answer(
                [{"name": each.name, "title": each.title} for each in known.values()],
                columns(
                    ("layout", "for"),
                    ((each.name, each.title) for each in known.values()),
                    invocation.out.screen,
                ),
            )
            return ExitCode.DONE
        if name not in known:
            raise ConfigError(f"there is no layout {name!r}; there are {', '.join(sorted(known))}")
        invocation.out.answer(asdict(known[name]), _explained(known[name]))
        return ExitCode.DONE

    run(invocation, show)


async def _declare(name: str, store_id: str, at: Workspace) -> ExitCode:
    at.settings.require_store(store_id)
    await at.reach_store(store_id)
    store = at.stores[store_id]
    async with store.pool.acquire() as connection:
        schema = store.schema or await connection.fetchval("select current_schema()::text")
        text = await deriving.declaration(connection, schema, name)
    at.out.answer({"name": name, "schema": schema, "declaration": text}, text.rstrip())
    return ExitCode.DONE


def _explained(layout: Layout) -> str:
    rows: list[tuple[str, object]] = [("layout", layout.name), ("for", layout.title)]
    if layout.schema is not None:
        rows.append(("schema", layout.schema))
    for table in layout.tables:
        rows.append(("table", f"{table.name}, key ({', '.join(table.key)}): {_tenant(table)}"))
        for each in table.numbered:
            source = f"as {each.like}" if each.like else "moved past what the target has given"
            if each.per_tenant is not None:
                source = "of a sequence for each tenant, kept where the target's is unused"
            rows.append(("", f"{each.column}: numbers, {source}"))
        if table.stamps:
            rows.append(("", f"{', '.join(table.stamps)}: each side fills it for itself"))
    rows += [("stays", f"{name}: {why}") for name, why in layout.stays]
    if layout.readers:
        rows.append(
            (
                "readers",
                f"{', '.join(name for name, _ in layout.readers)} of the target must have none",
            )
        )
    changes = (
        "a column with the transaction" if layout.is_own else "a journal that the guard writes"
    )
    rows.append(("changes", changes))
    rows.append(("fence", f"stops {_STOPS[layout.stops]}"))
    if layout.after_flip is not None:
        rows.append(("after", " ".join(layout.after_flip.split())))
    return grid(*rows)


def _tenant(table: LayoutTable) -> str:
    tenancy = table.tenancy
    if tenancy.column is not None:
        return f"the tenant is in {tenancy.column}"
    if tenancy.expression is not None:
        return f"the tenant is {tenancy.expression}"
    if tenancy.through is not None:
        return f"the tenant is that of {tenancy.through.table}"
    return "all rows are the tenant's"
