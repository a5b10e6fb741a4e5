"""A store of growing blobs in memory, with the same two functions as a storage account, and what should be read from it.

A blob is a list of committed blocks, as Azure writes them: head, one block a minute, the two bytes that close the list. What each
commit puts there is remembered, so that the rows to expect are known without reading any.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from flowlens.errors import SourceError
from flowlens.evidence import Window
from flowlens.sources.ranges import VersionChangedError
from flowlens.sources.storage import GRACE
from flowlens.sources.stores import Listed, Listing

HEAD = b'{"records":['
TAIL = b"]}"
SOURCE = "contoso"
HOUR = dt.timedelta(hours=1)
_numbers = itertools.count(1)

Row = tuple[str, int, int]
"""Destination, source port, and the block: no other tuple has the first two."""


def record(number: int, tuples: int, *, rejected: int = 0, time: dt.datetime) -> bytes:
    """A record whose tuples no other record has; ``number`` is its own."""
    ms = int(time.timestamp() * 1000)
    rows = [f"{ms},10.1.0.4,{destination(number)},{1024 + n},443,6,O,E,NX,1,100,1,{900 + n}" for n in range(tuples)]
    rows += [f"{ms},10.1.0.4,{destination(number)},x,443,6" for _ in range(rejected)]
    document = {
        "time": f"{time:%Y-%m-%dT%H:%M:%S}.0000000Z",
        "macAddress": "00005E005301",
        "category": "FlowLogFlowEvent",
        "flowLogResourceID": "/LOG",
        "targetResourceID": "/VNET",
        "flowRecords": {"flows": [{"aclID": "a", "flowGroups": [{"rule": "r", "flowTuples": rows}]}]},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def destination(number: int) -> str:
    """The address that only the tuples of record ``number`` go to."""
    return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


@dataclass
class Block:
    """One committed block: its id, its bytes, and the tuples of the records that end in it."""

    id: str
    data: bytes
    rows: tuple[tuple[str, int], ...] = ()
    rejected: int = 0


@dataclass
class MemoryBlob:
    """A blob; ``etag`` changes with each commit."""

    name: str
    hour: dt.datetime
    created: str
    blocks: list[Block]
    etag: str = ""
    told: bool = True

    def __post_init__(self) -> None:
        self.touch()

    @property
    def data(self) -> bytes:
        return b"".join(block.data for block in self.blocks)

    def touch(self) -> None:
        self.etag = f"0x{next(_numbers):X}"

    def commit(self, blocks: Sequence[Block]) -> None:
        """Put blocks before the last one, which closes the list."""
        self.blocks[-1:-1] = blocks
        self.touch()

    def expected(self) -> list[Row]:
        """The rows that the blob holds, each with the offset at which its record ends."""
        found, at = [], 0
        for block in self.blocks:
            at += len(block.data)
            found += [(*row, at) for row in block.rows]
        return found

    def rejected(self) -> int:
        return sum(block.rejected for block in self.blocks)


def new_blob(name: int, hour: dt.datetime) -> MemoryBlob:
    """An empty blob of NIC number ``name``."""
    path = f"logs/flowLogResourceID=/S_NW/NW_LOG/{hour:y=%Y/m=%m/d=%d/h=%H/m=00}/macAddress={name:012X}/PT1H.json"
    number = next(_numbers)
    return MemoryBlob(
        path, hour, f"created {number:09}", [Block(f"head {number}", HEAD), Block(f"tail {number}", TAIL)]
    )


def minute(blob: MemoryBlob, tuples: int, rejected: int = 0) -> Block:
    """The next block of a blob: one record, with a comma before it unless it is the first."""
    number = next(_numbers)
    comma = b"," if len(blob.blocks) > 2 else b""
    rows = tuple((destination(number), 1024 + n) for n in range(tuples))
    body = record(number, tuples, rejected=rejected, time=blob.hour + dt.timedelta(minutes=len(blob.blocks) % 60))
    return Block(f"block {number}", comma + body, rows, rejected)


@dataclass
class MemoryStore:
    """Blobs by name. ``step`` is called before each request, so that a test can change or refuse something there."""

    blobs: dict[str, MemoryBlob] = field(default_factory=dict)
    step: Callable[[str, str], None] = lambda _request, _name: None
    downloaded: int = 0

    def put(self, blob: MemoryBlob) -> MemoryBlob:
        self.blobs[blob.name] = blob
        return blob

    def listing(self, window: Window, now: dt.datetime) -> Listing:
        self.step("list", "")
        growing = (now - GRACE).replace(minute=0, second=0, microsecond=0)
        return Listing(
            tuple(
                Listed(
                    SOURCE,
                    blob.name,
                    "LOG",
                    blob.hour,
                    blob.name[-27:-15],
                    len(blob.data),
                    blob.etag,
                    blob.created,
                    blob.hour >= growing,
                    None,
                )
                for _, blob in sorted(self.blobs.items())
                if (window.start is None or blob.hour + HOUR > window.start)
                and (window.end is None or blob.hour - HOUR < window.end)
            )
        )

    def met(self) -> tuple[str, ...]:
        return ()

    def open(self, blob: Listed, *, told: bool) -> MemoryVersion:
        self.step("blocks" if told else "open", blob.name)
        there = self.blobs.get(blob.name)
        if there is None:
            raise SourceError(blob.name, "is gone", hint="")
        if not told:
            return MemoryVersion(self, blob.name, blob.etag, (), blob.size)
        blocks = tuple((block.id, len(block.data)) for block in there.blocks) if there.told else ()
        return MemoryVersion(self, blob.name, there.etag, blocks, len(there.data))

    def close(self) -> None:
        """Nothing is under way."""


@dataclass(frozen=True)
class MemoryVersion:
    """One version: what is read of it later is refused once the blob has another."""

    store: MemoryStore
    name: str
    etag: str
    blocks: tuple[tuple[str, int], ...]
    size: int

    def prefixes(self, offsets: Sequence[int]) -> list[str | None]:
        told: list[str | None] = []
        for offset in offsets:
            at, names = 0, []
            for name, size in self.blocks:
                if at >= offset:
                    break
                names.append(f"{name} {size}")
                at += size
            whole = bool(self.blocks) and at == offset
            told.append(hashlib.sha256("\n".join(names).encode()).hexdigest() if whole else None)
        return told

    def chunks(self, start: int, step: int = 700) -> Iterator[bytes]:
        for at in range(start, self.size, step):
            self.store.step("range", self.name)
            there = self.store.blobs.get(self.name)
            if there is None or there.etag != self.etag:
                raise VersionChangedError
            piece = there.data[at : min(at + step, self.size)]
            self.store.downloaded += len(piece)
            yield piece
