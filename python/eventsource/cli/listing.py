"""`list`: migrations by what is asked of them, a page at a time, or counted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import typer

from eventsource.cli import completion, views
from eventsource.cli.choice import chosen, like_an_id
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import amount, columns, described
from eventsource.cli.workspace import Workspace
from eventsource.durations import seconds_of
from eventsource.migration import MigrationCount, MigrationPage, MigrationState
from eventsource.migration.repositories import listing, lookups

_States = Annotated[
    list[MigrationState] | None,
    typer.Option("--state", metavar="STATE", help="Only those in it. Repeatable."),
]
_Active = Annotated[bool, typer.Option("--active", help="Only those that are not over.")]
_Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's.")
]
_From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="STORE", help="Only those out of it.", autocompletion=completion.stores
    ),
]
_To = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="STORE", help="Only those into it.", autocompletion=completion.stores
    ),
]
_Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only those begun since: 2h, 7d, 2026-12-01, an ISO time."
    ),
]
_Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only those begun before it.")
]
_Operator = Annotated[
    str | None, typer.Option("--by", metavar="ACCOUNT", help="Only those that it has started.")
]
_Limit = Annotated[
    int,
    typer.Option(
        "--limit", metavar="NUMBER", min=1, max=listing.LONGEST_PAGE, help="So many at most."
    ),
]
_After = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="MIGRATION",
        callback=like_an_id,
        help="Those that follow this one: the next page.",
    ),
]
_Summary = Annotated[bool, typer.Option("--summary", help="Count them by state and stores.")]


def list_migrations(
    ctx: typer.Context,
    state: _States = None,
    active: _Active = False,
    tenant: _Tenant = None,
    source: _From = None,
    to: _To = None,
    since: _Since = None,
    until: _Until = None,
    by: _Operator = None,
    limit: _Limit = listing.PAGE,
    after: _After = None,
    summary: _Summary = False,
) -> None:
    """List migrations, newest first, also those that are over."""
    now = datetime.now().astimezone()
    begun = (moment_of(since, now, "--since"), moment_of(until, now, "--until"))

    async def look(at: Workspace) -> ExitCode:
        wanted: dict[str, Any] = {
            "states": state or (),
            "active": True if active else None,
            "tenant_id": None if tenant is None else at.tenant(tenant),
            "source_store_id": source,
            "target_store_id": to,
            "since": begun[0],
            "until": begun[1],
            "operator": by,
        }
        is_narrowed = any(value not in (None, ()) for value in wanted.values())
        if summary:
            counted = await at.coordinator.count_migrations(**wanted)
            at.out.answer(counted, _counted(counted, is_narrowed))
            return ExitCode.DONE
        last = None if after is None else (await chosen(at, after, None)).id
        page = await at.coordinator.list_migrations(**wanted, limit=limit, after=last)
        await _show(at, page, is_narrowed or last is not None)
        return ExitCode.DONE

    perform(ctx, look)


async def _show(at: Workspace, page: MigrationPage, is_narrowed: bool) -> None:
    found = page.migrations
    operators = await lookups.operators_of(at.control, [each.id for each in found])
    shown = views.table(found, at.out.width, operators) if found else _none(is_narrowed)
    at.out.answer(
        [{**described(each), "started_by": operators.get(each.id)} for each in found], shown
    )
    if page.next is not None:
        at.out.warn(_what_follows(page.more, page.next))


def _what_follows(more: int, after: UUID) -> str:
    many = f"{amount(more)} or more" if more >= listing.COUNTED else amount(more)
    return f"{many} more follow: the same with --after {after}, or count them with --summary"


def _none(is_narrowed: bool) -> str:
    return "no such migration" if is_narrowed else "no migration yet"


def _counted(counted: Sequence[MigrationCount], is_narrowed: bool) -> str:
    if not counted:
        return _none(is_narrowed)
    rows = [
        (each.state, each.source_store_id, each.target_store_id, amount(each.migrations))
        for each in counted
    ]
    total = amount(sum(each.migrations for each in counted))
    return columns(("state", "from", "to", "migrations"), [*rows, ("all", "", "", total)])


def moment_of(text: str | None, now: datetime, option: str) -> datetime | None:
    """So long ago (2h, 7d), a day or a time; without a zone it is of this machine's clock."""
    if text is None:
        return None
    try:
        if text[-1:].isalpha() and not text.endswith("Z"):
            return now.astimezone(UTC) - timedelta(seconds=seconds_of("time", text))
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: write 2h, 7d, 2026-12-01 or 2026-12-01T05:00+01:00",
            param_hint=option,
        ) from None
