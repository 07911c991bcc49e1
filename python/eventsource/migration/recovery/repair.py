"""`repair`: routes, journal, mapping and fences are brought in line with what the stores say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from eventsource.migration.connections.driver_connections import close_all, open_table
from eventsource.migration.consistency.only_in import only_in
from eventsource.migration.errors import (
    MigrationError,
    RepairNeededError,
    StoreMismatchError,
)
from eventsource.migration.event_table import of_store
from eventsource.migration.journaled import carriage, only_there
from eventsource.migration.journaled.authority import kind_of
from eventsource.migration.journaled.guards import Guarded
from eventsource.migration.recovery import judgement, keeping, stranded
from eventsource.migration.recovery import survey as surveys
from eventsource.migration.recovery.judged import (
    CleanAgain,
    ControlPlace,
    Guard,
    Home,
    Journal,
    KeptWay,
    NameStranded,
    Reconcile,
    ReconcileWay,
    SendOn,
    Step,
)
from eventsource.migration.recovery.judgement import Judgement
from eventsource.migration.recovery.reconciled_way import only_in_the_old_store
from eventsource.migration.recovery.report import RepairReport, StrandedEvent, StrandedRow
from eventsource.migration.repositories import control_place, restored
from eventsource.migration.repositories.positions import PostgreSQLPositionMappingRepository
from eventsource.migration.repositories.restored import RestoredMigration
from eventsource.migration.states import MigrationState
from eventsource.migration.steps import authority, mapping
from eventsource.migration.tables import brief_locks, guard

if TYPE_CHECKING:
    from eventsource.migration.event_table import OwnTable
    from eventsource.migration.models import MigrationConfig
    from eventsource.migration.recovery.survey import Survey
    from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository
    from eventsource.migration.repositories.routing import PostgreSQLRoutingRepository
    from eventsource.stores.postgresql import PostgreSQLEventStore

_S = MigrationState

#: Reconciles one migration; returns what only its target had. And aborts one once more.
Reconciling = Callable[[UUID, bool], Awaitable[Sequence[StrandedEvent | StrandedRow]]]
Cleaning = Callable[[UUID], Awaitable[None]]

#: Reconciles one way back, by its id.
ReconcilingWay = Callable[[UUID], Awaitable[Sequence[StrandedEvent]]]


@dataclass(slots=True)
class Repair:
    """One repair, from the look at everything to the last change.

    Args:
        stores: every store of this process, by id.
        reconcile, clean: how a migration is reconciled, and how it is aborted once more.
        reconcile_way: how a way back is.
        config: what counts from now on for a migration whose row was lost.
    """

    stores: Mapping[str, PostgreSQLEventStore]
    default_store_id: str
    migrations: PostgreSQLMigrationRepository
    routes: PostgreSQLRoutingRepository
    reconcile: Reconciling
    clean: Cleaning
    reconcile_way: ReconcilingWay
    config: MigrationConfig
    operator: str | None = None
    put_back: bool = False
    _stranded: list[StrandedEvent] = field(default_factory=list)
    _rows: list[StrandedRow] = field(default_factory=list)
    _undone: list[str] = field(default_factory=list)

    async def look(self) -> tuple[Survey, Judgement]:
        """What all stores say, and what follows from it.

        Raises:
            StoreMismatchError: a store is here what the journal knows by another id.
        """
        tables = {name: await of_store(store) for name, store in self.stores.items()}
        survey = await surveys.look(tables, self.migrations, self.routes, self.default_store_id)
        _refuse_mistaken_stores(survey)
        return survey, judgement.judge(survey)

    async def report(self) -> RepairReport:
        """What would be changed; changes nothing."""
        _, found = await self.look()
        for step, _ in found.steps:
            if isinstance(step, SendOn | NameStranded):
                await self._name(step)
            if isinstance(step, ReconcileWay):
                old, home = [await of_store(self.stores[each]) for each in (step.old, step.home)]
                self._stranded += await only_in_the_old_store(
                    old, home, step.move, step.tenant_id, step.old
                )
        return self._reported(found, done=False)

    async def run(self) -> RepairReport:
        """Change it.

        Raises:
            MigrationError: a driver is at work, or a migration cannot be repaired as it is.
        """
        survey, found = await self.look()
        at_work = judgement.drivers_at_work(dict(survey.journal))
        if at_work and found.steps:
            named = ", ".join(f"{each.id} ({each.driver_name})" for each in at_work)
            raise MigrationError(
                f"drivers are at work ({named}); nothing was changed: stop them"
                " (eventsource-migrate pause, or end `work`), and repair again"
            )
        for step, _ in found.steps:
            await self._take(survey, step)
        return self._reported(found, done=True)

    def _reported(self, found: Judgement, *, done: bool) -> RepairReport:
        return RepairReport(
            tuple(change for _, change in found.steps),
            (*found.notes, *self._undone),
            tuple(self._stranded),
            done,
            tuple(self._rows),
        )

    async def _take(self, survey: Survey, step: Step) -> None:
        control = self.migrations.pool
        match step:
            case SendOn():
                await self._send_on(survey, step)
            case NameStranded():
                await self._name_stranded(step)
            case Journal():
                await self._write_journal(survey, step)
            case Home():
                await restored.write_route(
                    control, step.tenant_id, step.store_id, step.generation, step.migration_id
                )
            case Reconcile():
                await self._reconcile(step)
            case KeptWay():
                await keeping.write(
                    self.stores, self.migrations, step, self.config.keep_way_back, self.operator
                )
            case Guard():
                await self._guard_again(survey, step)
            case ControlPlace():
                await control_place.bind(control, self.operator)
            case ReconcileWay():
                self._stranded += await self.reconcile_way(step.way_id)
            case CleanAgain():
                if await restored.request_abort_again(
                    control, step.migration_id, "a store had its fence again", self.operator
                ):
                    await self.clean(step.migration_id)

    async def _reconcile(self, step: Reconcile) -> None:
        """One that somebody has to decide on does not keep the others from being repaired."""
        try:
            found = await self.reconcile(step.migration_id, self.put_back)
        except RepairNeededError as error:
            self._undone.append(str(error))
            return
        self._stranded += [each for each in found if isinstance(each, StrandedEvent)]
        self._rows += [each for each in found if isinstance(each, StrandedRow)]

    async def _send_on(self, survey: Survey, step: SendOn) -> None:
        decided = step.decided
        assert decided.target is not None
        at = survey.progress.get((decided.target, decided.migration_id))
        journal = survey.journal.get(decided.migration_id)
        table = await self._open(step.store_id)
        try:
            await kind_of(table).send_on(
                table,
                authority.Departure(
                    decided.tenant_id, decided.migration_id, decided.generation, step.store_id,
                    decided.target, journal.fence_position if journal else None,
                    at.position_offset if at else 0, at.pass_number if at else 0,
                    survey.identities.get(decided.target),
                ),
            )  # fmt: skip
            await self._put_home(table, step)
        finally:
            await close_all([table.connection])

    async def _guard_again(self, survey: Survey, step: Guard) -> None:
        table = await self._open(step.store_id)
        try:
            if table.layout is None:
                await brief_locks.transact(table.connection, partial(guard.renew, table))
            else:
                guarded = Guarded(table, table.layout)
                fence = next(each for name, each in survey.fences if name == step.store_id)
                await guarded.each(guarded.renew, fence)
        finally:
            await close_all([table.connection])

    async def _name_stranded(self, step: NameStranded) -> None:
        table = await self._open(step.store_id)
        try:
            await self._put_home(table, step)
        finally:
            await close_all([table.connection])
        await self.migrations.audit(
            step.decided.migration_id, "stranded_named", {"store": step.store_id}, self.operator
        )

    async def _open(self, store_id: str) -> OwnTable:
        store = self.stores[store_id]
        return await open_table(await store.address(), store.layout)

    async def _name(self, step: SendOn | NameStranded) -> None:
        if self.stores[step.store_id].layout is None:
            self._stranded += await self._left_in(step)
        else:
            self._rows += await self._rows_left_in(step)

    async def _put_home(self, table: OwnTable, step: SendOn | NameStranded) -> None:
        assert step.decided.target is not None
        if table.layout is not None:
            self._rows += await self._rows_left_in(step)
            return
        events = await self._left_in(step)
        if self.put_back:
            home = await open_table(await self.stores[step.decided.target].address())
            try:
                events = await stranded.put_back(table, home, events)
            finally:
                await close_all([home.connection])
        self._stranded += events

    async def _left_in(self, step: SendOn | NameStranded) -> list[StrandedEvent]:
        """What was appended to a store after it had gone back."""
        decided = step.decided
        assert decided.target is not None
        if not decided.target_is_open:
            return []
        here = await of_store(self.stores[step.store_id])
        home = await of_store(self.stores[decided.target])
        rows = [row async for row in only_in(here, home, decided.tenant_id)]
        return await stranded.described(home, decided.tenant_id, rows, step.store_id)

    async def _rows_left_in(self, step: SendOn | NameStranded) -> list[StrandedRow]:
        decided = step.decided
        assert decided.target is not None
        if not decided.target_is_open:
            return []
        here, home = await self._open(step.store_id), await self._open(decided.target)
        try:
            agreed = await carriage.read(home, decided.migration_id)
            return [
                StrandedRow.of(row, decided.tenant_id, step.store_id)
                async for row in only_there.rows(here, home, decided.tenant_id, agreed)
            ]
        finally:
            await close_all([here.connection, home.connection])

    async def _write_journal(self, survey: Survey, step: Journal) -> None:
        control = self.migrations.pool
        at = survey.progress.get((step.target, step.migration_id))
        left = survey.own(step.migration_id, "source")
        head = left[1].source_head if left is not None else None
        proof = left[1].proof if left is not None and step.state is _S.MIGRATED else None
        decided = step.state in (_S.MIGRATED, _S.CUTOVER_PAUSED)
        over = decided or step.state is _S.FAILED
        await restored.write_migration(
            control,
            RestoredMigration(
                step.migration_id, step.tenant_id, step.source, step.target,
                step.state if over else _S.PAUSED, None if over else step.state, step.generation,
                at.position_offset if at is not None and step.returns is None else None, head,
                survey.identities.get(step.source), survey.identities.get(step.target),
                step.returns, proof.total if proof is not None else None, step.is_missing,
            ),
            self.config, self.operator,
        )  # fmt: skip
        if step.target in survey.layouts:
            return  # their positions are not mapped
        if step.state is not _S.MIGRATED or at is None or head is None:
            return
        # One whose row was lost gets rows: nobody knows any more that it did without.
        if not (await self.migrations.get(step.migration_id)).maps_rows:
            return
        mapped = PostgreSQLPositionMappingRepository(control)
        target = await of_store(self.stores[step.target])
        if step.returns is None:
            await mapping.complete(mapped, target, at, head)
        else:
            source = await of_store(self.stores[step.source])
            await mapping.of_way_back(mapped, at, source, target, step.returns, head)


def _refuse_mistaken_stores(survey: Survey) -> None:
    """Routes name stores by their ids: with ids that are mistaken they would lead elsewhere."""
    for each in survey.journal.values():
        for store_id, recorded in (
            (each.source_store_id, each.source_identity),
            (each.target_store_id, each.target_identity),
        ):
            if recorded is None or survey.identities.get(store_id) == recorded:
                continue
            for other_id, here in survey.identities.items():
                if here == recorded:
                    raise StoreMismatchError(
                        f"store {other_id!r} is {here.describe()} here, which migration {each.id}"
                        f" knows as {store_id!r}. Nothing was changed: correct the ids and the"
                        " addresses of the stores in the configuration of this process"
                    )
