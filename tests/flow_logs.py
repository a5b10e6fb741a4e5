"""Small flow logs in the container's layout, and the command line run on them in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

from flowlens import cli

TOP = Path(__file__).parents[1]
SAMPLE = TOP / "sample_logs"
CONTAINER = "insights-logs-flowlogflowevent"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
HOUR = datetime(2026, 6, 15, 9, tzinfo=UTC)
NIC = "00005E005301"
OTHER_NIC = "00005E005302"


@dataclass(frozen=True)
class Ran:
    """What one run left behind."""

    code: int
    stdout: bytes
    stderr: bytes
    encoding: str

    @property
    def out(self) -> str:
        return self.stdout.decode(self.encoding)

    @property
    def err(self) -> str:
        return self.stderr.decode(self.encoding)

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


def run(
    *arguments: str | Path, columns: int = 120, encoding: str = "utf-8", env: Mapping[str, str] | None = None
) -> Ran:
    """One run of the command line in this process, with a pipe of ``encoding`` on both outputs."""
    out, err = io.BytesIO(), io.BytesIO()
    texts = [io.TextIOWrapper(stream, encoding=encoding, errors="strict", newline="\n") for stream in (out, err)]
    environment = {"COLUMNS": str(columns), **(env or {})}
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(texts[0]),
        contextlib.redirect_stderr(texts[1]),
    ):
        try:
            code = cli.main([str(argument) for argument in arguments])
        finally:
            for text in texts:
                text.flush()
    return Ran(code, out.getvalue(), err.getvalue(), encoding)


def sample_container(folder: Path) -> Path:
    """A copy of the container of sample_logs."""
    return Path(shutil.copytree(SAMPLE / CONTAINER, folder / CONTAINER))


def vnet_id(vnet: str = "vnet-a", group: str = "rg-a") -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Network/virtualNetworks/{vnet}"


def flow_tuple(
    src: str,
    dst: str,
    port: int,
    state: str = "E",
    *,
    direction: str = "O",
    counters: Sequence[int] | None = None,
    minute: float = 1,
    src_port: int = 50000,
    protocol: int = 6,
    code: str = "NX",
    hour: datetime = HOUR,
) -> str:
    """One flow tuple of a virtual network flow log; B and D carry zeros unless ``counters`` says otherwise."""
    time = int(hour.timestamp() * 1000 + minute * 60_000)
    if counters is None:
        counters = (5, 600, 4, 6000) if state in "CE" else (0, 0, 0, 0)
    return ",".join(map(str, (time, src, dst, src_port, port, protocol, direction, state, code, *counters)))


def record(
    tuples: Iterable[str],
    *,
    rule: str = "DefaultRule_AllowInternetOutBound",
    acl: str = "nsg-a",
    mac: str = NIC,
    target: str | None = None,
    hour: datetime = HOUR,
) -> dict[str, Any]:
    """One record with one ACL and one rule."""
    target = vnet_id() if target is None else target
    return {
        "time": hour.isoformat().replace("+00:00", "Z"),
        "flowLogGUID": "00000000-0000-0000-0000-0000000000ff",
        "macAddress": mac,
        "category": "FlowLogFlowEvent",
        "flowLogResourceID": f"/SUBSCRIPTIONS/{SUBSCRIPTION}/FLOWLOGS/{target.rsplit('/', 1)[-1].upper()}-LOG",
        "targetResourceID": target,
        "operationName": "FlowLogFlowEvent",
        "flowRecords": {"flows": [{"aclID": acl, "flowGroups": [{"rule": rule, "flowTuples": list(tuples)}]}]},
        "flowLogVersion": 4,
    }


def blob_path(folder: Path, *, mac: str = NIC, hour: datetime = HOUR, vnet: str = "VNET-A") -> Path:
    """Where the blob of that NIC-hour stands in the container."""
    return (
        folder
        / CONTAINER
        / f"flowLogResourceID=/{SUBSCRIPTION}_NETWORKWATCHERRG/NETWORKWATCHER_JAPANEAST_{vnet}-LOG"
        / f"y={hour:%Y}/m={hour:%m}/d={hour:%d}/h={hour:%H}/m=00/macAddress={mac}/PT1H.json"
    )


def write_blob(folder: Path, *records: dict[str, Any], mac: str = NIC, hour: datetime = HOUR) -> Path:
    """The blob of one NIC-hour with these records."""
    path = blob_path(folder, mac=mac, hour=hour)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"records": list(records)}), encoding="utf-8")
    return path
