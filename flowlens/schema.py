"""Every table's columns, every code table and every status word, written once.

Types are those that Delta, Spark and DuckDB all keep: signed integers only, ``timestamp[us, UTC]``, plain text.
Code tables are tuples of rows; each mapping that the rest of flowlens uses is derived from them here.
"""

from __future__ import annotations

from typing import NamedTuple

import polars as pl
import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
TEXT = pa.string()
PORT = pa.int32()
PROTOCOL = pa.int16()
COUNT = pa.int64()
FLAG = pa.bool_()

COUNTER_LIMIT = 2**48
"""A counter at or above this is a reject: no NIC moves 281 TB between two flow tuples."""

SMALL_REPLY_BYTES = 500
"""Received bytes below which no TLS handshake can have passed: a server's hello, certificate and session ticket
with their frame headers take more, a TCP handshake followed by a reset takes less than 400."""

TLS_PORTS = (443, 465, 636, 853, 993, 995, 5671, 8443, 8883)
"""TCP ports on which TLS is spoken from the first byte (IANA's registry of ports: https, submissions, ldaps, domain-s, imaps,
pop3s, amqps, pcsync-https, secure-mqtt). Elsewhere a small reply may be a whole answer: activation on 1688, HTTP on 80."""

REPLY_SOURCE_PORT_BELOW = 1024
REPLY_DESTINATION_PORT_FROM = 32768
"""A tuple from a port below the first to a port from the second on may be the reply half of a flow."""

ZERO_GUID = "00000000-0000-0000-0000-000000000000"
PLATFORM_RULE = "PlatformRule"
UNSPECIFIED = "unspecified"
UNKNOWN_PREFIX = "unknown:"
"""Put before a direction or state code that no table here knows; the code itself is kept."""

FIVE_TUPLE = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol")
COUNTERS = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")


