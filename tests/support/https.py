"""An HTTPS server of a test's own: something that is no API server, or an admission webhook of one."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from devcluster.certificates import make_loopback_certificate


@contextlib.contextmanager
def impostor(folder: Path, answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, str, list[str]]]:
    """An HTTPS server of the test's own: its URL, its CA, and the paths that were asked for.

    `answer` finds the request's body in `handler.body`.
    """
    ca_file, certificate, key = make_loopback_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    visits: list[str] = []

    class Impostor(BaseHTTPRequestHandler):
        body = b""

        def do_POST(self) -> None:
            visits.append(self.path)
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def do_GET(self) -> None:
            visits.append(self.path)
            answer(self)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Impostor) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}", ca_file.read_text(), visits
        server.shutdown()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """Answer a request."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
