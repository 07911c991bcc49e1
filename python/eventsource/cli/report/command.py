"""`report`: how a move went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventsource.cli import files
from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import record
from eventsource.cli.report import making
from eventsource.cli.workspace import Workspace


def report(
    ctx: typer.Context,
    migration: MigrationId = None,
    tenant: TenantOption = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one HTML file with the course drawn."),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", help="Was a report changed since it was made?"),
    ] = None,
) -> None:
    """Show how a move went: what, by whom, when, and with what proof.

    Each report ends with a digest of all before it, which the audit log keeps.
    """
    if (migration is None and tenant is None) == (check is None):
        raise typer.BadParameter("name a migration, or its --tenant, or say --check FILE")

    read = _read(check) if check is not None else None

    async def make(at: Workspace) -> ExitCode:
        if read is not None:
            return await _check(at, read)
        files.refuse_unwritable(html, "--html")
        migration_id = (await chosen(at, migration, tenant)).id
        if html is not None:
            digest = await making.write(at, migration_id, html)
            at.out.answer({"file": str(html), "sha256": digest}, f"{html}\nsha256    {digest}")
            return ExitCode.DONE
        text, _ = await making.make(at, migration_id, "json" if at.out.as_json else "text")
        if at.out.as_json or at.out.screen is None:
            at.out.write(text)
        else:
            # Who looks at it keeps no file whose bytes count.
            at.out.answer(None, text.rstrip("\n"))
        return ExitCode.DONE

    perform(ctx, make)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror or error}") from None


async def _check(at: Workspace, read: bytes) -> ExitCode:
    found = await making.find(at, read)
    made = found.made_at.astimezone().isoformat(sep=" ", timespec="seconds")
    at.out.answer(
        {**record(found), "unchanged": True},
        f"unchanged: of migration {found.migration_id}, made {made} by {found.operator}",
    )
    return ExitCode.DONE