class Column(NamedTuple):
    """One column: name, Arrow type, one sentence of meaning, whether null can stand in it."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False


def _arrow(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema(
        pa.field(c.name, c.type, nullable=True, metadata={"description": c.description, "null": str(c.nullable)})
        for c in columns
    )


def without_rows(schema: pa.Schema) -> pa.Table:
    """An empty table; the way that a schema has itself imports pandas where that is installed.

    >>> without_rows(FLOWS).equals(FLOWS.empty_table())
    True
    """
    return pa.Table.from_batches([], schema)


def polars_schema(schema: pa.Schema) -> pl.Schema:
    """The polars schema of an Arrow schema, derived and never typed again.

    >>> polars_schema(FLOWS)["src_port"]
    Int32
    """
    return pl.Schema(schema)


# Code, name.  The first column is what a VNet flow log writes, the second what every table holds.
FLOW_STATES = (("B", "Begin"), ("C", "Continuing"), ("E", "End"), ("D", "Deny"))
DIRECTIONS = (("I", "Inbound"), ("O", "Outbound"))
FLOW_STATUSES = (("A", "Allowed"), ("D", "Denied"))

# IANA number, name, letter of NSG flow logs.
PROTOCOLS = ((1, "ICMP", ""), (6, "TCP", "T"), (17, "UDP", "U"), (58, "ICMPv6", ""))

# Code, status, the wording of Traffic Analytics (formats.md 6.4), what to do (formats.md 8).
ENCRYPTION_CODES = (
    ("X", "Encrypted", "Encrypted", "Nothing to do."),
    (
        "NX_LOCAL_DST",
        "Unencrypted",
        "Destination on same host",
        "Expected: both VMs share a host and no network is crossed.",
    ),
    (
        "NX",
        "Unencrypted",
        "Unencrypted",
        (
            "Enable VNet encryption on both VNets, then stop (deallocate) and start the VMs; if it is enabled, check the "
            "VM size, Accelerated Networking and the NIC property vnetEncryptionSupported."
        ),
    ),
    (
        "NX_FALLBACK",
        "Unencrypted",
        "Fall back to no encryption",
        (
            "Clear text in spite of the configuration: find the VM that moved to a host without support, redeploy it or "
            "change its size."
        ),
    ),
    (
        "NX_HW_NOT_SUPPORTED",
        "Unencrypted",
        "Unsupported hardware",
        "Stop (deallocate) and start the VM to move it to another host; if it persists, open a support request.",
    ),
    (
        "NX_SW_NOT_READY",
        "Dropped",
        "Software not ready",
        (
            "Traffic was dropped while the host was not ready; passes by itself after a start or a host update, act only "
            "if it lasts."
        ),
    ),
    (
        "NX_NOT_SUPPORTED",
        "Dropped",
        "Discovery not supported",
        "Traffic was dropped because discovery fails on the host: redeploy the VM, else open a support request.",
    ),
    (
        "NX_NOT_ACCEPTED",
        "Dropped",
        "Drop due to no encryption",
        (
            "The drop policy is at work: make the failing side capable of encryption, or use AllowUnencrypted for the time "
            "being."
        ),
    ),
    (
        UNSPECIFIED,
        "Dropped",
        "Unspecified",
        (
            "Denied because of encryption: make both sides capable of encryption, or use AllowUnencrypted for the time "
            "being."
        ),
    ),
)
UNKNOWN_CODE_ADVICE = "An encryption code that is not documented: nothing is claimed about this traffic."

STATE_NAME = dict(FLOW_STATES)
DIRECTION_NAME = dict(DIRECTIONS)
STATUS_NAME = dict(FLOW_STATUSES)
PROTOCOL_NAME = {number: name for number, name, _ in PROTOCOLS}
PROTOCOL_NUMBER = {name.lower(): number for number, name, _ in PROTOCOLS}
PROTOCOL_OF_LETTER = {letter: number for number, _, letter in PROTOCOLS if letter}
ENCRYPTION_STATUS = {code: status for code, status, _, _ in ENCRYPTION_CODES}
ENCRYPTION_CODE_OF_WORDING = {wording.lower(): code for code, _, wording, _ in ENCRYPTION_CODES}
ENCRYPTION_ADVICE = {code: advice for code, _, _, advice in ENCRYPTION_CODES}
ENCRYPTION_SEVERITY = {code: rank for rank, (code, _, _, _) in enumerate(ENCRYPTION_CODES)}
"""Rank of a code from harmless to worst; the order of ENCRYPTION_CODES."""

TCP = PROTOCOL_NUMBER["tcp"]
UDP = PROTOCOL_NUMBER["udp"]

PAIR_STATUSES = ("Encrypted", "Unencrypted", "Mixed", "Dropped", "Unknown")
ELIGIBILITIES = ("eligible", "by design", "public peer", "platform", "unknown peer")
EGRESS_STATUSES = (
    "Denied",
    "Denied at destination",
    "Unanswered",
    "Answered without data",
    "Partly denied",
    "Recovered",
    "Pending",
    "Cannot tell",
    "Not observable",
    "Not seen",
    "Service reached",
    "Reached",
)
"""From the one that needs a person soonest to the one that needs nobody."""
EGRESS_PROBLEMS = EGRESS_STATUSES[:5]
MATCHES = ("address", "name", "service tag", "approximate tag", "port only")
RULE_KINDS = (
    "user",
    "default",
    "admin",
    "platform",
    "encryption",
    "sql-mi-mandatory",
    "sql-mi-optional",
    "sql-mi-obsolete",
)
FIX_WAYS = ("nsg", "firewall", "route")
"""What can mend a failing endpoint: a rule of the NSG, a rule of Azure Firewall, a way out of the subnet."""
OUTBOUND_METHODS = ("nat", "lb", "pip", "firewall", "default")
"""How a subnet gets out: NAT gateway, load balancer with outbound rules, public IPs of its NICs, a route to a firewall, or
default outbound access, which is the one that a private subnet lacks."""
PATHS = (
    "internet",
    "same-region storage",
    "same-region SQL",
    "service endpoint",
    "private endpoint",
    "private peer",
    "platform",
)
READINESS_STATUSES = (
    "Lost",
    "At risk",
    "Unanswered already",
    "Denied already",
    "Cannot tell",
    "Not observable",
    "Stays",
)
"""What becomes of a destination once its subnet is private; At risk where the subnet's outbound method is not known."""
DEPENDENCY_STATUSES = ("Depends", "Not observable")
"""Of a rule: flows that it decided were logged, or none was, which is no leave to remove it."""
COVERAGE_STATES = ("read", "partly read", "empty", "silent", "open", "missing", "failed")
VERDICTS = ("ok", "findings", "not_determined")
ADDRESS_KINDS = (
    "nic",
    "pod",
    "gateway",
    "private endpoint",
    "load balancer",
    "firewall",
    "dns resolver",
    "forwarder",
    "site",
)
"""What an address can be in INVENTORY; only ``nic`` can take part in VNet encryption."""

