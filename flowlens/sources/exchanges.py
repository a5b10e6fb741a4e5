"""One GET and its answer on a connection that is open already, by as little code as that takes.

Reading 50,000 small blobs is 50,000 times the same exchange with one server, of which urllib3 makes more than twice the work (see
bench/RESULTS.md). Connecting, proxies, TLS and answers of another form than a storage account's stay with it, and so do its
connections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from urllib3 import HTTPHeaderDict
    from urllib3.connectionpool import HTTPConnectionPool

_BUFFER = 1 << 16
_LINE = 1 << 16
_LINES = 100
_SLOW = 64 << 10
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d)(?: [^\r\n]*)?\r\n")


class Answer:
    """An answer whose length is known; its methods do what those of urllib3's HTTPResponse do."""

    def __init__(
        self,
        pool: HTTPConnectionPool,
        connection: Any,
        file: BinaryIO,
        status: int,
        headers: HTTPHeaderDict,
        length: int,
    ) -> None:
        self.status = status
        self.headers = headers
        self._pool = pool
        self._connection = connection
        self._file: Any = file
        self._left = length

    def read1(self, amount: int) -> bytes:
        """At most so many bytes, as they come; empty at the end of the body."""
        from urllib3.exceptions import IncompleteRead

        if not self._left:
            return b""
        piece: bytes = self._file.read1(min(amount, self._left))
        if not piece:
            raise IncompleteRead(0, self._left)
        self._left -= len(piece)
        return piece

    def read(self, amount: int) -> bytes:
        """So many bytes, fewer at the end of the body."""
        read = bytearray()
        while len(read) < amount and (piece := self.read1(amount - len(read))):
            read += piece
        return bytes(read)

    def drain_conn(self) -> None:
        """Take the rest of the body, so that the connection can be used again."""
        while self.read1(_BUFFER):
            pass
        self.release_conn()

    def release_conn(self) -> None:
        """Give the connection back."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        self._file.close()
        if self._left or self.headers.get("Connection", "").lower() == "close":
            connection.close()
        self._pool._put_conn(connection)

    close = release_conn


def exchanged(pool: HTTPConnectionPool, target: str, headers: Mapping[str, str], timeout: float) -> Answer | None:
    """The answer to a GET on a connection of ``pool``; None where none is open, or where the answer has another form.

    ``headers`` name the host. Raises OSError and urllib3's HTTPError where the connection fails.
    """
    connection: Any = pool._get_conn()
    if connection.sock is None:
        pool._put_conn(connection)
        return None
    answer = None
    try:
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        text = "\r\n".join([*lines, "", ""])
        if not text.count("\r") == text.count("\n") == len(lines) + 1:
            raise ValueError("a line break in a header")
        connection.sock.settimeout(timeout)
        connection.sock.sendall(text.encode("ascii"))
        file = connection.sock.makefile("rb", _BUFFER)
        answer = _begun(pool, connection, file)
        return answer
    finally:
        if answer is None:
            connection.close()
            pool._put_conn(connection)


def asked(
    pool: HTTPConnectionPool,
    target: str,
    headers: Mapping[str, str],
    timeouts: tuple[float, float],
    *,
    through: str = "",
    plain: bool = True,
) -> Any:
    """The answer to a GET, whose connection is made first where none is open; ``timeouts`` are to connect and to read.

    ``through`` is what stands before the path where a proxy takes plain http; an answer that is not ``plain`` may come in whatever
    form. Raises OSError and urllib3's HTTPError.
    """
    from urllib3.util import Timeout

    connect, read = timeouts
    return (exchanged(pool, through + target, headers, read) if plain else None) or pool.urlopen(
        "GET",
        through + target,
        headers=headers,
        retries=False,
        redirect=False,
        assert_same_host=not through,
        timeout=Timeout(connect=connect, read=read),
        preload_content=False,
        decode_content=False,
    )


def drips(seconds: float, read: int, silent: float) -> bool:
    """Whether so many bytes in so many seconds are as good as none within ``silent`` seconds.

    >>> drips(61, 1000, 60), drips(61, 1_000_000, 60)
    (True, False)
    """
    return seconds > silent * (1 + read / _SLOW)


def _begun(pool: HTTPConnectionPool, connection: Any, file: Any) -> Answer | None:
    """The answer once its headers are read."""
    from urllib3 import HTTPHeaderDict

    status_line, *lines = _head(file)
    status = _STATUS.fullmatch(status_line)
    headers = HTTPHeaderDict()
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or name != name.strip():
            return None
        headers.add(name, value.strip())
    length = headers.get("Content-Length", "")
    if (
        status is None
        or "Transfer-Encoding" in headers
        or not (length.isascii() and length.isdigit() and len(length) < 19)
    ):
        return None
    return Answer(pool, connection, file, int(status[1]), headers, int(length))


def _head(file: Any) -> list[bytes]:
    """The lines before the empty one, each as it came."""
    # Most come whole and in the usual form; taken apart at once they cost a fraction of what line after line does.
    held: bytes = file.peek(1)
    end = held.find(b"\r\n\r\n")
    if end >= 0 and held.count(b"\n", 0, end) == held.count(b"\r\n", 0, end) < _LINES:
        return [line + b"\n" for line in file.read(end + 4)[:-3].split(b"\n")]
    lines: list[bytes] = []
    while (line := _line(file)) != b"\r\n":
        if len(lines) > _LINES:
            return [b""]
        lines.append(line)
    return lines or [b""]


def _line(file: Any) -> bytes:
    from urllib3.exceptions import ProtocolError

    line: bytes = file.readline(_LINE)
    if len(line) < _LINE and not line.endswith(b"\n"):
        raise ProtocolError("the connection was closed before the headers ended")
    return line
