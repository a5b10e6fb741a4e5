"""HTTP servers of the tests: threads on a free loopback port, with or without TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """A request handler that keeps connections open and writes no log."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes; held together with the client's patience they would cost 40 ms an answer.
    disable_nagle_algorithm = True
    # A client that never sends its next request must not hold a thread for ever.
    timeout = 120

    def respond(self) -> None:
        """Answer the request, whatever its method; a handler of a test says how."""
        self.answer(405, b"")

    def __getattr__(self, name: str) -> Callable[[], None]:
        # The base class looks for a function of each method's name.
        if name.startswith("do_"):
            return self.respond
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class has
        """Nothing: tests read the log of requests, not standard error."""

    def answer(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        """Send a whole response."""
        self.send_response_only(status)
        self.send_header("Date", headers.pop("Date", self.date_time_string()))
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that hang up, and refuse a certificate, are what is tested."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: tuple[Path, Path] | None = None) -> Iterator[int]:
    """The port on which ``handler`` answers until the block ends. ``tls``: certificate and key."""
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
