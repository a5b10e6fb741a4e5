"""What can be read here, with which engine, and how much there is; reads no flow."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from flowlens.catalog import load_tags, profile_names
from flowlens.config import read_config
from flowlens.sources.files import find_blobs

_ENGINES = ("polars", "pyarrow", "msgspec")
_MB_PER_CPU_SECOND = 70
"""What one core decodes and rolls up of plain JSON, from `make bench` on a 2-core machine; an estimate, not a promise."""


def describe(sources: Sequence[str]) -> list[str]:
    """Lines for a person: engine, catalogue, config, and for each source what there is and what a run would cost.

    Raises SourceError where a source is not there and ConfigError where flowlens.toml is wrong.

    >>> describe([])[0].startswith("flowlens")
    True
    """
    config = read_config()
    tags = load_tags(config.cloud)
    lines = [
        f"flowlens {_version('flowlens')} on Python {platform.python_version()}, {os.cpu_count()} core(s)",
        "engine: portable decoder with " + ", ".join(f"{name} {_version(name)}" for name in _ENGINES),
        f"config: {config.path or 'none (flowlens.toml not found)'}; cloud {config.cloud}",
        f"catalogue: {len(profile_names())} profiles, {len(tags.names)} service tags of {tags.date}",
    ]
    for source in sources:
        lines += _source(source)
    return lines


def _source(source: str) -> list[str]:
    found = find_blobs([source])
    size = sum(blob.size for blob in found.blobs)
    hours = sorted(blob.hour for blob in found.blobs if blob.hour is not None)
    logs = {blob.flow_log for blob in found.blobs if blob.flow_log}
    nics = {(blob.flow_log, blob.mac_address) for blob in found.blobs if blob.mac_address}
    lines = [f"{source}: {len(found.blobs)} file(s), {size / 1e6:.1f} MB, {len(logs)} flow log(s), {len(nics)} NIC(s)"]
    if hours:
        lines.append(f"  hours {hours[0].isoformat()} to {hours[-1].isoformat()}")
    seconds = size / 1e6 / _MB_PER_CPU_SECOND / (os.cpu_count() or 1)
    lines.append(f"  a run takes about {max(1, round(seconds))} s on this machine (gzip counts for more)")
    return lines + [f"  {sentence}" for sentence in found.skipped]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
