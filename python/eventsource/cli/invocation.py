"""How a command runs: options that all of them share, one event loop, errors as exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from eventsource.cli.config import Settings, load
from eventsource.cli.exits import EXPECTED, ExitCode, code_of, exit_code_of, message_of
from eventsource.cli.output import Output, OutputClosedError
from eventsource.cli.workspace import Workspace
from eventsource.migration.errors import ConsistencyError, PreflightError

#: Shared options with a value, and those without one.
_WITH_VALUE = ("--config", "--set", "--operator")
_FLAGS = ("--json",)


class SharedOptionsGroup(TyperGroup):
    """Lets the shared options stand anywhere: `status --json` is `--json status`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _shared_first(args))


def _shared_first(args: list[str]) -> list[str]:
    shared: list[str] = []
    others: list[str] = []
    following = iter(args)
    for arg in following:
        if arg == "--":
            others += [arg, *following]
        elif arg in _FLAGS or arg.startswith(tuple(f"{name}=" for name in _WITH_VALUE)):
            shared.append(arg)
        elif arg in _WITH_VALUE:
            shared.append(arg)
            shared.extend(value for value in [next(following, None)] if value is not None)
        else:
            others.append(arg)
    return shared + others


@dataclass(slots=True)
class Invocation:
    """The shared options of one call, and where it prints."""

    out: Output
    config: Path | None = None
    overrides: list[str] = field(default_factory=list)
    operator: str = ""

    def settings(self) -> Settings:
        """The configuration, or ConfigError."""
        return load(self.config, self.overrides)


def invocation_of(ctx: typer.Context) -> Invocation:
    """The shared options, put into the context by the application's callback."""
    found = ctx.find_object(Invocation)
    assert found is not None
    return found


def default_operator() -> str:
    """The account that runs the command, as the audit log names it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def perform(
    ctx: typer.Context,
    verb: Callable[[Workspace], Awaitable[ExitCode | None]],
    *,
    interrupted: Callable[[], str] | None = None,
    endless: bool = False,
) -> None:
    """Open the workspace, run the verb in it and exit as it says.

    Args:
        interrupted: what to say after Ctrl-C or SIGTERM: how to go on.
        endless: a signal is how it ends when all is well, with exit code 0.
    """
    invocation = invocation_of(ctx)

    async def within_workspace() -> ExitCode | None:
        settings = invocation.settings()
        async with Workspace.open(settings, invocation.out, invocation.operator) as workspace:
            return await verb(workspace)

    run(invocation, within_workspace, interrupted=interrupted, endless=endless)


def run(
    invocation: Invocation,
    work: Callable[[], Coroutine[Any, Any, ExitCode | None]],
    *,
    interrupted: Callable[[], str] | None = None,
    endless: bool = False,
) -> None:
    """Run ``work`` in an event loop; expected errors become one line and an exit code."""
    out = invocation.out
    received: list[int] = []
    try:
        exit_code = asyncio.run(_main(work, received)) or ExitCode.DONE
    except (KeyboardInterrupt, asyncio.CancelledError):
        message = interrupted() if interrupted else "interrupted"
        if endless:
            exit_code = ExitCode.DONE
            out.say(message)
        else:
            exit_code = ExitCode.TERMINATED if received else ExitCode.INTERRUPTED
            out.fail("interrupted", message, exit_code)
    except OutputClosedError as error:
        # `run | head`, a full disk, a terminal that is gone: what was under way stays as it is.
        exit_code = ExitCode.FAILED
        out.close()
        said = f"; {interrupted()}" if interrupted else ""
        out.fail("output", f"{error}{said}", exit_code)
    except EXPECTED as error:
        exit_code = exit_code_of(error)
        out.fail(code_of(error), message_of(error), exit_code, **_details(error))
    raise typer.Exit(exit_code)


async def _main(
    work: Callable[[], Coroutine[Any, Any, ExitCode | None]], received: list[int]
) -> ExitCode | None:
    """SIGTERM and SIGHUP end the work as Ctrl-C does: the lease is given back.

    Under `nohup` SIGHUP is ignored, and stays so.
    """
    this = asyncio.current_task()
    assert this is not None

    def terminate(signum: int) -> None:
        received.append(signum)
        this.cancel()

    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(signum, terminate, signum)
    return await work()


def _details(error: BaseException) -> dict[str, object]:
    if isinstance(error, PreflightError):
        return {"problems": error.problems, "findings": error.findings}
    if isinstance(error, ConsistencyError) and error.report is not None:
        return {"report": error.report}
    return {}
