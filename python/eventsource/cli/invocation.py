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

from eventsource.cli import logs
from eventsource.cli.config import Settings, load
from eventsource.cli.exits import EXPECTED, ExitCode, code_of, exit_code_of, message_of
from eventsource.cli.files import OutputClosedError
from eventsource.cli.given_up import without_given_up_connections
from eventsource.cli.next_steps import after
from eventsource.cli.output import Output
from eventsource.cli.workspace import Workspace
from eventsource.migration import Migration
from eventsource.migration.errors import ConsistencyError, PreflightError


@dataclass(slots=True)
class Invocation:
    """The shared options of one call, where it prints, and which migration it was about."""

    out: Output
    config: Path | None = None
    overrides: list[str] = field(default_factory=list)
    operator: str = ""
    about: Migration | None = None

    def settings(self) -> Settings:
        """The configuration, or ConfigError."""
        return load(self.config, self.overrides)


def begin(
    config: Path | None,
    overrides: list[str],
    operator: str | None,
    *,
    as_json: bool,
    quiet: bool,
    verbosity: int,
    json_log: bool,
    is_named: bool,
) -> Invocation:
    """What the shared options say, ready for a verb; ``is_named``: the option says `config`."""
    try:
        out = Output(as_json, quiet=quiet, config=str(config) if is_named else None)
    except OutputClosedError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    logs.set_up(verbosity, as_json=json_log)
    return Invocation(out, config, overrides, operator or default_operator())


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
    with_steps: bool = False,
) -> None:
    """Open the workspace, run the verb in it and exit as it says.

    Args:
        interrupted: what to say after Ctrl-C or SIGTERM: how to go on.
        endless: a signal is how it ends when all is well, with exit code 0.
        with_steps: show what can be done next when it was interrupted.
    """
    invocation = invocation_of(ctx)

    async def within_workspace() -> ExitCode | None:
        settings = invocation.settings()
        async with Workspace.open(settings, invocation.out, invocation.operator) as workspace:
            try:
                return await verb(workspace)
            finally:
                invocation.about = workspace.about

    run(
        invocation, within_workspace,
        interrupted=interrupted, endless=endless, with_steps=with_steps,
    )  # fmt: skip


def perform_look(
    ctx: typer.Context, look: Callable[[Workspace], Awaitable[ExitCode | None]], *, watch: bool
) -> None:
    """Perform a verb that shows something, once or until somebody has seen enough."""
    perform(ctx, look, interrupted=(lambda: "stopped looking") if watch else None, endless=watch)


def run(
    invocation: Invocation,
    work: Callable[[], Coroutine[Any, Any, ExitCode | None]],
    *,
    interrupted: Callable[[], str] | None = None,
    endless: bool = False,
    with_steps: bool = False,
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
            steps = after(None, invocation.about)
            out.fail("interrupted", message, exit_code, steps, show_steps=with_steps)
    except OutputClosedError as error:
        # `run | head`, a full disk, a terminal that is gone: what was under way stays as it is.
        exit_code = ExitCode.FAILED
        if error.file is None:
            out.close()
        said = f"; {interrupted()}" if interrupted else ""
        steps = after(None, invocation.about)
        out.fail("output", f"{error}{said}", exit_code, steps, show_steps=with_steps)
    except EXPECTED as error:
        exit_code = exit_code_of(error)
        about = invocation.about
        out.fail(
            code_of(error), message_of(error), exit_code, after(error, about),
            show_steps=about is not None, **_details(error),
        )  # fmt: skip
    raise typer.Exit(exit_code)


async def _main(
    work: Callable[[], Coroutine[Any, Any, ExitCode | None]], received: list[int]
) -> ExitCode | None:
    """SIGTERM and SIGHUP end the work as Ctrl-C does: the lease is given back.

    Under `nohup` SIGHUP is ignored, and stays so.
    """
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().set_exception_handler(without_given_up_connections)

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
