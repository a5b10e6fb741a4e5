"""Files that a user names on the command line, each read by what reads it there."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from flowlens.acceptance import read_acceptances
from flowlens.analyses.destinations import read_expected
from flowlens.catalog import load_profile, read_names, read_owners
from flowlens.config import read_config
from flowlens.formats import decode_flow_log
from flowlens.inventory import read_inventory, read_outbound, unused_columns
from flowlens.outputs.tables import read_baseline
from flowlens.reporting import SCHEMA_VERSION
from flowlens.schedule import read_schedule
from flowlens.sources.files import find_blobs, read_chunks

TOP = Path(__file__).parents[2]
_FOLDER = tempfile.TemporaryDirectory(prefix="flowlens-fuzz-")


def _inventory(path: Path) -> None:
    read_inventory(path)
    read_outbound(path)
    unused_columns(path)


def _owners(path: Path) -> None:
    owners = read_owners([path])
    owners.identify(pl.Series(["203.0.113.1", "2001:db8::1"]), azure=pl.Series([False, False]))


def _blob(path: Path) -> None:
    for blob in find_blobs([str(path)]).blobs:
        for _ in decode_flow_log(read_chunks(blob), where=blob.name):
            pass


_READERS: dict[bytes, tuple[str, Callable[[Path], object]]] = {
    b"a": ("accepted.toml", read_acceptances),
    b"b": ("report.json", read_baseline),
    b"c": ("flowlens.toml", read_config),
    b"d": ("owners.mmdb", _owners),
    b"e": ("expected.toml", read_expected),
    b"i": ("inventory.csv", _inventory),
    b"o": ("owners.csv", _owners),
    b"s": ("report.toml", read_schedule),
    b"z": ("PT1H.json.gz", _blob),
}
"""By the first byte of the input."""


def files(data: bytes) -> None:
    """A file of the kind that the first byte says."""
    name, read = _READERS.get(data[:1], _READERS[b"c"])
    read(_file(name, data[1:]))


def names(data: bytes) -> None:
    """A file of names and their addresses."""
    read_names(_file("names.csv", data))


def profile(data: bytes) -> None:
    """A profile of required endpoints."""
    load_profile(_file("profile.toml", data))


def _file(name: str, data: bytes) -> Path:
    path = Path(_FOLDER.name) / name
    path.write_bytes(data)
    return path


def file_seeds() -> list[bytes]:
    """Inputs to begin with, of each kind."""
    accepted = '[[accept]]\nid = "0123456789abcdef"\nreason = "r"\nowner = "o"\nexpires = 2026-12-31\n'
    config = """cloud = "global"
[networks]
internal = ["10.0.0.0/8"]
names = { "10.1.0.0/16" = "hub" }
[placeholders]
region = "japaneast"
[outbound]
"vnet/subnet" = "nat"
[service_endpoints]
"vnet/subnet" = ["Microsoft.Storage"]
"""
    finding = {"id": "x", "severity": "high", "first_seen": "2026-06-15T09:00:00Z", "last_seen": None}
    report = {
        "schema_version": SCHEMA_VERSION,
        "window": {"start": "2026-06-15T00:00:00Z", "end": "2026-06-16T00:00:00Z"},
        "settings": {},
        "findings": [finding],
        "tables": {"unexpected_destinations": []},
    }
    return [
        b"a" + accepted.encode(),
        b"b" + json.dumps(report).encode(),
        b"c" + config.encode(),
        b"d" + _database(),
        b"e" + (TOP / "sample_logs/expected.toml").read_bytes()[:1000].rpartition(b"\n\n")[0],
        b"i" + b"".join((TOP / "sample_logs/inventory.csv").read_bytes().splitlines(True)[:3]),
        b'i[{"address": "10.0.0.4", "vnet": "hub", "outbound": "firewall", "subnet": "s"}]',
        b"oprefix,owner,country\n203.0.113.0/24,Example,NL\n2001:db8::/32,,DE\n",
        b"z" + gzip.compress((TOP / "tests/data/numbers_of_other_forms.json").read_bytes(), mtime=0),
        b"s" + (TOP / "deploy/report.toml").read_bytes(),
    ]


def _database() -> bytes:
    writer = MMDBWriter(6, database_type="GeoLite2-ASN", ipv4_compatible=True)
    writer.insert_network(IPSet(["203.0.113.0/24"]), {"as_name": "Example", "country": {"iso_code": "NL"}})
    path = Path(_FOLDER.name) / "written.mmdb"
    writer.to_db_file(str(path))
    return path.read_bytes()
