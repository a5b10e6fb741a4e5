"""Traffic Analytics rows (the tables NTANetAnalytics and AzureNetworkAnalytics_CL) as conversations and inventory.

Documentation and real rows write the same facts differently (letters or words, dashes or none, a blank address on both
sides or on one); both are accepted everywhere. Columns and meanings: the Azure documentation's table reference of
NTANetAnalytics (2026-07) and its Traffic Analytics schema page (2024-05).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from flowlens import schema
from flowlens.errors import FlowlensError
from flowlens.evidence import REJECTS_KEPT, Ledger, Reject, sample
from flowlens.formats import fields
from flowlens.formats.countries import COUNTRIES, COUNTRY, countries_of
from flowlens.formats.exports import BOM, Wanted, name_and_zone, number_of, read_export, text_cells, time_of
from flowlens.formats.older_rows import NEWER_NAMES

_TIMES = ("FlowIntervalStartTime", "FlowIntervalEndTime", "FlowStartTime", "FlowEndTime")
_FLOWS = ("AllowedInFlows", "AllowedOutFlows", "DeniedInFlows", "DeniedOutFlows", "CompletedFlows")
_TRAFFIC = {
    "packets_sent": "PacketsSrcToDest",
    "bytes_sent": "BytesSrcToDest",
    "packets_received": "PacketsDestToSrc",
    "bytes_received": "BytesDestToSrc",
}
_COUNTERS = (*_FLOWS, *_TRAFFIC.values())
_SIDES = ("Src", "Dest")
# What stands at an address that is no NIC of a VM, and its kind in INVENTORY.
_DEVICES = {"LoadBalancer": "load balancer", "ApplicationGateway": "gateway", "LocalNetworkGateway": "site"}
_OF_A_SIDE = ("Ip", "PublicIps", "Subscription", "Nic", "Vm", "Subnet", *_DEVICES)
_COLUMNS = (
    *_TIMES,
    *_COUNTERS,
    *(side + name for side in _SIDES for name in _OF_A_SIDE),
    *("SubType", "Status", "FlowType", "FlowDirection", "FlowStatus", "L4Protocol", "DestPort", "FlowEncryption"),
    *("MacAddress", "TargetResourceId", "TargetResourceType", "FlowLogResourceId", "IsFlowCapturedAtUdrHop"),
    *("AclGroup", "AclRule", "NsgList", "NsgRule", "PrivateEndpointResourceId", COUNTRY),
)
_NAMES = {name.lower(): name for name in _COLUMNS} | {old.lower(): name for old, name in NEWER_NAMES.items()}
# One of each group must be there, or rows cannot become conversations. Blobs use none of these names.
_NEEDED = (
    *((name,) for name in (*_TIMES[:2], "FlowDirection", "FlowStatus", "L4Protocol")),
    *((side + "Ip", side + "PublicIps") for side in _SIDES),
)
# The counters of an entry of SrcPublicIps and DestPublicIps; "out" is source to destination of the row.
_ENTRY = ("started", "ended", "packets_sent", "packets_received", "bytes_sent", "bytes_received")

_CONVERSATIONS = schema.polars_schema(schema.CONVERSATIONS)
_INTERVAL = dict.fromkeys(("interval_start", "interval_end"), _CONVERSATIONS["hour"])
_REST = {name: dtype for name, dtype in _CONVERSATIONS.items() if name != "hour"}
ROWS = pl.Schema({**_INTERVAL, "is_hop": pl.Boolean(), "lines": pl.Int64(), **_REST})
"""CONVERSATIONS with the interval instead of the hour, whether the row was taken at a UDR hop, and of how many lines it was made:
rows of the table, or entries of their public addresses."""
_INVENTORY = schema.polars_schema(schema.INVENTORY)

_PROTOCOL = {**schema.PROTOCOL_NUMBER, **{letter.lower(): n for letter, n in schema.PROTOCOL_OF_LETTER.items()}}
_DIRECTION = {word.lower(): name for code, name in schema.DIRECTIONS for word in (code, name)}
_STATUS = {word.lower(): name for code, name in schema.FLOW_STATUSES for word in (code, name)}
_ENCRYPTION = schema.ENCRYPTION_CODE_OF_WORDING | {code.lower(): code for code in schema.ENCRYPTION_STATUS}
_RULE = {
    schema.PLATFORM_RULE.lower(): schema.PLATFORM_RULE,
    schema.UNSPECIFIED: schema.UNSPECIFIED,
    **{
        (prefix + name).lower(): schema.RULE_PREFIX["default"] + name
        for name in schema.DEFAULT_RULES
        for prefix in ("", schema.RULE_PREFIX["default"])
    },
}
_PORTLESS = [schema.PROTOCOL_NUMBER["icmp"], schema.PROTOCOL_NUMBER["icmpv6"]]
_ARM_VNET = r"(?i)^/subscriptions/([^/]+)/resourcegroups/([^/]+)/providers/microsoft\.network/virtualnetworks/([^/]+)"
# Words in TargetResourceType (real rows: VirtualNetwork; the schema page: VNET, SUBNET, NIC), parts of the short id.
_TARGETS = (
    ("subnet", 4, "virtualnetworks/{}/subnets/{}"),
    ("nic|networkinterface", 3, "networkinterfaces/{}"),
    ("vnet|virtualnetwork", 3, "virtualnetworks/{}"),
)
_FIRST_SEEN = pl.coalesce("flow_start", "interval_start")
_LAST_SEEN = pl.coalesce("flow_end", "interval_end")
_SLICE = 20_000
_STATUS_WORDS = ("partial", "failed")
_SUMS_DIFFER = "entry sums differ from row totals"


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """A batch of Traffic Analytics rows as conversations, with what they say of addresses, and countries, and a small ledger.

    ``conversations`` has the columns ROWS, ``inventory`` those of schema.INVENTORY without repeats. In ``ledger``,
    records are rows of the table and tuples the conversations that they hold: one per public address, else one.
    """

    conversations: pl.DataFrame
    inventory: pl.DataFrame
    ledger: Ledger
    countries: pl.DataFrame = field(default_factory=COUNTRIES.to_frame)


def looks_like_traffic_analytics(head: bytes) -> bool:
    """Whether the first few KB of a source are those of an export of NTANetAnalytics.

    >>> looks_like_traffic_analytics(b"FlowDirection,FlowStatus,L4Protocol,SrcIp,DestIp")
    True
    >>> looks_like_traffic_analytics(b'{"records":[{"time":"2026-01-01T00:00:00.0000000Z"}]}')
    False
    """
    text = head.removeprefix(BOM).lstrip().decode("utf-8", "replace")
    cells = text.partition("\n")[0].strip().split(",")
    found = set(text.split('"')) if text[:1] in ("{", "[") else {name_and_zone(cell.strip('"'))[0] for cell in cells}
    telling = {name for group in _NEEDED for name in group}
    return len(telling & {_NAMES.get(name.lower()) for name in found}) >= 3


def decode_traffic_analytics(chunks: Iterable[bytes], *, where: str) -> Iterator[DecodedRows]:
    """Batches of up to 20,000 rows of an export, in the order of the file; ``where`` names it in rejects and notes.

    Holds a batch in memory, whatever the size of the file. Raises nothing for bad bytes: a row or an entry that cannot be
    read is a reject with the offset of its row, and a file that is no export is one reject. Bytes and notes may come in
    batches of their own, without rows. An error of the chunks is raised once the rows before it are given.

    >>> [d.ledger.rejects[0].reason for d in decode_traffic_analytics([b"<html>"], where="a.csv")]
    ['no Traffic Analytics rows: FlowIntervalStartTime is missing']
    """
    # The page of the older schema writes UDR in capitals, and readers of the table use both.
    wanted = Wanted(_COLUMNS, _lacking, ("IsFlowCapturedAtUDRHop",), NEWER_NAMES)
    seen, failures = Counter[str](), list[FlowlensError]()
    for texts, ledger in read_export(chunks, failures, where=where, wanted=wanted):
        yield _nothing(ledger)
        if texts.is_empty():
            continue
        for cells in _slices(texts.select("offset", *text_cells(texts, _COLUMNS, NEWER_NAMES))):
            decoded, more = _convert(cells, where)
            seen += more
            yield decoded
    if seen:
        yield _nothing(Ledger(notes=_notes(seen, where)))
    if failures:
        raise failures[0]


def convert_rows(rows: pa.Table | pl.DataFrame, *, where: str) -> DecodedRows:
    """Rows already in memory, by their NTANetAnalytics names, as conversations; ``where`` names them in rejects and notes.

    Any subset of the columns serves, in any case, typed or all text; a table without the needed ones is rejected whole.
    The offset of a reject is the number of its row.

    >>> convert_rows(pl.DataFrame({"SrcIp": ["10.0.0.4"]}), where="rows").ledger.rejected_records
    1
    """
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(pl.from_arrow(rows))
    lacking = _lacking(frame.columns)
    if lacking:
        lost = max(frame.height, 1)
        reject = Reject(where, 0, lacking, sample(", ".join(frame.columns)))
        return _nothing(Ledger(records=lost, rejected_records=lost, rejects=(reject,)))
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    decoded, seen = _convert(frame.select(row.alias("offset"), *text_cells(frame, _COLUMNS, NEWER_NAMES)), where)
    return replace(decoded, ledger=replace(decoded.ledger, notes=_notes(seen, where)))


def _slices(cells: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows in parts that give some 20,000 conversations each, however many addresses a row holds."""
    bars = pl.sum_horizontal(pl.col(side + "PublicIps").str.count_matches("|", literal=True) for side in _SIDES)
    parts = cells.select(((bars // len(_ENTRY) + 1).cum_sum() - 1) // _SLICE).to_series().rename("part")
    if parts.n_unique() <= 1:
        return [cells]
    return cells.insert_column(0, parts).partition_by("part", include_key=False, maintain_order=True)


def _nothing(ledger: Ledger) -> DecodedRows:
    return DecodedRows(pl.DataFrame(schema=ROWS), pl.DataFrame(schema=_INVENTORY), ledger)


def _lacking(header: Sequence[str]) -> str:
    """Why a table with these columns cannot be read; empty where it can."""
    columns = [name_and_zone(written) for written in header]
    there = {_NAMES.get(name.lower()) for name, _ in columns}
    for group in _NEEDED:
        if not there.intersection(group):
            return f"no Traffic Analytics rows: {' and '.join(group)} {'are' if group[1:] else 'is'} missing"
    zones = [zone for name, zone in columns if _NAMES.get(name.lower()) in _TIMES and zone.upper() not in ("", "UTC")]
    return f"times are in the zone {sample(zones[0])}: export the rows with times in UTC" if zones else ""


def _notes(seen: Counter[str], where: str) -> tuple[str, ...]:
    return tuple(f"{where}: {text} ({count} row(s))" for text, count in sorted(seen.items()))


def _time(name: str) -> pl.Expr:
    time = time_of(pl.col(name))
    edges = [pl.lit(edge).cast(pl.Datetime("us", "UTC")) for edge in (fields.EARLIEST, fields.LATEST)]
    return pl.when((time >= edges[0]) & (time < edges[1])).then(time)


def _word(name: str, known: dict[str, str]) -> pl.Expr:
    """The word of our own for a word or letter; unknown ones are kept behind a prefix."""
    text = pl.col(name)
    unknown = schema.UNKNOWN_PREFIX + text
    return text.str.to_lowercase().replace_strict(known, default=None, return_dtype=pl.String).fill_null(unknown)


def canonical(addresses: pl.Series) -> pl.Series:
    """Canonical text of each address, IPv4-mapped ones as IPv4; null for text that is none."""
    distinct = addresses.drop_nulls().unique()
    texts = pl.Series([_address(text) for text in distinct.to_list()], dtype=pl.String)
    if not len(distinct):
        return addresses
    return addresses.replace_strict(distinct, texts, default=None, return_dtype=pl.String)


def _address(text: str) -> str | None:
    try:
        return fields.address(text, "")
    except fields.Malformed:
        return None


def _convert(cells: pl.DataFrame, where: str) -> tuple[DecodedRows, Counter[str]]:
    """Rows of text as conversations, and what is worth a note with the number of rows."""
    subtype = pl.col("SubType").str.to_lowercase().fill_null("flowlog")
    others = cells.filter(subtype != "flowlog")
    seen = _not_flows(others)
    rows = _with_addresses(cells.filter(subtype == "flowlog").with_columns(_parsed()))
    wrong = rows.select(pl.any_horizontal(check.is_wrong for check in _checks())).to_series()
    bad, good = rows.filter(wrong), rows.filter(~wrong)
    entries = _with_entries(good.with_row_index("row"))
    broken = pl.concat([entries.filter("broken"), _stray_addresses(good)], how="diagonal")
    whole = entries.filter(~pl.col("broken"))
    differing = _differing(entries)
    if differing:
        seen[_SUMS_DIFFER] = differing
    shown = broken.sort("offset").head(REJECTS_KEPT).select("offset", pl.lit("a broken public address"), "entry")
    rejects = [*_reasons(bad.head(REJECTS_KEPT)), *shown.rows()]
    ledger = Ledger(
        records=cells.height,
        tuples=whole.height + broken.height,
        rows=whole.height,
        rejected=broken.height,
        rejected_records=bad.height,
        unknown_codes=unknown_words(good),
        rejects=tuple(
            Reject(where, offset, reason, sample(found))
            for offset, reason, found in sorted(rejects, key=lambda reject: reject[0])[:REJECTS_KEPT]
        ),
    )
    return DecodedRows(_conversations(whole), inventory_of(good), ledger, countries_of(whole)), seen


def _not_flows(others: pl.DataFrame) -> Counter[str]:
    seen: Counter[str] = Counter()
    if others.height:
        seen["not flow rows"] = others.height
    messages = others.filter(pl.col("SubType").str.to_lowercase() == "statusmessage")
    for word in messages["Status"].drop_nulls().str.to_lowercase():
        if word != "completed":
            seen[
                f"Traffic Analytics reports its processing as {word if word in _STATUS_WORDS else 'not completed'}"
            ] += 1
    return seen


@functools.cache
def _parsed() -> tuple[pl.Expr, ...]:
    start, end = _time("FlowIntervalStartTime"), _time("FlowIntervalEndTime")
    protocol = pl.col("L4Protocol").str.to_lowercase()
    number = number_of(protocol, fields.PROTOCOL_LIMIT)
    mac = pl.col("MacAddress").str.replace_all(r"[-:.]", "").str.to_uppercase()
    encryption = pl.col("FlowEncryption")
    return (
        start.alias("interval_start"),
        end.alias("interval_end"),
        _time("FlowStartTime").alias("flow_start"),
        _time("FlowEndTime").alias("flow_end"),
        *(number_of(pl.col(name), schema.COUNTER_LIMIT).alias(f"{name} count") for name in _COUNTERS),
        pl.col("IsFlowCapturedAtUdrHop")
        .str.to_lowercase()
        .is_in(["true", "1", "yes"])
        .fill_null(False)
        .alias("is_hop"),
        _word("FlowDirection", _DIRECTION).alias("direction"),
        _word("FlowStatus", _STATUS).alias("flow_status"),
        protocol.replace_strict(_PROTOCOL, default=None, return_dtype=pl.Int16).fill_null(number).alias("protocol"),
        number_of(pl.col("DestPort"), fields.PORT_LIMIT).alias("port"),
        pl.when(mac.str.contains("^[0-9A-F]{12}$")).then(mac).alias("mac_address"),
        encryption.str.to_lowercase()
        .replace_strict(_ENCRYPTION, default=None, return_dtype=pl.String)
        .fill_null(encryption)
        .alias("encryption_code"),
        _target().alias("target_resource_id"),
        _arm("FlowLogResourceId", 4, "networkwatchers/{}/flowlogs/{}").alias("flow_log_id"),
        *_acl(),
    )


def _arm(name: str, parts: int, rest: str) -> pl.Expr:
    """The ARM id of ``sub/rg/…`` of so many parts, as a blob would write it; other text as it is."""
    text = pl.col(name)
    part = text.str.split("/")
    fits = ~text.str.starts_with("/") & (part.list.len() == parts)
    pattern = "/subscriptions/{}/resourcegroups/{}/providers/microsoft.network/" + rest
    arm = pl.format(pattern, *(part.list.get(n, null_on_oob=True) for n in range(parts)))
    return pl.when(fits).then(arm).otherwise(text)


def _target() -> pl.Expr:
    kind = pl.col("TargetResourceType").str.to_lowercase().str.replace_all("[^a-z]", "").fill_null("")
    return pl.coalesce(
        pl.when(kind.str.contains(words)).then(_arm("TargetResourceId", parts, rest)) for words, parts, rest in _TARGETS
    ).fill_null(pl.col("TargetResourceId"))


def _acl() -> list[pl.Expr]:
    """``acl_id`` and ``acl_rule``; rows of the NSG era name them in other columns."""
    older = pl.col("AclGroup").is_null() & pl.col("AclRule").is_null()
    rule = pl.when(older).then("NsgRule").otherwise("AclRule")
    lower = rule.str.to_lowercase()
    nobody = pl.col("AclGroup").str.to_lowercase() == schema.UNSPECIFIED
    group = (
        pl.when(nobody & (lower == schema.PLATFORM_RULE.lower()))
        .then(pl.lit(schema.ZERO_GUID))
        .when(nobody & (lower == schema.UNSPECIFIED))
        .then(pl.lit(schema.UNSPECIFIED))
        .when(older)
        .then(_arm("NsgList", 3, "networksecuritygroups/{}"))
        .otherwise(_arm("AclGroup", 3, "networksecuritygroups/{}"))
    )
    known = lower.replace_strict(_RULE, default=None, return_dtype=pl.String)
    return [group.alias("acl_id"), known.fill_null(rule).alias("acl_rule")]


def _with_addresses(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds ``entries`` (those to unpack, else null), ``unpacked`` (Src, Dest or null) and the fixed address of each side."""
    entries = {side: pl.col(side + "PublicIps").str.extract_all(r"\S+") for side in _SIDES}
    rows = rows.with_columns(
        pl.when(pl.col(side + "Ip").is_null() & (found.list.len() > 0)).then(found).alias(side + " entries")
        for side, found in entries.items()
    )
    many = {side: pl.col(side + " entries").list.len().fill_null(0) for side in _SIDES}
    unpacked = (
        pl.when((many["Src"] > 0) & (many["Dest"] <= 1))
        .then(pl.lit("Src"))
        .when((many["Dest"] > 0) & (many["Src"] <= 1))
        .then(pl.lit("Dest"))
    )
    fixed = [
        # Opposite a list, a single entry is nothing but the address of its side.
        pl.coalesce(side + "Ip", pl.col(side + " entries").list.first().str.extract(r"^([^|]*)", 1)).alias(side)
        for side in _SIDES
    ]
    rows = rows.with_columns(unpacked.alias("unpacked"), *fixed)
    listed = pl.when(pl.col("unpacked") == "Src").then("Src entries")
    return rows.with_columns(
        listed.when(pl.col("unpacked") == "Dest").then("Dest entries").alias("entries"),
        canonical(rows["Src"]).alias("src_ip"),
        canonical(rows["Dest"]).alias("dst_ip"),
    )


class _Check(NamedTuple):
    """When a row cannot be a conversation, why, and which column is to blame."""

    is_wrong: pl.Expr
    reason: str
    column: str


@functools.cache
def _checks() -> tuple[_Check, ...]:
    unread = {"FlowStartTime": "flow_start", "FlowEndTime": "flow_end", "DestPort": "port"}
    unread |= {name: f"{name} count" for name in _COUNTERS}
    blank = {"FlowIntervalStartTime": "interval_start", "FlowIntervalEndTime": "interval_end"}
    blank |= {"L4Protocol": "protocol", "FlowDirection": "direction", "FlowStatus": "flow_status"}
    both = (pl.col("Src entries").list.len() > 1) & (pl.col("Dest entries").list.len() > 1)
    addresses = (("Src", "src_ip", "a source"), ("Dest", "dst_ip", "a destination"))
    interval = pl.col("interval_end") < pl.col("interval_start")
    checks = [
        *(_Check(pl.col(parsed).is_null(), f"cannot read {name}", name) for name, parsed in blank.items()),
        *(
            _Check(pl.col(name).is_not_null() & pl.col(parsed).is_null(), f"cannot read {name}", name)
            for name, parsed in unread.items()
        ),
        _Check(interval, "the interval ends before it starts", "FlowIntervalEndTime"),
        _Check(_LAST_SEEN < _FIRST_SEEN, "the flow ends before it starts", "FlowEndTime"),
        _Check(both, "several public addresses on both sides cannot be paired", "SrcPublicIps"),
        *(
            _Check(
                (pl.col("unpacked").fill_null("") != side) & pl.col(parsed).is_null(), f"expected {what} address", side
            )
            for side, parsed, what in addresses
        ),
    ]
    return tuple(check._replace(is_wrong=check.is_wrong.fill_null(False)) for check in checks)


def _reasons(bad: pl.DataFrame) -> list[tuple[int, str, str]]:
    """Offset, reason and the text to blame of rows that some check refuses."""
    checks = _checks()
    reason = pl.coalesce(pl.when(check.is_wrong).then(pl.lit(check.reason)) for check in checks)
    found = pl.coalesce(pl.when(check.is_wrong).then(pl.col(check.column).fill_null("")) for check in checks)
    return bad.select("offset", reason.alias("reason"), found.alias("found")).rows()


def _with_entries(rows: pl.DataFrame) -> pl.DataFrame:
    """A line per conversation: per entry of public addresses where there are any, else the row itself."""
    # Each line would otherwise carry a copy of the text of its row, and of all its entries.
    dropped = {*_COLUMNS, *_SIDES, *(side + " entries" for side in _SIDES)} - {COUNTRY}
    lines = rows.drop(dropped).rename({"entries": "entry"}).explode("entry")
    part = pl.col("entry").str.split("|")
    numbers = [
        number_of(part.list.get(n, null_on_oob=True), schema.COUNTER_LIMIT).alias(name)
        for n, name in enumerate(_ENTRY, 1)
    ]
    lines = lines.with_columns(part.list.first().alias("public"), part.list.len().alias("parts"), *numbers)
    lines = lines.with_columns(canonical(lines["public"]).alias("public"))
    wrong = (pl.col("parts") != 1 + len(_ENTRY)) | pl.any_horizontal(pl.col("public", *_ENTRY).is_null())
    return lines.with_columns(
        (pl.col("entry").is_not_null() & wrong).alias("broken"),
        pl.when(pl.col("unpacked") == "Src").then("public").otherwise("src_ip").alias("src_ip"),
        pl.when(pl.col("unpacked") == "Dest").then("public").otherwise("dst_ip").alias("dst_ip"),
    )


def _stray_addresses(rows: pl.DataFrame) -> pl.DataFrame:
    """Entries beside an address of their side that name another: the row's counters are that address's."""
    strays = []
    for side, column in zip(_SIDES, ("src_ip", "dst_ip"), strict=True):
        beside = rows.filter(pl.col(side + "Ip").is_not_null(), pl.col(side + "PublicIps").is_not_null())
        entry = pl.col(side + "PublicIps").str.extract_all(r"\S+").alias("entry")
        lines = beside.select("offset", column, entry).explode("entry").drop_nulls("entry")
        public = canonical(lines["entry"].str.extract(r"^([^|]*)", 1))
        strays.append(lines.filter(public.is_null() | (public != lines[column])).select("offset", "entry"))
    return pl.concat(strays)


def _differing(entries: pl.DataFrame) -> int:
    """How many rows have totals that are not the sums over their entries."""
    sums = (
        entries.filter(pl.col("entry").is_not_null())
        .group_by("row")
        .agg(
            pl.col("broken").any(),
            pl.col(*_ENTRY).sum(),
            _total(_FLOWS[:4]).first().alias("flows"),
            *(pl.col(f"{name} count").first() for name in _TRAFFIC.values()),
        )
    )
    pairs = {"started": "flows", **{name: f"{column} count" for name, column in _TRAFFIC.items()}}
    differs = pl.any_horizontal((pl.col(name) != pl.col(of)).fill_null(False) for name, of in pairs.items())
    return sums.filter(~pl.col("broken"), differs).height


def _total(names: Sequence[str]) -> pl.Expr:
    """The sum of counters; null where none of them is there."""
    counts = [pl.col(f"{name} count") for name in names]
    return pl.when(pl.any_horizontal(count.is_not_null() for count in counts)).then(pl.sum_horizontal(counts))


def _conversations(lines: pl.DataFrame) -> pl.DataFrame:
    from_entry = pl.col("entry").is_not_null()
    denied = pl.col("flow_status") == schema.STATUS_NAME["D"]

    def of_entry(status: pl.Expr, name: str, otherwise: pl.Expr) -> pl.Expr:
        own = pl.when(status).then(name).otherwise(0)
        return pl.when(from_entry).then(own).otherwise(otherwise)

    sent, received = pl.col("packets_sent"), pl.col("packets_received")
    lines = lines.with_columns(
        of_entry(~denied, "started", _total(_FLOWS[:2])).alias("flows_started"),
        of_entry(denied, "started", _total(_FLOWS[2:4])).alias("flows_denied"),
        of_entry(~denied, "ended", pl.col("CompletedFlows count")).alias("flows_ended"),
        # Denied tuples carry no traffic, whatever zeros are written for it.
        *(
            pl.when(~denied).then(pl.when(from_entry).then(name).otherwise(f"{column} count")).alias(name)
            for name, column in _TRAFFIC.items()
        ),
        pl.when(~(pl.col("protocol").is_in(_PORTLESS) & (pl.col("port") == 0))).then("port").alias("dst_port"),
    )
    traffic = pl.sum_horizontal(sent, received) > 0
    lines = lines.with_columns(_FIRST_SEEN.alias("first_seen"), _LAST_SEEN.alias("last_seen")).with_columns(
        pl.when(traffic).then("first_seen").alias("first_traffic"),
        pl.when(traffic).then("last_seen").alias("last_traffic"),
        pl.when(received > 0).then("last_seen").alias("last_answered"),
        pl.when((sent > 0) & (received == 0)).then("last_seen").alias("last_unanswered"),
    )
    lines = lines.with_columns(lines=pl.lit(1, pl.Int64))
    there = set(lines.columns)
    # What is not there is what Traffic Analytics does not keep: null, never 0.
    return lines.select(
        (pl.col(name) if name in there else pl.lit(None)).cast(dtype).alias(name) for name, dtype in ROWS.items()
    )


def unknown_words(rows: pl.DataFrame) -> dict[str, int]:
    """What no table of schema.py knows, and MACs that are none, with the number of rows."""
    prefixed = pl.col("word").str.starts_with(schema.UNKNOWN_PREFIX)
    odd = {
        "direction": rows.select(word="direction").filter(prefixed),
        "status": rows.select(word="flow_status").filter(prefixed),
        "encryption": rows.select(word="encryption_code").filter(~pl.col("word").is_in(list(schema.ENCRYPTION_STATUS))),
        "mac_address": rows.filter(pl.col("mac_address").is_null()).select(word="MacAddress").drop_nulls(),
    }
    notes = fields.Notes()
    for name, words in odd.items():
        for word, count in words["word"].value_counts().iter_rows():
            notes[f"{name} {fields.shown(word.removeprefix(schema.UNKNOWN_PREFIX))}"] += count
    return fields.bounded(notes)


def inventory_of(rows: pl.DataFrame) -> pl.DataFrame:
    """What rows say of the addresses on both sides."""
    own = {"Src": schema.DIRECTION_NAME["O"], "Dest": schema.DIRECTION_NAME["I"]}
    # Few things are said over and over again, so repeats are dropped before anything is made of them.
    rows = rows.select(
        *(side + name for side in _SIDES for name in _OF_A_SIDE if name != "PublicIps"),
        *("src_ip", "dst_ip", "direction", "is_hop", "mac_address", "target_resource_id"),
        *("FlowType", "PrivateEndpointResourceId"),
    ).unique()
    sides = [_of_side(rows, side, (pl.col("direction") == own[side]) & ~pl.col("is_hop")) for side in _SIDES]
    return pl.concat(sides).unique().sort(list(_INVENTORY), nulls_last=True)


def _of_side(rows: pl.DataFrame, side: str, is_own: pl.Expr) -> pl.DataFrame:
    place = pl.col(side + "Subnet").str.to_lowercase().str.split("/")
    full = place.list.len() == 3
    parts = [pl.col(side + "Subscription").str.to_lowercase(), *(place.list.get(n, null_on_oob=True) for n in (0, 1))]
    target = [pl.col("target_resource_id").str.extract(_ARM_VNET, n).str.to_lowercase() for n in (1, 2, 3)]
    vm, nic = _named(side + "Vm"), _named(side + "Nic")
    endpoint = pl.col("PrivateEndpointResourceId") if side == "Dest" else pl.lit(None, dtype=pl.String)
    endpoint = pl.when(~is_own).then(endpoint)
    # sub/rg/name and the ARM id both end in the name; the resource group stands behind the subscription.
    endpoint_name = pl.format(
        "{}/{}",
        endpoint.str.extract(r"(?i)^(?:/subscriptions/)?[^/]+/(?:resourcegroups/)?([^/]+)/", 1),
        endpoint.str.extract(r"([^/]+)$", 1),
    ).str.to_lowercase()
    devices = [pl.col(side + name) for name in _DEVICES]
    kind = (
        pl.when(endpoint.is_not_null())
        .then(pl.lit("private endpoint"))
        .when(vm.is_not_null() | nic.is_not_null())
        .then(pl.lit("nic"))
    )
    for name, what in _DEVICES.items():
        kind = kind.when(pl.col(side + name).is_not_null()).then(pl.lit(what))
    found = rows.filter(pl.col(side + "Ip").is_not_null()).select(
        pl.when(full).then(pl.concat_str(parts, separator="/")).alias("placed"),
        pl.concat_str(target, separator="/").alias("target"),
        pl.col("src_ip" if side == "Src" else "dst_ip").alias("address"),
        pl.when(is_own).then("mac_address").alias("mac_address"),
        pl.coalesce(endpoint_name, _scale_set(vm, nic), _scale_set(nic, nic), *devices).alias("workload"),
        pl.when(full).then(place.list.get(2, null_on_oob=True)).alias("subnet"),
        kind.otherwise(pl.lit("nic")).alias("kind"),
        pl.lit("traffic analytics").alias("learned_from"),
        is_own.alias("is_own"),
        (pl.col("FlowType").str.to_lowercase() == "intravnet").fill_null(False).alias("same_vnet"),
        pl.any_horizontal(
            pl.col(*(side + name for name in ("Vm", "Nic", "Subnet", *_DEVICES))).is_not_null(), endpoint.is_not_null()
        ).alias("told"),
    )
    # Without a subnet, a side is in the VNet of the flow log only if it is the NIC itself, shares its VNet, or is no NIC
    # at all and so known by how that VNet routes to it.
    here = pl.col("is_own") | pl.col("same_vnet") | (pl.col("kind") != "nic")
    vnet = pl.coalesce("placed", pl.when(here).then("target"), pl.when("is_own").then("nic:" + pl.col("mac_address")))
    return (
        found.with_columns(vnet.alias("vnet")).filter("told", pl.col("vnet").is_not_null()).select(_INVENTORY.names())
    )


def _named(name: str) -> pl.Expr:
    text = pl.col(name).str.to_lowercase()
    return pl.when(~text.str.ends_with("unknown-vm")).then(text)


def _scale_set(name: pl.Expr, nic: pl.Expr) -> pl.Expr:
    """The scale set or node pool of an instance by its name, else the name.

    Instances are called NAME_NUMBER, or NAME_ and 8 hex digits in flexible orchestration (Azure documentation, virtual
    machine scale set instance names); their NICs bear the name of the set. Nodes of an AKS availability set are
    aks-POOL-HASH-NUMBER.
    """
    numbered = name.str.replace(r"_\d+$", "")
    flexible = name.str.contains("_[0-9a-f]{8}$") & ~name.str.contains(r"_\d{8}$")
    return (
        pl.when((numbered != name) & (numbered.str.ends_with("vmss") | (numbered == nic)))
        .then(numbered)
        .when(flexible)
        .then(name.str.replace("_[0-9a-f]{8}$", ""))
        .when(name.str.contains(r"/aks-[^/]*-\d{8}-\d+$"))
        .then(name.str.replace(r"-\d+$", ""))
        .otherwise(name)
    )
