"""Where a result goes: stdout for data, files whole or not at all, stderr for everything said beside it."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import polars as pl

from flowlens.errors import ConfigError, SourceError, near_matches
from flowlens.outputs import OUTPUTS, SUFFIXES
from flowlens.outputs.page import Page
from flowlens.outputs.saying import discard_output, say
from flowlens.outputs.tables import BY_TABLE, atomic, write_tables
from flowlens.outputs.terminal import COLOURS
from flowlens.reporting import Report

TABLE = "table"
SCRIPT = "script"
FORMATS = (TABLE, *OUTPUTS)
_OF_ANYTHING = (TABLE, "json", *BY_TABLE)
"""Formats of flow tuples, queries and comparisons too; the others show verdicts and findings."""
_FILE_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Target:
    """Where a result goes and in which format; ``path`` is None for stdout, ``folder`` means a file for each table."""

    face: str
    path: Path | None
    folder: bool


def target_of(face: str | None, output: str | None, *, tables: int = 1, report: bool = False) -> Target:
    """What --format and -o ask for, known to fit ``tables`` tables before anything is read.

    Raises ConfigError for an unknown format or suffix, where the two disagree, where the result would not fit, for a format of
    reports where there is none, and where something that the format needs is not installed.

    >>> target_of(None, "report.json").face
    'json'
    """
    path = Path(output) if output is not None else None
    folder = path is not None and (str(output).endswith(("/", "\\")) or path.is_dir())
    suffix = path.suffix.lower() if path is not None and not folder else ""
    inferred = SUFFIXES.get(suffix)
    if face is not None and face not in FORMATS:
        raise ConfigError(f"--format {face}", "is not a format", hint=near_matches(face, FORMATS))
    if face and inferred and inferred != face:
        raise ConfigError(f"-o {output}", f"asks for {inferred}, --format for {face}")
    if suffix and not inferred and not face:
        raise ConfigError(f"-o {output}", "has a suffix that names no format", hint=near_matches(suffix, SUFFIXES))
    face = face or inferred or TABLE
    if not report and face not in _OF_ANYTHING:
        raise ConfigError(
            f"--format {face}", "shows a report, which this is none of", hint=f"known: {', '.join(_OF_ANYTHING)}"
        )
    if face == "html":
        from flowlens.outputs import html_charts

        html_charts.require()
    if folder and face not in BY_TABLE:
        raise ConfigError(f"-o {output}", f"is a folder, and {face} is one file", hint="name a file")
    if face in BY_TABLE and tables > 1 and not folder:
        raise ConfigError(f"--format {face}", f"{tables} tables do not fit one file", hint="use -o FOLDER/")
    if face == "parquet" and path is None and sys.stdout.isatty():
        raise ConfigError("--format parquet", "is not for a terminal", hint="use -o FILE or a pipe")
    return Target(face, path, folder)


def write_report(report: Report, path: str | Path, **how: Any) -> None:
    """Write a report to a file in the format of its suffix; ``how`` goes to the format's writer.

    Raises ConfigError for a suffix that names no format, SourceError where the file cannot be written.
    """
    target = target_of(None, str(path), tables=len(report.tables), report=True)
    if target.path is None or target.face == TABLE:
        raise ConfigError(str(path), "names no format of a file", hint=f"known: {', '.join(SUFFIXES)}")
    if target.folder:
        write_tables(report.tables, target.path, target.face)
        return
    with atomic(target.path) as file:
        OUTPUTS[target.face](report, file, **how)


def script_target(face: str | None, output: str | None) -> Target:
    """Where a script goes: to stdout or the file of -o.

    Raises ConfigError where --format or -o ask for something else.

    >>> script_target(None, "fix.sh").face
    'script'
    """
    path = Path(output) if output is not None else None
    if face is not None:
        raise ConfigError(f"--format {face}", "does not go with --fix, which writes a script")
    if path is not None and (str(output).endswith(("/", "\\")) or path.is_dir()):
        raise ConfigError(f"-o {output}", "is a folder, and a script is one file", hint="name a file")
    if path is not None and path.suffix.lower() in SUFFIXES:
        raise ConfigError(f"-o {output}", f"asks for {SUFFIXES[path.suffix.lower()]}, --fix writes a script")
    return Target(SCRIPT, path, False)


def deliver(
    target: Target,
    *,
    render: Callable[[Page, int | None], None],
    write: Callable[[BinaryIO], None],
    tables: Mapping[str, pl.DataFrame],
    limit: int,
    zone: ZoneInfo | None,
) -> None:
    """Put a result where it was asked for, and say which files were written.

    ``render`` writes it to a page with at most so many rows of a table, ``write`` writes it in any other format.
    Raises SourceError where it cannot be written.
    """
    if target.path is None:
        with standard_output():
            if target.face == TABLE:
                render(Page(sys.stdout, zone=zone, colours=COLOURS), limit)
            else:
                sys.stdout.flush()
                write(sys.stdout.buffer)
                sys.stdout.buffer.flush()
        return
    if target.folder:
        written = write_tables(tables, target.path, target.face)
    else:
        with atomic(target.path) as file:
            if target.face == TABLE:
                text = io.StringIO()
                render(Page(text, width=_FILE_WIDTH, zone=zone), None)
                file.write(text.getvalue().encode())
            else:
                write(file)
        written = [target.path]
    for path in written:
        say(f"wrote {path}")


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """Standard output, left alone once its reader is gone, as after ``| head``.

    Raises SourceError where it cannot be written for another reason.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        if not isinstance(error, BrokenPipeError):
            raise SourceError("standard output", f"cannot be written: {error.strerror or error}") from error
