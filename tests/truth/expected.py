"""What a right reader must answer, by obvious loops over the invented flows and the blobs that are left.

The rules are written down in the docstring of ``tests.truth``; this module is those rules, executed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from .blobs import Blobs, coverage, covers
from .topology import FlowLog, Topology
from .traffic import HOUR, PLATFORM_ADDRESS, REQUIRED, Flow, FlowTuple, View, World

SMALL_REPLY_BYTES = 500
HTTPS = 443
ROLES = ("source", "destination", "hop")
"""The order in which views are preferred; other roles are never counted."""
COUNTERS = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")
HOP_ONLY = "hop only"

DROPPING = {"NX_SW_NOT_READY", "NX_NOT_ACCEPTED", "NX_NOT_SUPPORTED"}

Key = tuple[str | None, str, str | None, str, int | None, int]
"""Source VNet and address, destination VNet and address, destination port, protocol."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One blob: how many tuples it holds."""

    flow_log_id: str
    target_resource_id: str
    mac_address: str
    hour: int
    tuples: int


@dataclass(slots=True)
class Counted:
    """The traffic of one key, each flow counted once per hour. ``roles``: the views it was counted in."""

    src_vnet: str | None
    src_ip: str
    dst_vnet: str | None
    dst_ip: str
    dst_port: int | None
    protocol: int
    flow_tuples: int = 0
    flows_started: int = 0
    flows_denied: int = 0
    packets_sent: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    roles: tuple[str, ...] = ()
    after_nat: bool = False
    ambiguous: bool = False
    """Between VNets, and an address is owned in several: DESIGN labels such pairs and does not join them."""


@dataclass(frozen=True, slots=True)
class Egress:
    """One address (not a workload) towards one required endpoint."""

    src_vnet: str
    src_ip: str
    dst_ip: str
    dst_port: int
    status: str
    after_nat: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """How an ordered pair of addresses encrypts; ``codes`` are those that decided, sorted."""

    src_vnet: str
    src_ip: str
    src_mac: str
    dst_vnet: str
    dst_ip: str
    dst_mac: str
    status: str
    codes: tuple[str, ...]
    ambiguous: bool


@dataclass(frozen=True, slots=True)
class NicPair:
    """How an ordered pair of NICs encrypts, all their addresses together."""

    src_mac: str
    dst_mac: str
    status: str
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Destinations:
    """The public addresses an address was allowed to talk to: (address, port or None, protocol), sorted.

    ``after_nat`` lists what of it this address sent only as a forwarder with NAT, for others.
    """

    src_vnet: str
    src_ip: str
    destinations: tuple[tuple[str, int | None, int], ...]
    platform: tuple[tuple[str, int | None, int], ...]
    after_nat: tuple[tuple[str, int | None, int], ...]


@dataclass(frozen=True, slots=True)
class DeniedAtDestination:
    """Outbound without any answer at the source, inbound and denied at the destination."""

    src_vnet: str
    src_ip: str
    dst_vnet: str
    dst_ip: str
    dst_port: int | None
    protocol: int
    acl_id: str
    acl_rule: str
    ambiguous: bool


@dataclass(frozen=True, slots=True)
class Coverage:
    flow_log_id: str
    target_resource_id: str
    mac_address: str
    hour: int
    state: str
    tuples: int


@dataclass(frozen=True, slots=True)
class Expected:
    """Every answer. Hours are epoch ms. ``observed`` and ``totals`` are over all blobs, the rest over the window.

    ``restarted``: End tuples whose Begin follows in the same ms, over all blobs.
    ``encryption_uncertain``: pairs (src vnet, src, dst vnet, dst) of logged NICs of which no tuple in the window shows
    who owns an address, so that a reader without another inventory may not know it.
    """

    observed: list[Observed]
    totals: dict[str, int]
    tuples_in_window: int
    restarted: int
    counted: list[Counted]
    egress: list[Egress]
    encryption: list[Pair]
    encryption_by_nic: list[NicPair]
    encryption_uncertain: list[tuple[str, str, str, str]]
    destinations: list[Destinations]
    denied_at_destination: list[DeniedAtDestination]
    coverage: list[Coverage]


@dataclass(slots=True)
class _Chosen:
    """Of one key: the tuples that count, by role, and the flows they belong to."""

    flows: list[Flow] = field(default_factory=list)
    tuples: list[tuple[str, FlowTuple]] = field(default_factory=list)

    def of_source(self) -> list[FlowTuple]:
        return [row for role, row in self.tuples if role == "source"]


