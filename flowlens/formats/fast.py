"""The fast decoder: VNet records as structs, all their flow tuples as one CSV buffer, columns from there on.

Nothing here rejects or explains. Whatever is not plainly a whole, known record, or a flow tuple of 13 clean fields, goes
to the strict decoder: a record alone, or a flow tuple alone. Every check is a scan of the buffer, or one of the distinct
values, never of each flow tuple in Python.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from flowlens import schema
from flowlens.formats import fields, strict
from flowlens.formats.fields import Malformed, Notes
from flowlens.formats.framing import BOM, Record
from flowlens.formats.nsg import DECISION_STATES
from flowlens.formats.records import Context
from flowlens.formats.strict import Tally


class FlowGroup(msgspec.Struct, frozen=True, gc=False):
    """One rule's flow tuples, still as bytes."""

    flowTuples: msgspec.Raw  # noqa: N815
    rule: str | None = None
    mac: str | None = None


class Flow(msgspec.Struct, frozen=True, gc=False):
    """One access control list's groups."""

    flowGroups: list[FlowGroup]  # noqa: N815
    rule: str | None = None
    aclID: str | None = None  # noqa: N815


class Flows(msgspec.Struct, frozen=True, gc=False):
    """The object that holds the flows."""

    flows: list[Flow]


class VnetRecord(msgspec.Struct, frozen=True, gc=False):
    """A record of a VNet flow log; the names are those of formats.md 1."""

    flowRecords: Flows  # noqa: N815
    time: str | None = None
    macAddress: str | None = None  # noqa: N815
    flowLogResourceID: str | None = None  # noqa: N815
    resourceId: str | None = None  # noqa: N815
    resourceid: str | None = None
    targetResourceID: str | None = None  # noqa: N815


Numbered = tuple[int, Record[Any, VnetRecord]]

_CSV_COLUMNS: dict[str, pa.DataType] = {
    "time": pa.int64(),
    "src_ip": schema.DICTIONARY,
    "dst_ip": schema.DICTIONARY,
    "src_port": schema.PORT,
    "dst_port": schema.PORT,
    "protocol": schema.PROTOCOL,
    "direction": schema.DICTIONARY,
    "flow_state": schema.DICTIONARY,
    "encryption_code": schema.DICTIONARY,
    **dict.fromkeys(schema.COUNTERS, schema.COUNT),
}
_NEVER_NULL = ("time", "src_ip", "dst_ip", "protocol", "direction", "flow_state")
_LIMITS = {
    "src_port": fields.PORT_LIMIT,
    "dst_port": fields.PORT_LIMIT,
    "protocol": fields.PROTOCOL_LIMIT,
    **dict.fromkeys(schema.COUNTERS, schema.COUNTER_LIMIT),
}
# What Arrow's CSV reader takes in a number and the strict decoder does not (tried with 26.0): a minus, blanks around it,
# hexadecimal. A quote or backslash says that the flow tuples were not cut apart where they end; CR would end a row.
_FOREIGN = (b'"', b"\\", b"-", b" ", b"\t", b"\r", b"0x", b"0X")
_SEPARATOR = re.compile(rb'"[ \t\r\n]*,[ \t\r\n]*"')
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL_IPV4 = rf"\A{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}\z"
_NO_COUNTERS = ("B", "D")
_MIXERS = (1_000_003, 8_191, 131_071, 524_287, 6_700_417, 2_147_483_647, 97, 31)


class Deviation(Exception):  # noqa: N818
    """Something here is for the strict decoder."""


