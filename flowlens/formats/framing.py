"""Bytes of a flow log blob to its records, each with its place, whatever wraps them and whatever is broken.

Every byte lands in exactly one span: framing (wrapper, commas, whitespace), a record, or a broken stretch that is one
reject. Wrappers met in the wild are ``{"records": [...]}`` with other keys before or after, a top-level array, one bare
record, and one record per line. Nothing here knows what a record means: two functions passed in parse one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

BLOCK_BYTES = 4 * 2**20
"""Input is taken in steps of at least this size, however the chunks arrive."""
_TINY_CHUNK = 4096
MAX_RECORD_BYTES = 32 * 2**20
"""A longer record is skipped without being held, and rejected. Real ones stay near 32 KiB."""
MAX_DEPTH = 16
"""Deepest nesting inside a record; a flow record needs 7."""

BOM = b"\xef\xbb\xbf"
_GAP = re.compile(rb"[ \t\r\n,]*")
# Everything up to the next bracket or backslash outside a string; stops at a string that does not end in the buffer.
_PLAIN = re.compile(rb'(?:[^"{}\[\]\\]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_RECORDS_KEY = re.compile(rb'[{, \t\r\n]"records"[ \t\r\n]*:[ \t\r\n]*\Z')
_OPENER = re.compile(rb'\{[ \t\r\n]{0,64}"[^"\\]{0,64}"[ \t\r\n]{0,64}:')
# How a record starts before the first whole one taught it: a key of formats.md 1 and 5 comes first.
_FIRST_OPENER = re.compile(
    rb'\{[ \t\r\n]{0,64}"(?:time|category|flowLogVersion|flowLogGUID|flowLogResourceID|flowRecords|macAddress|operationName'
    rb'|properties|resourceId|systemId|targetResourceID)"[ \t\r\n]{0,64}:'
)
_OPENER_BYTES = 256
"""No opener is longer, so this many bytes kept across a block border lose none."""
_HEAD_BYTES = 1024
"""How much of a broken stretch is kept, to show a sample of it."""
_CUT_WINDOW = 256 * 2**10
"""How far a record's end is looked for by the next opener; bounds the cost of a file that never repeats one."""
_CLOSER = {ord("{"): ord("}"), ord("["): ord("]")}
_QUOTE, _BACKSLASH = ord('"'), ord("\\")

Value = TypeVar("Value")
Fitted = TypeVar("Fitted")


@dataclass(frozen=True, slots=True)
class Framing:
    """A stretch of wrapper, commas or whitespace."""

    length: int


@dataclass(frozen=True, slots=True)
class Record(Generic[Value, Fitted]):
    """One whole record: its place, its bytes, and what ``fit`` or else ``parse`` made of it."""

    offset: int
    raw: bytes
    value: Value | None
    fitted: Fitted | None


class Taken(NamedTuple):
    """What a ``bulk`` function took from some bytes: records, their bytes, where the last one starts and where it ends.

    ``unfinished`` says that the bytes ended inside what might be the next record.
    """

    records: int
    record_bytes: int
    last: int
    end: int
    unfinished: bool


Bulk = Callable[[bytes, int], Taken]


