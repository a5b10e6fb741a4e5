"""What to read: sources expanded, told apart by format, cut down to the window.

A source knows nothing of formats; here its blobs meet the formats, and what is left out is said.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import overload

from flowlens.budget import Budget, Queries
from flowlens.errors import FlowlensError, SourceError
from flowlens.evidence import Window
from flowlens.formats.traffic_analytics import looks_like_traffic_analytics
from flowlens.lake.reading import KeptPart, is_kept_file, lake_parts, parquet_part
from flowlens.sources.accounts import Access, Location, connect
from flowlens.sources.delta import open_lake
from flowlens.sources.files import Blob, find_blobs, read_chunks
from flowlens.sources.lake_places import LakePlace
from flowlens.sources.ranges import APART_FROM, Reader
from flowlens.sources.storage import list_blobs
from flowlens.sources.stored_blobs import StoredBlob, StoredBlobs
from flowlens.sources.workspace import Connection, Workspace
from flowlens.sources.workspace import connect as connect_workspace

_HEAD = 1 << 14
_FLOW_LOG_WORDS = re.compile(rb'"records"\s*:\s*\[|"(?:flowRecords|flowTuples)"\s*:')
_HOUR = dt.timedelta(hours=1)

Progress = Callable[[int, int, int], None]
"""Called with (blobs done, bytes done, bytes in all) as a scan goes on; bytes are those of the files."""


@dataclass(frozen=True, slots=True)
class Item:
    """A blob and how to read it; the only thing that differs between a file and a storage account."""

    blob: Blob | StoredBlob
    chunks: Callable[[], Iterator[bytes]] = field(compare=False)


Place = str | Location | Workspace | LakePlace
"""A SOURCE that was understood; a text stands for files."""


@dataclass(frozen=True, slots=True)
class Items(Sequence[Item]):
    """What is to be read: files, then stored blobs, which are a million at times and get their Item when it is asked for."""

    files: tuple[Item, ...] = ()
    stored: Sequence[StoredBlob] = ()
    reader: Reader | None = None

    def __len__(self) -> int:
        return len(self.files) + len(self.stored)

    @overload
    def __getitem__(self, at: int) -> Item: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Item]: ...

    def __getitem__(self, at: int | slice) -> Item | Sequence[Item]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        if at < len(self.files):
            return self.files[at]
        index = at - len(self.files)
        if self.reader is None:
            raise IndexError(at)
        return Item(self.reader.blob(index), partial(self.reader.chunks, index))


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for: sources, window, the change to cut at, and how to read.

    ``subscriptions`` is the part of the scope that paths can tell; ``now`` decides which hours may still grow.
    """

    sources: tuple[Place, ...]
    window: Window
    changed_at: dt.datetime | None
    strict: bool
    budget: Budget
    progress: Progress | None
    queries: Queries
    access: Access = field(default_factory=Access)
    subscriptions: tuple[str, ...] = ()
    now: dt.datetime | None = None

    @property
    def edges(self) -> tuple[dt.datetime, ...]:
        """Where buckets are cut beside the full hours."""
        return tuple(edge for edge in (self.window.start, self.window.end, self.changed_at) if edge is not None)


@dataclass(frozen=True, slots=True)
class Selected:
    """What will be read, and in words what will not."""

    flow_logs: Items
    exports: tuple[Item, ...]
    notes: tuple[str, ...]
    unread: int
    identities: tuple[str, ...] = ()
    workspaces: tuple[Connection, ...] = ()
    kept: tuple[KeptPart, ...] = ()

    def met(self) -> tuple[str, ...]:
        """In words, what reading met: accounts that were given up in the middle, with what to do about it, and what was tried again."""
        reader = self.flow_logs.reader
        if reader is None:
            return ()
        given_up = (f"an account was given up in the middle: {_sentence(error)}" for error in reader.broken())
        return (*given_up, *reader.told())

    def close(self) -> None:
        """End what is still being read ahead."""
        if self.flow_logs.reader is not None:
            self.flow_logs.reader.close()

    @property
    def bytes(self) -> int:
        """How large all of it is."""
        return sum(item.blob.size for item in self.items) + sum(part.size for part in self.kept)

    @property
    def items(self) -> Sequence[Item]:
        """What is to be read."""
        return self.flow_logs or self.exports


def select(plan: Plan) -> Selected:
    """The blobs inside the window, told apart by format; blobs and Traffic Analytics rows are never added up.

    Beside blobs in the container's layout, a folder's other files are read only where they look like flow logs, and what is
    left out is said. Of several storage accounts those that can't be listed are counted as unread with the reason.

    Raises SourceError where nothing at all can be looked at.
    """
    paths = [source for source in plan.sources if isinstance(source, str)]
    if decoded := [
        each for each in plan.sources if isinstance(each, LakePlace) or (each in paths and is_kept_file(str(each)))
    ]:
        return _select_kept(decoded, plan)
    local = select_files(paths, plan.window) if paths else Selected(Items(), (), (), 0)
    asked = _select_workspaces([source for source in plan.sources if isinstance(source, Workspace)], plan, bool(paths))
    others = bool(paths or asked.workspaces)
    stored = _select_stored([source for source in plan.sources if isinstance(source, Location)], plan, others)
    if asked.workspaces and (beside := local.items or stored.items):
        raise SourceError(
            str(asked.workspaces[0].workspace),
            f"a workspace cannot be added to {beside[0].blob.name}: both describe the same traffic",
            hint="flowlens compare A B puts them side by side",
        )
    if local.exports and stored.flow_logs:
        raise SourceError(
            local.exports[0].blob.name,
            "a Traffic Analytics export cannot be added to flow log blobs: both describe the same traffic",
            hint="analyse one of them at a time",
        )
    return replace(
        stored,
        flow_logs=replace(stored.flow_logs, files=local.flow_logs.files),
        exports=local.exports,
        notes=(*local.notes, *stored.notes, *asked.notes),
        unread=local.unread + stored.unread + asked.unread,
        identities=(*stored.identities, *asked.identities),
        workspaces=asked.workspaces,
    )


