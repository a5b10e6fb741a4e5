"""The truth generator agrees with itself: what it writes, what it says was written, and what it expects."""

from __future__ import annotations

import ast
import dataclasses
import ipaddress
import json
import random
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from tests.truth import Settings, Truth, generate
from tests.truth.blobs import HOUR, PLAIN, Blobs, signs
from tests.truth.expected import HOP_ONLY, Expected, expect, judge, key_of, weigh
from tests.truth.traffic import FlowTuple, World

SEEDS = range(20)
COUNTERS = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")
COMPLETE = {
    "forwarders": False,
    "unlogged": False,
    "late_start": False,
    "gaps": False,
    "deletions": False,
}


@cache
def truth_of(seed: int) -> Truth:
    return generate(seed)


def read_back(folder: Path) -> list[dict[str, object]]:
    """Every written tuple with the blob, record and rule it stands in, as the JSON text has it."""
    rows = []
    for path in sorted(folder.rglob("PT1H.json")):
        for record in json.loads(path.read_text())["records"]:
            for flow in record["flowRecords"]["flows"]:
                for group in flow["flowGroups"]:
                    for text in group["flowTuples"]:
                        fields = text.split(",")
                        assert len(fields) == 13
                        rows.append({"path": path, "record": record, "rule": group["rule"], "fields": fields})
    return rows


def ms(moment: object) -> int:
    return int(moment.timestamp() * 1000)  # type: ignore[attr-defined]


def gaps_of(truth: Truth) -> set[tuple[str, int]]:
    """(flow log, hour) of the window without a blob of any NIC."""
    hours = {row.hour for row in truth.expected.coverage}
    written = {(log_id, hour) for log_id, _, hour in truth.blobs.entries}
    return {(log.id, hour) for log in truth.topology.flow_logs for hour in hours} - written


def world_of(truth: Truth) -> World:
    """The world of a truth, as far as expecting needs it."""
    hours = [hour for _, _, hour in truth.blobs.entries]
    return World(random.Random(0), truth.settings, truth.topology, min(hours), max(hours) + HOUR)


def test_it_imports_nothing_from_flowlens():
    files = sorted((Path(__file__).parent / "truth").glob("*.py"))
    assert len(files) > 3
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "flowlens" for name in names), file


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path):
    for name in ("one", "two"):
        truth = generate(12)
        truth.write_blobs(tmp_path / name)
        truth.write_traffic_analytics(tmp_path / name / "rows.json")
        truth.write_expected(tmp_path / name / "expected.json")
    one, two = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.json")} for n in ("one", "two")
    )
    assert one == two
    assert generate(13).document()["expected"] != generate(12).document()["expected"]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_is_what_was_said_to_be_observed(seed, tmp_path):
    truth = truth_of(seed)
    truth.write_blobs(tmp_path)
    rows = read_back(tmp_path)
    written = Counter(
        (r["record"]["flowLogResourceID"], r["record"]["targetResourceID"], r["record"]["macAddress"], r["path"])
        for r in rows
    )
    observed = {(o.flow_log_id, o.target_resource_id, o.mac_address, o.hour): o.tuples for o in truth.expected.observed}
    assert sorted(written.values()) == sorted(observed.values())
    assert {key[:3] for key in written} == {key[:3] for key in observed}
    for place, name in enumerate(COUNTERS, 9):
        assert sum(int(r["fields"][place] or 0) for r in rows) == truth.expected.totals[name]
    inside = [r for r in rows if ms(truth.start) <= int(r["fields"][0]) < ms(truth.end)]
    assert len(inside) == truth.expected.tuples_in_window


