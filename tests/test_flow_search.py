"""The flow tuples behind a row: filters against `ipaddress` and plain Python, and the ledger beside what was found."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from flowlens import schema
from flowlens.errors import ConfigError, SourceError
from flowlens.flow_search import FlowFilter, find_flows
from tests.flow_logs import CONTAINER, SAMPLE
from tests.make_logs import LATER, MACS, flow, vnet_log, write_blob

COLUMNS = schema.polars_schema(schema.FLOWS)
ADDRESSES = ("10.0.0.4", "10.0.1.4", "10.1.0.4", "203.0.113.7", "2001:db8::7", "2001:db8:1::7", "fd00::4")
PREFIXES = (*ADDRESSES, "10.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/48", "10.0.0.4/31")
RULES = ("UserRule_DenyKms", "DefaultRule_DenyAllInBound", "DenyKms", "PlatformRule", "UserRule_denykms")

flows = st.fixed_dictionaries(
    {
        "src_ip": st.sampled_from(ADDRESSES),
        "dst_ip": st.sampled_from(ADDRESSES),
        "dst_port": st.sampled_from((None, 0, 53, 443, 65535)),
        "protocol": st.sampled_from((1, 6, 17, 50)),
        "flow_state": st.sampled_from(("Begin", "Continuing", "End", "Deny", None)),
        "acl_rule": st.sampled_from((*RULES, None)),
    }
)


def some(values: tuple[Any, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=2).map(tuple)


filters = st.builds(
    FlowFilter,
    src=some(PREFIXES),
    dst=some(PREFIXES),
    ports=some((0, 53, 443, 65535)),
    protocol=st.sampled_from((None, "tcp", "UDP", "Icmp", "50", "6")),
    rule=st.sampled_from((None, *RULES, "denyallinbound", "none such")),
    state=st.sampled_from((None, "begin", "End", "DENY", "Continuing")),
)


def fits(row: dict[str, Any], wanted: FlowFilter) -> bool:
    """Whether a flow is selected, said in plain Python."""

    def within(address: str, prefixes: tuple[str, ...]) -> bool:
        nets = [ipaddress.ip_network(prefix, strict=False) for prefix in prefixes]
        return not nets or any(ipaddress.ip_address(address) in net for net in nets)

    numbers = {"tcp": 6, "udp": 17, "icmp": 1}
    protocol = wanted.protocol and numbers.get(wanted.protocol.lower(), wanted.protocol)
    names = {row["acl_rule"], (row["acl_rule"] or "").removeprefix("UserRule_").removeprefix("DefaultRule_")} - {
        None,
        "",
    }
    return (
        within(row["src_ip"], wanted.src)
        and within(row["dst_ip"], wanted.dst)
        and (not wanted.ports or row["dst_port"] in wanted.ports)
        and (protocol is None or row["protocol"] == int(protocol))
        and (wanted.rule is None or wanted.rule.lower() in {name.lower() for name in names})
        and (wanted.state is None or (row["flow_state"] or "").lower() == wanted.state.lower())
    )


@pytest.mark.slow
@given(st.lists(flows, max_size=12), filters)
def test_a_filter_selects_what_plain_python_selects(rows: list[dict[str, Any]], wanted: FlowFilter) -> None:
    table = pl.DataFrame([{**dict.fromkeys(COLUMNS), **row} for row in rows], schema=COLUMNS)
    found = wanted.within(table.lazy().filter(wanted.expression())).collect()
    assert found.select(list(rows[0]) if rows else []).to_dicts() == [row for row in rows if fits(row, wanted)]


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        (FlowFilter(protocol="tpc"), "tcp"),
        (FlowFilter(state="denied"), "Deny"),
        (FlowFilter(src=("10.0.0.0/33",)), ""),
        (FlowFilter(dst=("example.org",)), ""),
        (FlowFilter(dst=("",)), ""),
        (FlowFilter(ports=(443, 65_536)), ""),
        (FlowFilter(ports=(-1,)), ""),
        (FlowFilter(protocol="256"), ""),
    ],
    ids=str,
)
def test_a_filter_that_names_nothing_known_is_refused(wanted: FlowFilter, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        wanted.expression()
    assert hint in raised.value.hint


@pytest.fixture(scope="module")
def sample() -> fl.Scan:
    return fl.scan(SAMPLE / CONTAINER, now=LATER)


def test_without_a_filter_all_flows_are_found_in_order(sample: fl.Scan) -> None:
    found, ledger = find_flows(sample, FlowFilter())
    assert found.schema == COLUMNS
    assert found.height == ledger.rows == 1752
    assert found.equals(sample.flows.collect().sort(list(COLUMNS), nulls_last=True))


def test_the_evidence_behind_a_denied_row(sample: fl.Scan) -> None:
    table = fl.denied_egress(sample, profiles=["windows-kms"]).collect()
    (row,) = table.filter(pl.col("status") == "Denied").to_dicts()
    wanted = FlowFilter(src=("10.10.3.5",), dst=("20.118.99.224", "40.83.235.53"), ports=(1688,), rule=row["acl_rule"])
    found, _ = find_flows(sample, wanted)
    assert found.height == row["attempts"] > 0
    assert set(found["flow_state"]) == {"Deny"}


def test_rejects_and_unread_files_are_counted(tmp_path: Path) -> None:
    write_blob(tmp_path, MACS[1], [flow("10.0.0.4", "10.0.0.5", 443), "not a flow tuple"])
    write_blob(tmp_path, MACS[2]).write_bytes(b"\x1f\x8b\x08\x00")
    found, ledger = find_flows(fl.scan(tmp_path, now=LATER), FlowFilter(dst=("192.0.2.1",)))
    assert found.is_empty() and found.schema == COLUMNS
    assert (ledger.rows, ledger.rejected, ledger.unread) == (1, 1, 1)
    assert not ledger.complete


def test_a_source_without_flow_tuples_says_so() -> None:
    with pytest.raises(SourceError, match="keeps no flow tuples"):
        find_flows(fl.scan(SAMPLE / "traffic_analytics" / "ntanetanalytics.json"), FlowFilter())


def test_scope_takes_both_ends_and_keeps_vnets_apart(tmp_path: Path) -> None:
    # The same two addresses are used in two VNets; in the first one only the destination's NIC is logged.
    there = flow("10.0.0.5", "10.0.0.4", 443, "I", src_port=1025)
    write_blob(tmp_path, MACS[1], [there, flow("10.0.0.4", "203.0.113.7", 443)], log=vnet_log("vnet-a"))
    back = [flow("10.0.0.5", "10.0.0.4", 443, src_port=1026), flow("10.0.0.5", "203.0.113.8", 443)]
    write_blob(tmp_path, MACS[2], back, log=vnet_log("vnet-b"))
    other = [flow("10.0.0.5", "10.0.0.4", 443, "I", src_port=1026), flow("10.0.0.4", "203.0.113.9", 443)]
    write_blob(tmp_path, MACS[3], other, log=vnet_log("vnet-b"))
    scan = fl.scan(tmp_path, now=LATER)

    def found(**scope: tuple[str, ...]) -> list[tuple[str, str, str]]:
        rows, ledger = find_flows(scan, FlowFilter(), fl.Scope(**scope))
        assert ledger.rows == 6 and rows.schema == COLUMNS
        return sorted(rows.select("mac_address", "src_ip", "dst_ip").rows())

    a = [(MACS[1], "10.0.0.4", "203.0.113.7"), (MACS[1], "10.0.0.5", "10.0.0.4")]
    b2 = [(MACS[2], "10.0.0.5", "10.0.0.4"), (MACS[2], "10.0.0.5", "203.0.113.8")]
    b3 = [(MACS[3], "10.0.0.4", "203.0.113.9"), (MACS[3], "10.0.0.5", "10.0.0.4")]
    assert found(vnets=("vnet-a",)) == found(nics=(MACS[1],)) == a
    assert found(vnets=("vnet-b",)) == b2 + b3
    # The flow between the two is in scope at either of its NICs, whichever logged it.
    assert found(nics=(MACS[2],)) == [*b2, b3[1]]
    assert found(nics=(MACS[3],)) == [b2[0], *b3]
    with pytest.raises(ConfigError, match="names nothing"):
        found(vnets=("vnet-c",))
