"""A limit of memory holds for workspaces too: of answers that are large, only so much is asked for and held at a time.

The server answers by number, without executing anything, since what is measured is who asks.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.measure import Measured, measure
from flowlens.budget import BASE, LEAST_AHEAD, MB, PER_THREAD
from flowlens.queries import find_query
from tests.faults.identity import Identity
from tests.faults.loopback import Handler, serving
from tests.workspace.server import WORKSPACE

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="peaks are told by Linux")

LEAST = BASE + PER_THREAD + LEAST_AHEAD
START = dt.datetime(2026, 6, 15, 6, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
HOURS = 4
ROWS = 12_500
"""Rows of an hour, all of one interval, so that they are cut by hash; two hours are of the same conversations."""
PLACE = "/subscriptions/11111111-2222-3333-4444-555555555555/resourcegroups/rg-with-a-name/providers/microsoft.network/"
_LET = re.compile(r"^let (start|end|slices|slice) = (?:datetime\(([^)]+)\)|long\((\d+)\)|(\d+));$", re.MULTILINE)
_TEXTS = {
    "flow_log_id": f"{PLACE}networkwatchers/watcher/flowlogs/log",
    "target_resource_id": f"{PLACE}virtualnetworks/vnet-with-a-name",
    "direction": "Outbound",
    "flow_status": "Allowed",
    "acl_rule": "DefaultRule_AllowVnetOutBound",
    "acl_id": f"{PLACE}networksecuritygroups/nsg-with-a-name",
    "encryption_code": "X",
    "FlowType": "IntraVNet",
    "SrcSubnet": "rg-with-a-name/vnet-with-a-name/subnet-with-a-name",
    "DestSubnet": "rg-with-a-name/vnet-with-a-name/subnet-with-a-name",
}
_TYPES = {"is_hop": "bool", "protocol": "int", "dst_port": "int", "lines": "long", "table_rows": "long"} | {
    name: "long" for name in find_query("conversations").columns if name.startswith(("flows_", "packets_", "bytes_"))
}
_TIMES = {"hour", "first_seen", "last_seen", "first_traffic", "last_traffic", "last_answered"}
_TIMES |= {"last_unanswered", "interval_start", "interval_end"}
COLUMNS = [
    {"name": name, "type": "datetime" if name in _TIMES else _TYPES.get(name, "string")}
    for name in find_query("conversations").columns
]


def row(hour: dt.datetime, number: int) -> list[object]:
    """The row of a conversation in an hour."""
    nic, peer = number % 250, number // 250
    number += ROWS * (((hour - START) // HOUR) % 2)
    values: dict[str, object] = {
        **_TEXTS,
        "mac_address": f"0022480000{nic % 256:02X}",
        "src_ip": f"10.0.{nic // 256}.{nic % 256}",
        "dst_ip": f"10.1.{peer // 256}.{peer % 256}",
        "dst_port": 1024 + number // ROWS,
        "protocol": 6,
        "is_hop": False,
        "SrcVm": f"rg-with-a-name/vm-with-a-name-{nic}",
        "SrcNic": f"rg-with-a-name/nic-with-a-name-{nic}",
        "SrcSubscription": "11111111-2222-3333-4444-555555555555",
        "DestSubscription": "11111111-2222-3333-4444-555555555555",
    }
    for column in COLUMNS:
        if column["type"] == "long":
            values[column["name"]] = 1
        elif column["type"] == "datetime":
            values[column["name"]] = (
                f"{hour + (HOUR if column['name'] == 'interval_end' else 0 * HOUR):%Y-%m-%dT%H:%M:%S}Z"
            )
    return [values.get(column["name"], "") for column in COLUMNS]


def table(columns: list[dict[str, str]], rows: list[list[object]]) -> bytes:
    return json.dumps({"tables": [{"name": "PrimaryResult", "columns": columns, "rows": rows}]}).encode()


def numbers(*names: str, kinds: str = "long") -> list[dict[str, str]]:
    return [{"name": name, "type": kinds} for name in names]


@contextmanager
def large_workspace(tls: tuple[Path, Path]) -> Iterator[tuple[str, list[int]]]:
    """Where a workspace with `HOURS` times `ROWS` rows is, and the bytes of each of its answers."""
    sizes: list[int] = []

    class Answers(Handler):
        def respond(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))["query"]
            lets = {name: time or one or other for name, time, one, other in _LET.findall(query)}
            start, end = (dt.datetime.fromisoformat(lets[name]) for name in ("start", "end"))
            slices, slice_ = int(lets.get("slices", 1)), int(lets.get("slice", 0))
            hours = [hour for n in range(HOURS) if start <= (hour := START + n * HOUR) < end]
            held = len(range(slice_, ROWS, slices)) * len(hours)
            if "by mark" in query:
                counted = [[f"{hour:%Y-%m-%dT%H:%M:%S}Z", ROWS, ROWS, 0, 0, 0, ROWS] for hour in hours]
                kinds = numbers("mark", kinds="datetime")
                kinds += numbers("flows", "lines", "unplaced", "messages", "finished", "all")
                body = table(kinds, counted)
            elif "made_of" in query:
                body = table(numbers("answered", "made_of", "there"), [[held, held, ROWS * len(hours)]])
            else:
                body = table(COLUMNS, [row(hour, n) for hour in hours for n in range(slice_, ROWS, slices)])
            sizes.append(len(body))
            self.answer(200, body)

    with serving(Answers, tls) as port:
        yield f"https://localhost:{port}", sizes


def asked(
    tls: tuple[Path, Path], identity: Identity, out: Path, what: tuple[str, ...], *options: str
) -> tuple[Measured, list[int]]:
    """What a run over the whole of it took, and the bytes of the answers that it got; its result goes to ``out``."""
    command = "import sys; from flowlens.__main__ import main; sys.argv[0] = 'flowlens'; main()"
    window = ("--start", START.isoformat(), "--end", (START + HOURS * HOUR).isoformat())
    with large_workspace(tls) as (endpoint, sizes):
        access = ("--auth", "environment", "--account-url", endpoint, "--ca-file", str(tls[0]))
        run = (*what, *access, *window, "-o", str(out), *options)
        return measure([sys.executable, "-c", command, *run], environment=identity.environment()), sizes


def test_a_run_over_a_workspace_keeps_below_its_limit(
    tls: tuple[Path, Path], identity: Identity, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    what = ("analyze", f"workspace:{WORKSPACE}")
    measured, sizes = asked(tls, identity, out, what, "--memory-limit", f"{LEAST // MB}MB")
    report = json.loads(out.read_text())
    assert report["ledger"]["complete"] and report["ledger"]["records"] == HOURS * ROWS
    assert measured.memory < LEAST
    assert max(sizes) < LEAST - BASE


def test_a_query_in_a_workspace_keeps_below_its_limit(
    tls: tuple[Path, Path], identity: Identity, tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    what = ("query", "conversations", "--workspace", WORKSPACE)
    measured, _ = asked(tls, identity, out, what, "--memory-limit", f"{LEAST // MB}MB")
    with out.open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == HOURS * ROWS + 1
    assert measured.memory < LEAST
