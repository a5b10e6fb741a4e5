"""``python -m tests.fuzz TARGET [SECONDS] [SEED]``: one target under atheris, which finds its way by coverage.

It begins with `targets.seeds` and what earlier runs found (``build/fuzz/TARGET``), and ends with the number of executions, or with
the input that broke the promise. With ``--record`` a run that ended well becomes a line of ``RUNS.csv``.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import re
import resource
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS, seeds

HERE = Path(__file__).parent
RUNS = HERE / "RUNS.csv"
FOUND = HERE.parents[1] / "build" / "fuzz"
COLUMNS = ("date", "target", "seed", "executions", "cpu_seconds", "commit")
_FUZZ = """
import sys
import atheris
with atheris.instrument_imports(include=["flowlens"]):
    from tests.fuzz.targets import run
target = sys.argv.pop(1)
atheris.Setup(sys.argv, lambda data: int(run(target, data)) * 0)
atheris.Fuzz()
"""


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("seconds", type=int, nargs="?", default=60)
    parser.add_argument("seed", type=int, nargs="?", default=1)
    parser.add_argument("--record", action="store_true", help=f"append the run to {RUNS.name}")
    asked = parser.parse_args()
    corpus = FOUND / asked.target
    corpus.mkdir(parents=True, exist_ok=True)
    begun = seeds(asked.target)
    for number, data in enumerate(begun):
        (corpus / f"seed-{number}").write_bytes(data)
    # An input longer than that is cut, and a file of service tags that is cut is no JSON at all.
    longest = max(20_000, *(2 * len(data) for data in begun))
    options = [f"-max_total_time={asked.seconds}", f"-seed={asked.seed}", f"-max_len={longest}", "-timeout=120"]
    options += ["-rss_limit_mb=2048", f"-artifact_prefix={FOUND}/{asked.target}-", str(corpus)]
    with subprocess.Popen(
        [sys.executable, "-c", _FUZZ, asked.target, *options], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        executions = 0
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if done := re.match(r"Done (\d+) runs", line):
                executions = int(done[1])
    if process.returncode or not executions:
        sys.exit(process.returncode or 1)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    if asked.record:
        _record(asked.target, asked.seed, executions, usage.ru_utime + usage.ru_stime)


def _record(target: str, seed: int, executions: int, cpu: float) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    today = dt.datetime.now(dt.UTC).date()
    new = not RUNS.exists()
    with RUNS.open("a", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([today, target, seed, executions, round(cpu), commit])


if __name__ == "__main__":
    main()
