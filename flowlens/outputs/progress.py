"""Progress on a terminal: how far, how long still, how fast."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

_EVERY = 0.2
_AFTER = 1.0
"""Nothing is shown of a run that is over within a second."""

CLEAR = "\r\x1b[K"
"""What takes the line away again, for whoever writes to the same terminal next."""


def progress_on(stream: TextIO) -> Callable[[int, int, int], None] | None:
    """A callback for ``scan`` that keeps one line on ``stream`` up to date; None where it is no terminal."""
    if not stream.isatty():
        return None
    began = time.monotonic()
    last = began

    def show(blobs: int, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        finished = done >= total
        if now - began < _AFTER or (now - last < _EVERY and not finished):
            return
        last = now
        # A line that is longer than the terminal could not be taken away.
        stream.write(CLEAR + ("" if finished else line(blobs, done, total, now - began)[: _columns() - 1]))
        stream.flush()

    return show


def line(blobs: int, done: int, total: int, seconds: float) -> str:
    """How far a run is after so many seconds; what matters most stands first, since a narrow terminal shows no more.

    >>> line(3, 50_000_000, 200_000_000, 2.0)
    '25 %, 6 s left, 25 MB/s, 50 of 200 MB, 3 files'
    """
    rate = done / seconds if seconds else 0.0
    left = f"{(total - done) / rate:.0f} s left, " if rate else ""
    share = 100 * done // total if total else 0
    return f"{share} %, {left}{rate / 1e6:.0f} MB/s, {done / 1e6:.0f} of {total / 1e6:.0f} MB, {blobs} files"


def _columns() -> int:
    return shutil.get_terminal_size().columns
