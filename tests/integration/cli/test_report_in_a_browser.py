"""The report as a browser shows it, where there is one: its content and its picture."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.support.command_line import DEDICATED, CommandLine

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

BROWSER = next(filter(None, map(shutil.which, _BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")

#: Asks the browser itself how large it has drawn the picture; the report's own rules forbid
#: scripts, so this is a copy without them.
_MEASURE = """<script>
const box = document.querySelector("svg").getBoundingClientRect();
document.body.dataset.width = box.width; document.body.dataset.height = box.height;
document.body.dataset.bars = [...document.querySelectorAll("svg rect")]
    .filter(each => each.getBoundingClientRect().width > 0).length;
</script>"""


def opened(page: Path, *options: str) -> str:
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--window-size=1100,1400", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.timeout(600)
def test_a_browser_shows_the_report_and_draws_its_picture(
    ready: CommandLine, tmp_path: Path
) -> None:
    done = ready.json("run", ready.tenant, "--to", DEDICATED, "--yes", "--rehearse")
    migration = done["migration"]
    page = tmp_path / "move.html"
    ready("report", migration["id"], "--html", str(page))
    shown = unescape(re.sub(r"<[^>]*>", "\n", opened(page, "--dump-dom")))
    for wanted in (
        f"Tenant {ready.tenant}: shared to dedicated", "400 of 400", "level hash", "1 of 1 fitted",
        "bulk_copy", "rehearsals", "the cutover", f"{migration['cutover_pause_ms']:.1f} ms",
        f"eventsource-migrate return {migration['id']}", "cutover_requested",
    ):  # fmt: skip
        assert wanted in shown, wanted

    measured = tmp_path / "measured.html"
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
    measured.write_text(text.replace("</body>", f"{_MEASURE}</body>"))
    body = re.search(r"<body[^>]*>", opened(measured, "--dump-dom"))
    assert body is not None
    size = {name: float(number) for name, number in re.findall(r'data-(\w+)="([\d.]+)"', body[0])}
    # The whole width of the text, and all of its height: the lens of the cutover as well.
    assert 900 <= size["width"] <= 1000
    assert size["height"] == pytest.approx(size["width"] * 284 / 900, rel=0.02)
    assert size["bars"] >= 5

    picture = tmp_path / "move.png"
    opened(page, f"--screenshot={picture}")
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (1100, 1400)
    # One colour alone would compress to next to nothing.
    assert picture.stat().st_size > 30_000
