"""The servers that every other test runs on: real, isolated, and gone when we are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest

from eventsource.testing import Cluster, ClusterError, PostgresNotFoundError, binaries

_START_AND_WAIT = """
import sys, time
from eventsource.testing import Cluster
cluster = Cluster.start(16, fsync=False)
print(cluster.directory, cluster.postmaster_pid, flush=True)
time.sleep(600)
"""


async def test_a_crashed_cluster_comes_back_on_its_port_with_every_committed_row() -> None:
    with Cluster.start(18) as cluster:
        dsn = await cluster.create_database()
        connection = await asyncpg.connect(dsn)
        await connection.execute("create table kept as select 7 as value")
        await connection.execute("begin; insert into kept values (8)")
        cluster.crash()
        assert not cluster.is_running
        cluster.restart()
        connection = await asyncpg.connect(dsn)
        assert [row[0] for row in await connection.fetch("select value from kept")] == [7]
        await connection.close()


async def test_every_cluster_has_a_system_identifier_of_its_own(
    source_cluster: Cluster,
) -> None:
    identifiers = set()
    with Cluster.start(16) as other:
        for cluster in (source_cluster, other):
            connection = await asyncpg.connect(cluster.dsn())
            identifiers.add(
                await connection.fetchval("select system_identifier from pg_control_system()")
            )
            await connection.close()
    assert len(identifiers) == 2


async def test_a_cluster_asks_for_the_password_by_tcp_and_by_socket(
    source_cluster: Cluster,
) -> None:
    for unix_socket in (False, True):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(source_cluster.dsn(password="wrong", unix_socket=unix_socket))
        connection = await asyncpg.connect(source_cluster.dsn(unix_socket=unix_socket))
        await connection.close()


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_outlives_the_process_that_started_it(fatal: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _START_AND_WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A shell without job control starts us with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert owner.stdout is not None
    directory, postmaster = owner.stdout.readline().split()
    owner.send_signal(fatal)
    owner.wait(30)
    owner.stdout.close()
    deadline = time.monotonic() + 30
    while Path(directory).exists() or _is_alive(int(postmaster)):
        assert time.monotonic() < deadline, f"{postmaster} still runs in {directory}"
        time.sleep(0.05)


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ClusterError, match="max_connections"):
        Cluster.start(16, {"max_connections": "many"})


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is installed but what a test puts here as a package would."""
    monkeypatch.setattr(binaries, "EMBEDDED_PACKAGES", ())
    monkeypatch.setattr(binaries, "PACKAGED_SERVERS", tmp_path)
    monkeypatch.setenv("PG_BINDIR", "")
    monkeypatch.setenv("PATH", "")
    return tmp_path


def test_the_servers_of_packages_are_found(source_cluster: Cluster, packages: Path) -> None:
    packaged = packages / "16" / "bin"
    packaged.parent.mkdir()
    packaged.symlink_to(source_cluster.bin_dir)
    assert binaries.find_bin_dir(16) == packaged
    with pytest.raises(PostgresNotFoundError, match=r"no PostgreSQL 17 .*\(found: 16\)"):
        binaries.find_bin_dir(17)


@pytest.mark.usefixtures("packages")
def test_a_missing_major_names_the_package_to_install() -> None:
    with pytest.raises(PostgresNotFoundError) as refused:
        Cluster.start(16)
    assert "pip install 'eventsource-migration[embedded]'" in str(refused.value)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie has ended; whoever adopted it has not asked yet.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
