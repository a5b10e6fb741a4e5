"""CPU seconds and peak memory of a command, from the operating system: ``python -m bench.measure COMMAND...``.

A small process of its own starts the command: what Linux reports as a child's peak is never below what its parent held when
it started the child, so a large parent would spoil the figure. Standard library only, for the same reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_EVERY = 0.02
_KIB = 1024


class Measured(NamedTuple):
    """What a command took: seconds of CPU (user and system, children included) and of time, and peak memory in bytes."""

    cpu: float
    wall: float
    memory: int
    exit_code: int
    output: str


def measure(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, output: Path | None = None
) -> Measured:
    """Run ``command`` to its end and measure it; ``output`` takes its standard output, else the last line is kept.

    Raises subprocess.CalledProcessError where the measuring itself fails; the command's own exit code is a result.
    """
    launcher = [sys.executable, "-S", "-m", "bench.measure", str(output or ""), *command]
    done = subprocess.run(
        launcher,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        # An installed program has its bytecode; where writing it is forbidden, each run would compile all of flowlens.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(environment or {})},
    )
    return Measured(**json.loads(done.stdout))


def _tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    found = [pid]
    for parent in found:
        try:
            tasks = list((_PROC / str(parent) / "task").iterdir())
            found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _watch(pid: int, stop: threading.Event, peaks: list[int]) -> None:
    """The sum over the tree, where it is more than one process; a single one's peak is known exactly at its end."""
    while not stop.wait(_EVERY):
        tree = _tree(pid)
        if len(tree) > 1:
            peaks.append(sum(map(_resident, tree)))


def _run(command: Sequence[str], output: str) -> Measured:
    started = time.perf_counter()
    kept = Path(output).open("wb") if output else subprocess.PIPE  # noqa: SIM115
    process = subprocess.Popen(command, stdout=kept)
    stop = threading.Event()
    peaks = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, stop, peaks))
    watcher.start()
    text = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    stop.set()
    watcher.join()
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    own = usage.ru_maxrss * (1 if sys.platform == "darwin" else _KIB)
    return Measured(
        cpu=usage.ru_utime + usage.ru_stime,
        wall=time.perf_counter() - started,
        memory=max(own, *peaks),
        exit_code=os.waitstatus_to_exitcode(status),
        output=(text.decode("utf-8", "replace").splitlines() or [""])[-1],
    )


if __name__ == "__main__":
    json.dump(_run(sys.argv[2:], sys.argv[1])._asdict(), sys.stdout)
