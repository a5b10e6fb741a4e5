"""Runs of small blobs, read by a process of its own.

Threads that read 50,000 small blobs contend for the interpreter with those that decode them, which takes three times what reading
alone does (bench/RESULTS.md). So another process makes the exchanges. It gets requests that are signed already, and decides
nothing: what is not a whole answer of the usual form is left unread with the rest of its run, and whoever wants it reads it here,
with tries, waits and errors.
"""

from __future__ import annotations

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

import msgspec

from flowlens.sources.exchanges import asked, drips
from flowlens.sources.plain_reads import PlainReads, is_of, is_range
from flowlens.sources.workers import Workers

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool

_BUFFER = 1 << 20
_PIECE = 1 << 18
_UNFINISHED = 3
_FINISHED_EACH = 16
"""So many runs in a row may stay unfinished, or one of each 16: threads wait for a server that refuses, and this does not."""
_MOST_LEFT = _UNFINISHED * _FINISHED_EACH
_BEAT = 1.0
SILENT = 30.0
"""Seconds. The process says each second that it is there, whatever servers do; after so much silence it must be stopped or stuck."""
_LOOKED = 5.0
"""Who waits looks twice a second. If nobody has for so long, this process may have been stopped itself, and begins to count anew."""
_HERE = b"\n"
_SECRET = ("AZURE_", "FLOWLENS_")
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

    It gets no key: a request comes to it signed, through a pipe.
    """

    def __init__(self, connections: int) -> None:
        """Raises OSError where no process can be started."""
        if not Path(sys.executable or "").stem.startswith("python"):
            raise OSError("what runs here is a program that has Python in it, not Python")
        self._lock = threading.Lock()
        self._numbers = count()
        self._under_way: dict[int, _Run] = {}
        self._left = _MOST_LEFT
        self._open = True
        self._heard = self._looked = time.monotonic()
        self._runs: queue.SimpleQueue[tuple[int, _Run] | None] = queue.SimpleQueue()
        code = "from flowlens.sources.reading_process import main; main()"
        self._process = subprocess.Popen(  # noqa: S603 - this Python and code of its own
            [sys.executable, "-P", "-c", code, str(connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=_BUFFER,
            env=_environment(),
        )
        assert self._process.stdin and self._process.stdout
        _widen(self._process.stdout)
        try:
            for run, pipe in ((self._ask, self._process.stdin), (self._receive, self._process.stdout)):
                threading.Thread(target=run, args=(pipe,), daemon=True, name="flowlens-read-apart").start()
        except RuntimeError as error:
            self.close()
            raise OSError(str(error)) from None

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

    def end_if_silent(self) -> None:
        """End a process that owes answers and has not been heard of for `SILENT` seconds; what is under way is left unread.

        Ask twice a second while waiting for an answer.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._looked > _LOOKED:
                self._heard = now
            self._looked = now
            silent = bool(self._under_way) and now - self._heard > SILENT
        if silent:
            self._end()
            self._process.kill()

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
                    signed = [(*run.reads.request(each.key, 0, each.size, each.etag), each.size) for each in run.wanted]
                    line = msgspec.json.encode((number, _place_of(run.reads), signed)) + b"\n"
                except Exception:  # noqa: BLE001 - a credential fails as it will; who reads the blob here is told of it
                    self._finish(number, [])
                    continue
                pipe.write(line)
                pipe.flush()

    def _receive(self, pipe: IO[bytes]) -> None:
        # A process that is killed may leave half a line.
        with suppress(OSError, ValueError), pipe:
            while line := pipe.readline():
                self._heard = time.monotonic()
                if line == _HERE:
                    continue
                number, answers = msgspec.json.decode(line)
                self._finish(number, [(told, pipe.read(size)) for told, size in answers])
        self._end()

    def _finish(self, number: int, answers: Sequence[tuple[Mapping[str, str], bytes]]) -> None:
        with self._lock:
            run = self._under_way.pop(number, None)
            if run is None:
                return
        bodies = [
            body if len(body) == wanted.size and is_range(told, 0, wanted.size) and is_of(told, wanted.etag) else b""
            for wanted, (told, body) in zip(run.wanted, answers, strict=False)
        ]
        finished = len(bodies) == len(run.wanted) and all(bodies)
        with self._lock:
            self._left = min(self._left + 1, _MOST_LEFT) if finished else self._left - _FINISHED_EACH
            if self._left <= 0:
                self._open = False
        for future, body in zip(run.futures, bodies, strict=False):
            future.set_result(body)
        _leave(run.futures[len(bodies) :])


def _environment() -> dict[str, str]:
    """What another process needs of this one's: no secret, and the folders of packages, which may stand where only this one looked."""
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith(_SECRET)}
    folders = os.pathsep.join(folder for folder in sys.path if isinstance(folder, str) and folder)
    # Each of its threads would keep memory of its own.
    return {**own, "PYTHONPATH": folders, "MALLOC_ARENA_MAX": "2"}


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
    threading.Thread(target=_beat, args=(writing,), daemon=True).start()
    for line in sys.stdin.buffer:
        number, place, asks = msgspec.json.decode(line)
        workers.submit(partial(_answer, number, pools(tuple(place)), place[-2:], asks, writing), urgent=False)
    os._exit(0)


def _beat(writing: threading.Lock) -> None:
    """Say each second that the process is there."""
    with suppress(OSError, ValueError):
        while True:
            time.sleep(_BEAT)
            with writing:
                sys.stdout.buffer.write(_HERE)
                sys.stdout.buffer.flush()


def _pool(connections: int, place: _Place) -> HTTPConnectionPool:
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.util.ssl_ import create_urllib3_context

    scheme, host, port, file, folder, *_ = place
    if scheme == "http":
        return HTTPConnectionPool(host, port, maxsize=connections)
    # One for all connections: the certificates take a megabyte.
    context = create_urllib3_context()
    if file or folder:
        context.load_verify_locations(file, folder)
    else:
        context.load_default_certs()
    return HTTPSConnectionPool(host, port, maxsize=connections, cert_reqs="CERT_REQUIRED", ssl_context=context)


def _answer(
    number: int,
    pool: HTTPConnectionPool,
    timeouts: tuple[float, float],
    asks: Sequence[tuple[str, dict[str, str], int]],
    writing: threading.Lock,
) -> None:
    """Read and answer a run; where that cannot be done the process ends, which whoever waits learns of."""
    answers: list[tuple[dict[str, str], int]] = []
    bodies: list[bytes] = []
    try:
        for target, headers, size in asks:
            answer = _read(pool, timeouts, target, headers, size)
            if answer is None:
                break
            told, body = answer
            answers.append((told, len(body)))
            bodies.append(body)
        whole = b"".join([msgspec.json.encode((number, answers)) + b"\n", *bodies])
        with writing:
            # At once: each write would wake the one that reads, and that one whoever decodes.
            sys.stdout.buffer.write(whole)
            sys.stdout.buffer.flush()
    except BaseException:  # noqa: BLE001 - nobody looks at what a thread ends with
        os._exit(1)


def _read(
    pool: HTTPConnectionPool, timeouts: tuple[float, float], target: str, headers: dict[str, str], size: int
) -> tuple[dict[str, str], bytes] | None:
    """What an answer tells and its body, not more than ``size`` bytes; None where it is not a plain one that comes in time."""
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
    except Exception:  # noqa: BLE001 - whatever it is, it will be met again where it is told
        return None
    return {name: response.headers[name] for name in _TOLD if name in response.headers}, bytes(body)