@pytest.mark.parametrize("seed", SEEDS)
def test_a_record_stands_in_the_blob_of_its_hour_and_holds_the_minute_before(seed, tmp_path):
    truth = truth_of(seed)
    truth.write_blobs(tmp_path)
    for row in read_back(tmp_path):
        record, parts = row["record"], row["path"].parts
        flushed = record["time"]
        assert parts[-1] == "PT1H.json"
        assert parts[-2] == f"macAddress={record['macAddress']}"
        year, month, day, hour = flushed[:4], flushed[5:7], flushed[8:10], flushed[11:13]
        assert parts[-7:-2] == (f"y={year}", f"m={month}", f"d={day}", f"h={hour}", "m=00")
        second = int(flushed[17:19]) * 1000 + int(flushed[20:23])
        age = (second - int(row["fields"][0]) % 60_000) % 60_000
        assert flushed.endswith("0000Z")
        assert 0 <= age < 60_000


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_traffic_analytics_hold_the_same_traffic(seed, tmp_path):
    truth = truth_of(seed)
    count = truth.write_traffic_analytics(tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert count == len(rows)
    columns = ("PacketsSrcToDest", "BytesSrcToDest", "PacketsDestToSrc", "BytesDestToSrc")
    for column, name in zip(columns, COUNTERS, strict=True):
        assert sum(row[column] for row in rows) == truth.expected.totals[name]
    for row in rows:
        for side in ("Src", "Dest"):
            assert bool(row[f"{side}Ip"]) != bool(row[f"{side}PublicIps"])
            entries = [[int(n) for n in e.split("|")[1:]] for e in row[f"{side}PublicIps"].split(" ") if e]
            if entries:
                started, ended, *traffic = (sum(column) for column in zip(*entries, strict=True))
                kinds = ("AllowedInFlows", "DeniedInFlows", "AllowedOutFlows", "DeniedOutFlows")
                assert started == sum(row[kind] for kind in kinds)
                assert ended == row["CompletedFlows"]
                assert traffic == [
                    row[c] for c in ("PacketsSrcToDest", "PacketsDestToSrc", "BytesSrcToDest", "BytesDestToSrc")
                ]


@pytest.mark.parametrize("seed", SEEDS)
def test_where_every_log_is_complete_each_flow_counts_at_its_source(seed, tmp_path):
    truth = generate(seed, **COMPLETE, vnets=1, extra_logs=False)
    truth.write_blobs(tmp_path)
    own = {address: row["mac"] for row in truth.inventory for address in [row["address"]]}
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0] * 6)
    for row in read_back(tmp_path):
        _, src, dst, src_port, port, protocol, _, state, _, *counters = row["fields"]
        time = int(row["fields"][0])
        if own.get(src, row["record"]["macAddress"]) != row["record"]["macAddress"]:
            continue
        if not ms(truth.start) <= time < ms(truth.end):
            continue
        if src_port and int(src_port) < 1024 and int(port) >= 32_768:
            port = ""
        found = sums[src, dst, f"{port}/{protocol}"]
        for i, value in enumerate([state == "B", state == "D", *(int(c or 0) for c in counters)]):
            found[i] += value
    assert {
        (c.src_ip, c.dst_ip, f"{'' if c.dst_port is None else c.dst_port}/{c.protocol}"): [
            c.flows_started,
            c.flows_denied,
            *(getattr(c, name) for name in COUNTERS),
        ]
        for c in truth.expected.counted
    } == dict(sums)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pair_encrypts_as_its_tuples_in_the_window_say(seed, tmp_path):
    truth = generate(seed, **COMPLETE, vnets=1)
    truth.write_blobs(tmp_path)
    own = {row["address"] for row in truth.inventory}
    codes = defaultdict(set)
    for row in read_back(tmp_path):
        time, src, dst, _, _, _, _, state, code, *_ = row["fields"]
        dropped = state == "D" and row["rule"] == "unspecified"
        if {src, dst} <= own and ms(truth.start) <= int(time) < ms(truth.end) and (state in "CE" or dropped):
            codes[src, dst].add(f"drop:{code}" if dropped else code)
    uncertain = {(src, dst) for _, src, _, dst in truth.expected.encryption_uncertain}
    assert {(p.src_ip, p.dst_ip): p.status for p in truth.expected.encryption} == {
        pair: weigh(found) for pair, found in codes.items() if pair not in uncertain
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_a_second_flow_log_on_a_nic_changes_nothing_that_counts(seed):
    plain, doubled = (generate(seed, **COMPLETE, extra_logs=on, window=False) for on in (False, True))
    for truth in (plain, doubled):
        owned = {mac for log in truth.topology.flow_logs for mac in log.macs}
        assert owned == {nic.mac for nic in truth.topology.nics}
        per_source: Counter[str] = Counter()
        for flow in truth.flows:
            view = flow.views[0]
            assert view.role == ("source" if flow.src.nic else "destination")
            per_source.update(packets=sum(t.packets_sent for t in view.tuples), tuples=len(view.tuples))
        assert sum(c.packets_sent for c in truth.expected.counted) == per_source["packets"]
        assert sum(c.flow_tuples for c in truth.expected.counted) == per_source["tuples"]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_counted_more_often_than_it_was_written(seed):
    truth = truth_of(seed)
    expected = truth.expected
    assert sum(c.flow_tuples for c in expected.counted) <= expected.tuples_in_window
    for name in COUNTERS:
        assert sum(getattr(c, name) for c in expected.counted) <= expected.totals[name]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_written_pair_is_counted_unless_a_covered_place_hides_it(seed):
    """A written view is missing from what counts only if a preferred place had the hour and did not show the flow."""
    truth = truth_of(seed)
    keys = {(c.src_vnet, c.src_ip, c.dst_vnet, c.dst_ip, c.protocol) for c in truth.expected.counted}
    start, end = ms(truth.start), ms(truth.end)
    covered = {(mac, hour) for _, mac, hour in truth.blobs.entries}
    for flow in truth.flows:
        key = (flow.src.vnet, flow.src.address, flow.dst.vnet, flow.dst.address, flow.protocol)
        if key in keys:
            continue
        nics = [end.nic for end in (flow.src, flow.dst) if end.nic]
        for view in flow.views:
            for log in truth.topology.logs_of(view.nic.mac):
                for _, row in truth.blobs.written(view, log.id):
                    if view.role in ("hop out", "reply") or not start <= row.time < end:
                        continue
                    assert any((nic.mac, row.time - row.time % HOUR) in covered for nic in nics)


@pytest.mark.parametrize("seed", SEEDS)
def test_coverage_says_what_the_blobs_show(seed, tmp_path):
    truth = truth_of(seed)
    truth.write_blobs(tmp_path)
    rows = read_back(tmp_path)
    vnet = {row["mac"]: row["vnet"] for row in truth.inventory}
    addresses = defaultdict(set)
    for row in truth.inventory:
        addresses[row["mac"]].add(row["address"])
    mentioned, mentioned_near = set(), set()
    for row in rows:
        time, src, dst = int(row["fields"][0]), *row["fields"][1:3]
        writer = row["record"]["macAddress"]
        for address in (src, dst):
            if address not in addresses[writer]:
                mentioned.add((address, time - time % HOUR))
                mentioned_near.add((vnet[writer], address, time - time % HOUR))
    written = {(o.flow_log_id, o.mac_address, o.hour): o.tuples for o in truth.expected.observed}
    in_log = {(log, hour) for log, _, hour in written}
    for row in truth.expected.coverage:
        key = (row.flow_log_id, row.mac_address, row.hour)
        assert (row.state == "read") == (key in written)
        assert row.tuples == written.get(key, 0)
        if row.state == "silent":
            assert (row.flow_log_id, row.hour) in in_log
            assert not any((vnet[row.mac_address], a, row.hour) in mentioned_near for a in addresses[row.mac_address])
        if row.state == "missing" and (row.flow_log_id, row.hour) in in_log:
            assert any((a, row.hour) in mentioned for a in addresses[row.mac_address])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_state_of_coverage_hangs_on_the_edge_of_an_hour(seed):
    truth = truth_of(seed)
    plain, any_sign = signs(truth.blobs, (ms(truth.start), ms(truth.end)))
    gaps = gaps_of(truth)
    for row in truth.expected.coverage:
        if row.state != "read" and (row.flow_log_id, row.hour) not in gaps:
            assert ((row.mac_address, row.hour) in plain) == ((row.mac_address, row.hour) in any_sign)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_network_obeys_azure(seed):
    topology = truth_of(seed).topology
    owned = Counter((nic.vnet.id, address) for nic in topology.nics for address in nic.addresses)
    assert max(owned.values()) == 1
    assert len({nic.mac for nic in topology.nics}) == len(topology.nics)
    assert len({log.id for log in topology.flow_logs}) == len(topology.flow_logs)
    octet = {vnet.id: vnet.octet for vnet in topology.vnets}
    for vnet in topology.vnets:
        near = [octet[other] for pair in topology.peerings if vnet.id in pair for other in pair - {vnet.id}]
        assert len({vnet.octet, *near}) == 1 + len(near)
    for nic in topology.nics:
        assert not (nic.forwarder and nic.via)
        assert nic.via is None or topology.by_mac[nic.via].forwarder
        for address in nic.addresses:
            assert str(ipaddress.ip_address(address)) == address


@pytest.mark.parametrize("seed", SEEDS)
def test_forwarders_write_the_forward_leg_without_replies_and_the_replies_apart(seed):
    for flow in truth_of(seed).flows:
        hop = [view for view in flow.views if view.role in ("hop", "hop out")]
        for view in hop:
            assert view.nic.forwarder
            assert not any(t.packets_received for t in view.tuples)
            assert flow.src_port >= 32_768 > 1024 > flow.dst_port
        for view in flow.views:
            if view.role == "reply":
                assert (view.src, view.src_port, view.dst_port) == (flow.dst, flow.dst_port, flow.src_port)
                assert {t.time for t in view.tuples} == {t.time for t in hop[0].tuples}
        if flow.after_nat:
            assert flow.src.nic
            assert flow.src.nic.nat
            assert flow.dst.public


def without(truth: Truth, mac: str, hours: set[int] | None = None) -> Expected:
    """What to expect once the blobs of a NIC are gone, in these hours or in all."""

    def gone(key: tuple[str, str, int]) -> bool:
        return key[1] == mac and (hours is None or key[2] in hours)

    blobs = Blobs({key: found for key, found in truth.blobs.entries.items() if not gone(key)})
    for (log_id, _, _), entries in blobs.entries.items():
        for entry in entries:
            blobs.places.setdefault(id(entry.view), {}).setdefault(log_id, []).append((entry.index, entry.tuple))
    return expect(world_of(truth), list(truth.flows), blobs, (ms(truth.start), ms(truth.end)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_hour_at_the_source_counts_at_the_destination(seed):
    truth = generate(seed, **COMPLETE, extra_logs=False, late_records=False, window=False)
    _, mac, gone = sorted(truth.blobs.entries)[seed % len(truth.blobs.entries)]
    expected = without(truth, mac, {gone})
    sent: Counter[tuple[object, ...]] = Counter()
    for flow in truth.flows:
        for view in flow.views:
            for row in view.tuples:
                absent = row.time - row.time % HOUR == gone
                source = flow.src.nic and not (absent and flow.src.nic.mac == mac)
                if (view.role == "source" and source) or (
                    view.role == "destination" and not source and not (absent and view.nic.mac == mac)
                ):
                    sent[key_of(flow)] += row.bytes_sent
    found = {(c.src_vnet, c.src_ip, c.dst_vnet, c.dst_ip, c.dst_port, c.protocol): c for c in expected.counted}
    assert {key: c.bytes_sent for key, c in found.items() if c.bytes_sent} == {k: n for k, n in sent.items() if n}


@pytest.mark.slow
def test_egress_of_a_nic_without_a_log_is_known_from_the_hop_alone():
    judged = 0
    for seed in range(30):
        truth = generate(seed, **(COMPLETE | {"forwarders": True}), late_records=False, window=False)
        through = {
            (flow.src.address, flow.dst.address, flow.src.nic.mac)
            for flow in truth.flows
            for view in flow.views
            if view.role == "hop" and flow.dst.public and flow.src.nic
        }
        for mac in sorted({mac for _, _, mac in through})[:1]:
            before = {(e.src_ip, e.dst_ip): e.status for e in truth.expected.egress}
            after = {(e.src_vnet, e.src_ip, e.dst_ip): e.status for e in without(truth, mac).egress}
            nic = truth.topology.by_mac[mac]
            for address in nic.addresses:
                for dst in {dst for _, dst in before}:
                    status = after.get((nic.vnet.id, address, dst))
                    assert status == (HOP_ONLY if (address, dst, mac) in through else None)
                    judged += status == HOP_ONLY
    assert judged > 3


def tuples(*states: str) -> list[FlowTuple]:
    """Tuples a second apart: a state, and ``+`` answered, ``~`` hardly answered, ``-`` unanswered."""
    counters = {"+": (5, 400, 6, 9_000), "~": (5, 400, 1, 120), "-": (5, 400, 0, 0), "": (0, 0, 0, 0)}
    return [FlowTuple(i * 1000, s[0], "NX", *counters[s[1:]]) for i, s in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["B"], "Pending"),
        (["B", "E-"], "Unanswered"),
        (["B", "E-", "B", "E+"], "Reached"),
        (["B", "E+", "B", "E-"], "Reached"),
        (["B", "E~"], "Answered without data"),
        (["D", "D"], "Denied"),
        (["D", "B", "C+", "E-"], "Recovered"),
        (["B", "E+", "D"], "Partly denied"),
        (["D", "B", "E+", "D"], "Partly denied"),
        (["C+"], "Reached"),
    ],
)
def test_a_required_endpoint_is_judged_as_the_rules_say(states, status):
    assert judge(tuples(*states), 443) == status


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["B", "E~"], "Reached"),
        (["D", "B", "E~"], "Recovered"),
        (["B", "E~", "D"], "Partly denied"),
        (["B", "E-"], "Unanswered"),
    ],
)
def test_any_reply_is_an_answer_where_no_tls_is_spoken(states, status):
    assert judge(tuples(*states), 1688) == status


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        (["X"], "Encrypted"),
        (["NX"], "Unencrypted"),
        (["NX_LOCAL_DST"], "Unencrypted"),
        (["X", "NX_LOCAL_DST"], "Encrypted"),
        (["NX_LOCAL_DST", "drop:NX"], "Dropped"),
        (["X", "NX_FALLBACK"], "Mixed"),
        (["X", "drop:NX"], "Mixed"),
        (["drop:NX_NOT_ACCEPTED"], "Dropped"),
    ],
)
def test_the_worst_view_of_a_pair_wins(codes, status):
    assert weigh(codes) == status


