"""``python -m bench.blob_server FOLDER``: a folder served as a storage account on loopback, by the few calls that reading takes.

With a number in the place of the folder, so many names of empty blobs, as many NICs have them over the hours of some months.

Lists (with prefix, delimiter and pages) and ranges under an ETag, nothing else; it believes whoever asks. It is lean, so that a
bench on a machine of two cores measures the client: its own CPU seconds, and how often it was asked for what and gave how many bytes,
stand on its standard output once its input ends.
Standard library only.
"""

from __future__ import annotations

import asyncio
import bisect
import datetime as dt
import email.utils
import os
import re
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

ACCOUNT = "bench"
NICS = 1000
_PAGE = 5000
_RANGE = re.compile(rb"(?i)\r\nx-ms-range: *bytes=(\d+)-(\d+)")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_TIME = "Mon, 01 Jun 2026 00:00:00 GMT"
_ETAG = "0x8DC0000000000{:02X}"


class Store:
    """The files of a folder as blobs of one container, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        self.container = folder.name
        paths = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
        self.files = dict(sorted(paths))
        self.names = list(self.files)
        self.sizes = {name: path.stat().st_size for name, path in self.files.items()}
        self.requests: dict[str, int] = {}

    def listed(self, prefix: str, delimiter: str, marker: str, most: int) -> bytes:
        """A page of the list as XML."""
        items: list[str] = []
        at = bisect.bisect_left(self.names, max(prefix, marker))
        following = ""
        while at < len(self.names) and self.names[at].startswith(prefix):
            name = self.names[at]
            if len(items) == most:
                following = name
                break
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                folder = name[: cut + 1]
                items.append(f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>")
                at = bisect.bisect_left(self.names, folder + "\U0010ffff")
                continue
            items.append(
                f"<Blob><Name>{escape(name)}</Name><Properties><Creation-Time>{_TIME}</Creation-Time>"
                f"<Last-Modified>{_TIME}</Last-Modified><Etag>{_ETAG.format(0)}</Etag>"
                f"<Content-Length>{self.sizes[name]}</Content-Length><BlobType>BlockBlob</BlobType>"
                "<AccessTier>Hot</AccessTier></Properties></Blob>"
            )
            at += 1
        head = '<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>'
        return (
            f"{head}{''.join(items)}</Blobs><NextMarker>{escape(following)}</NextMarker></EnumerationResults>".encode()
        )

    def part(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end] of a blob."""
        with self.files[name].open("rb", buffering=0) as file:
            return os.pread(file.fileno(), end + 1 - start, start)


class Names(Store):
    """Names alone, ``NICS`` for each hour from June 2026 on; each blob is empty."""

    def __init__(self, count: int) -> None:
        self.container = "insights-logs-flowlogflowevent"
        root = (
            "flowLogResourceID=/A64ACBF7-0000-1111-2222-0123456789AB_NETWORKWATCHERRG/NETWORKWATCHER_EASTUS_FLOWLOG-1"
        )
        first = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
        self.names = []
        for number in range(count):
            hour = first + dt.timedelta(hours=number // NICS)
            folders = f"y={hour:%Y}/m={hour:%m}/d={hour:%d}/h={hour:%H}/m=00"
            self.names.append(f"{root}/{folders}/macAddress={0x00224800_0000 + number % NICS:012X}/PT1H.json")
        self.files = {}
        self.sizes = dict.fromkeys(self.names, 0)
        self.requests = {}


class _Connection(asyncio.Protocol):
    """One client's requests, one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[: end + 2]
            told = _LENGTH.search(head)
            whole = end + 4 + (int(told[1]) if told else 0)
            if len(self._held) < whole:
                return
            self._held = self._held[whole:]
            assert isinstance(self._transport, asyncio.WriteTransport)
            self._transport.writelines(self._answer(head))

    def _answer(self, head: bytes) -> list[bytes]:
        method, target, _ = head.partition(b"\r\n")[0].split(b" ")
        path, _, query = target.decode().partition("?")
        _, _, container, *rest = unquote(path).split("/", 3)
        counted = self._store.requests
        if container != self._store.container or method not in (b"GET", b"HEAD"):
            return self._made(404 if container != self._store.container else 405, b"")
        if not rest or not rest[0]:
            counted["LIST"] = counted.get("LIST", 0) + 1
            words = {name: values[0] for name, values in parse_qs(query).items()}
            most = min(_PAGE, int(words.get("maxresults", _PAGE)))
            page = self._store.listed(
                words.get("prefix", ""), words.get("delimiter", ""), words.get("marker", ""), most
            )
            return self._made(200, page, "Content-Type: application/xml\r\n")
        kind = method.decode()
        counted[kind] = counted.get(kind, 0) + 1
        size = self._store.sizes.get(rest[0])
        if size is None:
            return self._made(404, b"")
        facts = f'ETag: "{_ETAG.format(0)}"\r\nLast-Modified: {_TIME}\r\nx-ms-blob-type: BlockBlob\r\n'
        asked = _RANGE.search(head)
        if method == b"HEAD" or asked is None:
            return self._made(200, b"", facts, size)
        start, end = int(asked[1]), min(int(asked[2]), size - 1)
        facts += f"Content-Range: bytes {start}-{end}/{size}\r\n"
        part = self._store.part(rest[0], start, end)
        counted["bytes"] = counted.get("bytes", 0) + len(part)
        return self._made(206, part, facts)

    @staticmethod
    def _made(status: int, body: bytes, facts: str = "", length: int | None = None) -> list[bytes]:
        date = email.utils.formatdate(time.time(), usegmt=True)
        length = len(body) if length is None else length
        head = f"HTTP/1.1 {status} -\r\nDate: {date}\r\nx-ms-version: 2025-11-05\r\nContent-Length: {length}\r\n{facts}\r\n"
        return [head.encode(), body]


async def _serve(store: Store) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(store), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"http://127.0.0.1:{port}/{ACCOUNT}/{store.container}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    used = sum(os.times()[:2])
    sys.stdout.write(f"{used:.2f} {' '.join(f'{name}={count}' for name, count in sorted(store.requests.items()))}\n")


def main() -> None:
    """Serve until standard input ends."""
    given = sys.argv[1]
    asyncio.run(_serve(Names(int(given)) if given.isdigit() else Store(Path(given))))


if __name__ == "__main__":
    main()