DEFAULT_RULES = (
    "AllowVnetInBound",
    "AllowAzureLoadBalancerInBound",
    "DenyAllInBound",
    "AllowVnetOutBound",
    "AllowInternetOutBound",
    "DenyAllOutBound",
)
RULE_PREFIX = {"user": "UserRule_", "default": "DefaultRule_"}

FLOWS_COLUMNS = (
    Column("time", TIMESTAMP, "When the tuple was written, by the tuple's own time stamp."),
    Column("src_ip", TEXT, "Address that opened the flow, in canonical text."),
    Column("dst_ip", TEXT, "Address the flow was opened to, in canonical text."),
    Column("src_port", PORT, "Source port; null where the tuple has none, as for ICMP.", True),
    Column("dst_port", PORT, "Destination port; null where the tuple has none, as for ICMP.", True),
    Column("protocol", PROTOCOL, "IANA protocol number."),
    Column("direction", TEXT, "Inbound or Outbound, as seen from the NIC that logged it."),
    Column("flow_state", TEXT, "Begin, Continuing, End or Deny; null in NSG flow logs of version 1.", True),
    Column("flow_status", TEXT, "Allowed or Denied: state D is denied, all else is allowed."),
    Column("encryption_code", TEXT, "Encryption code as logged; null in NSG flow logs.", True),
    Column("packets_sent", COUNT, "Packets source to destination since the flow's last tuple; null where none.", True),
    Column("bytes_sent", COUNT, "Bytes source to destination since the flow's last tuple; null where none.", True),
    Column("packets_received", COUNT, "Packets destination to source since the last tuple; null where none.", True),
    Column("bytes_received", COUNT, "Bytes destination to source since the last tuple; null where none.", True),
    Column("restarted", FLAG, "An End whose Begin follows in the same millisecond of the same flowTuples array."),
    Column("acl_rule", TEXT, "Rule that decided, as logged.", True),
    Column("acl_id", TEXT, "Who decided: NSG, Network Manager, platform or encryption, as logged.", True),
    Column("mac_address", TEXT, "NIC that logged the tuple, 12 upper-case hex digits; null where not logged.", True),
    Column("target_resource_id", TEXT, "VNet, subnet, NIC or NSG that the flow log is on, as logged.", True),
    Column("flow_log_id", TEXT, "Flow log resource, as logged; for NSG flow logs the NSG.", True),
    Column("record_time", TIMESTAMP, "When the record that holds the tuple was written out.", True),
)

