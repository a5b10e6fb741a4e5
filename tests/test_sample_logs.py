"""The sample logs agree with themselves: made anew they are the same, and a plain recount gives their answers."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "sample_logs"
EXPECTED = json.loads((FOLDER / "expected.json").read_text("utf-8"))
PUBLIC_COLUMNS = ("SrcPublicIps", "DestPublicIps")
# The words of Traffic Analytics, from Microsoft Learn "Traffic analytics schema", 05/2024.
CODE_OF_WORD = {
    "Encrypted": "X",
    "Unencrypted": "NX",
    "Unsupported hardware": "NX_HW_NOT_SUPPORTED",
    "Software not ready": "NX_SW_NOT_READY",
    "Drop due to no encryption": "NX_NOT_ACCEPTED",
    "Discovery not supported": "NX_NOT_SUPPORTED",
    "Destination on same host": "NX_LOCAL_DST",
    "Fall back to no encryption": "NX_FALLBACK",
}


class Tuple(NamedTuple):
    mac: str
    acl: str
    rule: str
    time: int
    src: str
    dst: str
    src_port: str
    dst_port: str
    protocol: str
    direction: str
    state: str
    code: str
    counters: tuple[int, int, int, int]

    @property
    def hour(self) -> str:
        return f"{dt.datetime.fromtimestamp(self.time // 3_600_000 * 3600, dt.UTC):%Y-%m-%dT%H:%M:%S.000Z}"

    @property
    def moment(self) -> str:
        return f"{dt.datetime.fromtimestamp(self.time // 1000, dt.UTC):%Y-%m-%dT%H:%M:%S}.{self.time % 1000:03d}Z"

    @property
    def both_ways(self) -> int:
        return self.counters[1] + self.counters[3]


def blob_paths() -> list[Path]:
    return sorted(FOLDER.glob("insights-logs-flowlogflowevent/**/PT1H.json"))


@pytest.fixture(scope="module")
def records() -> list[dict]:
    return [record for path in blob_paths() for record in json.loads(path.read_bytes())["records"]]


@pytest.fixture(scope="module")
def tuples(records: list[dict]) -> list[Tuple]:
    rows = []
    for record in records:
        for flow in record["flowRecords"]["flows"]:
            for group in flow["flowGroups"]:
                for text in group["flowTuples"]:
                    time, *head, sent, sent_bytes, received, received_bytes = text.split(",")
                    counters = (int(sent), int(sent_bytes), int(received), int(received_bytes))
                    rows.append(Tuple(record["macAddress"], flow["aclID"], group["rule"], int(time), *head, counters))
    return rows


@pytest.fixture(scope="module")
def analytics() -> list[dict]:
    return json.loads((FOLDER / "traffic_analytics" / "ntanetanalytics.json").read_bytes())


@pytest.fixture(scope="module")
def owners() -> dict[str, dict[str, str]]:
    with (FOLDER / "inventory.csv").open(encoding="utf-8", newline="") as file:
        return {row["address"]: row for row in csv.DictReader(file)}


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "generate.py"
    return subprocess.run([sys.executable, "-B", str(script), "--check"], capture_output=True, text=True, check=False)


def test_files_regenerate_identically() -> None:
    done = check(FOLDER)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_names_what_differs(tmp_path: Path) -> None:
    copy = tmp_path / "sample_logs"
    shutil.copytree(FOLDER, copy)
    changed, removed, *_ = (copy / path.relative_to(FOLDER) for path in blob_paths())
    changed.write_bytes(changed.read_bytes().replace(b'"records"', b'"Records"'))
    removed.unlink()
    added = removed.parent / "PT2H.json"
    added.write_bytes(b"{}")
    done = check(copy)
    names = {path.relative_to(copy).as_posix() for path in (changed, removed, added)}
    assert done.returncode == 1
    assert set(done.stderr.splitlines()) == {f"differs: {name}" for name in names}


def test_script_needs_the_standard_library_alone() -> None:
    own = {path.stem for path in FOLDER.glob("*.py")}
    imported = {
        name.split(".")[0]
        for path in FOLDER.glob("*.py")
        for name in re.findall(r"^(?:from|import) ([\w.]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert own < imported | own
    assert imported - own <= sys.stdlib_module_names


def test_size_stays_below_2_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 2_000_000


def test_records_stand_in_the_blob_of_their_hour_and_nic() -> None:
    name = re.compile(r"/flowLogResourceID=/[^/]+/[^/]+/y=2026/m=06/d=15/h=(\d\d)/m=00/macAddress=([0-9A-F]{12})/PT1H")
    for path in blob_paths():
        hour, mac = name.search(path.as_posix()).groups()
        for record in json.loads(path.read_bytes())["records"]:
            assert (record["time"][:13], record["macAddress"]) == (f"2026-06-15T{hour}", mac)
            assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{7}Z", record["time"])


def test_records_have_the_key_order_of_real_blobs(records: list[dict]) -> None:
    keys = "time flowLogGUID macAddress category flowLogResourceID targetResourceID flowLogVersion operationName flowRecords"
    assert {" ".join(record) for record in records} == {keys}


def test_tuples_are_older_than_their_record_by_at_most_65_seconds(records: list[dict]) -> None:
    for record in records:
        written = dt.datetime.fromisoformat(record["time"]).timestamp()
        for flow in record["flowRecords"]["flows"]:
            for group in flow["flowGroups"]:
                ages = [written - int(text.split(",")[0]) / 1000 for text in group["flowTuples"]]
                assert min(ages) >= 3
                assert max(ages) <= 65


def test_totals_agree_with_a_recount(records: list[dict], tuples: list[Tuple], analytics: list[dict]) -> None:
    totals = EXPECTED["totals"]
    assert totals["blobs"] == len(blob_paths())
    assert totals["records"] == len(records)
    assert totals["tuples"] == len(tuples)
    assert totals["tuples_by_state"] == Counter(t.state for t in tuples)
    assert totals["tuples_by_code"] == Counter(t.code for t in tuples)
    assert totals["traffic_analytics_rows"] == len(analytics)
    assert list(totals["observed"].values()) == [sum(t.counters[i] for t in tuples) for i in range(4)]


def test_every_state_code_direction_and_shape_is_there(tuples: list[Tuple]) -> None:
    assert {t.state for t in tuples} == set("BCED")
    assert {t.code for t in tuples} == set(CODE_OF_WORD.values())
    assert {t.direction for t in tuples} == set("IO")
    assert {t.protocol for t in tuples} == {"1", "6", "17"}
    assert {t.src_port == "" and t.dst_port == "" for t in tuples if t.protocol == "1"} == {True}
    assert any(":" in t.dst and t.direction == "O" and t.counters[2] for t in tuples)
    assert any((t.acl, t.rule, t.state) == ("unspecified", "unspecified", "D") for t in tuples)
    assert any((t.src, t.src_port, t.rule) == ("40.80.44.0", "23456", "PlatformRule") for t in tuples)
    assert all(t.counters == (0, 0, 0, 0) for t in tuples if t.state in "BD")
    assert any(count > 1 for count in Counter(t for t in tuples if t.state == "D").values())


def test_one_flow_restarts_in_the_same_millisecond(tuples: list[Tuple]) -> None:
    flows = defaultdict(list)
    for t in tuples:
        flows[t.mac, t.src, t.src_port, t.dst, t.dst_port, t.protocol].append(t)
    pairs = [
        (first, second)
        for flow in flows.values()
        for first, second in pairwise(flow)
        if (first.state, second.state, first.time) == ("E", "B", second.time)
    ]
    assert len(pairs) == EXPECTED["totals"]["restarted"]
    ended = [t for t in tuples if t.src_port == pairs[0][0].src_port and t.dst == pairs[0][0].dst and t.state == "E"]
    # The later E is smaller, so nothing of it can be a running total and no byte is in doubt.
    assert all(later < former for former, later in zip(*(t.counters for t in ended), strict=True))
    assert EXPECTED["totals"]["bytes_in_doubt"] == 0


def test_coverage_names_the_silent_and_the_missing_hour(tuples: list[Tuple], owners: dict) -> None:
    macs = {row["mac_address"]: row["workload"] for row in owners.values() if row["mac_address"]}
    read = Counter((re.search("/h=(..)/", str(p.as_posix()))[1], p.parent.name.split("=")[1]) for p in blob_paths())
    hours = {hour for hour, _ in read}
    absent = {(hour, mac) for hour in hours for mac in macs} - set(read)
    addresses = defaultdict(set)
    for address, row in owners.items():
        addresses[row["mac_address"]].add(address)
    found = {"silent": [], "missing": []}
    for hour, mac in absent:
        start = f"2026-06-15T{hour}:00:00.000Z"
        seen = any(t.hour == start and {t.src, t.dst} & addresses[mac] for t in tuples if t.mac != mac)
        found["missing" if seen else "silent"].append({"workload": macs[mac], "mac_address": mac, "hour": start})
    assert EXPECTED["coverage"] == {"nic_hours": len(hours) * len(macs), "read": len(read), **found}


def counted_once(tuples: list[Tuple], owners: dict) -> list[Tuple]:
    """The source's view, save in the one missing hour, of which the other end tells."""
    (missing,) = EXPECTED["coverage"]["missing"]
    nics = {address: row["mac_address"] for address, row in owners.items() if row["kind"] == "nic"}

    def logs(address: str, hour: str) -> bool:
        return address in nics and (nics[address], hour) != (missing["mac_address"], missing["hour"])

    return [t for t in tuples if (t.direction == "O" or not logs(t.src, t.hour)) and not is_reply(t)]


