"""What preflight saw, and how a check that fails or never answers becomes a finding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from eventsource.connections import redact
from eventsource.errors import ConnectionDetailsError, StoreSchemaError
from eventsource.migration.errors import PreflightError


@dataclass(slots=True)
class Findings:
    """What preflight saw: problems refuse the move, warnings are shown."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    tenant_events: int | None = None

    @contextlib.contextmanager
    def unusable(self, what: str) -> Iterator[None]:
        """What keeps ``what`` from being used in the block is a problem, not an exception."""
        try:
            yield
        except PreflightError as error:
            self.problems.extend(error.problems)
        except (ConnectionDetailsError, StoreSchemaError) as error:
            self.problems.append(f"{what} cannot be used: {redact(str(error))}")
        except asyncpg.TooManyConnectionsError:
            raise  # it passes, and says nothing about the move
        # The last two come from a DSN that is none: a port out of range, a bracket left open.
        except (
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
            asyncpg.InternalClientError, ValueError,
            OverflowError,
        ) as error:  # fmt: skip
            self.problems.append(
                f"{what} cannot be used: {redact(str(error)) or type(error).__name__};"
                " check the DSN, user, password and privileges"
            )

    def raise_if_refused(self) -> None:
        """Raise PreflightError when there is a problem."""
        if self.problems:
            raise PreflightError(self.problems)


async def within(seconds: float, check: Callable[[], Awaitable[Any]]) -> None:
    """Run a check that must answer soon; a server that does not is a problem of its own."""
    try:
        async with asyncio.timeout(seconds):
            await check()
    except TimeoutError:
        raise PreflightError(
            [f"a server did not answer within {seconds:g} s; check host, port and firewall"]
        ) from None
