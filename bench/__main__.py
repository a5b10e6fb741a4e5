"""``python -m bench``: flowlens beside its peers on the same files in the same run, with memory, stages and starts.

Every peer is a process of its own, all in turn in each round, so that a machine that slows down slows all of them. Figures are
CPU seconds and the peak memory of the whole process tree as the operating system counts them; compare ratios within a run.
``--megabytes 10 100 1000 10000`` gives sizes, ``--threads 1 2`` lets what can work with several threads do so. Results go to
bench/results as Markdown and JSON; the exit code is 1 where any way gives other sums than the generator.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.generate import BLOBS, EXPECTED, KINDS, Order, generate
from bench.measure import Measured, measure
from bench.peers import PEERS, THREADED, THREADS
from bench.stages import STAGES

HERE = Path(__file__).parent
DATA, RESULTS = HERE / "data", HERE / "results"
BLOB_MB = {"small": 0.28, "hour": 1.0}
"""Size of a blob by kind; others are one blob."""
STREAMING = ("flowlens", "portable")
HELD = 500
"""Megabytes of a blob beyond which only those are asked that do not hold it in memory as a whole."""
_START = "import sys; from flowlens.__main__ import main; sys.argv[0] = 'flowlens'; main()"


def prepared(kind: str, megabytes: float, data: Path = DATA) -> Path:
    """A folder with blobs of a kind and what they hold, made where it is not there yet."""
    folder = data / f"{kind}-{megabytes:g}"
    generate(folder, Order(kind, megabytes, max(1, round(megabytes / BLOB_MB.get(kind, megabytes)))))
    return folder


def compared(
    names: Sequence[str], folder: Path, warm: Path, threads: Sequence[int], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """What each way took in each round, by its name and ``@`` threads where there is more than one.

    Raises SystemExit where one fails or gives other sums than the generator.
    """
    expected = json.loads((folder / EXPECTED).read_text())
    right = expected["tuples"], expected["sums"]["bytes_sent"]
    ways = {
        name if count == 1 else f"{name}@{count}": (name, count)
        for count in threads
        for name in names
        if count == 1 or name in THREADED
    }
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for way, (name, count) in ((way, asked) for _ in range(rounds) for way, asked in ways.items()):
        command = [sys.executable, "-m", "bench.peers", name, str(folder / BLOBS), str(warm / BLOBS)]
        run = measure(command, environment={THREADS: str(count), "POLARS_MAX_THREADS": str(count)})
        if run.exit_code:
            raise SystemExit(f"{way} failed on {folder.name} with exit code {run.exit_code}")
        told = json.loads(run.output)
        if (told["rows"], told["bytes_sent"]) != right:
            raise SystemExit(f"{way} gives {told['rows'], told['bytes_sent']} on {folder.name} instead of {right}")
        runs[way].append(told | {"cpu": run.cpu, "wall": run.wall, "memory": run.memory})
    return runs


def ratios(runs: dict[str, list[dict[str, float]]], size: float) -> list[dict[str, object]]:
    """A row for each way: speeds of the work alone, memory of the whole process, and the ratio to polars' way to the same."""
    medians = {name: statistics.median(size / run["work"] for run in done) for name, done in runs.items()}
    rows = []
    for name, done in runs.items():
        speeds = sorted(size / run["work"] for run in done)
        _, _, rest = name.partition("-")
        base = medians.get(f"polars-{rest}")
        single = runs.get(name.partition("@")[0], done)
        rows.append({
            "way": name,
            "least": speeds[0], "median": medians[name], "most": speeds[-1],
            "rows": done[0]["rows"] * medians[name] / size,
            "memory": max(run["memory"] for run in done),
            "start": statistics.median(run["cpu"] - run["work"] for run in done),
            "beside_polars": medians[name] / base if base else None,
            "beside_one_thread": min(run["seconds"] for run in single) / min(run["seconds"] for run in done),
        })  # fmt: skip
    return rows


