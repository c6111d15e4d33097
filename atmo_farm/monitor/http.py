"""Health and metrics over HTTP: `/live`, `/ready`, `/metrics`, by uvicorn's protocol on the monitor's own loop.

One request for each connection, and PATIENCE_S for it: who sends slowly, never reads or only holds the place is cut off
then, and before that, the oldest first, when all places are taken.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from atmo_farm import clock
from atmo_farm.ipc.address import Listener
from atmo_farm.ipc.listener import Acceptor
from atmo_farm.monitor import health, metrics
from atmo_farm.monitor.farm import Farm

CONNECTIONS = 64

PATIENCE_S = 10.0

SHARE = 0.1
"""No more of the time goes into answers: asked more often, the last one is given again."""

JSON = "application/json"

Answer = tuple[int, bytes, str]
"""Status, body, content type."""


class HttpServer:
    """`/live` and `/ready` answer 200 or 503 with JSON, `/metrics` as the client accepts it."""

    def __init__(self, listener: Listener, farm: Farm):
        self._listener = listener
        self._farm = farm
        self._acceptor: Acceptor | None = None
        self.connections: dict[_Protocol, None] = {}
        """The oldest first."""
        self._kept: dict[str, tuple[float, Answer]] = {}
        """Answers, and until when they are given again."""
        self._routes: dict[str, Callable[[str], Answer]] = {
            "/live": self._live,
            "/ready": self._ready,
            "/metrics": self._metrics,
        }

    def start(self) -> None:
        """Answer."""
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        config = Config(
            self._app,
            interface="asgi3",
            loop="none",
            lifespan="off",
            ws="none",
            proxy_headers=False,
            log_config=None,
            access_log=False,
        )
        config.load()
        state = ServerState()
        self._acceptor = Acceptor(
            self._listener.socket,
            lambda: _Protocol(self.connections, config=config, server_state=state, app_state={}),
        )

    def close(self) -> None:
        """No more."""
        if self._acceptor is not None:
            self._acceptor.close()
        for connection in tuple(self.connections):
            connection.transport.abort()

    async def _app(self, scope: Any, _receive: Any, send: Any) -> None:
        """ASGI."""
        status, body, kind = self._answer(scope)
        headers = [(b"content-type", kind), (b"content-length", str(len(body))), (b"connection", "close")]
        encoded = [(name, value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, scope: Any) -> Answer:
        route = self._routes.get(scope["path"])
        if route is None:
            return 404, f"there is {', '.join(self._routes)}\n".encode(), "text/plain"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, b"only GET\n", "text/plain"
        accept = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"accept")
        key = f"{scope['path']} {'openmetrics' in accept}"
        began = clock.monotonic()
        until, answer = self._kept.get(key, (0.0, (0, b"", "")))
        if began >= until:
            answer = route(accept)
            ended = clock.monotonic()
            self._kept[key] = ended + (ended - began) / SHARE, answer
        return answer

    def _live(self, _accept: str) -> Answer:
        alive = health.is_alive(self._farm.numbers)
        return _json(alive, {"live": alive})

    def _ready(self, _accept: str) -> Answer:
        found = health.health(*self._farm.seen())
        return _json(found["ready"], found)

    def _metrics(self, accept: str) -> Answer:
        return 200, *metrics.render(accept, metrics.FarmCollector(*self._farm.seen()))


def _json(good: bool, found: dict[str, Any]) -> Answer:
    return 200 if good else 503, json.dumps(found).encode() + b"\n", JSON


class _Protocol(H11Protocol):
    """One connection."""

    def __init__(self, connections: dict[_Protocol, None], **given: Any):
        super().__init__(**given)
        self._places = connections
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self._places) >= CONNECTIONS:
            oldest = next(iter(self._places))
            del self._places[oldest]
            oldest.transport.abort()
        self._places[self] = None
        self._patience = self.loop.call_later(PATIENCE_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.pop(self, None)
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)
