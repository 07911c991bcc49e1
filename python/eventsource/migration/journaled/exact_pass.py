"""A pass over few keys: what one snapshot of the source shows, in one transaction of the target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventsource import failpoints
from eventsource.migration.journaled import carriage, changes
from eventsource.migration.journaled.digests import digest_of
from eventsource.migration.journaled.transfer import Rows, refuse_difference

if TYPE_CHECKING:
    from eventsource.migration.journaled.changes import ChangedKeys
    from eventsource.migration.journaled.underway import Underway
    from eventsource.migration.layouts.declaration import LayoutTable


@dataclass(slots=True)
class ExactPass:
    """One such pass. After `read`, ``snapshot`` is the one that showed everything it read."""

    passes: Underway
    snapshot: str = ""
    digest: bytes = b""
    _keys: ChangedKeys | None = None
    _rows: dict[int, Rows] = field(default_factory=dict)

    async def read(self, most: int) -> bool:
        """Read the journal and the rows; False when there are more keys than that."""
        passes = self.passes
        transfer = passes.transfer
        reading, statements = transfer.reading, transfer.statements
        async with reading.transaction(isolation="repeatable_read", readonly=True):
            self.snapshot = await reading.fetchval("select pg_current_snapshot()::text")
            self._keys = await changes.read(
                reading, passes.connections.source, passes.fence_id, passes.at.proven_snapshot,
                most,
            )  # fmt: skip
            if self._keys is None:
                return False
            for number, table in enumerate(statements.shape.layout.tables):
                given = self._keys.literal(number)
                if given is not None:
                    self._rows[number] = await transfer.read(
                        table,
                        statements.changed_rows(
                            table, given, statements.shape.source, statements.carried(table)
                        ),
                    )
        await failpoints.reach("layout.exact.read")
        return True

    async def write(self) -> int:
        """Write and prove them; how many rows. The barrier has been passed since the read.

        Raises:
            DataPlaneError: kind ``inconsistent``: the target does not hold what was read.
        """
        assert self._keys is not None
        passes, keys = self.passes, self._keys
        transfer = passes.transfer
        shape = transfer.statements.shape
        tables = list(enumerate(shape.layout.tables))
        changed = [(number, table) for number, table in tables if number in keys.by_table]
        parents = [(number, table) for number, table in changed if shape.is_parent(table)]
        others = [each for each in changed if each not in parents]
        written = sum(rows.count for rows in self._rows.values())
        size = sum(len(rows.data) for rows in self._rows.values())
        self.digest = digest_of([self._rows[number].digest for number, _ in changed])
        async with transfer.landing():
            # The owner's row first: a driver that was taken over from changes nothing.
            await carriage.store(
                transfer.writing, passes.connections.target, passes.migration.id, passes.owner,
                passes.agreed, rows=written, bytes=size,
            )  # fmt: skip
            for number, table in reversed(others):
                await self._delete(number, table)
            staged = {}
            for number, table in parents:
                staged[number] = await transfer.stage(table, self._rows[number])
                await transfer.upsert(table, staged[number])
            for number, table in others:
                if self._rows[number].count:
                    await transfer.write(table, self._rows[number])
            for number, table in reversed(parents):
                await transfer.writing.execute(
                    transfer.statements.delete_gone(table, self._given(number), staged[number])
                )
            await self._prove(changed)
            await transfer.writing.execute(
                f"update {passes.connections.target.progress} set pass_digest = $2"
                " where migration_id = $1",
                passes.migration.id, self.digest,
            )  # fmt: skip
            await failpoints.reach("layout.exact.written")
        await failpoints.reach("layout.exact.committed")
        passes.session.moved.rows += written
        passes.session.moved.chunks += 1
        return written

    def _given(self, number: int) -> str:
        assert self._keys is not None
        given = self._keys.literal(number)
        assert given is not None
        return given

    async def _delete(self, number: int, table: LayoutTable) -> None:
        transfer = self.passes.transfer
        await transfer.writing.execute(
            transfer.statements.delete_changed(table, self._given(number))
        )

    async def _prove(self, changed: list[tuple[int, LayoutTable]]) -> None:
        transfer = self.passes.transfer
        statements = transfer.statements
        for number, table in changed:
            held = await transfer.held(
                table,
                statements.changed_rows(
                    table, self._given(number), statements.shape.target, statements.held(table)
                ),
            )
            refuse_difference(
                statements.names(table), table.name, self._rows[number], held, may_lack=False
            )
