"""The HTTP service: routes, what guards them, and how it starts and stops."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import sys
import time
import traceback
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    MutableMapping,
)
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

import recinject
from recinject.foundation.errors import RecinjectError
from recinject.foundation.progress import say
from recinject.serving.batching import QueueFullError
from recinject.serving.forms import Asked, RankRequest, RateRequest, RecommendRequest, Text
from recinject.serving.service import Service

PAGE = Path(__file__).parent / "page"
LOCAL = ("127.0.0.1", "localhost", "::1")
_OPEN = ("/", "/page.js", "/page.css", "/health")  # they tell nothing of the data
_BACKLOG = 2048
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def create_app(
    service: Service,
    token: str | None = None,
    *,
    hosts: tuple[str, ...] = LOCAL,
    log: Callable[[dict[str, Any]], None] | None = None,
    histories: bool = False,
) -> FastAPI:
    """Make the HTTP application of a service.

    Args:
        service: it is closed when the application stops.
        token: where given, requests need ``Authorization: Bearer TOKEN``; the page's files and
            ``/health`` do not.
        hosts: names by which the service may be called; an empty tuple allows any.
        log: is told of every request; by default nobody is.
        histories: whether the log says whose history was asked about.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="recinject",
        version=recinject.__version__,
        description="Recommendations of finished runs.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_questions(app, service, histories)
    _add_looks(app, service)
    _add_pages(app)
    app.add_middleware(Guard, service=service, token=token, hosts=hosts, log=log)

    @app.exception_handler(RecinjectError)
    async def refuse(_: Request, error: RecinjectError) -> Response:
        return _refusal(400, error.message, error.hint)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return _refusal(422, f"{place[:80] or 'body'}: {first['msg']}", "see /docs for the form")

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail), "see /docs")

    @app.exception_handler(QueueFullError)
    async def full(_: Request, __: QueueFullError) -> Response:
        answer = _refusal(429, "too many requests wait", "try again in a second")
        answer.headers["Retry-After"] = "1"
        return answer

    @app.exception_handler(TimeoutError)
    async def late(_: Request, __: TimeoutError) -> Response:
        return _refusal(504, "the answer took too long", "ask for less, or raise --seconds")

    return app


def _refusal(status: int, error: str, fix: str) -> JSONResponse:
    return JSONResponse({"error": error, "fix": fix}, status)


def _add_questions(app: FastAPI, service: Service, histories: bool) -> None:
    async def answer(asked: Asked, request: Request) -> Response:
        pending = service.start(asked)
        request.scope["told"] = {"run": pending.run, "recommender": pending.recommender}
        if histories:
            request.scope["told"] |= asked.model_dump(include={"liked", "user"})
        future = asyncio.wrap_future(pending.future)
        found = await asyncio.wait_for(future, service.limits.seconds)
        return JSONResponse(pending.told(found))

    @app.post("/v1/recommend")
    async def recommend(asked: RecommendRequest, request: Request) -> Response:
        """Recommend the items that come next."""
        return await answer(asked, request)

    @app.post("/v1/rank")
    async def rank(asked: RankRequest, request: Request) -> Response:
        """Put items in the order in which they come next."""
        return await answer(asked, request)

    @app.post("/v1/rate")
    async def rate(asked: RateRequest, request: Request) -> Response:
        """Predict the rating of an item."""
        return await answer(asked, request)


