"""``python -m tests.fuzz TARGET [SECONDS] [SEED]``: one target under atheris, which finds its way by coverage.

It begins with `targets.seeds` and ends with the number of executions, or with the input that broke the promise.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["flowlens"]):
    from tests.fuzz.targets import TARGETS, run, seeds


def main() -> None:
    """Fuzz one target."""
    target, seconds, seed = [*sys.argv[1:], "60", "1"][:3] if len(sys.argv) < 4 else sys.argv[1:4]
    assert target in TARGETS, f"one of {', '.join(TARGETS)}"
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds(target)):
            (Path(corpus) / str(number)).write_bytes(data)
        options = [f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=20000", "-timeout=10", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], *options, corpus], lambda data: int(run(target, data)) * 0)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
