"""The proxy itself: listens, keeps the connections, and takes orders from any thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from eventsource.testing.proxy.relay import Conditions, Relay
from eventsource.testing.proxy.session import Session
from eventsource.testing.proxy.traps import Trap, Where, containing, everywhere

if TYPE_CHECKING:
    from eventsource.testing.proxy.relay import Ends

    Statement = str | Callable[[Session, str], bool]

_T = TypeVar("_T")
_LOCAL = "127.0.0.1"


class Proxy:
    """A proxy on a port of 127.0.0.1 before one PostgreSQL server. A context manager, also async.

    It runs in a thread of its own from `start` to `stop`, so that a test that blocks its event loop
    does not stop the traffic. Every method may be called from any thread. ``where`` chooses
    connections by what is known of them, such as ``named("my-application")``; without it all are
    meant, those to come included.

    Args:
        dsn: a libpq URI of the server, with a host and port or a unix socket's directory.
        tls: what becomes of a client's wish for encryption. ``refuse`` answers that the server has
            none; ``pass`` leaves it to the server, and what is encrypted cannot be looked at:
            no trap springs there, the other faults work.

    Attributes:
        port: where it listens.
    """

    def __init__(self, dsn: str, *, tls: Literal["refuse", "pass"] = "refuse") -> None:
        self._dsn = dsn
        self._tls = tls
        self.port = 0
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._relays: dict[Relay, asyncio.Task[None]] = {}
        self._rules: list[tuple[Where, Callable[[Conditions], None]]] = []
        self._traps: list[Trap] = []
        self._accepted = 0
        self._failures: list[Exception] = []

    @property
    def dsn(self) -> str:
        """The DSN that it was given, by way of the proxy."""
        return self.through(self._dsn)

    def through(self, dsn: str) -> str:
        """A DSN of the same server (another database or user), by way of the proxy."""
        parts = urlsplit(dsn)
        credentials, at, _ = parts.netloc.rpartition("@")
        query = [(k, v) for k, v in parse_qsl(parts.query) if k not in ("host", "hostaddr", "port")]
        return urlunsplit(
            parts._replace(
                netloc=f"{credentials}{at}{_LOCAL}:{self.port}",
                query=urlencode(query, quote_via=quote),
            )
        )

    # Faults that happen at once

    def cut(self, where: Where = everywhere) -> int:
        """Reset the open connections, for both ends; returns how many there were."""

        def each() -> int:
            chosen = [relay for relay in self._relays if where(relay.session)]
            for relay in chosen:
                relay.cut()
            return len(chosen)

        return self._ask(each)

    def delay(self, seconds: float, where: Where = everywhere) -> None:
        """Deliver everything so many seconds late, in either direction."""
        self._impose(where, lambda conditions: setattr(conditions, "delay", seconds))

    def throttle(self, bytes_per_second: float, where: Where = everywhere) -> None:
        """Carry at most so many bytes per second, per connection and direction."""
        if bytes_per_second <= 0:
            raise ValueError("bytes_per_second must be above 0; stall() holds everything back")
        self._impose(
            where, lambda conditions: setattr(conditions, "bytes_per_second", bytes_per_second)
        )

    def stall(self, where: Where = everywhere) -> None:
        """Hold everything back until `restore`: packets are lost, and sent again later."""
        self._impose(where, lambda conditions: conditions.flowing.clear())

    def half_open(self, where: Where = everywhere) -> None:
        """Swallow everything, also that an end is gone. Such a connection never recovers."""
        self._impose(where, lambda conditions: setattr(conditions, "swallowing", True))

    def refuse(self) -> None:
        """Refuse new connections until `restore`; open ones stay."""
        self._ask(self._close_the_door)

    def redirect(self, dsn: str) -> None:
        """Take new connections to another server, as after a failover; open ones stay."""
        self._ask(lambda: setattr(self, "_dsn", dsn))

    def restore(self) -> None:
        """A sound network again. Traps stay; what is cut or half-open stays lost."""

        def heal() -> None:
            self._rules.clear()
            for relay in self._relays:
                relay.conditions.delay = 0.0
                relay.conditions.bytes_per_second = None
                relay.conditions.flowing.set()

        self._ask(heal)
        self._wait_for(self._open_the_door())

    # Faults that wait for their moment

    def hold_at(
        self, statement: Statement, where: Where = everywhere, *, times: int | None = 1
    ) -> Trap:
        """Keep a statement from the server until the trap is released.

        Args:
            statement: a text that it contains, in any case of letters; or a predicate of session
                and text, called in the proxy's thread. A prepared statement is met when executed.
            times: how often; None is every time.
        """
        return self._set(Trap("hold", containing(statement), where, times))

    def cut_at(
        self, statement: Statement, where: Where = everywhere, *, times: int | None = 1
    ) -> Trap:
        """Cut the connection instead of passing a statement on; the arguments are as above."""
        return self._set(Trap("cut", containing(statement), where, times))

    def lose_commit_reply(
        self,
        where: Where = everywhere,
        *,
        statement: str | None = None,
        tag: str = "COMMIT",
        times: int | None = 1,
    ) -> Trap:
        """Let a COMMIT through, drop the server's reply to it and cut the connection.

        Args:
            statement: only that of a transaction in which a statement contains this text.
            tag: another command, such as ``UPDATE 1``, which outside a transaction commits itself:
                the reply is dropped once the server has done that too.
        """

        def matches(session: Session, completed: str) -> bool:
            if completed != tag or (tag != "COMMIT" and session.state != "I"):
                return False
            return statement is None or session.ran(statement)

        return self._set(Trap("lose", matches, where, times))

    # Looking

    def sessions(self, where: Where = everywhere) -> list[Session]:
        """The open connections."""
        return self._ask(lambda: [relay.session for relay in self._relays if where(relay.session)])

    # Beginning and end

    def start(self) -> Self:
        """Listen; returns when connections are accepted."""
        if self._thread is not None:
            raise RuntimeError("the proxy runs already")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="eventsource-proxy", daemon=True
        )
        self._thread.start()
        # Not listening, it keeps the port for us while new connections are refused.
        self._holder = _bound(0)
        self.port = self._holder.getsockname()[1]
        self._wait_for(self._open_the_door())
        return self

    def stop(self) -> None:
        """Cut everything and end; raises what a predicate raised. Twice is once."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(30)
        self._loop.close()
        if self._holder is not None:
            self._holder.close()
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    # In the proxy's thread

    async def _open_the_door(self) -> None:
        if self._server is None:
            listener = _bound(self.port)
            listener.setblocking(False)
            self._server = await asyncio.start_server(self._accept, sock=listener)

    def _close_the_door(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _end(self) -> None:
        self._close_the_door()
        tasks = list(self._relays.values())
        for relay in list(self._relays):
            relay.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepted += 1
        relay = Relay(Session(self._accepted), (reader, writer), self._traps, self._tls)
        self._relays[relay] = task
        try:
            # A rule for some connections cannot be applied before their name is known.
            self._apply(relay, [rule for rule in self._rules if rule[0] is everywhere])
            opened = await relay.open(self._connect)
            if opened is not None:
                self._apply(relay, self._rules)
                await relay.run(*opened)
        except (OSError, asyncio.IncompleteReadError):
            relay.cut()
        except Exception as error:
            self._failures.append(error)
            relay.cut()
        except asyncio.CancelledError:
            # Cut by somebody. The stream server would log a cancelled handler as a failure.
            pass
        finally:
            relay.session.is_open = False
            del self._relays[relay]
            with contextlib.suppress(OSError):
                writer.close()

    async def _connect(self) -> Ends:
        host, port = _where(self._dsn)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    def _apply(self, relay: Relay, rules: list[tuple[Where, Callable[[Conditions], None]]]) -> None:
        for where, change in rules:
            if where(relay.session):
                change(relay.conditions)

    # Orders from other threads

    def _impose(self, where: Where, change: Callable[[Conditions], None]) -> None:
        def impose() -> None:
            self._rules.append((where, change))
            for relay in self._relays:
                self._apply(relay, [(where, change)])

        self._ask(impose)

    def _set(self, trap: Trap) -> Trap:
        def release() -> None:
            if self._thread is not None:
                self._ask(trap._released.set)

        trap._release = release
        self._ask(lambda: self._traps.append(trap))
        return trap

    def _ask(self, order: Callable[[], _T]) -> _T:
        async def obey() -> _T:
            return order()

        return self._wait_for(obey())

    def _wait_for(self, order: Coroutine[Any, Any, _T]) -> _T:
        if self._thread is None:
            order.close()
            raise RuntimeError("the proxy does not run; use it as a context manager")
        return asyncio.run_coroutine_threadsafe(order, self._loop).result(30)


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((_LOCAL, port))
    return made


def _where(dsn: str) -> tuple[str, int]:
    """Host, or the directory of a unix socket, and port of a libpq URI."""
    parts = urlsplit(dsn)
    given = dict(parse_qsl(parts.query))
    host = parts.hostname or given.get("host") or "localhost"
    return host, parts.port or int(given.get("port", 5432))
