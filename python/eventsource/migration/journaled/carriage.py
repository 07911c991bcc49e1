"""What a migration of a layout keeps in its progress row, beside what all migrations keep there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.migration.errors import LeaseLostError
from eventsource.migration.journaled.numbers import LEAST_HEADROOM

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.event_table import AnyTable


@dataclass(frozen=True, slots=True)
class Carriage:
    """Agreed at the start, and how far the first pass has come.

    Attributes:
        layout: the layout's name.
        offsets: by table: how far the numbers of its own sequence are moved.
        last: by table: the last number that the target keeps for the source's.
        headroom: by table: how many numbers were kept free for those that the source still gave.
        stamp: what columns get that each side fills for itself.
        before: by sequence of the target: its value before the numbers were kept, for an abort.
        watched: what the tables were when the guard was made; None before that.
        tables: their OIDs and those of their leaves then.
        table_no, after: the table that the first pass is at, and the place in it.
        scan: the columns of that place.
    """

    layout: str
    offsets: Mapping[str, int]
    last: Mapping[str, int]
    stamp: str
    before: Mapping[str, int | None] = field(default_factory=dict)
    watched: str | None = None
    table_no: int = 0
    after: tuple[str, ...] | None = None
    scan: tuple[str, ...] = ()
    tables: tuple[int, ...] = ()
    headroom: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Carriage:
        values: dict[str, Any] = json.loads(text)
        if values["after"] is not None:
            values["after"] = tuple(values["after"])
        values["scan"] = tuple(values["scan"])
        values["tables"] = tuple(values.get("tables", ()))
        return cls(**{name: value for name, value in values.items() if name in cls.__slots__})

    def bound(self, table: str) -> int:
        """The last number of the source that the target keeps free."""
        return self.last[table] - self.offsets[table]

    def headroom_of(self, table: str) -> int:
        """Of a table; an older version has written none down."""
        return self.headroom.get(table, LEAST_HEADROOM)

    def at(self, table_no: int, scan: tuple[str, ...], after: tuple[str, ...] | None) -> Carriage:
        """The first pass stands there."""
        return replace(self, table_no=table_no, scan=scan, after=after)


async def read(target: AnyTable, migration_id: UUID) -> Carriage | None:
    """What the progress row keeps, None before the numbers were reserved."""
    text = await target.connection.fetchval(
        f"select carriage::text from {target.progress} where migration_id = $1", migration_id
    )
    return None if text is None else Carriage.from_json(text)


async def store(
    connection: Executor,
    target: AnyTable,
    migration_id: UUID,
    owner: UUID,
    carriage: Carriage,
    *,
    rows: int = 0,
    bytes: int = 0,
) -> None:
    """Write it, with what a chunk has added; in the transaction of the chunk's rows.

    Raises:
        LeaseLostError: another driver has taken over.
    """
    kept = await connection.fetchval(
        f"update {target.progress} set carriage = $3::text::jsonb, rows_copied = rows_copied + $4,"
        " pass_rows = pass_rows + $4, pass_bytes = pass_bytes + $5, updated_at = now()"
        " where migration_id = $1 and owner = $2"
        f" and exists (select from {target.fences} f where f.migration_id = $1"
        " and f.role = 'target' and f.state = 'closed') returning true",
        migration_id, owner, carriage.to_json(), rows, bytes,
    )  # fmt: skip
    if not kept:
        raise LeaseLostError(f"another driver carries migration {migration_id} on")
