"""What Traffic Analytics does not keep of the flow logs that it reads: the only reasons for which both may answer differently.

The list is closed. A difference between flow logs and Traffic Analytics of the same window that none of these facts explains
is a fault, in flowlens or in the data. docs/traffic-analytics.md shows the same list to readers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is not kept: what it is, which cells it may change, and in which tables a row for.

    ``cells`` are (result table, column); ``rows`` are result tables in which a row may be on one side only, or under another
    port.
    """

    name: str
    text: str
    cells: frozenset[tuple[str, str]] = frozenset()
    rows: frozenset[str] = frozenset()


def _cells(**tables: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((table, column) for table, columns in tables.items() for column in columns)


FACTS = (
    Fact(
        "source port",
        "Rows have no source port: a reply that flow logs tell by its ports counts as a flow of its own, unless a hop logged it "
        "beside its forward conversation, and a destination on an ephemeral port keeps its port.",
        _cells(
            rule_usage=("flows_allowed", "bytes", "workloads"),
            encryption_status=("flows_encrypted", "flows_unencrypted"),
        )
        | _cells(unexpected_destinations=("dst_port", "flows")),
        frozenset({"unexpected_destinations", "encryption_status"}),
    ),
    Fact(
        "time of a tuple",
        "A row has the time of its first and of its last tuple, which need not be those with traffic, and all public addresses "
        "of a row share them; whatever is told by a time may be off by up to an interval, and so may be what came first.",
        _cells(
            encryption_status=("first_encrypted", "last_unencrypted", "advice"),
            denied_egress=("last_success", "last_failure"),
            unexpected_destinations=("first_seen", "last_seen"),
            rule_usage=("first_seen", "last_seen"),
        ),
    ),
    Fact(
        "hour of a tuple",
        "A tuple belongs to the interval in which it was written out, not to that of its own time: around a full hour, where "
        "another NIC counts from then on, and at the edges of the window, flows and bytes may be those of another view, and a silent "
        "hour may read missing; so may one beyond a flow log's own hours, which another NIC's rows tell of.",
        _cells(
            encryption_status=(
                "bytes_encrypted",
                "bytes_unencrypted",
                "flows_encrypted",
                "flows_unencrypted",
                "flows_dropped",
            ),
            denied_egress=("attempts",),
            unexpected_destinations=("flows", "bytes_sent", "bytes_received", "first_seen", "last_seen"),
            rule_usage=("flows_allowed", "flows_denied", "bytes", "workloads"),
            coverage=("state",),
        ),
        frozenset({"coverage"}),
    ),
    Fact(
        "state of a tuple",
        "Rows tell neither a flow that only began from one that carried nothing, nor a flow that ended without a packet: their "
        "counters are 0 where flow logs have none, and such a flow is no traffic.",
        _cells(
            encryption_status=(
                "flows_encrypted",
                "flows_unencrypted",
                "bytes_encrypted",
                "bytes_unencrypted",
                "last_unencrypted",
            ),
            unexpected_destinations=("flows", "bytes_sent", "bytes_received"),
            rule_usage=("bytes", "flows_allowed"),
        ),
        frozenset({"encryption_status"}),
    ),
    Fact(
        "size of a reply",
        "A reply is known for all flows of an interval together: several replies that are each too small for data may add up "
        "to one that is not, so Answered without data may read Reached.",
        _cells(denied_egress=("status", "fix", "note", "last_success", "acl_rule", "acl_id")),
    ),
    Fact(
        "number of tuples",
        "Rows are aggregates: how many tuples there were, how many flows restarted, and a blob without any tuple are not kept.",
        _cells(coverage=("tuples", "rejected", "state")),
    ),
    Fact(
        "spelling of names",
        "Names of rules, groups and resources are written in lower case, rules without their prefix.",
        _cells(denied_egress=("acl_rule", "acl_id"), rule_usage=("acl_rule", "acl_id"))
        | _cells(coverage=("flow_log_id", "target_resource_id")),
    ),
)
"""In the order of the docs. The names of VMs and subnets are the other way round: rows have them, flow logs need an inventory."""


def explaining(table: str, column: str) -> tuple[Fact, ...]:
    """The facts that may change a cell of this column.

    >>> [fact.name for fact in explaining("denied_egress", "last_success")]
    ['time of a tuple', 'size of a reply']
    """
    return tuple(fact for fact in FACTS if (table, column) in fact.cells)
