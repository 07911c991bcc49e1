"""`init`: make the tables, look what is missing, or print the SQL for it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import asyncpg
import typer

from eventsource import __version__
from eventsource.cli.config import ConfigError
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.output import Step
from eventsource.cli.workspace import Workspace
from eventsource.connections import AnyConnection
from eventsource.identifiers import quote_identifier
from eventsource.migration import PreflightError, create_schema
from eventsource.migration.event_table import of_store
from eventsource.migration.layouts.store import LayoutStore
from eventsource.migration.preflight import rights
from eventsource.migration.preflight.control import CONTROL_COLUMNS
from eventsource.migration.preflight.findings import Findings
from eventsource.schema_changes import connection_of, without_comments
from eventsource.stores import pending, schema_setup
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.subscriptions import PostgreSQLCheckpointRepository

_PRODUCT = "eventsource-migration "

#: The table says which version made it: what `--check` compares with.
_VERSION_SQL = f"comment on table tenant_migrations is '{_PRODUCT}{__version__}'"


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that `init` makes, with the statements that are missing for it.

    Attributes:
        lacks: what this role may not do with what is there, each with its grant.
    """

    part: str
    pending: list[str]
    lacks: list[str]


def init(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Only look what is missing; exit code 1 if anything is.")
    ] = False,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Only print the SQL for what is missing.")
    ] = False,
) -> None:
    """Make or upgrade the tables that are needed.

    These are the control tables, the event table of every store, and the checkpoints of
    subscriptions. It may be run again at any time; existing events stay untouched.
    """

    async def make(at: Workspace) -> ExitCode:
        if check and print_sql:
            raise ConfigError("--check and --print-sql are both given: leave one of them out")
        if check:
            return _say(at, await _missing(at), await _recorded_version(at))
        if print_sql:
            return _print(at, await _missing(at))
        return await _make(at)

    perform(ctx, make)


async def _make(at: Workspace) -> ExitCode:
    made = []
    lacks = [await _lacks_at_control(at)]
    # All that would be refused is found before the first thing is made.
    for store_id, store in at.stores.items():
        await at.reach_store(store_id)
        if lacking := await _lacks_at(store):
            lacks.append([f"store {store_id}: {each}" for each in lacking])
        else:
            await _examine(store)
    lacks.append(await _lacks_of_checkpoints(at))
    if problems := list(itertools.chain(*lacks)):
        raise PreflightError(problems)
    if await _lacks_control_schema(at):
        await at.control.execute(_control_schema(at))
    await create_schema(at.control)
    made.append("control tables")
    others = len(CONTROL_COLUMNS) - 2
    at.out.say(f"control    tenant_migrations, tenant_routing and {others} more are ready")
    for store_id, store in at.stores.items():
        await store.create_schema()
        made.append(f"store {store_id}")
        at.out.say(f"store      {store_id}: table {store.table} is ready")
    await at.checkpoints.create_schema()
    await _record_version(at)
    made.append("subscription checkpoints")
    at.out.say("checkpoints  subscription_checkpoints is ready")
    if at.out.as_json:
        at.out.answer({"ready": made, "version": __version__})
    return ExitCode.DONE


async def _examine(store: PostgreSQLEventStore) -> None:
    async with store.pool.acquire() as connection:
        if isinstance(store, LayoutStore):
            await store.examine(connection, await store.resolve_schema())
        else:
            await schema_setup.examine(connection, store.schema, store.table_name)


async def _recorded_version(at: Workspace) -> str | None:
    """The version whose `init` was the last; None before there was one that wrote it down."""
    said = await _comment(at) or ""
    return said.removeprefix(_PRODUCT) if said.startswith(_PRODUCT) else None


async def _comment(at: Workspace) -> str | None:
    said: str | None = await at.control.fetchval(
        "select obj_description(to_regclass('tenant_migrations'), 'pg_class')"
    )
    return said


async def _record_version(at: Workspace) -> None:
    """Write it down, unless somebody has put a comment of their own there."""
    said = await _comment(at)
    if said is None or (said.startswith(_PRODUCT) and said != f"{_PRODUCT}{__version__}"):
        # Who may not alter the table has found nothing to make, or would not be here.
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            await at.control.execute(_VERSION_SQL)


