"""What is said beside the data: lines on stderr. Light, since the command line says things before it loads what a run takes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO

from flowlens.outputs.progress import CLEAR
from flowlens.outputs.text import shown_on


def say(text: str) -> None:
    """One line to stderr; a terminal folds it, so that it is one line in a file and when it is copied.

    Where nobody reads stderr any more the line is lost and the run goes on: its exit code still tells.
    """
    # The line of progress may still stand there.
    clear = CLEAR if sys.stderr.isatty() else ""
    try:
        sys.stderr.write(f"{clear}{shown_on(sys.stderr, text)}\n")
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def discard_output() -> None:
    """Send what is still buffered for stdout nowhere, so that it does not fail again when Python ends."""
    _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    # One that is no file of the system, as in a test or notebook, buffers nothing that could fail.
    with contextlib.suppress(io.UnsupportedOperation), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())
