"""`on_change`: a command or a URL that hears of each change, so that a chat or a pager does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
from collections.abc import AsyncIterator

from eventsource.migration import changes

_log = logging.getLogger("eventsource.hooks")

#: How long one call may take (seconds); the migration does not wait for it.
PATIENCE = 30.0

#: How long the end of a command waits for calls that are still to be made (seconds).
LAST_CALLS = 5.0

#: News that wait; more than these are dropped, the oldest first: a pager that hangs is no reason to
#: keep all of them.
WAITING = 100


@contextlib.asynccontextmanager
async def calling(hook: str | None) -> AsyncIterator[None]:
    """Within the block each change that this process makes is given to the hook, one at a time."""
    if hook is None:
        yield
        return
    news: asyncio.Queue[str] = asyncio.Queue()

    def heard(change: changes.Change) -> None:
        if news.qsize() >= WAITING:
            news.get_nowait()
            news.task_done()
        news.put_nowait(json.dumps(change.document(), ensure_ascii=False, default=str))

    calls = asyncio.create_task(_call_again_and_again(hook, news))
    try:
        with changes.heard_by(heard):
            yield
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_CALLS):
                await news.join()
        calls.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calls


async def _call_again_and_again(hook: str, news: asyncio.Queue[str]) -> None:
    while True:
        document = await news.get()
        try:
            async with asyncio.timeout(PATIENCE):
                await (_post if hook.startswith(("https://", "http://")) else _run)(hook, document)
        except Exception as error:
            # Not the hook itself: a URL of a chat has its secret in its path.
            _log.warning("on_change failed: %s", type(error).__name__ if not str(error) else error)
        finally:
            news.task_done()


async def _run(command: str, document: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *shlex.split(command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await process.communicate(f"{document}\n".encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"its command ended with exit code {process.returncode}: {last[:200]}")


async def _post(url: str, document: str) -> None:
    import urllib.request

    request = urllib.request.Request(
        url, document.encode(), {"Content-Type": "application/json"}, method="POST"
    )

    def send() -> None:
        with urllib.request.urlopen(request, timeout=PATIENCE / 3):
            pass

    try:
        await asyncio.to_thread(send)
    except OSError as error:
        # The text of some of these has the address in it.
        raise RuntimeError(f"its URL does not take it: {_without(url, str(error))}") from None


def _without(url: str, text: str) -> str:
    return text.replace(url, "the URL")
