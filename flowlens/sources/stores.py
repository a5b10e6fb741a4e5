"""Where `sync` reads from: containers of storage accounts and folders of blobs, by one interface.

A store lists blobs and opens one version of a blob; everything read of a version is of that version. A test's store in memory
has the same two functions.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowlens.errors import ConfigError, SourceError
from flowlens.evidence import Window
from flowlens.sources.accounts import Access, Account, Location, connect, is_remote, parse_location
from flowlens.sources.files import Blob, find_blobs, inflated, read_chunks
from flowlens.sources.ranges import Reader, VersionChangedError
from flowlens.sources.ranges import Version as Committed
from flowlens.sources.storage import GRACE, list_blobs
from flowlens.sources.stored_blobs import StoredBlob

FILES = "files"
"""The source of blobs in folders: where the folder stands is no part of who a blob is."""
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Listed:
    """A blob as a listing described it; ``key`` says who it is, ``etag`` which version, ``place`` is its store's own."""

    source: str
    name: str
    flow_log: str
    hour: dt.datetime
    mac_address: str
    size: int
    etag: str
    created: str
    is_open: bool
    place: Any = field(compare=False, repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """Account and name; a blob that was created again has the same."""
        return self.source, self.name


@dataclass(frozen=True, slots=True)
class Listing:
    """Blobs in the order of their names, and in words what was left out."""

    blobs: tuple[Listed, ...]
    notes: tuple[str, ...] = ()


class Version(Protocol):
    """One version of a blob. Its functions raise VersionChangedError where another one is there by now."""

    @property
    def etag(self) -> str:
        """Which version it is."""
        ...

    def prefixes(self, offsets: Sequence[int]) -> list[str | None]:
        """For each offset a digest of what stands before it, None where the source does not tell; offsets ascend."""
        ...

    def chunks(self, start: int) -> Iterator[bytes]:
        """The bytes from ``start`` on, decompressed where the blob begins as gzip."""
        ...


class Store(Protocol):
    """A place with blobs of flow logs."""

    def listing(self, window: Window, now: dt.datetime) -> Listing:
        """The blobs that may hold tuples of ``window``."""
        ...

    def open(self, blob: Listed, *, told: bool) -> Version:
        """The blob's version that is there now; unless ``told``, it may be the listed one, without telling prefixes."""
        ...

    def met(self) -> tuple[str, ...]:
        """In words, what reading met since the listing and got over."""
        ...

    def close(self) -> None:
        """End what is under way."""
        ...


def stores(sources: Sequence[str], access: Access) -> list[Store]:
    """The stores that ``sources`` name, connected; raises as reading them would."""
    paths = [source for source in sources if not is_remote(source)]
    found: list[Store] = [
        Container(connect(parse_location(each, access), access)) for each in sources if is_remote(each)
    ]
    return [Folder(paths), *found] if paths else found


@dataclass(slots=True)
class Container:
    """A container of a storage account."""

    account: Account
    _reader: Reader | None = None

    @property
    def location(self) -> Location:
        """What it was named by."""
        return self.account.location

    def listing(self, window: Window, now: dt.datetime) -> Listing:
        found = list_blobs(self.account, window, now=now)
        self.close()
        self._reader = Reader(found.blobs, threads=2)
        return Listing(tuple(listed_in(self.account, found.blobs)), found.notes)

    def open(self, blob: Listed, *, told: bool) -> Version:
        assert self._reader is not None, "what is opened was listed"
        if told:
            return _StoredVersion(self._reader, blob.place, self._reader.committed(blob.place))
        return _StoredVersion(self._reader, blob.place, Committed(blob.etag, blob.size, ()))

    def stored(self, blob: Listed) -> StoredBlob:
        """The blob as the account's listing described it."""
        assert self._reader is not None, "what is asked for was listed"
        return self._reader.blob(blob.place)

    def broken(self) -> list[SourceError | ConfigError]:
        """Why the account was given up in the middle."""
        return self._reader.broken() if self._reader is not None else []

    def again(self) -> dict[str, int]:
        """How many requests were tried again since the listing, by what came of the try before."""
        return self._reader.again.counts() if self._reader is not None else {}

    def tried_elsewhere(self, again: Mapping[str, int]) -> None:
        """Count requests for the blobs of the listing that somebody else tried again."""
        assert self._reader is not None, "what is read elsewhere was listed"
        self._reader.again.add(again)

    def met(self) -> tuple[str, ...]:
        return self._reader.told() if self._reader is not None else ()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def listed_in(account: Account, blobs: Sequence[StoredBlob]) -> list[Listed]:
    """Blobs of an account as its `Container` lists them, whose reader has them in this order."""
    source = account.location.account.removesuffix("-secondary")
    return [_listed(source, blob, at) for at, blob in enumerate(blobs)]


def _listed(source: str, blob: StoredBlob, at: int) -> Listed:
    return Listed(
        source,
        blob.name,
        blob.flow_log,
        blob.hour,
        blob.mac_address,
        blob.size,
        blob.etag,
        blob.created,
        blob.is_open,
        at,
    )


@dataclass(frozen=True, slots=True)
class _StoredVersion:
    reader: Reader
    index: int
    version: Committed

    @property
    def etag(self) -> str:
        return self.version.etag

    def prefixes(self, offsets: Sequence[int]) -> list[str | None]:
        # By identity and size of the blocks before; where a block reaches across the offset, they do not tell.
        digest = hashlib.blake2b(digest_size=16, usedforsecurity=False)
        at, number = 0, 0
        blocks = self.version.blocks if self.version.told else ()
        told: list[str | None] = []
        for offset in offsets:
            while number < len(blocks) and at < offset:
                name, size = blocks[number]
                digest.update(f"{name} {size}\n".encode())
                at, number = at + size, number + 1
            told.append(digest.hexdigest() if blocks and at == offset else None)
        return told

    def chunks(self, start: int) -> Iterator[bytes]:
        pieces = self.reader.chunks_of(self.index, self.version.etag, start, self.version.size)
        first = b"" if start else next(pieces, b"")
        if first[:2] == _GZIP_MAGIC:
            # No flow log is written so; a copy may be, and then it is small.
            whole = io.BytesIO(b"".join([first, *pieces]))
            yield from inflated(self.reader.name_of(self.index), whole, _CHUNK)
            return
        if first:
            yield first
        yield from pieces


@dataclass(frozen=True, slots=True)
class Folder:
    """Files, folders or globs of blobs in the layout of the container; a file's progress is by its content."""

    paths: Sequence[str]

    def listing(self, window: Window, now: dt.datetime) -> Listing:
        found = find_blobs(self.paths)
        growing = (now - GRACE).replace(minute=0, second=0, microsecond=0)
        blobs: dict[str, Listed] = {}
        notes = [*found.skipped]
        loose = [blob.name for blob in found.blobs if None in (blob.flow_log, blob.hour, blob.mac_address)]
        if loose:
            more = ", ..." if len(loose) > 3 else ""
            notes.append(
                f"{len(loose)} file(s) were not read, since their paths are not those of flow logs: {', '.join(loose[:3])}{more}"
            )
        for blob in found.blobs:
            if blob.flow_log is None or blob.hour is None or blob.mac_address is None:
                continue
            if blob.name in blobs:
                notes.append(f"not read, since another file has the same name from its container on: {blob.path}")
            elif _may_hold(blob.hour, window) and (stamp := _stamp(blob)) is not None:
                blobs[blob.name] = Listed(
                    FILES,
                    blob.name,
                    blob.flow_log,
                    blob.hour,
                    blob.mac_address,
                    blob.size,
                    stamp,
                    "",
                    blob.hour >= growing,
                    blob,
                )
        return Listing(tuple(blobs[name] for name in sorted(blobs)), tuple(notes))

    def open(self, blob: Listed, *, told: bool) -> Version:  # noqa: ARG002 - a file always tells
        stamp = _stamp(blob.place)
        if stamp is None:
            raise VersionChangedError
        return _FileVersion(blob.place, stamp)

    def met(self) -> tuple[str, ...]:
        """Nothing: a disk answers or fails."""
        return ()

    def close(self) -> None:
        """Nothing is under way."""


def _may_hold(hour: dt.datetime, window: Window) -> bool:
    return (window.start is None or hour + _HOUR > window.start) and (window.end is None or hour - _HOUR < window.end)


def _stamp(blob: Blob) -> str | None:
    """Which version of the file is there; None where it is gone."""
    try:
        status = blob.path.stat()
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


@dataclass(frozen=True, slots=True)
class _FileVersion:
    blob: Blob
    etag: str

    def prefixes(self, offsets: Sequence[int]) -> list[str | None]:
        digest = hashlib.blake2b(digest_size=16, usedforsecurity=False)
        wanted = iter([*offsets, None])
        told: list[str | None] = []
        at, offset = 0, next(wanted)
        for chunk in self.chunks(0):
            taken = 0
            while offset is not None and offset <= at + len(chunk):
                digest.update(chunk[taken : offset - at])
                taken = offset - at
                told.append(digest.hexdigest())
                offset = next(wanted)
            if offset is None:
                break
            digest.update(chunk[taken:])
            at += len(chunk)
        return told + [None] * (len(offsets) - len(told))

    def chunks(self, start: int) -> Iterator[bytes]:
        left = start
        for chunk in read_chunks(self.blob):
            if left >= len(chunk):
                left -= len(chunk)
                continue
            yield chunk[left:]
            left = 0
        if _stamp(self.blob) != self.etag:
            raise VersionChangedError
