"""The page over HTTP: static files, what moves as server-sent events, the history of a tenant."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eventsource.errors import EventSourceError
from eventsource.tenant_ids import TenantId, checked

try:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:  # pragma: no cover - what is missing is said where it is needed
    raise EventSourceError(
        f"the page is not installed ({error.name}); install the extra: pip install"
        " 'eventsource-migration[web]'"
    ) from error

if TYPE_CHECKING:
    from eventsource.web.snapshots import Snapshots

_COOKIE = "eventsource_page"

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}

#: The page loads nothing from elsewhere, runs no script but its own, and nobody may frame it.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Page:
    """What the application answers.

    Args:
        history_of: a tenant's migrations with what happened to them.
        to_json: writes what is shown.
        token: who has it may look; None lets everybody look who asks for this machine by a name
            that only it has.
    """

    snapshots: Snapshots
    history_of: Callable[[TenantId], Awaitable[object]]
    to_json: Callable[[object], str]
    token: str | None = None

    def application(self) -> Starlette:
        """For an ASGI server."""
        routes = [
            Route(path, self._guarded(self._file(name, kind)), methods=["GET"])
            for path, (name, kind) in _FILES.items()
        ]
        routes += [
            Route("/api/now", self._guarded(self._now), methods=["GET"]),
            Route("/api/stream", self._guarded(self._stream), methods=["GET"]),
            # Not in the path: a tenant's name may have slashes, dots and ends of lines.
            Route("/api/tenant", self._guarded(self._tenant), methods=["GET"]),
        ]
        return Starlette(routes=routes)

    def _guarded(self, answer: Answer) -> Answer:
        async def guarded(request: Request) -> Response:
            refused = self._refused(request)
            response = refused if refused is not None else await answer(request)
            response.headers.update(_HEADERS)
            return response

        return guarded

    def _refused(self, request: Request) -> Response | None:
        if self.token is None:
            # Another site that has its name point to this machine would read it in the browser.
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
            if host in _LOOPBACK:
                return None
            return PlainTextResponse("ask for this page by localhost\n", 421)
        given = request.query_params.get("token")
        if given is not None and self._is_right(given):
            # From now on by the cookie: a token in an address ends up in histories and logs.
            response = RedirectResponse(request.url.path, 303)
            response.set_cookie(_COOKIE, given, httponly=True, samesite="strict", max_age=86_400)
            return response
        header = request.headers.get("authorization", "")
        if header.startswith("Bearer ") and self._is_right(header[len("Bearer ") :]):
            return None
        if self._is_right(_cookie(request)):
            return None
        return PlainTextResponse("the token is missing or wrong: open /?token=…\n", 401)

    def _is_right(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _file(self, name: str, kind: str) -> Answer:
        text = resources.files("eventsource.web").joinpath("static", name).read_text("utf-8")

        async def answer(_: Request) -> Response:
            return Response(text, media_type=kind)

        return answer

    def _json(self, document: object, status: int = 200) -> Response:
        return Response(self.to_json(document), status, media_type="application/json")

    async def _now(self, _: Request) -> Response:
        return self._json(await self.snapshots.now())

    async def _stream(self, _: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield "retry: 2000\n\n"
            async for shown in self.snapshots.follow():
                yield f"data: {self.to_json(shown)}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _tenant(self, request: Request) -> Response:
        try:
            tenant = checked(request.query_params.get("id", ""))
        except ValueError as error:
            return self._json({"error": str(error)}, 404)
        return self._json(await self.history_of(tenant))


def _cookie(request: Request) -> str:
    try:
        found: Any = SimpleCookie(request.headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""
