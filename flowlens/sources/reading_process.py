"""Runs of small blobs, read by a process of its own.

Threads that read 50,000 small blobs contend for the interpreter with those that decode them, which takes three times what reading
alone does (bench/RESULTS.md). So another process makes the exchanges. It gets requests that are signed already, and decides
nothing: what is not a whole answer of the usual form is left unread with the rest of its run, and whoever wants it reads it here,
with tries, waits and errors.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flowlens.sources.exchanges import asked, drips
from flowlens.sources.plain_reads import PlainReads, is_of, is_range
from flowlens.sources.workers import Workers

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool

_BUFFER = 1 << 20
_PIECE = 1 << 18
_UNFINISHED = 3
_FINISHED_EACH = 16
"""So many runs may stay unfinished, and one more for each 16 that do not: threads wait for a server that refuses, and this does not."""
_TOLD = ("ETag", "Content-Range")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A small blob, which is not empty, as it was listed: its key, its size in bytes, and the ETag of the version to read."""

    key: str
    size: int
    etag: str


@dataclass(slots=True)
class _Run:
    reads: PlainReads = field(repr=False)
    wanted: Sequence[Wanted]
    futures: list[Future[bytes]]


class ReadingProcess:
    """Reads runs of small blobs over ``connections`` at once; close it to end the process.

    It holds no key: a request comes to it signed, through a pipe.
    """

    def __init__(self, connections: int) -> None:
        """Raises OSError where no process can be started."""
        if not Path(sys.executable or "").stem.startswith("python"):
            raise OSError("what runs here is a program that has Python in it, not Python")
        self._lock = threading.Lock()
        self._numbers = count()
        self._under_way: dict[int, _Run] = {}
        self._left = _UNFINISHED * _FINISHED_EACH
        self._open = True
        self._runs: queue.SimpleQueue[tuple[int, _Run] | None] = queue.SimpleQueue()
        code = "from flowlens.sources.reading_process import main; main()"
        self._process = subprocess.Popen(  # noqa: S603 - this Python and code of its own
            [sys.executable, "-P", "-c", code, str(connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=_BUFFER,
            # The package may stand where only this process was told to look.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._process.stdin and self._process.stdout
        _widen(self._process.stdout)
        for run, pipe in ((self._ask, self._process.stdin), (self._receive, self._process.stdout)):
            threading.Thread(target=run, args=(pipe,), daemon=True, name="flowlens-read-apart").start()

    def submit(self, reads: PlainReads, wanted: Sequence[Wanted]) -> list[Future[bytes]] | None:
        """The bytes of each blob in turn, none for one left unread; None in place of all where the process serves no more."""
        run = _Run(reads, wanted, [Future() for _ in wanted])
        for future in run.futures:
            future.set_running_or_notify_cancel()
        with self._lock:
            if not self._open:
                return None
            number = next(self._numbers)
            self._under_way[number] = run
        self._runs.put((number, run))
        return run.futures

    def close(self) -> None:
        """End the process; what is under way is left unread."""
        self._end()
        self._process.kill()
        self._process.wait()

    def _end(self) -> None:
        with self._lock:
            self._open = False
            runs = list(self._under_way.values())
            self._under_way.clear()
        self._runs.put(None)
        for run in runs:
            _leave(run.futures)

    def _ask(self, pipe: IO[bytes]) -> None:
        with suppress(OSError), pipe:
            while taken := self._runs.get():
                number, run = taken
                try:
                    requests = [run.reads.request(each.key, 0, each.size, each.etag) for each in run.wanted]
                except Exception:  # noqa: BLE001 - a credential fails as it will; who reads the blob here is told of it
                    self._finish(number, [])
                    continue
                sizes = [each.size for each in run.wanted]
                asks = [(target, headers, size) for (target, headers), size in zip(requests, sizes, strict=True)]
                pipe.write(json.dumps((number, _place_of(run.reads), asks)).encode() + b"\n")
                pipe.flush()

    def _receive(self, pipe: IO[bytes]) -> None:
        try:
            with pipe:
                while line := pipe.readline():
                    number, answers = json.loads(line)
                    self._finish(number, [(told, pipe.read(size)) for told, size in answers])
        finally:
            self._end()

    def _finish(self, number: int, answers: Sequence[tuple[Mapping[str, str], bytes]]) -> None:
        with self._lock:
            run = self._under_way.pop(number, None)
            if run is None:
                return
            finished = len(answers) == len(run.wanted)
            self._left += 1 if finished else -_FINISHED_EACH
            if self._left <= 0:
                self._open = False
        for wanted, future, (told, body) in zip(run.wanted, run.futures, answers, strict=False):
            good = len(body) == wanted.size and is_range(told, 0, wanted.size) and is_of(told, wanted.etag)
            future.set_result(body if good else b"")
        _leave(run.futures[len(answers) :])


def _leave(futures: Sequence[Future[bytes]]) -> None:
    for future in futures:
        future.set_result(b"")


def _widen(pipe: IO[bytes]) -> None:
    """Let a run's blobs wait in the pipe, where the system can: a reader is then woken once for them."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _BUFFER)


_Place = tuple[str, str, int | None, str | None, str | None, float, float]
"""Scheme, host, port, certificates to trust (file and folder), seconds to connect and to read."""


def _place_of(reads: PlainReads) -> _Place:
    pool: Any = reads.pool
    certificates = (getattr(pool, name, None) for name in ("ca_certs", "ca_cert_dir"))
    file, folder = (None if each is None else os.fspath(each) for each in certificates)
    return pool.scheme, pool.host, pool.port, file, folder, *reads.timeouts


def main() -> None:
    """Answer the runs on standard input until it ends; ``sys.argv`` says how many at once."""
    # An interrupt goes to every process of a terminal, and the one that reads our answers ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connections = int(sys.argv[1])
    workers = Workers(connections, threading.Event())
    writing = threading.Lock()
    pools = lru_cache(partial(_pool, connections))
    for line in sys.stdin.buffer:
        number, place, asks = json.loads(line)
        workers.submit(partial(_answer, number, pools(tuple(place)), place[-2:], asks, writing), urgent=False)
    os._exit(0)


def _pool(connections: int, place: _Place) -> HTTPConnectionPool:
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    scheme, host, port, file, folder, *_ = place
    if scheme == "http":
        return HTTPConnectionPool(host, port, maxsize=connections)
    return HTTPSConnectionPool(
        host, port, maxsize=connections, cert_reqs="CERT_REQUIRED", ca_certs=file, ca_cert_dir=folder
    )


def _answer(
    number: int,
    pool: HTTPConnectionPool,
    timeouts: tuple[float, float],
    asks: Sequence[tuple[str, dict[str, str], int]],
    writing: threading.Lock,
) -> None:
    answers: list[tuple[dict[str, str], int]] = []
    bodies: list[bytes] = []
    for target, headers, size in asks:
        answer = _read(pool, timeouts, target, headers, size)
        if answer is None:
            break
        told, body = answer
        answers.append((told, len(body)))
        bodies.append(body)
    out = sys.stdout.buffer
    try:
        with writing:
            out.writelines([json.dumps((number, answers)).encode() + b"\n", *bodies])
            out.flush()
    except OSError:
        os._exit(0)


def _read(
    pool: HTTPConnectionPool, timeouts: tuple[float, float], target: str, headers: dict[str, str], size: int
) -> tuple[dict[str, str], bytes] | None:
    """What an answer tells and its body, not more than ``size`` bytes; None where it is not a plain one that comes in time."""
    from urllib3.exceptions import HTTPError

    began = time.monotonic()
    body = bytearray()
    try:
        response = asked(pool, target, headers, timeouts)
        try:
            if response.status != 206:
                return None
            while piece := response.read1(_PIECE):
                body += piece
                if len(body) > size or drips(time.monotonic() - began, len(body), timeouts[1]):
                    return None
            response.release_conn()
        finally:
            response.close()
    except (HTTPError, OSError, ValueError, LookupError):
        return None
    return {name: response.headers[name] for name in _TOLD if name in response.headers}, bytes(body)
