"""Views of a flow: who logged it, whose it is, and which row counts.

One flow is logged at its source's NIC, at its destination's NIC, at hops, and once for each flow log that covers a NIC. It
counts once: for each hour by the NIC that owns the source if its log covers that hour (by coverage, not by whether a
row happens to be there), else by the NIC that owns the destination, else at a hop. Where neither end's log covers the
hour, the best row that exists counts, so that nothing is lost.
"""

from __future__ import annotations

from typing import Protocol

import polars as pl

from flowlens import schema
from flowlens.evidence import Inventory, LocalParts, Parts
from flowlens.inventory import EXTERNAL, INTERNAL, vnet_key
from flowlens.nic_hours import COVERED
from flowlens.pieces import Pieces, Step

SOURCE, DESTINATION, HOP = "source", "destination", "hop"
SUBJECTS = ("vnet", "workload", "subnet", "kind", "nic")
"""What is known of an end, as columns ``src_vnet`` … ``dst_nic``; null where the end is not owned by anybody known."""

_FLOW = ("src_ip", "dst_ip", "dst_port", "reply_from_port", "protocol")
_RANK_OF_TARGET = (("/subnets/", 1), ("/virtualnetworks/", 0), ("/networkinterfaces/", 2))


def full_hour(hour: str = "hour") -> pl.Expr:
    """The full hour that a bucket lies in; coverage is by full hours."""
    return pl.col(hour).dt.truncate("1h")


class Rolled(Protocol):
    """The conversations of a scan, wherever they lie."""

    def parts(self) -> Parts:
        """CONVERSATIONS; all rows between two addresses, in whatever direction, are in one part."""
        ...

    def mentions(self, inventory: Inventory) -> pl.DataFrame:
        """What `mentions` finds in them."""
        ...

    def viewed(self, inventory: Inventory, coverage: pl.DataFrame) -> Parts:
        """What `annotate` makes of them; asked for once."""
        ...

    def lazy(self) -> pl.LazyFrame:
        """CONVERSATIONS."""
        ...


class LocalRolled:
    """Conversations that this process holds, in memory or in temporary files."""

    def __init__(self, store: Pieces) -> None:
        self._store = store
        self._ends: Pieces | None = None

    def parts(self) -> Parts:
        """All of them as one part."""
        return LocalParts((self._store.lazy(),))

    def mentions(self, inventory: Inventory) -> pl.DataFrame:
        """What `mentions` finds in them."""
        self._ends = self._store.mapped(lambda part: with_ends(part, inventory))
        return mentions(self._ends.lazy())

    def viewed(self, inventory: Inventory, coverage: pl.DataFrame) -> Parts:
        """What `annotate` makes of them; what `mentions` has prepared is used up."""
        assert self._ends is not None, "coverage comes from mentions"
        parts = annotate(self._ends, inventory, coverage)
        self._ends.discard()
        return LocalParts(tuple(part.lazy() for part in parts))

    def lazy(self) -> pl.LazyFrame:
        """CONVERSATIONS."""
        return self._store.lazy()


def annotate(ends: Pieces, inventory: Inventory, coverage: pl.DataFrame) -> tuple[Pieces, ...]:
    """CONVERSATIONS with what is known of both ends and which rows count, a destination's rows together.

    ``ends`` is what ``with_ends`` gave.

    Adds ``vnet`` (of the logging NIC), ``view`` (source, destination, hop), ``counted``, ``logged_once`` (false for the same
    NIC's further flow logs), ``decides`` (false for what such a log repeats of a decision), ``is_reply``, ``src_place`` and ``dst_place`` (internal, platform, external), and for both
    ends the columns SUBJECTS plus ``src_ambiguous`` and ``dst_ambiguous``.
    """
    whole = ends.lazy()
    steps = (_with_logged_once(whole, coverage), _with_replies(whole), _with_covered(inventory, coverage))

    def judged(rows: pl.LazyFrame) -> pl.LazyFrame:
        for step in steps:
            rows = step(rows)
        return rows

    covered = ends.mapped(judged)
    counted = covered.parted(_with_counted(covered.lazy()), "dst_ip")
    covered.discard()
    return counted