CONVERSATION_KEYS = (
    Column("hour", TIMESTAMP, "Start of the bucket: a full hour, or the window's or change's edge inside one."),
    Column("flow_log_id", TEXT, "Flow log resource, as logged.", True),
    Column("target_resource_id", TEXT, "VNet, subnet, NIC or NSG that the flow log is on, as logged.", True),
    Column("mac_address", TEXT, "NIC that logged the flow.", True),
    Column("direction", TEXT, "Inbound or Outbound, as seen from that NIC."),
    Column("src_ip", TEXT, "Address that opened the flow."),
    Column("dst_ip", TEXT, "Address the flow was opened to."),
    Column("dst_port", PORT, "Destination port; null where there is none, and for reply candidates.", True),
    Column("reply_from_port", PORT, "Service port of a reply candidate: low source port, high destination port.", True),
    Column("protocol", PROTOCOL, "IANA protocol number."),
    Column("flow_status", TEXT, "Allowed or Denied."),
    Column("acl_rule", TEXT, "Rule that decided, as logged.", True),
    Column("acl_id", TEXT, "Who decided, as logged.", True),
    Column("encryption_code", TEXT, "Encryption code.", True),
)
CONVERSATION_SUMS = (
    Column("flow_tuples", COUNT, "Flow tuples; null from Traffic Analytics.", True),
    Column("flows_started", COUNT, "Flows that began.", True),
    Column("flows_ended", COUNT, "Flows that ended.", True),
    Column("flows_restarted", COUNT, "Ends that a Begin followed in the same millisecond.", True),
    Column("flows_denied", COUNT, "Attempts that were denied.", True),
    Column("tuples_answered", COUNT, "Tuples with traffic back.", True),
    Column("tuples_unanswered", COUNT, "Tuples with traffic sent and none back.", True),
    Column("tuples_small_reply", COUNT, "Answered tuples whose reply is below SMALL_REPLY_BYTES.", True),
    Column("packets_sent", COUNT, "Packets source to destination.", True),
    Column("bytes_sent", COUNT, "Bytes source to destination.", True),
    Column("packets_received", COUNT, "Packets destination to source.", True),
    Column("bytes_received", COUNT, "Bytes destination to source.", True),
)
CONVERSATION_MINS = (
    Column("first_seen", TIMESTAMP, "Earliest tuple."),
    Column("first_traffic", TIMESTAMP, "Earliest tuple of state Continuing or End.", True),
)
CONVERSATION_MAXS = (
    Column("last_seen", TIMESTAMP, "Latest tuple."),
    Column("last_traffic", TIMESTAMP, "Latest tuple of state Continuing or End.", True),
    Column("last_answered", TIMESTAMP, "Latest tuple with traffic back.", True),
    Column("last_unanswered", TIMESTAMP, "Latest tuple with traffic sent and none back.", True),
)
_BY_NAME = {c.name: c for c in (*CONVERSATION_MINS, *CONVERSATION_MAXS)}
CONVERSATION_COLUMNS = (
    *CONVERSATION_KEYS,
    *CONVERSATION_SUMS,
    *(
        _BY_NAME[name]
        for name in ("first_seen", "last_seen", "first_traffic", "last_traffic", "last_answered", "last_unanswered")
    ),
)

INVENTORY_COLUMNS = (
    Column("vnet", TEXT, "Scope of the address: sub/rg/vnet in lower case, or nic:MAC where the VNet is not known."),
    Column("address", TEXT, "One address; alone it is never an identity, since private ranges repeat across VNets."),
    Column("mac_address", TEXT, "NIC that owns the address; null where no NIC is known.", True),
    Column("workload", TEXT, "VM scale set, node pool or VM where known, else the NIC.", True),
    Column("subnet", TEXT, "Subnet by name where known, else the /24 or /64 of the address.", True),
    Column("kind", TEXT, "What the address is: one of ADDRESS_KINDS."),
    Column("learned_from", TEXT, "logs, traffic analytics, inventory or config."),
)

ENCRYPTION_STATUS_COLUMNS = (
    Column("vnet", TEXT, "VNet of the source, sub/rg/vnet.", True),
    Column("src_workload", TEXT, "Workload that opened the flows."),
    Column("src_subnet", TEXT, "Subnet of the source.", True),
    Column("dst_vnet", TEXT, "VNet of the destination; null where it is not known.", True),
    Column("dst_workload", TEXT, "Workload the flows were opened to, or the peer's address or class."),
    Column("dst_subnet", TEXT, "Subnet of the destination.", True),
    Column("encryption_status", TEXT, "One of PAIR_STATUSES; the worst view of the pair wins."),
    Column("encryption_code", TEXT, "The worst encryption code seen.", True),
    Column("eligibility", TEXT, "One of ELIGIBILITIES: whether VNet encryption can cover the pair."),
    Column(
        "bytes_encrypted", COUNT, "Bytes both ways in encrypted tuples; null where the source has no counters.", True
    ),
    Column(
        "bytes_unencrypted", COUNT, "Bytes both ways in unencrypted tuples; null where there are no counters.", True
    ),
    Column("flows_encrypted", COUNT, "Flows (ended, else started) with code X."),
    Column("flows_unencrypted", COUNT, "Flows with an unencrypted code."),
    Column("flows_dropped", COUNT, "Flows dropped because of encryption."),
    Column("last_unencrypted", TIMESTAMP, "Latest unencrypted traffic.", True),
    Column("first_encrypted", TIMESTAMP, "Earliest encrypted traffic.", True),
    Column("advice", TEXT, "What to do next."),
)

