"""Whoever sends packets, names resources or writes the container gets a counted reject or one line, never a crash."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.cells import cell_len

from tests.flow_logs import NIC, OTHER_NIC, Ran, flow_tuple, record, run, vnet_id, write_blob

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
BIDI = re.compile("[\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
GOOD = json.dumps({"records": [record([flow_tuple("10.0.0.4", "20.0.0.1", 443)])]})


def clean(ran: Ran) -> Ran:
    """The same run, known to hold no traceback, no control and no bidi character."""
    for text in (ran.out, ran.err):
        assert "Traceback" not in text
        assert not CONTROL.search(text)
        assert not BIDI.search(text)
    return ran


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(range(256)) * 3)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


FILES = {
    "empty": b"",
    "blank": b" \r\n\t",
    "no records": b"{}",
    "null": b"null",
    "web page": b"<!DOCTYPE html><html><body>Sign in to your account</body></html>",
    "picture": png(),
    "zeros": bytes(5000),
    "binary": bytes(range(256)) * 20,
    "line of 64 MB": b'{"records":[{"a":"' + b"a" * 64_000_000 + b'"}]}',
    "lists 100,000 deep": b'{"records":[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "never closed": b"[" * 100_000,
    "counter of 2^64": GOOD.replace("5,600,4,6000", f"{2**64},1,1,1").encode(),
    "counter of 2^48": GOOD.replace("5,600,4,6000", f"{2**48},1,1,1").encode(),
    "port of 2^32": GOOD.replace(",443,", f",{2**32},").encode(),
    "raw escape in a name": GOOD.replace("nsg-a", "nsg\x1b[2Ja").encode(),
    "raw zero in a name": GOOD.replace("nsg-a", "nsg\0a").encode(),
    "cut off": GOOD.encode()[:-20],
    "no gzip after all": b"\x1f\x8b" + b"not gzip at all",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_that_is_no_flow_log_is_counted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "PT1H.json"
    path.write_bytes(content)
    ran = clean(run("analyze", path, "--format", "json"))
    assert ran.code == 4
    ledger = ran.document["ledger"]
    assert not ledger["complete"]
    assert ledger["rejected"] + ledger["rejected_records"] + ledger["unread"] == 1
    (reject,) = ledger["rejects"]
    assert reject["blob"] == "PT1H.json" and reject["reason"]
    assert {verdict["status"] for verdict in ran.document["verdicts"].values()} == {"not_determined"}
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("name", ["picture", "cut off", "no gzip after all"])
@pytest.mark.parametrize("command", ["analyze", "flows"])
def test_the_good_file_beside_it_is_used(tmp_path: Path, name: str, command: str) -> None:
    (tmp_path / "bad.json").write_bytes(FILES[name])
    (tmp_path / "good.json").write_text(GOOD, encoding="utf-8")
    ran = clean(run(command, tmp_path, "--format", "json"))
    ledger = ran.document["ledger"]
    assert (ran.code, ledger["rows"], ledger["blobs"]) == (4, 1, 2)
    assert [reject["blob"] for reject in ledger["rejects"]] == ["bad.json"]
    shown = clean(run(command, tmp_path))
    assert shown.code == 4
    assert "bad.json at byte" in shown.out
    assert "20.0.0.1" in shown.out


def test_convert_keeps_the_good_rows_and_says_what_was_rejected(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(FILES["cut off"])
    (tmp_path / "good.json").write_text(GOOD, encoding="utf-8")
    out = tmp_path / "out" / "flows.parquet"
    ran = clean(run("convert", tmp_path, "-o", out))
    assert (ran.code, ran.out) == (4, "")
    assert pl.read_parquet(out).height == 1
    assert "bad.json" in ran.err


# ---- names

NAMES = {
    "escape": "a\x1b]0;owned\x07b",
    "clear screen": "\x1b[2J\x1b[Hx",
    "zero": "a\0b",
    "delete and C1": "a\x7f\x9b31mb\x85",
    "bidi": "a\u202egnp.exe\u2066b",
    "line ends": "a\r\nb\u2028c\vd",
    "formula": '=HYPERLINK("http://203.0.113.1","x")',
    "formula at": "@SUM(1+1)",
    "formula plus": "+1",
    "formula minus": "-1+cmd",
    "formula tab": "\t=1+1",
    "formula wide": "＝1+1",
    "quotes": 'a","b\n=1',
    "markup": "[bold red]x[/] {0} %s </b>",
    "japanese": "規則・拒否" * 6,
    "emoji": "👩‍💻 rule",
    "surrogate": "a\ud800b",
    "long": "x" * 5000,
    "empty": "",
}


def with_names(folder: Path, *names: str) -> Path:
    """Logs in which ACL, rule and resources bear each name, and one flow of each kind that a table is about.

    The VNet of a single name is vnet-a, so that an inventory can name it.
    """
    for n, name in enumerate(names):
        mac, other, own, peer = f"00005E0053{n:02X}", f"00005E0054{n:02X}", f"10.0.{n}.4", f"10.0.{n}.5"
        target = vnet_id(name if len(names) > 1 else "vnet-a", group=name)
        allowed = [flow_tuple(own, peer, 443), flow_tuple(own, "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff", 443)]
        denied = [flow_tuple(own, "20.118.99.224", 1688, "D")]
        write_blob(
            folder,
            record(allowed, rule=name, acl=name, target=target, mac=mac),
            record(denied, rule=f"UserRule_{name}", acl=f"/x/{name}", target=target, mac=mac),
            mac=mac,
        )
        back = [flow_tuple(own, peer, 443, direction="I")]
        write_blob(folder, record(back, rule=name, acl=name, target=target, mac=other), mac=other)
    return folder


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_names(tmp_path_factory.mktemp("named"), *NAMES.values())


@pytest.mark.parametrize(
    ("command", "encoding", "columns"),
    [
        ("analyze", "utf-8", 100),
        ("analyze", "cp1252", 40),
        ("analyze", "ascii", 80),
        ("rules", "utf-8", 60),
        ("flows", "utf-8", 140),
        ("flows", "cp1252", 40),
    ],
)
def test_a_name_cannot_steer_the_terminal(named: Path, command: str, encoding: str, columns: int) -> None:
    ran = clean(run(command, named, "--limit", "1000", encoding=encoding, columns=columns))
    assert ran.code == 0
    assert max(map(cell_len, ran.out.splitlines())) <= columns
    assert command == "rules" or "20.118.99.224" in ran.out


def test_a_name_cannot_steer_what_reads_csv(named: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(clean(run("rules", named, "--format", "csv")).out)))
    # Of each name the rule that allowed in both directions, and the one that denied.
    assert len(rows) >= 2 * len(NAMES)
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))


def test_json_gives_a_name_back_exactly(named: Path) -> None:
    rows = clean(run("rules", named, "--format", "json")).document["tables"]["rule_usage"]
    told = {row["acl_rule"] or "" for row in rows}
    assert {name for name in NAMES.values() if name != NAMES["surrogate"]} <= told


@pytest.mark.slow
def test_japanese_on_a_cp1252_console_in_a_process_of_its_own(tmp_path: Path) -> None:
    with_names(tmp_path / "ログ", NAMES["japanese"])
    (tmp_path / "names.csv").write_text("vnet,address,workload\nvnet-a,10.0.0.4,受付サーバー\n", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "flowlens", "analyze", "ログ", "--inventory", "names.csv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "COLUMNS": "40"},
        capture_output=True,
        check=False,
    )
    out, err = ran.stdout.decode("cp1252"), ran.stderr.decode("cp1252")
    clean(Ran(ran.returncode, ran.stdout, ran.stderr, "cp1252"))
    assert (ran.returncode, err) == (0, "")
    assert "\\u53d7" in out.replace("\n", "") and max(map(len, out.splitlines())) <= 40


def test_names_from_the_users_own_files(tmp_path: Path) -> None:
    folder = with_names(tmp_path / "logs", "rule")
    (tmp_path / "names.csv").write_text(
        "vnet,address,workload,subnet\nvnet-a,10.0.0.4,\x1b[31mred\u202e,=1+1\n", encoding="utf-8"
    )
    (tmp_path / "flowlens.toml").write_text('[networks.names]\n"10.0.0.5/32" = "\\u001b[2J\\u202e"\n', encoding="utf-8")
    for face in ("table", "json", "csv"):
        options = ("--inventory", tmp_path / "names.csv", "--config", tmp_path / "flowlens.toml", "--format", face)
        ran = clean(run("encryption", folder, *options))
        assert ran.code == 0
        assert "red" in ran.out


# ---- paths and arguments


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\u202eb", "a\nb", "wide 規則"])
def test_names_of_files_and_folders(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.json").write_text(GOOD, encoding="utf-8")
    (folder / f"{name}.html").write_text("x", encoding="utf-8")
    (folder / f"{name}bad.json").write_text("{}", encoding="utf-8")
    for arguments in (["analyze", folder], ["analyze", folder, "--format", "json"], ["doctor", folder]):
        assert clean(run(*arguments)).code in (0, 4)
    assert clean(run("analyze", folder / "gone")).code == 3
    assert clean(run("analyze", folder, "--format", "json", "-o", folder / "out.json")).code == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[31m"],
        ["analyze", "\x1b[31m"],
        ["analyze", "x", "--\x1b[31m"],
        ["analyze", "x", "--format", "\x1b[31m\u202e"],
        ["analyze", "x", "--profile", "\x1b[31m"],
        ["analyze", "x", "--fail-on", "\x1b[31m > 0"],
        ["analyze", "x", "--window", "\x1b[31m"],
        ["analyze", "x", "--start", "\x1b[31m"],
        ["analyze", "x", "--tz", "\x1b[31m"],
        ["analyze", "x", "--tz", "../../../etc/passwd"],
        ["analyze", "x", "--cloud", "\x1b[31m"],
        ["analyze", "x", "--config", "\x1b[31m"],
        ["analyze", "x", "--inventory", "\x1b[31m"],
        ["analyze", "x", "--threads", "\x1b[31m"],
        ["analyze", "x", "-o", "\x1b[31m.\x1b"],
        ["analyze", "a\0b"],
        ["analyze", ""],
        ["tags", "show", "\x1b[31m"],
        ["tags", "lookup", "\x1b[31m"],
        ["profiles", "show", "\x1b[31m"],
        ["flows", "x", "--src", "\x1b[31m"],
        ["flows", "x", "--protocol", "\x1b[31m"],
        ["flows", "x", "--state", "\x1b[31m"],
    ],
    ids=lambda arguments: " ".join(map(repr, arguments)),
)
def test_an_argument_is_never_echoed_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    ran = clean(run(*arguments))
    assert ran.code in (2, 3)
    told = ran.err.splitlines()
    assert told[0].startswith("error: ")
    assert len(told) == 1 or (len(told) == 2 and told[1].startswith("  hint: "))
    assert ran.out == ""


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        '{"schema_version": 99}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "findings": [1], "tables": {}}',
        '{"schema_version": 1, "findings": {}, "tables": {}}',
        '{"schema_version": 1, "findings": [], "tables": []}',
        '{"schema_version": 1, "findings": [], "tables": {"unexpected_destinations": ["x"]}}',
        '{"schema_version": 1, "findings": [], "tables": {"unexpected_destinations": [{"dst_ip": 5}]}}',
        '{"schema_version": 1, "findings": [], "tables": {"unexpected_destinations": [{"dst_port": "x"}]}}',
        '{"schema_version": "\\u001b[31m"}',
    ],
)
def test_a_baseline_that_is_no_report(tmp_path: Path, content: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "PT1H.json").write_text(GOOD, encoding="utf-8")
    path = tmp_path / "last.json"
    path.write_text(content, encoding="utf-8")
    ran = clean(run("analyze", tmp_path / "logs", "--baseline", path))
    assert ran.code in (2, 3)
    assert ran.err.startswith("error: ") and ran.err.count("\n") <= 2


def test_a_baselines_findings_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "PT1H.json").write_text(GOOD, encoding="utf-8")
    finding = {
        "id": "\x1b",
        "question": "denied_egress",
        "workload": "\x1b[31m\u202e (00005E005301)",
        "subject": "\x9b",
        "state": "new",
    }
    path = tmp_path / "last" / "report.json"
    path.parent.mkdir()
    report = {
        "schema_version": 1,
        "window": {"start": "2026-06-15T09:00:00Z", "end": "2026-06-15T10:00:00Z"},
        "settings": {"profiles": "auto", "cloud": "global", "placeholders": {}},
        "findings": [finding],
        "tables": {"unexpected_destinations": []},
    }
    path.write_text(json.dumps(report), encoding="utf-8")
    ran = clean(run("analyze", tmp_path / "PT1H.json", "--baseline", path))
    assert ran.code == 0
    assert "1 resolved" in ran.out


# ---- addresses are never cut

WIDE = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:{:x}"
ADDRESS = re.compile(r"[0-9a-f:.]{7,}")


@pytest.fixture(scope="module")
def many_addresses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("addresses")
    targets = [*(WIDE.format(0xF000 + n) for n in range(4)), "203.0.113.249", "198.51.100.123", "20.118.99.224"]
    own = ("10.200.200.200", "fd00:aaaa:bbbb:cccc:dddd:eeee:ffff:aaaa")
    for nic, source in zip((NIC, OTHER_NIC), own, strict=True):
        tuples = [
            flow_tuple(source, dst, 1688, "E", counters=(9, 10**14, 9, 10**14), src_port=40000 + n)
            for n, dst in enumerate(targets)
        ]
        denied = [flow_tuple(source, dst, 1688, "D", src_port=41000 + n) for n, dst in enumerate(targets)]
        write_blob(
            folder,
            record(tuples, mac=nic, rule="UserRule_" + "long" * 10),
            record(denied, mac=nic, rule="UserRule_Deny" + "long" * 10),
            mac=nic,
        )
    return folder


def addresses_in(value: Any) -> set[str]:
    """Every address that stands in the strings of a table's rows."""
    if isinstance(value, dict):
        return set().union(*(addresses_in(v) for k, v in value.items() if k in ("dst_ip", "src_ip", "workload")))
    return {word for word in ADDRESS.findall(str(value)) if word.count(".") == 3 or word.count(":") >= 2}


@pytest.fixture(scope="module")
def expected_addresses(many_addresses: Path) -> dict[str, set[str]]:
    """Command -> the addresses in the rows that the terminal shows of its table."""
    found = {}
    for command in ("destinations", "flows", "egress"):
        tables = run(command, many_addresses, "--format", "json").document["tables"]
        rows = [row for table in tables.values() for row in table]
        hidden = ("Cannot tell", "Not seen", "Not observable")
        found[command] = set().union(*(addresses_in(row) for row in rows if row.get("status") not in hidden))
    # The KMS address is explained by its profile, so it is no destination that needs a look.
    assert [len(addresses) for addresses in found.values()] == [8, 9, 3]
    return found


@pytest.mark.parametrize("columns", [40, 41, 60, 80, 100, 140])
@pytest.mark.parametrize("command", ["destinations", "flows", "egress"])
def test_every_address_stands_whole(
    many_addresses: Path, expected_addresses: dict[str, set[str]], command: str, columns: int
) -> None:
    text = run(command, many_addresses, "--limit", "1000", columns=columns).out
    assert expected_addresses[command] <= set(re.split(r"[\s,()]+", text))
    assert max(map(len, text.splitlines())) <= columns
