"""The invented networks behind the how-to pages: what happened in each, as flow logs in the container's layout.

Every page of docs/how-to names the function here that makes its folder; what a page says of its logs is what stands below.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOUR = dt.timedelta(hours=1)
DAY = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
X = "11111111-1111-1111-1111-111111111111"
Y = "22222222-2222-2222-2222-222222222222"
INTERNET, VNET = "DefaultRule_AllowInternetOutBound", "DefaultRule_AllowVnetOutBound"
REGISTRY, MONITOR, SIGN_IN, STORAGE = "150.171.70.10", "20.43.70.200", "20.190.144.133", "20.60.172.11"
ACTIVATION, TUNNEL = "20.118.99.224", "20.78.100.20"
ANSWERED = (12, 4_200, 14, 9_800)
UNANSWERED = (3, 180, 0, 0)
RESET = (5, 820, 3, 180)
"""What an application rule that refuses leaves: a hello and a reset, too short for any certificate."""


@dataclass(frozen=True)
class Nic:
    """A VM with one NIC."""

    name: str
    address: str
    subnet: str
    vnet: str = "vnet-app"
    group: str = "rg-app"
    subscription: str = X

    @property
    def mac(self) -> str:
        return "00005E" + "".join(f"{int(part):02X}" for part in self.address.split(".")[1:])

    @property
    def network(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/Microsoft.Network"


@dataclass(frozen=True)
class Talk:
    """A flow in each hour of ``[since, until)``, logged at the NICs of both ends."""

    src: Nic
    dst: Nic | str
    port: int
    since: dt.datetime
    until: dt.datetime
    code: str = "NX"
    counters: tuple[int, int, int, int] = ANSWERED
    denied_by: str = ""
    allowed_by: str = ""
    protocol: int = 6
    nsg: str = "nsg-app"

    def lines(self, hour: dt.datetime, direction: str) -> list[str]:
        """The flow tuples of one hour: begun and ended, or three tries denied."""
        dst = self.dst.address if isinstance(self.dst, Nic) else self.dst
        at = int(hour.timestamp() * 1000) + 600_000 + 1_000 * (self.port % 997)
        head = f"{self.src.address},{dst},{50_000 + hour.hour},{self.port},{self.protocol},{direction}"
        if self.denied_by:
            return [f"{at + 2_000 * n},{head},D,NX,0,0,0,0" for n in range(3)]
        return [
            f"{at},{head},B,{self.code},0,0,0,0",
            f"{at + 30_000},{head},E,{self.code},{','.join(map(str, self.counters))}",
        ]

    def rule(self, direction: str) -> str:
        named = self.denied_by or self.allowed_by
        if named or not isinstance(self.dst, Nic):
            return named or INTERNET
        return VNET if direction == "O" else "DefaultRule_AllowVnetInBound"


def write(folder: Path, nics: Sequence[Nic], talks: Iterable[Talk], start: dt.datetime, hours: int) -> None:
    """The blobs of every NIC for every hour, below ``folder``."""
    by_blob: dict[tuple[Nic, dt.datetime], dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for hour in (start + n * HOUR for n in range(hours)):
        for nic in nics:
            by_blob[nic, hour]
        for talk in talks:
            if talk.since <= hour < talk.until:
                ends = [(talk.src, "O"), *([(talk.dst, "I")] if isinstance(talk.dst, Nic) else [])]
                for nic, direction in (end for end in ends if end[0] in nics):
                    by_blob[nic, hour][talk.nsg, talk.rule(direction)] += talk.lines(hour, direction)
    for (nic, hour), decided in by_blob.items():
        write_blob(folder, nic, hour, decided)


def write_blob(folder: Path, nic: Nic, hour: dt.datetime, decided: Mapping[tuple[str, str], Sequence[str]]) -> None:
    """One blob: what each rule of each NSG decided for a NIC in an hour."""
    flows = [
        {
            "aclID": f"{nic.network}/networkSecurityGroups/{nsg}",
            "flowGroups": [{"rule": rule, "flowTuples": list(lines)}],
        }
        for (nsg, rule), lines in sorted(decided.items())
    ]
    watcher = f"/subscriptions/{nic.subscription}/resourceGroups/NetworkWatcherRG/providers/Microsoft.Network"
    record = {
        "time": f"{hour:%Y-%m-%dT%H}:59:59.0000000Z",
        "macAddress": nic.mac,
        "category": "FlowLogFlowEvent",
        "flowLogResourceID": f"{watcher}/networkWatchers/NetworkWatcher_japaneast/flowLogs/{nic.vnet}".upper(),
        "targetResourceID": f"{nic.network}/virtualNetworks/{nic.vnet}",
        "flowLogVersion": 4,
        "flowRecords": {"flows": flows},
    }
    path = folder.joinpath(
        f"flowLogResourceID={nic.subscription}_NETWORKWATCHERRG".upper().replace(
            "FLOWLOGRESOURCEID=", "flowLogResourceID="
        ),
        f"NETWORKWATCHER_JAPANEAST_{nic.vnet}".upper(),
        f"{hour:y=%Y/m=%m/d=%d/h=%H/m=00}",
        f"macAddress={nic.mac}",
        "PT1H.json",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"records": [record]}), encoding="utf-8", newline="")


def write_inventory(path: Path, nics: Iterable[Nic], *, outbound: Mapping[str, str] | None = None) -> None:
    """Names for the addresses, as Azure Resource Graph gives them; how subnets go out, where that is known."""
    rows = ["vnet,address,mac_address,workload,subnet,kind" + (",outbound" if outbound else "")]
    for nic in nics:
        way = f",{outbound.get(nic.subnet, '')}" if outbound else ""
        rows.append(f"{nic.vnet},{nic.address},{nic.mac},{nic.name},{nic.subnet},nic{way}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def encryption(folder: Path) -> None:
    """Encryption was switched on on 15 June at 10:00; vm-batch kept failing until it was moved at 04:00 the next morning."""
    switch, moved, end = DAY + 10 * HOUR, DAY + 28 * HOUR, DAY + 30 * HOUR
    web, app, db = (
        Nic("vm-web", "10.1.1.4", "snet-web"),
        Nic("vm-app", "10.1.2.4", "snet-app"),
        Nic("vm-db", "10.1.3.4", "snet-db"),
    )
    batch = Nic("vm-batch", "10.1.4.4", "snet-batch")
    large = (90, 120_000, 60, 9_000)
    talks = [
        *(Talk(web, app, 8080, *when) for when in ((DAY, switch, "NX"), (switch, end, "X"))),
        *(Talk(app, db, 1433, *when, large) for when in ((DAY, switch, "NX"), (switch, end, "X"))),
        *(
            Talk(batch, db, 1433, *when)
            for when in ((DAY, switch, "NX"), (switch, moved, "NX_FALLBACK"), (moved, end, "X"))
        ),
    ]
    nics = (web, app, db, batch)
    write(folder / "logs", nics, talks, DAY, 30)
    write_inventory(folder / "inventory.csv", nics)


def private_subnets(folder: Path) -> None:
    """Two subnets go out by default outbound access, one has a NAT gateway; all activate, report and use storage."""
    win, app, job = (
        Nic("vm-win", "10.2.1.4", "snet-win"),
        Nic("vm-app", "10.2.2.4", "snet-app"),
        Nic("vm-job", "10.2.3.4", "snet-job"),
    )
    end = DAY + 12 * HOUR
    talks = [
        Talk(win, ACTIVATION, 1688, DAY, end),
        Talk(win, MONITOR, 443, DAY, end),
        Talk(app, "203.0.113.40", 443, DAY, end),
        Talk(app, STORAGE, 443, DAY, end),
        Talk(app, win, 445, DAY, end),
        Talk(job, MONITOR, 443, DAY, end),
    ]
    nics = (win, app, job)
    write(folder / "logs", nics, talks, DAY, 12)
    write_inventory(
        folder / "inventory.csv", nics, outbound={"snet-win": "default", "snet-app": "default", "snet-job": "nat"}
    )


def aks(folder: Path) -> None:
    """At 14:00 an application rule of the firewall changed: the registry's connections are reset since; the rest works."""
    start, change, end = DAY + 8 * HOUR, DAY + 14 * HOUR, DAY + 18 * HOUR
    node = Nic("aks-system-12345678-vmss000000", "10.3.1.4", "snet-aks", vnet="vnet-aks")
    talks = [
        Talk(node, REGISTRY, 443, start, change),
        Talk(node, REGISTRY, 443, change, end, counters=RESET),
        Talk(node, TUNNEL, 443, start, end),
        Talk(node, TUNNEL, 9000, start, end),
        Talk(node, SIGN_IN, 443, start, end),
    ]
    write(folder / "logs", (node,), talks, start, 10)
    write_inventory(folder / "inventory.csv", (node,))


