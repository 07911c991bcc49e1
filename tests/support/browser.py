"""A Chromium that is spoken to over two pipes, so that a page is seen as it runs.

No library is needed for it: the browser reads commands of its debugging protocol from descriptor 3
and writes answers to descriptor 4, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

#: The program, None where there is none.
PROGRAM = next(filter(None, map(shutil.which, _NAMES)), None)

#: How long an answer, or something on the page, is waited for (seconds).
PATIENCE = 60.0


class Tab:
    """One page in a browser."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._rest = 0, b""
        self._session: str | None = None

    def open(self, address: str, width: int, height: int) -> None:
        """Show the address in a window of this size, as a telephone has it."""
        self._session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=True,
        )  # fmt: skip
        self.ask("Page.enable")
        self.ask("Page.navigate", url=address)

    def ask(self, method: str, **parameters: Any) -> Any:
        """The answer of one command."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._commands, json.dumps(asked).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            while b"\0" in self._rest:
                message, _, self._rest = self._rest.partition(b"\0")
                answer = json.loads(message)
                if answer.get("id") == self._number:
                    assert "error" not in answer, answer
                    return answer["result"]
            if select.select([self._answers], [], [], 1.0)[0]:
                self._rest += os.read(self._answers, 1 << 20)
        raise AssertionError(f"no answer to {method}")

    def value(self, expression: str) -> Any:
        """What an expression is worth on the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until it is true on the page; what it is then."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.value(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"{expression}\n{self.value('document.body.innerText')}")
            time.sleep(0.1)
        return found

    def press(self, key: str) -> None:
        """A key, down and up."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("rawKeyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "rawKeyDown" else {}
            self.ask(
                "Input.dispatchKeyEvent",
                type="keyDown" if text else kind, key=key, code=key,
                windowsVirtualKeyCode=codes[key], **text,
            )  # fmt: skip

    def picture(self, path: Path) -> None:
        """What is seen, as a PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[Tab]:
    """A browser of its own; ended with the block."""
    assert PROGRAM is not None
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    # A program in between gives it the descriptors that it looks for, whatever ours are called.
    renamed = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in (theirs_in, theirs_out)]
    rename = "import os, sys; os.dup2({}, 3); os.dup2({}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [
            sys.executable, "-c", rename.format(*renamed), PROGRAM, "--headless", "--no-sandbox",
            "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={directory / 'browser'}",
            "about:blank",
        ],
        pass_fds=renamed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for each in renamed:
        os.close(each)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Tab(commands, answers)
    finally:
        os.close(commands)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        os.close(answers)
