"""Flow logs in a storage account: which there are, and their blobs inside a window.

Never a walk of the container: flow logs are found by the folders above ``y=``, then each is listed by the longest prefixes that
lie inside the window, page by page, of which little is kept. Names are judged by the grammar of formats.md 4.1, not by size, so that folders of a hierarchical
namespace are told from empty blobs.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from xml.etree.ElementTree import ParseError

from flowlens.evidence import Window, sample
from flowlens.sources.accounts import PATIENCE, Account
from flowlens.sources.files import parse_blob_path
from flowlens.sources.pages import Listed, Page, parse_page
from flowlens.sources.plain_reads import quoted
from flowlens.sources.refusals import (
    SKEW_LIMIT,
    Again,
    asked_wait,
    clock_skew,
    declared,
    is_passing,
    refusal,
    status_of,
)
from flowlens.sources.stored_blobs import StoredBlob, StoredBlobs
from flowlens.sources.workers import Workers

GRACE = dt.timedelta(minutes=15)
"""How long after its end an hour may still grow: the last record of an hour is written a few minutes late."""
LAST_HOURS = dt.timedelta(hours=24)
ROOT_KEYS = ("flowLogResourceID=", "resourceId=", "resoureId=")
"""What the names of flow logs begin with, as Azure spells it; asked for first, so that other blobs beside cost nothing."""

_HOUR = dt.timedelta(hours=1)
_PAGE = 5000
_ROOT_PAGES = 10
_FOLDERS_LIMIT = 20_000
_LISTERS = 8
_TRIES = 6
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 2.0
_CLOCK_NOTE = 120
_TOO_SLOW = "a page came too slowly"
_ROOT_KEY = re.compile(r"(?:^|/)(?:flowLogResourceID|resourc?eId)=", re.IGNORECASE)
_DATED = re.compile(r"/y=", re.IGNORECASE)
_YEAR = re.compile(r"/y=(\d{4})/$")
# What a hierarchical namespace lists beside the blobs: each of their folders.
_FOLDER = re.compile(r"(?:^|/)(?:[ymdh]=\d+|macAddress=[0-9A-F:-]+)$", re.IGNORECASE)
_BLOB = re.compile(r"/macAddress=[^/]+/[^/]+\.json$", re.IGNORECASE)
_SUBSCRIPTION = re.compile(r"^(?:SUBSCRIPTIONS/)?([0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})(?=[/_])")


@dataclass(frozen=True, slots=True)
class Listing:
    """The blobs of a location inside a window, in the order of their names, and in words what was left out."""

    blobs: StoredBlobs
    flow_logs: tuple[str, ...]
    notes: tuple[str, ...]
    requests: int


def default_window(now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """The 24 hours that ended 15 minutes before ``now``: what a storage account is read for unless told otherwise.

    >>> default_window(dt.datetime(2026, 1, 2, 9, 30, 12, tzinfo=dt.UTC))[0].isoformat()
    '2026-01-01T09:15:00+00:00'
    """
    end = now.astimezone(dt.UTC).replace(second=0, microsecond=0) - GRACE
    return end - LAST_HOURS, end


def window_prefixes(window: Window, years: Sequence[int]) -> list[str]:
    """The longest prefixes below a flow log that hold all hours of ``window`` and the hour behind it, and no other.

    Whole years, months and days are one prefix each, else the hour is. ``years`` are those that there are; where the window is
    open at an end they bound it.

    >>> utc = dt.timezone.utc
    >>> day = Window(dt.datetime(2026, 1, 15, 22, 30, tzinfo=utc), dt.datetime(2026, 1, 17, tzinfo=utc))
    >>> window_prefixes(day, [2026])
    ['y=2026/m=01/d=15/h=22/', 'y=2026/m=01/d=15/h=23/', 'y=2026/m=01/d=16/', 'y=2026/m=01/d=17/h=00/']
    """
    if not years:
        return []
    low = dt.datetime(max(1, min(years)), 1, 1, tzinfo=dt.UTC)
    high = dt.datetime(min(9998, max(years)) + 1, 1, 1, tzinfo=dt.UTC)
    first = max(low, _floor(window.start, "hour")) if window.start is not None else low
    last = high
    if window.end is not None:
        # A record flushed just after the hour holds tuples of before it.
        last = min(high, _floor(window.end - dt.timedelta(microseconds=1), "hour") + 2 * _HOUR)
    prefixes = []
    while first < last:
        # The hour always fits.
        unit, form = next(
            (unit, form) for unit, form in _UNITS if first == _floor(first, unit) and _after(first, unit) <= last
        )
        if first.year in years:
            prefixes.append(form.format(first))
        first = _after(first, unit)
    return prefixes


_Answer = TypeVar("_Answer")
_UNITS = (
    ("year", "y={0.year:04}/"),
    ("month", "y={0.year:04}/m={0.month:02}/"),
    ("day", "y={0.year:04}/m={0.month:02}/d={0.day:02}/"),
    ("hour", "y={0.year:04}/m={0.month:02}/d={0.day:02}/h={0.hour:02}/"),
)
_START = {"month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0, "microsecond": 0}


def _floor(time: dt.datetime, unit: str) -> dt.datetime:
    names = list(_START)
    keep = names.index(unit) + 1 if unit in _START else 0
    replaced: dict[str, Any] = {name: _START[name] for name in names[keep:]}
    return time.replace(**replaced)


def _after(time: dt.datetime, unit: str) -> dt.datetime:
    if unit == "year":
        return time.replace(year=time.year + 1)
    if unit == "month":
        return _floor(time + dt.timedelta(days=31), "month")
    return time + dt.timedelta(**{f"{unit}s": 1})


class _Lister:
    """Pages of one container, each tried again on its own, so that a page that fails never means fewer blobs."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.requests = 0
        self.again = Again()
        self.skew = 0.0

    def _tried(self, ask: Callable[[], _Answer], prefix: str) -> _Answer:
        """What ``ask`` gives of a page; errors that pass are waited out."""
        from azure.core.exceptions import AzureError

        where = self._where(prefix)
        deadline = time.monotonic() + PATIENCE * self._account.timeout
        for attempt in range(1, _TRIES + 1):
            try:
                self.requests += 1
                return ask()
            except (AzureError, ParseError, OSError, ValueError, LookupError) as error:
                # A control character in one name makes the server's XML, or the server itself, fail for the whole page.
                wait = asked_wait(error) or min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
                if attempt == _TRIES or not is_passing(error) or time.monotonic() + wait > deadline:
                    if status_of(error) == 500:
                        raise declared("FL-S31", where, "500 from the server") from None
                    raise refusal(error, self._account.context(where)) from None
                self.again.count(error)
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _where(self, prefix: str) -> str:
        return f"{self._account.location.account_url}/{self._account.location.container}/{prefix}"

    def _note_clock(self, headers: Mapping[str, str]) -> None:
        self.skew = max(self.skew, clock_skew(headers.get("Date")), key=abs)

    def folders(self, prefix: str, pages_limit: int = sys.maxsize) -> list[str]:
        """The folders directly below ``prefix``, each with its slash; blobs beside them are passed over."""
        found: list[str] = []
        token: str | None = None

        def ask() -> tuple[list[str], str | None]:
            walk: Any = self._account.client.walk_blobs(
                name_starts_with=prefix or None,
                delimiter="/",
                results_per_page=_PAGE,
                raw_response_hook=lambda response: self._note_clock(response.http_response.headers),
            )
            pages = walk.by_page(token)
            try:
                names = [item.name for item in next(pages, ()) if item.name.endswith("/") and not hasattr(item, "etag")]
            except (AttributeError, TypeError, ArithmeticError) as error:
                # The library takes an answer apart without looking whether it is a list, as a proxy's page is none.
                raise ParseError("the answer is no list of folders") from error
            return names, pages.continuation_token or None

        for _ in range(pages_limit):
            names, following = self._tried(lambda: self._soon(ask), prefix)
            found += names
            token = self._next(token, following, prefix)
            if token is None:
                break
        return found

    def pages(self, prefix: str) -> Iterator[list[Listed]]:
        """Everything whose name begins with ``prefix``, page by page."""
        marker: str | None = ""

        def ask() -> Page:
            with self._account.reads.page(prefix, marker or "", _PAGE) as (headers, body):
                self._note_clock(headers)
                return parse_page(self._in_time(body))

        while marker is not None:
            page = self._tried(ask, prefix)
            yield page.blobs
            marker = self._next(marker, page.following, prefix)

    def _next(self, here: str | None, following: str | None, prefix: str) -> str | None:
        """Where the page behind ``here`` begins; None behind the last one."""
        if following and following == here:
            # As behind a cache that does not look at what is asked for: it would never end.
            raise declared("FL-S31", self._where(prefix), "a page names itself as the next one")
        return following or None

    def _soon(self, ask: Callable[[], _Answer]) -> _Answer:
        """What ``ask`` gives before patience ends; the client library waits for each byte anew."""
        from azure.core.exceptions import ServiceResponseError

        workers = Workers(1, threading.Event())
        try:
            (future,) = workers.submit(ask, urgent=True)
            answer: _Answer = future.result(timeout=PATIENCE * self._account.timeout)
        except FutureTimeoutError:
            raise ServiceResponseError(_TOO_SLOW) from None
        finally:
            workers.stop()
        return answer

    def _in_time(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of a body that comes before patience ends: no single wait for one that drips is too long."""
        from azure.core.exceptions import ServiceResponseError

        deadline = time.monotonic() + PATIENCE * self._account.timeout
        for piece in body:
            yield piece
            if time.monotonic() > deadline:
                raise ServiceResponseError(_TOO_SLOW)


def list_blobs(
    account: Account, window: Window, *, subscriptions: Sequence[str] = (), now: dt.datetime | None = None
) -> Listing:
    """The blobs of ``account``'s location that may hold tuples of ``window``.

    ``subscriptions`` leaves out flow logs whose path names another subscription: a flow log lies in the subscription of what it
    logs. What else a scope names, a path can't tell for sure. ``now`` decides which hours may still grow.

    Raises SourceError as the table of `flowlens.sources.refusals` says.
    """
    moment = now or dt.datetime.now(dt.UTC)
    lister = _Lister(account)
    notes = list(account.warnings)
    roots = _roots(lister, account.location.prefix)
    wanted = {word.upper() for word in subscriptions}
    other = [root for root, _ in roots if wanted and _subscription(root) not in (None, *wanted)]
    if other:
        notes.append(f"{len(other)} flow log(s) of other subscriptions were not read (--subscription)")
    kept = [(root, years) for root, years in roots if root not in set(other)]
    prefixes = _cut(
        [f"{root}{below}" for root, years in kept for below in _below(window, years)], account.location.prefix
    )
    if abs(lister.skew) > SKEW_LIMIT:
        raise declared("FL-S19", str(account.location), f"{abs(lister.skew) / 60:.0f} minutes")
    if abs(lister.skew) > _CLOCK_NOTE:
        notes.append(f"the clock of this machine differs by {abs(lister.skew) / 60:.0f} minutes from the server's")
    sieve = _Sieve(account, window, moment)
    blobs = StoredBlobs()
    for part in _listed(sieve, lister, prefixes):
        blobs.extend(part)
    if not roots:
        notes.append(f"no flow log was found below {sample(str(account.location))}")
    notes += [*sieve.notes(), *lister.again.told("requests for names")]
    names = tuple(sorted({_name_of_root(root) for root, _ in kept}))
    return Listing(blobs, names, tuple(notes), lister.requests)


def try_reading(blob: StoredBlob) -> None:
    """Ask for the properties of a blob, which takes the right to read it; raises SourceError as reading it would."""
    from azure.core.exceptions import AzureError

    try:
        blob.account.client.get_blob_client(blob.key).get_blob_properties()
    except (AzureError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # The library takes headers apart without looking.
        raise refusal(error, blob.account.context(blob.name)) from None


def _listed(sieve: _Sieve, lister: _Lister, prefixes: Sequence[str]) -> Iterator[StoredBlobs]:
    """What lies below each prefix, in their order; several are listed at once, a page of each in memory."""

    def list_one(prefix: str) -> StoredBlobs:
        part = StoredBlobs()
        for page in lister.pages(prefix):
            sieve.take(page, part)
        return part

    if len(prefixes) < 2:
        yield from map(list_one, prefixes)
        return
    pool = ThreadPoolExecutor(min(_LISTERS, len(prefixes)), thread_name_prefix="flowlens-list")
    try:
        yield from pool.map(list_one, prefixes)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _name_of_root(root: str) -> str:
    return parse_blob_path(f"{root}y=2000/m=01/d=01/h=00/m=00/macAddress=000000000000/PT1H.json").flow_log or root


def _subscription(root: str) -> str | None:
    found = _SUBSCRIPTION.match(_name_of_root(root))
    return found[1] if found else None


def _below(window: Window, years: Sequence[int]) -> list[str]:
    if window.start is None and window.end is None:
        return [""]
    return window_prefixes(window, years)


def _cut(prefixes: Sequence[str], given: str) -> list[str]:
    """The prefixes inside what the location itself names, each once, none inside another."""
    inside = {
        max(prefix, given, key=len) for prefix in prefixes if prefix.startswith(given) or given.startswith(prefix)
    }
    kept: list[str] = []
    for prefix in sorted(inside):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


def _roots(lister: _Lister, prefix: str) -> list[tuple[str, tuple[int, ...]]]:
    """Each flow log as its prefix up to ``y=``, with the years that it has."""
    if dated := _DATED.search(prefix):
        root = prefix[: dated.start() + 1]
        return [(root, _years(lister.folders(root)))] if _ROOT_KEY.search(root) else []
    if _ROOT_KEY.search(prefix):
        return _walk(lister, [prefix])
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    starts = [found for key in ROOT_KEYS for found in lister.folders(folder + key)]
    if not starts:
        # Spelled otherwise, as a copy by another tool may be; other blobs beside then cost some pages.
        found = lister.folders(folder, _ROOT_PAGES)
        starts = [each for each in found if _ROOT_KEY.match(each[len(folder) :])]
    return _walk(lister, starts)


def _walk(lister: _Lister, starts: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The flow logs below some folders, by folders alone down to their years."""
    roots = []
    pending = list(starts)
    asked = 0
    while pending:
        folder = pending.pop()
        asked += 1
        if asked > _FOLDERS_LIMIT:
            raise declared("FL-S37", folder, f"{_FOLDERS_LIMIT:,}")
        below = lister.folders(folder)
        # A prefix that ends inside a folder's name lists that folder and its neighbours, all to be looked into.
        if years := _years(below):
            roots.append((folder, years))
        pending += [each for each in below if not _DATED.search(each)]
    return sorted(roots)


def _years(folders: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted({int(year[1]) for folder in folders if (year := _YEAR.search(folder))}))


class _Sieve:
    """Listed items become blobs, or are counted by why they are not."""

    def __init__(self, account: Account, window: Window, now: dt.datetime) -> None:
        self._account = account
        self._window = window
        self._foreign: list[str] = []
        self._foreign_count = 0
        self._lock = threading.Lock()
        self._growing = (now - GRACE).replace(minute=0, second=0, microsecond=0)
        # Many names share their folders, and many their NIC.
        self._parse = lru_cache(10_000)(parse_blob_path)

    def take(self, items: Sequence[Listed], into: StoredBlobs) -> None:
        """Take a page of a listing; threads may do so at the same time."""
        with self._lock:
            for item in items:
                if (blob := self._blob(item)) is not None:
                    into.append(blob)

    def _blob(self, item: Listed) -> StoredBlob | None:
        if not item.is_current:
            raise declared("FL-S32", str(self._account.location), "snapshots, versions or deleted blobs")
        below = _BLOB.search(item.name)
        if below is None:
            self._pass_over(item.name)
            return None
        folder = self._parse(item.name[: below.start() + 1])
        mac_address = self._parse(item.name[below.start() + 1 :]).mac_address
        if folder.flow_log is None or folder.hour is None or mac_address is None:
            self._pass_over(item.name)
            return None
        if not _may_hold(folder.hour, self._window):
            return None
        return StoredBlob(
            account=self._account,
            key=item.name,
            size=item.size,
            etag=quoted(item.etag),
            flow_log=folder.flow_log,
            hour=folder.hour,
            mac_address=mac_address,
            is_open=folder.hour >= self._growing,
            refused=_refused(item),
            created=item.created,
        )

    def _pass_over(self, name: str) -> None:
        if _FOLDER.search(name.rstrip("/")):
            return
        self._foreign_count += 1
        # The first by name, in whatever order pages come.
        self._foreign = sorted([*self._foreign, name])[:3]

    def notes(self) -> list[str]:
        if not self._foreign_count:
            return []
        more = ", ..." if self._foreign_count > len(self._foreign) else ""
        names = ", ".join(map(sample, self._foreign))
        return [
            f"{self._foreign_count} blob(s) were not read, since their names are not those of flow logs: {names}{more}"
        ]


def _refused(item: Listed) -> str:
    if item.kind != "BlockBlob":
        return "FL-S28"
    return "FL-S27" if item.tier.lower() == "archive" else ""


def _may_hold(hour: dt.datetime, window: Window) -> bool:
    return (window.start is None or hour + _HOUR > window.start) and (window.end is None or hour - _HOUR < window.end)
