"""What hostile bytes are thrown at: each target ends in a result or a FlowlensError, and where two ways lead to it they agree."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from flowlens import schema
from flowlens.catalog import load_tags
from flowlens.catalog.tags import read_answer
from flowlens.errors import FlowlensError
from flowlens.evidence import Ledger, total
from flowlens.formats import decode_flow_log
from flowlens.formats.framing import Place
from flowlens.formats.growing import Rest, decode_growing
from flowlens.formats.traffic_analytics import decode_traffic_analytics
from tests.fuzz.account import account, account_seeds
from tests.fuzz.files import file_seeds, files, names, profile
from tests.fuzz.workspace import workspace, workspace_seeds

HERE = Path(__file__).parents[1]


def _decoded(data: bytes, *, strict: bool) -> tuple[pa.Table, Ledger]:
    batches = list(decode_flow_log([data], where="x", strict=strict))
    ledger = total(batch.ledger for batch in batches)
    return pa.concat_tables([schema.FLOWS.empty_table(), *(schema.plain(batch.flows) for batch in batches)]), replace(
        ledger, strict_records=0
    )


def blob(data: bytes) -> None:
    """The bytes of a blob: the fast decoder and the reference give the same rows and the same ledger."""
    rows, ledger = _decoded(data, strict=False)
    expected, told = _decoded(data, strict=True)
    assert ledger == told and ledger.balanced
    assert rows.equals(expected)


def ranges(data: bytes) -> None:
    """A blob in two polls, cut where its first two bytes say, gives what one read gives."""
    cut, data = int.from_bytes(data[:2], "little") % (len(data) + 1), data[2:]
    place, units, rows = Place(), [], []
    for end in (cut, None):
        for part in decode_growing([data[place.offset : end]], where="x", start=place, whole=end is None):
            if not isinstance(part, Rest):
                units += part.units
                rows.append(part.flows.drop_columns(["block"]))
        place = Place.parse(units[-1].place.offset, units[-1].place.text) if units else Place()
    expected, _ = _decoded(data, strict=False)
    assert pa.concat_tables([schema.FLOWS.empty_table(), *rows]).equals(expected)


def flow_tuple(data: bytes) -> None:
    """The text of one flow tuple inside a whole record."""
    body = data.replace(b'"', b"").replace(b"\\", b"")
    blob(b'{"records":[{"flowRecords":{"flows":[{"flowGroups":[{"rule":"r","flowTuples":["' + body + b'"]}]}]}}]}')


def traffic_analytics(data: bytes) -> None:
    """An export of NTANetAnalytics rows."""
    for decoded in decode_traffic_analytics([data], where="x"):
        assert decoded.conversations.height == decoded.ledger.rows


def service_tags(data: bytes) -> None:
    """A published file of service tags."""
    read_answer(data, cloud="china", where="x")


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (blob, ranges, account, flow_tuple, traffic_analytics, workspace, service_tags, names, profile, files)
}


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with."""
    blobs = [path.read_bytes() for path in sorted((HERE / "data").rglob("*.json")) if path.stat().st_size < 20_000]
    profiles = sorted((HERE.parent / "flowlens/catalog/data/profiles").glob("*.toml"))
    return {
        "blob": blobs,
        "ranges": [b"\x40\x01" + data for data in blobs],
        "account": account_seeds(),
        "workspace": workspace_seeds(),
        "flow_tuple": [b"1663145998065,192.0.2.153,10.0.0.6,55188,22,6,I,D,NX,0,0,0,0", b"1,a,b,1,2,T,I,A,B,,,,"],
        "traffic_analytics": _exports(),
        "service_tags": [_published()],
        "names": [b"name,address\na.example,192.0.2.1\n", b"# comment\nname;ip\nb;::1\n"],
        "files": file_seeds(),
        "profile": [path.read_bytes() for path in profiles if path.stat().st_size < 5000],
    }[target]


def _exports() -> list[bytes]:
    """Some real rows in each shape in which rows are exported."""
    lines = (HERE / "data/real/sentinel_ntanetanalytics_25_rows.csv").read_bytes().splitlines(True)[:4]
    rows = list(csv.DictReader(line.decode("utf-8-sig") for line in lines))
    table = {
        "name": "PrimaryResult",
        "columns": [{"name": name, "type": "string"} for name in rows[0]],
        "rows": [list(row.values()) for row in rows],
    }
    objects = [json.dumps(row) for row in rows]
    texts = json.dumps({"tables": [table]}), f"[{', '.join(objects)}]", "\n".join(objects)
    return [b"".join(lines), *(text.encode() for text in texts)]


def _published() -> bytes:
    """The tags of the smallest cloud that is shipped, in the form in which they are published; fewer are refused."""
    tags = load_tags("china")
    values = [
        {"name": name, "properties": {"addressPrefixes": list(map(str, tags.prefixes(name))), "networkFeatures": None}}
        for name in tags.names
    ]
    return json.dumps({"cloud": "China", "values": values}).encode()


def run(target: str, data: bytes) -> bool:
    """Whether the target took the input; False where it refused it with an error of its own."""
    try:
        TARGETS[target](data)
    except FlowlensError:
        return False
    return True
