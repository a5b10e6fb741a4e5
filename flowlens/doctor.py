"""What can be read here, with which engine, and how much there is; reads no flow."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Generator, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from flowlens import budget, kernel
from flowlens.catalog import load_tags, profile_names
from flowlens.config import read_config
from flowlens.errors import FlowlensError
from flowlens.evidence import Window
from flowlens.selecting import select_files
from flowlens.sources import workspace
from flowlens.sources.accounts import Access, connect, is_remote, parse_location
from flowlens.sources.files import ENDINGS
from flowlens.sources.ranges import reads_of
from flowlens.sources.refusals import address_words, redact
from flowlens.sources.slices import Asker
from flowlens.sources.storage import ROOT_KEYS, Listing, default_window, list_blobs, try_reading
from flowlens.sources.workspace import is_workspace, parse_workspace
from flowlens.workspace_rows import count_rows, plan

_ENGINES = ("polars", "pyarrow", "msgspec")
_START_SECONDS = 4
_MB_PER_SECOND = 30
_BLOBS_PER_SECOND = 400
"""What a run takes to start and to judge, what it decodes and rolls up of plain JSON, and how many blobs, which cost time each; CPU
seconds by `python -m bench.cost` on a 2-core machine. Threads share an interpreter, so more cores gain little. An estimate, not a promise:
a log with a conversation for every few flow tuples takes some times as long."""


Lines = Generator[str, None, bool]
"""Lines that tell of a source, and at their end whether it holds anything to read."""


def describe(sources: Sequence[str], access: Access | None = None, window: Window | None = None) -> Lines:
    """Lines for a person: engine, catalogue, config, and for each source what there is and what a run would cost.

    The generator returns whether a run would find anything to read; without sources there is nothing to find, and it is true.

    Of a storage account or workspace also who reads it and what that identity may do, over ``window``, else the last 24 hours.

    Raises SourceError where a source is not there or says no, after all others were described, and ConfigError where
    flowlens.toml is wrong.

    >>> next(describe([])).startswith("flowlens")
    True
    """
    config = read_config()
    tags = load_tags(config.cloud)
    yield from [
        f"flowlens {_version('flowlens')} on Python {platform.python_version()}, {os.cpu_count()} core(s)",
        f"engine: {kernel.engine()} with " + ", ".join(f"{name} {_version(name)}" for name in _ENGINES),
        f"config: {config.path or 'none (flowlens.toml not found)'}; cloud {config.cloud}",
        f"catalogue: {len(profile_names())} profiles, {len(tags.names)} service tags of {tags.date}",
    ]
    failures: list[FlowlensError] = []
    found = not sources
    for source in sources:
        try:
            if is_workspace(source):
                found |= yield from _workspace(source, access or Access(), window)
            elif is_remote(source):
                found |= yield from _account(source, access or Access(), window)
            else:
                found |= yield from _source(source, window or Window())
        except FlowlensError as error:
            failures.append(error)
            yield f"  {error.where}: {error.problem}"
            if error.hint:
                yield f"  next: {error.hint}"
    if failures:
        raise failures[0]
    return found


def _account(source: str, access: Access, window: Window | None) -> Lines:
    """One thing after another, so that what works is told before the first that does not."""
    location = parse_location(source, access)
    now = dt.datetime.now(dt.UTC)
    window = window or Window(*default_window(now))
    yield f"{location}:"
    if route := _route(location.account_url):
        yield f"  network: {route}"
    account = connect(location, access)
    yield f"  identity: {account.identity}"
    listing = list_blobs(account, window, now=now)
    yield f"  list: yes ({listing.requests} requests)"
    readable = next((blob for blob in listing.blobs if not blob.refused), None)
    if readable is not None:
        try_reading(readable)
    yield f"  read: {'yes' if readable else 'not tried, since there is no blob'}"
    yield from (f"  {line}" for line in _amount(listing, window))
    if not listing.blobs:
        names = " or ".join(f"{key}.../y=.../macAddress=.../*.json" for key in ROOT_KEYS[:2])
        yield f"  nothing to read: looked for blobs named {names}, of hours in the window and the one after it"
    return bool(listing.blobs)


def _workspace(source: str, access: Access, window: Window | None) -> Lines:
    """Who asks, whether that is allowed, and how many rows there are."""
    place = parse_workspace(source, access)
    now = dt.datetime.now(dt.UTC)
    usual = workspace.default_window(now)
    start, end = (window.start or usual[0], window.end or now) if window else usual
    yield f"{place}:"
    connection = workspace.connect(place, access)
    yield f"  identity: {connection.identity}"
    counts = count_rows(Asker(connection), start, end)
    yield "  query: yes"
    yield f"  window: {start.isoformat()} to {end.isoformat()}"
    if counts is None:
        yield f"  rows of {place.table}: too many to be counted in time; narrow the window"
        return True
    rows, hours = int(counts["flows"].sum()), counts["mark"].dt.truncate("1h").n_unique()
    parts = len(plan(start, end, (), counts, budget.QUERY_ROWS))
    yield f"  {rows} flow row(s) of {place.table} in {hours} hour(s); a run takes {1 + 2 * parts} queries or more"
    if not rows:
        yield f"  nothing to read: looked for flow rows of {place.table} in the window"
    return rows > 0


def _route(account_url: str) -> str:
    """How requests get there: by which proxy, else to which address the account's name leads; empty where it leads nowhere."""
    import requests

    proxy = requests.utils.select_proxy(account_url, requests.utils.get_environ_proxies(account_url))
    return f"through the proxy {redact(proxy)}" if proxy else address_words(urlsplit(account_url).netloc)


