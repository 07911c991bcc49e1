"""The guards of a layout's tables: what writes the journal at the source, and closes the target.

One function for each table and side, made from the fence rows whenever a tenant joins them or is no
longer among them. One table at a time, each under a short lock of its own: two in one transaction
deadlock with writers who write both.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from eventsource.catalog.model import GUARD
from eventsource.identifiers import quote_identifier, quote_literal
from eventsource.migration.connections import blockers
from eventsource.migration.journaled import bodies, changes, partitions, watching
from eventsource.migration.tables import brief_locks
from eventsource.migration.tables.fences import NEWEST
from eventsource.migration.tables.guard import is_migrator

if TYPE_CHECKING:
    from eventsource.migration.errors import Blocker
    from eventsource.migration.event_table import AnyTable, OwnTable
    from eventsource.migration.layouts.declaration import Layout, LayoutTable
    from eventsource.migration.tables.fences import Fence

#: Up to so many tenants the trigger's own condition names them, so that nobody else runs the
#: function. PostgreSQL parses it for every statement: more of them would cost everybody more.
IN_THE_CONDITION = 16

KINDS = ("insert", "update", "delete", "cascade", "truncate")

_PLACES = """
select format('%I.%I', n.nspname, c.relname) as name
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass($1) or c.oid in (
    select t.tgrelid from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    join pg_namespace s on s.oid = p.pronamespace
    where t.tgparentid = 0 and s.nspname = $2 and p.proname = any ($3::text[]))
