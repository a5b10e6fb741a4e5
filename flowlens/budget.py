"""How a limit of memory is shared: among what lies ready before decoding and what is decoded at a time."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import NamedTuple

from flowlens.errors import ConfigError

MB = 10**6
BASE = 380 * MB
"""The program, its libraries and the tables of an answer with 100,000 conversations; measured, see bench/RESULTS.md."""
PER_THREAD = 16 * MB
"""A batch that is decoded and the flow tuples that are rolled up together."""
APART = 60 * MB
"""A process of its own that reads small blobs: 30 MB measured with twelve connections and 20 KB a blob, more with larger ones."""
ROOMY = 1000 * MB
"""A limit from which on what was freed may wait a moment before it is given back to the system, which saves 40 % of the CPU."""
WAITING = 80 * MB
"""What waits then at most; 20 to 70 MB measured."""
LEAST_AHEAD, MOST_AHEAD = 4 * MB, 16 * MB
"""Bytes that lie ready before a decoding thread: less and it waits for the network, more gains nothing."""
READY = 256 * MB
"""Bytes that lie ready in all, where nothing else is asked for."""
QUERY_ROWS = 40_000
"""Rows of an answer of a workspace that a part is planned for; a row takes some 1,200 bytes of the 64 MB that it may have."""
QUERIES = 4
"""Queries at once; the service runs five of one identity and queues the rest (Azure Monitor service limits, Query API)."""
PER_ROW = 1200
"""Bytes of a row of an answer on its way."""
LONGEST_ROWS = 2 * PER_ROW
"""Bytes that its rows may have on average before an answer is asked for in smaller parts."""
PER_ROW_MADE = 6000
"""Bytes of a row while it becomes a conversation, of one answer at a time; an estimate, see bench/RESULTS.md for what runs took."""
FEW_ROWS = 5_000
"""Rows of an answer below which fewer queries at once are better than smaller ones."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(MB|GB|MiB|GiB|M|G)", re.IGNORECASE)
_UNITS = {"mb": MB, "m": MB, "gb": 1000 * MB, "g": 1000 * MB, "mib": 1 << 20, "gib": 1 << 30}


class Budget(NamedTuple):
    """How many threads decode, how many bytes may lie ready before each, and whether another process may read for them."""

    threads: int
    ahead: int
    apart: bool


class Queries(NamedTuple):
    """How many queries of a workspace run at once, for how many rows each is planned, and how many bytes its answer may have."""

    concurrent: int = QUERIES
    rows: int = QUERY_ROWS
    bytes: int | None = None


def parse_size(text: str) -> int:
    """Bytes of a size with its unit; MB are 10^6 bytes, MiB 2^20. Raises ConfigError for anything else.

    >>> parse_size("1.5 GB")
    1500000000
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--memory-limit {text:.40}", "expected a size with its unit", hint="e.g. 800MB or 2GB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def shared(limit: int | None, threads: int) -> Budget:
    """At most ``threads`` threads and what lies ready before them, so that both and `BASE` stay below ``limit`` bytes.

    From `ROOMY` on what waits to be given back has its share too. Another process reads where threads leave it room, and where there is more than one.

    Raises ConfigError where the limit leaves no room for one thread.

    >>> shared(None, 2), shared(420 * MB, 8)
    (Budget(threads=2, ahead=16000000, apart=True), Budget(threads=2, ahead=4000000, apart=False))
    """
    if limit is None:
        return Budget(threads, min(MOST_AHEAD, READY // threads), threads > 1)
    base = _base(limit)
    least = BASE + PER_THREAD + LEAST_AHEAD
    if limit < least:
        raise ConfigError(
            f"--memory-limit {limit / MB:.0f}MB",
            f"is too low to work with: flowlens itself takes most of {least // MB} MB",
            hint=f"give it {least // MB}MB or more",
        )
    threads = min(threads, (limit - base) // (PER_THREAD + LEAST_AHEAD))
    left = limit - base
    apart = threads > 1 and left - APART >= threads * (PER_THREAD + LEAST_AHEAD)
    if apart:
        left -= APART
    return Budget(threads, min(MOST_AHEAD, left // threads - PER_THREAD, READY // threads), apart)


def _base(limit: int) -> int:
    """`BASE` and what waits to be given back: all of it at `ROOMY`, less bit by bit below, so that a larger limit never allows less."""
    return BASE + min(WAITING, max(0, limit - (ROOMY - WAITING)))


def for_queries(limit: int | None) -> Queries:
    """Queries at once and rows of each, so that what is held of their answers and `BASE` stay below ``limit`` bytes.

    The limit is one that `shared` takes.

    >>> for_queries(None), for_queries(500 * MB).concurrent
    (Queries(concurrent=4, rows=40000, bytes=None), 4)
    """
    if limit is None:
        return Queries()
    left = max(0, limit - _base(limit))
    for concurrent in range(QUERIES, 0, -1):
        rows = min(QUERY_ROWS, left // (concurrent * LONGEST_ROWS + PER_ROW_MADE))
        if rows >= FEW_ROWS:
            break
    return Queries(concurrent, max(1, rows), max(1, rows) * LONGEST_ROWS)


def give_back() -> None:
    """What was read with is given back to the system: the memory that the allocators of Arrow and of C keep for more of the same."""
    # Who only wants to know what a limit allows asks before the allocators are chosen.
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    # Answers and blobs on their way are large and of all sizes; what lies between two that were freed is given back only if asked.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak() -> int | None:
    """The most memory in bytes that this process has held so far; None where the system is not Linux, which tells it."""
    try:
        # Not what the process's usage tells: that begins with what its parent held.
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