def last_month(folder: Path) -> None:
    """In May a VM of subscription X sent 38 MB to an unknown address in one night; what subscription Y does is not asked."""
    app = Nic("vm-app", "10.4.1.4", "snet-app")
    other = Nic("vm-other", "10.5.1.4", "snet-other", vnet="vnet-other", group="rg-other", subscription=Y)
    may, june = (dt.datetime(2026, month, 1, tzinfo=dt.UTC) for month in (5, 6))
    night = dt.datetime(2026, 5, 22, 2, tzinfo=dt.UTC)
    talks = [
        Talk(app, MONITOR, 443, may, june + 3 * HOUR),
        Talk(app, STORAGE, 443, may, june),
        Talk(app, "203.0.113.77", 8443, night, night + 2 * HOUR, counters=(26_000, 19_000_000, 11_000, 560_000)),
        Talk(app, "198.51.100.80", 443, june, june + 3 * HOUR),
        Talk(other, "198.51.100.9", 22, may, june),
    ]
    write(folder / "logs", (app,), talks, may, 31 * 24 + 3)
    write(folder / "logs", (other,), talks, night, 6)
    write_inventory(folder / "inventory.csv", (app, other))
    (folder / "expected.toml").write_text(
        '[[expected]]\nservice_tag = "AzureMonitor"\nports = [443]\nname = "agents"\n\n'
        '[[expected]]\nservice_tag = "Storage.JapanEast"\nports = [443]\nname = "backups"\n',
        encoding="utf-8",
    )


