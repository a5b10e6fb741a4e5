"""What a sync did and what a lake holds, on the terminal and as data."""

from __future__ import annotations

from typing import BinaryIO

from flowlens.lake.care import Status
from flowlens.lake.syncing import Polled
from flowlens.outputs.page import Clock, Page, Shown
from flowlens.outputs.tables import BY_TABLE, write_document
from flowlens.outputs.text import counted
from flowlens.reporting import SCHEMA_VERSION


def poll_line(polled: Polled) -> str:
    """One line on a poll: what was new, what became of it, which version the lake has.

    >>> import datetime as dt
    >>> poll_line(Polled(dt.datetime(2026, 6, 15, 9, 31, tzinfo=dt.UTC), listed=98, version=4))
    '09:31:00Z nothing new in 98 blobs; lake version 4'
    """
    head = f"{polled.time:%H:%M:%S}Z"
    tail = f"lake version {polled.version}"
    if not polled.read:
        return f"{head} nothing new in {counted(polled.listed, 'blob')}; {tail}"
    ledger = polled.ledger
    parts = [
        f"{polled.read:,} of {counted(polled.listed, 'blob')} read",
        f"{ledger.rows:,} rows from {counted(ledger.records, 'record')}",
    ]
    if rejected := ledger.rejected + ledger.rejected_records:
        parts.append(f"{rejected:,} rejected")
    if polled.closed:
        parts.append(f"{polled.closed:,} finished")
    if polled.replaced:
        parts.append(f"{polled.replaced:,} replaced")
    if polled.unread:
        parts.append(f"{polled.unread:,} NOT READ")
    return f"{head} {', '.join(parts)}; {polled.bytes / 1e6:,.1f} MB; {tail}"


def render_status(found: Status, page: Page, *, limit: int | None = None) -> None:
    """Write what a lake holds."""
    days = found.days
    page.line(
        f"{found.place}: version {found.version}, {counted(found.files, 'file')}, {found.bytes / 1e6:,.1f} MB.", "bold"
    )
    page.line()
    if days.height:
        page.table(counted(days.height, "day"), days.reverse(), _columns, limit=limit)
    unbalanced = days.filter(~days["balanced"])["date"].to_list()
    if unbalanced:
        page.line(f"Bytes or tuples unaccounted for on {', '.join(map(str, unbalanced))}.", "bold red")
    else:
        page.line(
            "Every byte and tuple that was read is accounted for: bytes = records + framing, tuples = rows + rejected."
        )


def _columns(_clock: Clock) -> list[Shown]:
    def number(name: str, heading: str, minor: int = 0) -> Shown:
        return Shown(heading, lambda row: f"{row[name]:,}", right=True, minor=minor)

    return [
        Shown("date", lambda row: str(row["date"]), whole=True),
        number("blobs", "blobs"),
        number("open", "open"),
        number("unread", "unread"),
        number("records", "records", 2),
        number("rows", "rows"),
        number("rejected", "rejected"),
        number("rejected_records", "rejected records", 1),
        number("bytes", "bytes", 1),
    ]


def write_status(found: Status, face: str, file: BinaryIO) -> None:
    """Write what a lake holds as data."""
    if face in BY_TABLE:
        BY_TABLE[face](found.days, file)
        return
    head = {
        "schema_version": SCHEMA_VERSION,
        "lake": {"place": found.place, "version": found.version, "files": found.files, "bytes": found.bytes},
    }
    write_document(head, {"days": found.days}, file)