DENIED_EGRESS_COLUMNS = (
    Column("vnet", TEXT, "VNet of the workload, sub/rg/vnet.", True),
    Column("subnet", TEXT, "Subnet of the workload.", True),
    Column("workload", TEXT, "Workload that needs the endpoint."),
    Column("profile", TEXT, "Profile that names the endpoint."),
    Column("cloud", TEXT, "Cloud of the requirement: global, usgov or china."),
    Column("endpoint", TEXT, "The endpoint, or the alternatives of a one-of group."),
    Column("requirement", TEXT, "required, conditional, recommended or safe-to-block."),
    Column("protocol", TEXT, "Protocol name."),
    Column("port", TEXT, "Port, range or list as the profile writes it."),
    Column("status", TEXT, "One of EGRESS_STATUSES."),
    Column("match", TEXT, "How traffic was tied to the endpoint: one of MATCHES; null where none was.", True),
    Column("dst_ip", TEXT, "Address behind the status; null where none was seen.", True),
    Column("service_tag", TEXT, "Service tag of that address.", True),
    Column("acl_rule", TEXT, "Rule that denied it.", True),
    Column("acl_id", TEXT, "Who denied it.", True),
    Column("attempts", COUNT, "Flows towards the endpoint in the window."),
    Column("last_success", TIMESTAMP, "Latest answered traffic.", True),
    Column("last_failure", TIMESTAMP, "Latest denied or unanswered attempt.", True),
    Column("note", TEXT, "What limits the answer.", True),
    Column("fix", TEXT, "The smallest change that mends it.", True),
)

UNEXPECTED_DESTINATIONS_COLUMNS = (
    Column("vnet", TEXT, "VNet of the workload, sub/rg/vnet.", True),
    Column("subnet", TEXT, "Subnet of the workload.", True),
    Column("workload", TEXT, "Workload that talks to the destination."),
    Column("dst_ip", TEXT, "Destination address; null in a row of others.", True),
    Column("dst_port", PORT, "Destination port; null where there is none, and in a row of others.", True),
    Column("protocol", TEXT, "Protocol name."),
    Column("service_tag", TEXT, "Most specific service tag that holds the address.", True),
    Column("region", TEXT, "Azure region of that tag.", True),
    Column("owner", TEXT, "Owner of the address by the files that the user gave.", True),
    Column("country", TEXT, "Its country, by the same files or by Traffic Analytics.", True),
    Column("flows", COUNT, "Flows towards the destination."),
    Column("bytes_sent", COUNT, "Bytes to the destination; null where there are no counters.", True),
    Column("bytes_received", COUNT, "Bytes from the destination; null where there are no counters.", True),
    Column("first_seen", TIMESTAMP, "Earliest tuple."),
    Column("last_seen", TIMESTAMP, "Latest tuple."),
    Column("is_new", FLAG, "Not in the baseline; null without a baseline.", True),
    Column("reason", TEXT, "Why the row is here."),
    Column("destinations", COUNT, "How many destinations the row is of: 1, or those added up in a row of others."),
)

RULE_USAGE_COLUMNS = (
    Column("acl_id", TEXT, "Who decided, as logged.", True),
    Column("acl_rule", TEXT, "Rule that decided, without the log's prefix.", True),
    Column("rule_kind", TEXT, "One of RULE_KINDS."),
    Column("direction", TEXT, "Inbound or Outbound."),
    Column("flows_allowed", COUNT, "Flows it allowed."),
    Column("flows_denied", COUNT, "Attempts it denied."),
    Column("bytes", COUNT, "Bytes both ways of what it allowed; null where there are no counters.", True),
    Column("workloads", COUNT, "Workloads whose traffic it decided."),
    Column("first_seen", TIMESTAMP, "Earliest tuple."),
    Column("last_seen", TIMESTAMP, "Latest tuple."),
)

