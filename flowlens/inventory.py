"""INVENTORY: who an address is, and where that was learned.

Private ranges repeat across VNets and pod ranges across clusters, so an address alone is never an identity: everything
here is keyed by (VNet, address). From the logs themselves: the source of a NIC's outbound and the destination of its
inbound flows are its own addresses, unless the NIC is a forwarder, that is, logs one conversation in both directions.
"""

from __future__ import annotations

import csv
import functools
import io
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from flowlens import schema
from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import Inventory, Parts, together
from flowlens.prefixes import INTERNAL_PREFIXES, PLATFORM_PREFIXES, PrefixTable, subnet_of

SCHEMA = schema.polars_schema(schema.INVENTORY)
FIELDS = ("vnet", "address", "mac_address", "workload", "subnet", "kind")
"""Columns of a user's inventory file; ``address`` or ``mac_address`` is required."""

_OUTBOUND = "outbound"
_VNET = r"(?i)^/?subscriptions/([^/]+)/resourcegroups/([^/]+)/providers/microsoft\.network/virtualnetworks/([^/]+)"
_SUBNET = r"(?i)/virtualnetworks/[^/]+/subnets/([^/]+)"
_NIC = r"(?i)/networkinterfaces/([^/]+)"
_MAC = re.compile(r"[0-9A-F]{12}")
_FORWARDED = ("mac_address", "src_ip", "dst_ip", "dst_port", "reply_from_port", "protocol")

INTERNAL, PLATFORM, EXTERNAL = "internal", "platform", "external"


@dataclass(frozen=True, slots=True)
class Networks:
    """The user's own view of address space: what is internal, what a prefix is called.

    ``names`` maps a prefix to a name (VNet, subnet or site); ``internal`` adds to private, link-local, unique-local and
    shared space, which is internal by default.

    >>> Networks(names=(("10.0.1.0/24", "snet-web"),)).subnets(pl.Series(["10.0.1.7", "10.0.2.7"])).to_list()
    ['snet-web', '10.0.2.0/24']
    """

    internal: tuple[str, ...] = ()
    names: tuple[tuple[str, str], ...] = ()

    def places(self, addresses: pl.Series) -> pl.Series:
        """``internal``, ``platform`` or ``external`` for each address.

        >>> Networks().places(pl.Series(["10.0.0.4", "168.63.129.16", "203.0.113.7"])).to_list()
        ['internal', 'platform', 'external']
        """
        return _spaces(tuple(self.internal)).longest(addresses).fill_null(EXTERNAL).rename("place")

    def subnets(self, addresses: pl.Series) -> pl.Series:
        """The name of the smallest named prefix that holds each address, else its /24 or /64."""
        named = PrefixTable.build(self.names).longest(addresses) if self.names else pl.Series([None] * len(addresses))
        return named.cast(pl.String).fill_null(subnet_of(addresses)).rename("subnet")


@functools.lru_cache(maxsize=16)
def _spaces(internal: tuple[str, ...]) -> PrefixTable[str]:
    """What is internal, ``internal`` besides, and what is the platform's."""
    inside = [(prefix, INTERNAL) for prefix in (*INTERNAL_PREFIXES, *internal)]
    return PrefixTable.build([*inside, *((prefix, PLATFORM) for prefix in PLATFORM_PREFIXES)])


def vnet_key(target: pl.Expr) -> pl.Expr:
    """``sub/rg/vnet`` in lower case of a target resource id; null where it names no VNet.

    >>> target = "/subscriptions/S/resourceGroups/R/providers/Microsoft.Network/virtualNetworks/V/subnets/x"
    >>> pl.select(vnet_key(pl.lit(target))).item()
    's/r/v'
    """
    found = target.str.extract_groups(_VNET).struct
    return pl.concat_str([found.field(str(n)) for n in (1, 2, 3)], separator="/").str.to_lowercase()


