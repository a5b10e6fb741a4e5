"""The answers to the sample logs, computed from their plan with obvious loops and without flowlens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from plan import (
    AKS1,
    API_SERVER,
    CLASS,
    HOURS,
    KMS,
    MISSING,
    MONITOR,
    NICS,
    OWNER,
    PROTOCOL_NAME,
    REGISTRY,
    RHEL1,
    RHUI,
    SIGN_IN,
    SILENT,
    SWITCH,
    TCP,
    UDP,
    UNEXPECTED,
    WEB1,
    WIN1,
    WIN2,
    WIN3,
    WITHOUT_NIC,
    Blobs,
    Line,
    Nic,
    at,
    iso,
    private,
)


def forward(lines: list[Line]) -> list[Line]:
    """The lines that are flows of their own: the way back of a flow, logged as a row of its own, is none.

    It comes from a low source port to a high one, and the flow that it answers is there.
    """

    def may_be_reply(line: Line) -> bool:
        return (line.src_port or 1024) < 1024 and (line.dst_port or 0) >= 32_768

    opened = {(line.src, line.dst, line.dst_port, line.protocol) for line in lines if not may_be_reply(line)}
    return [
        line
        for line in lines
        if not (may_be_reply(line) and (line.dst, line.src, line.src_port, line.protocol) in opened)
    ]


def preferred(lines: list[Line], covered: set[tuple[Nic, int]]) -> list[Line]:
    """Each flow once: per hour at the source's NIC if its blob of that hour is there, else at the destination's."""
    chosen = []
    for line in forward(lines):
        source, destination = OWNER.get(line.src), OWNER.get(line.dst)
        if source is not None and (source, line.hour) in covered:
            best = source
        elif destination is not None and (destination, line.hour) in covered:
            best = destination
        else:
            best = line.nic
        if line.nic is best:
            chosen.append(line)
    return chosen


def name_of(address: str) -> str:
    if address in OWNER:
        return OWNER[address].workload
    return WITHOUT_NIC[address][0] if address in WITHOUT_NIC else address


def pair_status(classes: set[str]) -> str | None:
    """One class gives its own word, encrypted beside anything else is Mixed, no traffic is null."""
    if "encrypted" in classes:
        return "Encrypted" if len(classes) == 1 else "Mixed"
    return next((name.capitalize() for name in ("unencrypted", "dropped") if name in classes), None)


def eligibility(src: str, dst: str, codes: Iterable[str]) -> tuple[str, str | None]:
    """Whether encryption can cover the pair, and why not; gateway and private endpoint are known from inventory.csv."""
    kind = next((WITHOUT_NIC[address][2] for address in (src, dst) if address in WITHOUT_NIC), None)
    if kind is not None:
        return "by design", kind
    if src not in OWNER or dst not in OWNER:
        return "unknown peer", "no logged NIC owns the address"
    return ("by design", "same host") if set(codes) == {"NX_LOCAL_DST"} else ("eligible", None)


def encryption_answers(lines: list[Line], once: list[Line]) -> list[dict[str, object]]:
    """Per pair of private addresses: status and times from every view of it, bytes and flows counted once."""
    pairs: dict[tuple[str, str], list[tuple[Line, str]]] = defaultdict(list)
    for line in lines:
        code = "unspecified" if line.rule == "unspecified" else line.code
        if private(line.src) and private(line.dst) and (line.state in "CE" or code == "unspecified"):
            pairs[line.src, line.dst].append((line, code))
    chosen = {id(line) for line in once}
    found: list[dict[str, object]] = []
    for (src, dst), views in sorted(pairs.items(), key=lambda item: tuple(map(name_of, item[0]))):
        every: dict[str, list[Line]] = {name: [] for name in ("encrypted", "unencrypted", "dropped")}
        for line, code in views:
            every[CLASS[code]].append(line)
        counts = {name: [line for line in group if id(line) in chosen] for name, group in every.items()}
        codes = Counter(code for line, code in views if id(line) in chosen)
        word, why_not = eligibility(src, dst, codes)
        found.append(
            {
                "src_workload": name_of(src),
                "dst_workload": name_of(dst),
                "src_ip": src,
                "dst_ip": dst,
                "encryption_status": pair_status({name for name, group in every.items() if group}),
                "status_before": pair_status({CLASS[code] for line, code in views if line.time < at(SWITCH)}),
                "status_after": pair_status({CLASS[code] for line, code in views if line.time >= at(SWITCH)}),
                "encryption_code": max(codes, key=list(CLASS).index),
                "tuples_by_code": {code: codes[code] for code in CLASS if code in codes},
                "eligibility": word,
                "why_not_eligible": why_not,
                **{
                    f"bytes_{name}": sum(line.counters[1] + line.counters[3] for line in counts[name])
                    for name in ("encrypted", "unencrypted")
                },
                **{f"flows_{name}": sum(line.state in "ED" for line in group) for name, group in counts.items()},
                "last_unencrypted": latest(line.time for line in every["unencrypted"]),
                "first_encrypted": iso(min(line.time for line in every["encrypted"])) if every["encrypted"] else None,
            }
        )
    return found


def latest(times: Iterable[int]) -> str | None:
    return max(map(iso, times), default=None)


# Workload, profile, requirement as the profile names it, its service tag where it is matched by one, addresses, port,
# protocol, status, denying rule.
REQUIREMENTS: tuple[tuple[Nic, str, str, str | None, tuple[str, ...], int, int, str, str | None], ...] = (
    (WIN1, "windows-kms", "KMS activation", None, KMS, 1688, TCP, "Reached", None),
    (WIN2, "windows-kms", "KMS activation", None, KMS, 1688, TCP, "Denied", "UserRule_DenyKms"),
    (WIN3, "windows-kms", "KMS activation", None, KMS, 1688, TCP, "Unanswered", None),
    (RHEL1, "rhui", "RHUI 4 package updates", None, (RHUI,), 443, TCP, "Reached", None),
    (AKS1, "aks-core", "mcr.microsoft.com", "AzureFrontDoor.FirstParty", REGISTRY, 443, TCP, "Denied",
     "UserRule_DenyInternet443"),
    (AKS1, "aks-core", "Node to control plane tunnel (UDP 1194)", "AzureCloud.japaneast", (API_SERVER,), 1194, UDP,
     "Service reached", None),
    (AKS1, "aks-core", "Node to control plane tunnel (TCP 9000)", "AzureCloud.japaneast", (API_SERVER,), 9000, TCP,
     "Service reached", None),
    *((nic, "entra-id", "AzureActiveDirectory", "AzureActiveDirectory", (SIGN_IN,), 443, TCP, "Service reached", None)
      for nic in (WEB1, WIN1, AKS1)),
    *((nic, "azure-monitor-agent", "AzureMonitor", "AzureMonitor", (MONITOR,), 443, TCP, "Service reached", None)
      for nic in NICS if nic is not WIN3),
)  # fmt: skip


def egress_answers(lines: list[Line]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for nic, profile, endpoint, tag, addresses, port, protocol, status, rule in REQUIREMENTS:
        tried = [
            line
            for line in lines
            if line.nic is nic and line.dst in addresses and (line.dst_port, line.protocol) == (port, protocol)
        ]
        good = [line.time for line in tried if line.counters[2]]
        bad = [line.time for line in tried if line.state == "D" or (line.counters[0] and not line.counters[2])]
        if {line.rule for line in tried if line.state == "D"} != ({rule} if rule else set()):
            raise AssertionError(f"{nic.workload}, {endpoint}: the plan and its answer name different rules")
        if (status == "Unanswered") != (not rule and not good):
            raise AssertionError(f"{nic.workload}, {endpoint}: the plan does not give {status}")
        found.append(
            {
                "workload": nic.workload,
                "profile": profile,
                "endpoint": endpoint,
                "protocol": PROTOCOL_NAME[protocol],
                "port": port,
                "status": status,
                "match": "address" if tag is None else "approximate tag" if addresses is REGISTRY else "service tag",
                "matched_tag": tag,
                "addresses": sorted({line.dst for line in tried}),
                "acl_rule": rule,
                "attempts": sum(line.state in "BD" for line in tried),
                "last_success": latest(good),
                "last_failure": latest(bad),
            }
        )
    return found


def unexpected_answers(lines: list[Line]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for address in UNEXPECTED:
        seen = [line for line in lines if line.dst == address]
        found.append(
            {
                "workload": seen[0].nic.workload,
                "dst_ip": address,
                "dst_port": seen[0].dst_port,
                "protocol": "TCP",
                "flows": sum(line.state == "E" for line in seen),
                "bytes_sent": sum(line.counters[1] for line in seen),
                "bytes_received": sum(line.counters[3] for line in seen),
                "first_seen": iso(min(line.time for line in seen)),
                "last_seen": latest(line.time for line in seen),
            }
        )
    return found


def rule_answers(lines: list[Line]) -> list[dict[str, object]]:
    rules: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in forward(lines):
        rules[line.acl, line.rule, line.direction].append(line)
    return [
        {
            "acl_id": acl,
            "acl_rule": rule,
            "direction": "Outbound" if direction == "O" else "Inbound",
            "flows_allowed": sum(line.state == "B" for line in group),
            "flows_denied": sum(line.state == "D" for line in group),
            # A denied flow has no counters, which is not the same as no bytes.
            "bytes": sum(line.counters[1] + line.counters[3] for line in group)
            if any(line.state in "CE" for line in group)
            else None,
            "workloads": len({line.nic for line in group}),
        }
        for (acl, rule, direction), group in sorted(rules.items())
    ]


def total(lines: list[Line]) -> dict[str, int]:
    names = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")
    return {name: sum(line.counters[i] for line in lines) for i, name in enumerate(names)}


def answers(blobs: Blobs, rows: int) -> dict[str, object]:
    lines = [line for minutes in blobs.values() for tuples in minutes.values() for line in tuples]
    covered = set(blobs)
    once = preferred(lines, covered)
    states, codes = (Counter(getattr(line, name) for line in lines) for name in ("state", "code"))
    return {
        "window": {"start": iso(at(HOURS[0])), "end": iso(at(HOURS[-1] + 1))},
        "changed_at": iso(at(SWITCH)),
        "totals": {
            "blobs": len(blobs),
            "records": sum(len(minutes) for minutes in blobs.values()),
            "tuples": len(lines),
            "tuples_by_state": dict(sorted(states.items())),
            "tuples_by_code": dict(sorted(codes.items())),
            "observed": total(lines),
            "counted_once": {"tuples": len(once), **total(once)},
            "tuples_in_the_next_hours_blob": sum(
                line.hour < hour for (_, hour), minutes in blobs.items() for each in minutes.values() for line in each
            ),
            "restarted": 1,
            "bytes_in_doubt": 0,
            "traffic_analytics_rows": rows,
        },
        "encryption": encryption_answers(lines, once),
        "egress": egress_answers(lines),
        "unexpected_destinations": unexpected_answers(lines),
        "expected_destinations": sorted(
            {line.dst for line in lines if line.direction == "O" and not private(line.dst)} - set(UNEXPECTED)
        ),
        "rules": rule_answers(lines),
        "coverage": {
            "nic_hours": len(NICS) * len(HOURS),
            "read": len(blobs),
            **{
                state: [{"workload": nic.workload, "mac_address": nic.mac, "hour": iso(at(number))}]
                for state, (nic, number) in (("silent", SILENT), ("missing", MISSING))
            },
        },
    }