class Fitting:
    """Decodes a record's bytes into a VnetRecord, or None where they hold anything else."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(VnetRecord)

    def __call__(self, raw: bytes) -> VnetRecord | None:
        """The record, if it holds nothing but scalars and the known structure; brackets are counted to be sure."""
        try:
            record = self._decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        flows = record.flowRecords.flows
        groups = sum([len(flow.flowGroups) for flow in flows])
        if raw.count(b"{") != 2 + len(flows) + groups or raw.count(b"[") != 1 + len(flows) + groups:
            return None
        return record


def decode_records(records: Sequence[Numbered], where: str) -> list[tuple[pa.Table, Tally, int]]:
    """Flows, tally and number of strictly decoded records for stretches of ``records``, in order.

    A stretch that deviates is halved until the record that does so stands alone.
    """
    if not records:
        return []
    try:
        return [(*_columnar(records, where), 0)]
    except Deviation:
        if len(records) == 1:
            return [(*strict.decode_records(records, where), 1)]
        middle = len(records) // 2
        return decode_records(records[:middle], where) + decode_records(records[middle:], where)


class _Codes:
    """Text to dictionary codes in order of first appearance."""

    def __init__(self) -> None:
        self._codes: dict[str | None, int] = {}
        self.texts: list[str | None] = []

    def code(self, text: str | None) -> int:
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self.texts)
            self.texts.append(text)
        return code

    def array(self, codes: list[int], *rows: pa.Array) -> pa.DictionaryArray:
        """A dictionary column of ``codes``, taken at each of ``rows`` in turn; the code of None becomes null."""
        taken = pa.array([None if self.texts[code] is None else code for code in codes], pa.int32())
        for at in rows:
            taken = taken.take(at)
        return pa.DictionaryArray.from_arrays(taken, pa.array([text or "" for text in self.texts], schema.TEXT))


class _Groups:
    """The groups of some records: tuple text, how many tuples, and context as codes, one list entry a group."""

    def __init__(self, records: Sequence[Numbered], notes: Notes) -> None:
        self.bodies: list[bytes] = []
        self.sizes: list[int] = []
        self.rule_codes: list[int] = []
        self.acl_codes: list[int] = []
        self.mac_codes: list[int] = []
        self.record_of: list[int] = []
        self.ends: list[int] = []
        """For each record, how many groups there are up to its end."""
        self.rules, self.acls, self.macs, self.targets, self.logs = (_Codes() for _ in range(5))
        self.target_codes: list[int] = []
        self.log_codes: list[int] = []
        self.times: list[int | None] = []
        for index, (_, span) in enumerate(records):
            record = span.fitted
            assert record is not None
            self._add(index, record, notes)

    def _add(self, index: int, record: VnetRecord, notes: Notes) -> None:
        logged = (record.flowLogResourceID, record.resourceId, record.resourceid)
        self.log_codes.append(self.logs.code(next((text for text in logged if text is not None), None)))
        self.target_codes.append(self.targets.code(record.targetResourceID))
        mac = self.macs.code(fields.mac_address(record.macAddress, notes))
        self.times.append(fields.record_time(record.time, notes))
        rule_code, acl_code = self.rules.code, self.acls.code
        add_body, add_size, add_rule = self.bodies.append, self.sizes.append, self.rule_codes.append
        for flow in record.flowRecords.flows:
            before = len(self.rule_codes)
            for group in flow.flowGroups:
                body = bytes(group.flowTuples)
                if body[:2] != b'["' or body[-2:] != b'"]':
                    body = _trimmed(body)
                add_body(body)
                add_size(body.count(b'"') // 2)
                add_rule(rule_code(flow.rule if group.rule is None else group.rule))
                own = None if group.mac is None else fields.mac_address(group.mac, notes)
                self.mac_codes.append(mac if own is None else self.macs.code(own))
            added = len(self.rule_codes) - before
            self.acl_codes.extend([acl_code(flow.aclID)] * added)
            self.record_of.extend([index] * added)
        self.ends.append(len(self.sizes))

    def text(self) -> bytes:
        """All flow tuples, one a line; raises Deviation where they can't be cut apart for sure."""
        joined = b",".join([body[1:-1] for body, size in zip(self.bodies, self.sizes, strict=True) if size])
        if joined[:1] != b'"' or joined[-1:] != b'"':
            raise Deviation
        text = joined[1:-1].replace(b'","', b"\n")
        if b'"' in text:
            text = _SEPARATOR.sub(b"\n", joined[1:-1])
        # Arrow takes a byte-order mark in front of the first number for none of it.
        if text.startswith(BOM) or any(foreign in text for foreign in _FOREIGN):
            raise Deviation
        return text

    def context(self, group: int) -> Context:
        """The context of a group as the strict decoder has it."""
        record = self.record_of[group]
        return Context(
            self.rules.texts[self.rule_codes[group]],
            self.acls.texts[self.acl_codes[group]],
            self.macs.texts[self.mac_codes[group]],
            self.targets.texts[self.target_codes[record]],
            self.logs.texts[self.log_codes[record]],
            self.times[record],
        )

    def columns(self, parents: pa.Array) -> dict[str, pa.Array]:
        """The context columns of rows whose groups are ``parents``."""
        record_of = pa.array(self.record_of, pa.int32())
        return {
            "acl_rule": self.rules.array(self.rule_codes, parents),
            "acl_id": self.acls.array(self.acl_codes, parents),
            "mac_address": self.macs.array(self.mac_codes, parents),
            "target_resource_id": self.targets.array(self.target_codes, record_of, parents),
            "flow_log_id": self.logs.array(self.log_codes, record_of, parents),
            "record_time": pa.array(self.times, schema.TIMESTAMP).take(record_of).take(parents),
        }


