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
NICS = 250
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


def rows(hour: dt.datetime, numbers: range) -> str:
    """The rows of these conversations in an hour, as they stand in an answer."""
    values: dict[str, object] = dict.fromkeys((column["name"] for column in COLUMNS), "") | {
        **_TEXTS,
        "protocol": 6,
        "is_hop": False,
        "SrcSubscription": "11111111-2222-3333-4444-555555555555",
        "DestSubscription": "11111111-2222-3333-4444-555555555555",
        "mac_address": "0022480000%(nic)02X",
        "src_ip": "10.0.0.%(nic)d",
        "dst_ip": "10.1.0.%(peer)d",
        "dst_port": 1024 + ((hour - START) // HOUR) % 2,
        "SrcVm": "rg-with-a-name/vm-with-a-name-%(nic)d",
        "SrcNic": "rg-with-a-name/nic-with-a-name-%(nic)d",
    }
    for column in COLUMNS:
        if column["type"] == "long":
            values[column["name"]] = 1
        elif column["type"] == "datetime":
            told = hour + HOUR if column["name"] == "interval_end" else hour
            values[column["name"]] = f"{told:%Y-%m-%dT%H:%M:%S}Z"
    # One text for all of an hour, since the server would take longer than those who ask.
    form = json.dumps([values[column["name"]] for column in COLUMNS])
    return ", ".join(form % {"nic": n % NICS, "peer": n // NICS} for n in numbers)


def table(columns: list[dict[str, str]], rows: str) -> bytes:
    return f'{{"tables": [{{"name": "PrimaryResult", "columns": {json.dumps(columns)}, "rows": [{rows}]}}]}}'.encode()


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
                body = table(kinds, json.dumps(counted)[1:-1])
            elif "made_of" in query:
                body = table(numbers("answered", "made_of", "there"), f"[{held}, {held}, {ROWS * len(hours)}]")
            else:
                body = table(COLUMNS, ", ".join(rows(hour, range(slice_, ROWS, slices)) for hour in hours))
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_query_in_a_workspace_keeps_below_its_limit(
    tls: tuple[Path, Path], identity: Identity, tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    what = ("query", "conversations", "--workspace", WORKSPACE)
    measured, _ = asked(tls, identity, out, what, "--memory-limit", f"{LEAST // MB}MB")
    with out.open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == HOURS * ROWS + 1
    assert measured.memory < LEAST
