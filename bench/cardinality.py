"""``python -m bench.cardinality --millions 5``: a scan of millions of distinct conversations under a limit of memory.

Blobs of about a million conversations, none of which is met twice. The answer must hold the sums of the generator to the byte, destinations
that are too many to be listed added up in rows of others among them, and the peak of the process must stay below the limit; else the
exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from bench.generate import EXPECTED, Order, generate
from bench.measure import Measured
from bench.memory import analyzed
from flowlens.budget import parse_size

DATA = Path(__file__).parent / "data"
TUPLE_BYTES = 69.4
"""Bytes of the file for each flow tuple of a scan."""
_EXPLAINED = 0.001
WEB = "UserRule_AllowWebOutBound"
"""The rule that lets the scan out: each of its flow tuples is a destination of its own."""


class Scanned(NamedTuple):
    """A run over a scan: what it took, what is wrong with its sums, destinations in all, and those that are listed one by one."""

    keys: int
    run: Measured
    wrong: list[str]
    destinations: int
    listed: int


def scanned(millions: float, limit: str, data: Path = DATA) -> Scanned:
    """The run over a scan with about so many million conversations, made where it is not there yet."""
    folder = data / f"scan-of-{millions:g}-million"
    generate(folder, Order("scan", millions * TUPLE_BYTES, max(1, round(millions))))
    expected = json.loads((folder / EXPECTED).read_text())
    run, wrong, report = analyzed(folder, "--memory-limit", limit)
    rows = report["tables"]["unexpected_destinations"] if report else []
    destinations = sum(row["destinations"] for row in rows)
    met = expected["rule_tuples"][WEB]
    # A scan of the Internet meets some addresses of Azure that a profile explains; those are in no list of destinations.
    if not (1 - _EXPLAINED) * met <= destinations <= met:
        wrong.append(f"destinations: {destinations} of {met}")
    return Scanned(expected["keys"], run, wrong, destinations, sum(row["dst_ip"] is not None for row in rows))


def main() -> int:
    """Measure, check, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.cardinality", description=__doc__)
    parser.add_argument("--millions", type=float, nargs="+", default=[5])
    parser.add_argument("--memory-limit", default="1GB")
    given = parser.parse_args()
    sys.stdout.write(
        "| conversations | peak memory | limit | CPU | time | destinations | listed | sums |\n|---|---|---|---|---|---|---|---|\n"
    )
    failed = False
    for millions in given.millions:
        found = scanned(millions, given.memory_limit)
        failed |= bool(found.wrong) or found.run.memory > parse_size(given.memory_limit)
        sys.stdout.write(
            f"| {found.keys:,} | {found.run.memory / 1e6:.0f} MB | {given.memory_limit} | {found.run.cpu:.0f} s | {found.run.wall:.0f} s | "
            f"{found.destinations:,} | {found.listed:,} | {'; '.join(found.wrong) or 'exact'} |\n"
        )
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
