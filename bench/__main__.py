"""``python -m bench``: flowlens beside its peers on the same files in the same run, with memory.

Every peer is a process of its own, all in turn in each round, so that a machine that slows down slows all of them. Figures are
CPU seconds and the peak memory of the whole process tree as the operating system counts them; compare ratios within a run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from bench.generate import BLOBS, EXPECTED, KINDS, Order, generate
from bench.measure import measure
from bench.peers import PEERS

HERE = Path(__file__).parent
DATA, RESULTS = HERE / "data", HERE / "results"


def _prepared(kind: str, megabytes: float) -> tuple[Path, float]:
    """A folder of blobs of a kind, and its size in megabytes."""
    folder = DATA / f"{kind}-{megabytes:g}"
    if not (folder / EXPECTED).is_file():
        blobs = max(1, round(megabytes / 0.28)) if kind == "small" else 1
        generate(folder, Order(kind=kind, megabytes=megabytes, blobs=blobs))
    return folder / BLOBS, sum(path.stat().st_size for path in (folder / BLOBS).rglob("*.json")) / 1e6


def _rows(runs: dict[str, list[dict[str, float]]], size: float) -> list[str]:
    """The lines of the table: speeds of the work alone, memory of the whole process, and the ratio to polars' way to the same."""
    medians = {name: statistics.median(size / run["work"] for run in done) for name, done in runs.items()}
    lines = []
    for name, done in runs.items():
        speeds = sorted(size / run["work"] for run in done)
        base = medians.get(f"polars-{name.partition('-')[2]}")
        ratio = f"{medians[name] / base:.2f}" if base else ""
        rows = done[0]["rows"] * medians[name] / size / 1e3
        memory = max(run["memory"] for run in done) / 1e6
        start = statistics.median(run["cpu"] - run["work"] for run in done)
        lines.append(
            f"| {name} | {speeds[0]:.0f} / {medians[name]:.0f} / {speeds[-1]:.0f} | {rows:,.0f} k | {memory:,.0f} MB | "
            f"{start:.1f} s | {ratio} |"
        )
    return lines


def main() -> int:
    """Measure, check every peer's sums, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["big", "small"])
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    given = parser.parse_args()
    warm, _ = _prepared("small", 0.1)
    lines: list[str] = []
    document: dict[str, object] = {"load": os.getloadavg()}
    for kind in given.kinds:
        folder, size = _prepared(kind, given.megabytes)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
        for name in (name for _ in range(given.rounds) for name in given.only):
            run = measure([sys.executable, "-m", "bench.peers", name, str(folder), str(warm)])
            if run.exit_code:
                sys.stderr.write(f"{name} failed on {kind} with exit code {run.exit_code}\n")
                return 1
            runs[name].append(json.loads(run.output) | {"cpu": run.cpu, "wall": run.wall, "memory": run.memory})
        answers = {name: (done[0]["rows"], done[0]["bytes_sent"]) for name, done in runs.items()}
        if len(set(answers.values())) != 1:
            sys.stderr.write(f"the answers differ on {kind}: {answers}\n")
            return 1
        lines += [
            f"\n{kind}: {size:.0f} MB, {next(iter(answers.values()))[0]:,} flow tuples\n",
            "| way | MB per CPU-second (min / median / max) | rows/s | peak memory | start | beside polars |",
            "|---|---|---|---|---|---|",
            *_rows(runs, size),
        ]
        document[kind] = {"megabytes": size, "runs": runs}
    lines.append("\nThe last column: median speed beside polars' way to the same table in the same run.")
    lines.append(f"Load of the machine over the last minute: {os.getloadavg()[0]:.0f} on {os.cpu_count()} core(s).")
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.md").write_text(text)
    (RESULTS / "bench.json").write_text(json.dumps(document, indent=1))
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
