"""The first pass: every row of the tenant as it is, chunk by chunk in the order of an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource import failpoints
from eventsource.connections import both
from eventsource.identifiers import quote_identifier
from eventsource.migration.connections import timeouts
from eventsource.migration.journaled import carriage
from eventsource.migration.journaled.transfer import Rows, refuse_difference
from eventsource.migration.tables import fences

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventsource.connections import AnyConnection
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.journaled.underway import Underway
    from eventsource.migration.layouts.declaration import LayoutTable
    from eventsource.migration.models import Migration

#: Bytes of a chunk, by the average of the table's rows.
CHUNK_BYTES = 8 * 1024 * 1024

#: Rows that an emptying deletes in one transaction.
DELETED_AT_A_TIME = 20_000

# Unique indexes over plain columns that are never null, in ascending order. The tenant's column
# first is best: then only the tenant's rows are read. Else the primary key.
_SCANS = """
select array(select a.attname::text
             from unnest(i.indkey::int2[]) with ordinality k (num, place)
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
             where k.place <= i.indnkeyatts order by k.place) as columns,
       i.indisprimary as is_primary
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
where i.indrelid = $1::text::regclass and m.amname = 'btree' and i.indisvalid and i.indisunique
  and i.indimmediate and i.indpred is null and i.indexprs is null
  and not exists (select from unnest(i.indoption::int2[]) o where o <> 0)
  and not exists (select from unnest(i.indkey::int2[]) k (num)
                  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
                  where not a.attnotnull)
"""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What was read, and the place where it ends; None where nothing follows."""

    sent: Rows
    upto: tuple[str, ...] | None


async def run(passes: Underway) -> bool:
    """From where it stands to its end; False when asked to stop on the way."""
    shape = passes.transfer.statements.shape
    tables = shape.layout.tables
    for number in range(passes.agreed.table_no, len(tables)):
        table = tables[number]
        if passes.agreed.table_no < number or not passes.agreed.scan:
            scan = await scan_of(passes.connections.source, table, shape)
            passes.agreed = passes.agreed.at(number, tuple(scan), None)
        if not await _carry(passes, table, await _rows_of_a_chunk(passes, table)):
            return False
    return True


async def scan_of(source: AnyTable, table: LayoutTable, shape: Shape) -> Sequence[str]:
    """The columns of the index by which the tenant's rows are read."""
    if table.scan:
        return table.scan
    if shape.refers_to_itself(table):
        # Those first that others refer to.
        return table.key
    found: list[Any] = await source.connection.fetch(_SCANS, source.beside(table.name))
    tenant = table.tenancy.column
    ordered = [row for row in found if all(shape.is_ordered(table, n) for n in row["columns"])]
    for row in sorted(ordered, key=lambda row: row["columns"]):
        if tenant is not None and row["columns"][0] == tenant:
            return list(row["columns"])
    primary = [row["columns"] for row in ordered if row["is_primary"]]
    return list(primary[0]) if primary else list(table.key)


async def _rows_of_a_chunk(passes: Underway, table: LayoutTable) -> int:
    shape = passes.transfer.statements.shape
    width = await passes.connections.source.connection.fetchval(
        "select avg(pg_column_size(sample.*))::float8 from"
        f" (select * from {shape.rows(table, shape.source)} mine limit 1000) sample"
    )
    most = passes.migration.config.chunk_rows
    return max(1, min(most, int(CHUNK_BYTES / max(width or 1.0, 1.0))))


async def _carry(passes: Underway, table: LayoutTable, size: int) -> bool:
    """All chunks of a table, each read while the one before it is written and proven.

    False when asked to stop on the way: what was read and not written is read again.
    """
    if not await passes.rest():
        return False
    chunk = await _read(passes, table, passes.agreed.after, size)
    while chunk.upto is not None:
        if not await passes.rest():
            return False
        _, chunk = await both(_write(passes, table, chunk), _read(passes, table, chunk.upto, size))
    await _write(passes, table, chunk)
    return True


