"""``python -m bench.cost``: what ``flowlens doctor`` estimates of a run, beside the run.

Both go over the same blobs of a server on loopback. Operations and bytes must be the same, else the exit code is 1. Time is told
beside the estimate and not judged: CPU seconds too, since the machine may have other work. Below the table stand the constants of
flowlens/doctor.py that would fit these runs, by least squares of CPU seconds over size and number of blobs.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.generate import BLOBS, Order, generate
from bench.measure import measure
from bench.storage import COMMAND, ENVIRONMENT, WINDOW, serving

DATA = Path(__file__).parent / "data"
ORDERS = (
    Order("small", 0.02, 1, 200),
    Order("small", 10, 500, 20_000),
    Order("small", 20, 1000, 40_000),
    Order("hour", 40, 40),
    Order("steady", 60),
    Order("big", 40, 1, 40_000),
)
_ESTIMATE = re.compile(
    r"a run takes about (\d+) s on this machine where the network keeps up, (\d+) read and (\d+) list operations, (\S+ GB) out of"
)


class Cost(NamedTuple):
    """Seconds, read and list operations, and bytes out of the account as doctor writes them."""

    seconds: float
    reads: int
    lists: int
    volume: str


class Compared(NamedTuple):
    """An estimate and what the run then took; ``cpu`` are its CPU seconds, ``size`` bytes lay in ``blobs`` blobs."""

    estimate: Cost
    run: Cost
    cpu: float
    size: int
    blobs: int

    @property
    def same(self) -> bool:
        """Whether operations and bytes are as they were told."""
        return self.estimate[1:] == self.run[1:]


def compared(order: Order, folder: Path) -> Compared:
    """The estimate and the run over what ``order`` makes in ``folder``; raises SystemExit where either fails."""
    expected = generate(folder, order)
    (container,) = (folder / BLOBS).iterdir()
    with tempfile.TemporaryDirectory() as place:
        told_in = Path(place) / "doctor.txt"
        with serving(container) as served:
            command = _command("doctor", served.url)
            asked = measure(command, environment=ENVIRONMENT, output=told_in)
        with serving(container) as served:
            command = _command("analyze", served.url, "-o", str(Path(place) / "report.json"))
            run = measure(command, environment=ENVIRONMENT)
        told = _ESTIMATE.search(told_in.read_text())
    if asked.exit_code or run.exit_code or told is None:
        raise SystemExit(f"{order}: doctor ended with exit code {asked.exit_code}, the run with {run.exit_code}")
    made = served.requests
    reads, lists = made.get("GET", 0) + made.get("HEAD", 0), made.get("LIST", 0)
    volume = f"{made.get('bytes', 0) / 1e9:.2f} GB"
    estimate = Cost(int(told[1]), int(told[2]), int(told[3]), told[4])
    return Compared(estimate, Cost(run.wall, reads, lists, volume), run.cpu, expected.bytes, expected.blobs)


def _command(name: str, url: str, *more: str) -> list[str]:
    account = ("--auth", "key", "--account-url", url.rpartition("/")[0])
    return [sys.executable, "-c", COMMAND, name, url, *WINDOW, *account, *more]


def fitted(found: Sequence[Compared]) -> tuple[float, float, float]:
    """Seconds of a start, megabytes a second and blobs a second that fit the CPU seconds of the runs best."""
    import numpy as np

    given = np.array([[1.0, one.size / 1e6, one.blobs] for one in found])
    start, each_mb, each_blob = np.linalg.lstsq(given, np.array([one.cpu for one in found]), rcond=None)[0]
    return float(start), float(1 / each_mb), float(1 / each_blob)


def main() -> int:
    """Compare, print a table."""
    argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__).parse_args()
    heads = "kind|MB|blobs|estimate|CPU|time|CPU / estimate|reads|lists|out of the account"
    sys.stdout.write(f"| {' | '.join(heads.split('|'))} |\n|{'---|' * len(heads.split('|'))}\n")
    found = []
    for order in ORDERS:
        one = compared(order, DATA / f"cost-{order.kind}-{order.megabytes:g}")
        found.append(one)
        pairs = (
            f"{told}" if told == taken else f"**{taken} instead of {told}**"
            for told, taken in zip(one.estimate[1:], one.run[1:], strict=True)
        )
        sys.stdout.write(
            f"| {order.kind} | {one.size / 1e6:.1f} | {one.blobs:,} | {one.estimate.seconds:.0f} s | {one.cpu:.1f} s | "
            f"{one.run.seconds:.1f} s | {one.cpu / one.estimate.seconds:.2f} | {' | '.join(pairs)} |\n"
        )
        sys.stdout.flush()
    start, megabytes, blobs = fitted(found)
    sys.stdout.write(f"\nFitted: {start:.1f} s to start, {megabytes:.0f} MB and {blobs:.0f} blobs per CPU-second.\n")
    return int(not all(one.same for one in found))


if __name__ == "__main__":
    sys.exit(main())
