"""Columns of AzureNetworkAnalytics_CL, Traffic Analytics on NSG flow logs, by their names in NTANetAnalytics.

Source: the Traffic Analytics schema page of the Azure documentation (2024-05) and columns seen in a real workspace. Suffixes tell
the type: _s text, _d real, _t time, _b boolean, _g a GUID stored as text. In- and outbound bytes are those to and from the
source, whatever the direction of the flow.
"""

from __future__ import annotations

from collections.abc import Mapping

OLDER_TABLE = "AzureNetworkAnalytics_CL"

_SIDES = {"1": "Src", "2": "Dest"}
_OF_A_SIDE = ("NIC", "VM", "Subnet", "LoadBalancer", "ApplicationGateway", "LocalNetworkGateway")
_SPELLED = {"NIC": "Nic", "VM": "Vm"}

NEWER_NAMES: Mapping[str, str] = {
    **{f"{name}_t": name for name in ("FlowIntervalStartTime", "FlowIntervalEndTime", "FlowStartTime", "FlowEndTime")},
    **{f"{name}_d": name for name in ("AllowedInFlows", "AllowedOutFlows", "DeniedInFlows", "DeniedOutFlows")},
    "CompletedFlows_d": "CompletedFlows",
    "OutboundPackets_d": "PacketsSrcToDest",
    "OutboundBytes_d": "BytesSrcToDest",
    "InboundPackets_d": "PacketsDestToSrc",
    "InboundBytes_d": "BytesDestToSrc",
    "SrcIP_s": "SrcIp",
    "DestIP_s": "DestIp",
    "SrcPublicIPs_s": "SrcPublicIps",
    "DestPublicIPs_s": "DestPublicIps",
    **{f"Subscription{n}_{kind}": f"{side}Subscription" for n, side in _SIDES.items() for kind in "gs"},
    **{f"{name}{n}_s": side + _SPELLED.get(name, name) for n, side in _SIDES.items() for name in _OF_A_SIDE},
    **{f"{name}_s": name for name in ("SubType", "FlowType", "FlowDirection", "FlowStatus", "L4Protocol")},
    "DestPort_d": "DestPort",
    "MACAddress_s": "MacAddress",
    "IsFlowCapturedAtUDRHop_b": "IsFlowCapturedAtUdrHop",
    "NSGList_s": "NsgList",
    "NSGRule_s": "NsgRule",
    "Country_s": "Country",
}
"""Column of the older table -> what it is called in the newer; the last of several spellings is the rarer."""

_TYPES = {"s": "string", "g": "string", "t": "datetime", "d": "real", "b": "bool"}
_ABSENT = (
    *("Status", "FlowEncryption", "TargetResourceId", "TargetResourceType", "FlowLogResourceId", "AclGroup", "AclRule"),
    "PrivateEndpointResourceId",
)


def older_source() -> str:
    """Lines of a query that give rows of the older table under the names and types of the newer.

    A table of a workspace has only the columns that were ever written, so an empty table that has them all stands beside it.

    >>> older_source().splitlines()[1]
    '| where isnotnull(FlowIntervalStartTime_t)'
    """
    columns = ", ".join(f"{name}: {_TYPES[name[-1]]}" for name in ("TimeGenerated_t", *NEWER_NAMES))
    columns = columns.replace("TimeGenerated_t", "TimeGenerated")
    written: dict[str, list[str]] = {}
    for older, newer in NEWER_NAMES.items():
        written.setdefault(newer, []).append(older)
    values = [f"{newer} = {_value(names)}" for newer, names in written.items()]
    values += [f'{name} = ""' for name in _ABSENT]
    return "\n".join(
        (
            f"union (datatable({columns}) []), {OLDER_TABLE}",
            "| where isnotnull(FlowIntervalStartTime_t)",
            f"| project TimeGenerated, {', '.join(values)}",
        )
    )


def _value(names: list[str]) -> str:
    name, *others = names
    if others:
        return f"iff(isempty({name}), {others[0]}, {name})"
    if name == "DestPort_d":
        return f"toint({name})"
    return f"tolong({name})" if name.endswith("_d") else name