@dataclass(frozen=True, slots=True)
class Run:
    """Whole records in a row that ``bulk`` has, and the framing between them."""

    records: int
    record_bytes: int
    framing_bytes: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A stretch that holds no usable record; ``length`` is 0 where something that should follow is missing."""

    offset: int
    length: int
    reason: str
    head: bytes


def blocks(chunks: Iterable[bytes], size: int = BLOCK_BYTES) -> Iterator[memoryview]:
    """The same bytes in pieces of at most ``size``, none empty, tiny chunks put together.

    >>> [bytes(piece) for piece in blocks([b"ab", b"", b"cdefg"], 3)]
    [b'ab', b'cde', b'fg']
    """
    tiny = min(size, _TINY_CHUNK)
    held = bytearray()
    for chunk in chunks:
        if len(chunk) < tiny:
            held += chunk
            if len(held) < tiny:
                continue
            chunk = b""
        if held:
            yield memoryview(bytes(held))
            held.clear()
        view = memoryview(chunk)
        for start in range(0, len(view), size):
            yield view[start : start + size]
    if held:
        yield memoryview(bytes(held))


class _Buffer:
    """The unread part of the input: ``data[at:]`` starts at byte ``offset`` of the blob.

    ``ended``: someone asked for more and there was none, so what is found from then on may rest on where the input ends.
    """

    def __init__(self, source: Iterator[memoryview], size: int, base: int = 0) -> None:
        self._source = source
        self._size = size
        self._base = base
        self.data = b""
        self.at = 0
        self.ended = False

    @property
    def offset(self) -> int:
        return self._base + self.at

    def more(self) -> bool:
        """Whether there was more; takes at least as much again as is held, so that scanning a record anew is linear."""
        wanted = max(self._size, len(self.data) - self.at)
        parts = [memoryview(self.data)[self.at :]]
        while wanted > 0 and (block := next(self._source, None)):
            parts.append(block)
            wanted -= len(block)
        self._base += self.at
        self.at = 0
        self.data = b"".join(parts)
        self.ended = len(parts) == 1
        return not self.ended


@dataclass(frozen=True, slots=True)
class _Walk:
    """Where a walk over one object ended, and how: closed, records (their list opens), unclosed or a reason."""

    end: int
    outcome: str


def _walk(data: bytes, start: int, closers: bytearray, *, wrapper: bool) -> _Walk:
    """Follow brackets and strings from ``start`` until ``closers`` is used up; with ``wrapper`` stop at its records."""
    at = start
    while True:
        plain = _PLAIN.match(data, at)
        at = plain.end() if plain else at
        if at == len(data) or data[at] == _QUOTE:
            return _Walk(len(data), "unclosed")
        byte = data[at]
        if byte == _BACKSLASH:
            # No JSON; and where it escaped a quote for one walk but not for another, ever more walks would run on.
            return _Walk(at, "a backslash stands outside a string")
        if byte in _CLOSER:
            if wrapper and len(closers) == 1 and byte == ord("[") and _names_records(data, start, at):
                return _Walk(at + 1, "records")
            closers.append(_CLOSER[byte])
            if len(closers) > MAX_DEPTH:
                # Ends the walk at once: where openers nest, the walks from each of them stay linear together.
                return _Walk(at, f"nested deeper than {MAX_DEPTH}")
        elif closers.pop() != byte:
            return _Walk(at, "brackets do not balance")
        elif not closers:
            return _Walk(at + 1, "closed")
        at += 1


def _names_records(data: bytes, start: int, at: int) -> bool:
    return _RECORDS_KEY.search(data, max(start, at - _OPENER_BYTES), at) is not None


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text.decode("utf-8", "replace"), parse_int=float), dict)
    except ValueError:
        return False


def frames(
    chunks: Iterable[bytes],
    parse: Callable[[bytes], Value],
    fit: Callable[[bytes], Fitted | None] | None = None,
    bulk: Bulk | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Framing | Run | Record[Value, Fitted] | Broken]:
    """The spans of a blob in order; together they are all of its bytes.

    Args:
        chunks: the decompressed bytes, cut anywhere.
        parse: makes a value of a record's bytes; raises ValueError where they are not JSON.
        fit: tried first; returns None where a record is not of the shape it knows. It must accept nothing that
            ``parse`` refuses, and nothing that holds a ``records`` list or nests deeper than MAX_DEPTH.
        bulk: tried before either, with bytes and the place of a record in them; takes as many whole records as it knows. It
            must accept nothing that ``fit`` may not, and no record that starts otherwise than _OPENER.
        block_bytes: how much is taken at a time; the spans do not depend on it.

    >>> [type(span).__name__ for span in frames([b'{"records":[{"time":1},{"ti'], json.loads)]
    ['Framing', 'Record', 'Framing', 'Broken']
    """
    return _Framer(_Buffer(blocks(chunks, block_bytes), block_bytes), parse, fit, bulk, Place()).spans()


@dataclass(frozen=True, slots=True)
class Place:
    """Where framing stands behind a span: all that is needed to go on from there as if everything before had been read.

    ``offset`` counts bytes from the start of the blob, ``kind`` is top, list or tail (after a wrapper's list), ``opener`` is how
    records start.

    >>> Place.parse(12, Place(12, "list", True, b'{"time":').text) == Place(12, "list", True, b'{"time":')
    True
    """

    offset: int = 0
    kind: str = "top"
    wrapped: bool = False
    opener: bytes = b""

    @property
    def text(self) -> str:
        """Everything but the offset as text that a table can hold."""
        return f"{self.kind}{'+' if self.wrapped else '-'}{self.opener.decode('latin-1')}"

    @classmethod
    def parse(cls, offset: int, text: str) -> Place:
        """The place at ``offset`` whose ``text`` was kept."""
        kind, mark, opener = re.split("([+-])", text, maxsplit=1)
        return cls(offset, kind, mark == "+", opener.encode("latin-1"))


def decided_frames(
    chunks: Iterable[bytes],
    parse: Callable[[bytes], Value],
    fit: Callable[[bytes], Fitted | None] | None = None,
    *,
    start: Place,
    whole: bool,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[tuple[Framing | Record[Value, Fitted] | Broken, Place, bool]]:
    """The spans of a blob from ``start`` on, each with the place behind it, and whether it rests on where the input ends.

    ``chunks`` begin at ``start``. Unless the blob is ``whole``, spans end where more bytes could still change what they are: a
    record that is cut off may go on. What was decided once stays so, however the blob grows.

    >>> spans = decided_frames([b'{"records":[{"time":1},{"ti'], json.loads, start=Place(), whole=False)
    >>> [(type(span).__name__, place.offset) for span, place, _ in spans]
    [('Framing', 12), ('Record', 22), ('Framing', 23)]
    """
    framer = _Framer(_Buffer(blocks(chunks, block_bytes), block_bytes, start.offset), parse, fit, None, start)
    for span in framer.spans():
        if framer.buffer.ended and not whole:
            return
        assert not isinstance(span, Run), "only bulk gives runs"
        yield span, framer.here, framer.buffer.ended


class _Framer(Generic[Value, Fitted]):
    """One pass over one blob. ``place`` is where the next byte stands: top, list or tail (after a wrapper's list)."""

    def __init__(
        self,
        buffer: _Buffer,
        parse: Callable[[bytes], Value],
        fit: Callable[[bytes], Fitted | None] | None,
        bulk: Bulk | None,
        start: Place,
    ) -> None:
        self.buffer = buffer
        self.parse = parse
        self.fit = fit
        self.bulk = bulk
        self.start = start
        self.place = start.kind
        self.wrapped = start.wrapped
        self.opener = start.opener

    @property
    def here(self) -> Place:
        return Place(self.buffer.offset, self.place, self.wrapped, self.opener)

    def spans(self) -> Iterator[Framing | Run | Record[Value, Fitted] | Broken]:
        buffer = self.buffer
        while len(buffer.data) < len(BOM) and buffer.more():
            pass
        if not self.start.offset and buffer.data.startswith(BOM):
            yield self._framing(len(BOM))
        something = self.start.offset > 0
        span: Framing | Run | Record[Value, Fitted] | Broken | None = None
        while buffer.at < len(buffer.data) or buffer.more():
            span = self._next()
            something = something or not isinstance(span, Framing) or self.place != "top"
            yield span
        cut_seen = isinstance(span, Broken)
        if not something:
            yield Broken(buffer.offset, 0, "empty file", b"")
        elif self.place != "top" and not cut_seen:
            yield Broken(buffer.offset, 0, f"cut off after {buffer.offset} bytes: the list of records has no end", b"")

    def _framing(self, length: int) -> Framing:
        self.buffer.at += length
        return Framing(length)

    def _next(self) -> Framing | Run | Record[Value, Fitted] | Broken:
        data, at = self.buffer.data, self.buffer.at
        if self.place == "tail":
            return self._wrapper_tail()
        gap = _GAP.match(data, at)
        if gap and gap.end() > at:
            return self._framing(gap.end() - at)
        byte = data[at]
        if byte == ord("{"):
            return self._run() or self._quick_record() or self._item()
        if byte == ord("[") and self.place == "top":
            self.place, self.wrapped = "list", False
            return self._framing(1)
        if byte == ord("]") and self.place == "list":
            self.place = "tail" if self.wrapped else "top"
            return self._framing(1)
        return self._broken("expected a record")

    def _run(self) -> Run | None:
        """The records from here on that ``bulk`` takes."""
        buffer = self.buffer
        if self.bulk is None:
            return None
        taken = self.bulk(buffer.data, buffer.at)
        while (
            taken.unfinished
            and not taken.records
            and len(buffer.data) - buffer.at <= MAX_RECORD_BYTES
            and buffer.more()
        ):
            taken = self.bulk(buffer.data, buffer.at)
        if not taken.records:
            return None
        learned = _OPENER.match(buffer.data, taken.last)
        assert learned is not None, "bulk takes no other record"
        self.opener = learned.group()
        length = taken.end - buffer.at
        buffer.at = taken.end
        return Run(taken.records, taken.record_bytes, length - taken.record_bytes)

    def _quick_record(self) -> Record[Value, Fitted] | None:
        """The record up to the next opener, if ``fit`` takes it; a cut in the wrong place can't be taken."""
        data, at = self.buffer.data, self.buffer.at
        if self.fit is None or not (match := _OPENER.match(data, at)):
            return None
        opener = match.group()
        if self.opener not in (b"", opener):
            return None
        following = data.find(opener, at + len(opener), at + _CUT_WINDOW)
        if following < 0:
            return None
        end = following
        while end > at and data[end - 1] in b" \t\r\n," and following - end < _OPENER_BYTES:
            end -= 1
        raw = data[at:end]
        fitted = self.fit(raw) if raw.endswith(b"}") else None
        if fitted is None:
            return None
        self.opener = opener
        offset = self.buffer.offset
        self.buffer.at = end
        return Record(offset, raw, None, fitted)

    def _item(self) -> Framing | Record[Value, Fitted] | Broken:
        """A record found by its brackets, or the head of a wrapper."""
        walk = self._walked(b"", wrapper=self.place == "top")
        data, at = self.buffer.data, self.buffer.at
        if walk.outcome == "records":
            if not _is_object(data[at : walk.end] + b"]}"):
                return self._broken("brackets or quotes do not balance before the records")
            self.place, self.wrapped = "list", True
            return self._framing(walk.end - at)
        raw = data[at : walk.end]
        if walk.outcome != "closed":
            return self._broken(walk.outcome)
        fitted = None if self.fit is None else self.fit(raw)
        value = None
        if fitted is None:
            try:
                value = self.parse(raw)
            except ValueError as error:
                return self._refused(raw, f"not valid JSON: {error}")
        learned = _OPENER.match(raw)
        self.opener = learned.group() if learned else self.opener
        offset = self.buffer.offset
        self.buffer.at = walk.end
        return Record(offset, raw, value, fitted)

    def _wrapper_tail(self) -> Framing | Broken:
        """What follows the list of records in its wrapper."""
        walk = self._walked(b"}", wrapper=True)
        data, at = self.buffer.data, self.buffer.at
        if walk.outcome in ("closed", "records"):
            end = b"" if walk.outcome == "closed" else b"]}"
            if _is_object(b'{"records":[]' + data[at : walk.end] + end):
                self.place = "top" if walk.outcome == "closed" else "list"
                return self._framing(walk.end - at)
        # The list seemed to end, but records may follow: look for them as if it went on.
        self.place = "list"
        return self._broken("unclosed" if walk.outcome == "unclosed" else "brackets or quotes do not balance")

    def _walked(self, closers: bytes, *, wrapper: bool) -> _Walk:
        """A walk from here, with more input taken until it ends; too long a one ends in a reason."""
        buffer = self.buffer
        while True:
            walk = _walk(buffer.data, buffer.at, bytearray(closers), wrapper=wrapper)
            if walk.end - buffer.at > MAX_RECORD_BYTES:
                return _Walk(walk.end, f"larger than {MAX_RECORD_BYTES} bytes")
            if walk.outcome != "unclosed" or not buffer.more():
                return walk

    def _refused(self, raw: bytes, reason: str) -> Broken:
        """A whole pair of brackets that is no record; it ends early where another record starts inside."""
        inside = self._opener_pattern().search(raw, 1)
        length = inside.start() if inside else len(raw)
        offset = self.buffer.offset
        self.buffer.at += length
        return Broken(offset, length, reason, raw[:_HEAD_BYTES])

    def _broken(self, reason: str) -> Broken:
        """From here to the next opener or the end of the input, without holding what lies between."""
        buffer, pattern = self.buffer, self._opener_pattern()
        while len(buffer.data) - buffer.at < _HEAD_BYTES and buffer.more():
            pass
        offset, head = buffer.offset, buffer.data[buffer.at : buffer.at + _HEAD_BYTES]
        search_from = buffer.at + 1
        while not (found := pattern.search(buffer.data, search_from)):
            buffer.at = max(buffer.at, len(buffer.data) - _OPENER_BYTES)
            past = search_from - buffer.at
            if not buffer.more():
                buffer.at = len(buffer.data)
                break
            search_from = max(0, past)
        else:
            buffer.at = found.start()
        length = buffer.offset - offset
        if reason == "unclosed":
            reason = "brackets or quotes do not balance" if found else f"cut off after {length} bytes"
        return Broken(offset, length, reason, head)

    def _opener_pattern(self) -> re.Pattern[bytes]:
        return re.compile(re.escape(self.opener)) if self.opener else _FIRST_OPENER
