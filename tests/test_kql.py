"""The queries in kql/: their form, and that they give what flowlens gives from the same rows.

A query is executed as it is by an interpreter of the language over made rows.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import flowlens as fl
from flowlens import schema
from flowlens.formats.conversation_rows import NOT_KEPT, convert_conversations
from flowlens.prefixes import INTERNAL_PREFIXES, PLATFORM_PREFIXES
from flowlens.queries import bind, find_query, parse_query, query_names
from flowlens.query_values import required_endpoints
from tests import kql_engine, truth

TOP = Path(__file__).resolve().parents[1]
QUERIES = sorted((TOP / "kql").glob("*.kql"))
EXPORT = TOP / "sample_logs" / "traffic_analytics" / "ntanetanalytics.json"
# What a query leaves out of its result table, and why.
LEFT_OUT = {
    "coverage": {"rejected": "what cannot be read stands in conversations, with its problem"},
    "denied_egress": {
        "service_tag": "the published prefixes are in the package",
        "note": "its sentences stand in the package and nowhere else",
        "fix": "as above",
    },
    "encryption_status": {"advice": "its sentences stand in the package and nowhere else"},
    "unexpected_destinations": {
        "service_tag": "the published prefixes are in the package",
        "owner": "needs a file of the user's",
        "is_new": "needs a baseline",
        "destinations": "a query cuts no rows into others",
    },
    "conversations": dict.fromkeys(NOT_KEPT, "Traffic Analytics does not keep it"),
}
ANALYSES = ("coverage", "denied_egress", "encryption_status", "rule_usage", "unexpected_destinations")
DAY_AFTER = dt.datetime(2026, 6, 16, 6, tzinfo=dt.UTC)
SWITCH = dt.datetime(2026, 6, 15, 11, tzinfo=dt.UTC)
SEEDS = (5, 17)
"""Networks of several VNets with flows seen at hops, the second with some that only hops saw."""


Row = Mapping[str, object]


def export() -> list[dict[str, object]]:
    return json.loads(EXPORT.read_bytes())


def executed(query: str, rows: Sequence[Row], *, now: dt.datetime = DAY_AFTER) -> list[dict[str, Any]]:
    """The result of the query over ``rows`` of NTANetAnalytics, run at ``now``."""
    return kql_engine.executed(query, rows, now=now).to_dicts()


def bound(query: str, start: dt.datetime, end: dt.datetime) -> str:
    """The query with its window set."""
    return bind(parse_query("bound", query), start=start, end=end)


def encryption_query() -> str:
    return (TOP / "kql" / "encryption_status.kql").read_text(encoding="utf-8")


def comparable(rows: Iterable[Row]) -> list[list[object]]:
    """Pairs in order, with the columns that both ways give; a subnet that only a prefix names is left out."""
    columns = [c.name for c in schema.ENCRYPTION_STATUS_COLUMNS if c.name != "advice"]

    def cell(row: Row, name: str) -> object:
        value = row[name]
        if isinstance(value, dt.datetime):
            return value.replace(tzinfo=None)
        if name.endswith("_subnet") and "/" in str(value):
            return None
        return int(value) if name.startswith(("bytes_", "flows_")) and value is not None else value or None

    found = [[cell(row, name) for name in columns] for row in rows]
    return sorted(found, key=str)


def analysed(path: Path, **window: dt.datetime) -> list[dict[str, object]]:
    """What flowlens gives from the rows, without the pairs that the query leaves out."""
    pairs = fl.encryption_status(fl.scan(path, **window)).collect()
    return pairs.filter(~pl.col("eligibility").is_in(["public peer", "platform"])).to_dicts()


def test_there_is_a_query_for_each_question_and_one_for_all() -> None:
    assert [path.stem for path in QUERIES] == sorted((*ANALYSES, "conversations")) == list(query_names())


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_header_and_parameters(path: Path) -> None:
    query = parse_query(path.stem, path.read_text(encoding="utf-8"))
    assert query.table == "NTANetAnalytics"
    assert [(p.name, p.type, p.default) for p in query.parameters[:3]] == [
        ("start", "datetime", "ago(1d)"),
        ("end", "datetime", "now()"),
        ("late", "timespan", "1d"),
    ]
    # Lists stand in short form where the package binds long ones.
    assert all(len(parameter.default) < 250 for parameter in query.parameters)


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_columns_are_those_of_the_result_table(path: Path) -> None:
    query = parse_query(path.stem, path.read_text(encoding="utf-8"))
    last = query.text.rstrip().splitlines()[-1]
    assert last == f"| project {', '.join(query.columns)}"
    contract = [name for name in schema.TABLES[path.stem].names if name not in LEFT_OUT.get(path.stem, {})]
    own = [name for name in query.columns if name not in contract]
    assert list(query.columns) == [*contract, *own]
    assert not own or path.stem == "conversations"


def test_what_several_queries_define_is_the_same_in_each() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in QUERIES}
    found: dict[str, dict[str, str]] = {}
    for stem, text in texts.items():
        for statement in re.findall(r"^let .*?;$", text, re.MULTILINE | re.DOTALL):
            found.setdefault(re.split(r"\W+", statement)[1], {})[stem] = statement
    # Two are made for what follows them: codes with or without their rank, rules with the log's prefix or without.
    shared = {name: set(ways.values()) for name, ways in found.items() if name not in ("codes", "rules", "endpoints")}
    assert {name for name, ways in shared.items() if len(ways) > 1} == set()
    assert {"logged", "who", "covered", "lines", "decided", "flows"} <= set(shared)
    rules = {way.replace("DefaultRule_", "") for way in found["rules"].values()}
    assert len(rules) == 1
    for name in (*schema.DEFAULT_RULES, schema.PLATFORM_RULE, schema.UNSPECIFIED):
        assert f'"{name.lower()}", "{name}"' in rules.copy().pop()


def test_prefixes_are_those_of_the_package() -> None:
    text = (TOP / "kql" / "denied_egress.kql").read_text(encoding="utf-8")
    listed = re.findall(r"^let internal\w* = dynamic\((.*)\);$", text, re.MULTILINE)
    assert [*json.loads(listed[0]), *json.loads(listed[1])] == list(INTERNAL_PREFIXES)
    destinations = (TOP / "kql" / "unexpected_destinations.kql").read_text(encoding="utf-8")
    assert all(f'"{prefix.partition("/")[0]}"' in destinations for prefix in PLATFORM_PREFIXES)


def test_default_endpoints_are_those_of_the_profile() -> None:
    (default,) = [p.default for p in find_query("denied_egress").parameters if p.name == "endpoints"]
    assert set(json.loads(default[len("dynamic(") : -1])) <= set(required_endpoints(["windows-kms"]))


def services(folder: Path) -> list[str]:
    """A profile with addresses, and one of services that have nothing but a tag."""
    lines = ['title = "Services"', 'as_of = "2026-01-01"', 'sources = ["none"]']
    for tag in ("AzureMonitor.JapanEast", "Storage.JapanEast", "AzureResourceManager.JapanEast", "Sql.JapanEast"):
        words = {"name": tag, "cloud": "global", "need": "required", "protocol": "tcp", "ports": "80,400-500"}
        words |= {"purpose": "test", "as_of": "2026-01-01"}
        lines += ["[[requirement]]", *(f'{key} = "{value}"' for key, value in words.items()), "telling = true"]
        lines += [f'endpoints = [{{ kind = "service-tag", value = "{tag}" }}]']
    path = folder / "services.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["windows-kms", str(path)]


def analysed_rows(name: str, profiles: Sequence[str], **window: dt.datetime) -> list[dict[str, Any]]:
    scan = fl.scan(EXPORT, **window)
    if name == "denied_egress":
        return fl.denied_egress(scan, profiles=profiles).collect().to_dicts()
    return getattr(fl, name)(scan).collect().to_dicts()


@pytest.mark.parametrize("name", [name for name in ANALYSES if name != "encryption_status"])
def test_the_sample_gives_the_same_table(name: str, tmp_path: Path) -> None:
    query, profiles = find_query(name), services(tmp_path)
    hours = [dt.datetime.fromisoformat(str(row["FlowIntervalStartTime"])) for row in export()]
    window = {"start": min(hours), "end": max(hours) + dt.timedelta(hours=1)}
    values: dict[str, Any] = dict(window)
    if name == "denied_egress":
        values["endpoints"] = required_endpoints(profiles)
    columns = [column for column in query.columns if column != "region"]

    def cells(rows: Iterable[Row]) -> list[str]:
        return sorted(str([_number(row[column]) or None for column in columns]) for row in rows)

    found, expected = cells(executed(bind(query, **values), export())), cells(analysed_rows(name, profiles, **window))
    assert len(found) > 10
    assert found == expected


def _number(value: object) -> object:
    return int(value) if isinstance(value, Decimal) else value


@pytest.mark.slow
def test_expected_destinations_are_left_out() -> None:
    query = find_query("unexpected_destinations")
    everything = executed(query.text, export())
    listed = ["203.0.113.0/24|443|tcp", "2001:db8::/32||", "20.0.0.0/8||UDP", ""]
    left = executed(bind(query, expected=listed), export())

    def is_expected(row: Row) -> bool:
        address = ipaddress.ip_address(str(row["dst_ip"]))
        if address.version == 6:
            return address in ipaddress.ip_network("2001:db8::/32")
        web = address in ipaddress.ip_network("203.0.113.0/24") and (row["dst_port"], row["protocol"]) == (443, "TCP")
        return web or (address in ipaddress.ip_network("20.0.0.0/8") and row["protocol"] == "UDP")

    assert 0 < len(left) < len(everything)
    places = [
        {(row["workload"], row["dst_ip"], row["dst_port"], row["protocol"]) for row in rows}
        for rows in (left, everything)
    ]
    assert places[0] == {
        (row["workload"], row["dst_ip"], row["dst_port"], row["protocol"]) for row in everything if not is_expected(row)
    }
    assert {row["reason"] for row in left} == {"not in the expected list"}


@pytest.mark.slow
def test_letters_give_the_same_conversations() -> None:
    query = find_query("conversations")
    letters = {"Inbound": "I", "Outbound": "O", "Allowed": "A", "Denied": "D", "TCP": "T", "UDP": "U", "ICMP": "1"}
    codes = {wording: code.lower() for code, _, wording, _ in schema.ENCRYPTION_CODES}
    written = [
        row
        | {name: letters[row[name]] for name in ("FlowDirection", "FlowStatus", "L4Protocol")}
        | {"FlowEncryption": codes[row["FlowEncryption"]], "MacAddress": row["MacAddress"].replace("-", "").lower()}
        for row in export()
    ]
    found, expected = (executed(query.text, rows) for rows in (written, export()))
    assert sorted(map(str, found)) == sorted(map(str, expected))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"L4Protocol": "carrier pigeon"}, "cannot read L4Protocol"),
        ({"FlowDirection": ""}, "cannot read FlowDirection"),
        ({"FlowStatus": ""}, "cannot read FlowStatus"),
        ({"DestPort": 70000}, "cannot read DestPort"),
        ({"SrcIp": "", "SrcPublicIps": ""}, "expected a source address"),
        ({"DestIp": "", "DestPublicIps": "203.0.113.1|1|1|1|1|1"}, "a broken public address"),
        ({"DestIp": "", "DestPublicIps": "203.0.113.1|1|1|x|1|1|1"}, "a broken public address"),
        (
            {
                "SrcIp": "",
                "DestIp": "",
                "SrcPublicIps": "a|1|1|1|1|1|1 b|1|1|1|1|1|1",
                "DestPublicIps": "c|1|1|1|1|1|1 d|1|1|1|1|1|1",
            },
            "several public addresses on both sides cannot be paired",
        ),
    ],
)
def test_what_is_no_conversation_is_counted_with_its_problem(change: dict[str, object], problem: str) -> None:
    (good, *_) = (row for row in export() if row["SrcIp"] and row["DestIp"])
    answer = pl.DataFrame(executed(find_query("conversations").text, [good, good | change, good | change]))
    assert sorted(answer.select("problem", "lines").rows()) == [("", 1), (problem, 2)]
    decoded = convert_conversations(answer, where="answer")
    of_entry = problem == "a broken public address"
    assert (decoded.ledger.records, decoded.ledger.rows) == (3, 1)
    assert (decoded.ledger.rejected, decoded.ledger.rejected_records) == ((2, 0) if of_entry else (0, 2))
    assert decoded.ledger.rejects[0].reason == f"{problem} (2 line(s))"


def test_an_answer_without_a_column_is_a_fault() -> None:
    with pytest.raises(ValueError, match="lacks hour"):
        convert_conversations(pl.DataFrame({"src_ip": ["10.0.0.4"]}), where="answer")


def test_codes_are_those_of_the_schema() -> None:
    (table,) = re.findall(r"let codes = datatable\([^)]+\) \[(.*?)\];", encryption_query(), re.DOTALL)
    (without_rank,) = re.findall(
        r"let codes = datatable\([^)]+\) \[(.*?)\];", find_query("conversations").text, re.DOTALL
    )
    found = {
        (word, code, status, int(rank))
        for word, code, status, rank in re.findall(r'"([^"]+)", "([^"]+)", "([^"]+)", (\d+)', table)
    }
    expected = {
        (word.lower(), code, status, rank)
        for rank, (code, status, wording, _) in enumerate(schema.ENCRYPTION_CODES)
        for word in (code, wording)
    }
    assert found == expected
    pairs = set(re.findall(r'"([^"]+)", "([^"]+)"', without_rank))
    assert pairs == {(word, code) for word, code, _, _ in expected}


@pytest.mark.slow
def test_pairs_are_those_of_the_analysis() -> None:
    found = executed(encryption_query(), export())
    assert len(found) == 14
    assert comparable(found) == comparable(analysed(EXPORT))


def test_window_is_half_open_by_interval(tmp_path: Path) -> None:
    # The first interval inside begins at the switch, the first one behind at the end.
    start, end = SWITCH, SWITCH + dt.timedelta(hours=3)
    found = executed(bound(encryption_query(), start, end), export())
    inside = [row for row in export() if start <= dt.datetime.fromisoformat(row["FlowIntervalStartTime"]) < end]
    path = tmp_path / "inside.json"
    path.write_text(json.dumps(inside), encoding="utf-8")
    assert comparable(found) == comparable(analysed(path))
    assert comparable(found) != comparable(analysed(EXPORT))


def test_letters_and_codes_are_read_as_words() -> None:
    letters = {"Inbound": "I", "Outbound": "O", "Allowed": "A", "Denied": "D", "TCP": "T", "UDP": "U", "ICMP": "1"}
    codes = {wording: code.lower() for code, _, wording, _ in schema.ENCRYPTION_CODES}
    written = [
        row
        | {name: letters[row[name]] for name in ("FlowDirection", "FlowStatus", "L4Protocol")}
        | {"FlowEncryption": codes[row["FlowEncryption"]], "MacAddress": row["MacAddress"].replace("-", "").lower()}
        for row in export()
    ]
    assert comparable(executed(encryption_query(), written)) == comparable(analysed(EXPORT))


@pytest.mark.slow
def test_rows_that_are_no_flows_of_a_pair_change_nothing() -> None:
    (flow, *_) = (row for row in export() if row["FlowEncryption"] == "Encrypted")
    clear = flow | {"FlowEncryption": "Unencrypted"}
    inside = dt.datetime.fromisoformat(flow["FlowIntervalStartTime"])
    others = [
        clear | {"SubType": "StatusMessage"},
        clear | {"IsFlowCapturedAtUdrHop": True, "AclRule": "platformrule", "AclGroup": "Unspecified"},
        clear | {"FlowStatus": "Denied", "PacketsSrcToDest": 0, "PacketsDestToSrc": 0},
        clear | {"SrcIp": "", "FlowType": "ExternalPublic", "SrcPublicIps": "203.0.113.9|1|1|1|1|60|60"},
        clear | {"SrcIp": "203.0.113.9", "FlowType": "MaliciousFlow"},
        clear | {"DestIp": "168.63.129.16"},
        clear | {"FlowIntervalStartTime": (inside - dt.timedelta(days=2)).isoformat()},
    ]
    found = executed(encryption_query(), [*export(), *others])
    assert comparable(found) == comparable(analysed(EXPORT))


@pytest.mark.slow
def test_a_row_at_a_hop_speaks_for_the_pair_but_does_not_count() -> None:
    pair = {"src_workload": "rg-app/vm-app1", "dst_workload": "rg-data/vm-sql1"}
    (flow, *_) = (
        row for row in export() if (row["SrcVm"], row["DestVm"]) == (pair["src_workload"], pair["dst_workload"])
    )
    hop = flow | {
        "IsFlowCapturedAtUdrHop": True,
        "MacAddress": "00-00-5E-00-53-FF",
        "FlowEncryption": "Software not ready",
    }
    before, after = (
        next(row for row in executed(encryption_query(), rows) if pair.items() <= row.items())
        for rows in (export(), [*export(), hop | {"FlowDirection": "Inbound"}])
    )
    assert (before["encryption_code"], after["encryption_code"]) == ("NX", "NX_SW_NOT_READY")
    assert after["bytes_unencrypted"] == before["bytes_unencrypted"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (None, ("Unencrypted", "by design", "NX_LOCAL_DST")),
        ("Unencrypted", ("Unencrypted", "eligible", "NX")),
        ("Encrypted", ("Encrypted", "eligible", "NX_LOCAL_DST")),
    ],
)
def test_what_stays_on_a_host_says_nothing_beside_anything_else(
    other: str | None, expected: tuple[str, str, str]
) -> None:
    pair = {"src_workload": "rg-app/vm-app1", "dst_workload": "rg-app/vm-rhel1"}
    (flow, *_) = (row for row in export() if row["FlowEncryption"] == "Destination on same host")
    rows = export() if other is None else [*export(), flow | {"FlowEncryption": other, "BytesSrcToDest": 1_000_000}]
    (found,) = (row for row in executed(encryption_query(), rows) if pair.items() <= row.items())
    assert (found["encryption_status"], found["eligibility"], found["encryption_code"]) == expected
    assert (found["bytes_unencrypted"] > 1_000_000) == (other == "Unencrypted")
    assert (found["bytes_unencrypted"] == 0) == (other == "Encrypted")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_invented_networks_give_the_same_pairs(seed: int, tmp_path: Path) -> None:
    network = truth.generate(seed, window=False)
    path = tmp_path / "rows.json"
    network.write_traffic_analytics(path)
    rows = json.loads(path.read_bytes())
    year = (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2027, 1, 1, tzinfo=dt.UTC))

    # Peers without a log of their own are named by the row alone; the analysis goes by who is known in the VNet.
    def judged(pairs: Iterable[Row]) -> list[list[object]]:
        return comparable(pair for pair in pairs if pair["eligibility"] != "unknown peer")

    found = judged(executed(bound(encryption_query(), *year), rows))
    assert len(found) > 10
    assert found == judged(analysed(path))


@pytest.mark.slow
def test_a_scale_set_is_one_workload_of_a_rule() -> None:
    (flow, *_) = (row for row in export() if row["SrcVm"] == "rg-app/vm-app1" and row["FlowDirection"] == "Outbound")
    of_rule = {"AclRule": "userrule_of-the-test", "SrcNic": ""}
    rows = [flow | of_rule | {"MacAddress": f"00-00-5E-00-54-0{n}", "SrcVm": f"rg-app/webvmss_{n}"} for n in range(3)]
    rows += [flow | of_rule | {"MacAddress": "00-00-5E-00-54-09", "SrcVm": ""}, flow | of_rule | {"MacAddress": ""}]
    query = bound(
        (TOP / "kql" / "rule_usage.kql").read_text("utf-8"), dt.datetime(2026, 6, 15, tzinfo=dt.UTC), DAY_AFTER
    )
    (found,) = executed(query, rows)
    # The scale set, and the NIC that belongs to nothing known; a row without NIC tells of no workload.
    assert found["workloads"] == 2


PREFIX_LENGTHS = (0, 7, 8, 11, 12, 15, 16, 17, 24, 32)


@pytest.mark.slow
def test_an_endpoint_is_met_by_prefixes_of_every_length_and_by_no_other() -> None:
    addresses = ["20.118.99.224", "20.112.0.7", "203.0.113.9", "2603:1030:0:5::1", "2A01:111::7"]
    prefixes = [f"{ipaddress.ip_network(f'{one}/{n}', strict=False)}" for one in addresses[:2] for n in PREFIX_LENGTHS]
    lengths = (0, 12, 16, 20, 32, 64, 128)
    prefixes += [f"{ipaddress.ip_network(f'{one}/{n}', strict=False)}" for one in addresses[3:] for n in lengths]
    prefixes += ["203.0.113.9", "198.51.100.0/24", "20.119.0.0/16"]
    prefixes = list(dict.fromkeys(prefixes))
    endpoints = [f"p|global|{at}|required|TCP|443|address|{prefix}" for at, prefix in enumerate(prefixes)]
    row = next(r for r in export() if r["FlowDirection"] == "Outbound" and r["FlowStatus"] == "Allowed" and r["SrcIp"])
    rows = [
        row | {"SrcPublicIps": "", "DestIp": address, "DestPublicIps": "", "DestPort": 443, "L4Protocol": "TCP"}
        for address in addresses
    ]
    start = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
    query = bind(find_query("denied_egress"), start=start, end=start + dt.timedelta(days=1), endpoints=endpoints)
    found = {int(r["endpoint"]): r["dst_ip"] for r in executed(query, rows) if r["dst_ip"]}
    inside = {
        at: {one for one in addresses if ipaddress.ip_address(one) in ipaddress.ip_network(prefix)}
        for at, prefix in enumerate(prefixes)
    }
    assert {at: one in inside[at] for at, one in found.items()} == {at: True for at, held in inside.items() if held}