def rules(folder: Path) -> None:
    """A rule for a partner that still carries one nightly flow, and one for a migration that nothing uses."""
    app, old = Nic("vm-app", "10.6.1.4", "snet-app"), Nic("vm-old", "10.6.2.4", "snet-old")
    end = DAY + 8 * HOUR
    talks = [
        Talk(app, MONITOR, 443, DAY, end),
        Talk(old, MONITOR, 443, DAY, end),
        Talk(old, "203.0.113.40", 8443, DAY + 2 * HOUR, DAY + 3 * HOUR, allowed_by="UserRule_AllowPartner8443"),
        Talk(app, "198.51.100.7", 25, DAY, end, denied_by="UserRule_DenySmtp"),
    ]
    write(folder / "logs", (app, old), talks, DAY, 8)
    write_inventory(folder / "inventory.csv", (app, old))


def gaps(folder: Path) -> None:
    """One blob of vm-web is gone, although vm-app logged a flow with it in that hour; vm-idle had a quiet hour."""
    app, web, idle = (
        Nic("vm-app", "10.7.1.4", "snet-app"),
        Nic("vm-web", "10.7.2.4", "snet-web"),
        Nic("vm-idle", "10.7.3.4", "snet-idle"),
    )
    end = DAY + 6 * HOUR
    talks = [Talk(web, app, 8080, DAY, end), Talk(app, MONITOR, 443, DAY, end), Talk(idle, MONITOR, 443, DAY, end)]
    write(folder / "logs", (app, web, idle), talks, DAY, 6)
    write_inventory(folder / "inventory.csv", (app, web, idle))
    for nic, hour in ((web, 3), (idle, 4)):
        (gone,) = (folder / "logs").glob(f"**/h={hour:02}/m=00/macAddress={nic.mac}/PT1H.json")
        gone.unlink()


def mornings(folder: Path) -> None:
    """Two days of three VMs: one failure lasts, one ends, and on the second day a new destination shows up."""
    app, web, win = (
        Nic("vm-app", "10.8.1.4", "snet-app"),
        Nic("vm-web", "10.8.2.4", "snet-web"),
        Nic("vm-win", "10.8.3.4", "snet-win"),
    )
    noon, first, end = DAY - 12 * HOUR, DAY - 24 * HOUR, DAY + 24 * HOUR
    talks = [
        Talk(app, MONITOR, 443, first, end),
        Talk(web, MONITOR, 443, first, end),
        Talk(win, MONITOR, 443, first, end),
        Talk(win, ACTIVATION, 1688, first, end, denied_by="UserRule_DenyKms"),
        Talk(web, "198.51.100.40", 443, first, noon),
        Talk(app, "203.0.113.77", 8443, DAY + 3 * HOUR, DAY + 5 * HOUR),
    ]
    nics = (app, web, win)
    write(folder / "logs", nics, talks, first, 48)
    write_inventory(folder / "inventory.csv", nics)


LOGS: Mapping[str, Callable[[Path], None]] = {
    "encryption-switched-on": encryption,
    "private-subnets": private_subnets,
    "aks-cannot-pull": aks,
    "unexpected-egress": last_month,
    "rule-can-go": rules,
    "missing-hours": gaps,
    "every-morning": mornings,
}
"""What makes the folder of each page of docs/how-to."""