def with_ends(conversations: pl.LazyFrame, inventory: Inventory) -> pl.LazyFrame:
    """CONVERSATIONS with ``vnet``, ``view`` and, for both ends, place and SUBJECTS."""
    places = inventory.places.lazy()
    nics = inventory.nics.lazy().select("mac_address", vnet_of_nic="vnet")
    rows = conversations.join(nics, on="mac_address", how="left", maintain_order="left").with_columns(
        vnet=pl.coalesce("vnet_of_nic", vnet_key(pl.col("target_resource_id")), pl.lit("unknown"))
    )
    subjects = subjects_of(inventory).lazy()
    owned = (
        inventory.table.lazy()
        .filter(pl.col("mac_address").is_not_null())
        .select("vnet", "address", "mac_address", owns=pl.lit(True))
        .unique()
    )
    for end in ("src", "dst"):
        address = f"{end}_ip"
        rows = (
            rows.join(places, left_on=address, right_on="address", how="left", maintain_order="left")
            .rename({"place": f"{end}_place"})
            .join(
                subjects.rename({s: f"{end}_{s}" for s in SUBJECTS} | {"ambiguous": f"{end}_ambiguous"}),
                left_on=["vnet", address],
                right_on=["seen_in", "address"],
                how="left",
                maintain_order="left",
            )
            .join(
                owned,
                left_on=["vnet", address, "mac_address"],
                right_on=["vnet", "address", "mac_address"],
                how="left",
                maintain_order="left",
            )
            .rename({"owns": f"owns_{end}"})
            .with_columns(pl.col(f"{end}_place").fill_null(EXTERNAL), pl.col(f"owns_{end}").fill_null(False))
        )
    outbound = pl.col("direction") == "Outbound"
    view = (
        pl.when(outbound & pl.col("owns_src"))
        .then(pl.lit(SOURCE))
        .when(~outbound & pl.col("owns_dst"))
        .then(pl.lit(DESTINATION))
        .otherwise(pl.lit(HOP))
    )
    return rows.with_columns(view=view).drop("vnet_of_nic", "owns_src", "owns_dst")


def subjects_of(inventory: Inventory) -> pl.DataFrame:
    """(seen_in, address) -> who it is: the VNet's own addresses, and those of peered VNets."""
    own = inventory.table.group_by("vnet", "address").agg(
        pl.col("workload").min(),
        pl.col("subnet").min(),
        pl.col("kind").min(),
        nic=pl.col("mac_address").drop_nulls().unique().sort().str.join("+"),
    )
    own = own.with_columns(nic=pl.when(pl.col("nic") != "").then("nic"), ambiguous=pl.lit(False))
    near = own.select(pl.col("vnet").alias("seen_in"), "address", "vnet", *SUBJECTS[1:], "ambiguous")
    far = (
        inventory.peers.join(near, left_on=["vnet", "address"], right_on=["seen_in", "address"], how="anti")
        .rename({"vnet": "seen_in", "owner_vnet": "vnet", "ambiguous": "unclear"})
        .join(own, on=["vnet", "address"], how="left")
    )
    unclear = pl.col("unclear")
    far = far.with_columns(*(pl.when(~unclear).then(pl.col(s)).alias(s) for s in SUBJECTS), ambiguous=unclear)
    return pl.concat([near, far.select(near.columns)])