def _select_kept(decoded: Sequence[Place], plan: Plan) -> Selected:
    """Lakes and Parquet files, whose flows were decoded before; nothing else stands beside them, since it may be the same traffic."""
    others = [each for each in plan.sources if each not in decoded]
    if others:
        raise SourceError(
            str(decoded[0]),
            f"cannot be added to {others[0]}: both may describe the same traffic",
            hint="flowlens sync brings a lake up to date with storage; analyse one of them at a time",
        )
    parts: list[KeptPart] = []
    for place in dict.fromkeys(decoded):
        parts += (
            lake_parts(open_lake(place), plan.window) if isinstance(place, LakePlace) else [parquet_part(str(place))]
        )
    notes = ["a source was given twice and is read once"] if len(set(decoded)) < len(decoded) else []
    return Selected(Items(), (), tuple(notes), 0, kept=tuple(parts))


def _select_workspaces(workspaces: Sequence[Workspace], plan: Plan, others: bool) -> Selected:
    """Workspaces that can be asked, each table of them once; ``others`` says that there are other sources beside them."""
    connections: list[Connection] = []
    failures: list[SourceError] = []
    for workspace in dict.fromkeys(workspaces):
        try:
            connections.append(connect_workspace(workspace, plan.access))
        except SourceError as error:
            failures.append(error)
    if failures and not connections and not others:
        raise failures[0]
    notes = [f"not read: {_sentence(error)}" for error in failures]
    identities = tuple(f"{each.workspace}: {each.identity}" for each in connections)
    return Selected(Items(), (), tuple(notes), len(failures), identities, workspaces=tuple(connections))


def _select_stored(locations: Sequence[Location], plan: Plan, others: bool) -> Selected:
    """The blobs of storage accounts; ``others`` says that there are other sources, which go on without a failing account."""
    now = plan.now or dt.datetime.now(dt.UTC)
    found: list[tuple[str, StoredBlobs]] = []
    identities: list[str] = []
    notes: list[str] = []
    failures: list[SourceError] = []
    for location in locations:
        try:
            account = connect(location, plan.access)
            listing = list_blobs(account, plan.window, subscriptions=plan.subscriptions, now=now)
        except SourceError as error:
            failures.append(error)
            continue
        identities.append(f"{location}: {account.identity}")
        notes += listing.notes
        found.append((str(location), listing.blobs))
    if failures and len(failures) == len(locations) and not others:
        raise failures[0]
    notes += [f"not read: {_sentence(error)}" for error in failures]
    blobs = StoredBlobs()
    # In an order of their own, so that an answer does not depend on that of the command line.
    if again := sum(blobs.extend(each) for _, each in sorted(found, key=itemgetter(0))):
        notes.append(f"{again} blob(s) were given twice and are read once")
    budget = plan.budget
    apart_from = APART_FROM if budget.apart else None
    reader = Reader(blobs, threads=budget.threads, ahead=budget.ahead, apart_from=apart_from) if blobs else None
    return Selected(Items((), blobs, reader), (), tuple(notes), len(failures), tuple(identities))


def _sentence(error: FlowlensError) -> str:
    """An error with its hint on one line."""
    return f"{error.where}: {error.problem} ({error.hint})"


def select_files(paths: Sequence[str], window: Window) -> Selected:
    """What of files, folders and globs will be read, as ``select`` says; raises SourceError where one is not there."""
    found = find_blobs(paths)
    notes = [*found.skipped, *found.notes]
    if found.duplicates:
        notes.append(f"{found.duplicates} file(s) were given twice and are read once")
    held = [blob for blob in found.blobs if _may_hold(blob, window)]
    items = [Item(blob, partial(read_chunks, blob)) for blob in held]
    places = {item: blob.path for item, blob in zip(items, held, strict=True)}
    loose = {item: _head(item) for item in items if item.blob.flow_log is None}
    exports = [item for item, head in loose.items() if looks_like_traffic_analytics(head)]
    named = {Path(source).resolve() for source in paths}
    foreign = [
        item
        for item, head in loose.items()
        if len(loose) < len(items)
        and item not in exports
        and places[item].resolve() not in named
        and not _FLOW_LOG_WORDS.search(head)
    ]
    if foreign:
        notes.append(_not_read(foreign, "do not look like flow logs"))
    left_out = {*exports, *foreign}
    flow_logs = [item for item in items if item not in left_out]
    if exports and flow_logs:
        explicit = [item for item in exports if places[item].resolve() in named]
        if explicit:
            raise SourceError(
                explicit[0].blob.name,
                "a Traffic Analytics export cannot be added to flow log blobs: both describe the same traffic",
                hint="analyse one of them at a time",
            )
        notes.append(_not_read(exports, "are Traffic Analytics rows, which describe the same traffic as the blobs"))
    return Selected(Items(tuple(flow_logs)), tuple(exports), tuple(notes), found.unread)


def flow_logs_only(plan: Plan) -> Selected:
    """What is selected; Traffic Analytics alone is an error, since it keeps no flow tuples."""
    selected = select(plan)
    if not (selected.flow_logs or selected.kept) and (selected.exports or selected.workspaces):
        raise SourceError(
            selected.exports[0].blob.name if selected.exports else str(selected.workspaces[0].workspace),
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
