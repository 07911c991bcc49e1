"""PgBouncer before a server, from the programs of the system."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventsource.testing.binaries import server_account


def program() -> str:
    """The program's path; without it the test is skipped, with what to do."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("pgbouncer is not installed; on Debian: apt-get install pgbouncer")
    return found


@contextlib.contextmanager
def pgbouncer(dsn: str, mode: str, **settings: object) -> Iterator[str]:
    """A pooler before the server of a DSN; gives the DSN by way of it."""
    parts = urlsplit(dsn)
    account = server_account()  # it refuses to run as root, as PostgreSQL does
    with (
        tempfile.TemporaryDirectory(prefix="eventsource-pooler-") as name,
        socket.socket() as probe,
    ):
        directory = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        users = directory / "users"
        users.write_text(f'"{parts.username}" "{parts.password}"\n')
        options: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": mode,
            "default_pool_size": 20,
            "max_client_conn": 500,
            # What asyncpg sends; poolers before it are set up so.
            "ignore_startup_parameters": "extra_float_digits,jit,search_path",
            **settings,
        }
        ini = directory / "pgbouncer.ini"
        ini.write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\n"
            + "".join(f"{key} = {value}\n" for key, value in options.items())
        )
        for path in (directory, users, ini):
            account.own(path)
        log = (directory / "log").open("wb")
        process = account.popen([program(), str(ini)], cwd=directory, stdout=log, stderr=log)
        try:
            _wait_until_open(port, process, directory / "log")
            where = f"{parts.username}:{parts.password}@127.0.0.1:{port}"
            yield parts._replace(netloc=where).geturl()
        finally:
            process.terminate()
            process.wait(30)
            log.close()


def _wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.02)
