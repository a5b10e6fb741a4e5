"""Local files: what a file, folder or glob selects, what a blob's path says, and the bytes inside.

A path is judged by the grammar of the container (formats.md 4.1), wherever its folder stands. Whatever a folder
holds and is not read is said in a sentence, and whatever could not be looked at is counted.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import stat
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO, NamedTuple

from flowlens.errors import FormatError, SourceError, near_matches
from flowlens.evidence import YEARS, sample

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv")
"""What a folder takes, plain or with ``.gz`` behind; a file that is named is taken whatever its ending."""

RATIO_LIMIT = 200
"""How many bytes one byte of gzip may become; deflate itself ends near 1,030."""
RATIO_FREE_BYTES = 10_000_000
"""Output up to which the ratio is not judged: a short file of one repeated record is honest and compresses far."""
DECOMPRESSED_LIMIT = 1 << 36
"""Output of one gzip file above which reading stops (64 GiB), unless the caller sets another limit."""

NAMES_SHOWN = 5
"""How many names a sentence lists before it counts the rest."""

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's word for "gzip header, largest window"
_COMPRESSED_CHUNK = 1 << 16
_INFLATED_CHUNK = 1 << 20  # fixed, since how far damaged data can be read depends on the steps it is read in
_GLOB_CHARACTERS = re.compile(r"[*?\[]")
_WINDOWS_PATH_LIMIT = 260
_BOMB = "flow logs do not compress like that; decompress the file yourself if you trust it"

# The documentation of NSG flow logs once writes `resoureId` (formats.md 4.1).
_ROOT_KEY = re.compile(r"(?:^|/)(?:flowLogResourceID|resourc?eId)=", re.IGNORECASE)
# By position, since `m=` stands twice: the month, then the minute, which is always 00.
_HOUR_FOLDERS = re.compile(r"(?:^|/)y=([^/]*)/m=([^/]*)/d=([^/]*)/h=([^/]*)/m=([^/]*)(?=/|$)", re.IGNORECASE)
_MAC_FOLDER = re.compile(r"(?:^|/)macAddress=([^/]*)", re.IGNORECASE)
_MAC_ADDRESS = re.compile(r"[0-9A-F]{12}")
_CONTAINER = "insights-logs-"


@dataclass(frozen=True, slots=True)
class BlobPath:
    """What the path of a blob says: flow log, hour and NIC, each None where it says nothing valid.

    ``flow_log`` is the text between the root key and ``y=``, upper case, without slashes at its ends. It is one
    identity, not a list of parts: the resource group in it may hold ``_`` and ``-`` (formats.md 4.1).
    ``hour`` is in UTC; ``mac_address`` is 12 upper-case hex digits.
    """

    flow_log: str | None = None
    hour: dt.datetime | None = None
    mac_address: str | None = None


def parse_blob_path(path: str) -> BlobPath:
    """Flow log, hour and NIC as the path of a blob states them; a path that states none is not an error.

    Matched without regard to case; any folders may stand before the root key and between it and ``y=``.

    >>> parse_blob_path(
    ...     "flowLogResourceID=/0000_NETWORKWATCHERRG/NETWORKWATCHER_EASTUS_HUB"
    ...     "/y=2026/m=01/d=15/h=09/m=00/macAddress=0022480A1B2C/PT1H.json"
    ... )  # doctest: +NORMALIZE_WHITESPACE
    BlobPath(flow_log='0000_NETWORKWATCHERRG/NETWORKWATCHER_EASTUS_HUB',
             hour=datetime.datetime(2026, 1, 15, 9, 0, tzinfo=datetime.timezone.utc),
             mac_address='0022480A1B2C')
    >>> parse_blob_path("exports/flows.csv")
    BlobPath(flow_log=None, hour=None, mac_address=None)
    """
    text = re.sub("/+", "/", path)
    dated = _last(_HOUR_FOLDERS.finditer(text))
    root_key = _last(_ROOT_KEY.finditer(text, 0, dated.start())) if dated else None
    root = text[root_key.end() : dated.start()].strip("/").upper() if dated and root_key else ""
    mac = _last(_MAC_FOLDER.finditer(text))
    digits = re.sub("[-:]", "", mac[1]).upper() if mac else ""
    return BlobPath(
        flow_log=root or None,
        hour=_hour(dated.groups()) if dated else None,
        mac_address=digits if _MAC_ADDRESS.fullmatch(digits) else None,
    )


def _last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    return next(iter(deque(matches, maxlen=1)), None)


def _hour(parts: Sequence[str]) -> dt.datetime | None:
    if not all(part.isascii() and part.isdigit() and len(part) <= 4 for part in parts):
        return None
    year, month, day, hour, minute = map(int, parts)
    if year not in YEARS:
        return None
    try:
        return dt.datetime(year, month, day, hour, minute, tzinfo=dt.UTC).replace(minute=0)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Blob:
    """A local file to read and what its path says of it.

    ``name`` is the path below the folder that was given, with forward slashes; where the path shows a flow log's root
    key it starts at the container instead, so that it does not depend on where the folder stands. ``path`` is absolute,
    ``size`` in bytes as stored. ``flow_log``, ``hour`` and ``mac_address`` are those of `parse_blob_path`.
    """

    name: str
    path: Path
    size: int
    flow_log: str | None
    hour: dt.datetime | None
    mac_address: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a list of files, folders and globs selects.

    ``blobs`` are in the order of ``name``, whatever order the paths or the file system had. ``skipped`` says in
    sentences what a folder holds that is not read, ``unread`` counts the files and folders that were selected and
    could not be looked at (each is in a sentence too). ``duplicates`` counts how often a file was met again, by its
    real path. ``notes`` says what was read and is doubtful.
    """

    blobs: tuple[Blob, ...]
    skipped: tuple[str, ...] = ()
    duplicates: int = 0
    unread: int = 0
    notes: tuple[str, ...] = ()


