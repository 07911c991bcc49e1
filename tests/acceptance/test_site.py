"""The documentation as a site: it builds without a warning, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", built],
        cwd=REPOSITORY, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return built


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in (REPOSITORY / "docs").rglob("*.md"):
        place = page.relative_to(REPOSITORY / "docs")
        folder = place.parent if place.name == "README.md" else place.with_suffix("")
        assert (site / folder / "index.html").is_file(), place


def test_every_page_but_the_decisions_is_in_the_navigation() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    for page in (REPOSITORY / "docs").rglob("*.md"):
        place = str(page.relative_to(REPOSITORY / "docs"))
        assert place in navigation or place.startswith("decisions/0"), place


def test_links_to_files_beside_the_pages_lead_to_files_that_exist(site: Path) -> None:
    seen = 0
    for page in site.rglob("*.html"):
        for target in re.findall(r'href="https://github\.com/[^"/]+/[^"/]+/blob/main/([^"#]*)',
                                 page.read_text()):  # fmt: skip
            seen += 1
            assert (REPOSITORY / target).exists(), (page.relative_to(site), target)
    assert seen > 5


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    text = (site / "index.html").read_text()
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', text)
    assert [each for each in loaded if "github.io" not in each] == []