def _with_logged_once(rows: pl.LazyFrame, coverage: pl.DataFrame) -> Step:
    """Of several flow logs on one NIC the VNet's counts, then the subnet's, then the NIC's: the first that covers the hour.

    The logs of two NSGs, one of the subnet and one of the NIC, are no copies: each holds the decisions of its own rules. Each
    decision counts, and of each flow the log that denied it, for whatever one lets through the other may still deny.
    """
    logs = ["flow_log_id", "target_resource_id"]
    target = pl.col("target_resource_id").str.to_lowercase()
    rank = pl.lit(3)
    for part, place in _RANK_OF_TARGET:
        rank = pl.when(target.str.contains(part, literal=True) & (rank == 3)).then(place).otherwise(rank)
    read = coverage.filter(pl.col("state").is_in(COVERED)).select("mac_address", "hour", *logs, covers=pl.lit(True))
    several = (
        coverage.select("mac_address", *logs)
        .drop_nulls("mac_address")
        .unique()
        .group_by("mac_address")
        .agg(n=pl.len())
        .filter(pl.col("n") > 1)
    )
    if several.is_empty():
        return lambda rows: rows.with_columns(logged_once=pl.lit(True), decides=pl.lit(True))
    seen = (
        rows.join(several.lazy(), on="mac_address", how="semi")
        .select("mac_address", *logs, hour=full_hour())
        .unique()
        .collect(engine="streaming")
    )
    order = [rank, *(pl.col(name) for name in logs)]
    best = {"best_log": "flow_log_id", "best_target": "target_resource_id"}
    nic_hour = ["mac_address", "full_hour"]
    chosen = (
        seen.join(read, on=["mac_address", "hour", *logs], how="full", coalesce=True, nulls_equal=True)
        .filter("covers")
        .sort(*order, nulls_last=True)
        .group_by("mac_address", full_hour="hour", maintain_order=True)
        .first()
        .filter(~_of_nsg())
        .select(*nic_hour, **best)
    )
    # Where no log covers the hour, each may hold the late tuples of other flows: then the first counts that has the flow.
    flow = [*nic_hour, "direction", *_FLOW]
    late = (
        rows.with_columns(full_hour=full_hour())
        .join(several.lazy(), on="mac_address", how="semi")
        .join(chosen.lazy(), on=nic_hour, how="anti")
        .group_by(*flow, *logs)
        .agg(denies=(pl.col("flow_status") == "Denied").any())
        .collect(engine="streaming")
        .join(read.rename({"hour": "full_hour"}), on=[*nic_hour, *logs], how="left", nulls_equal=True)
        .sort(pl.col("covers").is_null(), rank, ~pl.col("denies"), *logs, nulls_last=True)
        .group_by(flow, maintain_order=True)
        .first()
        .select(*flow, late_log="flow_log_id", late_target="target_resource_id")
    )
    same = pl.all_horizontal(
        pl.col(name).eq_missing(pl.coalesce(best, late))
        for name, best, late in (
            ("flow_log_id", "best_log", "late_log"),
            ("target_resource_id", "best_target", "late_target"),
        )
    )
    several_logs = pl.col("best_log").is_not_null() | pl.col("late_log").is_not_null()
    return lambda rows: (
        rows.with_columns(full_hour=full_hour())
        .join(chosen.lazy(), on=nic_hour, how="left", maintain_order="left")
        .join(late.lazy(), on=flow, how="left", nulls_equal=True, maintain_order="left")
        .with_columns(logged_once=same | ~several_logs)
        .with_columns(decides=pl.col("logged_once") | (pl.col("best_log").is_null() & _of_nsg()))
        .drop("full_hour", "best_log", "best_target", "late_log", "late_target")
    )


def _of_nsg() -> pl.Expr:
    """Whether a row is of the flow log of an NSG."""
    of_nsg = pl.col("target_resource_id").str.to_lowercase().str.contains("/networksecuritygroups/", literal=True)
    return of_nsg.fill_null(False)


def _with_replies(rows: pl.LazyFrame) -> Step:
    """A reply candidate is a reply only if its forward conversation is there too, so that a low source port can't hide egress.

    Traffic Analytics keeps no source port. There a row of a hop towards an ephemeral port is a reply where the hop logged the
    way back's forward conversation.
    """
    reverse = {"vnet": "vnet", "src_ip": "dst_ip", "dst_ip": "src_ip", "protocol": "protocol"}
    ports = {**reverse, "dst_port": "reply_from_port"}
    candidate = pl.col("reply_from_port").is_not_null()
    is_reply = _with_reverse(rows, candidate, ports, "is_reply")
    portless = (
        pl.col("flow_tuples").is_null()
        & (pl.col("view") == HOP)
        & (pl.col("dst_port") >= schema.REPLY_DESTINATION_PORT_FROM).fill_null(False)
    )
    has_reverse = _with_reverse(rows, portless, reverse, "has_reverse")
    either = pl.col("is_reply") | (portless & pl.col("has_reverse"))
    return lambda rows: has_reverse(is_reply(rows)).with_columns(is_reply=either).drop("has_reverse")


def _with_reverse(rows: pl.LazyFrame, candidates: pl.Expr, reverse: dict[str, str], flag: str) -> Step:
    """``flag``: whether the row's reverse conversation was logged in the same VNet; looked up for ``candidates`` only.

    A conversation that was denied has no replies.
    """
    key = list(reverse)
    # First by itself: in one plan the engine may hold what it reads of one side while the join waits for the other.
    wanted = (
        rows.filter(candidates)
        .select(**{name: pl.col(source) for name, source in reverse.items()})
        .unique()
        .collect(engine="streaming")
    )
    found = (
        rows.filter(pl.col("reply_from_port").is_null(), pl.col("flow_status") == "Allowed")
        .select(key)
        .join(wanted.lazy(), on=key, how="semi")
        .unique()
        .with_columns(pl.lit(True).alias(flag))
        .collect(engine="streaming")
    )
    return lambda rows: rows.join(
        found.lazy(), left_on=list(reverse.values()), right_on=key, how="left", maintain_order="left"
    ).with_columns(pl.col(flag).fill_null(False))