def learn(
    conversations: Parts,
    *,
    known: pl.DataFrame | None = None,
    networks: Networks | None = None,
    forwarders: Iterable[str] = (),
    logged: pl.DataFrame | None = None,
) -> Inventory:
    """Inventory learned from CONVERSATIONS and completed by ``known`` rows (INVENTORY columns, any number of sources).

    The rows between two addresses, in whatever direction, are all in one part of ``conversations``.
    ``forwarders`` are MACs already known to forward, as Traffic Analytics says of UDR hops. ``logged`` (mac_address,
    target_resource_id) are NICs with a log, those among them whose log holds no flow.
    """
    networks = networks or Networks()
    known = known if known is not None else pl.DataFrame(schema=SCHEMA)
    places, targets, forwarders_seen, claims = together(conversations, functools.partial(_looked, networks=networks))
    places, targets = places.unique().sort("address"), targets.unique()
    if logged is not None:
        targets = pl.concat([targets, logged.select(targets.columns)]).unique()
    vnet_of_nic = _vnet_of_nic(targets, known)
    by_nic = known.select("mac_address").join(vnet_of_nic, on="mac_address", how="left", maintain_order="left")
    known = known.with_columns(vnet=pl.when(pl.col("vnet") != "").then("vnet").otherwise(by_nic["vnet"].fill_null("")))
    forwarding = {*forwarders_seen["mac_address"].unique().to_list(), *forwarders}
    claims = _believed(claims, forwarding).join(vnet_of_nic, on="mac_address", how="left")
    claims = _without_forwarders_claims(claims.with_columns(pl.col("vnet").fill_null("")), forwarding)
    known = _with_owning_vnet(known, claims)
    nics = _nics(targets, vnet_of_nic, claims, known, forwarding, networks)
    table = _table(claims, nics, known, networks)
    owners = table.filter(pl.col("mac_address").is_not_null()).select("vnet", "address").unique()
    internal = places.filter(pl.col("place") == INTERNAL).select("address")
    seen = functools.partial(_seen_elsewhere, vnet_of_nic=vnet_of_nic, owners=owners, internal=internal)
    met, strangers = together(conversations, seen)
    peers = _peers(met, strangers, owners)
    return Inventory(table, nics, places, peers, frozenset(forwarding))


def _looked(conversations: pl.LazyFrame, networks: Networks) -> tuple[pl.DataFrame, ...]:
    """What a part of the conversations shows: places of addresses, targets of NICs, NICs that forward, and claims."""
    places = _places(conversations, networks)
    internal = places.lazy().filter(pl.col("place") == INTERNAL).select("address")
    rows = conversations.select("target_resource_id", "direction", "flow_status", *_FORWARDED)
    targets = rows.select("mac_address", "target_resource_id").unique().collect(engine="streaming")
    forwarded = _forwarded(rows, internal)
    return places, targets, forwarded.select("mac_address").unique(), _claims(rows, internal, forwarded)


def _places(conversations: pl.LazyFrame, networks: Networks) -> pl.DataFrame:
    """Internal and platform addresses among all that were seen; external ones are left out, since they are many."""

    def of_batch(rows: pl.DataFrame) -> pl.DataFrame:
        both = pl.concat([rows.select(address="src_ip"), rows.select(address="dst_ip")]).unique()
        return both.with_columns(networks.places(both["address"])).filter(pl.col("place") != EXTERNAL)

    # Batch by batch, so that the external addresses of a scan of the Internet are never held together.
    ends = conversations.select("src_ip", "dst_ip")
    kinds = {"address": pl.String, "place": pl.String}
    placed = ends.map_batches(of_batch, schema=kinds, streamable=True).unique().collect(engine="streaming")
    return placed.sort("address")


