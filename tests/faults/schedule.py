"""What happens in one run of the torture, derived from its seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsource.failpoints import FAILPOINTS

SERVERS = ("source", "target", "control")


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens, ``after`` seconds after the one before.

    ``what`` is drive, kill, freeze, crash, kill_writer, freeze_writer or ask; ``which`` chooses
    among the processes or servers there are; ``seconds`` is how long something stays frozen or
    down. A driver takes ``steps`` with ``armed`` failpoints.
    """

    what: str
    after: float
    which: int = 0
    seconds: float = 0.0
    steps: tuple[str, ...] = ()
    armed: str = ""

    def __str__(self) -> str:
        match self.what:
            case "drive" | "ask":
                told = f"{','.join(self.steps)} {self.armed}".strip()
            case "crash":
                told = f"{SERVERS[self.which % 3]} for {self.seconds:.2f} s"
            case "freeze" | "freeze_writer":
                told = f"#{self.which} for {self.seconds:.2f} s"
            case _:
                told = f"#{self.which}"
        return f"+{self.after:.2f} {self.what} {told}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run: a tenant with a past, writers, a migration and what befalls it.

    ``end`` is what the operator wants who comes last; ``frozen_on`` says that what is frozen then
    is thawed only after the end.
    """

    seed: int
    tenant: UUID
    bystander: UUID
    past: int
    config: dict[str, Any]
    writers: tuple[dict[str, Any], ...]
    acts: tuple[Act, ...]
    end: str
    frozen_on: bool

    def __str__(self) -> str:
        acts = "; ".join(str(act) for act in self.acts)
        return f"seed {self.seed}: {len(self.writers)} writers, {acts}; end {self.end}"


def derive(seed: int) -> Schedule:
    """The same schedule for the same seed."""
    rng = random.Random(f"torture/{seed}")
    end = "abort" if rng.random() < 0.2 else "cutover"
    steps = _first_steps(rng)
    acts = [Act("drive", 0.0, steps=steps, armed=_armed(rng, steps))]
    acts += [_act(rng, end) for _ in range(rng.randint(1, 5))]
    return Schedule(
        seed=seed,
        tenant=UUID(int=rng.getrandbits(128), version=4),
        bystander=UUID(int=rng.getrandbits(128), version=4),
        past=rng.choice((0, 40, 150, 400)),
        config={
            "batch_size": rng.choice((1, 2, 5, 50)),
            "sync_lag_threshold": rng.choice((0, 5, 100)),
            "cutover_timeout_seconds": rng.choice((0.3, 0.6, 1.0, 2.0)),
            "verification_level": rng.choice(("count", "hash", "full")),
            "mirror_writes": rng.random() < 0.75,
            "pass_interval_seconds": rng.choice((0.01, 0.05, 0.2)),
            "max_events_per_second": rng.choice((None, None, 500.0, 2000.0)),
            "lease_seconds": 1.0,
        },
        writers=tuple(_writer(rng, number) for number in range(rng.randint(1, 3))),
        acts=tuple(acts),
        end=end,
        frozen_on=rng.random() < 0.3,
    )


def _first_steps(rng: random.Random) -> tuple[str, ...]:
    then = rng.choice(
        (
            *[("cutover", "subscriptions")] * 4,
            ("pause", "resume", "cutover", "subscriptions"),
            ("pause", "resume", "cutover", "subscriptions"),
            ("abort",),
        )
    )
    return ("start", *(("follow",) if rng.random() < 0.6 else ()), *then)


def _armed(rng: random.Random, steps: Sequence[str]) -> str:
    """Nothing, or one or two failpoints that lie on the way."""
    elsewhere = {"load", *({"abort", "pause", "resume"} - {*steps})}
    near = [name for name in FAILPOINTS if name.partition(".")[0] not in elsewhere]
    armed = {}
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        actions = ("kill", "kill", "freeze", "error", "lose")
        armed[rng.choice(near)] = f"{rng.choice(actions)}@{rng.choice((1, 1, 1, 1, 2))}"
    return ";".join(f"{name}={action}" for name, action in armed.items())


def _act(rng: random.Random, end: str) -> Act:
    what = rng.choice(
        ("drive", "drive", "drive", "kill", "kill", "freeze", "crash", "kill_writer",
         "freeze_writer", "ask", "ask")
    )  # fmt: skip
    after, which = rng.choice((0.0, 0.1, 0.5, 1.0)) * rng.random() * 2, rng.randrange(100)
    if what == "drive":
        return Act(what, after, steps=("settle",), armed=_armed(rng, [end, "resume"]))
    if what == "ask":
        return Act(what, after, steps=(rng.choice(("pause", "resume", "abort", "cutover")),))
    return Act(what, after, which, seconds=rng.choice((0.1, 0.4, 1.2)) * (0.5 + rng.random()))


def _writer(rng: random.Random, number: int) -> dict[str, Any]:
    return {
        "name": f"writer-{number}",
        "seed": rng.getrandbits(32),
        "tasks": rng.randint(1, 4),
        "appends_per_second": rng.choice((5.0, 10.0, 20.0)),
        "max_events": rng.randint(1, 6),
        "expect_any": rng.choice((0.0, 0.1, 0.5)),
        "slow_commits": rng.choice((0.0, 0.0, 0.05)),
        "slow_commit_seconds": rng.choice((0.05, 0.2)),
        "isolation": rng.choice(("read committed",) * 4 + ("repeatable read", "serializable")),
        "replica_role": rng.random() < 0.1,
        # One that never heard of a migration; the first always follows its tenant.
        "frozen": number > 0 and rng.random() < 0.2,
    }