class _Fate(Enum):
    """What becomes of a file or folder that was met; the value begins the sentence about those not read."""

    READ = "read"
    ENDING = f"not read because the name does not end in {', '.join(ENDINGS)} or one of these with .gz"
    HIDDEN = "not read because hidden"
    SPECIAL = "not read because a pipe or device"
    LOOP = "not followed because the folder was already read"
    UNREADABLE = "not read because it could not be opened"


class _Met(NamedTuple):
    path: Path
    fate: _Fate
    root: Path
    real: str
    size: int = 0


def find_blobs(paths: Sequence[str]) -> Found:
    """The files that ``paths`` select, in the order of their names, and what was left aside.

    A folder is searched with everything below it and gives the files that end in `ENDINGS`; hidden ones (``.git``,
    ``._PT1H.json``) are left aside. A glob (``*``, ``?``, ``[abc]``, ``**`` for any folders) is expanded here, so it
    works where no shell does it; a file or folder of exactly that name comes first. A folder without any such file is
    not an error: it gives no blobs and a sentence.

    Raises SourceError where a path or glob matches nothing, or where the file or folder named can't be opened.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("b.json", "a.csv.gz", "notes.txt"):
    ...         _ = (Path(folder) / name).write_bytes(b"{}")
    ...     found = find_blobs([folder, f"{folder}/*.json"])
    >>> [blob.name for blob in found.blobs], found.duplicates
    (['a.csv.gz', 'b.json'], 1)
    >>> found.skipped
    ('not read because the name does not end in .json, .jsonl, .ndjson, .csv or one of these with .gz: 1 (notes.txt)',)
    """
    if not paths:
        raise SourceError("", "no file, folder or glob was given", hint="name at least one, for example sample_logs")
    met = [each for given in paths for each in _expand(given)]
    routes = defaultdict(list)
    for each in met:
        if each.fate is _Fate.READ:
            routes[os.path.normcase(each.real)].append(each)
    blobs = tuple(sorted(map(_blob, routes.values()), key=lambda blob: (blob.name, str(blob.path))))
    return Found(
        blobs=blobs,
        skipped=_skipped(met) or (() if blobs else (f"no files to read: {_names(map(_shown, paths))}",)),
        duplicates=sum(map(len, routes.values())) - len(routes),
        unread=len({each.path for each in met if each.fate is _Fate.UNREADABLE}),
        notes=_copies(blobs),
    )


