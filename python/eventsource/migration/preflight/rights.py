"""What the role that migrates may do: asked before a move, and by `init`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg

from eventsource.identifiers import quote_identifier
from eventsource.migration.preflight.event_tables import FENCE_TABLES
from eventsource.migration.preflight.findings import Findings

if TYPE_CHECKING:
    from eventsource.connections import Executor
    from eventsource.migration.event_table import AnyTable
    from eventsource.migration.layouts.declaration import Layout

PRIVILEGES = ("select", "insert", "update", "delete")

_RIGHTS = """
select current_user::text as role, name, pg_get_userbyid(c.relowner)::text as owner,
       quote_ident(current_user) as grantee, quote_ident(pg_get_userbyid(c.relowner)) as granted,
       quote_ident(current_database()) as database,
       pg_has_role(c.relowner, 'usage') as owns, pg_has_role(c.relowner, 'member') as belongs,
       current_setting('server_version_num')::int >= 160000 as inherits_by_grant,
       row_security_active(c.oid) as filtered,
       has_schema_privilege(c.relnamespace, 'create') as creates,
       has_database_privilege(current_database(), 'temporary') as temporary,
       has_language_privilege('plpgsql', 'usage') as speaks
from unnest($1::text[]) with ordinality given (name, place)
join pg_class c on c.oid = to_regclass(name)
order by place
"""

#: Who makes triggers and functions of the guard needs the rights of the owner of the others; and
#: those run with the rights of their owner, who has none on tables that were given to another role.
_FUNCTION_OWNERS = """
select * from (
    select distinct current_user::text as role, pg_get_userbyid(p.proowner)::text as owner,
           quote_ident(current_user) as grantee,
           quote_ident(pg_get_userbyid(p.proowner)) as granted,
           pg_has_role(p.proowner, 'usage') as usable,
           pg_has_role(p.proowner, 'member') as belongs,
           current_setting('server_version_num')::int >= 160000 as inherits_by_grant,
           quote_ident(pg_get_userbyid(c.relowner)) as keeper,
           c.relowner is null or pg_has_role(p.proowner, c.relowner, 'usage') as works
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    left join pg_class c on c.relnamespace = n.oid and c.relname = 'eventsource_fences'
    where n.nspname = $1 and starts_with(p.proname, 'eventsource_')
) functions
where not (usable and works)
"""

#: Of tables that are there: one that is not is reported elsewhere.
_LACKING = """
select current_user::text as role, quote_ident(current_user) as grantee, name,
       array_agg(privilege order by place) as privileges
from unnest($1::text[]) name, unnest($2::text[]) with ordinality as wanted(privilege, place)
where not has_table_privilege(to_regclass(name), privilege)
group by name
order by name
"""


def beside(layout: Layout | None) -> tuple[str, ...]:
    """The tables beside an event table that a move reads and writes."""
    return FENCE_TABLES if layout is None else (*FENCE_TABLES, "eventsource_changes")


async def check(table: AnyTable, side: str, findings: Findings) -> None:
    """The tables are the role's, or of a role that it is a member of, and all that it needs."""
    tables, schema = [table.name], table.address.schema
    if table.layout is not None:
        tables = [table.beside(each.name) for each in table.layout.tables]
    rights = await table.connection.fetch(_RIGHTS, tables)
    if not rights:
        return  # there is no such table, and that is said elsewhere
    for found in rights:
        _check_table(found, side, findings)
    await check_functions(table, side, findings)
    role, grantee = rights[0]["role"], rights[0]["grantee"]
    if not rights[0]["creates"]:
        # Functions of the guard, and indexes that a load of an empty table makes again.
        findings.problems.append(
            f"role {role!r} may make nothing in the {side}'s schema {schema!r}, where the guard's"
            f" functions belong: grant create on schema {quote_identifier(schema)} to {grantee}"
        )
    if not rights[0]["temporary"]:
        findings.problems.append(
            f"role {role!r} may not make temporary tables in the {side}'s database; grant temporary"
            f" on database {rights[0]['database']} to {grantee}"
        )
    if not rights[0]["speaks"]:
        findings.problems.append(
            f"role {role!r} may write no functions in plpgsql in the {side}'s database, as those of"
            f" the guard are; grant usage on language plpgsql to {grantee}"
        )


async def refuse_functions_of_others(source: AnyTable, target: AnyTable | None = None) -> None:
    """Of a migration that is under way: another role may have begun it.

    Raises:
        PreflightError: see :func:`check_functions`.
    """
    findings = Findings()
    await check_functions(source, "source", findings)
    if target is not None:
        await check_functions(target, "target", findings)
    findings.raise_if_refused()


async def check_functions(table: AnyTable, side: str, findings: Findings) -> None:
    """Those of the guard are the role's, or of a role that it is a member of: otherwise it could
    neither make them again nor take them away."""
    schema = table.address.schema
    for found in await table.connection.fetch(_FUNCTION_OWNERS, schema):
        findings.problems.append(
            f"role {found['role']!r} may not use the guard's functions in the {side}'s schema"
            f" {schema!r}, which role {found['owner']!r} made; connect as that role,"
            f" or {_membership(found)}"
            if found["works"]
            else f"the guard's functions in the {side}'s schema {schema!r} are of role"
            f" {found['owner']!r}, whose rights they have, and the fences that they read are of"
            f" another role by now; as a superuser in that database: reassign owned by"
            f" {found['granted']} to {found['keeper']}"
        )


def _check_table(rights: asyncpg.Record, side: str, findings: Findings) -> None:
    role, owner, name = rights["role"], rights["owner"], rights["name"]
    if not rights["owns"]:
        # Only an owner may make the guard fire always, and only a guard that does is one.
        findings.problems.append(
            f"role {role!r} does not own the {side} table {name} and may not guard it; connect as"
            f" {owner!r}, or {_membership(rights)}"
        )
    if rights["filtered"]:
        findings.problems.append(
            f"row-level security of the {side} table {name} hides rows from role {role!r}, so that"
            f" neither copy nor proof would see them; connect as a role with BYPASSRLS, or as the"
            " owner of a table without FORCE ROW LEVEL SECURITY"
        )


def _membership(rights: asyncpg.Record) -> str:
    """How the role comes to the owner's rights; a member may have them only after `set role`."""
    grant = f"grant {rights['granted']} to {rights['grantee']}"
    if not rights["belongs"]:
        return f"grant that role: {grant}"
    # Where memberships have no option of their own, whether one inherits is the member's.
    given = rights["inherits_by_grant"]
    how = f"{grant} with inherit true" if given else f"alter role {rights['grantee']} inherit"
    return f"inherit its rights, as it is a member that does not: {how}"


async def check_privileges(
    connection: Executor, what: str, names: Sequence[str], findings: Findings,
    privileges: Sequence[str] = PRIVILEGES,
) -> None:  # fmt: skip
    """The role may read and write those of the tables (SQL text) that are there."""
    for row in await connection.fetch(_LACKING, names, privileges):
        wanted = ", ".join(row["privileges"])
        findings.problems.append(
            f"role {row['role']!r} lacks {wanted.upper()} on {row['name']} in {what}:"
            f" grant {wanted} on {row['name']} to {row['grantee']}, or connect as the role that ran"
            " `eventsource-migrate init`"
        )
