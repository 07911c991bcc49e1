"""`report`: how a move went."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventsource.cli.choice import chosen, like_an_id
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.report import pages, seal
from eventsource.cli.workspace import Workspace


def report(
    ctx: typer.Context,
    migration: Annotated[
        str | None, typer.Argument(metavar="[MIGRATION]", help="Or --check.", callback=like_an_id)
    ] = None,
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
    if (migration is None) == (check is None):
        raise typer.BadParameter("name a migration, or say --check FILE")

    read = _read(check) if check is not None else None

    async def make(at: Workspace) -> ExitCode:
        if read is not None:
            return await _check(at, read)
        migration_id = (await chosen(at, migration, None)).id
        document = await at.coordinator.report(migration_id)
        if html is not None:
            text, kind = pages.as_html(document), "html"
            html.write_text(text, encoding="utf-8", newline="")
        elif at.out.as_json:
            text, kind = pages.as_json(document), "json"
            at.out.write(text)
        else:
            text, kind = pages.as_text(document), "text"
            at.out.write(text)
        digest = seal.digest_of(text.encode())
        await at.migrations.audit(
            migration_id, "reported", {"sha256": digest, "kind": kind}, at.operator
        )
        if html is not None:
            at.out.answer({"file": str(html), "sha256": digest}, f"{html}\nsha256    {digest}")
        return ExitCode.DONE

    perform(ctx, make)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror or error}") from None


async def _check(at: Workspace, read: bytes) -> ExitCode:
    digest = seal.digest_of(read)
    row = await at.control.fetchrow(
        "select migration_id, operator, created_at from migration_audit_log"
        " where event_type = 'reported' and details ->> 'sha256' = $1 order by id limit 1",
        digest,
    )
    if row is None:
        raise seal.ReportChangedError(
            f"the report ends with its own digest {digest}, but no audit log of this control"
            " database knows it: it was made elsewhere, or changed together with its digest"
        )
    made = row["created_at"].astimezone().isoformat(sep=" ", timespec="seconds")
    at.out.answer(
        {"sha256": digest, "migration_id": row["migration_id"], "made_at": row["created_at"],
         "operator": row["operator"], "unchanged": True},
        f"unchanged: of migration {row['migration_id']}, made {made} by {row['operator']}",
    )  # fmt: skip
    return ExitCode.DONE
