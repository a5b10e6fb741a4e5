"""The fast decoder: VNet records as structs, all their flow tuples as one CSV buffer, columns from there on.

Nothing here rejects or explains. Whatever is not plainly a whole, known record, or a flow tuple of 13 clean fields, goes
to the strict decoder: a record alone, or a flow tuple alone. Every check is a scan of the buffer or of distinct values,
so no Python runs per flow tuple, and next to none per group.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """One rule's flow tuples, still as bytes. A ``mac`` of its own, seen in a hybrid only, is for the strict decoder."""

    flowTuples: msgspec.Raw  # noqa: N815
    rule: str | None = None
    mac: None = None


class Flow(msgspec.Struct, frozen=True, gc=False):
    """One access control list's groups. A ``rule`` of its own, seen in a hybrid only, is for the strict decoder."""

    flowGroups: list[FlowGroup]  # noqa: N815
    aclID: str | None = None  # noqa: N815
    rule: None = None


class Flows(msgspec.Struct, frozen=True, gc=False):
    """The object that holds the flows."""

    flows: list[Flow]


class VnetRecord(msgspec.Struct, frozen=True, gc=False):
    """A record of a VNet flow log, by the keys that vnet.SHAPE names."""

    flowRecords: Flows  # noqa: N815
    time: str | None = None
    macAddress: str | None = None  # noqa: N815
    flowLogResourceID: str | None = None  # noqa: N815
    resourceId: str | None = None  # noqa: N815
    resourceid: None = None
    targetResourceID: str | None = None  # noqa: N815


Numbered = tuple[int, Record[Any, VnetRecord]]
Columns = dict[str, pa.Array]

_LETTER = pa.binary(1)
_LAST = "last"
"""Column behind a flow tuple's own: 1 where the tuple is the last of its group."""
_CSV_COLUMNS: dict[str, pa.DataType] = {
    "time": pa.int64(),
    "src_ip": schema.DICTIONARY,
    "dst_ip": schema.DICTIONARY,
    "src_port": schema.PORT,
    "dst_port": schema.PORT,
    "protocol": schema.PROTOCOL,
    "direction": _LETTER,
    "flow_state": _LETTER,
    "encryption_code": schema.DICTIONARY,
    **dict.fromkeys(schema.COUNTERS, schema.COUNT),
    _LAST: pa.int8(),
}
_NEVER_NULL = ("time", "src_ip", "dst_ip", "protocol", "direction", "flow_state")
_LIMITS = {
    "src_port": fields.PORT_LIMIT,
    "dst_port": fields.PORT_LIMIT,
    "protocol": fields.PROTOCOL_LIMIT,
    **dict.fromkeys(schema.COUNTERS, schema.COUNTER_LIMIT),
}
# What Arrow's CSV reader takes for part of a number and the strict decoder does not (tried with 26.0): a minus, blanks
# around it, hexadecimal (0X is found by counting X, far cheaper). CR would end a row; a backslash may hide anything.
_FOREIGN = (b"\\", b"-", b" ", b"\t", b"\r", b"x")
# What says that the flow tuples were not cut apart where they end.
_LEFT_OVER = (b'"', b"[", b"]")
_SEPARATOR = re.compile(rb'"[ \t\r\n]*,[ \t\r\n]*"')
_BLANKS = b" \t\r\n"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_CANONICAL_IPV4 = rf"\A{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}\z"
_MAX_DEVIATIONS = 32
_MAX_ODD = 10_000
_NO_CONTEXT = Context(None, None, None, None, None, None)
_SAME_FLOW = ("time", *schema.FIVE_TUPLE, "direction")


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
        lists = len(flows) + sum([len(flow.flowGroups) for flow in flows])
        if raw.count(b"{") != 2 + lists or raw.count(b"[") != 1 + lists:
            return None
        return record