def _trimmed(body: bytes) -> bytes:
    """A list of flow tuples without blanks inside its brackets, as compact JSON has it; raises Deviation."""
    if body[:1] != b"[":
        raise Deviation
    inner = body[1:-1].strip(b" \t\r\n")
    if inner and (inner[:1] != b'"' or inner[-1:] != b'"'):
        raise Deviation
    return b"[" + inner + b"]"


def _columnar(records: Sequence[Numbered], where: str) -> tuple[pa.Table, Tally]:
    tally = Tally(where)
    groups = _Groups(records, tally.notes)
    sizes = list(groups.sizes)
    tally.numbers = [number for number, _ in records]
    tally.tuples = sum(sizes)
    flows = schema.ENCODED_FLOWS.empty_table()
    if tally.tuples:
        text = groups.text()
        parsed, odd = _parsed(text)
        if parsed.num_rows + len(odd) != tally.tuples:
            raise Deviation
        flows = (
            _with_odd(parsed, odd, text, groups, sizes, records, tally) if odd else _flows(parsed, groups, sizes, tally)
        )
    ends = [0, *accumulate(sizes)]
    bounds = [0, *groups.ends]
    tally.rows = [ends[after] - ends[before] for before, after in pairwise(bounds)]
    return flows, tally


def _parsed(text: bytes) -> tuple[pa.Table, list[int]]:
    """The rows of 13 fields as columns, and the positions of all others; raises Deviation."""
    odd: list[int] = []

    def divert(row: csv.InvalidRow) -> str:
        odd.append(row.number - 1)
        return "skip"

    try:
        parsed = csv.read_csv(
            pa.py_buffer(text),
            read_options=csv.ReadOptions(
                column_names=list(_CSV_COLUMNS), use_threads=False, block_size=max(len(text) + 1, 2**16)
            ),
            parse_options=csv.ParseOptions(
                quote_char=False,
                double_quote=False,
                escape_char=False,
                ignore_empty_lines=False,
                invalid_row_handler=divert,
            ),
            convert_options=csv.ConvertOptions(
                column_types=_CSV_COLUMNS, null_values=[""], strings_can_be_null=True, check_utf8=True
            ),
        )
    except pa.ArrowInvalid:
        raise Deviation from None
    return parsed, odd


def _flows(parsed: pa.Table, groups: _Groups, sizes: list[int], tally: Tally) -> pa.Table:
    """Checked columns with their context, ``restarted`` included."""
    columns = _checked(parsed, tally.notes)
    parents = _parents(sizes, columns["time"])
    columns |= groups.columns(parents)
    return _ordered(columns, _restarted(columns, parents))


def _parents(sizes: list[int], rows: pa.Array) -> pa.Array:
    """For each row the number of its group."""
    lists = pa.ListArray.from_arrays(pa.array([0, *accumulate(sizes)], pa.int32()), rows)
    return pc.list_parent_indices(lists)


def _ordered(columns: dict[str, pa.Array], restarted: pa.Array) -> pa.Table:
    columns["restarted"] = restarted
    return pa.Table.from_arrays([columns[name] for name in schema.ENCODED_FLOWS.names], schema=schema.ENCODED_FLOWS)


