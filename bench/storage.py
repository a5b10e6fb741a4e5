"""``python -m bench.storage``: small blobs read from a server on loopback beside the same files read from disk, in the same run.

The server is a process of its own on the same machine, so its CPU seconds are told apart; a run over the network has that
work elsewhere. The exit code is 1 where an answer differs, where the throughput from the server is below `BAR` of that from disk,
or where the memory of reading grows with the number of blobs by more than `GROWTH`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.generate import BLOBS, EXPECTED, Order, generate
from bench.measure import Measured, measure

HERE = Path(__file__).parent
DATA = HERE / "data"
BLOB_BYTES = 20_000
BAR = 0.8
GROWTH = 1.0
"""Kilobytes of peak memory that a blob more may cost over what it costs from disk, where the answer grows as much."""
WAYS = ("convert", "analyze")
COMMAND = "import sys; from flowlens.__main__ import main; sys.argv[0] = 'flowlens'; main()"
ENVIRONMENT = {"AZURE_STORAGE_KEY": "YmVuY2g="}
WINDOW = ("--start", "2026-03-02T00:00Z", "--end", "2026-03-03T00:00Z")


@dataclass
class Served:
    """A running server: where it is, and once it has ended, its CPU seconds and how often it was asked for what."""

    url: str
    cpu: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)


@contextmanager
def serving(container: Path | int) -> Iterator[Served]:
    """A server of the files below ``container``, or of so many names; it is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.blob_server", str(container)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    )
    assert process.stdin and process.stdout
    try:
        served = Served(process.stdout.readline().strip())
        yield served
        process.stdin.close()
        cpu, *counts = process.stdout.read().split()
        served.cpu = float(cpu)
        served.requests = {name: int(count) for name, _, count in (pair.partition("=") for pair in counts)}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def run(way: str, source: str, out: Path, *options: str) -> tuple[Measured, Any]:
    """One run over ``source`` and what it answered: a digest of the flow tuples, or the report without its settings."""
    target = out / ("flows.parquet" if way == "convert" else "report.json")
    command = [sys.executable, "-c", COMMAND, way, source, "-o", str(target), *WINDOW, *options]
    measured = measure(command, environment=ENVIRONMENT)
    if measured.exit_code:
        raise SystemExit(f"flowlens {way} {source} ended with exit code {measured.exit_code}")
    if way == "analyze":
        answer = json.loads(target.read_text())
        del answer["settings"]
        return measured, answer
    import polars as pl

    rows = pl.scan_parquet(target).select(
        rows=pl.len(), bytes=pl.col("bytes_sent").sum(), times=pl.col("time").cast(pl.Int64).sum()
    )
    return measured, rows.collect().rows()


@dataclass
class Pair:
    """The same command from disk and from the server, some rounds in turn."""

    disk: list[Measured] = field(default_factory=list)
    server: list[Measured] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    same: bool = True

    def ratio(self) -> float:
        """Throughput from the server over that from disk, by time, the median of the rounds."""
        return statistics.median(a.wall / b.wall for a, b in zip(self.disk, self.server, strict=True))


def compared(way: str, container: Path, rounds: int, threads: int) -> Pair:
    """Both ways in turn, so that a machine that slows down slows both."""
    pair = Pair()
    workers = ("--threads", str(threads))
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            disk, wanted = run(way, str(container), Path(place), *workers)
            with serving(container) as served:
                options = ("--auth", "key", "--account-url", served.url.rpartition("/")[0])
                far, found = run(way, served.url, Path(place), *workers, *options)
        pair.disk.append(disk)
        pair.server.append(far)
        pair.server_cpu.append(served.cpu)
        pair.requests = served.requests
        pair.same &= wanted == found
    return pair


def prepared(blobs: int) -> Path:
    """The container's folder with that many small blobs."""
    folder = DATA / f"stored-{blobs}"
    if not (folder / EXPECTED).is_file():
        generate(folder, Order(kind="small", megabytes=blobs * BLOB_BYTES / 1e6, blobs=blobs))
    (container,) = (folder / BLOBS).iterdir()
    return container


def _line(way: str, blobs: int, size: float, pair: Pair) -> str:
    disk, far = pair.disk[-1], pair.server[-1]
    asked = ", ".join(f"{count:,} {name}" for name, count in pair.requests.items() if name != "bytes")
    return (
        f"| {way} | {blobs:,} | {size / disk.wall:.1f} | {size / far.wall:.1f} | {pair.ratio():.2f} | {disk.cpu:.0f} s | "
        f"{far.cpu:.0f} s | {pair.server_cpu[-1]:.0f} s | {disk.memory / 1e6:.0f} MB | {far.memory / 1e6:.0f} MB | {asked} | "
        f"{'the same' if pair.same else 'DIFFERENT'} |"
    )


def main() -> int:
    """Measure, compare, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.storage", description=__doc__)
    parser.add_argument("--blobs", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    heads = "way|blobs|MB/s from disk|MB/s from server|ratio|CPU disk|CPU client|CPU server|peak disk|peak client|requests|answers"
    sys.stdout.write(f"| {' | '.join(heads.split('|'))} |\n|{'---|' * len(heads.split('|'))}\n")
    failed = False
    for way in given.ways:
        peaks = []
        for blobs in given.blobs:
            container = prepared(blobs)
            size = sum(path.stat().st_size for path in container.rglob("*.json")) / 1e6
            pair = compared(way, container, given.rounds, given.threads)
            peaks.append(
                (blobs, max(far.memory - near.memory for near, far in zip(pair.disk, pair.server, strict=True)))
            )
            failed |= not pair.same or pair.ratio() < BAR
            sys.stdout.write(_line(way, blobs, size, pair) + "\n")
            sys.stdout.flush()
        (few, low), (many, high) = peaks[0], peaks[-1]
        failed |= high - low > GROWTH * 1000 * (many - few)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
