"""The application: its verbs, and the options that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventsource import __version__
from eventsource.cli import layouts, run, setup, show, steer, subscriptions, verify
from eventsource.cli.demo import command
from eventsource.cli.invocation import Invocation, SharedOptionsGroup, default_operator
from eventsource.cli.output import Output, OutputClosedError

app = typer.Typer(
    cls=SharedOptionsGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Move a tenant's event streams to another PostgreSQL store while it is in use.",
    epilog=(
        "The options above may stand anywhere in a command. Exit codes: 0 done, 1 failed, 2 usage, "
        "3 preflight refused, 4 inconsistent, 5 cutover timed out, 130 interrupted."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _shared(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="EVENTSOURCE_CONFIG",
            metavar="PATH",
            help="The configuration. [default: eventsource.toml]",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace an entry of it, such as defaults.batch_size=5000. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    operator: Annotated[
        str | None,
        typer.Option(
            "--operator",
            envvar="EVENTSOURCE_OPERATOR",
            metavar="NAME",
            help="Who asks, for the audit log. [default: the current account]",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print and exit.")
    ] = False,
) -> None:
    try:
        out = Output(as_json)
    except OutputClosedError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    ctx.obj = Invocation(
        out=out,
        config=config,
        overrides=overrides or [],
        operator=operator or default_operator(),
    )


app.command()(setup.init)
app.command()(setup.plan)
app.command()(layouts.layouts)
app.command()(run.run)
app.command()(steer.start)
app.command()(steer.work)
app.command()(show.status)
app.command("list")(show.list_migrations)
app.command()(show.lag)
app.command()(verify.verify)
app.command()(steer.cutover)
app.command()(steer.pause)
app.command()(steer.resume)
app.command()(steer.throttle)
app.command()(steer.abort)
app.command()(show.audit)
app.add_typer(subscriptions.app, name="subscriptions")
app.command()(command.demo)


def main() -> None:
    """Run the command line and exit with its code."""
    app(prog_name="eventsource-migrate")
