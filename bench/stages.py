"""``python -m bench.stages FOLDER``: CPU seconds of each stage of an analysis of one folder, one thread, as JSON.

Stages run apart, each after what it needs: ``decode`` gives FLOWS, which an analysis does not make, so it stands beside ``rollup``, which
decodes and sums up in one pass. What a stage does again (reading, for decode and rollup) is taken off. ``views`` is inventory,
coverage and who is at either end; ``match`` finds the service tags of all addresses and the requirements that they meet.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

STAGES = ("list", "read", "decode", "rollup", "views", "match", "analyse", "write")
_T = TypeVar("_T")


def stages(folder: str) -> dict[str, float]:
    """CPU seconds by stage."""
    import polars as pl

    import flowlens as fl
    from bench.matching import matcher
    from bench.peers import flowlens_decode, flowlens_rollup
    from flowlens.outputs import OUTPUTS
    from flowlens.sources.files import find_blobs, read_chunks

    took: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], _T]) -> _T:
        began = time.process_time()
        result = work()
        took[stage] = time.process_time() - began
        return result

    found = timed("list", lambda: find_blobs([folder]))
    timed("read", lambda: [len(chunk) for blob in found.blobs for chunk in read_chunks(blob)])
    timed("decode", lambda: flowlens_decode(folder))
    timed("rollup", lambda: flowlens_rollup(folder))
    scan = fl.scan(folder, threads=1)
    timed("views", lambda: scan.evidence)
    addresses = scan.conversations.select(pl.col("dst_ip").unique()).collect()["dst_ip"].to_list()
    timed("match", matcher(addresses))
    report = timed("analyse", lambda: fl.report(scan))
    timed("write", lambda: OUTPUTS["json"](report, io.BytesIO()))
    for stage, again in (("views", "rollup"), ("decode", "read"), ("rollup", "read")):
        took[stage] = max(0.0, took[stage] - took[again])
    return {stage: took[stage] for stage in STAGES}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        from bench.generate import BLOBS, Order, generate

        # So that loading libraries and the catalogue belongs to no stage.
        generate(Path(place), Order("small", 0.02))
        stages(str(Path(place) / BLOBS))
    sys.stdout.write(json.dumps(stages(sys.argv[1])) + "\n")