def test_the_generator_invents_everything_it_is_there_for():
    wanted = {
        *("ranges reused", "peerings", "unlogged", "one NIC", "over twenty NICs", "logged three times", "late start"),
        *(
            "deleted",
            "restarted",
            "denied at destination",
            "between VNets",
            "low source port",
            "two hours by two clocks",
        ),
        *("tuples of the hour before", "coverage gap", "coverage read", "coverage silent", "coverage missing"),
        *(f"egress {s}" for s in ("Reached", "Recovered", "Partly denied", "Denied", "Unanswered", "Pending")),
        *("egress Answered without data", f"egress {HOP_ONLY}"),
        *(f"encryption {s}" for s in ("Encrypted", "Unencrypted", "Mixed", "Dropped")),
        *(f"counted at {s}" for s in ("source", "destination", "hop", "destination+source", "hop+source")),
        *(f"protocol {n}" for n in (1, 6, 17, 58)),
        *(f"view {r}" for r in ("source", "destination", "hop", "hop out", "reply")),
        *("rule PlatformRule", "rule unspecified", "rule UserRule", "rule DefaultRule"),
        *(f"code {c}" for c in ("X", "NX", "NX_LOCAL_DST", "NX_FALLBACK", "NX_NOT_ACCEPTED")),
    }
    seen: Counter[str] = Counter()
    for seed in range(120):
        # The first thirty or so have it all.
        if all(seen[name] for name in wanted):
            break
        truth = truth_of(seed) if seed in SEEDS else generate(seed)
        topology, expected = truth.topology, truth.expected
        ranges = Counter(vnet.octet for vnet in topology.vnets)
        seen["ranges reused"] += max(ranges.values()) > 1
        seen["peerings"] += bool(topology.peerings)
        seen["unlogged"] += any(not nic.logged for nic in topology.nics)
        seen["one NIC"] += len(topology.nics) == 1
        seen["over twenty NICs"] += len(topology.nics) > 20
        seen["logged three times"] += any(len(topology.logs_of(nic.mac)) == 3 for nic in topology.nics)
        seen["late start"] += any(log.starts > ms(truth.start) for log in topology.flow_logs)
        seen["deleted"] += bool(truth.blobs.deleted)
        seen["restarted"] += expected.restarted
        seen["denied at destination"] += len(expected.denied_at_destination)
        gaps = gaps_of(truth)
        for row in expected.coverage:
            gap = row.state == "missing" and (row.flow_log_id, row.hour) in gaps
            seen[f"coverage {'gap' if gap else row.state}"] += 1
        for row in expected.egress:
            seen[f"egress {row.status}"] += 1
        for row in expected.encryption:
            seen[f"encryption {row.status}"] += 1
        for row in expected.counted:
            seen[f"counted at {'+'.join(row.roles)}"] += 1
            seen[f"protocol {row.protocol}"] += 1
            seen["between VNets"] += row.src_vnet != row.dst_vnet and None not in (row.src_vnet, row.dst_vnet)
            assert not row.ambiguous
        for flow in truth.flows:
            seen["low source port"] += flow.src_port is not None and flow.src_port < 1024 and flow.dst_port == 40_000
            hours = {
                v.role: [t.time // HOUR for t in v.tuples] for v in flow.views if v.role in ("source", "destination")
            }
            seen["two hours by two clocks"] += len(hours) == 2 and len({tuple(h) for h in hours.values()}) == 2
            for view in flow.views:
                seen[f"view {view.role}"] += 1
                seen[f"rule {view.acl_rule.split('_')[0]}"] += 1
                for flow_tuple in view.tuples:
                    seen[f"code {flow_tuple.code}"] += 1
        for (_, _, hour), entries in truth.blobs.entries.items():
            seen["tuples of the hour before"] += any(entry.tuple.time < hour for entry in entries)
    assert {name for name in wanted if not seen[name]} == set()


def test_switches_turn_features_off():
    off = {f.name: False for f in dataclasses.fields(Settings) if f.type == "bool"}
    for seed in range(15):
        truth = generate(seed, **off)
        expected = truth.expected
        assert all(len(truth.topology.logs_of(nic.mac)) == 1 for nic in truth.topology.nics)
        assert {row.state for row in expected.coverage} <= {"read", "silent"}
        assert {view.role for flow in truth.flows for view in flow.views} <= {"source", "destination"}
        assert {t.code for flow in truth.flows for view in flow.views for t in view.tuples} == {"NX"}
        assert {row.protocol for row in expected.counted} <= {6, 17}
        assert expected.restarted == 0
        assert expected.tuples_in_window == expected.totals["tuples"]
        assert not expected.egress
        assert all(entry.tuple.time >= hour for (_, _, hour), found in truth.blobs.entries.items() for entry in found)


@pytest.mark.slow
def test_ambiguous_pairs_are_invented_on_demand_and_labelled():
    labelled = [row for seed in range(40) for row in generate(seed, ambiguous=True).expected.counted if row.ambiguous]
    assert labelled
    assert all(row.src_vnet != row.dst_vnet for row in labelled)


def test_a_plain_sign_is_never_within_reach_of_the_flush():
    assert PLAIN[0] > 200
    assert HOUR - PLAIN[1] > 63_000 + 400