async def _read(
    passes: Underway, table: LayoutTable, after: tuple[str, ...] | None, size: int
) -> _Chunk:
    """The next rows; on the connection that only reads, which is free while others are written."""
    statements, scan = passes.transfer.statements, passes.agreed.scan
    upto = await _place_after(passes, table, after, size)
    wanted = statements.range_of(table, scan, after, upto, statements.shape.source)
    order = statements.in_order(table, scan, binary=False)
    sent = await passes.transfer.read(
        table, f"select {statements.carried(table)} from {wanted} {order}"
    )
    return _Chunk(sent, upto)


async def _write(passes: Underway, table: LayoutTable, chunk: _Chunk) -> None:
    """Write and prove them, and where the pass stands then, in one transaction."""
    transfer, agreed, sent = passes.transfer, passes.agreed, chunk.sent
    await passes.barrier()
    await failpoints.reach("layout.chunk.read")
    following = agreed.at(agreed.table_no, agreed.scan, chunk.upto)
    if chunk.upto is None:
        following = agreed.at(agreed.table_no + 1, (), None)
    async with transfer.landing():
        left_out = await transfer.write_what_can_be(table, sent) if sent.count else []
        await passes.write_down(agreed.table_no, left_out)
        written = sent.count - len(left_out)
        await _prove(passes, table, chunk.upto, sent)
        await carriage.store(
            transfer.writing, passes.connections.target, passes.migration.id, passes.owner,
            following, rows=written, bytes=len(sent.data),
        )  # fmt: skip
        await failpoints.reach("layout.chunk.written")
    await failpoints.reach("layout.chunk.committed")
    passes.agreed = following
    passes.session.moved.rows += written
    passes.session.moved.chunks += 1


async def _place_after(
    passes: Underway, table: LayoutTable, after: tuple[str, ...] | None, size: int
) -> tuple[str, ...] | None:
    """Where a chunk of so many rows ends; None when fewer are left."""
    scan, statements = passes.agreed.scan, passes.transfer.statements
    wanted = statements.range_of(table, scan, after, None, statements.shape.source)
    columns = ", ".join(f"subject.{quote_identifier(each)}::text" for each in scan)
    order = statements.in_order(table, scan, binary=False)
    row = await passes.transfer.reading.fetchrow(
        f"select {columns} from {wanted} {order} limit 1 offset {size - 1}",
        timeout=timeouts.LONG_STATEMENT_SECONDS,
    )
    return None if row is None else tuple(row)


async def _prove(
    passes: Underway, table: LayoutTable, upto: tuple[str, ...] | None, sent: Rows
) -> None:
    """Read back what the target holds of the chunk, before it is committed."""
    transfer, agreed = passes.transfer, passes.agreed
    statements = transfer.statements
    wanted = statements.range_of(table, agreed.scan, agreed.after, upto, statements.shape.target)
    order = statements.in_order(table, agreed.scan, binary=False)
    held = await transfer.held(table, f"select {statements.held(table)} from {wanted} {order}")
    refuse_difference(statements.names(table), table.name, sent, held, may_lack=True)


async def empty(passes: Underway) -> None:
    """Delete what was carried: it is carried again.

    Raises:
        StoreGoneBackError: the target is not closed any more: the tenant lives there.
    """
    await empty_target(
        passes.connections.target, passes.transfer.statements.shape, passes.transfer.writing,
        passes.migration, passes.owner,
    )  # fmt: skip


async def empty_target(
    target: AnyTable, shape: Shape, writing: AnyConnection, migration: Migration, owner: UUID
) -> None:
    """As :func:`empty`, where no passes run; children first."""
    for table in reversed(shape.layout.tables):
        key = ", ".join(map(quote_identifier, table.key))
        name = shape.target.name(table.name)
        while True:
            tag = await writing.execute(
                f"delete from {name} where ({key}) in (select {key} from"
                f" {shape.rows(table, shape.target)} mine limit {DELETED_AT_A_TIME})"
                f" and exists (select from {target.progress}"
                " where migration_id = $1 and owner = $2)"
                f" and exists (select from {target.fences} where migration_id = $1"
                " and role = 'target' and state = 'closed')",
                migration.id, owner, timeout=timeouts.LONG_STATEMENT_SECONDS,
            )  # fmt: skip
            if tag == "DELETE 0":
                break
    await fences.refuse_unless_closed(target, migration.tenant_id, migration.id)