def decode_records(records: Sequence[Numbered], where: str) -> tuple[list[tuple[pa.Table, Tally]], list[Numbered]]:
    """Flows and tally of stretches of ``records`` in order, and the records that are left for the strict decoder.

    A stretch that deviates is halved until the record that does so stands alone; where that happens again and again,
    whole stretches are left, so that a file of nothing but deviations costs little more than the strict decoder.
    """
    decoded = []
    left: list[Numbered] = []
    deviations = 0
    stretches = [records] if records else []
    while stretches:
        stretch = stretches.pop()
        try:
            decoded.append(_columnar(stretch, where))
        except Deviation:
            deviations += 1
            if len(stretch) == 1 or deviations > _MAX_DEVIATIONS:
                left.extend(stretch)
            else:
                middle = len(stretch) // 2
                stretches += [stretch[middle:], stretch[:middle]]
    return decoded, left


def reordered(tables: Sequence[pa.Table], order: Sequence[int] | None) -> pa.Table:
    """The rows of ``tables``, at the places in ``order``, as one table of single chunks and one dictionary a column."""
    if len(tables) == 1 and order is None:
        return tables[0]
    whole = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return whole if order is None else whole.take(pa.array(order, pa.int64())).combine_chunks()


@dataclass(slots=True)
class _Groups:
    """The ``flowTuples`` arrays of some records that hold any, in order, with what stands around them."""

    tuples: list[Any]
    """Each array's bytes, brackets included."""
    rules: list[str | None]
    acls: list[str | None]
    record_of: list[int]
    targets: list[str | None]
    logs: list[str | None]
    macs: list[str | None]
    times: list[int | None]
    """The last four by record."""

    def columns(self, parents: pa.Array) -> Columns:
        """The context columns of rows whose groups are ``parents``."""
        record_of = pa.array(self.record_of, pa.int32()).take(parents)
        return {
            "acl_rule": _spread(self.rules, parents),
            "acl_id": _spread(self.acls, parents),
            "mac_address": _spread(self.macs, record_of),
            "target_resource_id": _spread(self.targets, record_of),
            "flow_log_id": _spread(self.logs, record_of),
            "record_time": pa.array(self.times, schema.TIMESTAMP).take(record_of),
        }


def _spread(texts: list[str | None], at: pa.Array) -> pa.DictionaryArray:
    distinct = pa.array(texts, schema.TEXT).dictionary_encode()
    return pa.DictionaryArray.from_arrays(distinct.indices.take(at), distinct.dictionary)


def _grouped(records: Sequence[Numbered], notes: Notes) -> _Groups:
    groups = _Groups([], [], [], [], [], [], [], [])
    for index, (_, span) in enumerate(records):
        record = span.fitted
        assert record is not None, "only fitted records come here"
        logged = record.flowLogResourceID
        groups.logs.append(record.resourceId if logged is None else logged)
        groups.targets.append(record.targetResourceID)
        groups.macs.append(fields.mac_address(record.macAddress, notes))
        groups.times.append(fields.record_time(record.time, notes))
        for flow in record.flowRecords.flows:
            of_flow = flow.flowGroups
            groups.tuples += [group.flowTuples for group in of_flow]
            groups.rules += [group.rule for group in of_flow]
            groups.acls += [flow.aclID] * len(of_flow)
        groups.record_of += [index] * (len(groups.rules) - len(groups.record_of))
    return groups


def _compacted(groups: _Groups) -> _Groups:
    """The same groups without those that hold no tuple, and without blanks between tuples; raises Deviation."""
    kept = []
    bodies = []
    for at, tuples in enumerate(groups.tuples):
        body = bytes(tuples)
        inner = body[1:-1].strip(_BLANKS)
        if body[:1] != b"[" or (inner and (inner[:1] != b'"' or inner[-1:] != b'"')):
            raise Deviation
        if inner:
            kept.append(at)
            # Behind the first quote, which with the next one would pass for a separator around a tuple that is a comma alone.
            bodies.append(b'["' + _SEPARATOR.sub(b'","', inner[1:]) + b"]")
    return _Groups(
        bodies,
        [groups.rules[at] for at in kept],
        [groups.acls[at] for at in kept],
        [groups.record_of[at] for at in kept],
        groups.targets,
        groups.logs,
        groups.macs,
        groups.times,
    )


@dataclass(frozen=True, slots=True)
class _Lines:
    """All flow tuples one a line with the column _LAST, how many they are, and how many X stand in them."""

    text: bytes
    tuples: int
    letters_x: int


