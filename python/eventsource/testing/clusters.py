"""Throw-away PostgreSQL servers of our own, started from local programs.

A cluster lives in one temporary directory, listens on a free port of 127.0.0.1 and on a unix
socket, asks for a password on both, and is gone when its process is: by `stop`, at interpreter
exit, or, when the process is killed, by a watcher that waits for the other end of a pipe to close.
"""

from __future__ import annotations

import atexit
import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote
from uuid import uuid4

import asyncpg

from eventsource.testing.binaries import Account, find_bin_dir, server_account

SUPERUSER = "postgres"
DEFAULT_SETTINGS: Mapping[str, str | int] = {
    "max_connections": 200,
    "max_prepared_transactions": 10,
    "shared_buffers": "128MB",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%a@%d ",
}
# A longer path does not fit into a socket address (108 bytes with the file name).
_MAX_SOCKET_DIRECTORY = 80
_PORT_ATTEMPTS = 5
# Runs beside the server for as long as we live. Our end of its standard input closes with us,
# however we die; a line says that the server was stopped properly and there is nothing to do.
_WATCHER = 'read -r line || { "$1" stop -s -m immediate -D "$2"; rm -rf "$3"; }'


#: Settings by which initdb itself goes: how often the superuser's password is hashed.
_AT_INITDB = ("scram_iterations",)


class ClusterError(RuntimeError):
    """A server program failed; the message holds its output and the end of the server log."""