def _with_odd(
    parsed: pa.Table,
    odd: list[int],
    text: bytes,
    groups: _Groups,
    sizes: list[int],
    records: Sequence[Numbered],
    tally: Tally,
) -> pa.Table:
    """As ``_flows``, with the flow tuples at ``odd`` decoded strictly and put where they stood.

    ``sizes`` becomes the number of rows a group has.
    """
    lines = text.split(b"\n")
    ends = list(accumulate(groups.sizes))
    kept: list[int] = []
    rows: list[strict.Row] = []
    for at in odd:
        group = bisect_right(ends, at)
        line = lines[at].decode("utf-8", "replace")
        try:
            flow = strict.decode_tuple(line)
        except Malformed as problem:
            number, span = records[groups.record_of[group]]
            tally.reject_tuple(number, span.offset, str(problem), line)
            sizes[group] -= 1
        else:
            fields.note_unknown(flow, tally.notes)
            kept.append(at)
            rows.append(strict.row(flow, False, groups.context(group)))
    odd_set, kept_set = set(odd), set(kept)
    plain_sizes = list(groups.sizes)
    for at in odd:
        plain_sizes[bisect_right(ends, at)] -= 1
    columns = _checked(parsed, tally.notes)
    columns |= groups.columns(_parents(plain_sizes, columns["time"]))
    plain = _ordered(columns, pa.repeat(pa.scalar(False), parsed.num_rows))
    next_plain, next_odd = iter(range(parsed.num_rows)), iter(range(parsed.num_rows, parsed.num_rows + len(rows)))
    order = [
        next(next_odd) if at in kept_set else next(next_plain)
        for at in range(tally.tuples)
        if at in kept_set or at not in odd_set
    ]
    merged = reordered([plain, strict.table_of(rows)], order)
    columns = {name: merged.column(name).chunk(0) for name in merged.column_names} if merged.num_rows else {}
    return _ordered(columns, _restarted(columns, _parents(sizes, columns["time"]))) if columns else merged


def reordered(tables: Sequence[pa.Table], order: Sequence[int] | None) -> pa.Table:
    """The rows of ``tables``, at the places in ``order``, as one table of single chunks and one dictionary a column."""
    if len(tables) == 1 and order is None:
        return tables[0]
    whole = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return whole if order is None else whole.take(pa.array(order, pa.int64())).combine_chunks()


def _checked(parsed: pa.Table, notes: Notes) -> dict[str, pa.Array]:
    """The tuple columns of schema.FLOWS in their final types; raises Deviation."""
    raw = {name: _single(parsed.column(name)) for name in _CSV_COLUMNS}
    if any(raw[name].null_count for name in _NEVER_NULL):
        raise Deviation
    for name, limit in _LIMITS.items():
        most = pc.max(raw[name]).as_py()
        if most is not None and most >= limit:
            raise Deviation
    state = raw["flow_state"]
    columns = {
        "time": _time(raw["time"]),
        "src_ip": _addresses(raw["src_ip"]),
        "dst_ip": _addresses(raw["dst_ip"]),
        "src_port": raw["src_port"],
        "dst_port": raw["dst_port"],
        "protocol": raw["protocol"],
        "direction": _renamed(raw["direction"], schema.DIRECTION_NAME),
        "flow_state": _renamed(state, schema.STATE_NAME),
        "flow_status": _statuses(state),
        "encryption_code": _encryption(raw["encryption_code"], notes),
    }
    carries_none = pa.array([code in _NO_COUNTERS for code in state.dictionary.to_pylist()], pa.bool_())
    without = carries_none.take(state.indices)
    for name in schema.COUNTERS:
        zero = pc.and_(without, pc.equal(raw[name], 0))
        columns[name] = pc.if_else(pc.fill_null(zero, False), pa.scalar(None, schema.COUNT), raw[name])
    return columns


