"""`fleet page`: what moves, in a browser."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from typing import Annotated

import typer

from eventsource.cli.config import ConfigError
from eventsource.cli.exits import ExitCode
from eventsource.cli.fleet.common import waves_of
from eventsource.cli.invocation import perform
from eventsource.cli.output import described, to_json
from eventsource.cli.workspace import Workspace
from eventsource.tenant_ids import TenantId

#: Where the token is taken from: an option would be seen by everybody who lists processes.
TOKEN_VARIABLE = "EVENTSOURCE_PAGE_TOKEN"

#: What is short enough to be guessed is refused.
SHORTEST_TOKEN = 16


def page(
    ctx: typer.Context,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where it can be asked for.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="NUMBER", min=0, max=65535, help="0 takes a free one.")
    ] = 8321,
) -> None:
    """Show all waves and moves in a browser. The page changes nothing.

    On another address than the loopback it asks for the token in EVENTSOURCE_PAGE_TOKEN.
    """
    token = os.environ.get(TOKEN_VARIABLE)

    async def serve(at: Workspace) -> ExitCode:
        if token is None and not _is_loopback(host):
            raise ConfigError(
                f"{host} can be reached by others: set {TOKEN_VARIABLE} to a long random text, or"
                " leave --host out"
            )
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"{TOKEN_VARIABLE} has {len(token)} characters; take at least {SHORTEST_TOKEN},"
                " at random"
            )
        await _serve(at, host, port, token)
        return ExitCode.DONE

    perform(ctx, serve, interrupted=lambda: "stopped showing", endless=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _serve(at: Workspace, host: str, port: int, token: str | None) -> None:
    from eventsource.web.application import Page
    from eventsource.web.server import listening, serve
    from eventsource.web.snapshots import Snapshots

    async def history_of(tenant_id: TenantId) -> object:
        migrations = await at.coordinator.get_migrations_by_tenant(tenant_id)
        return {
            "migrations": [
                {
                    **described(each),
                    "audit": await at.audit_log.get_by_migration(each.id),
                }
                for each in migrations
            ]
        }

    snapshots = Snapshots(waves_of(at), at.coordinator.get_sync_lag)
    application = Page(snapshots, history_of, to_json, token).application()
    with listening(host, port) as socket:
        where = f"http://{_shown(host)}:{socket.getsockname()[1]}/"
        more = "?token=… (the one of the environment)" if token is not None else ""
        at.out.answer({"page": where, "token": token is not None}, f"the page is at {where}{more}")
        try:
            await serve(application, socket)
        finally:
            await asyncio.shield(snapshots.close())


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
