"""A large flow log blob cut at the edges of its records, so that its parts can be decoded apart.

A part is what stands between the first record that begins at or behind one place and the first that begins at or behind another. Where
records begin is found by how the first one does; in a text of JSON these bytes stand nowhere else but where an object begins. Whatever
is wrong with a blob, or with that assumption, shows as a part that cannot be decoded whole: such a blob is to be read in one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from flowlens.evidence import Ledger

HEAD_BYTES = 4096
_STEP = 64 << 10
_OPEN, _CLOSE = b'{"records":[', b"]}"
_WRAPPED = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"records"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*(\{[ \t\r\n]{0,64}"[^"\\]{1,64}"[ \t\r\n]{0,64}:)'
)

Read = Callable[[int, int], Iterator[bytes]]
"""The bytes of a blob from one place to before another."""


def opener_of(head: bytes) -> bytes | None:
    """How the records of the blob that begins with ``head`` begin; None where it is not written as Azure writes it.

    >>> opener_of(b'{"records":[{"time":"2026-06-15T09:00:00Z"')
    b'{"time":'
    """
    found = _WRAPPED.match(head)
    return found[1] if found else None


def edge(read: Read, at: int, size: int, opener: bytes) -> int:
    """The first place at or behind ``at`` where a record begins; ``size`` where none does.

    >>> blob = b'{"records":[{"t":1},{"t":2}]}'
    >>> edge(lambda start, end: iter([blob[start:end]]), 13, len(blob), b'{"t":')
    20
    """
    held = b""
    while at < size:
        held += b"".join(read(at, min(size, at + _STEP)))
        at = min(size, at + _STEP)
        if (found := held.find(opener)) >= 0:
            return at - len(held) + found
        held = held[-len(opener) + 1 :]
    return size


def edges(read: Read, start: int, end: int, size: int) -> tuple[int, int] | None:
    """Where the records lie that begin in ``[start, end)``, with the blob's head or end where these belong to them.

    None where the blob can't be cut.

    >>> blob = b'{"records":[{"t":1},{"t":2}]}'
    >>> [edges(lambda start, end: iter([blob[start:end]]), *span, 29) for span in ((0, 15), (15, 29))]
    [(0, 20), (20, 29)]
    """
    opener = opener_of(b"".join(read(0, min(size, HEAD_BYTES))))
    if opener is None:
        return None
    return edge(read, start, size, opener) if start else 0, edge(read, end, size, opener)


def wrapped(read: Read, first: int, last: int, size: int) -> Iterator[bytes]:
    """What stands between two edges as a blob of its own.

    >>> blob = b'{"records":[{"t":1},{"t":2}]}'
    >>> [b"".join(wrapped(lambda start, end: iter([blob[start:end]]), *span, 29)) for span in ((0, 20), (20, 29), (29, 29))]
    [b'{"records":[{"t":1},]}', b'{"records":[{"t":2}]}', b'{"records":[]}']
    """
    if first:
        yield _OPEN
    if first < last:
        yield from read(first, last)
    if last < size or first == last:
        yield _CLOSE


def own_bytes(ledger: Ledger, first: int, last: int, size: int) -> Ledger:
    """The ledger of what stands between two edges, without the bytes that `wrapped` put around it."""
    added = len(_OPEN) * bool(first) + len(_CLOSE) * (last < size or first == last)
    return replace(ledger, bytes=ledger.bytes - added, framing_bytes=ledger.framing_bytes - added)
