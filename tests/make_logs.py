"""VNet flow log blobs from a few flow tuples, in the layout of the container.

Minutes count from 09:00 UTC on 15 June 2026; a blob is named by its hour of that day.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DAY = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
NINE, TEN, ELEVEN = (DAY + dt.timedelta(hours=hour) for hour in (9, 10, 11))
LATER = DAY + dt.timedelta(days=30)
MACS = tuple(f"00005E00530{n}" for n in range(10))
NSG = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/networkSecurityGroups/nsg"


class Log(NamedTuple):
    """A flow log: its name and the resource it is on."""

    name: str
    target: str

    @property
    def id(self) -> str:
        """Its resource id, as records write it."""
        return f"/SUBSCRIPTIONS/S/RESOURCEGROUPS/NW/PROVIDERS/MICROSOFT.NETWORK/NETWORKWATCHERS/NW/FLOWLOGS/{self.name}"


def vnet_log(vnet: str = "vnet-a", name: str | None = None) -> Log:
    """The flow log of a VNet."""
    return Log(
        (name or vnet).upper(), f"/subscriptions/S/resourceGroups/Rg/providers/Microsoft.Network/virtualNetworks/{vnet}"
    )


def subnet_log(vnet: str, subnet: str) -> Log:
    """The flow log of a subnet."""
    return Log(f"{vnet}-{subnet}".upper(), f"{vnet_log(vnet).target}/subnets/{subnet}")


def nic_log(nic: str) -> Log:
    """The flow log of a NIC; it names no VNet."""
    return Log(nic.upper(), f"/subscriptions/S/resourceGroups/Rg/providers/Microsoft.Network/networkInterfaces/{nic}")


def at(minute: float) -> dt.datetime:
    """The time ``minute`` minutes after nine."""
    return NINE + dt.timedelta(minutes=minute)


def flow(
    src: str,
    dst: str,
    port: int | str,
    direction: str = "O",
    state: str = "E",
    *,
    minute: float = 5,
    src_port: int | str = 50_000,
    protocol: int = 6,
    code: str = "NX",
    counters: tuple[int, int, int, int] = (4, 400, 3, 5_000),
) -> str:
    """A flow tuple of version 4; Begin and Deny carry no counters."""
    numbers = (0, 0, 0, 0) if state in "BD" else counters
    time = int(at(minute).timestamp() * 1000)
    return ",".join(map(str, (time, src, dst, src_port, port, protocol, direction, state, code, *numbers)))


def blob_path(folder: Path, log: Log, mac: str, hour: int) -> Path:
    """Where the blob of a NIC and an hour of the day stands below ``folder``."""
    return folder.joinpath(
        "insights-logs-flowlogflowevent",
        f"flowLogResourceID=/S_NW/NW_{log.name}".lstrip("/"),
        f"{DAY:y=%Y/m=%m/d=%d}/h={hour:02}/m=00",
        f"macAddress={mac}",
        "PT1H.json",
    )


def write_blob(
    folder: Path,
    mac: str,
    tuples: Iterable[str] = (),
    *,
    log: Log | None = None,
    hour: int = 9,
    rule: str = "DefaultRule_AllowVnetOutBound",
    acl: str = NSG,
) -> Path:
    """Write a blob of one record, or of none where there are no tuples; its path."""
    log = log or vnet_log()
    record = {
        "time": f"{DAY:%Y-%m-%d}T{hour:02}:59:59.0000000Z",
        "macAddress": mac,
        "category": "FlowLogFlowEvent",
        "flowLogResourceID": log.id,
        "targetResourceID": log.target,
        "flowLogVersion": 4,
        "flowRecords": {"flows": [{"aclID": acl, "flowGroups": [{"rule": rule, "flowTuples": list(tuples)}]}]},
    }
    return write_text(folder, mac, json.dumps({"records": [record] if tuples else []}), log=log, hour=hour)


def write_text(folder: Path, mac: str, text: str, *, log: Log | None = None, hour: int = 9) -> Path:
    """Write any text where the blob of a NIC and an hour stands; its path."""
    path = blob_path(folder, log or vnet_log(), mac, hour)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path
