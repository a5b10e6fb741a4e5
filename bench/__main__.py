"""``python -m bench``: flowlens beside its peers on the same files in the same run, with memory.

Every peer is a process of its own, all in turn in each round, so that a machine that slows down slows all of them. Figures are
CPU seconds and the peak memory of the whole process tree as the operating system counts them; compare ratios within a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from bench.generate import BLOBS, EXPECTED, Order, generate
from bench.measure import Measured, measure
from bench.peers import PEERS

HERE = Path(__file__).parent
DATA, RESULTS = HERE / "data", HERE / "results"


def _prepared(kind: str, megabytes: float) -> tuple[Path, dict[str, object], float]:
    folder = DATA / f"{kind}-{megabytes:g}"
    if not (folder / EXPECTED).is_file():
        blobs = max(1, round(megabytes / 0.28)) if kind == "small" else 1
        generate(folder, Order(kind=kind, megabytes=megabytes, blobs=blobs))
    size = sum(path.stat().st_size for path in (folder / BLOBS).rglob("*.json")) / 1e6
    return folder / BLOBS, json.loads((folder / EXPECTED).read_text()), size


def _line(name: str, runs: list[Measured], size: float, rows: int, base: float) -> str:
    speeds = sorted(size / run.cpu for run in runs)
    memory = max(run.memory for run in runs) / 1e6
    speed = statistics.median(speeds)
    return (
        f"| {name} | {speeds[0]:.0f} / {speed:.0f} / {speeds[-1]:.0f} | {rows * speed / size / 1e3:.0f} k | {memory:.0f} MB | "
        f"{speed / base:.2f} |"
    )


def main() -> int:
    """Measure, check every peer's sums, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["big", "small"])
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    given = parser.parse_args()
    lines: list[str] = []
    document: dict[str, object] = {}
    for kind in given.kinds:
        folder, _, size = _prepared(kind, given.megabytes)
        runs: dict[str, list[Measured]] = {name: [] for name in given.only}
        answers: dict[str, dict[str, int]] = {}
        for _ in range(given.rounds):
            for name in given.only:
                run = measure([sys.executable, "-m", "bench.peers", name, str(folder)])
                if run.exit_code:
                    sys.stderr.write(f"{name} failed on {kind} with exit code {run.exit_code}\n")
                    return 1
                runs[name].append(run)
                answers[name] = json.loads(run.output)
        if len({tuple(answer.values()) for answer in answers.values()}) != 1:
            sys.stderr.write(f"the answers differ on {kind}: {answers}\n")
            return 1
        rows = next(iter(answers.values()))["rows"]
        lines += [f"\n{kind}: {size:.0f} MB, {rows:,} flow tuples\n"]
        lines += [
            "| way | MB per CPU-second (min / median / max) | rows/s | peak memory | ratio |",
            "|---|---|---|---|---|",
        ]
        for name in given.only:
            base_name = f"polars-{name.partition('-')[2]}"
            base = statistics.median(size / run.cpu for run in runs.get(base_name, runs[name]))
            lines.append(_line(name, runs[name], size, rows, base))
        document[kind] = {
            name: [run._asdict() | {"megabytes": size} for run in measured] for name, measured in runs.items()
        }
    lines.append("\nRatio: median speed beside polars' way to the same table in the same run.")
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "bench.md").write_text(text)
    (RESULTS / "bench.json").write_text(json.dumps(document, indent=1))
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