def is_reply(t: Tuple) -> bool:
    """The way back of a flow of vm-app1 to storage, logged as a row of its own; it is no flow."""
    return (t.src, t.src_port, t.rule) == ("20.60.172.11", "443", "PlatformRule")


def test_each_flow_counts_once(tuples: list[Tuple], owners: dict) -> None:
    once = counted_once(tuples, owners)
    sums = [sum(t.counters[i] for t in once) for i in range(4)]
    assert list(EXPECTED["totals"]["counted_once"].values()) == [len(once), *sums]
    assert len(once) < len(tuples)


def test_receivers_count_44_bytes_a_packet_more(tuples: list[Tuple]) -> None:
    views = defaultdict(dict)
    for t in tuples:
        if t.state == "E":
            views[t.src, t.src_port, t.dst, t.dst_port, t.protocol, t.code, t.time // 1000][t.direction] = t.counters
    pairs = [view for view in views.values() if len(view) == 2]
    assert len(pairs) > 50
    for view in pairs:
        (out_sent, out_sent_bytes, out_received, out_received_bytes) = view["O"]
        (in_sent, in_sent_bytes, in_received, in_received_bytes) = view["I"]
        assert (out_sent, out_received) == (in_sent, in_received)
        assert in_sent_bytes - out_sent_bytes == 44 * in_sent
        assert out_received_bytes - in_received_bytes == 44 * in_received


def test_encryption_answers_agree_with_a_recount(tuples: list[Tuple], owners: dict) -> None:
    once = counted_once(tuples, owners)
    dropped = {"NX_NOT_ACCEPTED", "NX_SW_NOT_READY", "NX_NOT_SUPPORTED"}
    clear = set(CODE_OF_WORD.values()) - dropped - {"X"}
    for pair in EXPECTED["encryption"]:
        of_pair = [t for t in once if (t.src, t.dst) == (pair["src_ip"], pair["dst_ip"])]
        every = [t for t in tuples if (t.src, t.dst) == (pair["src_ip"], pair["dst_ip"])]
        traffic = [t for t in of_pair if t.state in "CE"]
        assert pair["bytes_encrypted"] == sum(t.both_ways for t in traffic if t.code == "X")
        assert pair["bytes_unencrypted"] == sum(t.both_ways for t in traffic if t.code in clear)
        assert pair["flows_encrypted"] == sum(t.state == "E" and t.code == "X" for t in traffic)
        assert pair["flows_unencrypted"] == sum(t.state == "E" and t.code in clear for t in traffic)
        assert pair["flows_dropped"] == sum(t.state == "E" and t.code in dropped for t in of_pair) + sum(
            t.rule == "unspecified" for t in of_pair
        )
        safe = [t.moment for t in every if t.state in "CE" and t.code == "X"]
        assert pair["first_encrypted"] == min(safe, default=None)
        assert pair["last_unencrypted"] == max(
            (t.moment for t in every if t.state in "CE" and t.code in clear), default=None
        )
    named = {(pair["src_ip"], pair["dst_ip"]) for pair in EXPECTED["encryption"]}
    private = {(t.src, t.dst) for t in tuples if all(ip.startswith(("10.", "192.168.")) for ip in (t.src, t.dst))}
    assert named == private


def test_pairs_turn_at_the_change_and_not_before() -> None:
    status = {(p["src_workload"], p["dst_workload"]): p for p in EXPECTED["encryption"]}
    web = status["vm-web1", "vm-app1"]
    assert (web["status_before"], web["status_after"]) == ("Unencrypted", "Encrypted")
    assert web["last_unencrypted"] < EXPECTED["changed_at"] < web["first_encrypted"]
    assert status["aks-nodepool1-00000000-vmss", "vm-app1"]["encryption_code"] == "NX_FALLBACK"
    assert status["vm-app1", "vm-rhel1"]["eligibility"] == "by design"
    assert status["vm-rhel1", "vm-web1"]["encryption_status"] == "Dropped"
    assert {p["encryption_status"] for p in EXPECTED["encryption"]} == {"Unencrypted", "Mixed", "Dropped"}


def test_egress_answers_agree_with_a_recount(tuples: list[Tuple], owners: dict) -> None:
    numbers = {"TCP": "6", "UDP": "17"}
    for answer in EXPECTED["egress"]:
        tried = [
            t
            for t in tuples
            if t.direction == "O"
            and owners[t.src]["workload"] == answer["workload"]
            and t.dst in answer["addresses"]
            and (t.dst_port, t.protocol) == (str(answer["port"]), numbers[answer["protocol"]])
        ]
        answered = [t.moment for t in tried if t.counters[2]]
        failed = [t.moment for t in tried if t.state == "D" or (t.counters[0] and not t.counters[2])]
        assert answer["attempts"] == sum(t.state in "BD" for t in tried) > 0
        assert (answer["last_success"], answer["last_failure"]) == (
            max(answered, default=None),
            max(failed, default=None),
        )
        rules = {t.rule for t in tried if t.state == "D"}
        assert rules == ({answer["acl_rule"]} if answer["acl_rule"] else set())
        shown = "Denied" if rules else "Reached" if answered else "Unanswered"
        assert answer["status"].removeprefix("Service ").capitalize() == shown


def test_destinations_are_either_expected_or_not(tuples: list[Tuple]) -> None:
    public = {t.dst for t in tuples if t.direction == "O" and not t.dst.startswith(("10.", "192.168."))}
    unexpected = {row["dst_ip"] for row in EXPECTED["unexpected_destinations"]}
    assert public == unexpected | set(EXPECTED["expected_destinations"])
    for row in EXPECTED["unexpected_destinations"]:
        seen = [t for t in tuples if t.dst == row["dst_ip"]]
        assert row["flows"] == sum(t.state == "E" for t in seen)
        assert row["bytes_sent"] == sum(t.counters[1] for t in seen)
        assert row["bytes_received"] == sum(t.counters[3] for t in seen)
        assert (row["first_seen"], row["last_seen"]) == (min(t.moment for t in seen), max(t.moment for t in seen))


def test_rules_agree_with_a_recount(tuples: list[Tuple]) -> None:
    letters = {"Inbound": "I", "Outbound": "O"}
    assert sum(map(is_reply, tuples)) == 4
    for row in EXPECTED["rules"]:
        of_rule = [
            t
            for t in tuples
            if (t.acl, t.rule, t.direction) == (row["acl_id"], row["acl_rule"], letters[row["direction"]])
            and not is_reply(t)
        ]
        assert row["flows_denied"] == sum(t.state == "D" for t in of_rule)
        assert row["bytes"] == (sum(t.both_ways for t in of_rule) if row["flows_allowed"] else None)
        assert row["workloads"] == len({t.mac for t in of_rule})
        # Each flow begins and ends in the logs, so that counting either gives the same.
        assert row["flows_allowed"] == sum(t.state == "B" for t in of_rule) == sum(t.state == "E" for t in of_rule)
    assert sum(row["flows_denied"] for row in EXPECTED["rules"]) == EXPECTED["totals"]["tuples_by_state"]["D"]


def test_traffic_analytics_rows_sum_up_to_the_same_traffic(tuples: list[Tuple], analytics: list[dict]) -> None:
    blobs, rows = defaultdict(Counter), defaultdict(Counter)
    names = ("PacketsSrcToDest", "BytesSrcToDest", "PacketsDestToSrc", "BytesDestToSrc")
    for t in tuples:
        key = (t.mac, t.hour, t.code, t.direction)
        blobs[key].update(dict(zip(names, t.counters, strict=True)), flows=t.state in "BD", ended=t.state == "E")
    for row in analytics:
        mac = row["MacAddress"].replace("-", "")
        key = (mac, row["FlowIntervalStartTime"], CODE_OF_WORD[row["FlowEncryption"]], row["FlowDirection"][0])
        flows = sum(row[way] for way in ("AllowedInFlows", "DeniedInFlows", "AllowedOutFlows", "DeniedOutFlows"))
        rows[key].update({name: row[name] for name in names}, flows=flows, ended=row["CompletedFlows"])
    assert rows == blobs


def test_packed_addresses_sum_up_to_their_row(analytics: list[dict]) -> None:
    packed_rows = [row for row in analytics if any(row[name] for name in PUBLIC_COLUMNS)]
    assert any(" " in row["DestPublicIps"] for row in packed_rows)
    for row in packed_rows:
        (packed,) = (row[name] for name in PUBLIC_COLUMNS if row[name])
        entries = [entry.split("|")[1:] for entry in packed.split(" ")]
        started, ended, packets_out, packets_in, bytes_out, bytes_in = (
            sum(map(int, column)) for column in zip(*entries, strict=True)
        )
        ways = ("AllowedInFlows", "DeniedInFlows", "AllowedOutFlows", "DeniedOutFlows")
        assert (started, ended) == (sum(row[way] for way in ways), row["CompletedFlows"])
        assert (packets_out, packets_in) == (row["PacketsSrcToDest"], row["PacketsDestToSrc"])
        assert (bytes_out, bytes_in) == (row["BytesSrcToDest"], row["BytesDestToSrc"])
        assert row["SrcIp" if row["FlowDirection"] == "Inbound" else "DestIp"] == ""
    for row in analytics:
        assert row in packed_rows or (row["SrcIp"] and row["DestIp"])


def test_readme_gives_the_expected_numbers() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    totals, coverage = EXPECTED["totals"], EXPECTED["coverage"]
    numbers = [
        *(totals[name] for name in ("blobs", "records", "tuples", "traffic_analytics_rows")),
        *totals["tuples_by_state"].values(),
        coverage["nic_hours"],
        *(row["bytes_sent"] for row in EXPECTED["unexpected_destinations"]),
        totals["counted_once"]["tuples"],
        next(row["attempts"] for row in EXPECTED["egress"] if row["endpoint"] == "mcr.microsoft.com"),
    ]
    assert [number for number in numbers if f"{number:,}" not in text] == []
    for pair in EXPECTED["encryption"]:
        line = rf"^\| {re.escape(pair['src_workload'])} → {re.escape(pair['dst_workload'])} \|.*\|$"
        (row,) = re.findall(line, text, re.MULTILINE)
        _, _, before, after, codes, _, _ = (cell.strip() for cell in row.split("|"))
        assert (before, after) == (pair["status_before"] or "–", pair["status_after"] or "–")
        assert set(re.findall(r"`(\w+)`", codes)) == set(pair["tuples_by_code"])