def expect(world: World, flows: list[Flow], blobs: Blobs, window: tuple[int, int]) -> Expected:
    """All answers for a window ``[start, end)`` in epoch ms."""
    chosen = _choose(world.topology, flows, blobs, window)
    pairs, by_nic, uncertain = _encryption(world.topology, flows, blobs, window)
    return Expected(
        observed=_observed(world.topology, blobs),
        totals=_totals(blobs),
        tuples_in_window=sum(
            window[0] <= e.tuple.time < window[1] for entries in blobs.entries.values() for e in entries
        ),
        restarted=_restarted(blobs),
        counted=_counted(world.topology, chosen),
        egress=_egress(chosen),
        encryption=pairs,
        encryption_by_nic=by_nic,
        encryption_uncertain=uncertain,
        destinations=_destinations(chosen),
        denied_at_destination=_denied_at_destination(world.topology, chosen, blobs, window),
        coverage=_coverage(world, blobs, window),
    )


def _in(window: tuple[int, int], row: FlowTuple) -> bool:
    return window[0] <= row.time < window[1]


def key_of(flow: Flow) -> Key:
    """The key of a flow; no port where a tuple could be the reply half of a flow, by its ports alone."""
    low = flow.src_port is not None and flow.src_port < 1024
    candidate = low and flow.dst_port is not None and flow.dst_port >= 32_768
    port = None if candidate else flow.dst_port
    return (flow.src.vnet, flow.src.address, flow.dst.vnet, flow.dst.address, port, flow.protocol)


def _ambiguous(topology: Topology, key: Key) -> bool:
    """Between two VNets, with an address that is not owned in exactly one."""
    src_vnet, src, dst_vnet, dst, _, _ = key
    if src_vnet is None or dst_vnet is None or src_vnet == dst_vnet:
        return False
    return len(topology.owners[src]) > 1 or len(topology.owners[dst]) > 1


def _choose(topology: Topology, flows: list[Flow], blobs: Blobs, window: tuple[int, int]) -> dict[Key, _Chosen]:
    """Of each key and hour, the tuples of the one view in the one flow log that counts."""
    by_key: dict[Key, _Chosen] = defaultdict(_Chosen)
    for flow in flows:
        by_key[key_of(flow)].flows.append(flow)
    for chosen in by_key.values():
        # (role, MAC, flow log) to hour to tuples; a key has one NIC per role, whichever of its flows is asked.
        candidates: dict[tuple[str, str, str], dict[int, list[FlowTuple]]] = {}
        logs: dict[tuple[str, str, str], FlowLog] = {}
        hours: set[int] = set()
        for role, mac in _places(chosen.flows):
            for log in topology.logs_of(mac):
                by_hour = candidates.setdefault((role, mac, log.id), {})
                logs[role, mac, log.id] = log
                for view in _views(chosen.flows, role, mac):
                    for _, row in blobs.written(view, log.id):
                        if _in(window, row):
                            by_hour.setdefault(row.time - row.time % HOUR, []).append(row)
                hours |= by_hour.keys()
        for hour in sorted(hours):
            covered = [c for c in candidates if covers(blobs, logs[c], c[1], hour)]
            spare = [c for c in candidates if hour in candidates[c]]
            place = (covered or spare)[0]
            chosen.tuples += [(place[0], row) for row in candidates[place].get(hour, [])]
    return by_key


def _places(flows: list[Flow]) -> list[tuple[str, str]]:
    """(role, MAC) of the NICs that could count these flows, best first.

    They follow from who owns the addresses and which way the flows go, not from whether a tuple happens to be there.
    """
    found: set[tuple[str, str]] = set()
    for flow in flows:
        found |= {("source", flow.src.nic.mac)} if flow.src.nic else set()
        found |= {("destination", flow.dst.nic.mac)} if flow.dst.nic else set()
        found |= {(view.role, view.nic.mac) for view in flow.views if view.role == "hop"}
    return sorted(found, key=lambda place: (ROLES.index(place[0]), place[1]))


def _views(flows: Iterable[Flow], role: str, mac: str) -> list[View]:
    return [view for flow in flows for view in flow.views if view.role == role and view.nic.mac == mac]


def _observed(topology: Topology, blobs: Blobs) -> list[Observed]:
    targets = {log.id: log.target_id for log in topology.flow_logs}
    return [
        Observed(log_id, targets[log_id], mac, hour, len(entries))
        for (log_id, mac, hour), entries in blobs.entries.items()
    ]


