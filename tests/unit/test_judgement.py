"""What follows from what the stores say: the highest generation speaks, wherever it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource.migration.models import StoreIdentity, TenantRouting
from eventsource.migration.recovery import judgement
from eventsource.migration.recovery.judgement import (
    CleanAgain,
    Home,
    Journal,
    Reconcile,
    SendOn,
)
from eventsource.migration.recovery.survey import Survey
from eventsource.migration.states import MigrationState, TenantMigrationState
from eventsource.migration.tables.fences import Fence
from eventsource.tenant_ids import TenantId

TENANT = UUID(int=1)
M1, M2 = UUID(int=11), UUID(int=12)


def place(name: str) -> StoreIdentity:
    return StoreIdentity(name, 1, 1, 1, name)


@dataclass
class Said:
    """What stores and control database say, in the fewest words."""

    fences: list[tuple[str, Fence]] = field(default_factory=list)
    journal: dict[UUID, Any] = field(default_factory=dict)
    routes: dict[TenantId, TenantRouting] = field(default_factory=dict)
    barriers: dict[UUID, bool] = field(default_factory=dict)
    residents: dict[str, frozenset[TenantId]] = field(default_factory=dict)

    def fence(
        self, store: str, role: str, state: str, generation: int, migration: UUID = M1,
        peer: str | None = None,
    ) -> Said:  # fmt: skip
        moved_to = peer if state == "moved" else None
        self.fences.append(
            (store, Fence(len(self.fences), 0, TENANT, role, state, generation, migration, store,
                          moved_to, None, 0, 0, None, None, None, None, None,
                          place(peer).to_json() if peer else None))
        )  # fmt: skip
        return self

    def move(self, source: str, target: str, generation: int, migration: UUID = M1) -> Said:
        """A whole move, as both stores know it."""
        self.fence(source, "source", "moved", generation, migration, target)
        return self.fence(target, "target", "open", generation, migration, source)

    def row(self, state: str, migration: UUID = M1, source: str = "a", target: str = "b") -> Said:
        @dataclass
        class Row:
            id: UUID
            state: MigrationState
            source_store_id: str
            target_store_id: str
            driver_alive: bool = False

        self.journal[migration] = Row(migration, MigrationState(state), source, target)
        return self

    def route(self, store: str, generation: int, migration: UUID | None = M1) -> Said:
        self.routes[TENANT] = TenantRouting(
            TENANT, store, TenantMigrationState.NORMAL, None, generation, migration
        )
        return self

    def steps(self) -> list[judgement.Step]:
        return [step for step, _ in self.judged().steps]

    def judged(self) -> judgement.Judgement:
        stores = {name: place(name) for name in ("a", "b", "c")}
        return judgement.judge(
            Survey(self.fences, {}, self.barriers, self.residents, stores, self.journal,
                   self.routes, "a")
        )  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        Said(),
        Said().move("a", "b", 1).row("migrated").route("b", 1),
        Said().move("a", "b", 1).move("b", "a", 2, M2).row("migrated")
        .row("migrated", M2, "b", "a").route("a", 2, M2),
        Said().move("a", "b", 1).move("b", "c", 2, M2).row("migrated")
        .row("migrated", M2, "b", "c").route("c", 2, M2),
        Said().fence("a", "source", "open", 0, peer="b").fence("b", "target", "closed", 0, peer="a")
        .row("dual_write").route("a", 0),
        # Decided a moment ago: a driver finishes it.
        Said().fence("a", "source", "moved", 1, peer="b").fence("b", "target", "closed", 0)
        .row("cutover_paused").route("b", 1),
        # A way back is kept: its migration is under way, and below all generations.
        Said().move("a", "b", 1).fence("b", "source", "open", -1, M2, "a")
        .fence("a", "target", "standby", -1, M2, "b").row("migrated")
        .row("dual_write", M2, "b", "a").route("b", 1),
        # A route that was set by hand.
        Said().route("c", 3, None),
    ],
)  # fmt: skip
def test_where_everybody_agrees_nothing_is_changed(said: Said) -> None:
    assert said.judged() == judgement.Judgement([], [])


@pytest.mark.parametrize("left_at_a", [None, ("source", "open", 0)])
def test_a_source_that_has_gone_back_is_sent_on(left_at_a: tuple[str, str, int] | None) -> None:
    said = Said().fence("b", "target", "open", 1, peer="a").row("migrated").route("b", 1)
    if left_at_a:
        said.fence("a", *left_at_a)
    [step] = said.steps()
    assert isinstance(step, SendOn)
    assert (step.store_id, step.decided.target, step.decided.generation) == ("a", "b", 1)


def test_a_store_in_the_middle_of_a_chain_is_sent_on_too() -> None:
    """A to B, B to C; B was restored to when the tenant had just come."""
    said = Said().move("a", "b", 1).fence("c", "target", "open", 2, M2, "b")
    said.row("migrated").row("migrated", M2, "b", "c").route("c", 2, M2)
    [step] = said.steps()
    assert isinstance(step, SendOn)
    assert (step.store_id, step.decided.migration_id) == ("b", M2)


@pytest.mark.parametrize("there", [None, ("target", "closed", 0)])
def test_a_target_that_has_gone_back_is_due_for_a_driver(
    there: tuple[str, str, int] | None,
) -> None:
    said = Said().fence("a", "source", "moved", 1, peer="b").row("migrated").route("b", 1)
    if there:
        said.fence("b", *there)
    [step] = said.steps()
    assert isinstance(step, Journal)
    assert (step.state, step.is_missing) == (MigrationState.CUTOVER_PAUSED, False)


@pytest.mark.parametrize("state", [None, "pending", "bulk_copy", "dual_write", "paused",
                                   "rolled_back", "failed"])  # fmt: skip
@pytest.mark.parametrize("route", [None, ("a", 0)])
def test_a_control_database_that_has_gone_back_follows_the_stores(
    state: str | None, route: tuple[str, int] | None
) -> None:
    said = Said().move("a", "b", 1)
    if state:
        said.row(state)
    if route:
        said.route(*route)
    journal, home = said.steps()
    assert isinstance(journal, Journal)
    assert (journal.state, journal.is_missing) == (MigrationState.MIGRATED, state is None)
    assert (journal.source, journal.target, journal.generation) == ("a", "b", 0)
    assert home == Home(TENANT, "b", 1, M1)


def test_a_route_is_never_put_back_below_what_routers_have_seen() -> None:
    said = Said().move("a", "b", 1).row("migrated").route("c", 5, None)
    [home] = said.steps()
    assert home == Home(TENANT, "b", 6, None)


def test_both_stores_have_gone_back_to_before_the_move() -> None:
    said = Said(residents={"a": frozenset({TENANT})}).row("migrated").route("b", 1)
    [home] = said.steps()
    assert home == Home(TENANT, "a", 2, None)


def test_rows_without_any_fence_are_left_to_somebody() -> None:
    said = Said(residents={"a": frozenset({TENANT}), "b": frozenset({TENANT})})
    said.row("migrated").route("b", 1)
    judged = said.judged()
    assert judged.steps == []
    assert "Nothing was changed" in judged.notes[0]
    strangers = Said(residents={"b": frozenset({uuid4(), uuid4()}), "a": frozenset({uuid4()})})
    [note] = strangers.judged().notes
    assert "holds rows of 2 tenants" in note
    assert "'b'" in note


@pytest.mark.parametrize("over", ["rolled_back", "migrated"])
def test_a_migration_that_is_over_is_cleaned_again(over: str) -> None:
    said = Said().fence("a", "source", "open", 0, peer="b").row(over).route("a", 0, None)
    assert said.steps() == [CleanAgain(M1)]


def test_what_was_under_way_before_a_later_move_is_cleaned_again() -> None:
    said = Said().fence("a", "source", "open", 0, M1, "b").move("a", "b", 1, M2)
    said.row("failed").row("migrated", M2).route("b", 1, M2)
    assert said.steps() == [CleanAgain(M1)]


def test_an_undecided_migration_without_a_row_is_paused() -> None:
    said = Said().fence("a", "source", "open", 0, peer="b").fence("b", "target", "closed", 0)
    said.route("a", 0, None)
    [step] = said.steps()
    assert step == Journal(TENANT, M1, "a", "b", 0, MigrationState.PENDING, is_missing=True)


@pytest.mark.parametrize("stands", [True, False])
def test_a_source_without_its_barrier_is_reconciled(stands: bool) -> None:
    said = Said(barriers={M1: stands}).fence("a", "source", "open", 0, peer="b")
    said.fence("b", "target", "closed", 0, peer="a").row("dual_write").route("a", 0)
    assert said.steps() == ([] if stands else [Reconcile(M1)])
