"""VNet flow log, version 4: where its records keep things, and its flow tuple of 13 fields.

Source: Microsoft, "Virtual network flow logs overview" (02/2025), sections log format, state, encryption and bandwidth.
"""

from __future__ import annotations

from flowlens import schema
from flowlens.formats import fields
from flowlens.formats.fields import FlowTuple, Malformed
from flowlens.formats.records import Shape

SHAPE = Shape(
    holder="flowRecords",
    inner="flowGroups",
    target=("targetResourceID",),
    # A documentation sample and a hybrid in circulation spell the key as NSG flow logs do.
    flow_log=("flowLogResourceID", "resourceId", "resourceid"),
    acl=(),
)


def vnet_tuple(texts: list[str]) -> FlowTuple:
    """One flow tuple of 13 fields, or of 9 for states that carry no counters; raises Malformed.

    >>> vnet_tuple("1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580".split(",")).bytes_received
    1580
    """
    if len(texts) == 9 and texts[7] in ("B", "D"):
        texts = [*texts, "", "", "", ""]
    if len(texts) != 13:
        raise Malformed(f"expected 13 fields, found {len(texts)}")
    time, src_ip, dst_ip, src_port, dst_port, protocol, direction, state, encryption, *counters = texts
    flow_state = fields.named(state, schema.STATE_NAME, "state")
    return FlowTuple(
        fields.time_stamp(time),
        fields.address(src_ip, "src_ip"),
        fields.address(dst_ip, "dst_ip"),
        fields.whole_or_null(src_port, "src_port", fields.PORT_LIMIT),
        fields.whole_or_null(dst_port, "dst_port", fields.PORT_LIMIT),
        fields.whole(protocol, "protocol", fields.PROTOCOL_LIMIT),
        fields.named(direction, schema.DIRECTION_NAME, "direction"),
        flow_state,
        schema.STATUS_NAME["D" if state == "D" else "A"],
        encryption or None,
        *fields.counters(counters, flow_state),
    )