def _totals(blobs: Blobs) -> dict[str, int]:
    totals = dict.fromkeys(("tuples", "blobs", *COUNTERS), 0)
    for entries in blobs.entries.values():
        totals["blobs"] += 1
        for entry in entries:
            totals["tuples"] += 1
            if entry.tuple.state in "CE":
                for name in COUNTERS:
                    totals[name] += getattr(entry.tuple, name)
    return totals


def _restarted(blobs: Blobs) -> int:
    count = 0
    for entries in blobs.entries.values():
        for entry in entries:
            later = entry.view.tuples[entry.index + 1 :]
            same = bool(later) and later[0].time == entry.tuple.time and later[0].state == "B"
            count += entry.tuple.state == "E" and same
    return count


def _counted(topology: Topology, chosen: dict[Key, _Chosen]) -> list[Counted]:
    rows = []
    for key, found in chosen.items():
        if not found.tuples:
            continue
        row = Counted(*key, ambiguous=_ambiguous(topology, key), after_nat=all(f.after_nat for f in found.flows))
        row.roles = tuple(sorted({role for role, _ in found.tuples}))
        for _, flow_tuple in found.tuples:
            row.flow_tuples += 1
            row.flows_started += flow_tuple.state == "B"
            row.flows_denied += flow_tuple.state == "D"
            if flow_tuple.state in "CE":
                row.packets_sent += flow_tuple.packets_sent
                row.bytes_sent += flow_tuple.bytes_sent
                row.packets_received += flow_tuple.packets_received
                row.bytes_received += flow_tuple.bytes_received
        rows.append(row)
    return sorted(rows, key=lambda r: _sortable((r.src_vnet, r.src_ip, r.dst_vnet, r.dst_ip, r.dst_port, r.protocol)))


def _sortable(key: tuple[object, ...]) -> tuple[str, ...]:
    return tuple("" if part is None else str(part) for part in key)


def judge(tuples: list[FlowTuple], port: int) -> str:
    """Status of a required endpoint on a TCP port from what the source's owner wrote about it in the window.

    >>> judge([FlowTuple(0, "B", "NX", 0, 0, 0, 0)], 443)
    'Pending'
    """
    traffic = [t for t in tuples if t.state in "CE"]
    enough = SMALL_REPLY_BYTES if port == HTTPS else 1
    successes = [t.time for t in traffic if t.bytes_received >= enough]
    denials = [t.time for t in tuples if t.state == "D"]
    if successes and denials:
        return "Recovered" if max(successes) > max(denials) else "Partly denied"
    if successes:
        return "Reached"
    if denials:
        return "Denied"
    if any(t.packets_received > 0 for t in traffic):
        return "Answered without data"
    if any(t.packets_sent > 0 for t in traffic):
        return "Unanswered"
    return "Pending"


def _egress(chosen: dict[Key, _Chosen]) -> list[Egress]:
    rows = []
    for (src_vnet, src, _, dst, port, _), found in chosen.items():
        if src_vnet is None or port is None or (dst, port) not in REQUIRED or not found.tuples:
            continue
        own = found.of_source()
        status = judge(own, port) if own else HOP_ONLY
        rows.append(Egress(src_vnet, src, dst, port, status, all(f.after_nat for f in found.flows)))
    return sorted(rows, key=lambda r: (r.src_vnet, r.src_ip, r.dst_ip, r.dst_port))


def weigh(codes: Iterable[str]) -> str:
    """Status of a pair from the codes of its allowed traffic, and from those of its drops marked ``drop:``.

    >>> weigh(["X", "NX"]), weigh(["X", "drop:NX"])
    ('Mixed', 'Mixed')
    """
    judged = set(codes)
    # Two VMs that share a host for a while say nothing of the pair, unless that is all there is.
    judged = judged - {"NX_LOCAL_DST"} or judged
    kinds = {
        "Dropped" if code.startswith("drop:") or code in DROPPING else "Encrypted" if code == "X" else "Unencrypted"
        for code in judged
    }
    if len(kinds) == 1:
        return kinds.pop()
    return "Mixed" if "Encrypted" in kinds else "Unencrypted"


