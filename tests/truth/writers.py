"""The invented traffic as files: blobs in a container's real paths, and rows of NTANetAnalytics."""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from pathlib import Path

from .blobs import Blobs, Entry
from .topology import FlowLog, Nic, Topology
from .traffic import MINUTE, NOISE_ADDRESS, ZERO_GUID, End, View

CONTAINER = "insights-logs-flowlogflowevent"
WORDS = {
    "X": "Encrypted",
    "NX": "Unencrypted",
    "NX_HW_NOT_SUPPORTED": "Unsupported hardware",
    "NX_SW_NOT_READY": "Software not ready",
    "NX_NOT_ACCEPTED": "Drop due to no encryption",
    "NX_NOT_SUPPORTED": "Discovery not supported",
    "NX_LOCAL_DST": "Destination on same host",
    "NX_FALLBACK": "Fall back to no encryption",
}
PROTOCOL_WORDS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
TARGET_WORDS = {"vnet": "VirtualNetwork", "subnet": "Subnet", "nic": "NetworkInterface"}
AZURE_PUBLIC = {
    "20.118.99.224": "eastus",
    "40.83.235.53": "westus",
    "20.225.226.182": "southcentralus",
    "52.136.197.163": "westeurope",
    "52.142.4.99": "eastus",
    "20.248.180.252": "australiaeast",
    "20.24.186.80": "southeastasia",
    "168.63.129.16": "global",
    NOISE_ADDRESS: "northcentralus",
}
COUNTRIES = {"192.0.2": "us", "198.51.100": "de", "203.0.113": "jp"}


def utc(ms: int) -> dt.datetime:
    """Epoch ms as a time in UTC."""
    return dt.datetime.fromtimestamp(ms // 1000, dt.UTC) + dt.timedelta(milliseconds=ms % 1000)


def iso(ms: int) -> str:
    """Epoch ms as the logs write a moment: seven digits and ``Z``."""
    return f"{utc(ms):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}0000Z"


def blob_name(log: FlowLog, mac: str, hour: int) -> str:
    """The blob's name inside its container."""
    root = f"{log.vnet.subscription}_NetworkWatcherRG/NetworkWatcher_{log.vnet.region}_{log.name}".upper()
    return f"flowLogResourceID=/{root}/{utc(hour):y=%Y/m=%m/d=%d/h=%H/m=00}/macAddress={mac}/PT1H.json"


def write_blobs(topology: Topology, blobs: Blobs, folder: Path) -> list[Path]:
    """Write every blob below ``folder`` and return their paths."""
    logs = {log.id: log for log in topology.flow_logs}
    paths = []
    for (log_id, mac, hour), entries in blobs.entries.items():
        path = folder / CONTAINER / blob_name(logs[log_id], mac, hour)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"records": _records(logs[log_id], mac, entries)}, separators=(",", ":")))
        paths.append(path)
    return paths


def _records(log: FlowLog, mac: str, entries: list[Entry]) -> list[dict[str, object]]:
    minutes: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        minutes[entry.record_time].append(entry)
    records: list[dict[str, object]] = []
    for time, inside in minutes.items():
        acls: dict[str, dict[str, list[str]]] = {}
        for entry in inside:
            rules = acls.setdefault(entry.view.acl_id, {})
            rules.setdefault(entry.view.acl_rule, []).append(tuple_text(entry, log.empty_begin))
        flows = [
            {"aclID": acl, "flowGroups": [{"rule": rule, "flowTuples": rows} for rule, rows in rules.items()]}
            for acl, rules in acls.items()
        ]
        records.append(
            {
                "time": iso(time),
                "flowLogGUID": log.guid,
                "macAddress": mac,
                "category": "FlowLogFlowEvent",
                "flowLogResourceID": log.id,
                "targetResourceID": log.target_id,
                "flowLogVersion": 4,
                "operationName": "FlowLogFlowEvent",
                "flowRecords": {"flows": flows},
            }
        )
    return records