def _lines(groups: _Groups) -> _Lines | None:
    """The flow tuples of groups as lines; None where the cuts between them are in doubt.

    Each cut shortens the text by a known number of bytes, so the count does not rest on what the CSV reader finds.
    """
    joined = b",".join([*groups.tuples, b'["'])
    if not (joined.startswith(b'["') and joined.endswith(b'"],["')):
        return None
    # Arrow takes a byte-order mark in front of the first number for none of it.
    if joined.startswith(BOM, 2) or any(foreign in joined for foreign in _FOREIGN) or not _is_utf8(joined):
        return None
    offsets = pa.array([2, len(joined)], pa.int64()).buffers()[1]
    whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(joined)])
    # Arrow's replacement is about three times as fast as that of bytes.
    by_group = pc.replace_substring(whole, b'"],["', b",1\n")
    text: bytes = pc.replace_substring(by_group, b'","', b",\n")[0].as_py()
    length = pc.binary_length(by_group)[0].as_py()
    between_groups, rest = divmod(len(joined) - 2 - length, 2)
    if rest or between_groups != len(groups.tuples) or any(left in text for left in _LEFT_OVER):
        return None
    return _Lines(text, length - len(text) + len(groups.tuples), joined.count(b"X"))


def _is_utf8(text: bytes) -> bool:
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def _columnar(records: Sequence[Numbered], where: str) -> tuple[pa.Table, Tally]:
    """The flows of records and what became of the rest; raises Deviation."""
    tally = Tally(where, numbers=[number for number, _ in records], rows=[0] * len(records))
    groups = _grouped(records, tally.notes)
    lines = _lines(groups)
    if lines is None:
        groups = _compacted(groups)
        if not groups.tuples:
            return schema.without_rows(schema.ENCODED_FLOWS), tally
        lines = _lines(groups)
        if lines is None:
            raise Deviation
    tally.tuples = lines.tuples
    parsed, odd = _parsed(lines.text)
    if parsed.num_rows + len(odd) != tally.tuples:
        raise Deviation
    columns, encryption_x = _checked(parsed, tally.notes)
    if odd:
        columns, parents, odd_x = _with_odd(columns, odd, lines.text, groups, records, tally)
    else:
        last = pc.fill_null(_single(parsed.column(_LAST)), 0).cast(pa.int32())
        parents, odd_x = pc.subtract(pc.cumulative_sum(last), last), 0
        if pc.sum(last).as_py() != len(groups.tuples):
            raise Deviation
    if lines.letters_x != encryption_x + odd_x:
        raise Deviation
    columns |= groups.columns(parents)
    columns["restarted"] = _restarted(columns, parents)
    runs = pc.run_end_encode(pa.array(groups.record_of, pa.int32()).take(parents))
    ends = runs.run_ends.to_pylist()
    for index, start, end in zip(runs.values.to_pylist(), [0, *ends], ends, strict=False):
        tally.rows[index] = end - start
    ordered = [columns[name] for name in schema.ENCODED_FLOWS.names]
    return pa.Table.from_arrays(ordered, schema=schema.ENCODED_FLOWS), tally


def _parsed(text: bytes) -> tuple[pa.Table, list[int]]:
    """The lines of 13 fields and _LAST as columns, and the numbers of all others; raises Deviation."""
    odd: list[int] = []

    def divert(line: csv.InvalidRow) -> str:
        odd.append(line.number - 1)
        return "skip" if len(odd) <= _MAX_ODD else "error"

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
                column_types=_CSV_COLUMNS, null_values=[""], strings_can_be_null=True, check_utf8=False
            ),
        )
    except pa.ArrowInvalid:
        raise Deviation from None
    return parsed, odd


