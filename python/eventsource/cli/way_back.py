"""`return` and `way-back`: taking a tenant back to the store that it has left."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import typer

from eventsource.cli import prospects, questions, views
from eventsource.cli.choice import (
    KeepWayBack,
    MaxPause,
    MigrationId,
    TenantOption,
    Yes,
    chosen,
    refuse_pause,
)
from eventsource.cli.exits import EXPECTED, ExitCode
from eventsource.cli.group import Verb
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, columns, described, grid, labelled, local
from eventsource.cli.waiting import beside
from eventsource.cli.workspace import Workspace
from eventsource.counts import counted
from eventsource.errors import EventSourceError
from eventsource.migration import Migration
from eventsource.migration.errors import MigrationError
from eventsource.migration.repositories.ways_back import WayBack

app = typer.Typer(no_args_is_help=True, help="Look at ways back, and end them.")


def return_(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    max_pause: MaxPause = None,
    keep_way_back: KeepWayBack = None,
    yes: Yes = False,
) -> None:
    """Take a tenant back to where the migration took it from, with every new event.

    Its writers wait as in any cutover. Afterwards it may go forth again in the same way. At a
    terminal it asks before.
    """
    requested: list[UUID] = []

    async def ask(at: Workspace) -> ExitCode:
        keep = prospects.seconds_kept(keep_way_back)
        found = await chosen(at, migration, tenant)
        refuse_pause(found.config, max_pause)
        way = await at.coordinator.way_back(found.id)
        if way is not None and way.shown == "returned":
            _say_already(at, await at.coordinator.get_migration(way.id))
            return ExitCode.DONE
        may_go = way is not None and (way.is_open or way.shown == "returning")
        if not yes and may_go and questions.at_a_terminal():
            assert way is not None
            if not await questions.confirmed(await questions.of_return(at, found, way, max_pause)):
                at.out.say("nothing was asked for")
                return ExitCode.DONE
        requested.append(found.id)
        asked = at.coordinator.return_migration(
            found.id,
            operator=at.operator,
            max_pause_seconds=max_pause,
            keep_way_back=keep,
            require_way_back=bool(keep),
        )
        async with _about_the_return(at, way):
            done = await (beside(at, way.id, asked) if way and way.return_state else asked)
        await at.follow_routes()
        at.out.answer(
            described(done),
            labelled("returned", f"{views.moved(done)} again, migration {done.id}"),
            labelled(
                "next",
                f"take its subscriptions back: eventsource-migrate subscriptions plan {done.id}",
            ),
        )
        return ExitCode.DONE

    perform(
        ctx,
        ask,
        interrupted=lambda: (
            "interrupted; the return stays asked for and the next driver carries it out. "
            "See: eventsource-migrate way-back status"
            if requested
            else "interrupted before anything was asked for"
        ),
    )


@contextlib.asynccontextmanager
async def _about_the_return(at: Workspace, way: WayBack | None) -> AsyncIterator[None]:
    """An error within the block is about the return, which is a migration of its own."""
    try:
        yield
    except EventSourceError:
        if way is not None:
            # It fails before there is one, too, and where the journal has gone away meanwhile.
            with contextlib.suppress(*EXPECTED):
                at.about = await at.coordinator.get_migration(way.id)
        raise


def _say_already(at: Workspace, done: Migration) -> None:
    since = "" if done.completed_at is None else f", since {local(done.completed_at)}"
    at.out.answer(
        described(done),
        f"nothing to do: the tenant has returned to {done.target_store_id!r} already, with"
        f" migration {done.id}{since}",
    )


@app.command(cls=Verb)
def status(ctx: typer.Context, migration: MigrationId = None, tenant: TenantOption = None) -> None:
    """Show whether tenants can return, until when, and how much the old store lags.

    Without a migration it shows all there are.
    """

    async def look(at: Workspace) -> ExitCode:
        if migration is None and tenant is None:
            kept = await at.coordinator.ways_back()
            at.out.answer(kept, _table(kept, at.out.screen) if kept else "no way back is kept")
            return ExitCode.DONE
        found = await chosen(at, migration, tenant)
        migration_id = found.id
        way = await at.coordinator.way_back(migration_id)
        if way is None:
            keeps = "`run --keep-way-back` keeps one"
            if at.of_layout(found):
                keeps = "ways back are kept between tables of our own only"
            raise MigrationError(f"migration {migration_id} has no way back: {keeps}")
        at.out.answer(way, _details(way))
        return ExitCode.DONE

    perform(ctx, look)


@app.command(cls=Verb)
def close(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    yes: Yes = False,
) -> None:
    """End the way back of a migration now; its old rows stay until `cleanup`.

    At a terminal it asks before.
    """

    async def end(at: Workspace) -> ExitCode:
        migration_id = (await chosen(at, migration, tenant)).id
        known = await at.coordinator.way_back(migration_id)
        if not yes and known is not None and known.is_open and questions.at_a_terminal():
            question = (
                f"End the way back of tenant {known.tenant_id} to {known.target_store_id!r}? It"
                " cannot be opened again: going back is then a whole move."
            )
            if not await questions.confirmed(question):
                at.out.say("nothing was asked for")
                return ExitCode.DONE
        way = await at.coordinator.close_way_back(
            migration_id, reason=f"closed by {at.operator}", operator=at.operator
        )
        cleanup = f"`eventsource-migrate cleanup {migration_id}`"
        rest = f"the old rows in {way.target_store_id!r} go with {cleanup}"
        at.out.answer(way, f"the way back of migration {migration_id} is {way.shown}; {rest}")
        return ExitCode.DONE

    perform(ctx, end)


def _details(way: WayBack) -> str:
    return grid(
        ("migration", way.migration_id),
        ("tenant", way.tenant_id),
        ("way back", f"{way.source_store_id!r} to {way.target_store_id!r}"),
        ("state", way.shown),
        ("protocol", views.newer(way)),
        ("kept until", way.kept_until and local(way.kept_until)),
        ("carried", counted(way.carried, "event")),
        ("lag", None if way.lag is None else counted(way.lag, "event")),
        ("followed", views.followed(way) if way.is_open else None),
        ("message", way.reason),
        ("return", f"eventsource-migrate return {way.migration_id}" if way.is_open else None),
    )


def _table(found: list[WayBack], screen: int | None) -> str:
    return columns(
        ("migration", "tenant", "back to", "state", "kept until", "lag", "message"),
        (
            (
                way.migration_id,
                way.tenant_id,
                way.target_store_id,
                way.shown,
                way.kept_until and local(way.kept_until),
                None if way.lag is None else amount(way.lag),
                way.reason,
            )
            for way in found
        ),
        screen,
    )
