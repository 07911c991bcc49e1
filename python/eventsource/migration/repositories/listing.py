"""Migrations by what is asked of them: a page at a time, newest first, and counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.errors import MigrationNotFoundError
from eventsource.migration.models import Migration
from eventsource.migration.states import MigrationState, of_journal
from eventsource.named_sql import statements
from eventsource.retried import Retried
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from eventsource.connections import Executor

_SQL = statements("eventsource.migration.repositories.sql", "listing.sql")
_SELECT = statements("eventsource.migration.repositories.sql", "migrations.sql")["select_columns"]

#: Migrations of a page, unless another number is asked for, and at most.
PAGE, LONGEST_PAGE = 50, 10_000

#: What is left after a page is counted so far: who looks does not wait for a count of everything.
COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which migrations are meant: those for which all that is given is true.

    Attributes:
        states: one of them.
        active: not over; None takes both.
        since, until: of their beginning, the first inclusive.
        operator: who has started them.
    """

    states: tuple[MigrationState, ...] = ()
    active: bool | None = None
    tenant_id: TenantId | None = None
    source_store_id: str | None = None
    target_store_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    operator: str | None = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            given = getattr(self, name)
            if given is not None and given.tzinfo is None:
                raise ValueError(f"{name} must have a time zone: {given.isoformat()} has none")

    def conditions(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Names of statements, and the value of each. Only what is given: a plan for everything
        that could be given would read everything."""
        if self.states:
            yield "of_states", ([str(each) for each in self.states],)
        if self.active is not None:
            yield "active" if self.active else "over", ()
        if self.tenant_id is not None:
            yield "of_tenant", (stored(self.tenant_id),)
        for name in ("source_store_id", "target_store_id", "since", "until", "operator"):
            if (value := getattr(self, name)) is not None:
                yield name, (value,)


@dataclass(frozen=True, slots=True)
class MigrationPage:
    """Some migrations, newest first.

    Attributes:
        more: how many follow; at most 10,000, which then means so many or more.
        next: what to give as ``after`` for those that follow; None when there are none.
    """

    migrations: tuple[Migration, ...]
    more: int
    next: UUID | None


@dataclass(frozen=True, slots=True)
class MigrationCount:
    """How many migrations from one store to another are in a state."""

    state: MigrationState
    source_store_id: str
    target_store_id: str
    migrations: int


async def page(
    pool: Executor, wanted: Wanted, *, limit: int = PAGE, after: UUID | None = None
) -> MigrationPage:
    """The newest of those wanted, or those that began before ``after``.

    Raises:
        ValueError: no limit from 1 to 10,000.
        MigrationNotFoundError: there is no migration ``after``.
    """
    if not 1 <= limit <= LONGEST_PAGE:
        raise ValueError(f"limit must be from 1 to {LONGEST_PAGE:,}, not {limit:,}")
    sql = Retried(pool)
    if after is not None and not await sql.fetchval(_SQL["exists"], after):
        raise MigrationNotFoundError(after)
    statement, arguments = paged(wanted, after)
    rows = await sql.fetch(statement, *arguments, limit + 1)
    found = tuple(Migration.from_row(row) for row in rows[:limit])
    if len(rows) <= limit:
        return MigrationPage(found, 0, None)
    statement, arguments = left(wanted, found[-1].id)
    more = await sql.fetchval(statement, *arguments, COUNTED)
    return MigrationPage(found, more, found[-1].id)


async def counts(pool: Executor, wanted: Wanted) -> list[MigrationCount]:
    """Those wanted by state, source and target; the largest number first."""
    where, arguments = _where(wanted, None)
    rows = await Retried(pool).fetch(f"{_SQL['count']} {where} {_SQL['by_pair']}", *arguments)
    return [
        MigrationCount(of_journal(row["state"]), *(row[name] for name in _COUNTED)) for row in rows
    ]


_COUNTED = ("source_store_id", "target_store_id", "migrations")


def paged(wanted: Wanted, after: UUID | None) -> tuple[str, list[object]]:
    """The statement of a page, and its values but the limit, which comes last."""
    where, arguments = _where(wanted, after)
    return f"{_SELECT} {where} {_SQL['newest']} limit ${len(arguments) + 1}", arguments


def left(wanted: Wanted, after: UUID) -> tuple[str, list[object]]:
    """The statement that counts what follows a page, and its values but the limit."""
    where, arguments = _where(wanted, after)
    inner = f"{_SQL['each']} {where} {_SQL['newest']} limit ${len(arguments) + 1}"
    return f"select count(*) from ({inner}) as following", arguments


def _where(wanted: Wanted, after: UUID | None) -> tuple[str, list[object]]:
    asked: Sequence[tuple[str, tuple[object, ...]]] = [
        *wanted.conditions(),
        *([("after", (after,))] if after is not None else []),
    ]
    arguments: list[object] = []
    conditions = []
    for name, values in asked:
        arguments += values
        conditions.append(_SQL[name].replace("$1", f"${len(arguments)}"))
    return f"where {' and '.join(conditions)}" if conditions else "", arguments