class Cluster:
    """One PostgreSQL server. Make it with `Cluster.start`; also a context manager.

    Attributes: `major`, `port`, `password` (of the superuser `postgres`), `directory`,
    `data_dir`, `socket_dir`, `log_path`, `bin_dir`.
    """

    def __init__(self, major: int, bin_dir: Path, directory: Path, account: Account) -> None:
        self.major = major
        self.bin_dir = bin_dir
        self.directory = directory
        self.data_dir = directory / "data"
        self.log_path = directory / "server.log"
        self.socket_dir = directory
        self.password = secrets.token_hex(16)
        self.port = 0
        self._account = account
        self._watcher: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        major: int = 16,
        settings: Mapping[str, str | int | float] | None = None,
        *,
        fsync: bool = True,
        bin_dir: Path | None = None,
    ) -> Self:
        """Initialise and start a server of the given major version; blocks for about a second.

        `settings` go into postgresql.conf over our defaults. Without `fsync` a crash of the
        machine loses the cluster, a crash of the server does not. Raises PostgresNotFoundError
        and ClusterError.
        """
        programs = bin_dir or find_bin_dir(major)
        account = server_account()
        base = tempfile.gettempdir()
        if len(base) > _MAX_SOCKET_DIRECTORY - 20:
            base = "/tmp"
        directory = Path(tempfile.mkdtemp(prefix="eventsource-", dir=base))
        account.own(directory)
        cluster = cls(major, programs, directory, account)
        try:
            cluster._watch()
            cluster._initialise({**DEFAULT_SETTINGS, "fsync": str(fsync), **(settings or {})})
            cluster._launch_on_a_free_port()
        except BaseException:
            cluster.stop()
            raise
        atexit.register(cluster.stop)
        return cluster

    def dsn(
        self,
        database: str = "postgres",
        *,
        user: str = SUPERUSER,
        password: str | None = None,
        unix_socket: bool = False,
    ) -> str:
        """A libpq URI, by TCP on 127.0.0.1 or by unix socket; the password is in it."""
        secret = quote(self.password if password is None else password, safe="")
        who = f"{quote(user, safe='')}:{secret}"
        if unix_socket:
            where = quote(str(self.socket_dir), safe="")
            return f"postgresql://{who}@/{quote(database)}?host={where}&port={self.port}"
        return f"postgresql://{who}@127.0.0.1:{self.port}/{quote(database)}"

    def program(self, name: str) -> Path:
        """The path of one of the server's programs: `psql`, `pgbench`, `pg_basebackup`."""
        return self.bin_dir / name

    @property
    def is_running(self) -> bool:
        """Whether the server runs."""
        status, _ = self._pg_ctl("status") if self.data_dir.is_dir() else (1, "")
        return status == 0

    @property
    def postmaster_pid(self) -> int:
        """The process id of the running server, to kill or freeze it in a test."""
        return int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])

    async def create_database(self, name: str | None = None) -> str:
        """Make an empty database, by default under a name of its own; returns its DSN."""
        database = name or f"db_{uuid4().hex[:12]}"
        await self._as_superuser("create database {}", database)
        return self.dsn(database)

    async def drop_database(self, name: str) -> None:
        """Drop a database if it exists; sessions that are still connected to it are cut off."""
        await self._as_superuser("drop database if exists {} with (force)", name)

    def crash(self) -> None:
        """Stop as a power cut would: no checkpoint, open transactions and unflushed WAL lost."""
        self._checked("stop", "-m", "immediate")

    def restart(self) -> None:
        """Start again on the same port with the same data; a running server is stopped first."""
        if self.is_running:
            self._checked("stop", "-m", "fast")
        self._launch()

    def stop(self) -> None:
        """Stop the server and remove all of it. Twice is once."""
        atexit.unregister(self.stop)
        if self.is_running:
            self._pg_ctl("stop", "-m", "immediate")
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._watcher is not None:
            with contextlib.suppress(OSError):
                self._watcher.communicate(b"stopped\n")
            self._watcher = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Cluster {self.major} 127.0.0.1:{self.port} {self.directory}>"

    def _watch(self) -> None:
        pg_ctl, data, everything = self.program("pg_ctl"), self.data_dir, self.directory
        self._watcher = self._account.popen(
            ["/bin/sh", "-c", _WATCHER, "sh", str(pg_ctl), str(data), str(everything)],
            cwd=self.directory.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _initialise(self, settings: Mapping[str, str | int | float]) -> None:
        # Always a real initdb, never a copied template: a copy has the system identifier of its
        # original, and two such servers look like one.
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        self._account.own(password_file)
        code, output = self._account.run(
            [
                str(self.program("initdb")),
                f"--pgdata={self.data_dir}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                *(f"--set={name}={settings[name]}" for name in _AT_INITDB if name in settings),
            ],
            cwd=self.directory,
        )
        if code != 0:
            raise ClusterError(f"initdb failed with exit code {code}:\n{output}")
        password_file.unlink()
        fixed = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.socket_dir),
        }
        with (self.data_dir / "postgresql.conf").open("a") as configuration:
            for name, value in {**settings, **fixed}.items():
                text = str(value).replace("'", "''")
                configuration.write(f"{name} = '{text}'\n")

    def _launch_on_a_free_port(self) -> None:
        # Between choosing a port and listening on it somebody else may take it.
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            try:
                self._launch()
                return
            except ClusterError as error:
                if attempt == _PORT_ATTEMPTS or "Address already in use" not in str(error):
                    raise

    def _launch(self) -> None:
        self._checked("start", "-l", str(self.log_path), "-o", f"-p {self.port}")

    def _checked(self, verb: str, *options: str) -> None:
        code, output = self._pg_ctl(verb, *options)
        if code != 0:
            log = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
            tail = "\n".join(log.splitlines()[-20:])
            raise ClusterError(f"pg_ctl {verb} failed with exit code {code}:\n{output}{tail}")

    def _pg_ctl(self, verb: str, *options: str) -> tuple[int, str]:
        waiting = [] if verb == "status" else ["-w", "-t", "60"]
        argv = [str(self.program("pg_ctl")), verb, "-s", *waiting, "-D", str(self.data_dir)]
        return self._account.run([*argv, *options], cwd=self.directory)

    async def _as_superuser(self, statement: str, database: str) -> None:
        quoted = '"' + database.replace('"', '""') + '"'
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute(statement.format(quoted))
        finally:
            await connection.close()
