"""A query over a window, asked in parts until every part is answered whole.

A part that is cut, or takes too long, is asked again as two halves: by time down to ten minutes, the shortest interval of
Traffic Analytics, then by hash. That a part is whole is proved by a ``count`` of the same part, since the service can cut
an answer without saying so.
"""

from __future__ import annotations

import datetime as dt
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from flowlens.budget import QUERIES
from flowlens.errors import FlowlensError, LedgerError
from flowlens.sources.refusals import Again, declared, status_of
from flowlens.sources.workspace import QUERY_SECONDS, Answer, Connection, Cut, Span

STEP = dt.timedelta(minutes=10)
"""The shortest interval of Traffic Analytics; no part is shorter."""
MOST_SLICES = 4096
"""Into how many parts by hash a span of ten minutes is cut at most."""
COUNT = "\n| count"
"""What makes of a query the number of its rows."""

_TRIES = 6
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
# An identity that asked too often waits out the queue, which is three minutes long.
_LONGEST_RETRY_AFTER = 180.0
_GIVE_UP_AT = 64
_HOUR = dt.timedelta(hours=1)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Slice:
    """A half-open part of a window; of ``slices`` parts by hash the one numbered ``slice``."""

    start: dt.datetime
    end: dt.datetime
    slices: int = 1
    slice: int = 0

    def __str__(self) -> str:
        span = f"{self.start.isoformat()} to {self.end.isoformat()}"
        return span if self.slices == 1 else f"{span}, part {self.slice + 1} of {self.slices}"

    def hours(self) -> list[dt.datetime]:
        """The full hours that it touches."""
        first = self.start.replace(minute=0, second=0, microsecond=0)
        return [first + n * _HOUR for n in range(-((first - self.end) // _HOUR))]

    def halves(self) -> tuple[Slice, Slice] | None:
        """Two parts that hold what this one holds, each thing once; None where it is the smallest.

        >>> hour = Slice(dt.datetime(2026, 1, 1, 7, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 8, tzinfo=dt.UTC))
        >>> [str(half) for half in hour.halves()]
        ['2026-01-01T07:00:00+00:00 to 2026-01-01T07:30:00+00:00', '2026-01-01T07:30:00+00:00 to 2026-01-01T08:00:00+00:00']
        """
        middle = self.start + (self.end - self.start) / 2
        middle -= (middle - _EPOCH) % STEP
        if self.slices == 1 and self.end - self.start > STEP:
            if middle <= self.start:
                middle += STEP
            if middle < self.end:
                return replace(self, end=middle), replace(self, start=middle)
        if self.slices >= MOST_SLICES:
            return None
        # What leaves the remainder k of n leaves k or k + n of 2n.
        twice = replace(self, slices=2 * self.slices)
        return twice, replace(twice, slice=self.slice + self.slices)


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of a part: its rows and the bytes on the way, or the error that ended it.

    ``counted`` are the numbers that the service was asked for beside the rows, the first being that of the rows.
    """

    part: Slice
    rows: pl.DataFrame
    bytes: int = 0
    error: FlowlensError | None = None
    counted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Done:
    """What a thread hands on of a part: whole, to be asked in halves, or failed."""

    part: Slice
    answer: Answer | None = None
    halves: tuple[Slice, Slice] | None = None
    error: FlowlensError | None = None
    bytes: int = 0
    counted: tuple[int, ...] = ()

    def reading(self) -> Reading:
        if self.answer is not None:
            try:
                return Reading(self.part, self.answer.frame(), self.bytes, counted=self.counted)
            except FlowlensError as error:
                return Reading(self.part, pl.DataFrame(), error=error)
        return Reading(self.part, pl.DataFrame(), error=self.error)


class Asker:
    """A connection asked patiently: errors that pass are waited out, and all threads wait when one is told to."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.requests = 0
        self.again = Again()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._failed = 0
        self._broken: FlowlensError | None = None
        self.stop = threading.Event()

    def ask(self, query: str, span: Span, *, seconds: int = QUERY_SECONDS, at_most: int | None = None) -> Answer:
        """The whole answer, on which the service may work for ``seconds``, of ``at_most`` bytes.

        Raises Cut where it is not all of it, and SourceError where asking again did not help.
        """
        from azure.core.exceptions import AzureError

        for attempt in range(1, _TRIES + 1):
            self._wait_until_allowed()
            try:
                answer = self.connection.ask(query, span, seconds=seconds, at_most=at_most)
            except AzureError as error:
                wait = _retry_after(error)
                if attempt == _TRIES or wait > _LONGEST_RETRY_AFTER:
                    told = self.connection.told(error)
                    self._count(told, _GIVE_UP_AT // 4)
                    raise told from None
                self.again.count(error)
                wait = wait or min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
                if status_of(error) == 429:
                    self._hold(wait)
                else:
                    self.stop.wait(wait)
            except Cut as cut:
                if cut.is_silence:
                    self._count(declared("FL-W10", str(self.connection.workspace), str(cut)), 1)
                raise
            except FlowlensError as error:
                # A right that is missing, or a table, is missing for every part.
                self._count(error, _GIVE_UP_AT)
                raise
            else:
                self._failed = 0
                return answer
        raise AssertionError("unreachable")

    def _wait_until_allowed(self) -> None:
        while True:
            with self._lock:
                if self._broken is not None:
                    raise self._broken
                wait = self._not_before - time.monotonic()
                if wait <= 0:
                    self.requests += 1
                    return
            if self.stop.wait(wait):
                raise declared("FL-W15", str(self.connection.workspace))

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _count(self, error: FlowlensError, weight: int) -> None:
        """Parts are halved and tried again for as long as anything is answered; a service that is down answers nothing."""
        with self._lock:
            self._failed += weight
            if self._failed >= _GIVE_UP_AT:
                self._broken = self._broken or error


def _retry_after(error: BaseException) -> float:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return max(0.0, float(headers.get("Retry-After") or 0))
    except ValueError:
        return 0.0


def read_slices(
    asker: Asker,
    parts: Sequence[Slice],
    text_of: Callable[[Slice], str],
    span_of: Callable[[Slice], Span],
    *,
    proof: str = COUNT,
    concurrent: int = QUERIES,
    at_most: int | None = None,
) -> Iterator[Reading]:
    """Every part, whole or with the error that ended it, as they come; parts of parts in the place of those that were cut.

    ``text_of`` is the query over a part, one tabular expression at its end, and ``span_of`` where its rows' TimeGenerated lies.
    ``proof``, put behind that expression, gives one row of numbers, the first of which is the number of rows; further ones are the
    same for a part that is none by hash. No more than
    ``concurrent`` answers of ``at_most`` bytes each are asked for or held at a time, the one that the caller works on among them.
    Raises LedgerError where a part does not hold what it was made of.
    """
    todo: queue.LifoQueue[Slice | None] = queue.LifoQueue()
    done: queue.SimpleQueue[_Done | BaseException] = queue.SimpleQueue()
    room = threading.Semaphore(concurrent)

    def work() -> None:
        while _has_room(room, asker.stop) and (part := todo.get()) is not None:
            try:
                done.put(_read(asker, part, text_of(part), span_of(part), proof, at_most))
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that asked
                done.put(error)

    for part in reversed(parts):
        todo.put(part)
    for number in range(concurrent):
        # Daemons, since a query that hangs would hold up the end of the process.
        threading.Thread(target=work, daemon=True, name=f"flowlens-query-{number}").start()
    left = len(parts)
    try:
        while left:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            if isinstance(result.error, LedgerError):
                raise result.error
            if result.halves is None:
                left -= 1
                reading = result.reading()
                # The text is not needed beside the rows that were made of it.
                del result
                yield reading
                del reading
            else:
                left += 1
                for half in reversed(result.halves):
                    todo.put(half)
            room.release()
    finally:
        asker.stop.set()
        for _ in range(concurrent):
            todo.put(None)


def _has_room(room: threading.Semaphore, stop: threading.Event) -> bool:
    """Wait until another answer may be held; whether there is any need of it."""
    while not stop.is_set():
        if room.acquire(timeout=0.1):
            return True
    return False


def _read(asker: Asker, part: Slice, query: str, span: Span, proof: str, at_most: int | None) -> _Done:
    """The part's rows, or its halves where it was cut; its error where it can't be halved."""
    halves = part.halves()
    where = str(asker.connection.workspace)
    for attempt in range(1, _TRIES + 1):
        try:
            answer, counted, size = ask_whole(asker, query, span, proof=proof, at_most=at_most)
            if part.slices == 1 and len(set(counted[1:])) > 1 and attempt < _TRIES:
                # Rows arrived while it was counted.
                del answer
                continue
            return _Done(part, answer, bytes=size, counted=counted)
        except Cut as cut:
            if halves is not None:
                return _Done(part, halves=halves)
            if not cut.is_silence or attempt == _TRIES:
                code = "FL-W10" if cut.is_silence else "FL-W12" if cut.is_changing else "FL-W09"
                return _Done(part, error=declared(code, where, str(cut)))
        except FlowlensError as error:
            return _Done(part, error=error)
    raise AssertionError("unreachable")


def ask_whole(
    asker: Asker,
    query: str,
    span: Span,
    *,
    proof: str = COUNT,
    seconds: int = QUERY_SECONDS,
    at_most: int | None = None,
) -> tuple[Answer, tuple[int, ...], int]:
    """An answer with as many rows as a count of the same query says, what was counted, and the bytes of both.

    The query has one tabular expression at its end; ``proof`` as `read_slices` says. Raises Cut where there is no such answer.
    """
    before = -1
    while True:
        answer = asker.ask(query, span, seconds=seconds, at_most=at_most)
        proved = asker.ask(f"{query.rstrip().removesuffix(';')}{proof}", span, seconds=seconds)
        counted = numbers_in(proved)
        found = len(answer.rows)
        if found == counted[0]:
            return answer, counted, answer.bytes + proved.bytes
        if found == before or found > counted[0]:
            raise Cut(f"{found} of {counted[0]} rows", is_changing=found > counted[0])
        # Rows may have arrived between the two; then the next answer has them.
        before = found
        del answer


def numbers_in(answer: Answer) -> tuple[int, ...]:
    """The whole numbers of an answer of one row; raises SourceError where it holds anything else."""
    cells = answer.cells() if len(answer.rows) == 1 else [[]]
    if not cells[0] or not all(isinstance(cell, int) for cell in cells[0]):
        raise declared("FL-W14", answer.where, "expected a row of numbers")
    return tuple(cells[0])
