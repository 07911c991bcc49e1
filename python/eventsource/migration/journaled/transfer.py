"""Rows on their way: read from the source, written to the target, read back and compared."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.dataplane import DataPlaneError, blanked
from eventsource.errors import StoreSchemaError
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import timeouts
from eventsource.migration.connections.transactions import transaction
from eventsource.migration.journaled import frames

if TYPE_CHECKING:
    from eventsource.migration.journaled.statements import Statements
    from eventsource.migration.layouts.declaration import LayoutTable

    Connection = asyncpg.Connection[Any]

#: Bytes that are handed to the target's COPY at a time.
_PIECE = 256 * 1024

#: How many differing rows an error names.
NAMED = 5

#: What the server says when a row cannot be there yet: another one has its key or a unique value,
#: or its parent is missing.
_LATER = (
    asyncpg.UniqueViolationError,
    asyncpg.ExclusionViolationError,
    asyncpg.ForeignKeyViolationError,
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as a binary COPY has them.

    Attributes:
        data: as they were sent, and are written.
        compared: without the numbers that each database gives to its types.
    """

    data: bytes
    count: int
    compared: bytes

    @property
    def digest(self) -> bytes:
        return hashlib.blake2b(self.compared, digest_size=16).digest()


@dataclass(slots=True)
class Moved:
    """What the session of a pass reports."""

    rows: int = 0
    bytes: int = 0
    chunks: int = 0
    last_position: int = 0


@dataclass(slots=True)
class Transfer:
    """Two connections, and what goes over them.

    Attributes:
        reading, writing: of the source and of the target, for nothing else.
    """

    statements: Statements
    reading: Connection
    writing: Connection
    moved: Moved = field(default_factory=Moved)

    async def read(self, table: LayoutTable, query: str) -> Rows:
        """What a query of the source gives, which asks for a table's carried columns."""
        return await self._copied_out(self.reading, table, query)

    async def held(self, table: LayoutTable, query: str) -> Rows:
        """What a query of the target gives, which asks for the same."""
        return await self._copied_out(self.writing, table, query)

    async def _copied_out(self, connection: Connection, table: LayoutTable, query: str) -> Rows:
        names, forms = self.statements.names(table), self.statements.forms(table)
        return await copied_out(connection, query, names, forms)

    @contextlib.asynccontextmanager
    async def landing(self) -> AsyncIterator[None]:
        """A transaction of the target, in which no constraint waits for its end."""
        async with transaction(self.writing):
            if self.statements.shape.may_be_late:
                await self.writing.execute("set constraints all immediate")
            yield

    async def write(self, table: LayoutTable, given: Rows) -> int:
        """Insert rows into the target's table as they are; how many."""
        shape = self.statements.shape
        with self.placing(table.name):
            return await self._copy_in(
                table.name, shape.target.schema, self.statements.names(table), given
            )

    async def write_what_can_be(self, table: LayoutTable, given: Rows) -> list[str]:
        """Insert rows, but for those that cannot be there yet: the keys of these, as the journal
        has them."""
        try:
            async with transaction(self.writing):
                await self.write(table, given)
                return []
        except _LATER:
            staged = await self.stage(table, given)
            with self.placing(table.name):
                await self.writing.execute(
                    self.statements.insert_staged(table, staged),
                    timeout=timeouts.LONG_STATEMENT_SECONDS,
                )
            # Some of them may have been deleted from it.
            staged = await self.stage(table, given)
            rows = await self.writing.fetch(
                self.statements.left_out(table, staged), timeout=timeouts.LONG_STATEMENT_SECONDS
            )
            return [row["key"] for row in rows]

    async def upsert(self, table: LayoutTable, staged: str) -> None:
        """Write what was staged over the tenant's own rows of the same keys."""
        with self.placing(table.name):
            await self.writing.execute(self.statements.upsert_staged(table, staged))

    async def upsert_what_can_be(self, table: LayoutTable, staged: str) -> list[str]:
        """As :meth:`upsert`, but for rows whose parents are not there yet: the keys of these."""
        try:
            async with transaction(self.writing):
                await self.upsert(table, staged)
                return []
        except asyncpg.ForeignKeyViolationError:
            rows = await self.writing.fetch(self.statements.take_orphans(table, staged))
            await self.upsert(table, staged)
            return [row["key"] for row in rows]

    async def delete_what_can_be(self, table: LayoutTable, given: str, staged: str) -> list[str]:
        """Delete the tenant's rows of these keys that were not staged, but for those that others
        still refer to: the keys of these."""
        delete = self.statements.delete_gone(table, given, staged)
        try:
            async with transaction(self.writing):
                await self.writing.execute(delete)
                return []
        except asyncpg.ForeignKeyViolationError:
            rows = await self.writing.fetch(self.statements.take_referred(table, given, staged))
            await self.writing.execute(delete)
            return [row["key"] for row in rows]

    async def stage(self, table: LayoutTable, given: Rows) -> str:
        """Put rows into a table of this session, until the transaction's end; its name, quoted."""
        shape = self.statements.shape
        bare = f"eventsource_staged_{shape.layout.number_of(table.name)}"
        name = f"pg_temp.{quote_identifier(bare)}"
        # Asked each time: a transaction that was rolled back took it with it.
        await self.writing.execute(
            f"create temporary table if not exists {quote_identifier(bare)}"
            f" on commit delete rows as select {self.statements.column_list(table)}"
            f" from {shape.target.name(table.name)} with no data; truncate {name}"
        )
        await self._copy_in(bare, "pg_temp", self.statements.names(table), given)
        return name

    @contextlib.contextmanager
    def placing(self, table: str) -> Iterator[None]:
        """What no partition of the target takes is waited for, as anything that somebody makes;
        and what a row refers to outside of the layout.

        Raises:
            StoreSchemaError: the target has no partition for a row, or not what it refers to.
        """
        shape = self.statements.shape
        try:
            yield
        except asyncpg.ForeignKeyViolationError as error:
            outward = {each.name for each in shape.outward(shape.layout.table(table))}
            if error.constraint_name not in outward:
                raise
            raise StoreSchemaError(
                f"the target has not what a row of {shape.target.name(table)} refers to:"
                f" {error.detail or error} Put it there, and the migration goes on by itself"
            ) from error
        except asyncpg.CheckViolationError as error:
            # A constraint of the table's own has a name.
            if error.constraint_name is not None:
                raise
            name = shape.target.name(table)
            raise StoreSchemaError(
                f"the target's table {name} has no partition for a row of the tenant:"
                f" {error.detail or error}; make one there, and the migration goes on by itself"
            ) from error

    async def _copy_in(self, table: str, schema: str, columns: list[str], given: Rows) -> int:
        tag = await self.writing.copy_to_table(
            table, schema_name=schema, columns=columns, source=_pieces(given.data),
            format="binary", timeout=timeouts.LONG_STATEMENT_SECONDS,
        )  # fmt: skip
        self.moved.bytes += len(given.data)
        return int(tag.rsplit(" ", 1)[1])


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), _PIECE):
        yield bytes(view[start : start + _PIECE])


