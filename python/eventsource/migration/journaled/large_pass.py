"""A pass over many keys: in portions, over rows as they are when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsource import failpoints
from eventsource.migration.connections import timeouts
from eventsource.migration.journaled import carriage, changes
from eventsource.migration.journaled.transfer import refuse_difference

if TYPE_CHECKING:
    from eventsource.migration.journaled.underway import Underway

#: Keys of a portion.
PORTION = 5_000

#: In place of a number of rows: the first pass would be as quick.
TOO_MANY = -1


async def run(passes: Underway, since: str | None, most: int) -> int | None:
    """Delete every changed row at the target, then insert what is there now; how many rows.

    The keys of what cannot be there yet are written down for the next pass. A pass that was
    interrupted is begun again from the same keys. None when asked to stop on the way.
    """
    transfer, shape = passes.transfer, passes.transfer.statements.shape
    source = passes.connections.source
    keys = await changes.KeptKeys.of(
        transfer.reading, source, passes.fence_id, since,
        [shape.refers_to_itself(table) for table in shape.layout.tables],
    )  # fmt: skip
    try:
        # Asked after the keys were read: what was not written down before that is known now.
        if sum(keys.counts) > most or await changes.overflowed(
            transfer.reading, source, passes.fence_id
        ):
            return TOO_MANY
        return await _carry(passes, keys)
    finally:
        if not transfer.reading.is_closed():
            await keys.close()


async def _carry(passes: Underway, keys: changes.KeptKeys) -> int | None:
    transfer = passes.transfer
    statements, shape = transfer.statements, transfer.statements.shape
    tables = list(enumerate(shape.layout.tables))
    for number, table in reversed(tables):
        if shape.is_parent(table):
            continue  # its rows may have children that did not change
        async for given in keys.portions(number, PORTION):
            async with transfer.landing():
                await carriage.store(
                    transfer.writing, passes.connections.target, passes.migration.id,
                    passes.owner, passes.agreed,
                )  # fmt: skip
                await transfer.writing.execute(
                    statements.delete_changed(table, given),
                    timeout=timeouts.LONG_STATEMENT_SECONDS,
                )
    written = 0
    for number, _ in tables:
        async for given in keys.portions(number, PORTION):
            if not await passes.rest():
                return None
            written += await _portion(passes, number, given)
    for number, table in reversed(tables):
        if shape.is_parent(table):
            await _delete_gone(passes, number, keys)
    return written


async def _portion(passes: Underway, number: int, given: str) -> int:
    transfer = passes.transfer
    statements, shape = transfer.statements, transfer.statements.shape
    table = shape.layout.tables[number]
    sent = await transfer.read(
        table, statements.changed_rows(table, given, shape.source, statements.carried(table))
    )
    await passes.barrier()
    async with transfer.landing():
        if shape.is_parent(table):
            staged = await transfer.stage(table, sent)
            await passes.write_down(number, await transfer.upsert_what_can_be(table, staged))
        elif sent.count:
            await passes.write_down(number, await transfer.write_what_can_be(table, sent))
        held = await transfer.held(
            table, statements.changed_rows(table, given, shape.target, statements.held(table))
        )
        # Of a parent, rows that are gone at the source are still there.
        gone = shape.is_parent(table)
        if not gone:
            refuse_difference(statements.names(table), table.name, sent, held, may_lack=True)
        await carriage.store(
            transfer.writing, passes.connections.target, passes.migration.id, passes.owner,
            passes.agreed, rows=sent.count, bytes=len(sent.data),
        )  # fmt: skip
        await failpoints.reach("layout.portion.written")
    passes.session.moved.rows += sent.count
    passes.session.moved.chunks += 1
    return sent.count


async def _delete_gone(passes: Underway, number: int, keys: changes.KeptKeys) -> None:
    """Parents that the source has no more, as far as no row refers to them."""
    transfer = passes.transfer
    statements, shape = transfer.statements, transfer.statements.shape
    table = shape.layout.tables[number]
    async for given in keys.portions(number, PORTION):
        kept = await transfer.read(
            table, statements.changed_rows(table, given, shape.source, statements.carried(table))
        )
        await passes.barrier()
        async with transfer.landing():
            staged = await transfer.stage(table, kept)
            await carriage.store(
                transfer.writing, passes.connections.target, passes.migration.id, passes.owner,
                passes.agreed,
            )  # fmt: skip
            await passes.write_down(number, await transfer.delete_what_can_be(table, given, staged))
