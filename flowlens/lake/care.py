"""Looking after a lake: what is in it, small files put together, unused files removed."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

import polars as pl

from flowlens.errors import ConfigError
from flowlens.lake.ledger import blob_ledgers
from flowlens.sources.delta import Lake

LEAST_AGE = dt.timedelta(hours=24)
"""How long an unused file is kept at least: a reader may have begun while it was in use, a writer be about to commit it."""
_AGE = re.compile(r"(\d{1,5})([hdw])")
_SUMMED = ("records", "tuples", "rows", "rejected", "rejected_records")
_NUMBERS = ("blobs", "open", "unread", *_SUMMED, "bytes")
_DAYS = {"date": pl.Date, **dict.fromkeys(_NUMBERS, pl.Int64), "balanced": pl.Boolean}
_UNIT = {"h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Status:
    """What a lake holds. ``days`` has a row for each date of blobs; ``files`` are those of the flows, ``bytes`` their size."""

    place: str
    version: int
    files: int
    bytes: int
    days: pl.DataFrame


def status(lake: Lake) -> Status:
    """The lake's days with blobs, rows, rejects and bytes, and its files.

    ``open`` blobs were not read to their end yet, ``unread`` ones could not be; ``balanced`` says whether the bytes of the blobs
    that were read to their end are records and framing, and the tuples rows and rejects.
    """
    told = [pl.DataFrame(schema=_DAYS)]
    for blobs in blob_ledgers(lake):
        counted = pl.col("record_bytes") + pl.col("framing_bytes")
        told.append(
            blobs.group_by("date").agg(
                blobs=pl.len().cast(pl.Int64),
                open=(~pl.col("closed")).sum().cast(pl.Int64),
                unread=pl.col("failed").sum().cast(pl.Int64),
                **{name: pl.col(name).sum() for name in _SUMMED},
                bytes=counted.sum(),
                balanced=(
                    (pl.col("size") == counted) & (pl.col("tuples") == pl.col("rows") + pl.col("rejected"))
                ).all(),
            )
        )
    days = (
        pl.concat(told)
        .group_by("date")
        .agg(pl.exclude("date", "balanced").sum(), pl.col("balanced").all())
        .sort("date")
    )
    files, size = lake.files()
    return Status(str(lake.place), lake.version, files, size, days)


def compact(lake: Lake) -> tuple[int, int]:
    """How many files of flows there were, and how many there are now that small ones were put together."""
    before, _ = lake.files()
    lake.compact()
    after, _ = lake.files()
    return before, after


def parse_age(text: str) -> dt.timedelta:
    """The age that ``24h``, ``7d`` or ``2w`` stands for; raises ConfigError for other words and below `LEAST_AGE`.

    >>> parse_age("7d").days
    7
    """
    found = _AGE.fullmatch(text)
    if found is None:
        raise ConfigError(f"--older-than {text!r:.40}", "is no age", hint="write 24h, 7d or 2w")
    age = dt.timedelta(**{_UNIT[found[2]]: int(found[1])})
    if age < LEAST_AGE:
        raise ConfigError(
            f"--older-than {text}",
            "is less than 24h",
            hint="files that a reader or writer may still need stay that long",
        )
    return age


def vacuum(lake: Lake, age: dt.timedelta, *, dry_run: bool) -> list[str]:
    """The files that were removed, or would be with ``dry_run``: unused for ``age``."""
    return lake.vacuum(int(age.total_seconds() // 3600), dry_run=dry_run)
