"""``python -m bench.spark``: the same files by one process and by a standalone cluster on this machine, in the same run.

Tells the speed of decoding and rolling up on an executor's core beside that of one local thread, both measured around the very same
calls; where the rest of a cluster's time goes, stage by stage; and from both the amount of logs from which a cluster pays. The exit code is
1 where the answers differ or an executor's core has less than `BAR` of the local speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.generate import BLOBS, Order, generate

HERE = Path(__file__).parent
BAR = 0.7
BLOB_MB = 0.28


def local(folder: str, warm: str) -> dict[str, Any]:
    """One process with one thread: seconds of decoding and rolling up alone, of the whole scan, and what it found."""
    import flowlens as fl
    from flowlens import budget, conversations
    from flowlens.evidence import total
    from flowlens.pieces import Pieces
    from flowlens.selecting import Plan, Selected, select
    from flowlens.units import Meter, read_flow_logs, units_of

    def rolled_up(place: str, where: Path) -> dict[str, Any]:
        plan = Plan((place,), fl.Window(), None, False, budget.shared(None, 1), None, budget.for_queries(None))
        selected: Selected = select(plan)
        meter = Meter(selected, None)
        wall = cpu = 0.0
        results = []
        for unit in units_of(selected.items):
            store = Pieces(conversations.SCHEMA, where)
            began, processor = time.perf_counter(), time.process_time()
            results += read_flow_logs([selected.items[at] for at in unit], plan, meter, store, where)
            wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - processor
            store.discard()
        ledger = total(result.ledger for result in results)
        return {"decode": wall, "cpu": cpu, "bytes": ledger.bytes, "tuples": ledger.tuples}

    with tempfile.TemporaryDirectory() as where:
        rolled_up(warm, Path(where))
        told = rolled_up(folder, Path(where))
    began = time.perf_counter()
    scan = fl.scan(folder, threads=1)
    told["rows"] = conversations.merge(scan.conversations.collect()).height
    return {**told, "scan": time.perf_counter() - began}


def on_cluster(folder: str, warm: str, master: str, configuration: dict[str, str]) -> dict[str, Any]:
    """A session on ``master``: the seconds of each stage, those of the tasks summed up."""
    from pyspark.sql import SparkSession

    from flowlens.distributed import attempts, spark_scan

    began = time.perf_counter()
    builder = SparkSession.builder.master(master)
    for name, value in configuration.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    told: dict[str, Any] = {"session": time.perf_counter() - began}
    began = time.perf_counter()
    _ = spark_scan(spark, warm).ledger
    told["first job"] = time.perf_counter() - began
    began = time.perf_counter()
    scan = spark_scan(spark, folder)
    ledger = scan.ledger
    told["scan"] = time.perf_counter() - began
    seconds: dict[str, float] = {}
    outcomes = [outcome for _, _, outcome in attempts(scan._cluster.rows()) if outcome is not None]
    for outcome in outcomes:
        for stage, spent in outcome.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    told |= {"bytes": ledger.bytes, "tuples": ledger.tuples, "tasks": len(outcomes), "seconds": seconds}
    told |= {"rows": scan.spark_conversations.count(), "stages": scan._cluster.seconds}
    spark.stop()
    return told


def _asked(*arguments: str) -> dict[str, Any]:
    """What this program prints in a process of its own, for libraries are loaded and cores are used otherwise in each."""
    environment = {
        **os.environ,
        "POLARS_MAX_THREADS": "1",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.spark", "--one", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=HERE.parent,
        env=environment,
        text=True,
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _folder(megabytes: float, keys: int) -> str:
    folder = HERE / "data" / f"spark-{megabytes:g}"
    generate(folder, Order("small", megabytes, max(1, round(megabytes / BLOB_MB)), keys))
    return str(folder / BLOBS)


def report(near: list[dict[str, Any]], far: list[dict[str, Any]], workers: int) -> tuple[str, bool]:
    """The result in words, and whether it reaches the bar."""
    size = near[0]["bytes"] / 1e6
    same = len({(run["bytes"], run["tuples"], run["rows"]) for run in (*near, *far)}) == 1
    ratios = [
        (b["bytes"] / b["seconds"]["cpu decode"]) / (a["bytes"] / a["cpu"]) for a, b in zip(near, far, strict=True)
    ]
    ratio = statistics.median(ratios)
    a, b = near[-1], far[-1]
    tasks = b["seconds"]
    lines = [
        f"{size:.0f} MB, {a['tuples']:,} flow tuples, {a['rows']:,} conversations; load {os.getloadavg()[0]:.1f}",
        f"same answers: {same}",
        (
            f"decode and roll up, MB per CPU-second: {size / a['cpu']:.0f} local, {size / tasks['cpu decode']:.0f} on an "
            f"executor's core, {ratio:.2f} of local (median of {len(ratios)} rounds: {', '.join(f'{r:.2f}' for r in ratios)})"
        ),
        f"one local thread, whole scan: {a['scan']:.1f} s",
        (
            f"cluster of {workers} cores, whole scan: {b['scan']:.1f} s, after {b['session']:.1f} s for a session and "
            f"{b['first job']:.1f} s for its first job ({b['tasks']} tasks)"
        ),
        "  of the driver: " + ", ".join(f"{name} {value:.1f} s" for name, value in b["stages"].items()),
        "  of the tasks together: " + ", ".join(f"{name} {value:.2f} s" for name, value in tasks.items()),
    ]
    for threads, cores in ((1, 16), (4, 16), (4, 64)):
        pays = pays_from(a, b, workers, threads, cores)
        words = f"from {pays / 1000:.1f} GB on" if pays is not None else "never"
        lines.append(f"{cores} cores of a running cluster beside {threads} thread(s) here: faster {words}")
    return "\n".join(lines), same and ratio >= BAR


def pays_from(near: dict[str, Any], far: dict[str, Any], workers: int, threads: int, cores: int) -> float | None:
    """Megabytes from which ``cores`` of a cluster that runs already are faster than ``threads`` here; None where they never are.

    What both do alike, inventory and findings on the driver, is left out on both sides. Work is counted in CPU seconds, since other
    programs may share the machine; threads are taken to gain as much as cores do, which flatters them.
    """
    size = near["bytes"] / 1e6
    laps = ("connect", "decode", "hand over", "wait")
    fixed = sum(far["stages"].values()) - sum(far["seconds"][name] for name in laps) / min(workers, far["tasks"])
    busy = sum(far["seconds"][f"cpu {name}"] for name in laps)
    gain = near["cpu"] / size / threads - busy / size / cores
    return fixed / gain if gain > 0 else None


def main() -> int:
    """Measure both in turn, print; or be one of the two."""
    parser = argparse.ArgumentParser(prog="python -m bench.spark", description=__doc__)
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        folder, warm, *master = given.one
        told = on_cluster(folder, warm, master[0], json.loads(master[1])) if master else local(folder, warm)
        sys.stdout.write(json.dumps(told) + "\n")
        return 0
    from tests.spark.cluster import running

    folder, warm = _folder(given.megabytes, given.keys), _folder(1, 100)
    near, far = [], []
    with running(given.workers) as cluster:
        # As a real cluster runs: with the compilers that the tests go without.
        own = {
            name: value
            for name, value in cluster.configuration().items()
            if "codegen" not in name and "Java" not in name
        }
        for _ in range(given.rounds):
            near.append(_asked(folder, warm))
            far.append(_asked(folder, warm, cluster.master, json.dumps(own)))
    text, reached = report(near, far, given.workers)
    sys.stdout.write(text + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
