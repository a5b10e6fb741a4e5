"""The plan of the sample logs: who there is and what happened on the day, as flow tuples at every NIC that logged it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

SEED = 20260615
DAY = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
HOURS = range(6, 16)
SWITCH = 11
"""Hour at which vnet-app was switched to encryption and its VMs were stopped and started."""
SLOTS = (2, 22, 42)
"""Minutes of each hour at which short flows start: few records, small files."""

ZERO_GUID = "00000000-0000-0000-0000-000000000000"
SUBSCRIPTION = ZERO_GUID
ADMIN_RULES = "00000000-0000-0000-0000-0000000000a1"
TCP, UDP, ICMP = 6, 17, 1
PROTOCOL_NAME = {TCP: "TCP", UDP: "UDP", ICMP: "ICMP"}
RECEIVE_OVERHEAD = 44
"""Bytes per packet that a NIC counts in addition on what it receives, as real two-ended flows show."""


@dataclass(frozen=True, slots=True)
class Vnet:
    name: str
    group: str
    guid: str

    @property
    def scope(self) -> str:
        return f"{SUBSCRIPTION}/{self.group}/{self.name}"

    @property
    def resource(self) -> str:
        return (
            f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{self.group}"
            f"/providers/Microsoft.Network/virtualNetworks/{self.name}"
        )

    @property
    def flow_log(self) -> str:
        return f"{self.name}-{self.group}-flowlog"

    @property
    def flow_log_resource(self) -> str:
        return (
            f"/subscriptions/{SUBSCRIPTION}/resourceGroups/NetworkWatcherRG/providers/Microsoft.Network"
            f"/networkWatchers/NetworkWatcher_japaneast/flowLogs/{self.flow_log}"
        ).upper()


@dataclass(frozen=True, slots=True)
class Nic:
    workload: str
    address: str
    mac: str
    vnet: Vnet
    subnet: str
    nsg: str
    address6: str = ""

    @property
    def nsg_resource(self) -> str:
        return (
            f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{self.vnet.group}"
            f"/providers/Microsoft.Network/networkSecurityGroups/{self.nsg}"
        )


APP_NET = Vnet("vnet-app", "rg-app", "00000000-0000-0000-0000-00000000f001")
DATA_NET = Vnet("vnet-data", "rg-data", "00000000-0000-0000-0000-00000000f002")

WEB1 = Nic("vm-web1", "10.10.1.4", "00005E005301", APP_NET, "snet-web", "nsg-web", "fd00:10:10:1::4")
WEB2 = Nic("vm-web2", "10.10.1.5", "00005E005302", APP_NET, "snet-web", "nsg-web")
APP1 = Nic("vm-app1", "10.10.2.4", "00005E005303", APP_NET, "snet-app", "nsg-app")
RHEL1 = Nic("vm-rhel1", "10.10.2.5", "00005E005304", APP_NET, "snet-app", "nsg-app")
WIN1 = Nic("vm-win1", "10.10.3.4", "00005E005305", APP_NET, "snet-win", "nsg-win")
WIN2 = Nic("vm-win2", "10.10.3.5", "00005E005306", APP_NET, "snet-win", "nsg-win2")
WIN3 = Nic("vm-win3", "10.10.4.4", "00005E005307", APP_NET, "snet-private", "nsg-private")
AKS1 = Nic("aks-nodepool1-00000000-vmss", "10.10.8.4", "00005E005308", APP_NET, "snet-aks", "nsg-aks")
SQL1 = Nic("vm-sql1", "10.20.1.4", "00005E005309", DATA_NET, "snet-sql", "nsg-sql")
BATCH1 = Nic("vm-batch1", "10.20.2.4", "00005E00530A", DATA_NET, "snet-batch", "nsg-batch")
NICS = (WEB1, WEB2, APP1, RHEL1, WIN1, WIN2, WIN3, AKS1, SQL1, BATCH1)
OWNER = {address: nic for nic in NICS for address in (nic.address, nic.address6) if address}

MISSING = (WEB2, 9)
"""NIC and hour whose blob is left out although its peer logged flows with it."""
SILENT = (BATCH1, 12)
"""NIC and hour without any traffic, so without a blob."""

PRIVATE_ENDPOINT = "10.10.5.4"
GATEWAY = "10.10.255.4"
OFFICE = "192.168.50.10"
WITHOUT_NIC = {
    PRIVATE_ENDPOINT: ("pe-storage", "snet-endpoints", "private endpoint"),
    GATEWAY: ("vgw-app", "GatewaySubnet", "gateway"),
}

DNS = "168.63.129.16"
KMS = ("20.118.99.224", "40.83.235.53")
RHUI = "20.24.186.80"
API_SERVER = "20.78.100.20"
REGISTRY = ("150.171.69.10", "150.171.70.10")
MONITOR = "20.43.70.200"
MANAGEMENT = "40.79.198.10"
SIGN_IN = "20.190.144.133"
STORAGE = "20.60.172.11"
PLATFORM_NOISE = "40.80.44.0"
PARTNER6 = "2001:db8:feed::53"
UNEXPECTED = ("203.0.113.77", "198.51.100.23")

# What the owners of the network expect: how it is named, ports, protocol, why. Platform addresses need no entry.
EXPECTED = (
    ("service_tag", "AzureMonitor", (443,), "TCP", "agents"),
    ("service_tag", "Storage", (443,), "TCP", "storage accounts"),
    ("service_tag", "AzureActiveDirectory", (443,), "TCP", "sign-in"),
    ("service_tag", "AzureResourceManager", (443,), "TCP", "Azure's own interface"),
    ("service_tag", "AzureFrontDoor.FirstParty", (443,), "TCP", "container images of Microsoft"),
    ("prefix", f"{API_SERVER}/32", (443, 9000), "TCP", "control plane of the AKS cluster"),
    ("prefix", f"{API_SERVER}/32", (1194,), "UDP", "control plane of the AKS cluster"),
    ("prefix", f"{KMS[0]}/32", (1688,), "TCP", "Windows activation"),
    ("prefix", f"{KMS[1]}/32", (1688,), "TCP", "Windows activation"),
    ("prefix", f"{RHUI}/32", (443,), "TCP", "Red Hat updates"),
    ("prefix", f"{PARTNER6}/128", (443,), "TCP", "the partner"),
)

AZURE_REGION = {
    DNS: "", **dict.fromkeys(REGISTRY, ""), KMS[0]: "southcentralus", KMS[1]: "westus", RHUI: "southeastasia",
    API_SERVER: "japaneast", MONITOR: "japaneast", MANAGEMENT: "japaneast", SIGN_IN: "koreacentral",
    STORAGE: "japaneast", PLATFORM_NOISE: "canadacentral",
}  # fmt: skip

# Code as logged, class of traffic, Traffic Analytics' word; from harmless to worst.
CODES = (
    ("X", "encrypted", "Encrypted"),
    ("NX", "unencrypted", "Unencrypted"),
    ("NX_LOCAL_DST", "unencrypted", "Destination on same host"),
    ("NX_FALLBACK", "unencrypted", "Fall back to no encryption"),
    ("NX_HW_NOT_SUPPORTED", "unencrypted", "Unsupported hardware"),
    ("NX_SW_NOT_READY", "dropped", "Software not ready"),
    ("NX_NOT_SUPPORTED", "dropped", "Discovery not supported"),
    ("NX_NOT_ACCEPTED", "dropped", "Drop due to no encryption"),
    ("unspecified", "dropped", ""),
)
CLASS = {code: name for code, name, _ in CODES}
WORD = {code: word for code, _, word in CODES}

Counters: TypeAlias = tuple[int, int, int, int]
"""Packets and bytes source to destination, packets and bytes back."""
NONE: Counters = (0, 0, 0, 0)
WEB: Counters = (12, 1_900, 16, 14_200)
API: Counters = (9, 1_400, 10, 6_100)
FILE_SHARE: Counters = (60, 9_800, 72, 64_000)
SQL: Counters = (340, 61_000, 410, 380_000)
AGENT: Counters = (14, 9_600, 11, 5_400)
UPLOAD: Counters = (210, 240_000, 96, 9_200)
PACKAGES: Counters = (420, 31_000, 690, 910_000)
ACTIVATION: Counters = (7, 838, 6, 1_104)
LOOKUP: Counters = (1, 82, 1, 130)
PING: Counters = (4, 392, 4, 392)
SYN_ONLY: Counters = (3, 198, 0, 0)


@dataclass(frozen=True, slots=True)
class Line:
    """One flow tuple and who logged it under which rule; ``time`` in milliseconds since the epoch."""

    time: int
    nic: Nic
    src: str
    dst: str
    src_port: int | None
    dst_port: int | None
    protocol: int
    direction: str
    state: str
    code: str
    counters: Counters
    acl: str
    rule: str

    @property
    def text(self) -> str:
        ports = ("" if port is None else port for port in (self.src_port, self.dst_port))
        how = (self.protocol, self.direction, self.state, self.code)
        return ",".join(map(str, (self.time, self.src, self.dst, *ports, *how, *self.counters)))

    @property
    def hour(self) -> int:
        return (self.time - at(0)) // 3_600_000


def at(hour: int, minute: int = 0, second: float = 0) -> int:
    return int(DAY.timestamp() * 1000) + (hour * 3600 + minute * 60) * 1000 + round(second * 1000)


def iso(time: int) -> str:
    moment = dt.datetime.fromtimestamp(time // 1000, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time % 1000:03d}Z"


def private(address: str) -> bool:
    return address.startswith(("10.", "192.168.", "fd"))


def whole(random: Random, low: int, high: int) -> int:
    # Only random() is promised to give the same numbers in every version of Python.
    return low + int(random.random() * (high - low))


def varied(random: Random, volume: Counters) -> Counters:
    """The volume times 0.8 to 1.2; the overhead that the receiver counts is not in it yet."""
    if not volume[2]:
        return volume
    factor = 0.8 + 0.4 * random.random()
    sent, sent_bytes, received, received_bytes = volume
    return (
        max(1, int(sent * factor)),
        int(sent_bytes * factor),
        max(1, int(received * factor)),
        int(received_bytes * factor),
    )


def allowing_rule(peer: str, direction: str) -> str:
    if direction == "O":
        return "DefaultRule_AllowVnetOutBound" if private(peer) or peer == DNS else "DefaultRule_AllowInternetOutBound"
    return "DefaultRule_AllowVnetInBound" if private(peer) else "UserRule_AllowHttpsInBound"


def flow(
    random: Random,
    start: int,
    src: Nic | str,
    dst: Nic | str,
    port: int | None,
    volume: Counters,
    *,
    protocol: int = TCP,
    code: str = "NX",
    until: int | None = None,
    rule: str = "",
    arrives: bool = True,
) -> Iterator[Line]:
    """The tuples of one allowed flow at each of its logged ends: B, C every five minutes with ``volume`` each, E.

    ``rule`` overrides the rule at the source. What the network drops does not arrive at the other end.
    """
    dst_ip = dst.address if isinstance(dst, Nic) else dst
    src_ip = src if isinstance(src, str) else src.address6 if ":" in dst_ip else src.address
    src_port = None if port is None else whole(random, 49_152, 65_000)
    end = until if until is not None else start + whole(random, 2_000, 25_000)
    steps: list[tuple[int, str, Counters]] = [(start, "B", NONE)]
    steps += [(time, "C", varied(random, volume)) for time in range(start + 300_000, end, 300_000)]
    steps += [(end, "E", varied(random, volume))]
    delay = whole(random, 3, 40)
    for time, state, (sent, sent_bytes, received, received_bytes) in steps:
        if isinstance(src, Nic):
            counters = sent, sent_bytes, received, received_bytes + RECEIVE_OVERHEAD * received
            used = rule or allowing_rule(dst_ip, "O")
            yield Line(
                time, src, src_ip, dst_ip, src_port, port, protocol, "O", state, code, counters, src.nsg_resource, used
            )
        if isinstance(dst, Nic) and arrives:
            counters = sent, sent_bytes + RECEIVE_OVERHEAD * sent, received, received_bytes
            used = allowing_rule(src_ip, "I")
            yield Line(
                time + delay, dst, src_ip, dst_ip, src_port, port, protocol, "I", state, code, counters,
                dst.nsg_resource, used,
            )  # fmt: skip


def denied(
    random: Random, time: int, nic: Nic, peer: str, port: int, direction: str, rule: str, acl: str = "", times: int = 1
) -> Iterator[Line]:
    src, dst = (nic.address, peer) if direction == "O" else (peer, nic.address)
    src_port = whole(random, 49_152, 65_000)
    for _ in range(times):
        yield Line(time, nic, src, dst, src_port, port, TCP, direction, "D", "NX", NONE, acl or nic.nsg_resource, rule)


def platform(nic: Nic, time: int, src: str, src_port: int, dst_port: int, counters: Counters) -> Iterator[Line]:
    """Inbound traffic that the platform let through: PlatformRule under the zero GUID."""
    for offset, state, counted in ((0, "B", NONE), (4_800, "E", counters)):
        yield Line(
            time + offset, nic, src, nic.address, src_port, dst_port, TCP, "I", state, "NX", counted, ZERO_GUID,
            "PlatformRule",
        )  # fmt: skip


def internal_code(client: Nic, hour: int, minute: int) -> str:
    """What the pair of ``client`` and vm-app1 shows at that time."""
    if hour < SWITCH:
        return "NX"
    if client is AKS1:
        return "NX_FALLBACK"
    if client is WIN2 and hour == SWITCH:
        return "NX_HW_NOT_SUPPORTED"
    if client is WIN1 and (hour, minute) == (SWITCH, 2):
        return "NX_SW_NOT_READY"
    if client is WIN3 and hour == SWITCH and minute < 42:
        return "NX_NOT_SUPPORTED"
    return "X"


def day() -> Iterator[Line]:
    """Everything that happened, at every NIC that logged it."""
    random = Random(SEED)
    for hour in HOURS:
        for minute in SLOTS:
            yield from slot(random, hour, minute)
    # A connection pool of vm-app1: the long flow with a C every five minutes, closed for the restart at the switch.
    for first, last in (((6, 4), (10, 54)), ((11, 9), (15, 54))):
        yield from flow(random, at(*first, 11), APP1, SQL1, 1433, SQL, until=at(*last, 41))
    # What nobody listed: 40 MB out in 45 minutes, and two short SSH sessions.
    yield from flow(
        random, at(13, 4, 20), APP1, UNEXPECTED[0], 8443, (3_300, 4_450_000, 1_500, 96_000), until=at(13, 49, 20)
    )
    for hour in (13, 14):
        yield from flow(random, at(hour, 22, 31), APP1, UNEXPECTED[1], 22, (22, 3_600, 19, 4_100))
    yield from restarted()


def restarted() -> Iterator[Line]:
    """An E and a B in the same millisecond: the flow was created anew in place, its later E is an increment."""
    for second, state, counters in (
        (5.120, "B", NONE),
        (31.250, "E", (40, 9_120, 52, 61_440)),
        (31.250, "B", NONE),
        (52.870, "E", (6, 710, 5, 1_180)),
    ):
        yield Line(
            at(8, 22, second), APP1, APP1.address, STORAGE, 50_123, 443, TCP, "O", state, "NX", counters,
            APP1.nsg_resource, "DefaultRule_AllowInternetOutBound",
        )  # fmt: skip


def slot(random: Random, hour: int, minute: int) -> Iterator[Line]:
    """The short flows that start in one minute; all of them end in it."""

    def now() -> int:
        return at(hour, minute, whole(random, 5_000, 30_000) / 1000)

    first, second, third = (minute == m for m in SLOTS)
    for nic in NICS:
        if (nic, hour) == SILENT:
            continue
        if first and nic in (WEB1, APP1, AKS1, SQL1):
            yield from flow(random, now(), nic, DNS, 53, LOOKUP, protocol=UDP)
        if second and nic is not WIN3 and (hour % 2 == 0 or nic in (WEB1, APP1, RHEL1, AKS1, SQL1)):
            rule = "UserRule_AllowAzureCloud443" if nic is AKS1 else ""
            yield from flow(random, now(), nic, MONITOR, 443, AGENT, rule=rule)
    yield from web_slot(random, hour, now, first, second, third)
    yield from app_slot(random, hour, now, first, second, third)
    yield from windows_slot(random, hour, now, first)
    yield from cluster_slot(random, now, third)
    for client in (WEB1, WEB2):
        yield from flow(random, now(), client, APP1, 8080, API, code=internal_code(client, hour, minute))
    for client in (WIN1, WIN2, WIN3, AKS1):
        code, volume = internal_code(client, hour, minute), API if client is AKS1 else FILE_SHARE
        lost = CLASS[code] == "dropped"
        if second or lost:
            port = 8080 if client is AKS1 else 445
            yield from flow(
                random, now(), client, APP1, port, SYN_ONLY if lost else volume, code=code, arrives=not lost
            )
    if third and hour >= SWITCH:
        yield from flow(random, now(), WIN3, APP1, 445, FILE_SHARE, code=internal_code(WIN3, hour, minute))
    if (BATCH1, hour) != SILENT:
        if third:
            yield from flow(random, now(), BATCH1, STORAGE, 443, UPLOAD)
        else:
            yield from flow(random, now(), BATCH1, SQL1, 1433, SQL)


def web_slot(
    random: Random, hour: int, now: Callable[[], int], first: bool, second: bool, third: bool
) -> Iterator[Line]:
    for nic in (WEB1, WEB2):
        for _ in range(2):
            yield from flow(random, now(), f"192.0.2.{whole(random, 1, 250)}", nic, 443, WEB)
    if first:
        yield from flow(random, now(), OFFICE, WEB1, 443, WEB)
        if hour % 2:
            yield from platform(WEB1, now(), PLATFORM_NOISE, 23_456, whole(random, 50_000, 60_000), (1, 128, 0, 0))
    if second:
        yield from flow(random, now(), WEB1, PARTNER6, 443, WEB)
    if third:
        yield from flow(random, now(), WEB1, SIGN_IN, 443, API)
        yield from flow(random, now(), WEB1, WEB2, None, PING, protocol=ICMP, code="X" if hour >= SWITCH else "NX")
        for nic, port in ((WEB1, 8088), (WEB1, 3389), (WEB2, 5060)):
            scanner = f"198.51.100.{whole(random, 100, 250)}"
            if port == 3389:
                yield from denied(
                    random, now(), nic, scanner, port, "I", "BlockHighRiskTCPPortsFromInternet", ADMIN_RULES
                )
            else:
                # Real logs hold exact repeats of a denied tuple; they are attempts, not copies.
                repeats = 3 if (port, hour) == (8088, 7) else 1
                yield from denied(random, now(), nic, scanner, port, "I", "DefaultRule_DenyAllInBound", times=repeats)


def app_slot(
    random: Random, hour: int, now: Callable[[], int], first: bool, second: bool, third: bool
) -> Iterator[Line]:
    if first:
        yield from flow(random, now(), APP1, STORAGE, 443, UPLOAD)
        if hour in (8, 12):
            # Return traffic that the platform logs as a row of its own, from the service's port.
            yield from platform(APP1, now(), STORAGE, 443, 50_124, (2, 108, 0, 0))
        if hour % 2 == 0:
            yield from flow(random, now(), RHEL1, RHUI, 443, PACKAGES)
    if second:
        yield from flow(random, now(), APP1, PRIVATE_ENDPOINT, 443, API)
        if hour >= SWITCH:
            yield from flow(random, now(), APP1, RHEL1, 5000, API, code="NX_LOCAL_DST")
            yield from flow(random, now(), RHEL1, WEB1, 9100, SYN_ONLY, code="NX_NOT_ACCEPTED", arrives=False)
    if third:
        yield from flow(random, now(), APP1, GATEWAY, None, PING, protocol=ICMP)
        yield from flow(random, now(), SQL1, STORAGE, 443, UPLOAD)
        if hour >= SWITCH:
            yield from denied(random, now(), RHEL1, WEB1.address, 9100, "O", "unspecified", "unspecified")


def windows_slot(random: Random, hour: int, now: Callable[[], int], first: bool) -> Iterator[Line]:
    if not first:
        return
    yield from flow(random, now(), WIN3, STORAGE, 443, UPLOAD)
    yield from flow(random, now(), WIN1, SIGN_IN, 443, API)
    if hour in (6, 10, 14):
        yield from flow(random, now(), WIN1, KMS[0], 1688, ACTIVATION)
    if hour % 2 == 0:
        for address in KMS:
            yield from denied(random, now(), WIN2, address, 1688, "O", "UserRule_DenyKms")
    else:
        for address in KMS:
            yield from flow(random, now(), WIN3, address, 1688, SYN_ONLY)


def cluster_slot(random: Random, now: Callable[[], int], third: bool) -> Iterator[Line]:
    allowed = "UserRule_AllowAzureCloud443"
    yield from flow(random, now(), AKS1, API_SERVER, 443, WEB, rule=allowed)
    for address in REGISTRY:
        yield from denied(random, now(), AKS1, address, 443, "O", "UserRule_DenyInternet443")
    if third:
        yield from flow(random, now(), AKS1, API_SERVER, 1194, API, protocol=UDP)
        yield from flow(random, now(), AKS1, API_SERVER, 9000, API)
        yield from flow(random, now(), AKS1, MANAGEMENT, 443, API, rule=allowed)
        yield from flow(random, now(), AKS1, SIGN_IN, 443, API, rule=allowed)


Blobs: TypeAlias = dict[tuple[Nic, int], dict[int, list[Line]]]
"""(NIC, hour of the blob) -> minute -> tuples in order."""
