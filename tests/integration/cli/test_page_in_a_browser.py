"""The page as a browser shows it, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from html import unescape

import pytest

from tests.support.command_line import DEDICATED, CommandLine
from tests.support.fleet_page import served

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

BROWSER = next(filter(None, map(shutil.which, _BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")

#: How much time the page is given by its own clock (milliseconds), and how often it is opened.
READ_AFTER, TIMES = 8000, 6


def shown(port: int, where: str, wanted: str) -> str:
    """The page's elements as the browser made them, once the wanted text is among them."""
    assert BROWSER is not None
    page = ""
    for _ in range(TIMES):
        done = subprocess.run(
            [
                BROWSER, "--headless", "--no-sandbox", "--disable-gpu",
                f"--timeout={READ_AFTER}", f"--virtual-time-budget={READ_AFTER}", "--dump-dom", f"http://localhost:{port}/?once{where}",
            ],
            capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        page = done.stdout
        if wanted in page:
            return page
        time.sleep(0.5)
    raise AssertionError(page)


@pytest.mark.timeout(600)
def test_a_browser_shows_waves_moves_and_the_history_of_a_tenant(ready: CommandLine) -> None:
    ready("fleet", "plan", "night", "--largest", 2, "--to", DEDICATED)
    ready("fleet", "start", "night")
    ready("run", ready.other, "--to", DEDICATED)
    ready.sql(
        "control",
        "update migration_wave_items set outcome = 'held', error_code = 'x',"
        " error_message = '<img src=x onerror=alert(1)>' where ordinal = 1",
    )
    ready("fleet", "stop", "night", "--reason", "<b>lunch</b>")
    with served(ready) as opened:
        page = shown(opened.port, "", "Did not move")
        assert "≈ catching up" in page
        assert re.search(r">Stopped by \S+: &lt;b&gt;lunch&lt;/b&gt;<", page)
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert "<img" not in page
        assert 'href="#tenant/' in page
        # For those who see no colour: the state is a word, the phase has a sign.
        assert ">stopped</span>" in page
        history = unescape(shown(opened.port, f"#tenant/{ready.other}", "state:dual_write"))
        assert f"History of tenant {ready.other}" in history
