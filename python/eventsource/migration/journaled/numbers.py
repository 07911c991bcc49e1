"""Numbers that sequences give: which sequence, and how far it and its table are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.identifiers import quote_identifier
from eventsource.migration.connections.transactions import transaction
from eventsource.migration.errors import PreflightError
from eventsource.migration.tables.reserved_block import HEADROOM
from eventsource.tenant_ids import TenantId, stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.journaled.shapes import Shape
    from eventsource.migration.layouts.declaration import LayoutTable, Numbering


#: The least that is kept free where a layout does not say how much, unless less is left.
LEAST_HEADROOM = 10_000_000

#: Numbers without which no move begins: the source gives some while the tenant moves.
FEWEST = 1_000

#: How long somebody's draw may be waited for (milliseconds): all others queue up meanwhile.
HOLD_MS = 50

_NOT_HELD = (asyncpg.LockNotAvailableError, asyncpg.InsufficientPrivilegeError, asyncpg.RaiseError)

_BELOW_ONE = "select seqmin < 1 from pg_sequence where seqrelid = $1::text::regclass"

_DOWNWARDS = "select seqincrement < 0 from pg_sequence where seqrelid = $1::text::regclass"

# A column may end before its sequence does.
_MOST = """
select least(s.seqmax, case a.atttypid when 'smallint'::regtype then 32767
                                       when 'integer'::regtype then 2147483647 else s.seqmax end)
from pg_sequence s, pg_attribute a
where s.seqrelid = $1::text::regclass and a.attrelid = $2::text::regclass and a.attname = $3
"""

_RIGHTS = """
select given.name, current_user::text as role, quote_ident(current_user) as grantee
from unnest($1::text[]) with ordinality given (name, place)
where not (has_sequence_privilege(to_regclass(given.name), 'select')
           and ($2 = 'source' or has_sequence_privilege(to_regclass(given.name), 'update')))
