"""OCSF events for a SIEM: one JSON line for each row that is a finding, of the class Network Activity.

The class is that of traffic between two ends (https://schema.ocsf.io/1.5.0/classes/network_activity, uid 4001, read 2026), with the
profiles for clouds and for what a security control did. What a finding is beside its traffic stands in ``unmapped``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import BinaryIO

from flowlens import schema
from flowlens.evidence import Window
from flowlens.findings import Finding
from flowlens.outputs.content import acceptance_text
from flowlens.outputs.text import utc
from flowlens.reporting import Report

VERSION = "1.5.0"
_CLASS, _CATEGORY = (4001, "Network Activity"), (4, "Network Activity")
_SEVERITY = {"high": (4, "High"), "medium": (3, "Medium"), "low": (2, "Low")}
_FAIL, _REFUSE, _TRAFFIC = (4, "Fail"), (5, "Refuse"), (6, "Traffic")
_ALLOWED, _DENIED = ((1, "Allowed"), (1, "Allowed")), ((2, "Denied"), (2, "Blocked"))
_DROPPED = ((2, "Denied"), (6, "Dropped"))
_REFUSED = ("Denied", "Denied at destination", "Partly denied")
_OUTBOUND, _LATERAL = (2, "Outbound"), (3, "Lateral")
_LABEL = re.compile(r"(\S+) \(([0-9A-F]{12})\)")


def write_ocsf(report: Report, file: BinaryIO) -> None:
    """Write one event a line for each row of a table that is a finding, in ASCII; times are milliseconds since 1970.

    Findings that are resolved have no traffic and so no event; the JSON document has them.
    """
    by_id = {finding.id: finding for finding in report.findings}
    for name, of_rows in report.row_findings.items():
        make = _EVENTS[name]
        for row, finding in zip(report.tables[name].iter_rows(named=True), of_rows, strict=True):
            if finding is not None and finding in by_id:
                event = _event(report, by_id[finding], make(row), row)
                file.write(json.dumps(event, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n")


def _event(report: Report, finding: Finding, told: Mapping[str, object], row: Mapping[str, object]) -> object:
    activity, disposition = told["activity"], told["disposition"]
    assert isinstance(activity, tuple) and isinstance(disposition, tuple)
    action, outcome = disposition
    severity = _SEVERITY[finding.severity]
    first, last = _time(row, "first_seen", finding.first_seen), _time(row, "last_seen", finding.last_seen)
    last = last or report.window.end or report.window.start
    event = {
        "metadata": {
            "version": VERSION,
            "profiles": ["cloud", "security_control"],
            "product": {"name": "flowlens", "vendor_name": "flowlens"},
            "uid": _uid(finding, report.window, told, row),
            "correlation_uid": finding.id,
            "log_name": finding.question,
        },
        "category_uid": _CATEGORY[0],
        "category_name": _CATEGORY[1],
        "class_uid": _CLASS[0],
        "class_name": _CLASS[1],
        "activity_id": activity[0],
        "activity_name": activity[1],
        "type_uid": _CLASS[0] * 100 + activity[0],
        "type_name": f"{_CLASS[1]}: {activity[1]}",
        "severity_id": severity[0],
        "severity": severity[1],
        "action_id": action[0],
        "action": action[1],
        "disposition_id": outcome[0],
        "disposition": outcome[1],
        "is_alert": finding.counts,
        "time": _milliseconds(last),
        "start_time": _milliseconds(first),
        "end_time": _milliseconds(last),
        "message": f"{finding.workload} {finding.subject}",
        "status_detail": f"accepted: {acceptance_text(finding.accepted)}" if finding.accepted else finding.state,
        "cloud": {"provider": "Azure"},
        "count": told.get("count"),
        "src_endpoint": told["source"],
        "dst_endpoint": told["destination"],
        "connection_info": told["connection"],
        "traffic": told.get("traffic"),
        "firewall_rule": told.get("rule"),
        "unmapped": {
            "question": finding.question,
            "state": finding.state,
            "window": {"start": utc(report.window.start), "end": utc(report.window.end)},
            **{name: row[name] for name in _BESIDE[finding.question]},
        },
    }
    return _without_nulls(event)


def _pair(row: Mapping[str, object]) -> dict[str, object]:
    dropped = row["encryption_status"] == "Dropped"
    total = _sum(row["bytes_encrypted"], row["bytes_unencrypted"])
    return {
        "activity": _FAIL if dropped else _TRAFFIC,
        "disposition": _DROPPED if dropped else _ALLOWED,
        "source": _endpoint(row["src_workload"], row["vnet"], row["src_subnet"]),
        "destination": _endpoint(row["dst_workload"], row["dst_vnet"], row["dst_subnet"]),
        "connection": {"direction_id": _LATERAL[0], "direction": _LATERAL[1]},
        "traffic": {"bytes": total} if total is not None else None,
        "count": _sum(row["flows_encrypted"], row["flows_unencrypted"], row["flows_dropped"]) or None,
    }


def _requirement(row: Mapping[str, object]) -> dict[str, object]:
    refused = row["status"] in _REFUSED
    port = str(row["port"])
    return {
        "activity": _REFUSE if refused else _FAIL,
        "disposition": _DENIED if refused else _ALLOWED,
        "source": _endpoint(row["workload"], row["vnet"], row["subnet"]),
        "destination": {
            "name": row["endpoint"],
            "ip": row["dst_ip"],
            "port": int(port) if port.isdecimal() and int(port) <= 65535 else None,
            "svc_name": row["service_tag"],
        },
        "connection": _connection(row["protocol"], row["dst_ip"]),
        "count": row["attempts"] or None,
        "rule": {"name": row["acl_rule"], "uid": row["acl_id"]} if row["acl_rule"] else None,
    }


def _destination(row: Mapping[str, object]) -> dict[str, object]:
    sent, received = row["bytes_sent"], row["bytes_received"]
    return {
        "activity": _TRAFFIC,
        "disposition": _ALLOWED,
        "source": _endpoint(row["workload"], row["vnet"], row["subnet"]),
        "destination": {
            "ip": row["dst_ip"],
            "port": row["dst_port"],
            "svc_name": row["service_tag"],
            "location": {"country": row["country"]} if row["country"] else None,
        },
        "connection": _connection(row["protocol"], row["dst_ip"]),
        "count": row["flows"] or None,
        "traffic": {"bytes": _sum(sent, received), "bytes_out": sent, "bytes_in": received}
        if sent is not None
        else None,
    }


_EVENTS = {
    "encryption_status": _pair,
    "denied_egress": _requirement,
    "unexpected_destinations": _destination,
}
_BESIDE = {
    "encryption_status": ("encryption_status", "encryption_code", "bytes_encrypted", "bytes_unencrypted", "advice"),
    "denied_egress": ("status", "profile", "requirement", "match", "fix"),
    "unexpected_destinations": ("is_new", "owner", "region", "reason"),
}
"""What of a row has no place in the class."""


def _endpoint(label: object, vnet: object, subnet: object) -> dict[str, object]:
    """One end: a workload without a name goes by its address and NIC."""
    found = _LABEL.fullmatch(str(label))
    nic = ":".join(found[2][n : n + 2] for n in range(0, 12, 2)) if found else None
    return {
        "name": label,
        "ip": found[1] if found and _is_address(found[1]) else None,
        "mac": nic,
        "vpc_uid": vnet,
        "subnet_uid": subnet,
    }


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _connection(protocol: object, address: object) -> dict[str, object]:
    name = str(protocol).lower()
    number = schema.PROTOCOL_NUMBER.get(name, int(name) if name.isdecimal() else None)
    version = None if address is None else 6 if ":" in str(address) else 4
    return {
        "direction_id": _OUTBOUND[0],
        "direction": _OUTBOUND[1],
        "protocol_num": number,
        "protocol_name": name,
        "protocol_ver_id": version,
    }


def _sum(*counts: object) -> int | None:
    """The sum of the counts that are known; None where none is."""
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None


def _time(row: Mapping[str, object], name: str, otherwise: dt.datetime | None) -> dt.datetime | None:
    """The row's own time where it has one."""
    found = row.get(name, row.get("last_failure") if name == "last_seen" else None)
    return found if isinstance(found, dt.datetime) else otherwise


def _milliseconds(time: dt.datetime | None) -> int | None:
    return None if time is None else (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(milliseconds=1)


def _uid(finding: Finding, window: Window, told: Mapping[str, object], row: Mapping[str, object]) -> str:
    """The same for the same ends in the same window, so that an event that is sent twice is one."""
    ends = [told[name] for name in ("source", "destination", "connection")]
    key = json.dumps([finding.id, utc(window.start), utc(window.end), ends, row.get("profile")])
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _without_nulls(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: kept for name, each in value.items() if (kept := _without_nulls(each)) is not None}
    return value
