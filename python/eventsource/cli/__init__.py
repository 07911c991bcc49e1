"""The console command ``eventsource-migrate``."""

from eventsource.cli.app import app, main

__all__ = ["app", "main"]
