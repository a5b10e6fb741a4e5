"""``python -m bench.listing``: ``flowlens doctor`` over a million names of blobs inside the window, from a server on loopback.

It lists all of them and reads none. The exit code is 1 where a name more takes more than `BAR` bytes of peak memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench.storage import COMMAND, ENVIRONMENT, serving

BAR = 60
FEW = 10_000


class Listed(NamedTuple):
    """What a listing took: CPU seconds, and the most memory of its own in bytes."""

    cpu: float
    memory: int


def listed(names: int) -> Listed:
    """What it takes to list so many names; raises SystemExit where not all were found.

    Pages of program files are left out: how many of them are counted depends on what else the machine does.
    """
    with serving(names) as served:
        command = [sys.executable, "-c", COMMAND, "doctor", served.url, "--start", "2026-06-01T00:00Z"]
        command += ["--end", "2030-01-01T00:00Z", "--auth", "key", "--account-url", served.url.rpartition("/")[0]]
        before = os.times()
        process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _own(process.pid))
            time.sleep(0.02)
        assert process.stdout
        said = process.stdout.read()
        process.stdout.close()
        after = os.times()
    if process.returncode or f" {names} blob(s)" not in said:
        raise SystemExit(f"flowlens doctor over {names} names ended with exit code {process.returncode}")
    return Listed(after.children_user - before.children_user + after.children_system - before.children_system, peak)


def _own(pid: int) -> int:
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


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