def _expand(given: str) -> Iterator[_Met]:
    """Everything that one path, as given, leads to."""
    if not given:
        raise SourceError("", "expected a file, folder or glob, found an empty text", hint="write . for this folder")
    fixed, pattern = _split_glob(Path(given if os.path.lexists(given) else os.path.expanduser(given)).absolute())
    try:
        status = fixed.stat()
    except OSError as error:
        raise _refused(fixed, error, looked_for=given) from error
    except ValueError as error:
        raise SourceError(
            _shown(given), "expected a file, folder or glob, found a text that can't be a path"
        ) from error
    if not pattern and not stat.S_ISDIR(status.st_mode):
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(
                _shown(given), "expected a regular file, found a pipe or device", hint="write it to a file first"
            )
        return iter([_Met(fixed, _Fate.READ, fixed.parent, os.path.realpath(fixed), status.st_size)])
    met = list(_walk(fixed, _closed({pattern or ("**",)})))
    if pattern and not met:
        raise SourceError(_shown(given), "no file or folder matches this glob", hint=_near(fixed / pattern[0]))
    return iter(met)


def _split_glob(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The part of a path that is taken literally, and the components from the first glob on.

    A component that exists under exactly its name is literal, whatever characters it holds.
    """
    fixed = Path(path.anchor)
    parts = path.parts[1:]
    for index, part in enumerate(parts):
        if _GLOB_CHARACTERS.search(part) and not os.path.lexists(fixed / part):
            return fixed, parts[index:]
        fixed /= part
    return fixed, ()


_Patterns = frozenset[tuple[str, ...]]
"""What may still follow below a folder; the empty tuple says that the folder itself matched."""

_EVERYTHING: _Patterns = frozenset({("**",), ()})


def _closed(patterns: Iterable[tuple[str, ...]]) -> _Patterns:
    """``patterns`` with each leading ``**`` also taken as no folder at all."""
    closed = set()
    for pattern in patterns:
        closed.add(pattern)
        while pattern[:1] == ("**",):
            pattern = pattern[1:]
            closed.add(pattern)
    return frozenset(closed)


def _below(patterns: _Patterns, name: str) -> _Patterns:
    """What may follow below the entry ``name``; empty where it does not match."""
    return _closed(
        pattern if pattern[0] == "**" else pattern[1:]
        for pattern in patterns
        if pattern and (pattern[0] == "**" or fnmatch(name, pattern[0]))
    )


def _ends(patterns: _Patterns, name: str) -> list[str]:
    """The last components of those globs that the file ``name`` fulfils; empty where it is not selected."""
    return [p[0] for p in patterns if len(p) == 1 and (p[0] == "**" or fnmatch(name, p[0]))]


def _walk(root: Path, patterns: _Patterns) -> Iterator[_Met]:
    """Everything below ``root`` that matches, each folder of the file system once for each thing sought in it.

    Links are followed after all real folders, so that a file keeps the name of its real place and a loop ends at the
    folder where it closes.
    """
    folders = deque([(root, os.path.realpath(root), patterns)])
    links: deque[tuple[Path, _Patterns]] = deque()
    visited = set()
    while folders or links:
        if folders:
            folder, real, sought = folders.popleft()
        else:
            folder, sought = links.popleft()
            real = os.path.realpath(folder)
        if (real, sought) in visited:
            yield _Met(folder, _Fate.LOOP, root, real)
            continue
        visited.add((real, sought))
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise _refused(folder, error) from error
            yield _Met(folder, _Fate.UNREADABLE, root, real)
            continue
        for entry in entries:
            rest = _below(sought, entry.name)
            if not rest:
                continue
            path = folder / entry.name
            if entry.name.startswith(".") and not any(p and p[0].startswith(".") for p in sought):
                # A glob that goes on below says nothing of hidden entries, unless `**` or a match brings them in.
                if () in rest:
                    yield _Met(path, _Fate.HIDDEN, root, real)
                continue
            linked, ends = entry.is_symlink(), _ends(sought, entry.name)
            # A glob that says more than "any" makes the ending the user's choice.
            wanted = _has_ending(entry.name) or any(end.strip("*") for end in ends)
            try:
                status = entry.stat()
            except OSError:
                # What a dangling link would be is unknown, so its name decides, as it does for a file.
                if not linked or ends:
                    yield _Met(path, _Fate.UNREADABLE if wanted or not linked else _Fate.ENDING, root, str(path))
                continue
            if stat.S_ISDIR(status.st_mode):
                below = rest | _EVERYTHING if () in rest else rest
                if linked:
                    links.append((path, below))
                else:
                    folders.append((path, os.path.join(real, entry.name), below))
            elif ends:
                target = os.path.realpath(path) if linked else os.path.join(real, entry.name)
                fate = _Fate.READ if stat.S_ISREG(status.st_mode) else _Fate.SPECIAL
                fate = fate if wanted else _Fate.ENDING
                yield _Met(path, fate, root, target, status.st_size)


def _has_ending(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith(ENDINGS)


def _blob(routes: Sequence[_Met]) -> Blob:
    """The blob at the end of ``routes``, by a real path before a link, then by the route that says most."""

    def preference(way: tuple[str, _Met]) -> tuple[bool, int, str, str]:
        name, met = way
        return str(met.path) != met.real, -len(name), name, str(met.path)

    name, met = min(((_name(met), met) for met in routes), key=preference)
    facts = parse_blob_path(_as_unicode(met.path.as_posix()))
    if facts.flow_log is None:
        facts = parse_blob_path(_as_unicode(Path(met.real).as_posix()))
    return Blob(name, met.path, met.size, facts.flow_log, facts.hour, facts.mac_address)


def _name(met: _Met) -> str:
    """The name of a file: from its container on where the path shows one, else from the folder that was given.

    File names that are not Unicode keep their odd bytes in escaped form, so that every table can hold them.
    """
    shown = []
    for path in (met.path,) if str(met.path) == met.real else (met.path, Path(met.real)):
        parts = path.parts
        keys = [index for index, part in enumerate(parts[:-1]) if _ROOT_KEY.match(part)]
        if keys and ".." not in parts:
            key = keys[-1]
            shown.append("/".join(parts[key - 1 if parts[key - 1].lower().startswith(_CONTAINER) else key :]))
    name = max(shown, key=len) if shown else met.path.relative_to(met.root).as_posix()
    return _as_unicode(name)


def _as_unicode(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _copies(blobs: Sequence[Blob]) -> tuple[str, ...]:
    """A sentence where several files claim the same hour of the same NIC in the same flow log: a copy counts twice."""
    claims = defaultdict(list)
    for blob in blobs:
        if blob.flow_log and blob.hour and blob.mac_address:
            claims[blob.flow_log, blob.hour, blob.mac_address].append(blob)
    again = [blob for claimed in claims.values() if len(claimed) > 1 for blob in claimed]
    if not again:
        return ()
    # By path, since copies in two folders have the same name.
    paths = _names(_shown(str(blob.path)) for blob in again)
    return (f"read although another file has the same flow log, hour and NIC, so a copy counts twice: {paths}",)


def _skipped(met: Sequence[_Met]) -> tuple[str, ...]:
    """One sentence for each reason why something that was met is not read."""
    sentences = []
    for fate in _Fate:
        if fate is not _Fate.READ:
            # Of two ways to the same file the one from the shorter root names it, whatever order they were given in.
            ways = sorted((each for each in met if each.fate is fate), key=lambda each: -len(each.root.parts))
            names = sorted({each.path: each.path.relative_to(each.root).as_posix() for each in ways}.values())
            if names:
                sentences.append(f"{fate.value}: {len(names)} ({_names(map(_shown, names))})")
    return tuple(sentences)


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - NAMES_SHOWN
    return ", ".join(listed[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shown(text: str) -> str:
    """``text`` in full with everything unprintable escaped."""
    return "".join(map(sample, text))


def _refused(path: Path, error: OSError, *, looked_for: str = "") -> SourceError:
    """The error for a file or folder that the system did not give, with what to do about it."""
    where = _shown(looked_for or str(path))
    if os.name == "nt" and len(str(path)) >= _WINDOWS_PATH_LIMIT:
        hint = "the path has 260 characters or more: switch on long paths in Windows or move the folder up"
        return SourceError(where, f"could not be opened: {error.strerror}", hint=hint)
    if isinstance(error, PermissionError):
        return SourceError(where, "may not be read by this user", hint="check the permissions of the file and folders")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if looked_for:
            return SourceError(where, "no such file or folder", hint=_near(path))
        return SourceError(where, "was there a moment ago and is gone", hint="run again when nothing moves the files")
    return SourceError(where, f"could not be opened: {error.strerror or type(error).__name__}")


def _near(path: Path) -> str:
    """A hint from the first folder on the way to ``path`` that lacks the next component."""
    while not os.path.isdir(path.parent) and path.parent != path:
        path = path.parent
    try:
        siblings = [_shown(name) for name in os.listdir(path.parent)]
    except OSError:
        return ""
    hint = near_matches(path.name, siblings)
    if hint.startswith("known:") and len(siblings) > NAMES_SHOWN:
        return f"{_shown(str(path.parent))} holds {len(siblings)} files and folders, none with a similar name"
    return hint or f"{_shown(str(path.parent))} is empty"


def read_chunks(
    blob: Blob, chunk_size: int = 1 << 20, *, decompressed_limit: int = DECOMPRESSED_LIMIT
) -> Iterator[bytes]:
    """The bytes of ``blob`` in pieces of at most ``chunk_size``, decompressed where its first bytes say gzip.

    The name plays no part in that. Several gzip members in a row are one stream, as for ``gzip -d``. A piece is never
    empty; memory stays near one piece.

    Raises SourceError where the file can't be opened or read, and where a gzip file grows beyond `RATIO_LIMIT` times
    its size (judged after `RATIO_FREE_BYTES`) or beyond ``decompressed_limit`` bytes. Raises FormatError where gzip
    data is cut off, damaged or followed by something else, after everything before that place was yielded. Raises
    ValueError where ``chunk_size`` is below 1.

    >>> import gzip, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "PT1H.json"
    ...     _ = path.write_bytes(gzip.compress(b'{"records":') + gzip.compress(b"[]}"))
    ...     b"".join(read_chunks(find_blobs([str(path)]).blobs[0]))
    b'{"records":[]}'
    """
    if chunk_size < 1:
        raise ValueError(f"a chunk has at least 1 byte, found {chunk_size}")
    try:
        with blob.path.open("rb") as file:
            magic = file.read(len(_GZIP_MAGIC))
            file.seek(0)
            if magic == _GZIP_MAGIC:
                yield from inflated(_shown(blob.name), file, chunk_size, decompressed_limit)
            else:
                while chunk := file.read(chunk_size):
                    yield chunk
    except OSError as error:
        raise _refused(blob.path, error) from error


def inflated(where: str, file: BinaryIO, chunk_size: int, limit: int = DECOMPRESSED_LIMIT) -> Iterator[bytes]:
    """The decompressed bytes of a gzip ``file`` in pieces of at most ``chunk_size``; raises as `read_chunks` does."""
    for piece in _inflated(where, file, limit):
        yield from (piece[start : start + chunk_size] for start in range(0, len(piece), chunk_size))


def _inflated(where: str, file: BinaryIO, limit: int) -> Iterator[bytes]:
    taken = given = 0
    member = zlib.decompressobj(_GZIP_WINDOW)
    pending = b""
    while pending or (pending := file.read(_COMPRESSED_CHUNK)):
        if member.eof:
            # Zero bytes between or after members are padding, which gzip itself passes over.
            data = pending.lstrip(b"\0")
            taken += len(pending) - len(data)
            pending = data
            if not pending:
                continue
            member = zlib.decompressobj(_GZIP_WINDOW)
        before = member.copy()
        try:
            chunk = member.decompress(pending, _INFLATED_CHUNK)
        except zlib.error as error:
            yield _up_to_damage(before, pending)
            raise FormatError(
                where,
                f"expected gzip data, found damage after {taken:,} compressed bytes ({error})",
                hint="copy the file again and compare its checksum",
            ) from error
        rest = member.unused_data if member.eof else member.unconsumed_tail
        taken += len(pending) - len(rest)
        given += len(chunk)
        pending = rest
        if given > max(RATIO_FREE_BYTES, taken * RATIO_LIMIT):
            problem = f"{taken:,} bytes of gzip became more than {RATIO_LIMIT} times as many"
            raise SourceError(where, problem, hint=_BOMB)
        if given > limit:
            raise SourceError(where, f"gzip data grew beyond the limit of {limit:,} bytes", hint=_BOMB)
        if chunk:
            yield chunk
    if not member.eof:
        # The last input can stand for more output than one chunk takes.
        while chunk := member.decompress(b"", _INFLATED_CHUNK):
            given += len(chunk)
            yield chunk
        raise FormatError(
            where,
            f"the gzip data is cut off after {taken:,} compressed bytes ({given:,} decompressed)",
            hint="copy the file again; what was read up to there is used",
        )


def _up_to_damage(member: zlib._Decompress, pending: bytes) -> bytes:
    """What ``member`` can still give before the byte that it refuses: a call that fails gives nothing of its output."""
    given = bytearray()
    for index in range(len(pending)):
        piece = pending[index : index + 1]
        while piece:
            try:
                given += member.decompress(piece, 1)
            except zlib.error:
                return bytes(given)
            piece = member.unconsumed_tail
    return bytes(given)
