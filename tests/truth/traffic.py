"""Invented traffic: flows, and the views of each flow that NICs have.

A *flow* is what happened; a *view* is what one NIC writes about it: its own direction, rule, clock and counters. Byte
counters carry 44 bytes more per packet on the side that receives, so no two views of a flow agree.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .topology import Nic, Settings, Topology

HOUR = 3_600_000
MINUTE = 60_000
OVERHEAD = 44

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
ZERO_GUID = "00000000-0000-0000-0000-000000000000"
KMS = ("20.118.99.224", "40.83.235.53")
RHUI = ("20.225.226.182", "52.136.197.163", "52.142.4.99", "20.248.180.252", "20.24.186.80")
REQUIRED = tuple((address, 1688) for address in KMS) + tuple((address, 443) for address in RHUI)
PLATFORM_ADDRESS = "168.63.129.16"
NOISE_ADDRESS = "40.80.44.0"
UNEXPECTED = ("192.0.2.10", "192.0.2.77", "198.51.100.23", "203.0.113.5", "203.0.113.99")
UNEXPECTED6 = ("2001:db8:5::1", "2001:db8:9::25")
LOW_PORT_PEER = "203.0.113.200"
SCANNERS = ("198.51.100.200", "198.51.100.201", "192.0.2.250")
SITE = ("172.20.1.5", "172.20.1.6")

SERVICES = ((TCP, 443), (TCP, 22), (TCP, 80), (TCP, 445), (UDP, 53), (TCP, 1433), (TCP, 5432), (TCP, 8080), (UDP, 514))
OUTCOMES = (
    *("reached",) * 4,
    *("denied", "unanswered", "pending", "recovered", "partly denied", "small reply", "flaky"),
)
DROP_CODES = ("NX_NOT_ACCEPTED", "NX_SW_NOT_READY", "NX_NOT_SUPPORTED", "NX")


@dataclass(frozen=True, slots=True)
class End:
    """One end of a flow. Without a NIC it is a public address, or (``public`` False) a site's private one."""

    address: str
    nic: Nic | None = None
    public: bool = False

    @property
    def vnet(self) -> str | None:
        return self.nic.vnet.id if self.nic else None


@dataclass(frozen=True, slots=True)
class Event:
    """What happened at one moment of a flow, free of overhead: packets and bytes there and back since the last one."""

    time: int
    state: str
    packets: int = 0
    bytes: int = 0
    packets_back: int = 0
    bytes_back: int = 0


