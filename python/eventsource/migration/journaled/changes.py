"""The journal of changes: which keys a pass has to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventsource.identifiers import quote_literal
from eventsource.migration.connections import timeouts
from eventsource.migration.connections.transactions import transaction

if TYPE_CHECKING:
    import asyncpg

    from eventsource.connections import Executor
    from eventsource.migration.event_table import AnyTable


#: In place of a table: this row says what was consumed.
_CONSUMED = -1

#: In place of a table, with the negative number of a fence: how many keys may be written down, and
#: that there were more.
LIMIT, _OVERFLOWED = 0, 1

#: Bytes that a key takes, with its place in the index.
BYTES_OF_A_KEY = 150

#: Keys that are counted at most when somebody asks how far the target lags.
COUNTED = 10_000_000


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


@dataclass(frozen=True, slots=True)
class KeptKeys:
    """Keys that the source keeps for a session, however many: here is one portion of them.

    Attributes:
        counts: how many there are of each table, by its place in the layout.
    """

    connection: asyncpg.Connection[Any]
    counts: tuple[int, ...]

    @classmethod
    async def of(
        cls,
        connection: asyncpg.Connection[Any],
        source: AnyTable,
        fence_id: int,
        snapshot: str | None,
        ordered: Sequence[bool],
    ) -> KeptKeys:
        """Those of changes that the snapshot did not show; of each table whether in order."""
        counts = []
        for number, in_order in enumerate(ordered):
            name = f"eventsource_keys_{number}"
            async with transaction(connection):
                await connection.execute(
                    f"declare {name} scroll cursor with hold for select key::text as key from"
                    f" (select distinct key from {source.beside('eventsource_changes')} where"
                    f" fence_id = {fence_id} and table_no = {number} and {since(snapshot)}) changed"
                    f"{' order by changed.key' if in_order else ''}",
                    timeout=timeouts.LONG_STATEMENT_SECONDS,
                )
            tag = await connection.execute(f"move forward all in {name}")
            counts.append(int(tag.rsplit(" ", 1)[1]))
        return cls(connection, tuple(counts))

    async def portions(self, table_no: int, size: int) -> AsyncIterator[str]:
        """Those of a table as SQL literals of so many keys at most; may be asked for again."""
        name = f"eventsource_keys_{table_no}"
        if not self.counts[table_no]:
            return
        await self.connection.execute(f"move absolute 0 in {name}")
        while True:
            rows = await self.connection.fetch(f"fetch forward {size} from {name}")
            if not rows:
                return
            yield _literal([row["key"] for row in rows])

    async def close(self) -> None:
        """Let the source forget them."""
        for number in range(len(self.counts)):
            await self.connection.execute(f"close eventsource_keys_{number}")


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


def shown(snapshot: str, column: str = "xid") -> str:
    """The condition for rows that a snapshot (text form) shows: no pass from it on needs them."""
    _, following, listed = snapshot.split(":")
    running = ", ".join(f"'{int(each)}'" for each in listed.split(",") if each)
    others = f" and {column} <> all (array[{running}]::xid8[])" if running else ""
    return f"({column} < '{int(following)}'::xid8{others})"


async def read(
    connection: Executor, source: AnyTable, fence_id: int, snapshot: str | None, limit: int
) -> ChangedKeys | None:
    """The keys of changes that the session sees and the snapshot did not show.

    None when there are more than ``limit`` of them, or when some were not written down.
    """
    rows: list[Any] = await connection.fetch(
        f"select distinct table_no, key::text as key from {source.beside('eventsource_changes')}"
        f" where fence_id = $1 and table_no >= 0 and {since(snapshot)} limit $2",
        fence_id, limit + 1,
    )  # fmt: skip
    if len(rows) > limit or await overflowed(connection, source, fence_id):
        return None
    found: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        found[row["table_no"]].append(row["key"])
    return ChangedKeys({number: sorted(keys) for number, keys in found.items()})


async def write_down(source: AnyTable, fence_id: int, table_no: int, keys: Sequence[str]) -> None:
    """Let the next pass look at these keys (JSON), as if their rows had changed now."""
    await source.connection.execute(
        f"insert into {source.beside('eventsource_changes')} (fence_id, table_no, key)"
        " select $1, $2, key::jsonb from unnest($3::text[]) key",
        fence_id, table_no, list(keys),
    )  # fmt: skip


async def count(
    connection: Executor, source: AnyTable, fence_id: int, snapshot: str | None, most: int = COUNTED
) -> int:
    """How many keys a pass would look at now; no more than ``most`` changes are read."""
    return int(
        await connection.fetchval(
            "select count(*) from (select distinct table_no, key from (select table_no, key"
            f" from {source.beside('eventsource_changes')}"
            f" where fence_id = $1 and table_no >= 0 and {since(snapshot)} limit $2) read) changed",
            fence_id, most,
        )
    )  # fmt: skip


def counter(source: AnyTable, fence_id: int) -> str:
    """The sequence that counts what is written down for a fence (quoted, qualified)."""
    return source.beside(f"eventsource_changes_of_{fence_id}")


async def limit(source: AnyTable, fence_id: int, most_bytes: int) -> None:
    """Before the guard is made: so much may be written down; may be repeated."""
    journal = source.beside("eventsource_changes")
    await source.connection.execute(
        f"create sequence if not exists {counter(source, fence_id)} minvalue 0 start 1"
    )
    await source.connection.execute(
        f"insert into {journal} (fence_id, table_no, key) select -$1::integer, {LIMIT},"
        f" to_jsonb($2::bigint) where not exists (select from {journal}"
        f" where fence_id = -$1::integer and table_no = {LIMIT})",
        fence_id, max(1, most_bytes // BYTES_OF_A_KEY),
    )  # fmt: skip


async def overflowed(connection: Executor, source: AnyTable, fence_id: int) -> bool:
    """Whether changes that the session sees may have not been written down."""
    return bool(
        await connection.fetchval(
            f"select exists (select from {source.beside('eventsource_changes')}"
            f" where fence_id = -$1::integer and table_no = {_OVERFLOWED})",
            fence_id,
        )
    )


async def empty(source: AnyTable, fence_id: int) -> None:
    """In the caller's transaction: begin to write down again.

    Everything that is not carried yet is carried in another way. A writer that has seen the journal
    full has not written its change down: wait for all of them afterwards. One with an older
    snapshot than this is refused by the row of the fence.
    """
    await source.connection.execute(
        f"delete from {source.beside('eventsource_changes')} where fence_id = $1 or"
        f" (fence_id = -$1::integer and table_no = {_OVERFLOWED})",
        fence_id,
    )
    await source.connection.execute(
        f"update {source.fences} set updated_at = now() where fence_id = $1", fence_id
    )
    await count_again(source, fence_id)


async def consume(source: AnyTable, fence_id: int, upto: str, pass_number: int) -> None:
    """Delete what the target holds: all that the snapshot shows.

    Not only what is older than the oldest transaction that ran then: that one may run for days.
    A row says so: a target that was put back to before that pass lacks it for good.
    """
    journal = source.beside("eventsource_changes")
    tag = await source.connection.execute(
        f"with gone as (delete from {journal} where fence_id = $1"
        f" and ({shown(upto)} or table_no = {_CONSUMED}) returning true)"
        f" insert into {journal} (fence_id, table_no, key)"
        f" select $1, {_CONSUMED}, to_jsonb($2::integer) where exists (select from gone)",
        fence_id, pass_number,
    )  # fmt: skip
    if tag != "INSERT 0 0":
        await count_again(source, fence_id)


async def count_again(source: AnyTable, fence_id: int) -> int:
    """What is left is what counts: how much. Keys of transactions that have not ended yet are let
    through."""
    return int(
        await source.connection.fetchval(
            f"select setval(to_regclass($1), (select count(*) from (select from"
            f" {source.beside('eventsource_changes')} where fence_id = $2 limit {COUNTED}) kept))"
            " where to_regclass($1) is not null",
            counter(source, fence_id), fence_id,
        )
        or 0
    )  # fmt: skip


async def counted(source: AnyTable, fence_id: int) -> int:
    """About how many keys are written down, without reading them; 0 where nobody counts."""
    return int(
        await source.connection.fetchval(
            "select coalesce(pg_sequence_last_value(to_regclass($1)), 0)"
            " where to_regclass($1) is not null",
            counter(source, fence_id),
        )
        or 0
    )


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
        f"delete from {source.beside('eventsource_changes')} where fence_id in ($1, -$1::integer)",
        fence_id,
    )
    await source.connection.execute(f"drop sequence if exists {counter(source, fence_id)}")