RULE_DEPENDENCIES_COLUMNS = (
    Column("acl_id", TEXT, "Who decided, as logged; null where nothing was logged.", True),
    Column("acl_rule", TEXT, "Rule that decided, without the log's prefix, or the rule asked for."),
    Column("rule_kind", TEXT, "One of RULE_KINDS."),
    Column("vnet", TEXT, "VNet of the workload, sub/rg/vnet.", True),
    Column("subnet", TEXT, "Subnet of the workload.", True),
    Column("workload", TEXT, "Workload at whose NIC the rule decided.", True),
    Column("direction", TEXT, "Inbound or Outbound, as seen from that NIC.", True),
    Column("peer", TEXT, "Address at the other end.", True),
    Column("port", PORT, "Destination port; null where there is none.", True),
    Column("protocol", TEXT, "Protocol name.", True),
    Column("flow_status", TEXT, "Allowed or Denied.", True),
    Column("flows", COUNT, "Flows that the rule decided."),
    Column("bytes", COUNT, "Bytes both ways of what it allowed; null where there are no counters.", True),
    Column("first_seen", TIMESTAMP, "Earliest tuple.", True),
    Column("last_seen", TIMESTAMP, "Latest tuple.", True),
    Column("status", TEXT, "One of DEPENDENCY_STATUSES."),
    Column("note", TEXT, "What limits the answer, and who decides where the rule is gone."),
)

PRIVATE_SUBNET_READINESS_COLUMNS = (
    Column("vnet", TEXT, "VNet of the subnet, sub/rg/vnet.", True),
    Column("subnet", TEXT, "Subnet.", True),
    Column("outbound", TEXT, "One of OUTBOUND_METHODS; null where nobody said.", True),
    Column("destination", TEXT, "Service tag or address; null for a subnet without flow logs.", True),
    Column("dst_ip", TEXT, "Lowest of its addresses as text; null for private ones.", True),
    Column("port", PORT, "Destination port; null where there is none, and for private addresses.", True),
    Column("protocol", TEXT, "Protocol name; null for private addresses.", True),
    Column("status", TEXT, "One of READINESS_STATUSES."),
    Column("path", TEXT, "One of PATHS; null where it is not known.", True),
    Column("profiles", TEXT, "Profiles with an endpoint there, in a row.", True),
    Column(
        "endpoints", TEXT, "Endpoints there, in a row; those of the service where none is tied to an address.", True
    ),
    Column("workloads", COUNT, "Workloads of the subnet that tried it."),
    Column("addresses", COUNT, "Addresses behind the destination."),
    Column("flows_reached", COUNT, "Flows to addresses that answered."),
    Column("flows_unanswered", COUNT, "Flows to addresses from which nothing came back."),
    Column("flows_denied", COUNT, "Flows to addresses that a rule denied."),
    Column("last_success", TIMESTAMP, "Latest answered traffic.", True),
    Column("note", TEXT, "What the status rests on.", True),
)

COVERAGE_COLUMNS = (
    Column("flow_log_id", TEXT, "Flow log resource.", True),
    Column("target_resource_id", TEXT, "What the flow log is on.", True),
    Column("mac_address", TEXT, "NIC.", True),
    Column("workload", TEXT, "Workload of the NIC.", True),
    Column("hour", TIMESTAMP, "Full hour, UTC."),
    Column("state", TEXT, "One of COVERAGE_STATES."),
    Column("tuples", COUNT, "Flow tuples read."),
    Column("rejected", COUNT, "Flow tuples and records rejected."),
)