def _with_odd(
    columns: Columns, odd: list[int], text: bytes, groups: _Groups, records: Sequence[Numbered], tally: Tally
) -> tuple[Columns, pa.Array, int]:
    """Columns with the lines ``odd`` decoded strictly and put where they stood, each row's group, and the X in ``odd``."""
    lines = text.split(b"\n")[:-1]
    lasts = [at for at, line in enumerate(lines) if not line.endswith(b",")]
    if len(lasts) != len(groups.tuples):
        raise Deviation
    rows: list[strict.Row] = []
    rejected = set()
    found_x = 0
    for at in odd:
        raw = lines[at].rpartition(b",")[0]
        found_x += raw.count(b"X")
        line = raw.decode("utf-8", "replace")
        try:
            flow = strict.decode_tuple(line)
        except Malformed as problem:
            number, span = records[groups.record_of[bisect_left(lasts, at)]]
            tally.reject_tuple(number, span.offset, str(problem), line)
            rejected.add(at)
        else:
            fields.note_unknown(flow, tally.notes)
            rows.append(strict.row(flow, False, _NO_CONTEXT))
    plain = len(columns["time"])
    next_row = {False: iter(range(plain)), True: iter(range(plain, plain + len(rows)))}
    diverted = set(odd)
    kept = [at for at in range(len(lines)) if at not in rejected]
    order = [next(next_row[at in diverted]) for at in kept]
    parents = pa.array([bisect_left(lasts, at) for at in kept], pa.int32())
    merged = reordered([pa.table(columns), strict.table_of(rows).select(list(columns))], order)
    return {name: _single(merged.column(name)) for name in columns}, parents, found_x


def _checked(parsed: pa.Table, notes: Notes) -> tuple[Columns, int]:
    """The tuple columns of schema.FLOWS in their final types, and how many X the encryption codes hold.

    Raises Deviation.
    """
    raw = {name: _single(parsed.column(name)) for name in _CSV_COLUMNS}
    if any(raw[name].null_count for name in _NEVER_NULL):
        raise Deviation
    for name, limit in _LIMITS.items():
        most = pc.max(raw[name]).as_py()
        if most is not None and most >= limit:
            raise Deviation
    state = _coded(raw["flow_state"], schema.STATE_NAME)
    encryption, found_x = _encryption(raw["encryption_code"], notes)
    columns = {
        "time": _time(raw["time"]),
        "src_ip": _addresses(raw["src_ip"]),
        "dst_ip": _addresses(raw["dst_ip"]),
        "src_port": raw["src_port"],
        "dst_port": raw["dst_port"],
        "protocol": raw["protocol"],
        "direction": _coded(raw["direction"], schema.DIRECTION_NAME),
        "flow_state": state,
        "flow_status": status(state.indices, state.dictionary.to_pylist()),
        "encryption_code": encryption,
    }
    without = pa.array([word in ("Begin", "Deny") for word in state.dictionary.to_pylist()]).take(state.indices)
    for name in schema.COUNTERS:
        # Where the counter is null already, so is the condition, and with it the result.
        zero = pc.and_(without, pc.equal(raw[name], 0))
        columns[name] = pc.if_else(zero, pa.scalar(None, schema.COUNT), raw[name])
    return columns, found_x


