"""What happens in one run, derived from its seed and the library's name alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.faults.schedule import Act

#: The moments that lie on the way of a layout's tables. A list of its own: a new failpoint
#: elsewhere does not change what a seed means.
MOMENTS = (
    "preflight.passed", "start.committed", "lease.committed", "guard.target.row.committed",
    "guard.target.reserved", "guard.target.triggers.committed", "guard.source.row.committed",
    "guard.source.triggers.committed", "guard.progress.committed", "snapshot.taken",
    "snapshot.barrier.committed", "snapshot.stored.committed", "journal.transition",
    "bulk.entered.committed", "bulk.copied", "bulk.completed.committed", "follow.entered.committed",
    "pass.completed.committed", "layout.chunk.read", "layout.chunk.written",
    "layout.chunk.committed", "layout.exact.read", "layout.exact.written",
    "layout.exact.committed", "layout.portion.written", "layout.flip.committed",
    "pause.committed", "resume.committed", "cutover.verified", "cutover.entered.committed",
    "cutover.pass.committed", "cutover.fence.wait", "cutover.fence.held",
    "cutover.barrier.committed", "cutover.decision.before", "cutover.decision.sent",
    "cutover.decision.committed", "flip.target.before", "flip.target.committed",
    "flip.journal.committed", "flip.route.committed", "flip.answer.committed",
    "flip.arrival.dropped", "recovery.claimed.committed", "recovery.lock.held",
    "recovery.decided", "abort.decided", "abort.guard.dropped", "abort.guard.committed",
    "abort.claimed.committed", "abort.begun.committed", "layout.abort.committed",
    "abort.rows.committed", "abort.target.committed", "abort.progress.committed",
    "abort.barrier.committed", "abort.state.committed",
)  # fmt: skip

#: Moments that come where somebody asks for them alone.
_ASKED_FOR = {"abort", "pause", "resume"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run.

    Attributes:
        past: appends before the start.
        in_use: another tenant lives at the target already.
        sizes: ``exact_keys`` up to which a pass is exact, and ``portion`` of a large one.
        end: what the last operator wants.
        frozen_on: what is frozen then is thawed only after the end.
        begun: the first driver has begun the move before anything else happens.
    """

    preset: str
    seed: int
    past: int
    in_use: bool
    config: dict[str, Any]
    sizes: dict[str, int]
    writers: tuple[dict[str, Any], ...]
    acts: tuple[Act, ...]
    end: str
    frozen_on: bool
    begun: bool

    def __str__(self) -> str:
        acts = "; ".join(str(act) for act in self.acts)
        return (
            f"{self.preset}, seed {self.seed}: {len(self.writers)} writers, {self.past} appends"
            f" before{', a target in use' if self.in_use else ''}, {self.sizes}; {acts};"
            f" {'begun, ' if self.begun else ''}end {self.end}"
        )


def derive(preset: str, seed: int) -> Schedule:
    """The same schedule for the same library and seed."""
    rng = random.Random(f"layouts/{preset}/{seed}")
    end = "abort" if rng.random() < 0.2 else "cutover"
    steps = _first_steps(rng)
    acts = [Act("drive", 0.0, steps=steps, armed=_armed(rng, {*steps}))]
    acts += [_act(rng, end) for _ in range(rng.randint(1, 5))]
    # Small steps are slow ones. With a journal for a few hundred keys besides, writers would fill
    # it again and again while the rows are carried again.
    batch = rng.choice((1, 2, 50))
    sizes = {"exact_keys": rng.choice((100, 1000, 5000)), "portion": rng.choice((20, 200, 5000))}
    is_quick = batch == 50 and sizes["portion"] == 5000
    room = 128 * 1024 if is_quick and rng.random() < 0.7 else 1024**3
    return Schedule(
        preset=preset,
        seed=seed,
        past=rng.choice((0, 20, 60, 150)),
        in_use=rng.random() < 0.4,
        config={
            "batch_size": batch,
            "sync_lag_threshold": rng.choice((5, 20, 100)),
            "cutover_timeout_seconds": rng.choice((0.3, 0.6, 1.0, 2.0)),
            "verification_level": rng.choice(("count", "hash", "full")),
            "pass_interval_seconds": rng.choice((0.01, 0.05, 0.2)),
            "journal_max_bytes": room,
            "lease_seconds": 1.0,
        },
        sizes=sizes,
        writers=tuple(_writer(rng, number) for number in range(rng.randint(1, 3))),
        acts=tuple(acts),
        end=end,
        frozen_on=rng.random() < 0.3,
        begun=rng.random() < 0.8,
    )


def _first_steps(rng: random.Random) -> tuple[str, ...]:
    then = rng.choice((*[("cutover",)] * 4, *[("pause", "resume", "cutover")] * 2, ("abort",)))
    return ("start", *(("follow",) if rng.random() < 0.6 else ()), *then)


def _armed(rng: random.Random, steps: set[str]) -> str:
    """Nothing, or one or two moments that lie on the way."""
    elsewhere = _ASKED_FOR - steps
    near = [name for name in MOMENTS if name.partition(".")[0] not in elsewhere]
    if "abort" in elsewhere:
        near.remove("layout.abort.committed")
    armed = {}
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        action = rng.choice(("kill", "kill", "freeze", "error", "lose"))
        armed[rng.choice(near)] = f"{action}@{rng.choice((1, 1, 1, 1, 2))}"
    return ";".join(f"{name}={action}" for name, action in armed.items())


def _act(rng: random.Random, end: str) -> Act:
    what = rng.choice(
        ("drive", "drive", "drive", "kill", "kill", "freeze", "crash", "kill_writer",
         "freeze_writer", "ask", "ask", "burst", "burst", "newcomer")
    )  # fmt: skip
    after, which = rng.choice((0.0, 0.1, 0.5, 1.0)) * rng.random() * 2, rng.randrange(100)
    if what == "drive":
        return Act(what, after, steps=("settle",), armed=_armed(rng, {end, "resume"}))
    if what == "ask":
        return Act(what, after, steps=(rng.choice(("pause", "resume", "abort", "cutover")),))
    return Act(what, after, which, seconds=rng.choice((0.1, 0.4, 1.2)) * (0.5 + rng.random()))


def _writer(rng: random.Random, number: int) -> dict[str, Any]:
    return {
        "name": f"writer-{number}",
        "seed": rng.getrandbits(32),
        "tasks": rng.randint(1, 3),
        "rest": rng.choice((0.05, 0.1, 0.2)),
        "most": rng.randint(1, 4),
        "changes": rng.choice((0.0, 0.1, 0.3)),
        "slow_commits": rng.choice((0.0, 0.0, 0.05)),
        "isolation": rng.choice(("read committed",) * 4 + ("repeatable read", "serializable")),
        "replica_role": rng.random() < 0.1,
        # One that never heard of a migration; the first always follows its tenant.
        "frozen": number > 0 and rng.random() < 0.2,
    }