@dataclass(frozen=True, slots=True)
class FlowTuple:
    """One flow tuple as a NIC writes it; times in epoch ms."""

    time: int
    state: str
    code: str
    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class View:
    """What one NIC writes about a flow.

    ``role``: *source* (the NIC owns the source), *destination*, *hop* (a forwarder's inbound leg), *hop out* (its
    outbound leg, same five-tuple), *reply* (return traffic at a forwarder, logged as rows of its own).
    """

    role: str
    nic: Nic
    direction: str
    src: End
    dst: End
    src_port: int | None
    dst_port: int | None
    protocol: int
    acl_id: str
    acl_rule: str
    tuples: tuple[FlowTuple, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow. ``after_nat``: what a forwarder sent on with its own address as source."""

    src: End
    dst: End
    src_port: int | None
    dst_port: int | None
    protocol: int
    views: tuple[View, ...]
    after_nat: bool = False


@dataclass(slots=True)
class World:
    """What the functions below share: the randomness, the network, the span of time, encryption per pair of NICs."""

    rng: random.Random
    settings: Settings
    topology: Topology
    first: int
    last: int
    profiles: dict[frozenset[str], tuple[str, int]] = field(default_factory=dict)

    def moment(self) -> int:
        return self.rng.randrange(self.first, self.last)


def invent(world: World) -> list[Flow]:
    """All flows of a world, except the heartbeats."""
    rng, settings = world.rng, world.settings
    flows: list[Flow] = []
    for nic in world.topology.nics:
        for _ in range(rng.randint(2, 9)):
            flows += _internal(world, nic)
        if settings.egress:
            flows += _required(world, nic)
            flows += _unexpected(world, nic)
        if rng.random() < 0.3:
            flows += _site(world, nic)
        if settings.noise and rng.random() < 0.5:
            flows += _noise(world, nic)
        if settings.low_ports and rng.random() < 0.06:
            src = End(nic.addresses[0], nic)
            port = rng.choice((88, 179, 500))
            flows += connect(world, src, End(LOW_PORT_PEER, public=True), port, 40_000, TCP, short(world))
    return flows


def heartbeat(world: World, nic: Nic, hour: int) -> list[Flow]:
    """A DNS flow to the platform at about minute 45 of an hour, so that the NIC has a blob there."""
    src, dst = End(nic.addresses[0], nic), End(PLATFORM_ADDRESS, public=True)
    start = hour + 45 * MINUTE + world.rng.randrange(0, 2 * MINUTE)
    return connect(world, src, dst, ephemeral(world.rng), 53, UDP, life(world, start, start + 5_000))


# How a flow lives.


def ephemeral(rng: random.Random) -> int:
    return rng.randint(32_768, 60_999)


def load(rng: random.Random, state: str, time: int, answered: bool = True) -> Event:
    """An event with traffic; an answer is always larger than a TLS handshake."""
    packets, back = rng.randint(2, 60), rng.randint(3, 60)
    return Event(
        time,
        state,
        packets,
        packets * rng.randint(54, 900),
        back if answered else 0,
        back * rng.randint(400, 1_400) if answered else 0,
    )


def life(world: World, start: int, end: int, answered: bool = True) -> list[Event]:
    """Begin, Continuing every five minutes, End; perhaps restarted: an End, a Begin in the same ms, a second End."""
    rng = world.rng
    events = [Event(start, "B")]
    events += [load(rng, "C", time, answered) for time in range(start + 5 * MINUTE, end, 5 * MINUTE)]
    events.append(load(rng, "E", end, answered))
    if world.settings.restarts and rng.random() < 0.05:
        events += [Event(end, "B"), load(rng, "E", end + rng.randint(4_000, 15_000), answered)]
    return events


def short(world: World, answered: bool = True, start: int | None = None) -> list[Event]:
    """The life of a flow of some seconds or minutes."""
    begin = world.moment() if start is None else start
    return life(world, begin, begin + world.rng.randint(50, 200_000), answered)


def anyhow(world: World) -> list[Event]:
    """The life of any flow: mostly short, sometimes hours, perhaps begun before all logs or with a tuple at an edge."""
    rng = world.rng
    kind = rng.random()
    if world.settings.edges and kind < 0.12:
        # Some event falls on a full hour to within 100 ms, so that two clocks put it into two hours.
        edge = rng.randrange(world.first + HOUR, world.last + 1, HOUR) + rng.randint(-100, 100)
        before = rng.choice((0, 1, 2, 3)) * 5 * MINUTE
        return life(world, edge - before, edge - before + rng.randint(1, 20) * MINUTE)
    if kind < 0.65:
        return short(world)
    if kind < 0.88:
        start = world.moment()
        return life(world, start, start + rng.randint(5, 25) * MINUTE)
    start = rng.randrange(world.first - HOUR, world.last)
    return life(world, start, start + rng.randint(40, 200) * MINUTE)


# Who writes what about it.


def connect(
    world: World,
    src: End,
    dst: End,
    src_port: int | None,
    dst_port: int | None,
    protocol: int,
    events: list[Event],
    *,
    hop: Nic | None = None,
    rules: tuple[str, str] | None = None,
    denied: list[Event] | None = None,
    dropped_at_hop: bool = False,
    dropping_code: str | None = None,
) -> list[Flow]:
    """The flow with all its views, and after it what a forwarder with NAT makes of it.

    ``rules``: outbound and inbound rule. ``denied``: the destination writes these events instead of ``events``.
    ``dropping_code``: the flow was denied because of encryption, so that only the source writes it.
    """
    ports = (src_port, dst_port)
    out_rule, in_rule = rules or _rules(world.rng, dst)
    code = _codes(world, src, dst)

    # One NIC has one clock: all legs of a flow at a forwarder bear the same times.
    skews = {
        nic.mac: world.rng.randint(-200, 200) if world.settings.skew else 0 for nic in (dst.nic, hop) if nic is not None
    }

    def view(role: str, nic: Nic, acl: str, rule: str, seen: list[Event], forwarded: bool = False) -> View:
        outbound = role == "source" or forwarded
        backwards = role == "reply"
        kept = _write(
            world, role, outbound, skews.get(nic.mac, 0), seen, lambda time: dropping_code or code(role, nic, time)
        )
        return View(
            role,
            nic,
            "O" if outbound else "I",
            *((dst, src) if backwards else (src, dst)),
            *(ports[::-1] if backwards else ports),
            protocol,
            acl,
            rule,
            kept,
        )

    views: list[View] = []
    after_nat: list[Flow] = []
    if src.nic and dropping_code:
        views.append(view("source", src.nic, "unspecified", "unspecified", events))
    elif src.nic:
        views.append(view("source", src.nic, src.nic.acl_id, out_rule, events))
    if dst.nic and not dropping_code:
        views.append(view("destination", dst.nic, dst.nic.acl_id, in_rule, events if denied is None else denied))
    if hop:
        views.append(view("hop", hop, hop.acl_id, "UserRule_AllowForwarded", events))
        translated = hop.nat and dst.public and ":" not in dst.address
        answered = any(event.packets_back for event in events)
        if not dropped_at_hop and translated:
            own = End(hop.addresses[0], hop)
            after_nat = connect(world, own, dst, ephemeral(world.rng), dst_port, protocol, events)
            after_nat = [Flow(f.src, f.dst, f.src_port, f.dst_port, f.protocol, f.views, True) for f in after_nat]
        elif not dropped_at_hop:
            views.append(view("hop out", hop, hop.acl_id, "UserRule_AllowForwarded", events, forwarded=True))
        if answered and not translated:
            views.append(view("reply", hop, ZERO_GUID, "PlatformRule", events))
        if answered:
            views.append(view("reply", hop, ZERO_GUID, "PlatformRule", events, forwarded=True))
    return [Flow(src, dst, src_port, dst_port, protocol, tuple(views)), *after_nat]


def _write(
    world: World, role: str, outbound: bool, skew: int, events: list[Event], code: Callable[[int], str]
) -> tuple[FlowTuple, ...]:
    """The tuples of one view: the skew of its clock, what it can count, within the span of time."""
    there, back = (0, OVERHEAD) if outbound else (OVERHEAD, 0)
    tuples = []
    for event in events:
        time = event.time + skew
        sent = (event.packets, event.bytes + there * event.packets)
        received = (event.packets_back, event.bytes_back + back * event.packets_back)
        if role in ("hop", "hop out"):
            received = (0, 0)
        if role == "reply":
            sent = (event.packets_back, event.bytes_back + there * event.packets_back)
            received = (0, 0)
        if world.first <= time < world.last:
            tuples.append(FlowTuple(time, event.state, code(time), *sent, *received))
    return tuple(tuples)


def _rules(rng: random.Random, dst: End) -> tuple[str, str]:
    if dst.public:
        return rng.choice(("DefaultRule_AllowInternetOutBound", "UserRule_Allow-Https-Out")), ""
    return "DefaultRule_AllowVnetOutBound", rng.choice(("DefaultRule_AllowVnetInBound", "UserRule_AllowApp"))


def _codes(world: World, src: End, dst: End) -> Callable[[str, Nic, int], str]:
    """The encryption code as a function of role, NIC and time. Only two NICs can encrypt."""
    if not (world.settings.encryption and src.nic and dst.nic):
        return lambda role, nic, time: "NX"
    profile, turn = profile_of(world, src.nic, dst.nic)

    def code(role: str, nic: Nic, time: int) -> str:
        if role in ("hop", "hop out", "reply") and not nic.encrypts:
            return "NX"
        if profile == "switch":
            return "NX" if time < turn else "X"
        if profile == "one-sided":
            return "NX_FALLBACK" if role == "destination" else "X"
        return "X" if profile == "drops" else profile

    return code


def profile_of(world: World, one: Nic, other: Nic) -> tuple[str, int]:
    """How a pair of NICs encrypts, and the moment of its turn; the same in both directions."""
    key = frozenset((one.mac, other.mac))
    if key not in world.profiles:
        kinds = (
            ("X",) * 8 + ("NX",) * 5 + ("switch",) * 3 + ("NX_LOCAL_DST", "NX_HW_NOT_SUPPORTED", "one-sided", "drops")
        )
        world.profiles[key] = (world.rng.choice(kinds), world.moment())
    return world.profiles[key]


# What there is to talk about.


def _hop(world: World, nic: Nic, port: int | None) -> Nic | None:
    """The forwarder that a NIC's egress to this port takes: only well-known ports, so that replies can be told."""
    return world.topology.by_mac[nic.via] if nic.via and port is not None and port < 1024 else None


def route(world: World, one: Nic, other: Nic) -> tuple[bool, Nic | None]:
    """Whether two NICs can talk, and through which forwarder."""
    topology, settings = world.topology, world.settings
    hop = topology.by_mac[one.via] if one.via and one.via == other.via else None
    if one.vnet.id == other.vnet.id:
        dark = [nic for nic in (one, other) if not nic.logged]
        if not settings.shadowed and not all(topology.unique(nic) for nic in dark):
            return False, None
        return True, hop if one.subnet != other.subnet else None
    if not settings.ambiguous and not (topology.unique(one) and topology.unique(other)):
        return False, None
    return hop is not None or frozenset((one.vnet.id, other.vnet.id)) in topology.peerings, hop


def _internal(world: World, nic: Nic) -> list[Flow]:
    """A flow from a NIC to another one, denied at the destination or because of encryption now and then."""
    rng, settings = world.rng, world.settings
    peers = [other for other in world.topology.nics if other.mac != nic.mac and route(world, nic, other)[0]]
    if not peers:
        return []
    peer = rng.choice(peers)
    hop = route(world, nic, peer)[1]
    version = 6 if nic.address(6) and peer.address(6) and rng.random() < 0.4 else 4
    own, theirs = nic.address(version, rng.randrange(3)), peer.address(version, rng.randrange(3))
    assert own
    assert theirs
    src, dst = End(own, nic), End(theirs, peer)
    if hop is None and settings.icmp and rng.random() < 0.08:
        return connect(world, src, dst, None, None, ICMP6 if version == 6 else ICMP, short(world))
    known = [s for s in SERVICES if (settings.udp or s[0] == TCP) and (hop is None or s[1] < 1024)]
    protocol, port = rng.choice(known)
    if settings.denied_at_destination and rng.random() < 0.08:
        # The port is used for nothing else, so that no answered flow of the same pair and port hides the denial.
        start = world.moment()
        sent = [Event(start, "B"), Event(start + 21_000, "E", 3, 198)]
        denied = [Event(start, "D"), Event(start + 3_000, "D")]
        rules = ("DefaultRule_AllowVnetOutBound", rng.choice(("DefaultRule_DenyAllInBound", "UserRule_DenyLegacy")))
        return connect(world, src, dst, ephemeral(rng), 389, TCP, sent, hop=hop, rules=rules, denied=denied)
    if settings.encryption and profile_of(world, nic, peer)[0] == "drops" and rng.random() < 0.5:
        events = [Event(world.moment(), "D")]
        code = rng.choice(DROP_CODES)
        return connect(world, src, dst, ephemeral(rng), port, protocol, events, dropping_code=code)
    return connect(world, src, dst, ephemeral(rng), port, protocol, anyhow(world), hop=hop)


def _required(world: World, nic: Nic) -> list[Flow]:
    """Egress to endpoints that platform services need, with every outcome."""
    rng = world.rng
    flows: list[Flow] = []
    for address, port in rng.sample(REQUIRED, rng.choice((0, 0, 1, 2, 3))):
        own = nic.address(4, rng.randrange(3))
        assert own
        src, dst, hop = End(own, nic), End(address, public=True), _hop(world, nic, port)

        def allowed(
            events: list[Event],
            lost: bool = False,
            src: End = src,
            dst: End = dst,
            port: int = port,
            hop: Nic | None = hop,
        ) -> list[Flow]:
            return connect(world, src, dst, ephemeral(rng), port, TCP, events, hop=hop, dropped_at_hop=lost)

        def denied(start: int, src: End = src, dst: End = dst, port: int = port) -> list[Flow]:
            events = [Event(start + i * 3_000, "D") for i in range(rng.randint(1, 3))]
            if world.settings.duplicates and rng.random() < 0.4:
                events += [events[0]] * rng.randint(1, 2)
            rule = rng.choice(("DefaultRule_DenyAllOutBound", "UserRule_Deny-Internet"))
            return connect(world, src, dst, ephemeral(rng), port, TCP, events, rules=(rule, ""))

        outcome = rng.choice(OUTCOMES)
        first, second = sorted((world.moment(), world.moment()))
        second = max(second, first + 300_000)
        lost = rng.random() < 0.5
        if outcome == "reached":
            for _ in range(rng.randint(1, 3)):
                flows += allowed(anyhow(world))
        elif outcome == "denied":
            flows += denied(first) + denied(second)
        elif outcome == "unanswered":
            flows += allowed(unanswered(rng, first), lost) + allowed(unanswered(rng, second), lost)
        elif outcome == "pending":
            flows += allowed([Event(first, "B")], True)
        elif outcome == "recovered":
            flows += denied(first) + allowed(short(world, start=second))
        elif outcome == "partly denied":
            flows += allowed(short(world, start=first)) + denied(second)
        elif outcome == "small reply":
            reply = Event(first + 2_000, "E", 5, 620, rng.randint(1, 2), rng.randint(80, 280))
            flows += allowed([Event(first, "B"), reply])
        else:
            flows += allowed(unanswered(rng, first), lost) + allowed(short(world, start=second))
    return flows


def unanswered(rng: random.Random, start: int) -> list[Event]:
    """A flow that sends and hears nothing."""
    packets = rng.randint(1, 6)
    return [Event(start, "B"), Event(start + 21_000, "E", packets, 66 * packets)]


def _unexpected(world: World, nic: Nic) -> list[Flow]:
    """Egress to public addresses that nobody listed, and to the platform's own address."""
    rng, settings = world.rng, world.settings
    flows: list[Flow] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        own6 = nic.address(6)
        six = own6 is not None and rng.random() < 0.4
        own = own6 if six else nic.address(4, rng.randrange(3))
        assert own
        src, dst = End(own, nic), End(rng.choice(UNEXPECTED6 if six else UNEXPECTED), public=True)
        kind = rng.random()
        if kind < 0.12 and settings.udp:
            flows += connect(world, src, dst, 123, 123, UDP, anyhow(world))
        elif kind < 0.2 and settings.icmp:
            flows += connect(world, src, dst, None, None, ICMP6 if six else ICMP, short(world))
        elif kind < 0.3:
            # A flow older than the log that was idle: an End without any packet.
            events = [Event(world.moment(), "E")]
            flows += connect(world, src, dst, ephemeral(rng), 8443, TCP, events)
        else:
            port = rng.choice((443, 80, 25, 8443, 6667))
            flows += connect(world, src, dst, ephemeral(rng), port, TCP, anyhow(world), hop=_hop(world, nic, port))
    if rng.random() < 0.4:
        src, dst = End(nic.addresses[0], nic), End(PLATFORM_ADDRESS, public=True)
        flows += connect(world, src, dst, ephemeral(rng), rng.choice((80, 32_526)), TCP, anyhow(world))
    return flows


def _site(world: World, nic: Nic) -> list[Flow]:
    """A flow with a private address that no NIC owns: a site behind a gateway."""
    rng = world.rng
    own, site = End(nic.addresses[0], nic), End(rng.choice(SITE))
    src, dst = (own, site) if rng.random() < 0.5 else (site, own)
    return connect(world, src, dst, ephemeral(rng), rng.choice((443, 3389, 5985)), TCP, anyhow(world))


def _noise(world: World, nic: Nic) -> list[Flow]:
    """Inbound scans that are denied, by NSG or admin rule, and the platform's own inbound rows."""
    rng = world.rng
    dst = End(nic.addresses[0], nic)
    flows: list[Flow] = []
    for _ in range(rng.randint(1, 4)):
        events = [Event(world.moment(), "D")]
        if world.settings.duplicates and rng.random() < 0.3:
            events *= rng.randint(2, 3)
        src = End(rng.choice(SCANNERS), public=True)
        port = rng.choice((22, 23, 3389, rng.randint(1_024, 65_535)))
        scan = connect(
            world, src, dst, rng.randint(1_024, 65_535), port, TCP, events, rules=("", "DefaultRule_DenyAllInBound")
        )
        flows += [_decided_by(f, *rng.choice(_DENIERS)) for f in scan] if rng.random() < 0.3 else scan
    if rng.random() < 0.6:
        start, src = world.moment(), End(NOISE_ADDRESS, public=True)
        events = [Event(start, "B"), Event(start + 5_000, "E", 1, 84)]
        noise = connect(world, src, dst, 23_456, rng.randint(20_000, 65_000), TCP, events)
        flows += [_decided_by(f, ZERO_GUID, "PlatformRule") for f in noise]
    return flows


_DENIERS = (
    ("4b2d1f60-7c1e-4f0a-9d55-0a3b6e2c9f11", "BlockHighRiskTCPPortsFromInternet"),
    (ZERO_GUID, "PlatformRule"),
)


def _decided_by(flow: Flow, acl: str, rule: str) -> Flow:
    """The same flow with every view decided by somebody else."""
    views = tuple(
        View(v.role, v.nic, v.direction, v.src, v.dst, v.src_port, v.dst_port, v.protocol, acl, rule, v.tuples)
        for v in flow.views
    )
    return Flow(flow.src, flow.dst, flow.src_port, flow.dst_port, flow.protocol, views, flow.after_nat)
