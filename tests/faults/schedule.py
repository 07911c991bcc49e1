"""What happens in one run of the torture, derived from its seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from eventsource.failpoints import FAILPOINTS

SERVERS = ("source", "target", "control")


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that happens, ``after`` seconds after the one before.

    ``what`` is drive, kill, freeze, crash, kill_writer, freeze_writer, ask, lock_out or
    misconfigure; ``which`` chooses among the processes or servers there are; ``seconds`` is how
    long something stays frozen, down or wrong. A driver takes ``steps`` with ``armed`` failpoints.
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
            case "crash" | "lock_out":
                told = f"{SERVERS[self.which % 3]} for {self.seconds:.2f} s"
            case "freeze" | "freeze_writer" | "misconfigure":
                told = f"#{self.which} for {self.seconds:.2f} s"
            case _:
                told = f"#{self.which}"
        return f"+{self.after:.2f} {self.what} {told}"


@dataclass(frozen=True, slots=True)
class Part:
    """What is asked for once the tenant has moved: return, close or cleanup.

    ``armed`` failpoints act in the process that is asked; after ``killed_after`` seconds it is
    killed, unless that is None. Then another process brings this part to its end.
    """

    step: str
    armed: str
    killed_after: float | None

    def __str__(self) -> str:
        killed = "" if self.killed_after is None else f" killed after {self.killed_after:.2f} s"
        return f"{self.step} {self.armed}".strip() + killed


@dataclass(frozen=True, slots=True)
class Strike:
    """Databases go back: to how they were before act ``back_to``, when act ``at`` would come."""

    sides: tuple[str, ...]
    how: Literal["restored", "failed over"]
    back_to: int
    at: int

    def __str__(self) -> str:
        return f"{'+'.join(self.sides)} {self.how} at {self.at} to {self.back_to}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run: a tenant with a past, writers, a migration and what befalls it.

    ``end`` is what the operator wants who comes last; ``frozen_on`` says that what is frozen then
    is thawed only after the end. ``then`` is what follows where the tenant has moved.
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
    then: tuple[Part, ...] = ()
    strike: Strike | None = None

    def __str__(self) -> str:
        acts = "; ".join(str(act) for act in self.acts)
        struck = f", {self.strike}" if self.strike else ""
        then = "".join(f", then {part}" for part in self.then)
        return (
            f"seed {self.seed}: {len(self.writers)} writers, {acts}; end {self.end}{then}{struck}"
        )


def derive(seed: int) -> Schedule:
    """The same schedule for the same seed."""
    plan = _undisturbed(seed)
    if random.Random(f"torture/{seed}/mapping").random() < 0.25:
        plan = replace(plan, config={**plan.config, "position_mapping": "offset"})
    rng = random.Random(f"torture/{seed}/strike")
    return _struck(rng, plan) if rng.random() < 0.2 else plan


def _struck(rng: random.Random, plan: Schedule) -> Schedule:
    """With a database that goes back, a way back in every other one. Nobody ignores the operator:
    a process of another version would append wherever the restored database lets it.
    """
    sides = rng.choice(
        (("source",), ("target",), ("control",), ("source", "control"), ("target", "control"))
    )
    how: Literal["restored", "failed over"] = "restored"
    if len(sides) == 1 and rng.random() < 0.4:
        how = "failed over"
    at = rng.randint(1, len(plan.acts))
    strike = Strike(sides, how, rng.randint(0, at - 1), at)
    return replace(
        plan,
        config=plan.config if rng.random() < 0.5 else {**plan.config, "keep_way_back": 0.0},
        writers=tuple({**writer, "frozen": False} for writer in plan.writers),
        then=(),
        strike=strike,
    )


def _undisturbed(seed: int) -> Schedule:
    rng = random.Random(f"torture/{seed}")
    end = "abort" if rng.random() < 0.2 else "cutover"
    steps = _first_steps(rng)
    acts = [Act("drive", 0.0, steps=steps, armed=_armed(rng, steps))]
    acts += [_act(rng, end) for _ in range(rng.randint(1, 5))]
    # A source of its own: what came later does not change what a seed was before.
    more = random.Random(f"torture/{seed}/more")
    for act in _wrong_ones(more):
        acts.insert(more.randint(1, len(acts)), act)
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
        then=_then(more) if end == "cutover" else (),
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


def _wrong_ones(rng: random.Random) -> list[Act]:
    """A password that is wrong for seconds, and a process that has another store in its place."""
    acts = []
    if rng.random() < 0.3:
        acts.append(Act("lock_out", rng.random(), rng.randrange(3), seconds=0.3 + 2 * rng.random()))
    if rng.random() < 0.25:
        acts.append(Act("misconfigure", rng.random(), seconds=1 + 2 * rng.random()))
    return acts


#: First words of the failpoints that lie on a part.
_ON = {
    "return": {"lease", "keep", "pass", "cutover", "flip", "recovery", "subscriptions"},
    "close": {"close"},
    "cleanup": {"cleanup"},
}


def _then(rng: random.Random) -> tuple[Part, ...]:
    """Nothing, a few returns, or the end of the way back and perhaps the old rows' too."""
    steps = rng.choice(
        (
            [], [], ["return"], ["return"], ["return"] * 2, ["return"] * 3, ["close"],
            ["close", "cleanup"], ["return", "close"],
        )
    )  # fmt: skip
    return tuple(_part(rng, step) for step in steps)


def _part(rng: random.Random, step: str) -> Part:
    near = [name for name in FAILPOINTS if name.partition(".")[0] in _ON[step]]
    armed = ""
    if rng.random() < 0.6:
        action = rng.choice(("kill", "kill", "freeze", "error", "lose"))
        armed = f"{rng.choice(near)}={action}@{rng.choice((1, 1, 2))}"
    killed = rng.random() * 1.5 if rng.random() < 0.3 else None
    return Part(step, armed, killed)


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
