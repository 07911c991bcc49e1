"""A layout as a declaration: the tables of an event store, and how a tenant is found in them.

The engine needs surprisingly little: which rows are the tenant's, which columns name a row, which
numbers are drawn from a sequence, and in what order rows may be written. Everything here is data;
whether it fits the tables of a database is for the preflight to find out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from eventsource.errors import EventSourceError

#: Of a name that is cut: it stands at the end of those of functions.
_LABEL_BYTES = 30


class LayoutError(EventSourceError):
    """A layout cannot be used as it is written; the message names the entry."""


class Changes(StrEnum):
    """How a pass finds the rows that changed."""

    STAMP = "stamp"
    """By a column with the id of the transaction that wrote the row."""
    JOURNAL = "journal"
    """By the keys that the guard writes down while the tenant moves."""


class Stops(StrEnum):
    """Who waits while the tenant's fence is held; the library's own locks decide."""

    TENANT = "tenant"
    CATEGORY = "category"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Through:
    """A tenant that a row has by reference: ``columns`` point to those of a table of the layout."""

    table: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Which rows of a table are a tenant's: one of the four is given.

    ``column`` has the tenant's id, in whatever type; ``expression`` is an SQL expression over a row
    that gives it; ``through`` is a reference; ``whole`` means that every row is.
    """

    column: str | None = None
    expression: str | None = None
    through: Through | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Numbering:
    """A column of numbers that a sequence of its table gives.

    With ``like`` it holds the numbers of another table of the layout, and moves with those. With
    ``per_tenant`` each tenant has a sequence of its own, which this statement names: its numbers
    are unique within the tenant only.
    """

    column: str
    sequence: str | None = None
    like: str | None = None
    per_tenant: str | None = None


@dataclass(frozen=True, slots=True)
class LayoutTable:
    """One table.

    Attributes:
        key: columns that name a row: unique together and never null.
        scan: columns by which the first pass reads; None looks for an index that serves.
        numbered: columns whose numbers are moved by an offset.
        stamps: columns that each side fills for itself, such as transaction ids.
        where: of the tenant's rows only these travel.
        stream: the columns that say in which stream a row is.
    """

    name: str
    key: tuple[str, ...]
    tenancy: Tenancy
    scan: tuple[str, ...] | None = None
    numbered: tuple[Numbering, ...] = ()
    stamps: tuple[str, ...] = ()
    where: str | None = None
    stream: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of one kind of event store, those first that others refer to.

    Attributes:
        events: the name of the table with the events, one of ``tables``.
        schema: where the tables are if the store does not say; None is the search path.
        stays: tables that never travel, and why.
        readers: tables with the positions of readers, and which of their rows are such: the target
            must have none.
        after_flip: a statement for the target once the tenant lives there; may be repeated.
        headroom: numbers of each table that are kept free at the target for those that the source
            still gives; None lets them follow from what it has given.
        is_schema: of a tenant that owns all rows: whether every table of the schema is its own, and
            one that is not declared refuses the move.
        stream, version, event_id: columns of the events that say which one it is, for reports.
    """

    name: str
    title: str
    tables: tuple[LayoutTable, ...]
    events: str
    schema: str | None = None
    changes: Changes = Changes.JOURNAL
    stops: Stops = Stops.TENANT
    stays: tuple[tuple[str, str], ...] = ()
    readers: tuple[tuple[str, str], ...] = ()
    after_flip: str | None = None
    headroom: int | None = None
    stream: tuple[str, ...] = ()
    version: str | None = None
    event_id: str | None = None
    recognised_by: tuple[str, ...] = field(default=())
    is_schema: bool = False

    @property
    def main(self) -> LayoutTable:
        """The table with the events."""
        return self.table(self.events)

    @property
    def is_whole(self) -> bool:
        """Whether all rows are one tenant's; positions are kept then."""
        return self.main.tenancy.whole

    @property
    def label(self) -> str:
        """Of what is made for its tables: short enough for any name, and no other layout's."""
        name = self.events.encode()
        if len(name) <= _LABEL_BYTES:
            return self.events
        start = name[: _LABEL_BYTES - 13].decode("utf-8", "ignore")
        return f"{start}_{hashlib.md5(name, usedforsecurity=False).hexdigest()[:12]}"

    @property
    def is_own(self) -> bool:
        """Whether it is that of this package's stores."""
        return self.changes is Changes.STAMP

    def table(self, name: str) -> LayoutTable:
        """The table of that name."""
        return next(each for each in self.tables if each.name == name)

    def number_of(self, name: str) -> int:
        """Its place among the tables, by which the journal names it."""
        return [each.name for each in self.tables].index(name)
