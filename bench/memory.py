"""``python -m bench.memory``: the peak memory of ``flowlens analyze`` on one large blob, with sums checked.

The peak is that of the whole process tree as the operating system counts it. The exit code is 1 where a sum is wrong or a
peak is above its bar.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.generate import BLOBS, EXPECTED, Order, generate
from bench.measure import Measured, measure

HERE = Path(__file__).parent
DATA = HERE / "data"
BARS = {100_000: 350, 1_000_000: 512}
"""Megabytes (10^6) that a run may take, by the number of distinct conversations."""


def analyzed(folder: Path, *options: str) -> tuple[Measured, list[str], dict[str, Any]]:
    """One run over a folder that ``generate`` made, what its sums say otherwise than the generator's, and its report."""
    expected = json.loads((folder / EXPECTED).read_text())
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "report.json"
        command = [sys.executable, "-m", "flowlens", "analyze", str(folder / BLOBS), "-o", str(out), *options]
        run = measure(command)
        if run.exit_code:
            return run, [f"exit code {run.exit_code}"], {}
        report = json.loads(out.read_text())
    rules: dict[str, int] = {}
    for row in report["tables"]["rule_usage"]:
        rules[row["acl_rule"]] = rules.get(row["acl_rule"], 0) + (row["bytes"] or 0)
    sums = expected["sums"]
    right_rules = {
        name.partition("_")[2]: count for name, count in expected["rule_bytes"].items() if expected["rule_tuples"][name]
    }
    pairs = {
        "records": (report["ledger"]["records"], expected["records"]),
        "flow tuples": (report["ledger"]["tuples"], expected["tuples"]),
        "rejected": (report["ledger"]["rejected"], 0),
        "bytes": (report["coverage"]["observed_bytes"], sums["bytes_sent"] + sums["bytes_received"]),
        "bytes by rule": (rules, right_rules),
    }
    wrong = [f"{what}: {found} instead of {right}" for what, (found, right) in pairs.items() if found != right]
    return run, wrong, report


def main() -> int:
    """Measure, check, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--keys", type=int, nargs="+", default=list(BARS))
    given = parser.parse_args()
    failed = False
    sys.stdout.write("| input | conversations | peak memory | bar | CPU | sums |\n|---|---|---|---|---|---|\n")
    for keys in given.keys:
        folder = DATA / f"memory-{given.megabytes:g}-{keys}"
        if not (folder / EXPECTED).is_file():
            generate(folder, Order(megabytes=given.megabytes, keys=keys))
        run, wrong, _ = analyzed(folder)
        bar = BARS.get(keys, max(BARS.values()))
        failed |= bool(wrong) or run.memory > bar * 1e6
        sys.stdout.write(
            f"| {given.megabytes:g} MB | {keys:,} | {run.memory / 1e6:.0f} MB | {bar} MB | {run.cpu:.0f} s | "
            f"{'; '.join(wrong) or 'exact'} |\n"
        )
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
