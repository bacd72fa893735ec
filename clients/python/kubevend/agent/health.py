"""Whether all is well, over HTTP: /livez, /readyz and /metrics. No token is in any answer."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any

from kubevend.agent import metrics
from kubevend.agent.keeping import Keeper
from kubevend.agent.log import Log
from kubevend.upkeep import now

_log = logging.getLogger(__name__)

_STUCK_SECONDS = 60.0
"""When the main thread has not turned for so long, the agent is not alive."""

_MOST_CONNECTIONS = 32


class Beat:
    """When the main thread last turned."""

    def __init__(self, clock: Callable[[], float] = now) -> None:
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """It turns now."""
        self._last = self._clock()

    @property
    def is_stuck(self) -> bool:
        """Whether it has not turned for too long."""
        return self._clock() - self._last > _STUCK_SECONDS


class Health:
    """The endpoint, from the moment that it is made until it is closed."""

    def __init__(self, address: str, keepers: Sequence[Keeper], beat: Beat, log: Log) -> None:
        """Listen.

        Raises:
            OSError: that is not possible.
        """
        host, _, port = address.rpartition(":")
        self._server = _server(host.strip("[]"), int(port), _Answers(keepers, beat))
        self._thread = threading.Thread(target=self._server.serve_forever, name="kubevend-agent-health")
        self._thread.start()
        log.info("listening", address=f"{host}:{self._server.server_address[1]}")

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Answers:
    """What is answered to each path."""

    def __init__(self, keepers: Sequence[Keeper], beat: Beat) -> None:
        self._keepers = keepers
        self._beat = beat

    def of(self, path: str) -> tuple[HTTPStatus, str]:
        """The answer to a path."""
        match path.partition("?")[0]:
            case "/livez":
                return (HTTPStatus.SERVICE_UNAVAILABLE, "stuck\n") if self._beat.is_stuck else (HTTPStatus.OK, "ok\n")
            case "/readyz":
                return self._readiness()
            case "/metrics":
                return HTTPStatus.OK, metrics.text(self._keepers)
        return HTTPStatus.NOT_FOUND, "There are /livez, /readyz and /metrics.\n"

    def _readiness(self) -> tuple[HTTPStatus, str]:
        good = [(keeper, keeper.seconds_left > 0) for keeper in self._keepers]
        lines = [f"{'ok' if ready else 'NOT READY'} {keeper.output.name}: {keeper.state}\n" for keeper, ready in good]
        ready = all(ready for _, ready in good)
        return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, "".join(lines)


def _server(host: str, port: int, answers: _Answers) -> ThreadingHTTPServer:
    free = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        timeout = 5  # who connects and says nothing

        def do_GET(self) -> None:
            """Answer."""
            status, text = answers.of(self.path)
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            """Probes come every few seconds, and say nothing."""

    class Server(ThreadingHTTPServer):
        """As many connections at once as are of use, and no more."""

        address_family = AF_INET6 if ":" in host else ThreadingHTTPServer.address_family

        def process_request(self, request: Any, client_address: Any) -> None:
            """Take a connection, if there is room."""
            if free.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            """Serve it."""
            try:
                super().process_request_thread(request, client_address)
            finally:
                free.release()

        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its parameters there
            """Who goes away in the middle is no event; all else is a defect."""
            if not isinstance(sys.exception(), OSError):
                _log.exception("An answer about health failed.")

    return Server((host, port), Handler)
