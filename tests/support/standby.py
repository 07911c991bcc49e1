"""A standby of a cluster, made as an administrator makes one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from eventsource.testing import Cluster
from eventsource.testing.binaries import server_account
from tests.support.waiting import until


class Standby(Cluster):
    """A server that follows another one until it is promoted."""

    @classmethod
    def of(cls, primary: Cluster) -> Standby:
        """Copy the primary and follow it; blocks for a few seconds."""
        account = server_account()
        directory = Path(tempfile.mkdtemp(prefix="eventsource-"))
        account.own(directory)
        standby = cls(primary.major, primary.bin_dir, directory, account)
        standby.password = primary.password
        try:
            standby._watch()
            code, output = account.run(
                [
                    str(primary.program("pg_basebackup")),
                    f"--dbname={primary.dsn()}",
                    f"--pgdata={standby.data_dir}",
                    "--write-recovery-conf",
                    "--checkpoint=fast",
                    "--wal-method=stream",
                ],
                cwd=directory,
            )
            assert code == 0, output
            with (standby.data_dir / "postgresql.conf").open("a") as configuration:
                configuration.write(f"unix_socket_directories = '{standby.socket_dir}'\n")
            standby._launch_on_a_free_port()
        except BaseException:
            standby.stop()
            raise
        return standby

    def promote(self) -> None:
        """Become a primary, on a timeline of its own."""
        self._checked("promote")

    async def caught_up(self, primary: Cluster) -> None:
        """Wait until it has replayed everything that the primary has written."""
        there, here = await asyncpg.connect(primary.dsn()), await asyncpg.connect(self.dsn())
        try:
            written = await there.fetchval("select pg_current_wal_flush_lsn()::text")
            replayed = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
            await until(lambda: here.fetchval(replayed, written), "the standby to catch up")
        finally:
            await there.close()
            await here.close()


@contextlib.contextmanager
def standby_of(primary: Cluster) -> Iterator[Standby]:
    with Standby.of(primary) as standby:
        yield standby