def table(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    """The rows as Markdown."""
    yield "| way | MB per CPU-second (min / median / max) | rows/s | peak memory | start | beside polars | beside one thread |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        ratio = "" if row["beside_polars"] is None else f"{row['beside_polars']:.2f}"
        thread = f"{row['beside_one_thread']:.2f}" if "@" in str(row["way"]) else ""
        yield (
            f"| {row['way']} | {row['least']:.0f} / {row['median']:.0f} / {row['most']:.0f} | {float(str(row['rows'])) / 1e3:,.0f} k | "
            f"{float(str(row['memory'])) / 1e6:,.0f} MB | {row['start']:.1f} s | {ratio} | {thread} |"
        )


def staged(folder: Path, size: float, rounds: int) -> tuple[dict[str, float], list[str]]:
    """CPU seconds of each stage of an analysis, the least of the rounds, and the same as Markdown."""
    runs = []
    for _ in range(rounds):
        run = measure([sys.executable, "-m", "bench.stages", str(folder / BLOBS)])
        if run.exit_code:
            raise SystemExit(f"the stages failed on {folder.name} with exit code {run.exit_code}")
        runs.append(json.loads(run.output))
    least = {stage: min(run[stage] for run in runs) for stage in STAGES}
    lines = ["", "| stage | CPU | MB per CPU-second |", "|---|---|---|"]
    lines += [
        f"| {stage} | {seconds:.2f} s | {size / seconds if seconds else 0:,.0f} |" for stage, seconds in least.items()
    ]
    return least, lines


def started(rounds: int) -> Iterator[tuple[str, Measured]]:
    """What the program takes to start: for its help, and for one small blob; the least CPU of the rounds."""
    blob = next((prepared("small", 0.1) / BLOBS).rglob("*.json"))
    with tempfile.TemporaryDirectory() as place:
        for told, arguments in (
            ("flowlens --help", ["--help"]),
            ("flowlens analyze of one blob", ["analyze", str(blob), "-o", str(Path(place) / "report.json")]),
        ):
            yield told, min(measure([sys.executable, "-c", _START, *arguments]) for _ in range(rounds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, check every sum, print and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["big", "small"])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[40])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    warm = prepared("small", 0.1)
    lines: list[str] = []
    document: dict[str, object] = {"load": os.getloadavg(), "cores": os.cpu_count()}
    for kind, megabytes in ((kind, megabytes) for kind in given.kinds for megabytes in given.megabytes):
        folder = prepared(kind, megabytes)
        expected = json.loads((folder / EXPECTED).read_text())
        size = expected["bytes"] / 1e6
        small = size / expected["blobs"] <= HELD
        names = [name for name in given.only if small or name.startswith(STREAMING)]
        runs = compared(names, folder, warm, given.threads, given.rounds)
        rows = ratios(runs, size)
        stages, told = staged(folder, size, given.rounds)
        lines += [
            f"\n{kind}: {size:.0f} MB in {expected['blobs']:,} blob(s), {expected['tuples']:,} flow tuples\n",
            *table(rows),
        ]
        if len(names) < len(given.only):
            lines.append(f"\nNot asked, since they hold a blob as a whole: {', '.join(set(given.only) - set(names))}.")
        lines += told
        document[folder.name] = {"megabytes": size, "runs": runs, "ratios": rows, "stages": stages}
        sys.stderr.write(f"{folder.name} is done\n")
    lines += ["", "| start | CPU | time | peak memory |", "|---|---|---|---|"]
    for told_as, run in started(given.rounds):
        lines.append(f"| {told_as} | {run.cpu:.2f} s | {run.wall:.2f} s | {run.memory / 1e6:.0f} MB |")
        document[told_as] = run._asdict()
    lines.append(
        "\nBeside polars: median speed beside polars' way to the same table in the same run; beside one thread: by time."
    )
    lines.append(f"Load of the machine over the last minute: {os.getloadavg()[0]:.0f} on {os.cpu_count()} core(s).")
    text = "\n".join(lines) + "\n"
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "bench.md").write_text(text)
    (given.results / "bench.json").write_text(json.dumps(document, indent=1))
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
