"""The console command ``eventsource-migrate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventsource.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"]:
        # What scripts ask often does not wait for the libraries that a move needs.
        from eventsource import __version__

        print(__version__)
        return
    from eventsource.cli.application import app

    app(prog_name="eventsource-migrate")


def __getattr__(name: str) -> Any:
    if name == "app":
        from eventsource.cli.application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