order by c.oid is distinct from to_regclass($1), c.oid
"""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A layout's tables in one database.

    Attributes:
        places: where each table is (quoted, qualified), when they were looked for: by its name,
            and by the triggers that it got under another one.
    """

    table: OwnTable
    layout: Layout
    places: Mapping[str, Sequence[str]] | None = None

    async def found(self, fence: Fence | None) -> Guarded:
        """The same where the tables are now: somebody may have renamed or dropped them since."""
        places = {}
        for each in self.layout.tables:
            rows: list[Any] = await self.table.connection.fetch(
                _PLACES, self.table.beside(each.name), self.table.address.schema,
                [self.function(each), *([self._arrival(each, fence)] if fence else ())],
            )  # fmt: skip
            places[each.name] = [row["name"] for row in rows]
        return replace(self, places=places)

    def places_of(self, table: LayoutTable) -> Sequence[str]:
        """Where a table is, as far as that was looked for; none when it was dropped."""
        return [self.table.beside(table.name)] if self.places is None else self.places[table.name]

    def name(self, table: LayoutTable) -> str:
        """Quoted and qualified."""
        return next(iter(self.places_of(table)), self.table.beside(table.name))

    def tenant_of(self, table: LayoutTable, row: str) -> str:
        """The tenant of ``old`` or ``new``, as an SQL expression of type text."""
        tenancy = table.tenancy
        if tenancy.whole:
            return "'*'"
        if tenancy.column is not None:
            return f"{row}.{quote_identifier(tenancy.column)}::text"
        if tenancy.expression is not None:
            return f"(select ({tenancy.expression})::text from (select {row}.*) subject)"
        assert tenancy.through is not None
        parent = self.layout.table(tenancy.through.table)
        same = " and ".join(
            f"{row}.{quote_identifier(here)} = parent.{quote_identifier(there)}"
            for here, there in zip(tenancy.through.columns, tenancy.through.referenced, strict=True)
        )
        tenant = self.tenant_of(parent, "parent")
        return f"(select {tenant} from {self.name(parent)} parent where {same})"

    def key_of(self, table: LayoutTable, row: str) -> str:
        """The key of a row as the journal names it."""
        return f"jsonb_build_array({', '.join(f'{row}.{quote_identifier(k)}' for k in table.key)})"

    def children_of(self, table: LayoutTable) -> list[LayoutTable]:
        """Tables whose rows have their tenant through this one's."""
        return [
            each
            for each in self.layout.tables
            if each.tenancy.through is not None and each.tenancy.through.table == table.name
        ]

    # -- the source ---------------------------------------------------------------------------

    def function(self, table: LayoutTable, kind: str = "journal") -> str:
        """The name of the function of a table's triggers."""
        return f"eventsource_{kind}_{self.layout.number_of(table.name)}_of_{self.layout.label}"

    async def renew(self, table: LayoutTable) -> None:
        """In the caller's transaction, which has no lock on the table: guard the tenants that leave
        it, and only them.

        To drop a trigger takes the strongest lock, so that is asked for at once. A writer that has
        read the table would wait for us to release a weaker one, and we for the writer.
        """
        name, places = self.name(table), self.places_of(table)
        drops = not await self._fences() and bool(await self._drops(table))
        mode = "access exclusive" if drops else "share row exclusive"
        if places:
            await self.table.connection.execute(f"lock table {', '.join(places)} in {mode} mode")
        fences = await self._fences()
        if not fences:
            triggers = await self._drops(table)
            # Where the last tenant has stopped leaving since the first look, its own abort comes
            # here as well.
            if drops or not triggers:
                await self._drop(table, triggers)
            return
        if not places:
            return
        literal = quote_literal(json.dumps(fences, ensure_ascii=False))
        body = bodies.ROW_FUNCTION.format(
            fences=literal, schema=quote_identifier(self.table.address.schema),
            number=self.layout.number_of(table.name),
            tenant_before=self.tenant_of(table, "old"), key_before=self.key_of(table, "old"),
            tenant_after=self.tenant_of(table, "new"), key_after=self.key_of(table, "new"),
        )  # fmt: skip
        statements = [_created(self.table, self.function(table), body)]
        children = self.children_of(table)
        if children:
            statements.append(
                _created(self.table, self.function(table, "cascade"), self._cascade(table, literal))
            )
        for kind in KINDS:
            if kind != "cascade" or children:
                statements += self._trigger(table, kind, list(fences))
        if below := await partitions.below(self.table.connection, [name]):
            statements += self._against_truncate(
                table, below, f"{GUARD}truncate", self.function(table, "truncate"), list(fences)
            )
        # Asked before it is made again: what passed a weak guard by was not written down.
        was_weak = await watching.weak(self.table, table)
        await self.table.connection.execute(";".join(statements))
        await watching.made(self.table, name, was_weak=bool(was_weak))
        await self.table.connection.execute(
            f"update {self.table.fences} set table_oid = $1::text::regclass"
            " where table_name = $2 and table_oid is distinct from $1::text::regclass",
            self.table.name, self.table.address.table,
        )  # fmt: skip

    def _cascade(self, table: LayoutTable, fences: str) -> str:
        return bodies.CASCADE_FUNCTION.format(
            tenant=self.tenant_of(table, "old"), tenant_after=self.tenant_of(table, "new"),
            fences=fences, schema=quote_identifier(self.table.address.schema),
            children_before=self._children(table, "old"),
            children_after=self._children(table, "new"),
        )  # fmt: skip

    def _children(self, table: LayoutTable, row: str) -> str:
        """Write down the rows of other tables that refer to ``old`` or ``new``."""
        inserts = []
        for child in self.children_of(table):
            through = child.tenancy.through
            assert through is not None
            same = " and ".join(
                f"subject.{quote_identifier(here)} = {row}.{quote_identifier(there)}"
                for here, there in zip(through.columns, through.referenced, strict=True)
            )
            inserts.append(
                f"insert into {self.table.beside('eventsource_changes')} (fence_id, table_no, key)"
                f" select (eventsource_fence_ ->> 0)::integer, {self.layout.number_of(child.name)},"
                f" {self.key_of(child, 'subject')} from {self.name(child)} subject where {same};"
            )
        return "\n".join(inserts)

    def _trigger(self, table: LayoutTable, kind: str, tenants: list[str]) -> list[str]:
        name, trigger = self.name(table), quote_identifier(f"{GUARD}{kind}")
        if kind == "truncate":
            function = self.table.beside("eventsource_guard_truncate")
            when = f"before truncate on {name} for each statement"
        elif kind == "cascade":
            function = self.table.beside(self.function(table, "cascade"))
            when = f"before update or delete on {name} for each row"
        else:
            function = self.table.beside(self.function(table))
            when = f"after {kind} on {name} for each row{self._condition(table, kind, tenants)}"
        return [
            f"create or replace trigger {trigger} {when} execute function {function}()",
            # Otherwise session_replication_role = replica walks past.
            f"alter table {name} enable always trigger {trigger}",
        ]

    def _against_truncate(
        self, table: LayoutTable, names: list[str], trigger: str, function: str,
        tenants: list[str], applies: str = "true",
    ) -> list[str]:  # fmt: skip
        """Statements that keep tables with rows of these tenants from being emptied."""
        tenancy, wanted = table.tenancy, ", ".join(map(quote_literal, tenants))
        condition = "true"
        if tenancy.column is not None:
            # By its own type, for which there may be an index.
            condition = f"subject.{quote_identifier(tenancy.column)} in ({wanted})"
        elif not tenancy.whole:
            condition = f"{self.tenant_of(table, 'subject')} in ({wanted})"
        made = _created(self.table, function, partitions.truncate_body(condition, applies))
        return [made, *partitions.triggers(names, trigger, self.table.beside(function))]

    def _condition(self, table: LayoutTable, kind: str, tenants: list[str]) -> str:
        if table.tenancy.column is None or len(tenants) > IN_THE_CONDITION:
            return ""
        column = quote_identifier(table.tenancy.column)
        wanted = ", ".join(map(quote_literal, tenants))
        rows = {"insert": ("new",), "delete": ("old",), "update": ("old", "new")}[kind]
        tests = [f'{row}.{column}::text collate "C" in ({wanted})' for row in rows]
        return f" when ({' or '.join(tests)})"

    async def _fences(self) -> Mapping[str, list[object]]:
        rows: list[Any] = await self.table.connection.fetch(
            # Of each tenant the fence in force; one that is being aborted lets everybody pass.
            f"select tenant_id, fence_id, patience_ms, lock_id, (select (c.key #>> '{{}}')::bigint"
            f" from {self.table.beside('eventsource_changes')} c where c.fence_id = -f.fence_id"
            f" and c.table_no = {changes.LIMIT} limit 1) as most_keys"
            f" from (select distinct on (tenant_id) * from {self.table.fences}"
            f" where table_name = $1 order by tenant_id, {NEWEST}) f"
            " where role = 'source' and state <> 'aborting' order by fence_id",
            self.table.address.table,
        )
        whole = self.layout.main.tenancy.whole
        return {
            "*" if whole else row["tenant_id"]: [
                row["fence_id"],
                str(row["patience_ms"]),
                row["lock_id"],
                row["most_keys"],
            ]
            for row in rows
        }

    async def stands(self) -> bool:
        """Whether it fires for everybody, unless no tenant is leaving or has left."""
        return not await self._fences() or not any(await watching.weak(self.table))

    async def is_left_over(self) -> bool:
        """Whether there is a guard of fences that are not there any more."""
        for each in self.layout.tables:
            if self.places_of(each) and await self._drops(each):
                return True
        return False

    async def _drops(self, table: LayoutTable) -> list[str]:
        """Statements that drop the triggers that are there: to drop one waits for readers, also
        when there is none."""
        return await partitions.drops(
            self.table.connection, self.places_of(table), [GUARD + kind for kind in KINDS]
        )

    async def _drop(self, table: LayoutTable, triggers: list[str]) -> None:
        functions = [
            f"drop function if exists {self.table.beside(self.function(table, kind))}()"
            for kind in ("journal", "cascade", "truncate")
        ]
        await self.table.connection.execute(";".join(triggers + functions))
        await watching.unmade(self.table, self.places_of(table))

    # -- the target ---------------------------------------------------------------------------

    async def close(self, table: LayoutTable, fence: Fence, tenant: str) -> None:
        """In the caller's transaction: nobody but the migration writes the tenant's rows here."""
        owner = await self.table.connection.fetchval(
            "select relowner from pg_class where oid = $1::text::regclass", self.name(table)
        )
        literal = quote_literal("*" if table.tenancy.whole else tenant)
        body = bodies.ARRIVAL_FUNCTION.format(
            old=self.tenant_of(table, "old"), new=self.tenant_of(table, "new"), literal=literal,
            schema=quote_identifier(self.table.address.schema), fence_id=fence.fence_id,
            lock_id=fence.lock_id,
            patience=fence.patience_ms,
        )  # fmt: skip
        name, function = self.name(table), self._arrival(table, fence)
        trigger = quote_identifier(f"{GUARD}{fence.fence_id}_arrival")
        statements = [
            _created(self.table, function, body),
            f"create or replace trigger {trigger} after insert or update or delete on {name}"
            f" for each row when (not {is_migrator(fence.migration_id, owner)})"
            f" execute function {self.table.beside(function)}()",
            f"alter table {name} enable always trigger {trigger}",
        ]
        below = await partitions.below(self.table.connection, [name])
        # The triggers stay for a moment after the tenant has arrived.
        arriving = (
            f"exists (select from {self.table.fences} f where f.fence_id = {fence.fence_id}"
            " and f.state <> 'open')"
        )
        statements += self._against_truncate(
            table, [name, *below], f"{GUARD}{fence.fence_id}_truncate", f"{function}_truncate",
            [tenant], arriving,
        )  # fmt: skip
        await self.table.connection.execute(";".join(statements))

    async def drop_arrival(self, table: LayoutTable, fence: Fence) -> None:
        """In the caller's transaction: the tenant has arrived, or does not come."""
        function = self.table.beside(self._arrival(table, fence))
        drops = await partitions.drops(
            self.table.connection, self.places_of(table),
            [f"{GUARD}{fence.fence_id}_{kind}" for kind in ("arrival", "truncate")],
        )  # fmt: skip
        for each in (function, self.table.beside(f"{self._arrival(table, fence)}_truncate")):
            drops.append(f"drop function if exists {each}()")
        await self.table.connection.execute(";".join(drops))

    async def without_arrival(self, fence: Fence) -> list[str]:
        """The tables that are not closed to others as :meth:`close` did it."""
        names = [self.name(each) for each in self.layout.tables]
        rows: list[Any] = await self.table.connection.fetch(
            "select name from unnest($1::text[]) name where not exists (select from pg_trigger t"
            " where t.tgrelid = to_regclass(name) and t.tgname = $2 and t.tgenabled = 'A')",
            names, f"{GUARD}{fence.fence_id}_arrival",
        )  # fmt: skip
        found = {row["name"] for row in rows}
        return [each.name for each in self.layout.tables if self.name(each) in found]

    def _arrival(self, table: LayoutTable, fence: Fence) -> str:
        return f"eventsource_arrival_{fence.fence_id}_{self.layout.number_of(table.name)}"

    # -- both ---------------------------------------------------------------------------------

    async def each(
        self,
        work: Callable[[LayoutTable], Awaitable[None]],
        fence: Fence,
        carry_on: Callable[[], bool] = lambda: True,
        *,
        readers: bool = False,
        backwards: bool = False,
    ) -> None:
        """Do something to each table under its lock, which is asked for briefly and again.

        Raises:
            LockNeverGranted: ``carry_on`` said no.
        """
        tables = self.layout.tables[::-1] if backwards else self.layout.tables
        for table in tables:
            name = self.name(table)

            async def look(seconds: float, name: str = name) -> list[Blocker]:
                return await blockers.of_table(
                    self.table.connection, name, seconds, readers=readers
                )

            async def one(table: LayoutTable = table) -> None:
                await work(table)

            await brief_locks.transact(
                self.table.connection, one, carry_on,
                what=f"for a lock on {name} in store {fence.store_id!r}", look=look,
            )  # fmt: skip


def _created(table: AnyTable, function: str, body: str) -> str:
    """A trigger function; its body is quoted as a whole, whatever names have in them."""
    return (
        f"create or replace function {table.beside(function)}() returns trigger language plpgsql"
        # The time zone is that of the driver: a time in a key is one text in the journal.
        " security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC'"
        f" as {quote_literal(body)}"
    )
