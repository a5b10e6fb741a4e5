"""The command of two sources side by side: `flowlens compare`."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from flowlens.errors import ConfigError
from flowlens.options import (
    DONE,
    GATE_FIRED,
    INCOMPLETE,
    ROWS_SHOWN,
    AccountUrl,
    Auth,
    CaFile,
    Cloud,
    Timeout,
    window_option,
)
from flowlens.outputs.saying import say

if TYPE_CHECKING:
    from flowlens.evidence import Scan

_Source = Annotated[
    str,
    typer.Argument(
        help="Files of flow logs, an export, https://ACCOUNT.blob.core.windows.net/CONTAINER or workspace:GUID.",
        metavar="SOURCE",
    ),
]


def compare_sources(
    first: _Source,
    second: _Source,
    start: Annotated[str | None, window_option("TIME", "From this time on: ISO 8601 with zone, or 24h, 7d.")] = None,
    end: Annotated[str | None, window_option("TIME", "Up to, not including, this time.")] = None,
    window: Annotated[
        str | None, window_option("WORD", "A day, week or month, such as yesterday or 2026-06-15.")
    ] = None,
    tz: Annotated[str | None, window_option("ZONE", "Zone of the times shown. Default UTC.")] = None,
    format: Annotated[str | None, typer.Option(metavar="FORMAT", help="table, json, csv or parquet.")] = None,  # noqa: A002
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Write here.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Rows on the terminal.", **ROWS_SHOWN)] = 20,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads that decode.", min=1)] = None,
    auth: Auth = "default",
    cloud: Cloud = None,
    account_url: AccountUrl = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Blobs and workspace side by side: do both tell the same? Exit code 1 where they differ, 4 where it can't be told.

    Example: flowlens compare sample_logs sample_logs/traffic_analytics --start 2026-06-15T00:00Z --end 2026-06-16T00:00Z
    """
    from flowlens.comparing import VERDICTS, compare
    from flowlens.outputs.comparison import render_comparison, write_comparison
    from flowlens.outputs.delivery import deliver, target_of
    from flowlens.outputs.progress import progress_on
    from flowlens.outputs.tables import BY_TABLE
    from flowlens.scanning import scan
    from flowlens.sources.accounts import Access
    from flowlens.windows import parse_window

    target = target_of(format, output)
    now = dt.datetime.now(dt.UTC)
    zone = _zone(tz)
    first_time, last_time = parse_window(start, end, window, zone=zone, now=now)
    if first_time is None or last_time is None:
        raise ConfigError("compare", "needs a window", hint="write --start and --end, or --window yesterday")
    access = Access(auth, cloud, account_url, ca_file, timeout)

    def scan_of(name: str, low: dt.datetime, high: dt.datetime, cut: dt.datetime) -> Scan:
        return scan(
            name,
            start=low,
            end=high,
            changed_at=cut,
            threads=threads,
            progress=progress_on(sys.stderr),
            access=access,
            now=now,
        )

    found = compare((first, second), scan_of, first_time, last_time, now)
    if (found.window.start, found.window.end) != (first_time, last_time):
        low, high = (edge.isoformat() for edge in (found.window.start, found.window.end) if edge)
        say(f"window: widened to whole intervals, {low} to {high}")
    deliver(
        target,
        render=lambda page, most: render_comparison(found, page, limit=most),
        write=lambda file: (
            BY_TABLE[target.face](found.differences, file) if target.face in BY_TABLE else write_comparison(found, file)
        ),
        tables={"differences": found.differences},
        limit=limit,
        zone=zone,
    )
    if target.face in BY_TABLE:
        say(f"{found.verdict}: {found.text}")
    codes = dict(zip(VERDICTS, (DONE if found.complete else INCOMPLETE, GATE_FIRED, INCOMPLETE), strict=True))
    raise typer.Exit(codes[found.verdict])


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError) as error:
        raise ConfigError(f"--tz {name}", "is no time zone", hint="write an IANA name such as Asia/Tokyo") from error