def _with_covered(inventory: Inventory, coverage: pl.DataFrame) -> Step:
    """``src_covered``, ``dst_covered``, ``own_covered``: whether the log of that NIC was read for the row's hour."""
    covered = _covered(inventory, coverage).lazy()

    def step(rows: pl.LazyFrame) -> pl.LazyFrame:
        rows = rows.with_columns(full_hour=full_hour())
        for column, flag in (("src_nic", "src_covered"), ("dst_nic", "dst_covered"), ("mac_address", "own_covered")):
            rows = rows.join(
                covered.select(pl.col("nic").alias(column), "full_hour", pl.lit(True).alias(flag)),
                on=[column, "full_hour"],
                how="left",
                maintain_order="left",
            ).with_columns(pl.col(flag).fill_null(False))
        return rows.drop("full_hour")

    return step


def _with_counted(rows: pl.LazyFrame) -> Step:
    """``counted``: the row is the one that counts for its flow in its hour.

    Where the source's log covers the hour its rows count, else the destination's. Where neither does, the best that was
    logged all the same counts: a hop whose log covers the hour, else late tuples that stand in the next hour's blob at the
    source, at the destination, at a hop.
    """
    view, src, dst = pl.col("view"), pl.col("src_covered"), pl.col("dst_covered")
    by_coverage = pl.when(view == SOURCE).then(src).when(view == DESTINATION).then(~src & dst).otherwise(pl.lit(False))
    makeshift = ~src & ~dst & pl.col("logged_once") & ~pl.col("is_reply")
    rank = (
        pl.when((view == HOP) & pl.col("own_covered"))
        .then(0)
        .when(view == SOURCE)
        .then(1)
        .when(view == DESTINATION)
        .then(2)
        .otherwise(3)
    )
    at_hop = view == HOP
    # Of a hop only the leg that comes in counts, unless it logged none; of several hops the first by MAC.
    place = pl.struct(
        rank=rank,
        direction=pl.when(at_hop).then("direction").otherwise(pl.lit("")),
        mac_address=pl.when(at_hop).then("mac_address").otherwise(pl.lit("")),
    )
    # The same addresses talk in several VNets; where neither end is known, only the place of logging tells them apart.
    between = pl.concat_str(
        pl.col("src_vnet").fill_null("?"),
        pl.col("dst_vnet").fill_null("?"),
        pl.when(pl.col("src_vnet").is_null() & pl.col("dst_vnet").is_null()).then("vnet").otherwise(pl.lit("")),
        separator="|",
    )
    key = ["hour", *_FLOW, "between"]
    best = (
        rows.filter(makeshift)
        .select("hour", *_FLOW, between=between, place=place)
        .group_by(key)
        .agg(best=pl.col("place").sort().first())
        .collect(engine="streaming")
    )
    counted = (
        pl.col("logged_once")
        & ~pl.col("is_reply")
        & (by_coverage | (makeshift & pl.col("place").eq_missing(pl.col("best"))))
    )
    return lambda rows: (
        rows.with_columns(place=place, between=between)
        .join(best.lazy(), on=key, how="left", nulls_equal=True, maintain_order="left")
        .with_columns(counted=counted)
        .drop("place", "between", "best", "src_covered", "dst_covered", "own_covered")
    )


def _covered(inventory: Inventory, coverage: pl.DataFrame) -> pl.DataFrame:
    """(nic, full_hour) whose log was read; an address that changed hands is covered where any of its NICs is."""
    read = (
        coverage.filter(pl.col("state").is_in(COVERED))
        .select(nic="mac_address", full_hour="hour")
        .drop_nulls()
        .unique()
    )
    groups = (
        subjects_of(inventory).select("nic").drop_nulls().unique().filter(pl.col("nic").str.contains("+", literal=True))
    )
    shared = groups.with_columns(member=pl.col("nic").str.split("+")).explode("member")
    return pl.concat([read, shared.join(read, left_on="member", right_on="nic").select("nic", "full_hour")]).unique()


def mentions(ends: pl.LazyFrame) -> pl.DataFrame:
    """(mac_address, hour, told_by) of NICs with which another NIC, ``told_by``, logged a flow in that full hour."""
    pieces = [
        ends.filter(pl.col(f"{end}_nic").is_not_null() & pl.col(f"{end}_nic").ne_missing(pl.col("mac_address"))).select(
            mac_address=f"{end}_nic", hour=full_hour(), told_by="mac_address"
        )
        for end in ("src", "dst")
    ]
    return pl.concat(pieces).unique().collect(engine="streaming")


def is_egress() -> pl.Expr:
    """Rows from an internal to an external or platform address, whatever the direction letter; replies are none."""
    return (pl.col("src_place") == INTERNAL) & (pl.col("dst_place") != INTERNAL) & ~pl.col("is_reply")