DATE = pa.date32()
_REJECTS = pa.list_(pa.struct([("offset", COUNT), ("reason", TEXT), ("sample", TEXT)]))
_NOTES = pa.list_(pa.struct([("note", TEXT), ("count", COUNT)]))
_PLACE_IN_LAKE = (
    Column("blob_id", TEXT, "Blob that holds it: 128-bit hash of account, container, name, creation time, as hex."),
    Column("block", COUNT, "Offset in the blob, in bytes, at which the record that holds it ends."),
    Column("date", DATE, "UTC date of the blob's hour; the first minutes of a day hold tuples of the day before."),
)
LAKE_FLOWS_COLUMNS = (*FLOWS_COLUMNS, *_PLACE_IN_LAKE)
LAKE_LEDGER_COLUMNS = (
    *_PLACE_IN_LAKE,
    Column("kind", TEXT, "One of LEDGER_KINDS."),
    Column(
        "after", COUNT, "Offset at which the record before ends: the row accounts for the bytes from here to block."
    ),
    Column("start", COUNT, "Offset at which the record itself begins; before it stands framing."),
    Column("place", TEXT, "How reading goes on behind it."),
    Column("prefix", TEXT, "Digest of what comes before block; null where the source does not tell.", True),
    Column("source", TEXT, "Account and container, or files."),
    Column("name", TEXT, "Name of the blob."),
    Column("created", TEXT, "When the blob was created; empty for files."),
    Column("generation", COUNT, "How often the content of this very blob was replaced in place."),
    Column("flow_log", TEXT, "Flow log as the blob's name has it."),
    Column("hour", TIMESTAMP, "Hour as the blob's name has it."),
    Column("mac_address", TEXT, "NIC as the blob's name has it."),
    Column("etag", TEXT, "Version that was read.", True),
    Column("closed", FLAG, "The hour was over and the blob was read to its end."),
    Column("provisional", FLAG, "A record rests on where the blob ended: should it grow, it is read anew."),
    Column("records", COUNT, "Records met, rejected ones included."),
    Column("tuples", COUNT, "Flow tuples seen: rows and rejected ones."),
    Column("rows", COUNT, "Rows of the lake that it gave."),
    Column("rejected", COUNT, "Flow tuples that could not be decoded."),
    Column("rejected_records", COUNT, "Records that could not be decoded."),
    Column("strict_records", COUNT, "Records that the strict decoder served."),
    Column("record_bytes", COUNT, "Bytes of records."),
    Column("framing_bytes", COUNT, "Bytes of framing."),
    Column("unread", COUNT, "1 where the blob could not be read to its end."),
    Column("unknown_codes", _NOTES, "Codes that no table knows, with how often they came.", True),
    Column("rejects", _REJECTS, "What was rejected, up to 100 a record, with reason and sample.", True),
)
LEDGER_KINDS = ("record", "end", "unread")
"""A record or broken stretch; what stands behind the last one; a blob that could not be read."""

FLOWS = _arrow(FLOWS_COLUMNS)
LAKE_FLOWS = _arrow(LAKE_FLOWS_COLUMNS)
LAKE_LEDGER = _arrow(LAKE_LEDGER_COLUMNS)
CONVERSATIONS = _arrow(CONVERSATION_COLUMNS)
INVENTORY = _arrow(INVENTORY_COLUMNS)
RESULTS = {
    "encryption_status": _arrow(ENCRYPTION_STATUS_COLUMNS),
    "denied_egress": _arrow(DENIED_EGRESS_COLUMNS),
    "unexpected_destinations": _arrow(UNEXPECTED_DESTINATIONS_COLUMNS),
    "rule_usage": _arrow(RULE_USAGE_COLUMNS),
    "rule_dependencies": _arrow(RULE_DEPENDENCIES_COLUMNS),
    "private_subnet_readiness": _arrow(PRIVATE_SUBNET_READINESS_COLUMNS),
    "coverage": _arrow(COVERAGE_COLUMNS),
}
TABLES = {"flows": FLOWS, "conversations": CONVERSATIONS, "inventory": INVENTORY, **RESULTS}

DICTIONARY = pa.dictionary(pa.int32(), TEXT)
ENCODED_FLOWS = pa.schema(pa.field(f.name, DICTIONARY if f.type == TEXT else f.type) for f in FLOWS)
"""FLOWS as decoders hand it on: the same columns with text as dictionaries, cheap to group by code."""


def plain(flows: pa.Table) -> pa.Table:
    """The same rows with text as plain text, in the contract's types.

    >>> plain(ENCODED_FLOWS.empty_table()).schema.equals(FLOWS)
    True
    """
    return flows.cast(FLOWS)


def encoded(flows: pa.Table) -> pa.Table:
    """The same rows with text as dictionaries that hold nothing else, each column in one chunk.

    >>> encoded(FLOWS.empty_table()).schema.equals(ENCODED_FLOWS)
    True
    """
    columns = [
        column.cast(TEXT).combine_chunks().dictionary_encode() if kind.type == DICTIONARY else column
        for column, kind in zip(flows.columns, ENCODED_FLOWS, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=ENCODED_FLOWS)
