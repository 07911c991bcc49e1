"""`audit`: what happened to a migration and who asked, one line each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from eventsource.cli.choice import MigrationId, TenantOption, chosen
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import number
from eventsource.cli.workspace import Workspace
from eventsource.migration.repositories.audit import AuditEntry

#: What a line leaves out: ids of requests, and what another detail says in words.
_LEFT_OUT = frozenset({"request", "code", "problems", "blockers", "reason_code"})

#: An account is cut here, so that the details begin at one column.
_LONGEST_ACCOUNT = 12

#: An id, and the first characters of it, which every command takes for the whole.
_ID = re.compile(r"\b([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def audit(ctx: typer.Context, migration: MigrationId = None, tenant: TenantOption = None) -> None:
    """Show what happened to a migration and who asked; --json has all details."""

    async def look(at: Workspace) -> ExitCode:
        found = await chosen(at, migration, tenant)
        entries = await at.audit_log.get_by_migration(found.id)
        at.out.answer(entries, "\n".join(lines(entries, at.out.width)))
        return ExitCode.DONE

    perform(ctx, look)


def lines(entries: Sequence[AuditEntry], width: int) -> list[str]:
    """A line for the day when it changes, and one for each entry, none longer than the width."""
    who = max((len(each.operator or "") for each in entries), default=0)
    who = min(who, _LONGEST_ACCOUNT)
    what = max((len(_event(each.event_type)) for each in entries), default=0)
    shown, day = [], ""
    for entry in entries:
        at = entry.created_at.astimezone()
        if (today := at.strftime("%Y-%m-%d %Z")) != day:
            shown.append(today)
            day = today
        by = (entry.operator or "")[:_LONGEST_ACCOUNT]
        start = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}  {_event(entry.event_type):<{what}}"
        text = f"{start}  {by:<{who}}  {_said(entry.details)}".rstrip()
        shown.append(_cut(text, width, len(start)))
    return shown


def _cut(text: str, width: int, least: int) -> str:
    """In so many columns: ids by their beginnings, then cut between words: half an id is none."""
    if len(text) > width:
        text = _ID.sub(r"\1", text)
    if len(text) <= width:
        return text
    end = text.rfind(" ", least, width)
    return f"{text[: end if end > least else width - 1]}…"


def _event(kind: str) -> str:
    return kind.removeprefix("state:")


def _said(details: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_value(name, value)}"
        for name, value in details.items()
        if name not in _LEFT_OUT and value is not None and not isinstance(value, (dict, list))
    )


def _value(name: str, value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case int():
            return number(name, value)
        case _:
            return " ".join(str(value).split())