def _amount(listing: Listing, window: Window) -> Iterator[str]:
    start, end = (edge.isoformat() if edge else "..." for edge in (window.start, window.end))
    yield f"window: {start} to {end}"
    size = sum(blob.size for blob in listing.blobs)
    hours = sorted({blob.hour for blob in listing.blobs})
    nics = {(blob.flow_log, blob.mac_address) for blob in listing.blobs}
    yield (
        f"{len(listing.flow_logs)} flow log(s), {len(nics)} NIC(s), {len(hours)} hour(s), {len(listing.blobs)} blob(s), "
        f"{size / 1e6:.1f} MB"
    )
    yield from listing.flow_logs
    if hours:
        yield f"hours {hours[0].isoformat()} to {hours[-1].isoformat()}"
    ahead = budget.shared(None, os.cpu_count() or 1).ahead
    reads = sum(reads_of(blob.size, is_open=blob.is_open, ahead=ahead) for blob in listing.blobs)
    yield (
        f"a run takes about {_seconds(size, len(listing.blobs))} s on this machine where the network keeps up, {reads} read and "
        f"{listing.requests} list operations, {size / 1e9:.2f} GB out of the account"
    )
    yield from listing.notes


def _seconds(size: int, blobs: int) -> int:
    return round(_START_SECONDS + size / 1e6 / _MB_PER_SECOND + blobs / _BLOBS_PER_SECOND)


def _source(source: str, window: Window) -> Lines:
    """What a run would read of files, told as a run tells it."""
    selected = select_files([source], window)
    blobs = [item.blob for item in selected.items]
    size = sum(blob.size for blob in blobs)
    if selected.exports and not selected.flow_logs:
        yield f"{source}: {len(blobs)} file(s) of Traffic Analytics rows, {size / 1e6:.1f} MB"
    else:
        hours = sorted(blob.hour for blob in blobs if blob.hour is not None)
        logs = {blob.flow_log for blob in blobs if blob.flow_log}
        nics = {(blob.flow_log, blob.mac_address) for blob in blobs if blob.mac_address}
        yield f"{source}: {len(blobs)} file(s), {size / 1e6:.1f} MB, {len(logs)} flow log(s), {len(nics)} NIC(s)"
        if hours:
            yield f"  hours {hours[0].isoformat()} to {hours[-1].isoformat()}"
    if blobs:
        yield f"  a run takes about {_seconds(size, len(blobs))} s on this machine (gzip counts for more)"
    yield from (f"  {sentence}" for sentence in selected.notes)
    if not blobs:
        beside = " of hours in the window and the ones beside it" if window.start or window.end else ""
        yield f"  nothing to read: looked for files that end in {', '.join(ENDINGS)}, or one of these with .gz{beside}"
    return bool(blobs)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