order by place
"""


def owned(shape: Shape) -> Iterator[tuple[LayoutTable, Numbering]]:
    """Each table with numbers of its own, and the column that has them."""
    for table in shape.layout.tables:
        for numbering in table.numbered:
            if numbering.like is None:
                yield table, numbering


async def sequences(side: AnyTable, shape: Shape) -> dict[str, str]:
    """By table with numbers of its own: the sequence that gives them, quoted."""
    return {
        table.name: await sequence_of(side, table, numbering, shape.tenant_id)
        for table, numbering in owned(shape)
    }


async def not_permitted(side: str, table: AnyTable, names: Iterable[str]) -> list[str]:
    """Why numbers cannot go on at the target where the source's have ended, by sequence.

    It is asked for, not met: a server of version 18 shows a role that may not read a sequence no
    error, but the null of one that has given nothing. The columns' own sequences belong to whom
    the table belongs to, others to anybody.

    Args:
        names: of sequences that are there, quoted.
    """
    does, rights = ("read", "select") if side == "source" else ("read and set", "select, update")
    return [
        f"role {row['role']!r} may not {does} sequence {row['name']} of the {side}, from which the"
        f" tenant's numbers come: grant {rights} on sequence {row['name']} to {row['grantee']}"
        for row in await table.connection.fetch(_RIGHTS, list(names), side)
    ]


async def given(source: AnyTable, shape: Shape) -> dict[str, int]:
    """By table with numbers of its own: the last that its sequence has given."""
    return {
        name: int(
            await source.connection.fetchval(
                "select coalesce(pg_sequence_last_value($1::text::regclass), 0)", sequence
            )
        )
        for name, sequence in (await sequences(source, shape)).items()
    }


async def sequence_of(
    side: AnyTable, table: LayoutTable, numbering: Numbering, tenant_id: TenantId
) -> str:
    """The sequence that gives a column its numbers, for that tenant, quoted.

    Raises:
        PreflightError: there is none.
    """
    name, column, given = side.beside(table.name), numbering.column, numbering.sequence
    if numbering.per_tenant is not None:
        given = await _of_tenant(side, name, numbering.per_tenant, stored(tenant_id))
    if given is not None:
        found = await side.connection.fetchval("select to_regclass($1)::text", side.beside(given))
        if found is None:
            raise PreflightError([f"{name}: there is no sequence {side.beside(given)}"])
        return side.beside(given)
    found = await side.connection.fetchval("select pg_get_serial_sequence($1, $2)", name, column)
    if found is None:
        raise PreflightError(
            [
                f"{column} of {name} draws from no sequence of its own: name it in the layout,"
                f' numbered = {{ {column} = "own:SEQUENCE" }}'
            ]
        )
    return str(found)


async def _of_tenant(side: AnyTable, name: str, statement: str, tenant: str) -> str:
    """What the library keeps about its tenants says it."""
    asked = statement.replace("{schema}", quote_identifier(side.address.schema))
    try:
        found = await side.connection.fetchval(asked, tenant)
    except asyncpg.UndefinedTableError as error:
        raise PreflightError(
            [f"{name} has no sequence for each tenant, as the layout says: {error}"]
        ) from None
    if found is None:
        raise PreflightError(
            [
                f"{name} has no sequence for tenant {tenant!r} yet: register the tenant there with"
                " the library first, as for a new one"
            ]
        )
    return str(found)


async def taken(
    target: AnyTable, shape: Shape, table: LayoutTable, numbering: Numbering
) -> tuple[str, int | None, int]:
    """The target's sequence, what it has given last, and the highest number that is taken there.

    That is the offset of what arrives: 0 where the table is unused. Of a sequence of the tenant's
    own only that counts: the tenant has no row there.
    """
    sequence = await sequence_of(target, table, numbering, shape.tenant_id)
    if numbering.per_tenant is not None:
        last = await target.connection.fetchval(
            "select pg_sequence_last_value($1::text::regclass)", sequence
        )
        return sequence, last, last or 0
    row: Any = await target.connection.fetchrow(
        "select pg_sequence_last_value($1::text::regclass) as given,"
        f" (select max({quote_identifier(numbering.column)}) from {target.beside(table.name)})"
        " as highest",
        sequence,
    )
    used = row["given"] is not None or row["highest"] is not None
    offset = max(row["given"] or 0, row["highest"] or 0) if used else 0
    return sequence, row["given"], offset


async def held(connection: asyncpg.Connection[Any], sequence: str) -> bool:
    """In the caller's transaction: nobody draws a number until it ends.

    False where that takes longer than a moment: another role owns the sequence, or a transaction
    has drawn and goes on. What it has given last may be another number at the next moment then.
    """
    cache = await connection.fetchval(
        "select seqcache from pg_sequence where seqrelid = to_regclass($1)", sequence
    )
    if cache is None:
        return False
    patience = await connection.fetchval("select current_setting('lock_timeout')")
    try:
        async with transaction(connection):
            # There is no LOCK for a sequence; this changes nothing, and a draw waits for its end.
            await connection.execute(
                f"set local lock_timeout = {HOLD_MS}; alter sequence {sequence} cache {cache};"
                f" set local lock_timeout = '{patience}'"
            )
    except _NOT_HELD:
        return False
    return True


async def headroom(
    target: AnyTable, shape: Shape, table: LayoutTable, numbering: Numbering, sequence: str,
    *, given: int, used: int,
) -> int:  # fmt: skip
    """How many numbers of the source are kept free, beside those that it has given.

    As many as it has given in all its life, within bounds: while one tenant moves it will not
    give more. And not more than a share of what is left: further tenants will come.

    Args:
        used: the last number of the target that is taken then.
    """
    if shape.layout.headroom is not None:
        return shape.layout.headroom
    most: int = await target.connection.fetchval(
        _MOST, sequence, target.beside(table.name), numbering.column
    )
    return min(max(given, LEAST_HEADROOM), HEADROOM, max((most - used) // 4, 0))


async def keep_ahead(target: AnyTable, shape: Shape, last: Mapping[str, int]) -> None:
    """Set sequences of the target that somebody has set back to what was kept free once more.

    A dump that is read in does that to each sequence that it knows. Afterwards the target would
    give numbers that carried rows have, or lower ones.
    """
    for name, sequence in (await sequences(target, shape)).items():
        await target.connection.execute(
            "select setval(to_regclass($1), $2)"
            " where coalesce(pg_sequence_last_value(to_regclass($1)), 0) < $2",
            sequence, last[name],
        )  # fmt: skip


async def expected(target: AnyTable, shape: Shape) -> dict[str, int]:
    """By table with numbers of its own: the offset that a move would get that began now."""
    return {
        table.name: (await taken(target, shape, table, numbering))[2]
        for table, numbering in owned(shape)
    }


async def problems_of(source: AnyTable, target: AnyTable, shape: Shape) -> list[str]:
    """Why the numbers of the layout's tables could not be moved."""
    problems = await not_given(source, shape)
    given_last = await given(source, shape)
    for table, numbering in owned(shape):
        for side in (source, target):
            sequence = await sequence_of(side, table, numbering, shape.tenant_id)
            if await side.connection.fetchval(_DOWNWARDS, sequence):
                return [
                    f"{numbering.column} of {side.beside(table.name)} is counted downwards by"
                    f" {sequence}, and numbers are kept free upwards: declare it without numbered,"
                    " and move into an empty table"
                ]
        sequence, _, offset = await taken(target, shape, table, numbering)
        problems += await _below(source, shape, table, numbering, sequence, offset)
        last = given_last[table.name]
        problems += await _without_room(target, shape, table, numbering, sequence, offset, last)
    return problems