async def copied_out(
    connection: Connection, query: str, columns: Sequence[str], forms: Sequence[str]
) -> Rows:
    """What a query for these columns gives, whose values have these forms."""
    pieces: list[bytes] = []

    async def keep(piece: bytes) -> None:
        pieces.append(piece)

    tag = await connection.copy_from_query(
        query, output=keep, format="binary", timeout=timeouts.LONG_STATEMENT_SECONDS
    )
    data = b"".join(pieces)
    return Rows(data, int(tag.rsplit(" ", 1)[1]), blanked(data, columns, forms))


def refuse_difference(
    columns: list[str], table: str, sent: Rows, held: Rows, *, may_lack: bool
) -> None:
    """The target has to hold what it was sent, byte by byte, but for numbers of types.

    Args:
        may_lack: whether rows that could not be there yet may be missing; never may others be
            there, or one be different.

    Raises:
        DataPlaneError: kind ``inconsistent``: it does not.
    """
    if sent.compared == held.compared:
        return
    # Another order of texts is none of the rows' business.
    wanted, found = Counter(frames.rows(sent.compared)), Counter(frames.rows(held.compared))
    missing, other = wanted - found, found - wanted
    if not other and (may_lack or not missing):
        return
    raise DataPlaneError(
        "inconsistent",
        f"rows of {table} that are not at the target as they were sent: {sum(missing.values())},"
        f" that are there and were not sent: {sum(other.values())};"
        f" {_named(columns, missing, other)}",
    )


def _named(columns: list[str], missing: Counter[bytes], other: Counter[bytes]) -> str:
    """The columns in which rows that stand for each other differ, as far as that can be said."""
    if not missing or not other:
        return "nothing else differs"
    pairs = zip(sorted(missing), sorted(other), strict=False)
    differing: Counter[str] = Counter()
    for here, there in list(pairs)[:NAMED]:
        for name, one, two in zip(columns, frames.fields(here), frames.fields(there), strict=True):
            if one != two:
                differing[name] += 1
    return f"column {', '.join(name for name, _ in differing.most_common(3))} differs"


class Session:
    """What the driver holds to a rate and asks to stop, as it does with the data plane's."""

    def __init__(self, rate: float | None) -> None:
        self.stopping = False
        self.moved = Moved()
        self._rate = rate
        self._since, self._rows = time.monotonic(), 0

    def request_stop(self) -> None:
        self.stopping = True

    def set_rate(self, max_events_per_second: float | None) -> None:
        self._rate = max_events_per_second
        self._since, self._rows = time.monotonic(), self.moved.rows

    def progress(self) -> Moved:
        return self.moved

    def due(self) -> float:
        """Seconds until the rate allows the next chunk."""
        if self._rate is None:
            return 0.0
        earned = (time.monotonic() - self._since) * self._rate
        return max(0.0, (self.moved.rows - self._rows - earned) / self._rate)

    async def close(self) -> None:
        """Connections are closed by who opened them."""
