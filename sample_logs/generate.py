"""Writes the sample logs: one invented day of two virtual networks, and the answers that it must give.

    python sample_logs/generate.py            writes the files beside this script
    python sample_logs/generate.py --check    writes them elsewhere, compares every byte, exit code 1 with what differs

Standard library only and nothing of flowlens, so that the answers in ``expected.json`` come from a second source. All
of it is invented: documentation addresses (RFC 5737, RFC 3849) and MAC addresses (RFC 7042), zeroed GUIDs. Only
addresses that Azure publishes, and that the questions are about, are real (service tags of 2026-06-26).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from random import Random

from answers import answers
from plan import (
    AKS1,
    APP_NET,
    AZURE_REGION,
    DAY,
    EXPECTED,
    MISSING,
    OFFICE,
    OWNER,
    PRIVATE_ENDPOINT,
    PROTOCOL_NAME,
    SEED,
    SUBSCRIPTION,
    WITHOUT_NIC,
    WORD,
    ZERO_GUID,
    Blobs,
    Line,
    Nic,
    at,
    day,
    iso,
    private,
    whole,
)

CONTAINER = "insights-logs-flowlogflowevent"


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def written(nic: Nic, minute: int) -> int:
    """When the record of that minute was written: 3 to 4.5 s after it, so minute 59 is in the next hour's blob."""
    return (minute + 1) * 60_000 + whole(Random(f"{SEED}/{nic.mac}/{minute}"), 3_000, 4_500)


def record(nic: Nic, minute: int, lines: Iterable[Line]) -> str:
    by_acl: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        by_acl.setdefault(line.acl, {}).setdefault(line.rule, []).append(line.text)
    time = iso(written(nic, minute))
    return compact(
        {
            "time": f"{time[:-1]}{minute * 7919 % 10_000:04d}Z",
            "flowLogGUID": nic.vnet.guid,
            "macAddress": nic.mac,
            "category": "FlowLogFlowEvent",
            "flowLogResourceID": nic.vnet.flow_log_resource,
            "targetResourceID": nic.vnet.resource,
            "flowLogVersion": 4,
            "operationName": "FlowLogFlowEvent",
            "flowRecords": {
                "flows": [
                    {
                        "aclID": acl,
                        "flowGroups": [{"rule": rule, "flowTuples": tuples} for rule, tuples in rules.items()],
                    }
                    for acl, rules in by_acl.items()
                ]
            },
        }
    )


def blob_name(nic: Nic, hour: int) -> str:
    root = f"{SUBSCRIPTION}_NETWORKWATCHERRG/NETWORKWATCHER_JAPANEAST_{nic.vnet.flow_log}".upper()
    return (
        f"{CONTAINER}/flowLogResourceID=/{root}/y={DAY:%Y}/m={DAY:%m}/d={DAY:%d}/h={hour:02d}/m=00"
        f"/macAddress={nic.mac}/PT1H.json"
    )


def logged() -> Blobs:
    """What was written, without the blob that is missing."""
    blobs: Blobs = defaultdict(lambda: defaultdict(list))
    for line in sorted(day(), key=lambda line: line.time):
        minute = line.time // 60_000
        hour = (written(line.nic, minute) - at(0)) // 3_600_000
        if (line.nic, hour) != MISSING:
            blobs[line.nic, hour][minute].append(line)
    return blobs


def dashed(mac: str) -> str:
    return "-".join(mac[i : i + 2] for i in range(0, 12, 2))


def flow_type(peer: str, nic: Nic) -> str:
    if peer in AZURE_REGION:
        return "AzurePublic"
    if not private(peer):
        return "ExternalPublic"
    if peer == OFFICE:
        return "UnknownPrivate"
    same = peer not in OWNER or OWNER[peer].vnet is nic.vnet
    return "IntraVNet" if same else "InterVNet"


