"""The page as a browser shows it, where there is one: on a telephone, and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from tests.support.browser import PROGRAM, Tab, browser
from tests.support.command_line import DEDICATED, CommandLine
from tests.support.fleet_page import served
from tests.support.fleet_worker import FleetWorker

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")

WIDTH, HEIGHT = 360, 800

#: So slow that the larger tenant is under way until the test ends.
_SLOW = "batch_size = 10\nmax_events_per_second = 25\n"

_COPIED = "[...document.querySelectorAll('.moving td')].filter(c => c.dataset.label === 'copied')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One browser for all: to start one takes longer than what it is asked."""
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def wave(cli: CommandLine) -> CommandLine:
    """A tenant of a few events, then one of 1,500."""
    cli.write_config(defaults=_SLOW)
    cli("init")
    cli.seed(1500)
    cli.sql("source", "delete from events where tenant_id = $1 and version > 1", cli.other)
    cli("fleet", "plan", "night", "--largest", 2, "--order", "smallest", "--to", DEDICATED)
    cli("fleet", "start", "night")
    return cli


def focused(tab: Tab) -> str:
    """What has the focus: its id, or else its text."""
    return str(tab.value("document.activeElement.id || document.activeElement.textContent"))


@pytest.mark.timeout(600)
def test_a_wave_is_followed_on_a_telephone_and_by_keyboard(
    wave: CommandLine, tab: Tab, tmp_path: Path
) -> None:
    with served(wave) as opened, FleetWorker(wave.config, "worker"):
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


@pytest.mark.timeout(600)
def test_it_shows_waves_moves_and_the_history_of_a_tenant(ready: CommandLine, tab: Tab) -> None:
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
        where = f"http://localhost:{opened.port}/?once"
        page = _shown(tab, where, "Did not move")
        assert "≈ catching up" in page
        assert re.search(r">Stopped by \S+: &lt;b&gt;lunch&lt;/b&gt;<", page)
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert "<img" not in page
        assert 'href="#tenant/' in page
        # For those who see no colour: the state is a word, the phase has a sign.
        assert ">stopped</span>" in page
        # A name may have anything in it that an address has.
        odd = f"a/b?c#d%41 é {ready.other}"
        ready.sql(
            "control",
            "update tenant_migrations set tenant_id = $1 where tenant_id = $2",
            odd, str(ready.other),
        )  # fmt: skip
        link = f"encodeURIComponent({odd!r})"
        address = f"{where}#tenant/{tab.value(link)}"
        history = unescape(_shown(tab, address, "state:dual_write"))
        assert f"History of tenant {odd}" in history


def _shown(tab: Tab, address: str, wanted: str) -> str:
    """The page's elements as the browser made them, once the wanted text is among them."""
    tab.open(address, WIDTH, HEIGHT)
    tab.until(f"document.body?.innerText.includes({wanted!r})")
    return str(tab.value("document.documentElement.outerHTML"))