def _single(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array; one block is one chunk, and none is none."""
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.unify_dictionaries().combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _time(raw: pa.Array) -> pa.Array:
    bounds = pc.min_max(raw)
    least, most = bounds["min"].as_py(), bounds["max"].as_py()
    if least is None:
        return raw.cast(schema.TIMESTAMP)
    if most >= fields.LATEST // 1_000:
        raise Deviation
    if least >= fields.SECONDS_BELOW:
        micros = pc.multiply(raw, 1_000)
    else:
        factor = pc.if_else(pc.less(raw, fields.SECONDS_BELOW), 1_000_000, 1_000)
        micros = pc.multiply(raw, factor)
    bounds = pc.min_max(micros)
    if bounds["min"].as_py() < fields.EARLIEST or bounds["max"].as_py() >= fields.LATEST:
        raise Deviation
    return micros.cast(schema.TIMESTAMP)


def _addresses(raw: pa.DictionaryArray) -> pa.DictionaryArray:
    """Each distinct address in canonical text, and no two codes for the same one; raises Deviation."""
    distinct = raw.dictionary
    canonical = pc.match_substring_regex(distinct, _CANONICAL_IPV4)
    if pc.all(canonical).as_py() is not False:
        return raw
    others = distinct.filter(pc.invert(canonical)).to_pylist()
    try:
        texts = [fields.address(text, "") for text in others]
    except Malformed:
        raise Deviation from None
    if texts == others:
        return raw
    merged = pc.replace_with_mask(distinct, pc.invert(canonical), pa.array(texts, schema.TEXT)).dictionary_encode()
    return pa.DictionaryArray.from_arrays(merged.indices.take(raw.indices), merged.dictionary)


def _renamed(raw: pa.DictionaryArray, names: dict[str, str]) -> pa.DictionaryArray:
    texts = [names.get(code) for code in raw.dictionary.to_pylist()]
    if None in texts:
        raise Deviation
    return pa.DictionaryArray.from_arrays(raw.indices, pa.array(texts, schema.TEXT))


def _statuses(state: pa.DictionaryArray) -> pa.DictionaryArray:
    codes = pa.array([int(code == "D") for code in state.dictionary.to_pylist()], pa.int32()).take(state.indices)
    return pa.DictionaryArray.from_arrays(codes, pa.array([schema.STATUS_NAME[code] for code in "AD"], schema.TEXT))


def _encryption(raw: pa.DictionaryArray, notes: Notes) -> pa.DictionaryArray:
    """The codes as logged, unknown ones counted; a code that may be an NSG's state raises Deviation."""
    codes = raw.dictionary.to_pylist()
    if any(code in DECISION_STATES for code in codes):
        raise Deviation
    if any(code not in schema.ENCRYPTION_STATUS for code in codes):
        for entry in pc.value_counts(raw.indices.drop_null()).to_pylist():
            code = codes[entry["values"]]
            if code not in schema.ENCRYPTION_STATUS:
                notes[f"encryption {fields.shown(code)}"] += entry["counts"]
    return raw


def _restarted(columns: dict[str, pa.Array], parents: pa.Array) -> pa.Array:
    """As ``strict.restarted`` for each group, found by time first, then by a mix of all keys, then exactly."""
    rows = len(parents)
    state = columns["flow_state"]
    names = state.dictionary.to_pylist()
    ends = pa.array([name == "End" for name in names], pa.bool_()).take(state.indices).fill_null(False)
    begins = pa.array([name == "Begin" for name in names], pa.bool_()).take(state.indices).fill_null(False)
    begin_rows = pc.indices_nonzero(begins)
    end_rows = pc.indices_nonzero(ends)
    times = columns["time"].cast(pa.int64())
    end_rows = end_rows.filter(pc.is_in(times.take(end_rows), value_set=times.take(begin_rows)))
    if not len(end_rows):
        return pa.repeat(pa.scalar(False), rows)
    begin_rows = begin_rows.filter(pc.is_in(times.take(begin_rows), value_set=times.take(end_rows)))
    keys = [times, parents, *(_codes_of(columns[name]) for name in (*schema.FIVE_TUPLE, "direction"))]

    def mixed(at: pa.Array) -> pa.Array:
        total = pa.repeat(pa.scalar(0, pa.int64()), len(at))
        for key, factor in zip(keys, _MIXERS, strict=True):
            total = pc.add(pc.multiply(total, factor), key.take(at))
        return total

    end_mix, begin_mix = mixed(end_rows), mixed(begin_rows)
    end_rows = end_rows.filter(pc.is_in(end_mix, value_set=begin_mix))
    begin_rows = begin_rows.filter(pc.is_in(begin_mix, value_set=end_mix))

    def exact(at: pa.Array) -> list[tuple[int, ...]]:
        return list(zip(*(key.take(at).to_pylist() for key in keys), strict=True))

    last_begin = dict(zip(exact(begin_rows), begin_rows.to_pylist(), strict=True))
    found = [at for at, key in zip(end_rows.to_pylist(), exact(end_rows), strict=True) if last_begin.get(key, -1) > at]
    if not found:
        return pa.repeat(pa.scalar(False), rows)
    return pc.is_in(pa.array(range(rows), pa.int64()), value_set=pa.array(found, pa.int64()))


def _codes_of(column: pa.Array) -> pa.Array:
    """A column as whole numbers that are equal exactly where its values are; null is -1."""
    numbers = column.indices if isinstance(column, pa.DictionaryArray) else column
    return pc.fill_null(numbers.cast(pa.int64()), -1)
