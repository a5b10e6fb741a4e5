"""The bytes of stored blobs: ranges of one version, read ahead of the decoder, tried again within a deadline.

Every range carries the ETag of the version that is read, so no blob is ever put together from two. What may still grow is read
as its committed blocks; once another version is there, reading goes on where the blocks read so far are the same.
"""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, TypeVar
from xml.etree.ElementTree import ParseError

from flowlens.budget import MOST_AHEAD
from flowlens.errors import ConfigError, SourceError
from flowlens.sources.accounts import PATIENCE, Account
from flowlens.sources.exchanges import drips
from flowlens.sources.files import inflated
from flowlens.sources.pages import parse_blocks
from flowlens.sources.plain_reads import is_of, is_range, quoted
from flowlens.sources.reading_process import ReadingProcess, Wanted
from flowlens.sources.refusals import Again, asked_wait, declared, is_passing, is_throttling, refusal, status_of
from flowlens.sources.stored_blobs import StoredBlob
from flowlens.sources.workers import Gate, Workers

RANGE = 4 << 20
"""Bytes of one request: large enough that the round trip costs little, small enough that trying again does too."""
AHEAD_PARTS = 16
TOGETHER = 16
"""So many small blobs are read by one thread in a row: waking it costs as much as asking for one of them."""
WORKERS_PER_THREAD = 6
WORKERS_LIMIT = 32
APART_FROM = 2000
"""From so many blobs on a process of its own reads the small ones: to start it takes as much as it saves on some hundreds."""

_APART_BYTES = 1 << 20  # of a run; with larger blobs the waking of threads counts for little, and memory for much
_LAST = 64  # so few bytes at the end are no range of their own; it keeps the two closing bytes together
_TRIES = 8
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 20.0
_VERSIONS_LIMIT = 100
_FAILURES_LIMIT = 3
_CHUNK = 1 << 20
_SMALL = 1 << 18
_RECENT = 1000
_Result = TypeVar("_Result")
_Taken = list[bytes] | IO[bytes] | bytes | None
"""Pieces of a range, a later version as a file, a small blob (empty where it was left unread), None where another version is there."""
BLOB_REQUESTS = "requests for blobs"
"""What tries again are counted of, in a ledger's notes."""
_GZIP_MAGIC = b"\x1f\x8b"


