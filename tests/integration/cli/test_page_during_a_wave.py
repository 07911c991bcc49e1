"""The page on a telephone while a wave runs: as it changes, by keyboard, with each pause."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import PROGRAM, Tab, browser
from tests.support.command_line import DEDICATED, CommandLine
from tests.support.fleet_page import served
from tests.support.fleet_worker import FleetWorker

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")

WIDTH, HEIGHT = 360, 800

#: So slow that the larger tenant is under way for a while.
_SLOW = "batch_size = 10\nmax_events_per_second = 25\n"

_COPIED = "[...document.querySelectorAll('.moving td')].filter(c => c.dataset.label === 'copied')"


@pytest.fixture
def wave(cli: CommandLine) -> CommandLine:
    """A tenant of 120 events, then one of 1,200."""
    cli.write_config(defaults=_SLOW)
    cli("init")
    cli.seed(1200)
    cli("fleet", "plan", "night", "--largest", 2, "--order", "smallest", "--to", DEDICATED)
    cli("fleet", "start", "night")
    return cli


def focused(tab: Tab) -> str:
    """What has the focus: its id, or else its text."""
    return str(tab.value("document.activeElement.id || document.activeElement.textContent"))


@pytest.mark.timeout(600)
def test_a_wave_is_followed_on_a_telephone_and_by_keyboard(
    wave: CommandLine, tmp_path: Path
) -> None:
    with (
        served(wave) as opened,
        FleetWorker(wave.config, "worker"),
        browser(tmp_path) as tab,
    ):
        tab.open(f"http://localhost:{opened.port}/", WIDTH, HEIGHT)
        tab.until("document.readyState === 'complete' && byId('connection').textContent === 'live'")
        # It changes by itself, by what the server sends.
        first = tab.until(f"({_COPIED})[0]?.textContent")
        tab.until(f"({_COPIED})[0]?.textContent && ({_COPIED})[0].textContent !== {first!r}")
        pause = tab.until(
            "[...document.querySelectorAll('.arrived tr')].find("
            f"row => row.dataset.key === '{wave.other}')?.querySelector('[data-label=pause]')"
            "?.textContent"
        )
        assert float(str(pause).removesuffix(" ms")) > 0
        assert tab.value("innerWidth") == WIDTH
        assert tab.value("document.documentElement.scrollWidth") <= WIDTH
        _by_keyboard(tab, str(wave.tenant))
        tab.picture(tmp_path / "page.png")


def _by_keyboard(tab: Tab, tenant: str) -> None:
    tab.value("document.body.focus()")
    seen = []
    for _ in range(4):
        tab.press("Tab")
        seen.append(focused(tab))
    assert seen == ["Skip to the moves", "tenant", "Show", tenant]
    # The row is written again each second, and keeps its elements.
    copied = tab.value(f"({_COPIED})[0].textContent")
    tab.until(f"({_COPIED})[0].textContent !== {copied!r}")
    assert focused(tab) == tenant
    tab.press("Enter")
    tab.until("!byId('history').hidden && !!byId('history-body').querySelector('table')")
    assert focused(tab) == "history-title"
    assert tenant in str(tab.value("byId('history-title').textContent"))