async def _below(
    source: AnyTable, shape: Shape, table: LayoutTable, numbering: Numbering, sequence: str,
    offset: int,
) -> list[str]:  # fmt: skip
    """Whether numbers that are moved would stay among those that are taken."""
    if not offset:
        return []
    here = await sequence_of(source, table, numbering, shape.tenant_id)
    least = None
    if await source.connection.fetchval(_BELOW_ONE, here):
        rows = f"{shape.rows(table, shape.source)} mine"
        least = await source.connection.fetchval(
            f"select min({quote_identifier(numbering.column)}) from {rows}"
        )
    if offset > 0 and (least is None or least > 0):
        return []
    return [
        f"{numbering.column} of {source.beside(table.name)} or of the target has numbers below 1,"
        " and the target's table is in use: its"
        f" numbers cannot come after those that {sequence} has given; move into an empty table"
    ]


async def _without_room(
    target: AnyTable, shape: Shape, table: LayoutTable, numbering: Numbering, sequence: str,
    offset: int, last: int,
) -> list[str]:  # fmt: skip
    """Whether the target's numbers end before those that the tenant has and gets."""
    used = offset + last
    most: int = await target.connection.fetchval(
        _MOST, sequence, target.beside(table.name), numbering.column
    )
    kept = await headroom(
        target, shape, table, numbering, sequence, given=last, used=min(used, most)
    )
    kept = max(kept, FEWEST)
    if used + kept <= most:
        return []
    return [
        f"{numbering.column} of the target's table {target.beside(table.name)} ends at {most}, and"
        f" the tenant needs numbers up to {used + kept} there: alter sequence {sequence} as bigint"
        " no maxvalue, and make the column a bigint where it is none"
    ]


async def not_given(source: AnyTable, shape: Shape) -> list[str]:
    """Why numbers of a table come from somewhere else than its sequence, by table."""
    problems = []
    for table, numbering in owned(shape):
        column = quote_identifier(numbering.column)
        rows = source.beside(table.name)
        if numbering.per_tenant is not None:
            rows = f"{shape.rows(table, shape.source)} mine"
        # The sequence afterwards: it is ahead of what is stored.
        highest = await source.connection.fetchval(f"select max({column}) from {rows}")
        sequence = await sequence_of(source, table, numbering, shape.tenant_id)
        given = await source.connection.fetchval(
            "select pg_sequence_last_value($1::text::regclass)", sequence
        )
        if highest is not None and highest > (given or 0):
            problems.append(
                f"{numbering.column} of {source.beside(table.name)} is {highest}, and {sequence}"
                f" has given {given or 0} at most: its numbers come from another sequence, such as"
                " one for each tenant, or the sequence was not set after a restore"
            )
    return problems