def _add_looks(app: FastAPI, service: Service) -> None:
    @app.get("/v1/runs")
    async def runs() -> Response:
        """List the served runs with their recommenders, the usual one first."""
        rows = [
            {"name": s.name, "recommenders": list(s.recommenders), "items": len(s.data.catalog)}
            for s in service.shops.values()
        ]
        return JSONResponse({"runs": rows})

    @app.get("/v1/items")
    async def items(
        query: Annotated[Text, Query()],
        run: Annotated[Text | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> Response:
        """Find items by a part of their title, or by their id."""
        return JSONResponse({"items": service.shop(run).search(query, limit)})

    @app.get("/v1/person")
    async def person(
        number: Annotated[int, Query(ge=0, lt=2**31)], run: Annotated[Text | None, Query()] = None
    ) -> Response:
        """Draw a user of the test: the history, and the item that came next."""
        return JSONResponse(service.shop(run).person(number))

    @app.get("/health")
    async def health() -> Response:
        """Say that the service is up."""
        return JSONResponse({"status": "ok", "version": recinject.__version__})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return counts and times for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_pages(app: FastAPI) -> None:
    kinds = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
    files = {name: (PAGE / name).read_bytes() for name in kinds}

    def serve(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(files[name], media_type=f"{kinds[name]}; charset=utf-8")

    serve("/", "index.html")
    serve("/page.js", "page.js")
    serve("/page.css", "page.css")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_reference(app.openapi()))


def _reference(schema: dict[str, Any]) -> str:
    """Write the OpenAPI description as a page that needs no script and no network."""
    rows = []
    for path, verbs in schema["paths"].items():
        for verb, about in verbs.items():
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
            known = schema["components"]["schemas"].get(name, {}).get("properties", {})
            own_fields = [{"name": field, **own} for field, own in known.items()]
            given = [*about.get("parameters", ()), *own_fields]
            fields = "".join(
                f"<li><code>{escape(own['name'])}</code> {escape(own.get('description', ''))}</li>"
                for own in given
            )
            text = escape(about.get("description", ""))
            rows.append(f"<h2>{verb.upper()} {escape(path)}</h2><p>{text}</p><ul>{fields}</ul>")
    head = '<meta charset="utf-8"><title>recinject: reference</title>'
    head += '<link rel="stylesheet" href="page.css">'
    top = '<h1>Reference</h1><p>As data: <a href="openapi.json">openapi.json</a></p>'
    return f'<!doctype html><html lang="en">{head}<main>{top}{"".join(rows)}</main></html>'


class Guard:
    """What stands before every route: token, host, size and time of the body, metrics and log."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        service: Service,
        token: str | None,
        hosts: tuple[str, ...],
        log: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._app, self._service, self._hosts, self._log = app, service, hosts, log
        self._token = None if token is None else hashlib.sha256(f"Bearer {token}".encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            await self._guarded(scope, receive, tell)
        except Exception:
            # The client learns nothing of what went wrong inside; who runs the service does.
            sys.stderr.write(traceback.format_exc())
            if not status:
                answer = _refusal(500, "something went wrong inside", "see the service's log")
                await answer(scope, receive, tell)
        seconds = time.perf_counter() - started
        path = getattr(scope.get("route"), "path", "(other)")
        self._service.metrics.request(path, status, seconds)
        if self._log is not None:
            told = {"method": scope["method"], "path": path, "status": status}
            told |= {"ms": round(1000 * seconds, 1), **scope.get("told", {})}
            self._log({"time": round(time.time(), 3), **told})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        refused = self._refused(scope["path"], headers)
        if refused is None:
            try:
                body = await asyncio.wait_for(
                    self._body(headers, receive), self._service.limits.seconds
                )
            except TimeoutError:
                refused = _refusal(408, "the body took too long", "send it at once")
            else:
                if body is None:
                    most = f"at most {self._service.limits.body} bytes are read"
                    refused = _refusal(413, "the body is too large", most)
        if refused is not None:
            await refused(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> JSONResponse | None:
        if self._hosts:
            # A page elsewhere must not reach a local service by a name of its own.
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.rpartition("]")[0].lstrip("[") or host.partition(":")[0]
            if name not in self._hosts:
                return _refusal(421, "the service is not called so", "use its own address")
        if self._token is None or path in _OPEN:
            return None
        given = hashlib.sha256(headers.get(b"authorization", b"")).digest()
        if hmac.compare_digest(given, self._token):
            return None
        refused = _refusal(401, "no token, or a wrong one", "send Authorization: Bearer TOKEN")
        refused.headers["WWW-Authenticate"] = "Bearer"
        return refused

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """Read a body; None if it is too large."""
        most, length = self._service.limits.body, headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 12 or int(length) > most:
            return None
        parts, size = list[bytes](), 0
        while True:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def write_line(row: dict[str, Any]) -> None:
    """Write a line of the log as JSON to standard error; control characters are escaped."""
    sys.stderr.write(json.dumps(row) + "\n")


def serve(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    log_histories: bool = False,
) -> None:
    """Answer HTTP requests until the process is told to stop; what was accepted is answered first.

    Args:
        service: see :class:`~recinject.serving.service.Service`.
        host: the address to listen on; any but this machine's own opens it to the network.
        port: 0 takes a free one.
        token: see :func:`create_app`.
        log_histories: whether the log says whose history was asked about.
    """
    local = host in LOCAL
    if not local:
        said = "with the token alone" if token else "and needs no token: add --token"
        say(f"--host {host}: whoever reaches this machine can ask, {said}")
    app = create_app(
        service,
        token,
        hosts=LOCAL if local else (),
        log=write_line,
        histories=log_histories,
    )
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=round(service.limits.seconds) + 1,
    )
    with _listening(host, port) as listener:
        address = f"http://{host}:{listener.getsockname()[1]}"
        say(f"serving {', '.join(service.shops)} at {address}, its reference at /docs")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        raise RecinjectError(
            f"serve: {host}:{port} cannot be listened on ({error})",
            hint="choose another --port; 0 takes a free one",
        ) from error
    listener.set_inheritable(True)
    return listener
