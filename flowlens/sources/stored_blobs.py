"""Blobs of storage accounts, as a listing described them, many of them in little memory."""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple, overload

from flowlens.sources.accounts import Account

_NO_TIME = 0


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob of a flow log as the listing described it.

    ``key`` is its name in the container, ``size`` in bytes, ``etag`` its version then. ``is_open``: it may still grow.
    ``refused`` is the id of the declared error that reading it would give, empty where it can be read. ``created`` is when the
    blob was created, as the listing said it: another one of the same name has another.
    """

    account: Account
    key: str
    size: int
    etag: str
    flow_log: str
    hour: dt.datetime
    mac_address: str
    is_open: bool
    refused: str = ""
    created: str = ""

    @property
    def name(self) -> str:
        """The name with its container, as a copy of the container on disk would have it."""
        return f"{self.account.location.container}/{self.key}"


class _Folder(NamedTuple):
    """What the blobs of a flow log and an hour share."""

    account: Account
    path: str
    flow_log: str
    hour: dt.datetime
    is_open: bool

    def identity(self) -> tuple[object, ...]:
        return (id(self.account), *self[1:])

    def place(self) -> tuple[str, str, str]:
        return self.account.location.account_url, self.account.location.container, self.path


class StoredBlobs(Sequence[StoredBlob]):
    """Stored blobs in the order in which they were added, at 29 bytes each.

    Names are kept as two numbers: of the folders down to the hour, and of the NIC and file below; both repeat from blob to blob.
    Whatever does not repeat, or is written otherwise than Azure does, takes more and comes back as it was.
    """

    def __init__(self) -> None:
        self._folders: list[_Folder] = []
        self._folder_numbers: dict[tuple[object, ...], int] = {}
        self._places: set[tuple[str, str, str]] = set()
        self._files: list[tuple[str, str]] = []
        self._file_numbers: dict[tuple[str, str], int] = {}
        self._reasons = [""]
        self._folder, self._file = array("I"), array("I")
        self._size, self._etag = array("Q"), array("Q")
        self._refused = array("B")
        self._other_etags: dict[int, str] = {}
        self._created = array("I")
        self._other_times: dict[int, str] = {}

    def append(self, blob: StoredBlob) -> None:
        """Add a blob behind the others."""
        cut = blob.key.rfind("/", 0, max(0, blob.key.rfind("/"))) + 1
        self._folder.append(self._number(_Folder(blob.account, blob.key[:cut], blob.flow_log, blob.hour, blob.is_open)))
        self._file.append(self._file_number((blob.key[cut:], blob.mac_address)))
        self._size.append(blob.size)
        number = _number_of(blob.etag)
        if not number:
            self._other_etags[len(self._etag)] = blob.etag
        self._etag.append(number)
        seconds = _seconds_of(blob.created)
        if seconds == _NO_TIME and blob.created:
            self._other_times[len(self._created)] = blob.created
        self._created.append(seconds)
        self._refused.append(self._reason(blob.refused))

    def extend(self, others: StoredBlobs) -> int:
        """Take over those of ``others`` that are not there yet, by account, container and name; how many were there already.

        ``others`` is not to be used any more.
        """
        if not self:
            vars(self).update(vars(others))
            return 0
        shared = {number for number, folder in enumerate(others._folders) if folder.place() in self._places}
        again = self._again(others, shared) if shared else frozenset()
        folders = [self._number(folder) for folder in others._folders]
        files = [self._file_number(file) for file in others._files]
        reasons = [self._reason(reason) for reason in others._reasons]
        for at in range(len(others)):
            if at in again:
                continue
            if etag := others._other_etags.get(at):
                self._other_etags[len(self._etag)] = etag
            self._folder.append(folders[others._folder[at]])
            self._file.append(files[others._file[at]])
            self._size.append(others._size[at])
            self._etag.append(others._etag[at])
            if (text := others._other_times.get(at)) is not None:
                self._other_times[len(self._created)] = text
            self._created.append(others._created[at])
            self._refused.append(reasons[others._refused[at]])
        return len(again)

    def _again(self, others: StoredBlobs, shared: set[int]) -> frozenset[int]:
        """The places in ``others`` of blobs that are here too; only folders that both have are looked into."""
        places = {others._folders[number].place() for number in shared}
        here = {
            (self._folders[folder].place(), self._files[file][0])
            for folder, file in zip(self._folder, self._file, strict=True)
            if self._folders[folder].place() in places
        }
        return frozenset(
            at
            for at, (folder, file) in enumerate(zip(others._folder, others._file, strict=True))
            if folder in shared and (others._folders[folder].place(), others._files[file][0]) in here
        )

    def __len__(self) -> int:
        return len(self._size)

    @overload
    def __getitem__(self, at: int) -> StoredBlob: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[StoredBlob]: ...

    def __getitem__(self, at: int | slice) -> StoredBlob | Sequence[StoredBlob]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        if at < 0:
            at += len(self)
        folder = self._folders[self._folder[at]]
        file, mac_address = self._files[self._file[at]]
        number = self._etag[at]
        seconds = self._created[at]
        return StoredBlob(
            folder.account,
            folder.path + file,
            self._size[at],
            f'"0x{number:X}"' if number else self._other_etags[at],
            folder.flow_log,
            folder.hour,
            mac_address,
            folder.is_open,
            self._reasons[self._refused[at]],
            self._other_times.get(at, "") if seconds == _NO_TIME else _time_of(seconds),
        )

    def _number(self, folder: _Folder) -> int:
        number = self._folder_numbers.setdefault(folder.identity(), len(self._folders))
        if number == len(self._folders):
            self._folders.append(folder)
            self._places.add(folder.place())
        return number

    def _file_number(self, file: tuple[str, str]) -> int:
        number = self._file_numbers.setdefault(file, len(self._files))
        if number == len(self._files):
            self._files.append(file)
        return number

    def _reason(self, code: str) -> int:
        if code not in self._reasons:
            self._reasons.append(code)
        return self._reasons.index(code)


def _seconds_of(created: str) -> int:
    """The time that Azure writes, in seconds since 1970; _NO_TIME where it is none, or not written just so."""
    try:
        seconds = int(parsedate_to_datetime(created).timestamp())
        return seconds if 0 < seconds < 1 << 32 and formatdate(seconds, usegmt=True) == created else _NO_TIME
    except (ValueError, OverflowError, OSError):
        return _NO_TIME


@lru_cache(1000)
def _time_of(seconds: int) -> str:
    """The time as Azure writes it; the blobs of an hour are created within some seconds."""
    return formatdate(seconds, usegmt=True)


def _number_of(etag: str) -> int:
    """The number that Azure writes as an ETag; 0 where it is none, or not written just so."""
    try:
        number = int(etag[3:-1], 16)
    except ValueError:
        return 0
    return number if 0 < number < 1 << 64 and f'"0x{number:X}"' == etag else 0