def range_of(ahead: int) -> int:
    """Bytes of one request where ``ahead`` bytes may lie ready before a thread: several lie there at a time."""
    return max(1 << 20, min(RANGE, ahead // 4))


def reads_of(size: int, *, is_open: bool, ahead: int) -> int:
    """How many read operations a blob of so many bytes takes where nothing goes wrong; one that may grow has its blocks listed too.

    >>> reads_of(9_000_000, is_open=False, ahead=16_000_000), reads_of(0, is_open=False, ahead=16_000_000)
    (3, 0)
    """
    if is_open:
        return 1 + -(-size // range_of(ahead))
    return len(_starts(size, range_of(ahead))) if size else 0


def _starts(size: int, each: int) -> range:
    return range(0, max(1, size - _LAST), each)


class StoppedError(Exception):
    """Reading was ended while someone waited for it: the run is over, and nobody takes what this thread would give."""


class VersionChangedError(Exception):
    """Another version of the blob is there than the one that is read."""


class _IncompleteError(Exception):
    """The body was shorter or longer than the headers said, or came too slowly."""


@dataclass(frozen=True, slots=True)
class Version:
    """One committed state of a blob: its ETag, size, and blocks as (id, size)."""

    etag: str
    size: int
    blocks: tuple[tuple[str, int], ...]

    @property
    def closer(self) -> int:
        """Bytes of the last block, which each commit replaces; 0 where the blocks do not tell."""
        return self.blocks[-1][1] if self.told else 0

    @property
    def told(self) -> bool:
        """Whether the blocks account for every byte, as they do not for a blob written in one piece."""
        return bool(self.blocks) and sum(size for _, size in self.blocks) == self.size

    def goes_on_in(self, later: Version) -> bool:
        """Whether ``later`` holds all of this version's bytes: new blocks stand only before the last one."""
        return (
            self.told
            and later.told
            and later.blocks[: len(self.blocks) - 1] == self.blocks[:-1]
            and later.blocks[-1] == self.blocks[-1]
        )


class Reader:
    """Reads blobs in the order given, ahead of whoever takes them; close it to end what is under way.

    At most about ``ahead`` bytes lie ready before each of ``threads``, whatever the size of the blobs. Of ``apart_from`` blobs and
    more the small ones are read by a process of its own.
    """

    def __init__(
        self, blobs: Sequence[StoredBlob], *, threads: int, ahead: int = MOST_AHEAD, apart_from: int | None = None
    ) -> None:
        self._count = len(blobs)
        # Asked for again and again while what lies ahead is looked through.
        self._blob = lru_cache(_RECENT)(blobs.__getitem__)
        self._parts = lru_cache(_RECENT)(self._parts_of)
        self._run = lru_cache(_RECENT)(self._run_at)
        self._stopped = threading.Event()
        workers = min(WORKERS_LIMIT, max(4, WORKERS_PER_THREAD * threads))
        self._workers = Workers(workers, self._stopped)
        self._ahead = ahead
        self._range = range_of(ahead)
        self._tasks: dict[tuple[int, int], Future[Any]] = {}
        self._begun = bytearray(len(blobs))
        self._asked = bytearray(len(blobs))
        self._lock = threading.Lock()
        self._most = workers
        self._gates: dict[int, Gate] = {}
        self._failures: dict[int, int] = {}
        self._broken: dict[int, SourceError | ConfigError] = {}
        self._later: dict[int, tuple[str, int]] = {}
        self._again, self._left = Again(), 0
        self._may_be_apart = apart_from is not None and len(blobs) >= apart_from
        self._apart: ReadingProcess | None = None

    def close(self) -> None:
        """End all reading; whoever still waits gets `StoppedError`."""
        self._workers.stop()
        with self._lock:
            if self._apart:
                self._apart.close()
            dropped = list(self._tasks.values())
            self._tasks.clear()
        for future in dropped:
            _discard(future)

    def chunks(self, index: int) -> Iterator[bytes]:
        """The bytes of the blob at ``index``, decompressed where they begin as gzip; they are of one version.

        Raises SourceError where the blob cannot be read, FormatError for damaged gzip.
        """
        blob = self._blob(index)
        if blob.refused:
            raise declared(blob.refused, blob.name, "an append or page blob")
        pieces = self._pieces(index)
        try:
            first = next(pieces, b"")
            if first[:2] != _GZIP_MAGIC:
                if first:
                    yield first
                yield from pieces
            else:
                yield from inflated(blob.name, io.BufferedReader(_Stream(first, pieces)), _CHUNK)
        finally:
            pieces.close()

    def _pieces(self, index: int) -> Generator[bytes, None, None]:
        blob = self._blob(index)
        parts = self._parts(index)
        digest = hashlib.blake2b(usedforsecurity=False) if len(parts) > 1 else None
        offset = 0
        try:
            self._begun[index] = 1
            for part in range(len(parts)):
                taken = self._take(index, part)
                if isinstance(taken, list):
                    for piece in taken:
                        if digest:
                            digest.update(piece)
                        offset += len(piece)
                        yield piece
                    continue
                with taken:
                    if digest and offset and _digest_of(taken, offset) != digest.digest():
                        raise declared("FL-S29", blob.name)
                    taken.seek(offset)
                    while chunk := taken.read(_CHUNK):
                        yield chunk
                return
        finally:
            with self._lock:
                for part in range(len(parts)):
                    if future := self._tasks.pop((index, part), None):
                        _discard(future)

    def _parts_of(self, index: int) -> list[tuple[int, int]]:
        """The ranges of a blob as (start, length); what may grow is one part, whatever its size."""
        blob = self._blob(index)
        if blob.is_open:
            return [(0, min(blob.size, self._ahead))]
        if not blob.size:
            return []
        starts = list(_starts(blob.size, self._range))
        return [(a, b - a) for a, b in zip(starts, [*starts[1:], blob.size], strict=True)]

    def _take(self, index: int, part: int) -> list[bytes] | IO[bytes]:
        """The range, or from it on the whole of a later version as a file."""
        with self._lock:
            future = self._tasks.pop((index, part), None)
        within = future is not None and index % TOGETHER != 0 and self._small(index)
        if future is None:
            (future,) = self._workers.submit(self._task(index, part), urgent=True)
        elif not future.done():
            self._workers.hasten(future)
        if not within:
            self._read_ahead(index, part)
        taken = self._result(future)
        if isinstance(taken, bytes) and taken:
            self._failures[id(self._blob(index).account)] = 0
            return [taken]
        if taken == b"":
            with self._lock:
                self._left += 1
            taken = self._result(self._read_here(index))
        if taken is None:
            self._again.count("another version")
            taken = self._result(*self._workers.submit(self._task(index), urgent=True))
        assert taken is not None and not isinstance(taken, bytes)
        return taken

    def _read_here(self, index: int) -> Future[Any]:
        """Read what the other process left unread of a run, the rest too before someone waits for it."""
        with self._lock:
            for each in range(index + 1, self._run(index)[0]):
                future = self._tasks.get((each, 0))
                ended = future and future.done() and not future.cancelled() and not future.exception()
                if future and ended and future.result() == b"":
                    self._submit_here([(each, 0)])
        return self._workers.submit(self._task(index, 0), urgent=True)[0]

    def _result(self, future: Future[_Taken]) -> _Taken:
        while True:
            try:
                return future.result(timeout=0.5)
            except FutureTimeoutError:
                if self._stopped.is_set():
                    raise StoppedError from None
                if self._apart:
                    self._apart.end_if_silent()
            except CancelledError:
                raise StoppedError from None

    def _read_ahead(self, index: int, part: int) -> None:
        """Have the parts behind this one read, as far as bytes and count allow, those of the blobs behind too."""
        if self._stopped.is_set():
            return
        ahead, count = 0, 0
        at, first = index, part + 1
        with self._lock:
            while at < self._count and count < AHEAD_PARTS and at <= index + TOGETHER * AHEAD_PARTS:
                following, size = self._run(at)
                if at == index or following == at + 1:
                    if at == index or not (self._begun[at] or self._blob(at).refused):
                        parts = self._parts(at)
                        for number in range(first, len(parts)):
                            ahead += parts[number][1]
                            count += 1
                            if ahead > self._ahead or count > AHEAD_PARTS:
                                return
                            self._submit([(at, number)])
                    following = at + 1
                else:
                    ahead += size
                    count += 1
                    if ahead > self._ahead:
                        return
                    if not self._asked[at]:
                        self._asked[at] = 1
                        self._submit([(each, 0) for each in range(at, following) if not self._begun[each]])
                at, first = following, 0

    def _submit(self, parts: Sequence[tuple[int, int]]) -> None:
        wanted = [each for each in parts if each not in self._tasks]
        futures = self._submit_apart(wanted) if len(wanted) > 1 else None
        if futures is None:
            self._submit_here(wanted)
        else:
            self._tasks.update(zip(wanted, futures, strict=True))

    def _submit_here(self, wanted: Sequence[tuple[int, int]]) -> None:
        if wanted:
            futures = self._workers.submit(*(self._task(*each) for each in wanted), urgent=False)
            self._tasks.update(zip(wanted, futures, strict=True))

    def _submit_apart(self, wanted: Sequence[tuple[int, int]]) -> list[Future[bytes]] | None:
        """What the other process will give for a run of small blobs; None where it can't be asked."""
        blobs = [self._blob(index) for index, _ in wanted]
        account = blobs[0].account
        if (
            not self._may_be_apart
            or self._stopped.is_set()
            or id(account) in self._broken
            or not account.reads.direct
            or ((gate := self._gates.get(id(account))) and gate.is_narrow())
            or any(blob.account is not account for blob in blobs)
            or sum(blob.size for blob in blobs) > _APART_BYTES
        ):
            return None
        if self._apart is None:
            try:
                self._apart = ReadingProcess(self._most)
            except OSError:
                self._may_be_apart = False
                return None
        return self._apart.submit(account.reads, [Wanted(blob.key, blob.size, blob.etag) for blob in blobs])

    def _small(self, index: int) -> bool:
        """Whether a blob is read by one short request."""
        blob = self._blob(index)
        return 0 < blob.size <= _SMALL and not blob.is_open and not blob.refused

    def _run_at(self, index: int) -> tuple[int, int]:
        """Where the small blobs that are read in a row from ``index`` on end, and their bytes; the next one where it is not small."""
        end, size = index, 0
        while end < self._count and self._small(end) and (end == index or end % TOGETHER):
            size += self._blob(end).size
            end += 1
        return max(end, index + 1), size

    def _task(self, index: int, part: int | None = None) -> Callable[[], list[bytes] | IO[bytes] | None]:
        """Reads one part, or the whole as a file where ``part`` is None or the blob may grow.

        It gives None where another version is there: all parts find that, and the whole is then read once.
        """
        blob = self._blob(index)

        def read() -> list[bytes] | IO[bytes] | None:
            if broken := self._broken.get(id(blob.account)):
                raise type(broken)(blob.name, broken.problem, hint=broken.hint)
            try:
                result: list[bytes] | IO[bytes] | None
                if blob.is_open or part is None:
                    result = self._whole(index)
                else:
                    start, length = self._parts(index)[part]
                    try:
                        result = self._get(blob, start, length, blob.etag)
                    except VersionChangedError:
                        result = None
            except SourceError as error:
                self._note(blob.account, error)
                raise
            self._failures[id(blob.account)] = 0
            return result

        return read

    def _note(self, account: Account, error: SourceError) -> None:
        """Give an account up that refuses the identity, or fails blob after blob: waiting for each would take days."""
        code = error.problem.partition(" ")[0]
        key = id(account)
        if code in _OF_THE_BLOB:
            return
        self._failures[key] = self._failures.get(key, 0) + 1
        if code not in _PASSING or self._failures[key] >= _FAILURES_LIMIT:
            self._broken.setdefault(key, error)

    def committed(self, index: int) -> Version:
        """The version of the blob at ``index`` that is there now, by its committed blocks."""
        blob = self._blob(index)
        if blob.refused:
            raise declared(blob.refused, blob.name, "an append or page blob")
        return self._committed(blob)

    def name_of(self, index: int) -> str:
        """The name of the blob at ``index``, with its container."""
        return self._blob(index).name

    def blob(self, index: int) -> StoredBlob:
        """The blob at ``index``."""
        return self._blob(index)

    def chunks_of(self, index: int, etag: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes [start, end) of the version ``etag``; raises VersionChangedError where another is there by now."""
        blob = self._blob(index)
        if blob.refused:
            raise declared(blob.refused, blob.name, "an append or page blob")
        for at in range(start, end, self._range):
            yield from self._get(blob, at, min(self._range, end - at), etag)

    def version(self, index: int) -> tuple[str, int]:
        """ETag and size of the version of the blob at ``index`` that was read; as listed, unless another was there."""
        blob = self._blob(index)
        return self._later.get(index, (blob.etag, blob.size))

    def broken(self) -> list[SourceError | ConfigError]:
        """Why accounts were given up in the middle, one error each."""
        return list(self._broken.values())

    @property
    def again(self) -> Again:
        """What counts requests that were tried again, by what came of the try before."""
        return self._again

    def told(self) -> tuple[str, ...]:
        """In words, what reading met and got over."""
        left = (f"small blobs that threads read since the process that reads them left them: {self._left}",)
        return (*self._again.told(BLOB_REQUESTS), *(left if self._left else ()))

    # What goes over the network

    def _whole(self, index: int) -> IO[bytes]:
        """The whole of one version as a file at its start; the version that is there when reading begins, if it stays readable."""
        blob = self._blob(index)
        deadline = time.monotonic() + PATIENCE * blob.account.timeout
        file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=self._range)  # noqa: SIM115 - who takes it closes it
        try:
            goal = now = self._committed(blob)
            versions = 1
            while file.tell() < goal.size:
                start = file.tell()
                ends = goal.size if now is goal else goal.size - goal.closer
                shift = 0
                if start >= ends:
                    ends, shift = goal.size, now.size - goal.size
                try:
                    file.writelines(self._get(blob, start + shift, min(self._range, ends - start), now.etag))
                    deadline = time.monotonic() + PATIENCE * blob.account.timeout
                except VersionChangedError:
                    versions += 1
                    if versions > _VERSIONS_LIMIT or time.monotonic() > deadline:
                        raise declared("FL-S30", blob.name) from None
                    self._again.count("another version")
                    now = self._committed(blob)
                    if not goal.goes_on_in(now):
                        goal = now
                        file.seek(0)
                        file.truncate()
            file.seek(0)
            self._later[index] = goal.etag, goal.size
        except BaseException:
            file.close()
            raise
        return file

    def _committed(self, blob: StoredBlob) -> Version:
        """The committed blocks and, from the same response, their ETag: the list itself takes no condition."""

        def list_blocks() -> Version:
            with blob.account.reads.blocks(blob.key) as (headers, body):
                try:
                    blocks = parse_blocks(self._in_time(body, blob.account.timeout))
                except ParseError as error:
                    raise _IncompleteError(f"no list of blocks: {error}") from None
            size, etag = headers.get("x-ms-blob-content-length", ""), quoted(headers.get("ETag", ""))
            if not size.isdigit() or etag == quoted(""):
                raise _IncompleteError("the block list came without size or ETag")
            return Version(etag, int(size), blocks)

        return self._tried(blob, list_blocks)

    def _get(self, blob: StoredBlob, start: int, length: int, etag: str) -> list[bytes]:
        """The bytes [start, start + length) of the version ``etag`` in pieces; never fewer, never of another version."""
        from azure.core.exceptions import HttpResponseError

        def get() -> list[bytes]:
            pieces: list[bytes] = []
            read = 0
            try:
                with blob.account.reads.range(blob.key, start, length, etag) as (headers, body):
                    for piece in self._in_time(body, blob.account.timeout):
                        pieces.append(piece)
                        read += len(piece)
                        if read > length:
                            raise _IncompleteError(f"asked for {length} bytes at {start}, more came")
            except HttpResponseError as error:
                if status_of(error) in (412, 416):
                    raise VersionChangedError from None
                raise
            if not is_of(headers, etag):
                raise VersionChangedError
            if read != length or not is_range(headers, start, length):
                raise _IncompleteError(f"asked for {length} bytes at {start}, {read} came")
            return pieces

        return self._tried(blob, get)

    def _in_time(self, body: Iterable[bytes], silent: float) -> Iterator[bytes]:
        """The pieces of a body, unless it drips or reading is ended."""
        began, read = time.monotonic(), 0
        for piece in body:
            read += len(piece)
            if self._stopped.is_set():
                raise StoppedError
            if drips(time.monotonic() - began, read, silent):
                raise _IncompleteError(f"{read} bytes came in time")
            yield piece

    def _tried(self, blob: StoredBlob, request: Callable[[], _Result]) -> _Result:
        """What ``request`` gives, tried again while that can help and the deadline allows."""
        from azure.core.exceptions import AzureError

        gate = self._gates.get(id(blob.account)) or self._gates.setdefault(id(blob.account), Gate(self._most))
        deadline = time.monotonic() + PATIENCE * blob.account.timeout
        for attempt in range(_TRIES):
            throttled = False
            gate.enter(self._stopped)
            try:
                if self._stopped.is_set():
                    raise StoppedError
                return request()
            except (AzureError, _IncompleteError, OSError, ValueError, LookupError) as error:
                # Headers are taken apart without looking: one that is cut off gives a ValueError or an IndexError.
                throttled = is_throttling(error)
                wait = _wait(error, attempt)
                passing = is_passing(error)
                if not passing or attempt + 1 == _TRIES or time.monotonic() + wait > deadline:
                    if isinstance(error, _IncompleteError):
                        raise declared("FL-S22", blob.name, f"{attempt + 1} tries ({error})") from None
                    raise refusal(error, blob.account.context(blob.name)) from None
                self._again.count(error)
            finally:
                gate.leave(throttled=throttled)
            self._stopped.wait(wait)
        raise AssertionError("unreachable")


_OF_THE_BLOB = {"FL-S26", "FL-S27", "FL-S28", "FL-S29", "FL-S30"}
_PASSING = {"FL-S16", "FL-S17", "FL-S21", "FL-S22", "FL-S23", "FL-S24", "FL-S35"}


def _wait(error: BaseException, attempt: int) -> float:
    """Seconds to wait before the next try: what the server asks for, else twice as long each time, spread by chance."""
    if asked := asked_wait(error):
        return asked
    return min(_LONGEST_WAIT, _FIRST_WAIT * float(2**attempt)) * random.uniform(0.5, 1)  # noqa: S311 - no secret


def _discard(future: Future[Any]) -> None:
    """Give up what nobody will take: a task that waits is not begun, a file that was made is closed."""

    def close(ended: Future[Any]) -> None:
        if not ended.cancelled() and ended.exception() is None and not isinstance(ended.result(), list | bytes | None):
            ended.result().close()

    if not future.cancel():
        future.add_done_callback(close)


def _digest_of(file: IO[bytes], length: int) -> bytes:
    digest = hashlib.blake2b(usedforsecurity=False)
    file.seek(0)
    while length and (chunk := file.read(min(_CHUNK, length))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.digest()


class _Stream(io.RawIOBase):
    """Pieces as a file that can be read from start to end."""

    def __init__(self, first: bytes, pieces: Iterator[bytes]) -> None:
        self._held = memoryview(first)
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            following = next(self._pieces, None)
            if following is None:
                return 0
            self._held = memoryview(following)
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count
