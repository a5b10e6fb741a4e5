"""An invented network: VNets that may share address ranges, NICs, forwarders, and the flow logs over them."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field, replace

RANGES = (0, 1, 2, 7)
"""Second octet of the address ranges that VNets draw from; the same one may be drawn several times."""
REGIONS = ("eastus", "westeurope", "swedencentral")
MAC_STARTS = ("000D3A", "7C1E52", "6045BD", "0022FB")
LOG_ORDER = ("vnet", "subnet", "nic")
"""Which flow log a NIC is counted in where several have the hour: the first of these."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Switches of the generator; each turns one feature off (or, where the default is False, on)."""

    max_nics: int = 50
    vnets: int | None = None
    reuse: bool = True
    peerings: bool = True
    forwarders: bool = True
    nat: bool = True
    extra_logs: bool = True
    unlogged: bool = True
    nic_only: bool = False
    """A NIC of an unlogged VNet has a NIC flow log, so that its VNet cannot be learned from the log."""
    secondary: bool = True
    ipv6: bool = True
    icmp: bool = True
    udp: bool = True
    late_start: bool = True
    gaps: bool = True
    deletions: bool = True
    late_records: bool = True
    skew: bool = True
    edges: bool = True
    restarts: bool = True
    duplicates: bool = True
    encryption: bool = True
    egress: bool = True
    denied_at_destination: bool = True
    noise: bool = True
    low_ports: bool = True
    window: bool = True
    """Off: the window is everything that was written."""
    shadowed: bool = True
    """Flows with an unlogged NIC whose address belongs to a NIC of another VNet, too."""
    ambiguous: bool = False
    """Flows between VNets whose addresses are not owned in exactly one VNet."""


@dataclass(frozen=True, slots=True)
class Vnet:
    """A VNet; ``octet`` is the second octet of its range and part of its IPv6 range."""

    name: str
    subscription: str
    resource_group: str
    region: str
    octet: int

    @property
    def id(self) -> str:
        """``sub/rg/vnet`` in lower case: the scope of an address."""
        return f"{self.subscription}/{self.resource_group}/{self.name}".lower()

    @property
    def resource_id(self) -> str:
        return self.resource("virtualNetworks", self.name)

    def resource(self, kind: str, name: str) -> str:
        """ARM id of a network resource in this VNet's resource group."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.Network/{kind}/{name}"
        )


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC and its VM. ``via`` is the MAC of the forwarder that its routes point to."""

    name: str
    vm: str
    vnet: Vnet
    subnet: str
    mac: str
    addresses: tuple[str, ...]
    forwarder: bool = False
    nat: bool = False
    encrypts: bool = True
    logged: bool = True
    via: str | None = None

    @property
    def acl_id(self) -> str:
        """The NSG of its subnet."""
        return self.vnet.resource("networkSecurityGroups", f"{self.subnet}-Nsg")

    def address(self, version: int, index: int = 0) -> str | None:
        """Its address number ``index`` of that IP version, counted round; None where it has none."""
        own = [a for a in self.addresses if (":" in a) == (version == 6)]
        return own[index % len(own)] if own else None