def _encryption(
    topology: Topology, flows: list[Flow], blobs: Blobs, window: tuple[int, int]
) -> tuple[list[Pair], list[NicPair], list[tuple[str, str, str, str]]]:
    learned: set[tuple[str, str]] = set()
    codes: dict[tuple[str, str, str, str, str, str], set[str]] = defaultdict(set)
    ambiguous: dict[tuple[str, str, str, str, str, str], bool] = {}
    for flow in flows:
        for view in flow.views:
            for log in topology.logs_of(view.nic.mac):
                for _, row in blobs.written(view, log.id):
                    if not _in(window, row):
                        continue
                    if view.role == "source":
                        learned.add((view.nic.mac, view.src.address))
                    if view.role == "destination":
                        learned.add((view.nic.mac, view.dst.address))
                    src, dst = flow.src, flow.dst
                    if not (src.nic and dst.nic and src.nic.logged and dst.nic.logged) or view.role == "reply":
                        continue
                    pair = (src.nic.vnet.id, src.address, src.nic.mac, dst.nic.vnet.id, dst.address, dst.nic.mac)
                    ambiguous[pair] = _ambiguous(topology, key_of(flow))
                    if row.state in "CE":
                        codes[pair].add(row.code)
                    elif row.state == "D" and view.acl_rule == "unspecified":
                        codes[pair].add(f"drop:{row.code}")
    pairs, uncertain = [], []
    by_nic: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (src_vnet, src_ip, src_mac, dst_vnet, dst_ip, dst_mac), found in sorted(codes.items()):
        if {(src_mac, src_ip), (dst_mac, dst_ip)} <= learned:
            logged = tuple(sorted({code.removeprefix("drop:") for code in found}))
            pair = (src_vnet, src_ip, src_mac, dst_vnet, dst_ip, dst_mac)
            pairs.append(Pair(*pair, weigh(found), logged, ambiguous[pair]))
            by_nic[src_mac, dst_mac] |= found
        else:
            uncertain.append((src_vnet, src_ip, dst_vnet, dst_ip))
    nic_pairs = [
        NicPair(src, dst, weigh(found), tuple(sorted({code.removeprefix("drop:") for code in found})))
        for (src, dst), found in sorted(by_nic.items())
    ]
    return pairs, nic_pairs, uncertain


def _destinations(chosen: dict[Key, _Chosen]) -> list[Destinations]:
    found: dict[tuple[str, str], dict[str, set[tuple[str, int | None, int]]]] = defaultdict(lambda: defaultdict(set))
    for (src_vnet, src, _, dst, port, protocol), kept in chosen.items():
        allowed = any(row.state != "D" for _, row in kept.tuples)
        if src_vnet is None or not kept.flows[0].dst.public or not allowed:
            continue
        kind = "platform" if dst == PLATFORM_ADDRESS else "destinations"
        found[src_vnet, src][kind].add((dst, port, protocol))
        if all(flow.after_nat for flow in kept.flows):
            found[src_vnet, src]["after_nat"].add((dst, port, protocol))
    return [
        Destinations(
            vnet, src, *(tuple(sorted(sets[k], key=_sortable)) for k in ("destinations", "platform", "after_nat"))
        )
        for (vnet, src), sets in sorted(found.items())
    ]


def _denied_at_destination(
    topology: Topology, chosen: dict[Key, _Chosen], blobs: Blobs, window: tuple[int, int]
) -> list[DeniedAtDestination]:
    rows = []
    for key, found in chosen.items():
        src_vnet, src, dst_vnet, dst, port, protocol = key
        traffic = [row for row in found.of_source() if row.state in "CE"]
        unanswered = any(r.packets_sent for r in traffic) and not any(r.packets_received for r in traffic)
        if src_vnet is None or dst_vnet is None or not unanswered:
            continue
        rules = {
            (view.acl_id, view.acl_rule)
            for flow in found.flows
            for view in flow.views
            if view.role == "destination"
            for log in topology.logs_of(view.nic.mac)
            for _, row in blobs.written(view, log.id)
            if _in(window, row) and row.state == "D"
        }
        rows += [
            DeniedAtDestination(src_vnet, src, dst_vnet, dst, port, protocol, acl, rule, _ambiguous(topology, key))
            for acl, rule in sorted(rules)
        ]
    return sorted(rows, key=lambda r: _sortable((r.src_vnet, r.src_ip, r.dst_vnet, r.dst_ip, r.dst_port, r.acl_rule)))


def _coverage(world: World, blobs: Blobs, window: tuple[int, int]) -> list[Coverage]:
    targets = {log.id: log.target_id for log in world.topology.flow_logs}
    counts = Counter({key: len(entries) for key, entries in blobs.entries.items()})
    return [
        Coverage(log_id, targets[log_id], mac, hour, state, counts[log_id, mac, hour])
        for (log_id, mac, hour), state in sorted(coverage(world, blobs, window).items())
    ]
