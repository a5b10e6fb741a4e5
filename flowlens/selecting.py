"""What to read: sources expanded, told apart by format, cut down to the window.

A source knows nothing of formats; here its blobs meet the formats, and what is left out is said.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flowlens.errors import FlowlensError, SourceError
from flowlens.evidence import Window
from flowlens.formats.traffic_analytics import looks_like_traffic_analytics
from flowlens.sources.files import Blob, find_blobs, read_chunks

_HEAD = 1 << 14
_FLOW_LOG_WORDS = re.compile(rb'"records"\s*:\s*\[|"(?:flowRecords|flowTuples)"\s*:')
_HOUR = dt.timedelta(hours=1)

Progress = Callable[[int, int, int], None]
"""Called with (blobs done, bytes done, bytes in all) as a scan goes on; bytes are those of the files."""


@dataclass(frozen=True, slots=True)
class Item:
    """A blob and how to read it; the only thing that differs between a file and a storage account."""

    blob: Blob
    chunks: Callable[[], Iterator[bytes]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for: sources, window, the change to cut at, and how to read."""

    sources: tuple[str, ...]
    window: Window
    changed_at: dt.datetime | None
    strict: bool
    threads: int
    progress: Progress | None

    @property
    def edges(self) -> tuple[dt.datetime, ...]:
        """Where buckets are cut beside the full hours."""
        return tuple(edge for edge in (self.window.start, self.window.end, self.changed_at) if edge is not None)


@dataclass(frozen=True, slots=True)
class Selected:
    """What will be read, and in words what will not."""

    flow_logs: tuple[Item, ...]
    exports: tuple[Item, ...]
    notes: tuple[str, ...]
    unread: int

    @property
    def items(self) -> tuple[Item, ...]:
        """What is to be read."""
        return self.flow_logs or self.exports


def select(plan: Plan) -> Selected:
    """The blobs inside the window, told apart by format; blobs and Traffic Analytics rows are never added up.

    Beside blobs in the container's layout, a folder's other files are read only where they look like flow logs, and what is
    left out is said.
    """
    found = find_blobs(plan.sources)
    notes = [*found.skipped, *found.notes]
    if found.duplicates:
        notes.append(f"{found.duplicates} file(s) were given twice and are read once")
    items = [Item(blob, partial(read_chunks, blob)) for blob in found.blobs if _may_hold(blob, plan.window)]
    loose = {item: _head(item) for item in items if item.blob.flow_log is None}
    exports = [item for item, head in loose.items() if looks_like_traffic_analytics(head)]
    named = {Path(source).resolve() for source in plan.sources}
    foreign = [
        item
        for item, head in loose.items()
        if len(loose) < len(items)
        and item not in exports
        and Path(item.blob.path).resolve() not in named
        and not _FLOW_LOG_WORDS.search(head)
    ]
    if foreign:
        notes.append(_not_read(foreign, "do not look like flow logs"))
    left_out = {*exports, *foreign}
    flow_logs = [item for item in items if item not in left_out]
    if exports and flow_logs:
        explicit = [item for item in exports if Path(item.blob.path).resolve() in named]
        if explicit:
            raise SourceError(
                explicit[0].blob.name,
                "a Traffic Analytics export cannot be added to flow log blobs: both describe the same traffic",
                hint="analyse one of them at a time",
            )
        notes.append(_not_read(exports, "are Traffic Analytics rows, which describe the same traffic as the blobs"))
    return Selected(tuple(flow_logs), tuple(exports), tuple(notes), found.unread)


def flow_logs_only(plan: Plan) -> Selected:
    """What is selected; Traffic Analytics alone is an error, since it keeps no flow tuples."""
    selected = select(plan)
    if not selected.flow_logs and selected.exports:
        raise SourceError(
            selected.exports[0].blob.name,
            "Traffic Analytics keeps no flow tuples",
            hint="read the storage account's blobs for the tuples behind a row",
        )
    return selected


def _not_read(items: Sequence[Item], why: str) -> str:
    names = ", ".join(item.blob.name for item in items[:3])
    more = ", ..." if len(items) > 3 else ""
    return f"{len(items)} file(s) beside the blobs were not read, since they {why}: {names}{more}"


def _may_hold(blob: Blob, window: Window) -> bool:
    """Whether tuples of the window can be in the blob: a record flushed just after the hour holds tuples of before it."""
    if blob.hour is None:
        return True
    return (window.start is None or blob.hour + _HOUR > window.start) and (
        window.end is None or blob.hour - _HOUR < window.end
    )


def _head(item: Item) -> bytes:
    """The first bytes of a file; empty where it cannot be read, which reading it later tells in its place."""
    try:
        return next(item.chunks(), b"")[:_HEAD]
    except FlowlensError:
        return b""