@dataclass(frozen=True, slots=True)
class FlowLog:
    """A flow log: what it is on, the MACs it logs, and when it was switched on (epoch ms)."""

    name: str
    guid: str
    kind: str
    vnet: Vnet
    target_id: str
    macs: tuple[str, ...]
    starts: int = 0
    empty_begin: bool = False
    """Whether B and D tuples are written with empty counters instead of zeros."""

    @property
    def id(self) -> str:
        """``flowLogResourceID``: upper case."""
        return (
            f"/subscriptions/{self.vnet.subscription}/resourceGroups/NetworkWatcherRG/providers/Microsoft.Network"
            f"/networkWatchers/NetworkWatcher_{self.vnet.region}/flowLogs/{self.name}"
        ).upper()


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that stands still."""

    vnets: tuple[Vnet, ...]
    peerings: frozenset[frozenset[str]]
    nics: tuple[Nic, ...]
    flow_logs: tuple[FlowLog, ...]
    by_mac: dict[str, Nic] = field(default_factory=dict)
    owners: dict[str, frozenset[str]] = field(default_factory=dict)
    """Address to the VNets in which a NIC owns it."""

    def logs_of(self, mac: str) -> list[FlowLog]:
        """The flow logs of a NIC, in the order in which they are preferred."""
        return sorted((log for log in self.flow_logs if mac in log.macs), key=lambda log: LOG_ORDER.index(log.kind))

    def unique(self, nic: Nic) -> bool:
        """Whether no other VNet has a NIC with any of its addresses."""
        return all(len(self.owners[a]) == 1 for a in nic.addresses)


def assemble(
    vnets: tuple[Vnet, ...], peerings: frozenset[frozenset[str]], nics: tuple[Nic, ...], logs: tuple[FlowLog, ...]
) -> Topology:
    """A topology with its look-ups filled in."""
    owners: dict[str, set[str]] = {}
    for nic in nics:
        for address in nic.addresses:
            owners.setdefault(address, set()).add(nic.vnet.id)
    return Topology(
        vnets, peerings, nics, logs, {nic.mac: nic for nic in nics}, {a: frozenset(v) for a, v in owners.items()}
    )


def guid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128)))


def invent(rng: random.Random, settings: Settings, first: int, hours: int) -> Topology:
    """A random topology whose flow logs may start during the ``hours`` after ``first`` (epoch ms)."""
    count = max(1, min(settings.max_nics, int(1 + rng.expovariate(1 / 9)) if rng.random() < 0.93 else 50))
    vnets = _vnets(rng, settings, count)
    peerings = _peerings(rng, settings, vnets)
    nics = _forwarding(rng, settings, assemble(vnets, peerings, _nics(rng, settings, vnets, count), ()))
    logs, logged = _flow_logs(rng, settings, vnets, nics)
    nics = tuple(replace(nic, logged=nic.mac in logged) for nic in nics)
    if settings.late_start:
        # A late log starts in the first half of an hour, so that the NIC's heartbeat of that hour is still logged.
        logs = tuple(
            replace(log, starts=first + rng.randrange(1, max(2, hours)) * 3_600_000 + rng.randrange(0, 1_700_000))
            if rng.random() < 0.12
            else log
            for log in logs
        )
    return assemble(vnets, peerings, nics, logs)


def _vnets(rng: random.Random, settings: Settings, nics: int) -> tuple[Vnet, ...]:
    count = settings.vnets or min(rng.choice((1, 1, 2, 2, 3, 3, 4, 5)), nics)
    octets = [rng.choice(RANGES) for _ in range(count)] if settings.reuse else list(range(10, 10 + count))
    subscriptions = [guid(rng) for _ in range(2)]
    region = rng.choice(REGIONS)
    return tuple(
        Vnet(
            name=f"Vnet-{chr(65 + i)}" if rng.random() < 0.6 else f"vnet{i}",
            subscription=rng.choice(subscriptions),
            resource_group=f"Rg-Net-{i}",
            region=region if rng.random() < 0.8 else rng.choice(REGIONS),
            octet=octet,
        )
        for i, octet in enumerate(octets)
    )


def _peerings(rng: random.Random, settings: Settings, vnets: tuple[Vnet, ...]) -> frozenset[frozenset[str]]:
    """Peerings such that neither a VNet and its peer nor two peers of one VNet overlap, as Azure demands."""
    peerings: set[frozenset[str]] = set()
    octets = {v.id: {v.octet} for v in vnets}
    for i, one in enumerate(vnets):
        for other in vnets[i + 1 :]:
            free = other.octet not in octets[one.id] and one.octet not in octets[other.id]
            if settings.peerings and free and rng.random() < 0.7:
                peerings.add(frozenset((one.id, other.id)))
                octets[one.id].add(other.octet)
                octets[other.id].add(one.octet)
    return frozenset(peerings)


def _nics(rng: random.Random, settings: Settings, vnets: tuple[Vnet, ...], count: int) -> tuple[Nic, ...]:
    macs: set[str] = set()
    taken: dict[str, set[str]] = {v.id: set() for v in vnets}
    nics = []
    for i in range(count):
        vnet = vnets[i] if i < len(vnets) else rng.choice(vnets)
        part = rng.choice((0, 0, 0, 1, 1, 2))

        def free(low: int, high: int, vnet: Vnet = vnet, part: int = part) -> str:
            while True:
                address = f"10.{vnet.octet}.{part}.{rng.randint(low, high)}"
                if address not in taken[vnet.id]:
                    taken[vnet.id].add(address)
                    return address

        addresses = [free(4, 90)]
        if settings.secondary and rng.random() < 0.15:
            addresses += [free(100, 250) for _ in range(rng.randint(1, 3))]
        if settings.ipv6 and rng.random() < 0.25:
            # The first address is unique in its VNet, so the IPv6 address made of its last octet is, too.
            addresses.append(f"fd00:db8:{vnet.octet:x}:{part + 1}::{int(addresses[0].rsplit('.', 1)[1]):x}")
        while (mac := rng.choice(MAC_STARTS) + f"{rng.getrandbits(24):06X}") in macs:
            pass
        macs.add(mac)
        nics.append(Nic(f"Nic-{i:02}", f"Vm-{i:02}", vnet, f"Subnet-{part}", mac, tuple(addresses)))
    return tuple(nics)


def _forwarding(rng: random.Random, settings: Settings, topology: Topology) -> tuple[Nic, ...]:
    """The NICs with some made forwarders and some routed through them.

    A client in another VNet than its forwarder's is peered with it and has addresses that no other VNet has.
    """
    nics = {nic.mac: nic for nic in topology.nics}
    if not settings.forwarders or len(nics) < 3 or rng.random() < 0.3:
        return topology.nics
    for mac in rng.sample(sorted(nics), 2 if len(nics) > 9 and rng.random() < 0.5 else 1):
        hop = nics[mac]
        if not settings.ambiguous and len(topology.vnets) > 1 and not topology.unique(hop):
            continue
        nics[mac] = replace(
            hop,
            forwarder=True,
            nat=settings.nat and rng.random() < 0.5,
            encrypts=rng.random() < 0.6,
            addresses=hop.addresses[:1],
            via=None,
        )
        for client in list(nics.values()):
            near = client.vnet.id == hop.vnet.id
            peered = frozenset((client.vnet.id, hop.vnet.id)) in topology.peerings
            far = peered and (settings.ambiguous or topology.unique(client))
            if not client.forwarder and client.via is None and (near or far) and rng.random() < 0.6:
                nics[client.mac] = replace(client, via=mac)
    return tuple(nics.values())


def _flow_logs(
    rng: random.Random, settings: Settings, vnets: tuple[Vnet, ...], nics: tuple[Nic, ...]
) -> tuple[tuple[FlowLog, ...], set[str]]:
    """Flow logs and the MACs they log. A NIC without one stands for a service that flow logs do not support."""
    dark = {nic.mac for nic in nics[1:] if settings.unlogged and rng.random() < 0.1}
    logs: list[FlowLog] = []

    def add(kind: str, vnet: Vnet, name: str, target: str, members: list[Nic]) -> None:
        macs = tuple(nic.mac for nic in members if nic.mac not in dark)
        if macs:
            logs.append(FlowLog(name, guid(rng), kind, vnet, target, macs, empty_begin=rng.random() < 0.15))

    for i, vnet in enumerate(vnets):
        members = [nic for nic in nics if nic.vnet.id == vnet.id]
        subnets = sorted({nic.subnet for nic in members})
        mode = rng.choice(("vnet",) * 6 + ("subnet", "none")) if i and settings.unlogged else "vnet"
        if mode == "vnet":
            add("vnet", vnet, f"{vnet.name}-{vnet.resource_group}-flowlog", vnet.resource_id, members)
        for n, subnet in enumerate(subnets):
            extra = mode == "vnet" and settings.extra_logs and rng.random() < 0.15
            if extra or (mode == "subnet" and (n == 0 or rng.random() < 0.5)):
                inside = [nic for nic in members if nic.subnet == subnet]
                name = f"{vnet.name}-{subnet}-flowlog"
                add("subnet", vnet, name, f"{vnet.resource_id}/subnets/{subnet}", inside)
        for nic in members:
            on_top = mode == "vnet" and settings.extra_logs and rng.random() < 0.12
            if on_top or (mode == "none" and settings.nic_only and rng.random() < 0.5):
                add("nic", vnet, nic.name, vnet.resource("networkInterfaces", nic.name), [nic])
    return tuple(logs), {mac for log in logs for mac in log.macs}
