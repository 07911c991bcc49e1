"""The application: its verbs, and the options that they share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from eventsource.cli.group import SharedOptionsGroup

#: Where each verb is, in the order of the help.
PLACES = {
    "init": "eventsource.cli.init:init",
    "tenants": "eventsource.cli.sizes:tenants",
    "plan": "eventsource.cli.plan:plan",
    "layouts": "eventsource.cli.layouts:layouts",
    "run": "eventsource.cli.run:run",
    "move": "eventsource.cli.move:move",
    "start": "eventsource.cli.steer:start",
    "work": "eventsource.cli.work:work",
    "status": "eventsource.cli.show:status",
    "list": "eventsource.cli.listing:list_migrations",
    "lag": "eventsource.cli.show:lag",
    "routers": "eventsource.cli.routers:routers",
    "verify": "eventsource.cli.verify:verify",
    "cutover": "eventsource.cli.cutover:cutover",
    "pause": "eventsource.cli.steer:pause",
    "resume": "eventsource.cli.steer:resume",
    "throttle": "eventsource.cli.steer:throttle",
    "abort": "eventsource.cli.steer:abort",
    "repair": "eventsource.cli.recover:repair",
    "rebind": "eventsource.cli.recover:rebind",
    "audit": "eventsource.cli.audit:audit",
    "report": "eventsource.cli.report.command:report",
    "return": "eventsource.cli.way_back:return_",
    "way-back": "eventsource.cli.way_back:app",
    "cleanup": "eventsource.cli.cleanup:cleanup",
    "subscriptions": "eventsource.cli.subscriptions:app",
    "fleet": "eventsource.cli.fleet:app",
    "demo": "eventsource.cli.demo.command:demo",
}


class LogFormat(StrEnum):
    """How the lines of the log look."""

    TEXT = "text"
    JSON = "json"


class _Verbs(SharedOptionsGroup):
    places = PLACES


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="Move a tenant's event streams to another PostgreSQL store while it is in use.",
    epilog=(
        "The options above may stand anywhere in a command. A first move: init, plan TENANT --to "
        "STORE, run TENANT --to STORE. Exit codes: 0 done, 1 failed, 2 usage, "
        "3 preflight refused, 4 inconsistent, 5 cutover timed out, 75 try again, 130 interrupted."
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        from eventsource import __version__

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
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose", "-v", count=True, help="Print the log to standard error; -vv all of it."
        ),
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the result only, and what went wrong.")
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", envvar="EVENTSOURCE_LOG_FORMAT", help="Lines of the log."),
    ] = LogFormat.TEXT,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print and exit.")
    ] = False,
) -> None:
    from eventsource.cli import invocation

    ctx.obj = invocation.begin(
        config, overrides or [], operator, as_json=as_json, quiet=quiet,
        verbosity=verbose, json_log=log_format is LogFormat.JSON,
    )  # fmt: skip