def tuple_text(entry: Entry, empty_begin: bool = False) -> str:
    """A flow tuple of version 4: thirteen fields."""
    view, row = entry.view, entry.tuple
    counters: tuple[object, ...] = (row.packets_sent, row.bytes_sent, row.packets_received, row.bytes_received)
    if empty_begin and row.state in "BD":
        counters = ("", "", "", "")
    fields = (
        row.time,
        view.src.address,
        view.dst.address,
        "" if view.src_port is None else view.src_port,
        "" if view.dst_port is None else view.dst_port,
        view.protocol,
        view.direction,
        row.state,
        row.code,
        *counters,
    )
    return ",".join(str(part) for part in fields)


def write_traffic_analytics(topology: Topology, blobs: Blobs, path: Path, minutes: int) -> int:
    """Write NTANetAnalytics rows as a JSON array of objects and return how many."""
    rows = traffic_analytics(topology, blobs, minutes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=0))
    return len(rows)


def traffic_analytics(topology: Topology, blobs: Blobs, minutes: int) -> list[dict[str, object]]:
    """One row per interval, flow log, NIC, addresses, port, rule, direction, protocol, status and encryption.

    The interval is that of the record, so a row's first flow can start before its interval does. Public addresses are
    packed, all of one region or country in one row; the column of the public address is blank.
    """
    logs = {log.id: log for log in topology.flow_logs}
    span = minutes * MINUTE
    groups: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for (log_id, mac, _), entries in blobs.entries.items():
        for entry in entries:
            view = entry.view
            key = (
                entry.record_time - entry.record_time % span,
                log_id,
                mac,
                _place(view.src),
                _place(view.dst),
                view.dst_port,
                view.protocol,
                view.direction,
                entry.tuple.state == "D",
                view.acl_id,
                view.acl_rule,
                entry.tuple.code,
                view.role in ("hop", "hop out", "reply"),
            )
            groups[key].append(entry)
    return [_row(logs[str(key[1])], key, entries, span) for key, entries in groups.items()]


def _place(end: End) -> str:
    """What a row is grouped by: the address, or the region or country of a public one."""
    if not end.public:
        return f"{end.vnet}|{end.address}"
    return f"{_flow_type(end)}|{AZURE_PUBLIC.get(end.address) or _country(end.address)}"


def _country(address: str) -> str:
    return COUNTRIES.get(address.rsplit(".", 1)[0], "nl")


def _flow_type(end: End) -> str:
    return "AzurePublic" if end.address in AZURE_PUBLIC else "ExternalPublic"


