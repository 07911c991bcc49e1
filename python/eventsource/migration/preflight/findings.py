"""What preflight saw, and how a check that fails or never answers becomes a finding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from eventsource.catalog.findings import Finding
from eventsource.catalog.two_sides import Comparison
from eventsource.connections import in_a_sentence
from eventsource.errors import ConnectionDetailsError, StoreSchemaError
from eventsource.migration.errors import PreflightError
from eventsource.migration.failures import may_pass
from eventsource.remedies import remedy

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

T = TypeVar("T")

INIT = "run `eventsource-migrate init` or store.create_schema()"


@dataclass(slots=True)
class Findings:
    """What preflight saw: problems refuse the move, warnings are shown.

    Attributes:
        remarks: what may be gone again when the move begins, and is better known all the same.
        found: those problems and warnings that have a name of their own.
        columns: the columns that would be carried.
        filled: those that would not, with the reason.
        fires: triggers at the target that carried rows would set off.
        companions: tables beside the source that stay where they are.
        waits: of a layout: whose writers wait while the fence is held.
        connections: how many a copy takes at the target, and how many are free there.
        tables: source and target, as they were found; None where one of them was not.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    filled: tuple[tuple[str, str], ...] = ()
    fires: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    waits: str | None = None
    connections: tuple[int, int] | None = None
    #: Those of the problems that pass by themselves: databases that do not answer.
    passing: int = 0
    tenant_events: int | None = None
    tables: tuple[AnyTable, AnyTable] | None = None

    def note(self, *findings: Finding) -> None:
        """Add findings, as problems or as warnings."""
        for each in findings:
            self.found.append(each)
            (self.problems if each.refuses else self.warnings).append(str(each))

    def take(self, compared: Comparison, findings: Iterable[Finding]) -> None:
        """What two catalogs showed; ``findings`` are those of the comparison."""
        self.note(*findings)
        self.columns, self.filled, self.fires = compared.carried, compared.filled, compared.fires

    def add(self, other: Findings) -> None:
        """What another check has found besides."""
        self.problems += other.problems
        self.warnings += other.warnings
        self.remarks += other.remarks
        self.found += other.found
        self.passing += other.passing
        self.companions = self.companions or other.companions
        self.connections = self.connections or other.connections

    @contextlib.contextmanager
    def unusable(self, what: str) -> Iterator[None]:
        """What keeps ``what`` from being used in the block is a problem, not an exception."""
        try:
            yield
        except PreflightError as error:
            self.problems.extend(error.problems)
            self.passing += len(error.problems) if error.passes else 0
        except (ConnectionDetailsError, StoreSchemaError) as error:
            self.problems.append(f"{what} cannot be used: {in_a_sentence(error)}")
        except asyncpg.TooManyConnectionsError as error:
            error.add_note(what)
            raise  # it passes, and says nothing about the move
        # The last two come from a DSN that is none: a port out of range, a bracket left open.
        except (
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
            asyncpg.InternalClientError, ValueError,
            OverflowError,
        ) as error:  # fmt: skip
            self.passing += may_pass(error)
            what_to_do = remedy(error, "the DSN") or "check the DSN, user, password and privileges"
            said = in_a_sentence(error) or type(error).__name__
            if isinstance(error, asyncpg.InternalClientError):
                # Words about asyncpg's own states: a session was ended while it was used.
                said, what_to_do = "a session of ours was ended", "try again"
            self.problems.append(f"{what} cannot be used: {said}; {what_to_do}")

    def raise_if_refused(self) -> None:
        """Raise PreflightError when there is a problem."""
        if self.problems:
            raise PreflightError(
                self.problems,
                [each for each in self.found if each.refuses],
                passes=self.passing == len(self.problems),
            )


async def at_once(findings: Findings, *checks: Callable[[Findings], Awaitable[T]]) -> list[T]:
    """Run checks of different servers at the same time; what they find is added in their order."""
    parts = [Findings() for _ in checks]
    # All of them are waited for: one that went on would find things for nobody.
    results = await asyncio.gather(
        *(check(part) for check, part in zip(checks, parts, strict=True)), return_exceptions=True
    )
    for part in parts:
        findings.add(part)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
