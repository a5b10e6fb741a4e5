"""The reference decoder: one record, one flow tuple, one field at a time.

It serves every record that the fast decoder does not, and says what flowlens takes a flow log to mean; ``fast`` must
agree with it on every input.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa

from flowlens import schema
from flowlens.evidence import REJECTS_KEPT, Reject, sample
from flowlens.formats import fields, nsg, vnet
from flowlens.formats.fields import FlowTuple, Malformed, Notes
from flowlens.formats.framing import Broken, Record
from flowlens.formats.records import Context, Group, groups

Row = tuple[Any, ...]
"""One row of schema.FLOWS: the fields of a FlowTuple, ``restarted``, the fields of a Context."""


@dataclass(slots=True)
class Tally:
    """What became of some records of a document; ``rows`` counts by record, ``numbers`` says which records."""

    where: str
    numbers: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tuples: int = 0
    rejected: int = 0
    rejected_records: int = 0
    rejects: list[tuple[int, Reject]] = field(default_factory=list)
    """The first of them, with the number of their record; all are counted."""
    notes: Notes = field(default_factory=Notes)

    def reject_tuple(self, number: int, offset: int, reason: str, text: str) -> None:
        """Count a flow tuple that could not be decoded."""
        self.rejected += 1
        self._keep(number, offset, reason, text)

    def reject_record(self, number: int, offset: int, reason: str, raw: bytes) -> None:
        """Count a record, or a part of one, that holds no flow tuples where it should."""
        self.rejected_records += 1
        self._keep(number, offset, reason, raw)

    def _keep(self, number: int, offset: int, reason: str, raw: bytes | str) -> None:
        if len(self.rejects) < REJECTS_KEPT:
            self.rejects.append((number, Reject(self.where, offset, reason, sample(raw))))


def parse_record(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``: the last of equal keys counts, NaN and Infinity are refused; raises ValueError.

    Bytes that are not UTF-8 become replacement characters. No number of a record is used, so none is too large.
    """
    value = json.loads(raw.decode("utf-8", "replace"), parse_constant=_refuse, parse_int=Decimal)
    assert isinstance(value, dict), "framing hands on objects only"
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def decode_tuple(text: str) -> FlowTuple:
    """One flow tuple of any flow log; raises Malformed.

    >>> decode_tuple("1663145998065,192.0.2.153,10.0.0.6,55188,22,6,I,D,NX,0,0,0,0").flow_status
    'Denied'
    """
    found = text.count(",") + 1
    texts = fields.clean(text).split(",") if found <= 14 else []
    if found == 14 and not texts[13]:
        # A trailing comma, seen in the wild.
        texts.pop()
    elif found >= 14:
        raise Malformed(f"expected 13 fields, found {found}")
    return nsg.nsg_tuple(texts) if nsg.is_nsg_tuple(texts) else vnet.vnet_tuple(texts)


def decode_records(spans: Iterable[tuple[int, Record[Any, Any] | Broken]], where: str) -> tuple[pa.Table, Tally]:
    """The flows of numbered records in order, and what became of the rest."""
    tally = Tally(where)
    rows: list[Row] = []
    for number, span in spans:
        before = len(rows)
        if isinstance(span, Broken):
            tally.reject_record(number, span.offset, span.reason, span.head)
        else:
            record = parse_record(span.raw) if span.value is None else span.value
            for group in _groups(record, tally.notes):
                if isinstance(group, Malformed):
                    tally.reject_record(number, span.offset, str(group), span.raw)
                else:
                    rows.extend(_rows(group, number, span.offset, tally))
        tally.numbers.append(number)
        tally.rows.append(len(rows) - before)
    return table_of(rows), tally


def _groups(record: dict[str, Any], notes: Notes) -> Iterator[Group | Malformed]:
    """Groups of either shape; a record of neither is Malformed."""
    properties = record.get(nsg.SHAPE.holder)
    has_vnet = vnet.SHAPE.holder in record
    has_nsg = isinstance(properties, dict) and "flows" in properties
    if has_vnet:
        yield from groups(record, vnet.SHAPE, notes)
    if has_nsg:
        yield from groups(record, nsg.SHAPE, notes)
    if not (has_vnet or has_nsg):
        category = record.get("category")
        found = f"category {fields.shown(category)}" if isinstance(category, str) else "no category"
        yield Malformed(f"expected flowRecords or properties.flows, found neither ({found})")


def _rows(group: Group, number: int, offset: int, tally: Tally) -> list[Row]:
    """The rows of one flowTuples array in order."""
    flows: list[FlowTuple] = []
    for text in group.tuples:
        tally.tuples += 1
        if not isinstance(text, str):
            tally.reject_tuple(number, offset, f"flow tuple: expected text, found {fields.kind(text)}", "")
            continue
        try:
            flow = decode_tuple(text)
        except Malformed as problem:
            tally.reject_tuple(number, offset, str(problem), text)
        else:
            fields.note_unknown(flow, tally.notes)
            flows.append(flow)
    return [row(flow, is_restarted, group.context) for flow, is_restarted in zip(flows, restarted(flows), strict=True)]


def row(flow: FlowTuple, is_restarted: bool, context: Context) -> Row:
    """The row of schema.FLOWS for a flow tuple."""
    return (*flow, is_restarted, *context)


def restarted(flows: list[FlowTuple]) -> list[bool]:
    """For each flow tuple of one array, whether it is an End whose Begin with the same time stamp stands later.

    The same means time, five-tuple and direction. Seen in real logs where a flow is created again in place; the End
    after it may count on from the former one (formats.md 2.4).
    """
    flags = []
    begun = set()
    for flow in reversed(flows):
        same = (flow.time, flow.src_ip, flow.dst_ip, flow.src_port, flow.dst_port, flow.protocol, flow.direction)
        flags.append(flow.flow_state == "End" and same in begun)
        if flow.flow_state == "Begin":
            begun.add(same)
    return flags[::-1]


def table_of(rows: list[Row]) -> pa.Table:
    """Rows as a table of schema.ENCODED_FLOWS."""
    columns = zip(*rows, strict=True) if rows else [()] * len(schema.FLOWS)
    arrays = [
        pa.array(values, kind.type).dictionary_encode() if kind.type == schema.TEXT else pa.array(values, kind.type)
        for values, kind in zip(columns, schema.FLOWS, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema.ENCODED_FLOWS)