def _row(log: FlowLog, key: tuple[object, ...], entries: list[Entry], span: int) -> dict[str, object]:
    view = entries[0].view
    start = entries[0].record_time - entries[0].record_time % span
    denied = entries[0].tuple.state == "D"
    inbound = view.direction == "I"
    begun = sum(e.tuple.state in "BD" for e in entries)
    public = view.src if view.src.public else view.dst if view.dst.public else None
    azure = public is not None and public.address in AZURE_PUBLIC
    times = [e.tuple.time for e in entries]
    vnet = log.vnet
    target = [vnet.subscription, vnet.resource_group, *log.target_id.split("/")[8::2]]
    row: dict[str, object] = {
        "TenantId": "00000000-0000-0000-0000-000000000001",
        "TimeGenerated": iso(start + span + 11 * MINUTE),
        "SubType": "FlowLog",
        "FaSchemaVersion": "3",
        "TimeProcessed": iso(start + span + 10 * MINUTE),
        "FlowIntervalStartTime": iso(start),
        "FlowIntervalEndTime": iso(start + span),
        "FlowType": _type_of(view, public),
        "FlowStartTime": iso(min(times)),
        "FlowEndTime": iso(max(times)),
        "SrcIp": "" if view.src.public else view.src.address,
        "DestIp": "" if view.dst.public else view.dst.address,
        "SrcPorts": "",
        "DestPort": view.dst_port,
        "L4Protocol": PROTOCOL_WORDS[view.protocol],
        "L7Protocol": "Unknown",
        "IsFlowCapturedAtUdrHop": bool(key[-1]),
        "FlowDirection": "Inbound" if inbound else "Outbound",
        "FlowStatus": "Denied" if denied else "Allowed",
        "MacAddress": "-".join(view.nic.mac[i : i + 2] for i in range(0, 12, 2)),
        "TargetResourceId": "/".join(target).lower(),
        "TargetResourceType": TARGET_WORDS[log.kind],
        "FlowLogResourceId": f"{vnet.subscription}/networkwatcherrg/networkwatcher_{vnet.region}/{log.name}".lower(),
        "Country": _country(public.address) if public and not azure else "",
        "AzureRegion": AZURE_PUBLIC[public.address] if public and azure else "",
        "FlowEncryption": WORDS[entries[0].tuple.code],
        "AllowedInFlows": begun if inbound and not denied else 0,
        "DeniedInFlows": begun if inbound and denied else 0,
        "AllowedOutFlows": begun if not inbound and not denied else 0,
        "DeniedOutFlows": begun if not inbound and denied else 0,
        "PacketsSrcToDest": sum(e.tuple.packets_sent for e in entries),
        "PacketsDestToSrc": sum(e.tuple.packets_received for e in entries),
        "BytesSrcToDest": sum(e.tuple.bytes_sent for e in entries),
        "BytesDestToSrc": sum(e.tuple.bytes_received for e in entries),
        "CompletedFlows": sum(e.tuple.state == "E" for e in entries),
        "SrcPublicIps": _packed(entries, "src") if view.src.public else "",
        "DestPublicIps": _packed(entries, "dst") if view.dst.public else "",
        "AclGroup": "Unspecified" if view.acl_id in (ZERO_GUID, "unspecified") else view.acl_id.lower(),
        "AclRule": view.acl_rule.removeprefix("UserRule_").removeprefix("DefaultRule_").lower(),
        "Type": "NTANetAnalytics",
    }
    for side, end in (("Src", view.src), ("Dest", view.dst)):
        row |= _side(side, end.nic)
    return row


def _type_of(view: View, public: End | None) -> str:
    if public is not None:
        return _flow_type(public)
    if view.src.vnet is None or view.dst.vnet is None:
        return "UnknownPrivate"
    return "IntraVNet" if view.src.vnet == view.dst.vnet else "InterVNet"


def _side(side: str, nic: Nic | None) -> dict[str, object]:
    """What Traffic Analytics knows of an end: empty for an address that no NIC owns."""
    names = ("Subscription", "Region", "Nic", "Vm", "Subnet")
    if nic is None:
        return {f"{side}{name}": "" for name in names}
    group, vnet = nic.vnet.resource_group.lower(), nic.vnet.name.lower()
    values = (
        nic.vnet.subscription,
        nic.vnet.region,
        f"{group}/{nic.name}".lower(),
        f"{group}/{nic.vm}".lower(),
        f"{group}/{vnet}/{nic.subnet}".lower(),
    )
    return {f"{side}{name}": value for name, value in zip(names, values, strict=True)}


def _packed(entries: list[Entry], side: str) -> str:
    """Public addresses with flows started and ended, packets out and in, bytes out and in."""
    sums: dict[str, list[int]] = {}
    for entry in entries:
        row = entry.tuple
        counts = sums.setdefault(getattr(entry.view, side).address, [0] * 6)
        seen = (
            int(row.state in "BD"),
            int(row.state == "E"),
            row.packets_sent,
            row.packets_received,
            row.bytes_sent,
            row.bytes_received,
        )
        for i, value in enumerate(seen):
            counts[i] += value
    return " ".join(f"{address}|{'|'.join(map(str, counts))}" for address, counts in sums.items())
