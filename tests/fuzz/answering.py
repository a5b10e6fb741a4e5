"""A server on loopback whose answers are bytes given, in the order in which it is asked."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections import deque
from functools import cache

PARTED = b"\x00"
"""What stands between two answers: no answer that is well formed holds it."""
_SILENT = 0.02
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_answers: deque[bytes] = deque()


class _Handler(socketserver.BaseRequestHandler):
    """Gives the next answer to each request; a client that waits for more than there is finds the connection closed."""

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_SILENT)
        try:
            while self._asked(connection):
                connection.sendall(_answers.popleft())
        except (OSError, IndexError):
            return

    @staticmethod
    def _asked(connection: socket.socket) -> bool:
        """Whether a request came, with its body."""
        text, end = b"", -1
        while end < 0 or len(text) < end:
            if not (piece := connection.recv(1 << 16)):
                return False
            text += piece
            head = text.find(b"\r\n\r\n")
            if head >= 0:
                told = _LENGTH.search(text, 0, head)
                end = head + 4 + (int(told[1]) if told else 0)
        return True


@cache
def address() -> str:
    """Where the server listens; it ends with the process."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def answer_with(data: bytes) -> None:
    """Give these answers from now on, and no other."""
    _answers.clear()
    _answers.extend(data.split(PARTED))


def response(status: int, body: bytes, *headers: str) -> bytes:
    """A well-formed answer."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