async def _missing(at: Workspace) -> list[Part]:
    """What `init` would run, part by part; changes nothing."""
    found = []
    async with connection_of(at.control) as control:
        lacking = [_control_schema(at)] if await _lacks_control_schema(at) else []
        tables = await pending.recorded(control, _make_control)
        statements = [*lacking, *tables]
    made_by = [*statements, _VERSION_SQL] if statements else []
    found.append(Part("control tables", made_by, await _lacks_at_control(at)))
    for store_id, store in at.stores.items():
        await at.reach_store(store_id)
        if not (lacks := await _lacks_at(store)):
            async with store.pool.acquire() as connection:
                statements = await _missing_of(store, connection)
        # Of a store that it may not read nobody can say what is missing.
        found.append(Part(f"store {store_id}", [] if lacks else statements, lacks))
    async with connection_of(at.checkpoints_pool) as connection:
        checkpoints = await pending.recorded(connection, _make_checkpoints)
    lacks = await _lacks_of_checkpoints(at)
    found.append(Part("subscription checkpoints", checkpoints, lacks))
    return found


async def _lacks_at_control(at: Workspace) -> list[str]:
    found = Findings()
    await rights.check_privileges(at.control, "the control database", [*CONTROL_COLUMNS], found)
    return found.problems


async def _lacks_of_checkpoints(at: Workspace) -> list[str]:
    found = Findings()
    await rights.check_privileges(
        at.checkpoints_pool, "the database of the subscriptions", ["subscription_checkpoints"],
        found, ("select", "insert", "update"),
    )  # fmt: skip
    return found.problems


async def _lacks_at(store: PostgreSQLEventStore) -> list[str]:
    """What keeps this role from moving a tenant from there, or to it; the table may be missing."""
    found = Findings()
    table = await of_store(store)
    await rights.check(table, "store", found)
    names = [table.beside(name) for name in rights.beside(store.layout)]
    await rights.check_privileges(table.connection, "the store's database", names, found)
    return found.problems


async def _missing_of(store: PostgreSQLEventStore, connection: AnyConnection) -> list[str]:
    if not isinstance(store, LayoutStore):
        return await pending.of_store(connection, store.schema, store.table_name)
    schema = await store.resolve_schema()
    await store.examine(connection, schema)
    return await pending.recorded(
        connection, lambda recorder: schema_setup.create_objects(recorder, schema)
    )


def _say(at: Workspace, found: list[Part], before: str | None) -> ExitCode:
    is_pending = any(each.pending for each in found)
    is_complete = not is_pending and not any(each.lacks for each in found)
    steps = [Step("make", "eventsource-migrate init")] if is_pending else []
    width = max(len(each.part) for each in found)
    at.out.answer(
        {
            "version": __version__,
            "version_before": before,
            "parts": found,
            "is_complete": is_complete,
            "next": steps,
        },
        f"{'version':<{width}}  {_from(before, found)}",
        *(f"{each.part:<{width}}  {_first_words(each)}" for each in found),
        *(f"{each.part:<{width}}  {lack}" for each in found for lack in each.lacks),
        *(f"{step.what:<{width}}  {step.command}" for step in steps),
    )
    return ExitCode.DONE if is_complete else ExitCode.FAILED


def _from(before: str | None, found: list[Part]) -> str:
    if before == __version__:
        return __version__
    if before is not None:
        return f"from {before} to {__version__}"
    begun = any(not each.pending and not each.lacks for each in found)
    return f"from {'one that was not written down' if begun else 'nothing'} to {__version__}"


def _first_words(part: Part) -> str:
    if not part.pending:
        return "this role may not use it" if part.lacks else "complete"
    heads = [" ".join(without_comments(each).split())[:60] for each in part.pending[:2]]
    more = f"; and {len(part.pending) - 2} more" if len(part.pending) > 2 else ""
    return f"{len(part.pending)} to run: {'; '.join(heads)}{more}"


def _print(at: Workspace, found: list[Part]) -> ExitCode:
    """As one script for each database; an index that is built `concurrently` has to run alone."""
    shown = []
    for each in found:
        shown.append(f"-- {each.part}, for eventsource-migration {__version__}")
        shown += [f"{statement};" for statement in each.pending]
    at.out.answer({"version": __version__, "parts": found}, *shown)
    return ExitCode.DONE


async def _lacks_control_schema(at: Workspace) -> bool:
    schema = at.settings.control_schema
    return schema is not None and bool(
        await at.control.fetchval(
            "select not exists (select from pg_namespace where nspname = $1)", schema
        )
    )


def _control_schema(at: Workspace) -> str:
    assert at.settings.control_schema is not None
    return f"create schema {quote_identifier(at.settings.control_schema)}"


_make_control: Callable[[AnyConnection], Awaitable[object]] = create_schema


async def _make_checkpoints(connection: AnyConnection) -> None:
    await PostgreSQLCheckpointRepository(connection).create_schema()
