"""Other distributions that install a package of our name are found, named, and nothing runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support import REPOSITORY

#: What the product depends on.
PACKAGES = sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")})

COMMAND = "from eventsource_migration.command import main; main()"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A place where this distribution is installed, as pip would have done it."""
    for package in ("eventsource", "eventsource_migration"):
        shutil.copytree(
            REPOSITORY / "python" / package, tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )  # fmt: skip
    return tmp_path


def install(site: Path, name: str, *, files: dict[str, str] | None = None) -> None:
    """What pip leaves behind of another distribution; ``files`` replace ours."""
    about = site / f"{name.replace('-', '_')}-0.8.1.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.8.1\n")
    record = ["eventsource/__init__.py,,"]
    for path, text in (files or {}).items():
        site.joinpath(path).write_text(text)
        record.append(f"{path},,")
    about.joinpath("RECORD").write_text("\n".join(record))


def run(site: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # Without -S this very tree would be found too, through the environment's own list.
        [sys.executable, "-S", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *PACKAGES])},
        cwd=site, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def assert_refused(done: subprocess.CompletedProcess[str], *names: str) -> None:
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    for name in (*names, "an environment of its own", "pipx install eventsource-migration"):
        assert name in done.stderr


def test_alone_the_command_runs_and_the_package_can_be_imported(site: Path) -> None:
    done = run(site, COMMAND, "--help")
    assert done.returncode == 0
    assert "cutover" in done.stdout
    assert run(site, "import eventsource").returncode == 0


@pytest.mark.parametrize("name", ["eventsource-py", "eventsource"])
def test_the_other_was_installed_first(site: Path, name: str) -> None:
    install(site, name)
    assert_refused(run(site, COMMAND, "--version"), name)
    imported = run(site, "import eventsource")
    assert imported.returncode == 1
    assert f"ImportError: eventsource-migration and {name} both" in imported.stderr


@pytest.mark.parametrize("name", ["eventsource-py", "eventsource", "our-own-eventsource"])
def test_the_other_was_installed_later_and_has_replaced_files(site: Path, name: str) -> None:
    theirs = {"eventsource/__init__.py": "class AggregateRoot: ...\n"}
    install(site, name, files=theirs)
    assert_refused(run(site, COMMAND, "plan"), name)
    # Their application is theirs: nothing of ours is in its way.
    assert run(site, "from eventsource import AggregateRoot").returncode == 0


def test_the_other_was_removed_and_took_files_of_ours_along(site: Path) -> None:
    site.joinpath("eventsource/__init__.py").unlink()
    assert_refused(run(site, COMMAND, "list"))


def test_a_module_of_ours_that_is_gone_is_no_traceback(site: Path) -> None:
    shutil.rmtree(site / "eventsource" / "cli")
    assert_refused(run(site, COMMAND, "list"))


def test_an_extension_module_of_another_version_is_no_neighbour(site: Path) -> None:
    """After a pull without a build it was said that another distribution had replaced files."""
    site.joinpath("eventsource/cli/__init__.py").write_text("from eventsource._core import New\n")
    done = run(site, COMMAND, "list")
    assert done.returncode == 2
    assert "extension module is of another version" in done.stderr
    assert "another distribution" not in done.stderr


def test_what_another_package_lacks_is_said_by_python(site: Path) -> None:
    site.joinpath("eventsource/cli/__init__.py").write_text("import no_such_package_at_all\n")
    done = run(site, COMMAND, "list")
    assert done.returncode == 1
    assert "No module named 'no_such_package_at_all'" in done.stderr
