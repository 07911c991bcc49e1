"""Whether those that write now may still write when their tenant has moved.

The driver's own rights say nothing of theirs: a role without INSERT at the target would see every
append fail from the flip on, and only a move back would help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.identifiers import quote_identifier
from eventsource.migration.event_table import EventTable

if TYPE_CHECKING:
    from eventsource.migration.connections.driver_connections import Endpoints
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.preflight.findings import Findings

#: What an append fills.
_APPENDED = (
    "event_id", "aggregate_id", "aggregate_type", "event_type", "tenant_id", "version",
    "timestamp", "actor_id", "payload", "metadata",
)  # fmt: skip

# Those of the driver's own role are left out: what it may do is checked on its own.
_WRITERS = """
select distinct a.usename::text
from pg_stat_activity a join pg_roles r on r.oid = a.usesysid
where a.datname = current_database() and a.usename <> current_user
  and (has_table_privilege(a.usename, $1::text::regclass, 'insert')
       or has_any_column_privilege(a.usename, $1::text::regclass, 'insert'))
order by 1
"""

_RIGHTS = """
select has_schema_privilege($1, c.relnamespace, 'usage') as schema,
       has_table_privilege($1, c.oid, 'select') as reads,
       has_table_privilege($1, c.oid, 'insert')
       or (select bool_and(has_column_privilege($1, c.oid, a.attnum, 'insert'))
           from pg_attribute a where a.attrelid = c.oid and a.attname = any($3::text[])) as inserts,
       p.attidentity <> '' or has_sequence_privilege($1, s.oid, 'usage, update') as draws,
       has_sequence_privilege($1, s.oid, 'select') as heads,
       coalesce(has_function_privilege($1, to_regprocedure($4), 'execute'), true)
       and coalesce(has_function_privilege($1, to_regprocedure($6), 'execute'), true) as arriving,
       coalesce(has_function_privilege($1, to_regprocedure($5), 'execute'), true) as mirrors,
       s.oid::regclass::text as sequence
from pg_class c
join pg_attribute p on p.attrelid = c.oid and p.attname = 'global_position'
join pg_class s on s.oid = pg_get_serial_sequence($2, 'global_position')::regclass
where c.oid = $2::text::regclass
"""


@dataclass(frozen=True, slots=True)
class _Right:
    """One that a role lacks: what it cannot do without it, and the statement that gives it."""

    name: str
    without: str
    grant: str


async def check(endpoints: Endpoints, roles: Mapping[str, str | None], findings: Findings) -> None:
    """The application's roles may do at both sides what they have to, and what they do now.

    Args:
        roles: of the application, by side; None takes those that have a session at the source now
            and may insert there.
    """
    with findings.unusable("a store's database"):
        named = roles["source"]
        async with endpoints.connection(endpoints.source.parameters) as at_source:
            source = EventTable(at_source, endpoints.source)
            writers = [named] if named else [r[0] for r in await _writers(source)]
            able = [right for role in writers for right in await _at_source(source, role, findings)]
        given = roles["target"] or named
        if not given and not writers:
            return
        async with endpoints.connection(endpoints.target.parameters) as at_target:
            target = EventTable(at_target, endpoints.target)
            for role in [given] if given else writers:
                await _at_target(target, role, bool(given), set(able), findings)


async def _writers(source: OwnTable) -> list[tuple[str]]:
    return [(row[0],) for row in await source.connection.fetch(_WRITERS, source.name)]


async def _at_source(table: OwnTable, role: str, findings: Findings) -> list[str]:
    """The names of the rights that it has there."""
    if not await _exists(table, role):
        findings.problems.append(_unknown(role, "source"))
        return []
    lacking = await _lacking(table, role)
    for right in lacking:
        if right.name in _NEEDED:
            findings.problems.append(_refusal(role, "source", right))
    without = {right.name for right in lacking}
    return [name for name in (*_NEEDED, *_OF_THE_FEED) if name not in without]


async def _at_target(
    table: OwnTable, role: str, given: bool, able: set[str], findings: Findings
) -> None:
    if not await _exists(table, role):
        if given:
            findings.problems.append(_unknown(role, "target"))
        else:
            findings.warnings.append(
                f"role {role!r} writes at the source now, and the target's server has no such role;"
                " name the one of the target as its application_role, so that its rights are seen"
            )
        return
    for right in await _lacking(table, role):
        # A feed that nobody may read at the source is read by nobody.
        if right.name in _NEEDED or (right.name in _OF_THE_FEED and right.name in able):
            other = "" if given else "; or name another role as the target's application_role"
            findings.problems.append(_refusal(role, "target", right) + other)
        elif right.name == "mirrors":
            findings.warnings.append(_refusal(role, "target", right))


_NEEDED = ("schema", "reads", "inserts", "draws")
_OF_THE_FEED = ("heads", "arriving")


async def _lacking(table: OwnTable, role: str) -> list[_Right]:
    arriving = f"{table.beside('eventsource_arriving')}(text)"
    hidden = f"{table.beside('eventsource_hidden')}(text)"
    permit = f"{table.beside('eventsource_mirror_permit')}(text,uuid,uuid)"
    mirror = f"{table.beside('eventsource_mirror')}(text,uuid,uuid,text[],jsonb)"
    has = await table.connection.fetchrow(
        _RIGHTS, role, table.name, list(_APPENDED), arriving, mirror, hidden
    )
    if has is None:
        return []  # without a sequence the table is refused for that
    to = f"to {quote_identifier(role)}"
    schema = quote_identifier(table.address.schema)
    sequence = has["sequence"]
    rights = (
        _Right("schema", "reach the table", f"grant usage on schema {schema} {to}"),
        _Right("reads", "read events", f"grant select on {table.name} {to}"),
        _Right("inserts", "append events", f"grant insert on {table.name} {to}"),
        _Right("draws", "draw positions", f"grant usage on sequence {sequence} {to}"),
        _Right("heads", "read the feed", f"grant select on sequence {sequence} {to}"),
        _Right("arriving", "read the feed", f"grant execute on function {arriving}, {hidden} {to}"),
        _Right("mirrors", "mirror events", f"grant execute on function {permit}, {mirror} {to}"),
    )
    return [right for right in rights if not has[right.name]]


async def _exists(table: OwnTable, role: str) -> bool:
    return bool(
        await table.connection.fetchval("select to_regrole(quote_ident($1)) is not null", role)
    )


def _unknown(role: str, side: str) -> str:
    return (
        f"the {side}'s server has no role {role!r}, which is named as the application's;"
        f" correct application_role, or create role {quote_identifier(role)} login"
    )


def _refusal(role: str, side: str, right: _Right) -> str:
    return f"role {role!r} of the application cannot {right.without} at the {side}; {right.grant}"
