"""``python -m bench.listing``: ``flowlens doctor`` over a million names of blobs inside the window, from a server on loopback.

It lists all of them and reads none. The exit code is 1 where a name more takes more than `BAR` bytes of peak memory.
"""

from __future__ import annotations

import argparse
import sys

from bench.measure import Measured, measure
from bench.storage import COMMAND, ENVIRONMENT, serving

BAR = 60
FEW = 10_000


def listed(names: int) -> Measured:
    """What it takes to list so many names; raises SystemExit where not all were found."""
    with serving(names) as served:
        command = [sys.executable, "-c", COMMAND, "doctor", served.url, "--start", "2026-06-01T00:00Z"]
        command += ["--end", "2030-01-01T00:00Z", "--auth", "key", "--account-url", served.url.rpartition("/")[0]]
        measured = measure(command, environment=ENVIRONMENT)
    if measured.exit_code or served.requests["LIST"] < names / 5000:
        raise SystemExit(f"flowlens doctor over {names} names ended with exit code {measured.exit_code}")
    return measured


def main() -> int:
    """Measure, compare, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.listing", description=__doc__)
    parser.add_argument("--names", type=int, default=1_000_000)
    names = parser.parse_args().names
    few, many = listed(FEW), listed(names)
    each = (many.memory - few.memory) / (names - FEW)
    sys.stdout.write("| names | peak memory | CPU | bytes a name | CPU a name |\n|---|---|---|---|---|\n")
    sys.stdout.write(f"| {FEW:,} | {few.memory / 1e6:.0f} MB | {few.cpu:.1f} s | | |\n")
    cost = (many.cpu - few.cpu) / (names - FEW)
    sys.stdout.write(
        f"| {names:,} | {many.memory / 1e6:.0f} MB | {many.cpu:.1f} s | {each:.0f} | {cost * 1e6:.0f} us |\n"
    )
    return int(each > BAR)


if __name__ == "__main__":
    sys.exit(main())
