"""`fleet page` in a process of its own, and asking it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from tests.support.command_line import CommandLine


@dataclass
class Served:
    """A page that answers at a port of this machine."""

    process: subprocess.Popen[str]
    port: int
    printed: str = field(default="")

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers by lower-case name, and body."""
        host = headers.pop("host", None)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=host is not None)
            for name, value in {**({"Host": host} if host is not None else {}), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read().decode()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        return self.ask("GET", path, **headers)

    def json(self, path: str) -> Any:
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def follow(self) -> Iterator[Any]:
        """What the page's stream sends, one document after the other."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", "/api/stream")
        answer = connection.getresponse()
        assert answer.headers["content-type"].startswith("text/event-stream")
        try:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[len(b"data: ") :])
        finally:
            connection.close()


@contextlib.contextmanager
def served(cli: CommandLine, **environment: str) -> Iterator[Served]:
    """The page of a configuration; ended with the block, and what it printed is kept."""
    process = cli.popen("--json", "fleet", "page", "--port", 0, **environment)
    assert process.stdout is not None
    first = process.stdout.readline()
    opened = Served(process, 0, first)
    try:
        opened.port = urlsplit(json.loads(first)["page"]).port or 0
        yield opened
    finally:
        process.terminate()
        try:
            rest, _ = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            rest, _ = process.communicate()
        opened.printed += rest
