"""What a shell completes: ids of stores and of migrations.

A shell waits for the answer at each Tab, and nobody wants an error there: what cannot be read soon
completes to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eventsource.cli.given_up import without_given_up_connections

if TYPE_CHECKING:
    from eventsource.cli.config import Settings

#: The longest that a Tab may take (seconds).
PATIENCE = 2.0

#: Ids that are offered: the newest ones.
OFFERED = 30


def stores(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of the configuration's stores."""
    with contextlib.suppress(Exception):
        return [name for name in sorted(_settings(ctx).stores) if name.startswith(incomplete)]
    return []


def migrations(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest migrations, with what they are."""
    with contextlib.suppress(Exception):
        settings = _settings(ctx)
        return asyncio.run(asyncio.wait_for(_ids(settings, incomplete), PATIENCE))
    return []


async def _ids(settings: Settings, prefix: str) -> list[tuple[str, str]]:
    # Loaded when it is needed: most completions are of verbs and options.
    from eventsource.connections import ConnectionParameters, connect
    from eventsource.identifiers import quote_identifier
    from eventsource.migration.repositories import lookups

    asyncio.get_running_loop().set_exception_handler(without_given_up_connections)
    schema = settings.control_schema
    path = (("search_path", quote_identifier(schema)),) if schema is not None else ()
    parameters = ConnectionParameters(settings.control_dsn, settings=path)
    connection = await connect(parameters, application_name="eventsource-migrate")
    try:
        return await lookups.offered(connection, prefix, OFFERED)
    finally:
        connection.terminate()


def _settings(ctx: typer.Context) -> Settings:
    from eventsource.cli.config import load

    root = ctx.find_root().params
    config = root.get("config")
    return load(Path(config) if config else None, root.get("overrides") or ())
