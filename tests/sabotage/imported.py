"""A plugin of pytest for the runs in the copy: what is tested is the copy, and who failed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import eventsource
from eventsource import _core
from tests.sabotage.tree import CORE, digest

_outcome: dict[str, list[str]] = {"ran": [], "failed": [], "errors": []}


def pytest_configure() -> None:
    """Refuse to test anything but the copy: that would say that nobody notices anything."""
    root = Path(os.environ["SABOTAGED_TREE"])
    for module in (eventsource, _core):
        if not Path(str(module.__file__)).is_relative_to(root):
            raise pytest.UsageError(f"{module.__file__} is not in {root}")
    if digest(root / CORE) != os.environ["SABOTAGED_CORE"]:
        raise pytest.UsageError("the extension module is not the one that was built")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _outcome["ran"].append(report.nodeid)
    if report.failed:
        # A test that falls over before it begins has noticed nothing.
        _outcome["errors" if report.when == "setup" else "failed"].append(report.nodeid)
    # At once: a test that failed because something hangs may hang again while it is torn down.
    Path(os.environ["SABOTAGE_REPORT"]).write_text(json.dumps(_outcome))