def traffic_analytics(lines: Iterable[Line]) -> list[dict[str, object]]:
    """The same tuples as NTANetAnalytics rows: an hour each, no source port, public addresses packed."""
    groups: dict[tuple[object, ...], list[Line]] = defaultdict(list)
    for line in lines:
        peer = line.dst if line.direction == "O" else line.src
        packed = not private(peer)
        place = AZURE_REGION.get(peer, "") if packed else peer
        key = (
            line.hour, line.nic.mac, line.direction, flow_type(peer, line.nic), place,
            line.src if line.direction == "O" else line.dst, line.dst_port or 0, line.protocol, line.state == "D",
            line.acl, line.rule, line.code,
        )  # fmt: skip
        groups[key].append(line)
    return [analytics_row(lines) for _, lines in sorted(groups.items(), key=lambda item: tuple(map(str, item[0])))]


def side(name: str, address: str, nic: Nic) -> dict[str, object]:
    """The columns of one end of the flow; a public end is blank and stands in the packed column."""
    owner = OWNER.get(address)
    if owner is not None:
        group = owner.vnet.group
        subnet = f"{group}/{owner.vnet.name}/{owner.subnet}"
        vm = f"{group}/{owner.workload}" + ("_0" if owner is AKS1 else "")
        nic_name = f"{group}/{owner.workload}" if owner is AKS1 else f"{group}/{owner.workload}-nic"
    elif address in WITHOUT_NIC:
        group, vm, nic_name = nic.vnet.group, "", ""
        subnet = f"{group}/{nic.vnet.name}/{WITHOUT_NIC[address][1].lower()}"
    else:
        vm = nic_name = subnet = ""
    return {
        f"{name}Ip": address if private(address) else "",
        f"{name}Subscription": SUBSCRIPTION if subnet else "",
        f"{name}Nic": nic_name,
        f"{name}Vm": vm,
        f"{name}Subnet": subnet,
    }


def counted(lines: Iterable[Line]) -> tuple[int, int, int, int, int, int]:
    """Flows started (or denied), flows ended, packets out, packets in, bytes out, bytes in."""
    lines = list(lines)
    states = Counter(line.state for line in lines)
    sums = [sum(line.counters[i] for line in lines) for i in range(4)]
    return states["B"] + states["D"], states["E"], sums[0], sums[2], sums[1], sums[3]


def analytics_row(lines: list[Line]) -> dict[str, object]:
    line = lines[0]
    nic, peer = line.nic, line.dst if line.direction == "O" else line.src
    opened, ended, packets_out, packets_in, bytes_out, bytes_in = counted(lines)
    start = at(line.hour)
    ways = {"AllowedInFlows": 0, "DeniedInFlows": 0, "AllowedOutFlows": 0, "DeniedOutFlows": 0}
    ways[("Denied" if line.state == "D" else "Allowed") + ("Out" if line.direction == "O" else "In") + "Flows"] = opened
    public: dict[str, list[Line]] = defaultdict(list)
    for each in lines:
        public[each.dst if line.direction == "O" else each.src].append(each)
    packed = " ".join("|".join(map(str, (address, *counted(public[address])))) for address in sorted(public))
    shown = "" if private(peer) else packed
    endpoint = PRIVATE_ENDPOINT in (line.src, line.dst)
    provider = f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{nic.vnet.group}/providers"
    unspecified = line.acl in (ZERO_GUID, "unspecified")
    return {
        "TimeGenerated": iso(start + 4_281_000),
        "SubType": "FlowLog",
        "FaSchemaVersion": "3",
        "FlowIntervalStartTime": iso(start),
        "FlowIntervalEndTime": iso(start + 3_600_000),
        "FlowType": flow_type(peer, nic),
        "FlowStartTime": iso(min(each.time for each in lines)),
        "FlowEndTime": iso(max(each.time for each in lines)),
        **side("Src", line.src, nic),
        **side("Dest", line.dst, nic),
        "DestPort": line.dst_port,
        "L4Protocol": PROTOCOL_NAME[line.protocol],
        "IsFlowCapturedAtUdrHop": False,
        "FlowDirection": "Outbound" if line.direction == "O" else "Inbound",
        "FlowStatus": "Denied" if line.state == "D" else "Allowed",
        "MacAddress": dashed(nic.mac),
        "TargetResourceId": nic.vnet.scope,
        "TargetResourceType": "VirtualNetwork",
        "FlowLogResourceId": f"{SUBSCRIPTION}/networkwatcherrg/networkwatcher_japaneast/{nic.vnet.flow_log}",
        # Documentation addresses belong to no country; zz is reserved for users.
        "Country": "zz" if flow_type(peer, nic) == "ExternalPublic" else "",
        "AzureRegion": AZURE_REGION.get(peer, ""),
        "FlowEncryption": WORD[line.code],
        **ways,
        "PacketsDestToSrc": packets_in,
        "PacketsSrcToDest": packets_out,
        "BytesDestToSrc": bytes_in,
        "BytesSrcToDest": bytes_out,
        "CompletedFlows": ended,
        "SrcPublicIps": shown if line.direction == "I" else "",
        "DestPublicIps": shown if line.direction == "O" else "",
        "AclGroup": "Unspecified" if unspecified else line.acl.lower(),
        "AclRule": line.rule.removeprefix("UserRule_").removeprefix("DefaultRule_").lower(),
        "PrivateEndpointResourceId": f"{provider}/microsoft.network/privateendpoints/pe-storage" if endpoint else "",
    }