def _vnet_of_nic(targets: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    logged = targets.select("mac_address", vnet=vnet_key(pl.col("target_resource_id")))
    told = known.select("mac_address", pl.col("vnet")).filter(pl.col("vnet").str.contains("/"))
    vnets = pl.concat([logged, told]).drop_nulls().group_by("mac_address").agg(pl.col("vnet").min())
    # A NIC whose VNet nobody names is a scope of its own: no claim is made that two such NICs share a VNet.
    return (
        targets.select("mac_address")
        .drop_nulls()
        .unique()
        .join(vnets, on="mac_address", how="full", coalesce=True)
        .with_columns(pl.col("vnet").fill_null("nic:" + pl.col("mac_address")))
        .sort("mac_address")
    )


def _forwarded(rows: pl.LazyFrame, internal: pl.LazyFrame) -> pl.DataFrame:
    """The conversations that a NIC logs in both directions, since it forwards."""
    # A letter that nobody documented is no direction.
    directed = rows.filter(pl.col("mac_address").is_not_null(), pl.col("direction").is_in(["Inbound", "Outbound"]))
    directed = directed.join(internal, left_on="src_ip", right_on="address", how="semi")

    def both_ways(key: Sequence[str], among: pl.LazyFrame) -> pl.LazyFrame:
        return among.group_by(key).agg(pl.col("direction").n_unique()).filter(pl.col("direction") > 1).select(key)

    # First by the few sources that a NIC logs both ways: who scans the Internet has millions of conversations one way.
    source = ("mac_address", "src_ip")
    sources = both_ways(source, directed).collect(engine="streaming")
    among = directed.join(sources.lazy(), on=source, how="semi")
    return both_ways(_FORWARDED, among).collect(engine="streaming")


def _claims(rows: pl.LazyFrame, internal: pl.LazyFrame, forwarded: pl.DataFrame) -> pl.DataFrame:
    """(mac_address, address, sent): the addresses that NICs show to be their own, ``sent`` where a forwarder's is believed too."""
    own = rows.filter(pl.col("mac_address").is_not_null()).join(
        forwarded.lazy(), on=_FORWARDED, how="anti", nulls_equal=True
    )
    # A hop logs strangers' replies and denied forward legs in one direction only, so of a forwarder just what it sends
    # itself is believed.
    sent = (pl.col("flow_status") == "Allowed") & pl.col("reply_from_port").is_null()
    sends = own.filter(pl.col("direction") == "Outbound").select("mac_address", address="src_ip", sent=sent)
    receives = own.filter(pl.col("direction") == "Inbound").select("mac_address", address="dst_ip", sent=pl.lit(False))
    return pl.concat([sends, receives]).unique().join(internal, on="address", how="semi").collect(engine="streaming")


def _believed(claims: pl.DataFrame, forwarding: set[str]) -> pl.DataFrame:
    """(mac_address, address), each once."""
    forwards = pl.col("mac_address").is_in(list(forwarding))
    return claims.filter(~forwards | pl.col("sent").fill_null(False)).select("mac_address", "address").unique()


def _without_forwarders_claims(claims: pl.DataFrame, forwarding: set[str]) -> pl.DataFrame:
    """Claims where an address that a plain NIC claims too is not the forwarder's."""
    plain = claims.filter(~pl.col("mac_address").is_in(list(forwarding))).select("vnet", "address").unique()
    contested = claims.filter(pl.col("mac_address").is_in(list(forwarding))).join(plain, on=["vnet", "address"])
    return claims.join(contested, on=["vnet", "address", "mac_address"], how="anti")


def _with_owning_vnet(known: pl.DataFrame, claims: pl.DataFrame) -> pl.DataFrame:
    """The rows, those that name an address and nothing of its place put into the one VNet that owns the address."""
    owners = pl.concat([claims.select("vnet", "address"), known.select("vnet", "address")])
    owner = (
        owners.filter(pl.col("vnet") != "", pl.col("address") != "")
        .unique()
        .group_by("address")
        .agg(owner=pl.col("vnet").min(), owners=pl.len())
        .filter(pl.col("owners") == 1)
        .select("address", "owner")
    )
    alone = (pl.col("vnet") == "") & pl.col("mac_address").is_null()
    owning = known.join(owner, on="address", how="left", maintain_order="left")["owner"]
    return known.with_columns(vnet=pl.when(alone).then(owning.fill_null("")).otherwise("vnet"))


def unplaced(known: pl.DataFrame, learned: Inventory) -> tuple[str, ...]:
    """In words, which rows of the user's file stand for nothing in the logs that ``learned`` was learned from."""
    rows = known.filter(pl.col("learned_from") == "inventory")
    notes = []
    owners = learned.table.group_by("address").agg(pl.col("vnet").n_unique()).filter(pl.col("vnet") == 1)["address"]
    nics = learned.nics["mac_address"].to_list()
    mac, address = pl.col("mac_address"), pl.col("address")
    lost = rows.filter(
        pl.col("vnet") == "", pl.when(mac.is_null()).then(~address.is_in(owners.to_list())).otherwise(~mac.is_in(nics))
    )
    if lost.height:
        first = next(text for text in lost.select(address, mac).row(0) if text)
        notes.append(
            f"inventory: {lost.height} row(s) without a VNet name nothing that exactly one VNet of these logs owns, such as "
            f"{first}, and were not used; fill their column vnet"
        )
    vnets = learned.nics["vnet"].unique().to_list()
    strange = rows.filter(pl.col("vnet") != "", ~pl.col("vnet").is_in(vnets))
    if strange.height:
        name = strange["vnet"].sort()[0]
        near = near_matches(name, vnets if "/" in name else {vnet.split("/")[-1] for vnet in vnets})
        notes.append(
            f"inventory: {strange.height} row(s) are of VNets that these logs do not hold, such as {name!r:.80} ({near})"
        )
    return tuple(notes)


def _nics(
    targets: pl.DataFrame,
    vnet_of_nic: pl.DataFrame,
    claims: pl.DataFrame,
    known: pl.DataFrame,
    forwarding: set[str],
    networks: Networks,
) -> pl.DataFrame:
    """One row per NIC with the best name that is known for it."""
    names = targets.group_by("mac_address").agg(
        nic_name=pl.col("target_resource_id").str.extract(_NIC, 1).str.to_lowercase().drop_nulls().min(),
        subnet_name=pl.col("target_resource_id").str.extract(_SUBNET, 1).str.to_lowercase().drop_nulls().min(),
    )
    # The lowest address stands for the NIC; sorted by length first, so that .4 comes before .10.
    lowest = claims.sort(pl.col("address").str.len_bytes(), "address").group_by("mac_address", maintain_order=True)
    told = (
        known.filter(pl.col("mac_address").is_not_null())
        .group_by("mac_address")
        .agg(
            _told("workload"),
            _told("subnet"),
            pl.col("kind").filter(pl.col("kind") != "nic").min(),
        )
    )
    nics = (
        vnet_of_nic.join(names, on="mac_address", how="left")
        .join(lowest.agg(pl.col("address").first()), on="mac_address", how="left")
        .join(told, on="mac_address", how="left")
    )
    by_address = (
        known.filter(pl.col("workload").is_not_null())
        .group_by("vnet", "address")
        .agg(told_workload=_told("workload"), told_subnet=_told("subnet"))
    )
    nics = nics.join(by_address, on=["vnet", "address"], how="left")
    label = pl.format("{} ({})", pl.col("address").fill_null("nic"), pl.col("mac_address"))
    forwards = pl.col("mac_address").is_in(list(forwarding))
    return nics.with_columns(networks.subnets(nics["address"].fill_null("")).alias("by_address")).select(
        "mac_address",
        "vnet",
        "address",
        named=pl.coalesce("workload", "told_workload", "nic_name").is_not_null(),
        workload=pl.coalesce("workload", "told_workload", "nic_name", label),
        subnet=pl.coalesce("subnet", "told_subnet", "subnet_name", "by_address"),
        kind=pl.coalesce("kind", pl.when(forwards).then(pl.lit("forwarder")), pl.lit("nic")),
    )


def _told(column: str) -> pl.Expr:
    """What the user says of it, else what Traffic Analytics says."""
    by_user = pl.col("learned_from") != "traffic analytics"
    return pl.coalesce(pl.col(column).filter(by_user).min(), pl.col(column).min())


def _table(claims: pl.DataFrame, nics: pl.DataFrame, known: pl.DataFrame, networks: Networks) -> pl.DataFrame:
    """INVENTORY: learned claims first, then known rows that add addresses."""
    learned = claims.join(nics.drop("vnet", "address"), on="mac_address", how="left").with_columns(
        learned_from=pl.lit("logs")
    )
    learned = learned.select("vnet", "address", "mac_address", "workload", "subnet", "kind", "learned_from", "named")
    told = known.filter((pl.col("address") != "") & (pl.col("vnet") != "")).with_columns(
        named=pl.col("workload").is_not_null()
    )
    # What somebody says of an address corrects what the logs show of its kind and subnet, not who owns it.
    better = told.group_by("vnet", "address").agg(
        told_kind=pl.col("kind").filter(pl.col("kind") != "nic").min(),
        told_subnet=_told("subnet"),
        told_workload=_told("workload"),
    )
    learned = learned.join(better, on=["vnet", "address"], how="left").with_columns(
        kind=pl.coalesce("told_kind", "kind"),
        subnet=pl.coalesce("told_subnet", "subnet"),
        workload=pl.coalesce("told_workload", "workload"),
    )
    rest = told.join(learned, on=["vnet", "address"], how="anti").join(better, on=["vnet", "address"], how="left")
    rest = rest.with_columns(
        workload=pl.col("told_workload"),
        subnet=pl.col("told_subnet").fill_null(networks.subnets(rest["address"])),
        kind=pl.coalesce("told_kind", "kind", pl.lit("nic")),
    )
    columns = list(SCHEMA)
    return pl.concat([learned.select(columns), rest.select(columns)]).unique().sort(columns, nulls_last=True)


def _seen_elsewhere(
    conversations: pl.LazyFrame, vnet_of_nic: pl.DataFrame, owners: pl.DataFrame, internal: pl.DataFrame
) -> tuple[pl.DataFrame, ...]:
    """Of a part: (vnet, other) that logged a flow of the other's, and (vnet, address) seen but not owned there."""
    flow = ["src_ip", "dst_ip", "dst_port", "protocol"]
    own, inside = owners.lazy(), internal.lazy()
    seen = (
        conversations.filter(pl.col("reply_from_port").is_null())
        .join(inside, left_on="src_ip", right_on="address", how="semi")
        .join(vnet_of_nic.lazy(), on="mac_address")
        .select("vnet", *flow)
    )
    source, target, key = ["vnet", "src_ip"], ["vnet", "dst_ip"], ["vnet", "address"]
    foreign = seen.join(own, left_on=source, right_on=key, how="anti").unique().collect(engine="streaming")
    met = (
        seen.join(foreign.lazy().select(flow).unique(), on=flow, how="semi", nulls_equal=True)
        .join(own, left_on=source, right_on=key, how="semi")
        .join(own, left_on=target, right_on=key, how="anti")
        .unique()
        .join(foreign.lazy().rename({"vnet": "other"}), on=flow, nulls_equal=True)
        .select("vnet", "other")
        .unique()
        .collect(engine="streaming")
    )
    strangers = pl.concat(
        [
            foreign.lazy().select("vnet", address="src_ip"),
            seen.join(own, left_on=target, right_on=key, how="anti")
            .select("vnet", address="dst_ip")
            .join(inside, on="address", how="semi"),
        ]
    )
    return met, strangers.unique().collect(engine="streaming")


def _peers(met: pl.DataFrame, strangers: pl.DataFrame, owners: pl.DataFrame) -> pl.DataFrame:
    """(vnet, address) seen but not owned there -> the VNet that owns it, where the logs show the two VNets to be peered.

    Two VNets are peered when a conversation that leaves the one that owns its source was logged in the other too, at the
    destination or at a hop. An address that several peered VNets own is ambiguous and stays unresolved.
    """
    peered = pl.concat([met, met.select(vnet="other", other="vnet")]).unique()
    return (
        strangers.unique()
        .join(owners.select("address", other="vnet"), on="address")
        .join(peered, on=["vnet", "other"], how="semi")
        .group_by("vnet", "address")
        .agg(owner_vnet=pl.col("other").min(), ambiguous=pl.len() > 1)
        .sort("vnet", "address")
    )


def read_inventory(path: str | Path) -> pl.DataFrame:
    """INVENTORY rows of a user's file: CSV with a header, or a JSON array as Azure Resource Graph exports it.

    Columns: vnet, address, mac_address, workload, subnet, kind; any may be missing but one of address and mac_address.
    ``vnet`` is an ARM id, ``sub/rg/vnet`` or, where only one VNet has it, the bare name; an address without one is that of the
    one VNet that owns it in the logs. ``read_outbound`` reads one more.

    Raises ConfigError where the file cannot be read, a column is mistyped, a row names neither an address nor a NIC, or a cell is not what its
    column holds.

    >>> read_inventory("sample_logs/inventory.csv").columns[:3]
    ['vnet', 'address', 'mac_address']
    """
    path = Path(path)
    given = _file_rows(path)
    for column in _other_columns(given):
        # A column that another one stands in for is a mistyped name of it; any other may be there.
        close = get_close_matches(
            column, [name for name in (*FIELDS, _OUTBOUND) if name not in _columns(given)], cutoff=0.8
        )
        if close:
            raise ConfigError(str(path), f"unknown column {column!r:.40}", hint=f"did you mean {close[0]}?")
    rows = [_inventory_row(path, number, row) for number, row in enumerate(given, 1)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def unused_columns(path: str | Path) -> tuple[str, ...]:
    """In words, the columns of a user's file that are not looked at.

    Raises ConfigError where the file cannot be read.

    >>> unused_columns("sample_logs/inventory.csv")
    ()
    """
    others = _other_columns(_file_rows(Path(path)))
    shown = ", ".join(f"{column!r:.40}" for column in others[:5])
    more = ", ..." if len(others) > 5 else ""
    known = ", ".join((*FIELDS, _OUTBOUND))
    return (f"inventory: column(s) {shown}{more} are not used; known: {known}",) if others else ()


def _columns(rows: Sequence[Mapping[str, object]]) -> set[str]:
    return {str(name).strip().lower() for row in rows for name in row if name}


def _other_columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return sorted(_columns(rows) - {*FIELDS, _OUTBOUND})


def read_outbound(path: str | Path) -> dict[str, str]:
    """How each subnet goes out, by ``vnet/subnet``, from the optional column ``outbound`` of a user's inventory file.

    Raises ConfigError where the file cannot be read, and for an unknown or a second method of one subnet.

    >>> read_outbound("sample_logs/inventory.csv")
    {}
    """
    path = Path(path)
    found: dict[str, str] = {}
    for number, row in enumerate(_file_rows(path), 1):
        cells = _cells(row)
        method = cells.get(_OUTBOUND, "").lower()
        if not method:
            continue
        if method not in schema.OUTBOUND_METHODS:
            near = near_matches(method, schema.OUTBOUND_METHODS)
            raise ConfigError(str(path), f"row {number}: unknown outbound method {method!r:.40}", hint=near)
        if not cells.get("subnet"):
            raise ConfigError(str(path), f"row {number}: expected a subnet beside outbound, found none")
        vnet = _inventory_row(path, number, row)["vnet"]
        name = f"{vnet}/{cells['subnet']}" if vnet else cells["subnet"]
        if found.setdefault(name, method) != method:
            raise ConfigError(str(path), f"row {number}: {name!r:.80} goes out by {found[name]} in an earlier row")
    return found


def _file_rows(path: Path) -> Sequence[Mapping[str, object]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read as an inventory: {error}") from error
    return _json_rows(path, text) if text.lstrip()[:1] in ("[", "{") else _csv_rows(path, text)


def _cells(row: Mapping[str, object]) -> dict[str, str]:
    """What a row gives, by column in lower case."""
    cells = {str(k).strip().lower(): str(v).strip() for k, v in row.items() if k and v is not None}
    # JSON can write half a surrogate pair, which no table can hold.
    return {name: cell.encode(errors="replace").decode() for name, cell in cells.items() if cell}


def _csv_rows(path: Path, text: str) -> Sequence[Mapping[str, object]]:
    try:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise ConfigError(str(path), f"is not CSV: {error}") from error


def _json_rows(path: Path, text: str) -> Sequence[Mapping[str, object]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"is not JSON: {error}") from error
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(str(path), "expected a list of objects", hint=f"fields: {', '.join(FIELDS)}")
    return rows


def _inventory_row(path: Path, number: int, row: Mapping[str, object]) -> dict[str, str | None]:
    given = _cells(row)
    if not (given.get("address") or given.get("mac_address")):
        raise ConfigError(
            str(path), f"row {number}: expected an address or a mac_address", hint=f"columns: {', '.join(FIELDS)}"
        )
    kind = given.get("kind", "nic").lower()
    if kind not in schema.ADDRESS_KINDS:
        raise ConfigError(
            str(path), f"row {number}: unknown kind {kind!r}", hint=f"known: {', '.join(schema.ADDRESS_KINDS)}"
        )
    vnet = given.get("vnet", "").lower()
    key = pl.select(vnet_key(pl.lit(vnet))).item() if "/providers/" in vnet else vnet
    if key is None:
        raise ConfigError(str(path), f"row {number}: expected the id of a VNet, found {vnet!r:.80}")
    mac = given.get("mac_address", "").replace("-", "").replace(":", "").upper()
    if mac and not _MAC.fullmatch(mac):
        raise ConfigError(str(path), f"row {number}: expected 12 hex digits as mac_address, found {mac!r:.40}")
    return {
        "vnet": key,
        "address": _address(path, number, given["address"]) if "address" in given else "",
        "mac_address": mac or None,
        "workload": given.get("workload"),
        "subnet": given.get("subnet"),
        "kind": kind,
        "learned_from": "inventory",
    }


def _address(path: Path, number: int, text: str) -> str:
    """Canonical text, as flow logs are decoded to: no zone, and IPv4 where IPv6 maps it. Another spelling would never be met."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError as error:
        raise ConfigError(
            str(path),
            f"row {number}: expected one address, found {text!r:.60}",
            hint="names for whole prefixes stand in flowlens.toml under [networks.names]",
        ) from error
    return str((isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped) or parsed)


def qualify(known: pl.DataFrame, vnets: Sequence[str]) -> pl.DataFrame:
    """The same rows with bare VNet names replaced by the one ``sub/rg/vnet`` among ``vnets`` that ends in them.

    Raises ConfigError where a bare name fits several VNets.
    """
    given = known["vnet"].unique().to_list()
    full: dict[str, str] = {}
    for name in given:
        if name and "/" not in name and ":" not in name:
            fitting = sorted({v for v in vnets if v.split("/")[-1] == name})
            if len(fitting) > 1:
                raise ConfigError("inventory", f"VNet {name!r} fits several", hint=f"write one of {', '.join(fitting)}")
            full[name] = fitting[0] if fitting else name
    return known.with_columns(pl.col("vnet").replace(full)) if full else known
