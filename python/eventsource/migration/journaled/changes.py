"""The journal of changes: which keys a pass has to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource.identifiers import quote_literal

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.event_table import AnyTable


#: In place of a table: this row says what was consumed.
_CONSUMED = -1


@dataclass(frozen=True, slots=True)
class ChangedKeys:
    """Keys by the place of their table in the layout."""

    by_table: Mapping[int, list[str]]

    @property
    def count(self) -> int:
        return sum(map(len, self.by_table.values()))

    def literal(self, table_no: int) -> str | None:
        """Those of a table as an SQL literal, None when there are none."""
        keys = self.by_table.get(table_no)
        return _literal(keys) if keys else None

    def portions(self, table_no: int, size: int) -> list[str]:
        """Those of a table as SQL literals of so many keys at most."""
        keys = self.by_table.get(table_no, [])
        return [_literal(keys[at : at + size]) for at in range(0, len(keys), size)]


def _literal(keys: list[str]) -> str:
    return f"{quote_literal('[' + ','.join(keys) + ']')}::jsonb"


def since(snapshot: str | None) -> str:
    """The condition for rows that a snapshot (text form) does not show; None shows none.

    In ranges that the index serves, and not ``not pg_visible_in_snapshot``, which would read all.
    """
    if snapshot is None:
        return "true"
    _, following, listed = snapshot.split(":")
    ids = [f"xid >= '{int(following)}'::xid8"]
    ids += [f"xid = '{int(running)}'::xid8" for running in listed.split(",") if running]
    return f"({' or '.join(ids)})"


async def read(
    connection: Executor, source: AnyTable, fence_id: int, snapshot: str | None, limit: int
) -> ChangedKeys | None:
    """The keys of changes that the session sees and the snapshot did not show.

    None when there are more than ``limit`` of them.
    """
    rows: list[Any] = await connection.fetch(
        f"select distinct table_no, key::text as key from {source.beside('eventsource_changes')}"
        f" where fence_id = $1 and table_no >= 0 and {since(snapshot)} limit $2",
        fence_id, limit + 1,
    )  # fmt: skip
    if len(rows) > limit:
        return None
    found: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        found[row["table_no"]].append(row["key"])
    return ChangedKeys({number: sorted(keys) for number, keys in found.items()})


async def count(connection: Executor, source: AnyTable, fence_id: int, snapshot: str | None) -> int:
    """How many keys a pass would look at now."""
    return int(
        await connection.fetchval(
            "select count(*) from (select distinct table_no, key"
            f" from {source.beside('eventsource_changes')}"
            f" where fence_id = $1 and table_no >= 0 and {since(snapshot)}) changed",
            fence_id,
        )
    )


async def consume(source: AnyTable, fence_id: int, upto: str, pass_number: int) -> None:
    """Delete what the target holds: all that is older than what the snapshot may not show.

    A row says so: a target that was put back to before that pass lacks it for good.
    """
    journal = source.beside("eventsource_changes")
    await source.connection.execute(
        f"with gone as (delete from {journal} where fence_id = $1"
        f" and (xid < '{int(upto.split(':')[0])}'::xid8 or table_no = {_CONSUMED}) returning true)"
        f" insert into {journal} (fence_id, table_no, key)"
        f" select $1, {_CONSUMED}, to_jsonb($2::integer) where exists (select from gone)",
        fence_id, pass_number,
    )  # fmt: skip


async def consumed(source: AnyTable, fence_id: int) -> int:
    """The last pass whose changes were deleted here; 0 when none were."""
    return int(
        await source.connection.fetchval(
            f"select coalesce(max(key::text::integer), 0) from"
            f" {source.beside('eventsource_changes')}"
            f" where fence_id = $1 and table_no = {_CONSUMED}",
            fence_id,
        )
    )


async def forget(source: AnyTable, fence_id: int) -> None:
    """Delete all of a fence."""
    await source.connection.execute(
        f"delete from {source.beside('eventsource_changes')} where fence_id = $1", fence_id
    )