def inventory() -> str:
    rows = ["vnet,address,mac_address,workload,subnet,kind"]
    for address, nic in OWNER.items():
        rows.append(f"{nic.vnet.scope},{address},{nic.mac},{nic.workload},{nic.subnet},nic")
    for address, (name, subnet, kind) in WITHOUT_NIC.items():
        rows.append(f"{APP_NET.scope},{address},,{name},{subnet},{kind}")
    return "\n".join(rows) + "\n"


def expected_list() -> str:
    head = "# What the workloads of these logs are expected to talk to, for --expect; two destinations are not in it.\n"
    entries = [
        f'\n[[expected]]\n{kind} = "{value}"\nports = {list(ports)}\nprotocol = "{protocol}"\nname = "{name}"\n'
        for kind, value, ports, protocol, name in EXPECTED
    ]
    return head + "".join(entries)


def files() -> dict[str, bytes]:
    """Name -> content of everything that is generated."""
    blobs = logged()
    made = {
        blob_name(nic, hour): f'{{"records":[{",".join(record(nic, m, t) for m, t in minutes.items())}]}}'
        for (nic, hour), minutes in blobs.items()
    }
    rows = traffic_analytics(line for minutes in blobs.values() for tuples in minutes.values() for line in tuples)
    made["traffic_analytics/ntanetanalytics.json"] = "[\n" + ",\n".join(map(compact, rows)) + "\n]\n"
    made["inventory.csv"] = inventory()
    made["expected.toml"] = expected_list()
    made["expected.json"] = json.dumps(answers(blobs, len(rows)), indent=1) + "\n"
    return {name: text.encode() for name, text in made.items()}


def blobs_in(folder: Path) -> set[str]:
    """Names of the blobs in ``folder``, whatever wrote them: one too many would change the answers."""
    return {path.relative_to(folder).as_posix() for path in (folder / CONTAINER).rglob("*") if path.is_file()}


def write(folder: Path) -> None:
    """Writes the sample logs into ``folder`` and removes blobs of an earlier version."""
    made = files()
    for name in blobs_in(folder) - set(made):
        (folder / name).unlink()
    for name, content in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def differences(folder: Path) -> list[str]:
    """Names that are missing, stale or different in ``folder``, compared with a fresh run in a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        write(fresh)
        made = {path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file()}
        return sorted(name for name in made | blobs_in(folder) if content(fresh / name) != content(folder / name))


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the sample logs beside this script.")
    parser.add_argument("--check", action="store_true", help="compare with a fresh run instead of writing")
    folder = Path(__file__).resolve().parent
    if not parser.parse_args().check:
        write(folder)
        return 0
    different = differences(folder)
    for name in different:
        print(f"differs: {name}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
