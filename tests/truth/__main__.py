"""``python -m tests.truth SEED FOLDER [name=value ...]`` writes blobs, Traffic Analytics rows and the right answers."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from . import Settings, generate


def main() -> None:
    """Write the scenario of a seed into a folder, and say what it holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="for instance forwarders=false max_nics=5")
    given = parser.parse_args()
    names = {field.name for field in dataclasses.fields(Settings)}
    overrides = {}
    for text in given.overrides:
        name, _, value = text.partition("=")
        if name not in names:
            parser.error(f"unknown setting {name!r}; known: {', '.join(sorted(names))}")
        overrides[name] = json.loads(value)
    truth = generate(given.seed, **overrides)
    paths = truth.write_blobs(given.folder)
    rows = truth.write_traffic_analytics(given.folder / "traffic_analytics.json")
    truth.write_expected(given.folder / "expected.json")
    sys.stdout.write(
        f"{len(truth.topology.nics)} NICs, {len(truth.flows)} flows, {len(paths)} blobs, {rows} rows in {given.folder}\n"
        f"window {truth.start.isoformat()} .. {truth.end.isoformat()}\n"
    )


if __name__ == "__main__":
    main()
