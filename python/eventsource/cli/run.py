"""`run`: the whole move of one tenant in one go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from eventsource.cli import logs, next_steps, prospects, questions, under_way, views
from eventsource.cli.choice import (
    KeepWayBack,
    MaxPause,
    StoreFrom,
    StoreTo,
    TenantArgument,
    refuse_pause,
)
from eventsource.cli.config import ConfigError
from eventsource.cli.display import Display, display_for
from eventsource.cli.exits import ExitCode
from eventsource.cli.invocation import perform
from eventsource.cli.journey import Journey
from eventsource.cli.output import Step, described, labelled
from eventsource.cli.tenants import EmptyOption
from eventsource.cli.workspace import Workspace
from eventsource.counts import counted
from eventsource.migration import Migration, MigrationState


def run(
    ctx: typer.Context,
    tenant: TenantArgument,
    to: StoreTo,
    source: StoreFrom = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Cut over without asking.")] = False,
    empty: EmptyOption = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Rehearse the cutover first; stop if it fails.")
    ] = False,
    max_pause: MaxPause = None,
    keep_way_back: KeepWayBack = None,
) -> None:
    """Move a tenant: copy, catch up, verify, ask, cut over.

    Started again after an interruption it goes on where it was.
    """
    move = _Move(tenant, to, source, yes, empty, rehearse, max_pause, keep_way_back)
    perform(ctx, move.carry_out, interrupted=move.what_stays, with_steps=True)


@dataclass(slots=True)
class _Move:
    tenant: str
    to: str
    source: str | None
    yes: bool
    empty: bool
    rehearse: bool = False
    max_pause: float | None = None
    keep_way_back: str | None = None
    journey: Journey | None = None
    lag: int = field(default=0)

    async def carry_out(self, at: Workspace) -> ExitCode:
        at.settings.require_store(self.to)
        keep = prospects.seconds_kept(self.keep_way_back)
        tenant_id = at.tenant(self.tenant)
        home = await at.home_of(tenant_id)
        if home == self.to and self.source is None:
            at.out.answer(
                {"outcome": "already_there", "tenant_id": tenant_id, "store": home},
                f"nothing to do: tenant {tenant_id} lives in {home!r} already",
            )
            return ExitCode.DONE
        source = self.source or home
        at.settings.require_store(source)
        if source == self.to:
            raise ConfigError(f"--from and --to are both {source!r}: name two stores")
        begun = await under_way.find(at, tenant_id, source, self.to)
        refuse_pause(begun.config if begun else at.settings.migration, self.max_pause)
        with logs.waits_said_elsewhere(), display_for(at.out) as display:
            self.journey = Journey(at, tenant_id, source, self.to, display, may_be_empty=self.empty)
            self.journey.max_pause = self.max_pause
            self.journey.keep_way_back = keep
            display.say("tenant", f"{tenant_id} moves from {source!r} to {self.to!r}")
            await self.journey.begin()
            if keep is not None:
                assert self.journey.migration is not None
                await at.coordinator.set_keep_way_back(
                    self.journey.migration.id, keep, required=keep > 0, operator=at.operator
                )
            await self.journey.copy()
            assert self.journey.migration is not None
            if self.journey.migration.state is not MigrationState.MIGRATED:
                if not await self._up_to_the_flip(self.journey, display):
                    return self._stop_before_the_flip(at, self.journey)
                await self.journey.cut_over()
        await self._report(at, self.journey)
        return ExitCode.DONE

    async def _up_to_the_flip(self, journey: Journey, display: Display) -> bool:
        """Catch up and verify; whether to cut over."""
        self.lag = await journey.catch_up()
        await journey.verify()
        if self.rehearse:
            await journey.rehearse()
        display.settle()
        if self.yes or not questions.at_a_terminal():
            return self.yes
        assert journey.migration is not None
        return await questions.confirmed(
            await questions.of_cutover(journey.at, journey.migration, self.max_pause)
        )

    def _stop_before_the_flip(self, at: Workspace, journey: Journey) -> ExitCode:
        migration = journey.migration
        assert migration is not None
        steps = [
            next_steps.go_on(migration, "--yes"),
            *next_steps.of(migration)[1:],
        ]
        at.out.answer(
            self._document("ready", journey, steps),
            labelled("stopped", "before the cutover, the tenant goes on as before"),
            labelled("driver", views.who_goes_on(migration)),
            *(labelled(step.what, step.command) for step in steps),
        )
        return ExitCode.DONE

    async def _report(self, at: Workspace, journey: Journey) -> None:
        migration = journey.migration
        assert migration is not None
        way = await at.coordinator.way_back(migration.id)
        is_foreign = at.of_layout(migration)
        steps = next_steps.of(migration, way, of_layout=is_foreign)
        carry = "" if is_foreign else "carry its subscriptions over: "
        at.out.answer(
            self._document("migrated", journey, steps),
            labelled(
                "done",
                f"{counted(migration.events_copied, at.unit(migration))}, migration {migration.id}",
            ),
            labelled(steps[0].what, f"{carry}{steps[0].command}"),
            *views.of_way_back(way),
        )

    def _document(self, outcome: str, journey: Journey, steps: list[Step]) -> dict[str, object]:
        migration = journey.migration
        assert migration is not None
        return {
            "outcome": outcome,
            "migration": described(migration),
            "copied": journey.copied,
            "copy_seconds": journey.copy_seconds,
            "events_per_second": journey.events_per_second,
            "lag": self.lag,
            "verification": journey.report,
            "pause_ms": migration.cutover_pause_ms,
            "next": steps,
        }

    def what_stays(self) -> str:
        """After Ctrl-C; the ways on from there follow."""
        migration: Migration | None = self.journey.migration if self.journey else None
        if migration is None:
            return "interrupted before anything was changed"
        return (
            f"interrupted; migration {migration.id} stays as it is (last seen: {migration.state}, "
            f"{migration.progress_percentage:.0f} %)"
        )
