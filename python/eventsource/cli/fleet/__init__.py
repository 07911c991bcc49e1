"""`fleet`: many tenants, planned together and carried by any number of machines."""

from __future__ import annotations

import typer

from eventsource.cli.fleet import page, plan, report, status, steer, work
from eventsource.cli.group import Verb

app = typer.Typer(no_args_is_help=True, help="Move many tenants, from any number of machines.")
app.command("plan", cls=Verb)(plan.plan)
app.command("start", cls=Verb)(steer.start)
app.command("work", cls=Verb)(work.work)
app.command("status", cls=Verb)(status.status)
app.command("stop", cls=Verb)(steer.stop)
app.command("resume", cls=Verb)(steer.resume)
app.command("retry", cls=Verb)(steer.retry)
app.command("report", cls=Verb)(report.report)
app.command("page", cls=Verb)(page.page)
