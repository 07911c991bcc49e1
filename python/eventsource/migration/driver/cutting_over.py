"""A cutover or its rehearsal, from the request to the answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from eventsource import failpoints
from eventsource.counts import counted
from eventsource.errors import StoreSchemaError
from eventsource.migration import changes, failures, telemetry
from eventsource.migration.connections import waits
from eventsource.migration.errors import (
    ConsistencyError,
    CutoverTimeoutError,
    InvalidStateTransitionError,
    MigrationError,
    MissingRowError,
    PreflightError,
    RoutersNotReadyError,
)
from eventsource.migration.preflight import rights
from eventsource.migration.repositories.router_reports import RouterReports
from eventsource.migration.states import MigrationState
from eventsource.migration.steps import decision, way_back
from eventsource.migration.steps.cutover import Cutover
from eventsource.migration.tables import fences, standby

if TYPE_CHECKING:
    from eventsource.migration.driver.stretch import Stretch
    from eventsource.migration.event_table import Seen
    from eventsource.migration.models import CutoverRequest
    from eventsource.migration.steps.cutover import CutoverResult
    from eventsource.migration.steps.passes import Passes

#: How long a cutover tries to make the lag small before it is given up (seconds), beside what its
#: comparison took: a tenant may write faster than it can be carried.
SHRINK_SECONDS = 60.0


async def carry_out(at: Stretch, passes: Passes, asked: CutoverRequest) -> None:
    """Cut over, or rehearse it, and answer who asked."""
    began = time.monotonic()
    reports = RouterReports(at.connections.migrations.pool)
    try:
        await reports.refuse_unready(at.migration.id)
        seen: Seen | None = await at.way.check(at.connections, at.migration)
        # Who asked for the cutover may have another role than who carries it out.
        await rights.refuse_functions_of_others(at.connections.source, at.connections.target)
        if not asked.force:
            await at.way.verify(at.connections, at.migration, seen)
        if not asked.rehearsal:
            await _keep_a_way_back(at, seen)
        await failpoints.reach("cutover.verified")
        # What was written during the comparison has to be carried as well.
        compared = time.monotonic() - began
        if not await _shrink_the_lag(at, passes, asked, compared + SHRINK_SECONDS):
            return
        if await _somebody_stops_it(at):
            return
        if at.migration.returns is not None:
            # From now on everybody who comes to the target waits there, as at one that is closed.
            await standby.wake(
                at.connections.target, at.migration.id, "target", at.migration.generation
            )
        cutover = await _ready(at, passes, asked)
        await reports.refuse_unready(at.migration.id)
        if not await _enter(at, asked):
            return
        await failpoints.reach("cutover.entered.committed")
        cutover.migration = at.migration
        result = await cutover.run()
    except (
        CutoverTimeoutError, ConsistencyError, PreflightError, RoutersNotReadyError
    ) as error:  # fmt: skip
        if at.migration.state is MigrationState.CUTOVER_PAUSED:
            await at.to(MigrationState.DUAL_WRITE, failures.describe(error))
        await _refuse(at, asked, error)
        await at.reopen_passes()
        # A statement that was cancelled on a silent link would keep the next one waiting.
        await at.connections.renew(at.migration.id)
        await at.lease.take_over(at.connections)
        return
    if result.decided is None:
        await _end_rehearsal(at, asked, result)
    else:
        await _end_cutover(at, asked, result, result.decided)


async def refuse_unfit(at: Stretch, asked: CutoverRequest, error: Exception) -> None:
    """A pass before the cutover has not come to its end: answer who asked, if that is why."""
    try:
        if isinstance(error, (StoreSchemaError, PreflightError, MissingRowError)):
            raise error
        await at.way.check(at.connections, at.migration)
    except StoreSchemaError as refused:
        await _refuse(at, asked, PreflightError([str(refused)]))
    except (PreflightError, MissingRowError) as refused:
        await _refuse(at, asked, refused)


async def _refuse(at: Stretch, asked: CutoverRequest, error: MigrationError) -> None:
    described = failures.describe(error)
    if not asked.rehearsal:
        telemetry.cutover_ended(at.migration, error.code)
        changes.announce("cutover", at.migration, details=described)
    await at.connections.migrations.answer(at.migration.id, asked, described)


async def _keep_a_way_back(at: Stretch, seen: Seen | None) -> None:
    config = at.migration.config
    if at.connections.source.layout is not None:
        why_not: str | None = way_back.OWN_TABLES_ONLY
    else:
        why_not = await way_back.keep(at.connections, at.migration, at.lease.owner, seen)
    if why_not is None or not config.keep_way_back:
        return
    if config.require_way_back:
        raise PreflightError([way_back.required(why_not)])
    if at.connections.source.layout is None:
        await at.connections.migrations.audit(at.migration.id, "way_back:none", {"reason": why_not})


async def _end_cutover(
    at: Stretch, asked: CutoverRequest, result: CutoverResult, decided: decision.Decision
) -> None:
    migrations = at.connections.migrations
    await at.way.opened(at.connections, at.migration, decided)
    telemetry.cutover_ended(at.migration, failures.OK, result.pause_ms)
    await decision.finish(
        migrations, at.migration, decided, result.pause_ms, result.longest_wait_ms
    )
    await migrations.answer(at.migration.id, asked, {"code": failures.OK})
    await failpoints.reach("flip.answer.committed")
    await migrations.audit(at.migration.id, "cutover", result.figures())
    if at.migration.returns is not None:
        await way_back.settle(at.connections)
    await at.way.tidy(at.connections, at.migration)


async def _end_rehearsal(at: Stretch, asked: CutoverRequest, result: CutoverResult) -> None:
    """The fence is open again and nothing was decided: passes go on from the snapshot before."""
    await at.to(MigrationState.DUAL_WRITE, {"rehearsal": True})
    await failpoints.reach("rehearsal.ended.committed")
    outcome = {"code": failures.OK, "budget_seconds": asked.budget_seconds, **result.figures()}
    await at.connections.migrations.answer(at.migration.id, asked, outcome)
    # The last pass has lifted the limit of the session.
    await at.reopen_passes()


async def _enter(at: Stretch, asked: CutoverRequest) -> bool:
    """False when the request was withdrawn: its wave was stopped meanwhile."""
    if asked.rehearsal:
        await at.to(MigrationState.CUTOVER_PAUSED, {"rehearsal": True})
        return True
    try:
        await at.to(MigrationState.CUTOVER_PAUSED, request=asked.id)
    except InvalidStateTransitionError:
        now = await at.heartbeat.refresh(at.connections.migrations)
        if now.state is MigrationState.DUAL_WRITE and now.cutover_request != asked.id:
            return False
        raise
    return True


async def _ready(at: Stretch, passes: Passes, asked: CutoverRequest) -> Cutover:
    fence = await fences.of_migration(at.connections.source, at.migration.id, "source")
    if fence is None:
        raise MissingRowError(
            "the fence at the source is not there: check that the dsn leads to the database"
            " where the migration began; if the row was removed by hand, abort the migration"
        )
    cutover: Cutover = await at.way.cutover(at.connections, at.migration, passes, fence, asked)
    return cutover


async def _somebody_stops_it(at: Stretch) -> bool:
    asked = await at.heartbeat.refresh(at.connections.migrations)
    return asked.pause_requested or asked.abort_requested is not None


def short_pass(budget: float, elapsed: float) -> float:
    """How long a pass of a return may take (seconds) so that the next one may be the fenced one.

    Writers that are heavy enough keep every pass long, and do not under the fence. So the longer
    they have done it (``elapsed`` seconds), the more of the budget is risked, up to a half: a
    section that does not fit is rolled back, and the tenant goes on.
    """
    share = min(1 / 8 + elapsed / 80, 1 / 2)
    return min(0.3, budget * share) if elapsed < 5 else budget * share


async def _shrink_the_lag(
    at: Stretch, passes: Passes, asked: CutoverRequest, seconds: float
) -> bool:
    """Catch up until a pass is small: what is left then fits under the fence.

    False when asked to stop meanwhile.

    Raises:
        CutoverTimeoutError: the lag is not small after so many seconds.
    """
    small = at.migration.config.sync_lag_threshold
    began, left = time.monotonic(), 0
    loop = asyncio.get_running_loop()
    async with waits.waiting(
        f"for the lag to shrink to {counted(small, 'event')}", f"given up after {seconds:.0f} s"
    ) as wait:
        late = loop.call_later(seconds, passes.session.request_stop)
        try:
            while (elapsed := time.monotonic() - began) < seconds:
                with at.heartbeat.attending(passes.session):
                    result = await passes.catch_up()
                if result is None:
                    break
                left = result.inserted
                # Nothing mirrors a return: what is left is what is appended during a pass.
                most = short_pass(asked.budget_seconds, elapsed)
                quick = at.migration.returns is not None and result.seconds < most
                if quick or (left <= small and result.seconds < 1):
                    return True
                await wait.goes_on()
        finally:
            late.cancel()
    if await _somebody_stops_it(at):
        return False
    elapsed = time.monotonic() - began
    raise CutoverTimeoutError(
        asked.budget_seconds,
        reason=(
            f"the cutover was given up before the fence: after {elapsed:.0f} s a pass still"
            f" found {counted(left, 'new event')}, and not the {small:,} of sync_lag_threshold; the"
            " tenant writes faster than the target takes its events, ask again when it writes"
            " less"
        ),
    )
