"""Progress on a terminal: how far, how fast, how long still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_EVERY = 0.2
_AFTER = 1.0
"""Nothing is shown of a run that is over within a second."""


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
        rate = done / (now - began)
        left = (total - done) / rate if rate else 0.0
        text = f"{blobs} blobs, {done / 1e6:.0f} of {total / 1e6:.0f} MB, {rate / 1e6:.0f} MB/s, {left:.0f} s left"
        stream.write("\r\x1b[K" + ("" if finished else text))
        stream.flush()

    return show
