"""NSG flow log, versions 1 and 2: where its records keep things, and its flow tuples of 8 and 13 fields.

Such tuples also stand inside VNet-shaped records, so they are told apart one by one. Source: Microsoft, "Flow logging for
network security groups" (10/2024).
"""

from __future__ import annotations

from flowlens import schema
from flowlens.formats import fields
from flowlens.formats.fields import FlowTuple, Malformed
from flowlens.formats.records import Shape

# The NSG is named once a record; the documentation's text and samples differ in the key's case.
_NSG = ("resourceId", "resourceid")
SHAPE = Shape(holder="properties", inner="flows", target=_NSG, flow_log=_NSG, acl=_NSG)

DECISION_STATES = ("B", "C", "E", "")
"""What stands after the decision in version 2; no VNet flow tuple has an encryption code of that form."""


def is_nsg_tuple(texts: list[str]) -> bool:
    """Whether the fields are those of an NSG flow log: a protocol letter, or a decision followed by a state.

    >>> is_nsg_tuple("1724090346,10.1.0.4,192.0.2.7,35620,443,T,O,A,E,1,74,0,0".split(","))
    True
    >>> is_nsg_tuple("1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580".split(","))
    False
    """
    if len(texts) >= 8 and texts[5] in schema.PROTOCOL_OF_LETTER:
        return True
    return len(texts) == 13 and texts[7] in schema.STATUS_NAME and texts[8] in DECISION_STATES


def nsg_tuple(texts: list[str]) -> FlowTuple:
    """One flow tuple of version 1 (8 fields, no state, no counters) or 2 (13 fields); raises Malformed.

    >>> nsg_tuple("1724090369,192.0.2.9,10.1.0.4,55740,38405,T,I,D,B,,,,".split(",")).flow_state
    'Deny'
    """
    if len(texts) == 8:
        texts = [*texts, "", "", "", "", ""]
    if len(texts) != 13:
        raise Malformed(f"expected 13 fields, found {len(texts)}")
    time, src_ip, dst_ip, src_port, dst_port, protocol, direction, decision, state, *counters = texts
    if decision not in schema.STATUS_NAME:
        raise Malformed(f"decision: expected A or D, found {fields.shown(decision)}")
    # A denied flow is written as D,B; its state is Deny, as in VNet flow logs.
    state = "D" if decision == "D" and state in DECISION_STATES else state
    flow_state = fields.named(state, schema.STATE_NAME, "state") if state else None
    return FlowTuple(
        fields.time_stamp(time),
        fields.address(src_ip, "src_ip"),
        fields.address(dst_ip, "dst_ip"),
        fields.whole_or_null(src_port, "src_port", fields.PORT_LIMIT),
        fields.whole_or_null(dst_port, "dst_port", fields.PORT_LIMIT),
        schema.PROTOCOL_OF_LETTER.get(protocol) or fields.whole(protocol, "protocol", fields.PROTOCOL_LIMIT),
        fields.named(direction, schema.DIRECTION_NAME, "direction"),
        flow_state,
        schema.STATUS_NAME[decision],
        None,
        *fields.counters(counters, flow_state),
    )
