"""What follows from what the stores say: the highest generation speaks, wherever it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventsource.migration.models import StoreIdentity, TenantRouting
from eventsource.migration.recovery import judgement
from eventsource.migration.recovery.judged import (
    CleanAgain,
    ControlPlace,
    Home,
    Journal,
    KeptWay,
    Reconcile,
    SendOn,
    Step,
)
from eventsource.migration.recovery.survey import Survey
from eventsource.migration.states import MigrationState, TenantMigrationState
from eventsource.migration.tables.fences import Fence
from eventsource.tenant_ids import TenantId

TENANT = UUID(int=1)
M1, M2, W = UUID(int=11), UUID(int=12), UUID(int=13)


def place(name: str) -> StoreIdentity:
    return StoreIdentity(name, 1, 1, 1, name)


@dataclass
class Said:
    """What stores and control database say, in the fewest words."""

    fences: list[tuple[str, Fence]] = field(default_factory=list)
    journal: dict[UUID, Any] = field(default_factory=dict)
    routes: dict[TenantId, TenantRouting] = field(default_factory=dict)
    barriers: dict[UUID, bool] = field(default_factory=dict)
    layouts: frozenset[str] = frozenset()
    residents: dict[str, frozenset[TenantId]] = field(default_factory=dict)
    ways: dict[UUID, Any] = field(default_factory=dict)
    progress: dict[tuple[str, UUID], Any] = field(default_factory=dict)

    def fence(
        self, store: str, role: str, state: str, generation: int, migration: UUID = M1,
        peer: str | None = None, mirrored: bool = True,
    ) -> Said:  # fmt: skip
        moved_to = peer if state == "moved" else None
        self.fences.append(
            (store, Fence(len(self.fences), 0, TENANT, role, state, generation, migration, store,
                          moved_to, None, 0, 0, None, None, None, None, None,
                          place(peer).to_json() if peer else None, mirrored))
        )  # fmt: skip
        return self

    def armed(self, home: int | None = 1, old: str | None = "standby") -> Said:
        """The way back W of a move that went to b, as both stores know it; None is nothing."""
        if home is not None:
            self.fence("b", "source", "open", home, W, mirrored=False)
        if old is not None:
            self.fence("a", "target", old, -1, W, mirrored=False)
        self.progress["a", W] = SimpleNamespace(witness=object(), proven_snapshot="1:1:")
        return self

    def kept(self, state: str, move: UUID = M1) -> Said:
        """What the control database says of W."""
        self.ways[W] = SimpleNamespace(
            id=W, migration_id=move, tenant_id=TENANT, state=state, generation=1,
            source_store_id="b", target_store_id="a", moved_state="migrated",
        )  # fmt: skip
        return self

    def move(self, source: str, target: str, generation: int, migration: UUID = M1) -> Said:
        """A whole move, as both stores know it."""
        self.fence(source, "source", "moved", generation, migration, target)
        return self.fence(target, "target", "open", generation, migration, source)

    def row(
        self, state: str, migration: UUID = M1, source: str = "a", target: str = "b",
        protocol: int = 1,
    ) -> Said:  # fmt: skip
        @dataclass
        class Row:
            id: UUID
            state: MigrationState
            source_store_id: str
            target_store_id: str
            driver_alive: bool = False
            tenant_id: UUID = TENANT
            protocol: int = 1
            control_identity: StoreIdentity | None = None

            @property
            def is_newer(self) -> bool:
                return self.protocol > 1

        self.journal[migration] = Row(
            migration, MigrationState(state), source, target, protocol=protocol
        )
        return self

    def route(self, store: str, generation: int, migration: UUID | None = M1) -> Said:
        self.routes[TENANT] = TenantRouting(
            TENANT, store, TenantMigrationState.NORMAL, None, generation, migration
        )
        return self

    def steps(self) -> list[Step]:
        return [step for step, _ in self.judged().steps]

    def judged(self, control: StoreIdentity | None = None) -> judgement.Judgement:
        stores = {name: place(name) for name in ("a", "b", "c")}
        return judgement.judge(
            Survey(self.fences, self.progress, self.barriers, self.residents, stores,
                   self.journal, self.routes, "a", self.ways, control, layouts=self.layouts)
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


@pytest.mark.parametrize(
    "said",
    [
        # A source that would be sent on, a migration that would be reconciled, one cleaned again.
        Said().fence("b", "target", "open", 1, peer="a").row("migrated", protocol=2).route("b", 1),
        Said(barriers={M1: False}).fence("a", "source", "open", 0, peer="b")
        .fence("b", "target", "closed", 0, peer="a").row("dual_write", protocol=2).route("a", 0),
        Said().fence("a", "source", "open", 0, peer="b").row("rolled_back", protocol=2)
        .route("a", 0),
        # Another migration of the tenant is of this version.
        Said().fence("b", "target", "open", 1, peer="a").row("migrated").route("a", 0)
        .row("rolled_back", M2, protocol=2),
    ],
)  # fmt: skip
def test_a_tenant_that_a_newer_version_has_in_hand_is_left_alone(said: Said) -> None:
    judged = said.judged()
    assert judged.steps == []
    assert len(judged.notes) == 1
    assert "needs version 2 of the protocol" in judged.notes[0]


@pytest.mark.parametrize(
    ("here", "began", "due"), [("x", "x", False), ("x", "y", True), (None, "y", False)]
)
def test_another_place_of_the_control_database_is_recorded(
    here: str | None, began: str, due: bool
) -> None:
    said = Said().row("paused")
    said.journal[M1].control_identity = place(began)
    steps = said.judged(place(here) if here else None).steps
    assert [step for step, _ in steps] == ([ControlPlace()] if due else [])


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


def test_of_another_librarys_tables_the_copy_begins_again() -> None:
    said = Said(barriers={M1: False}, layouts=frozenset("ab"))
    said.fence("a", "source", "open", 0, peer="b").fence("b", "target", "closed", 0, peer="a")
    found = said.row("dual_write").route("a", 0).judged()
    [(step, change)] = found.steps
    assert step == Reconcile(M1)
    assert "kept in eventsource_rescued_rows" in change.sentence
    assert "the copy begins again" in change.sentence


def finished() -> Said:
    return Said().move("a", "b", 1).row("migrated").route("b", 1)


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (finished().armed(), "standby"),
        (finished().armed().kept("preparing"), "standby"),
        (finished().armed().kept("closed"), "closing"),
        (finished().armed().kept("refused"), "closing"),
        # Of half of one nothing is proven.
        (finished().armed(home=None), "closing"),
        (finished().armed(old=None), "closing"),
        (finished().armed(old="retired"), "closing"),
        (finished().armed(home=None).kept("standby"), "closing"),
        # It was opened by a version that does not wake it, or is asleep for another reason.
        (finished().armed(home=-1), "closing"),
        # A return would need the route to be at the generation of the move.
        (finished().route("b", 4, None).armed(), "closing"),
        (finished().route("c", 4, None).armed(), "closing"),
        # It has ended since the backup of the control database.
        (finished().kept("standby"), "closing"),
        (finished().armed(home=None, old="retired").kept("standby"), "closing"),
        # The tenant went on to another store before.
        (
            finished().armed().move("b", "c", 2, M2).row("migrated", M2, "b", "c")
            .route("c", 2, M2), "closing",
        ),
        # The cutover makes it ready again, and an abort takes it away.
        (
            Said().fence("a", "source", "open", 0, peer="b").fence("b", "target", "closed", 0)
            .row("dual_write").route("a", 0).armed(home=-1), "preparing",
        ),
        (
            Said().move("a", "b", 1).row("migrated").armed(home=None, old=None)
            .fence("b", "source", "moved", 2, W, "a", mirrored=False)
            .fence("a", "target", "open", 2, W, mirrored=False).row("migrated", W, "b", "a")
            .route("a", 2, W), "returning",
        ),
    ],
)  # fmt: skip
def test_a_way_back_is_what_the_stores_say(said: Said, state: str) -> None:
    ways = [step for step in said.steps() if isinstance(step, KeptWay)]
    assert [(way.way_id, way.state, way.tenant_id) for way in ways] == [(W, state, TENANT)]
    assert ways[0].move == M1


@pytest.mark.parametrize(
    "said",
    [
        finished().armed().kept("standby"),
        finished().armed().kept("closing"),
        finished().armed(home=None).kept("closing"),
        finished().kept("closed"),
        finished().armed(home=None, old="retired").kept("closed"),
        # A return is under way, which its driver carries on.
        finished().armed().kept("returning").row("dual_write", W, "b", "a"),
        Said().fence("a", "source", "open", 0, peer="b").fence("b", "target", "closed", 0)
        .row("dual_write").route("a", 0).armed(home=-1).kept("standby"),
    ],
)  # fmt: skip
def test_a_way_back_that_everybody_knows_is_left_alone(said: Said) -> None:
    assert said.judged() == judgement.Judgement([], [])


def test_a_lost_control_database_knows_what_was_returned_by() -> None:
    said = Said().move("a", "b", 1)
    said.fence("b", "source", "moved", 2, W, "a", mirrored=False)
    said.fence("a", "target", "open", 2, W, mirrored=False)
    first, second, home, way = said.steps()
    assert isinstance(first, Journal)
    assert isinstance(second, Journal)
    assert (first.migration_id, first.returns) == (M1, None)
    assert (second.migration_id, second.returns) == (W, M1)
    assert home == Home(TENANT, "a", 2, W)
    assert isinstance(way, KeptWay)
    assert (way.move, way.state) == (M1, "returning")


def test_who_may_return_does_not_live_where_only_the_way_back_says_so() -> None:
    """While a move is under way the fence of its way back is at the target already."""
    said = Said().fence("a", "source", "open", 0, peer="b").fence("b", "target", "closed", 0)
    said.armed(home=-1)
    assert not [step for step in said.steps() if isinstance(step, Home)]