def _single(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array: one CSV block is one chunk, and no row is none."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.array([], column.type) if not len(column) else column.unify_dictionaries().combine_chunks()


def _coded(raw: pa.Array, names: Mapping[str, str]) -> pa.DictionaryArray:
    """Single ASCII letters as the words for them; raises Deviation where there is none."""
    letters = pa.Array.from_buffers(pa.uint8(), len(raw), [None, raw.buffers()[1]], offset=raw.offset)
    codes = pc.index_in(letters, value_set=pa.array([ord(letter) for letter in names], pa.uint8()))
    if codes.null_count:
        raise Deviation
    return pa.DictionaryArray.from_arrays(codes, pa.array(names.values(), schema.TEXT))


def status(states: pa.Array, names: Sequence[str]) -> pa.DictionaryArray:
    """Denied for Deny, else Allowed; ``states`` are places in ``names``."""
    letters = list(schema.STATUS_NAME)
    code_of = [letters.index("D" if word == schema.STATE_NAME["D"] else "A") for word in names]
    codes = pa.array(code_of, pa.int32()).take(states)
    return pa.DictionaryArray.from_arrays(codes, pa.array(schema.STATUS_NAME.values(), schema.TEXT))


def _time(raw: pa.Array) -> pa.Array:
    least, most = _bounds(raw)
    if most >= fields.LATEST // 1_000:
        raise Deviation
    factor = (
        1_000 if least >= fields.SECONDS_BELOW else pc.if_else(pc.less(raw, fields.SECONDS_BELOW), 1_000_000, 1_000)
    )
    microseconds = pc.multiply(raw, factor)
    least, most = _bounds(microseconds)
    if len(raw) and (least < fields.EARLIEST or most >= fields.LATEST):
        raise Deviation
    return microseconds.cast(schema.TIMESTAMP)


def _bounds(numbers: pa.Array) -> tuple[int, int]:
    """Least and most; zeros where there is nothing."""
    bounds = pc.min_max(numbers)
    return bounds["min"].as_py() or 0, bounds["max"].as_py() or 0


def _addresses(raw: pa.DictionaryArray) -> pa.DictionaryArray:
    """Each distinct address in canonical text, and no two codes for the same one; raises Deviation."""
    distinct = raw.dictionary
    other = pc.invert(pc.match_substring_regex(distinct, _CANONICAL_IPV4))
    texts = distinct.filter(other).to_pylist()
    try:
        canonical = [fields.address(text, "") for text in texts]
    except Malformed:
        raise Deviation from None
    if canonical == texts:
        return raw
    merged = pc.replace_with_mask(distinct, other, pa.array(canonical, schema.TEXT)).dictionary_encode()
    return pa.DictionaryArray.from_arrays(merged.indices.take(raw.indices), merged.dictionary)


def _encryption(raw: pa.DictionaryArray, notes: Notes) -> tuple[pa.DictionaryArray, int]:
    """The codes as logged, unknown ones counted, and how many X they hold.

    A code that may be an NSG's state raises Deviation.
    """
    codes = raw.dictionary.to_pylist()
    if any(code in DECISION_STATES for code in codes):
        raise Deviation
    found_x = 0
    for entry in pc.value_counts(raw.indices.drop_null()).to_pylist():
        code, count = codes[entry["values"]], entry["counts"]
        found_x += count * code.count("X")
        if code not in schema.ENCRYPTION_STATUS:
            notes[f"encryption {fields.shown(code)}"] += count
    return raw, found_x


def _restarted(columns: Columns, parents: pa.Array) -> pa.Array:
    """As ``strict.restarted`` for each group: candidates by time and source port, then exactly."""
    ends, begins = _where(columns["flow_state"], "End"), _where(columns["flow_state"], "Begin")
    # Products wrap around; rows that are the same still meet, and few others do.
    coarse = pc.add(pc.multiply(columns["time"].cast(pa.int64()), 2**16), _numbers(columns["src_port"]))
    coarse_ends, coarse_begins = coarse.take(ends), coarse.take(begins)
    ends = ends.filter(pc.is_in(coarse_ends, value_set=coarse_begins))
    if not len(ends):
        return pa.repeat(pa.scalar(False), len(parents))
    begins = begins.filter(pc.is_in(coarse_begins, value_set=coarse_ends))

    def keys(at: pa.Array) -> list[tuple[int, ...]]:
        exact = (parents.take(at), *(_numbers(columns[name].take(at)) for name in _SAME_FLOW))
        return list(zip(*(key.to_pylist() for key in exact), strict=True))

    last_begin = dict(zip(keys(begins), begins.to_pylist(), strict=True))
    found = [at for at, key in zip(ends.to_pylist(), keys(ends), strict=True) if last_begin.get(key, -1) > at]
    return pc.is_in(pa.array(range(len(parents)), pa.int64()), value_set=pa.array(found, pa.int64()))


def _where(column: pa.DictionaryArray, word: str) -> pa.Array:
    """The rows that hold ``word``."""
    code = column.dictionary.index(word).as_py()
    return pc.indices_nonzero(pc.equal(column.indices, code)).cast(pa.int64())


def _numbers(column: pa.Array) -> pa.Array:
    """A column as whole numbers that are equal exactly where its values are; null is -1."""
    numbers = column.indices if isinstance(column, pa.DictionaryArray) else column
    return pc.fill_null(numbers.cast(pa.int64()), -1)
