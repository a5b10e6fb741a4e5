"""Rows of NTANetAnalytics as the older table AzureNetworkAnalytics_CL would hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

EXPORT = Path(__file__).parents[1] / "sample_logs" / "traffic_analytics" / "ntanetanalytics.json"
# Written by hand from the schema page of Traffic Analytics: In- and Outbound are those of the source, whatever the direction.
COLUMNS = {
    "SubType_s": "SubType",
    "FlowIntervalStartTime_t": "FlowIntervalStartTime",
    "FlowIntervalEndTime_t": "FlowIntervalEndTime",
    "FlowStartTime_t": "FlowStartTime",
    "FlowEndTime_t": "FlowEndTime",
    "FlowType_s": "FlowType",
    "SrcIP_s": "SrcIp",
    "DestIP_s": "DestIp",
    "DestPort_d": "DestPort",
    "L4Protocol_s": "L4Protocol",
    "FlowDirection_s": "FlowDirection",
    "FlowStatus_s": "FlowStatus",
    "NSGRule_s": "AclRule",
    "MACAddress_s": "MacAddress",
    "Subscription1_g": "SrcSubscription",
    "Subscription2_g": "DestSubscription",
    "NIC1_s": "SrcNic",
    "NIC2_s": "DestNic",
    "VM1_s": "SrcVm",
    "VM2_s": "DestVm",
    "Subnet1_s": "SrcSubnet",
    "Subnet2_s": "DestSubnet",
    "AllowedInFlows_d": "AllowedInFlows",
    "DeniedInFlows_d": "DeniedInFlows",
    "AllowedOutFlows_d": "AllowedOutFlows",
    "DeniedOutFlows_d": "DeniedOutFlows",
    "CompletedFlows_d": "CompletedFlows",
    "InboundPackets_d": "PacketsDestToSrc",
    "OutboundPackets_d": "PacketsSrcToDest",
    "InboundBytes_d": "BytesDestToSrc",
    "OutboundBytes_d": "BytesSrcToDest",
    "SrcPublicIPs_s": "SrcPublicIps",
    "DestPublicIPs_s": "DestPublicIps",
    "IsFlowCapturedAtUDRHop_b": "IsFlowCapturedAtUdrHop",
}
LETTERS = {"Inbound": "I", "Outbound": "O", "Allowed": "A", "Denied": "D", "TCP": "T", "UDP": "U"}


def older(row: Mapping[str, object]) -> dict[str, object]:
    """One row by the older names: numbers are real, words are letters, the NSG is ``sub/rg/nsg``."""
    cells: dict[str, object] = {"TimeGenerated": row["TimeGenerated"]}
    for name, newer in COLUMNS.items():
        cell = row[newer]
        if name.endswith("_d"):
            cell = None if cell is None else float(str(cell))
        elif name in ("FlowDirection_s", "FlowStatus_s", "L4Protocol_s"):
            cell = LETTERS.get(str(cell), cell)
        cells[name] = cell
    group = str(row["AclGroup"]).split("/")
    cells["NSGList_s"] = "/".join((group[2], group[4], group[8])) if len(group) > 8 else ""
    return cells


def older_rows() -> list[dict[str, object]]:
    """The export of sample_logs in the older form."""
    return [older(row) for row in json.loads(EXPORT.read_bytes())]
