"""What the compiled reader holds of one document: as a table of flows, as contexts for a rollup, and record by record.

The kernel keeps texts as numbers of words; here they get their meaning, by the same functions that the strict decoder uses.
"""

from __future__ import annotations

import array
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flowlens import kernel, schema
from flowlens.formats import fields
from flowlens.formats.fast import spread
from flowlens.formats.fields import Notes
from flowlens.formats.framing import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from flowlens._kernel import Reader

Context = tuple[dt.datetime, str | None, str | None, str | None, str, str, str | None, str | None, str | None]
"""Bucket, flow log, target, MAC address, direction, status, rule, acl, encryption code: as in schema.CONVERSATION_KEYS."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def new_reader() -> Reader | None:
    """A reader of the compiled kernel; None where the portable way serves."""
    module = kernel.compiled()
    if module is None:
        return None
    reader: Reader = module.Reader(
        fields.EARLIEST,
        fields.LATEST,
        fields.PORT_LIMIT,
        fields.PROTOCOL_LIMIT,
        schema.COUNTER_LIMIT,
        MAX_RECORD_BYTES,
    )
    return reader


@dataclass(frozen=True, slots=True)
class RecordRows:
    """What stands around the rows of one record, and how many they are."""

    flow_log: str | None
    target: str | None
    mac: str | None
    time: int | None
    rows: int


class Batch:
    """The rows that a reader holds; of use until the reader is cleared."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.notes = Notes()
        self._texts = [word.decode("utf-8", "replace") for word in reader.word_list()]
        self.records = list(self._records())
        for word, count in reader.encryption_counts().items():
            if (code := self._texts[word]) not in schema.ENCRYPTION_STATUS:
                self.notes[f"encryption {fields.shown(code)}"] += count

    def _records(self) -> Iterator[RecordRows]:
        times = self._each(fields.record_time)
        macs = self._each(fields.mac_address)
        for time, mac, target, log, rows in self.reader.record_list():
            yield RecordRows(self._text(log), self._text(target), macs(mac), times(time), rows)

    def _each(self, read: Callable[[object, Notes], Any]) -> Callable[[int], Any]:
        """``read`` for the number of a word, done once for each, and what it notes noted each time."""
        known: dict[int, tuple[Any, Notes]] = {}

        def value(word: int) -> Any:
            if word not in known:
                noted = Notes()
                known[word] = read(self._text(word), noted), noted
            found, noted = known[word]
            if noted:
                self.notes.update(noted)
            return found

        return value

    def _text(self, word: int) -> str | None:
        return None if word < 0 else self._texts[word]

    def contexts(self, edges: Sequence[int]) -> list[Context]:
        """The contexts of all rows, by their numbers in the reader; ``edges`` in microseconds, sorted, cut the hours."""
        directions = [schema.DIRECTION_NAME[letter] for letter in self.reader.directions]
        statuses = [schema.STATUS_NAME["A"], schema.STATUS_NAME["D"]]
        macs = self._each(fields.mac_address)
        noted = self.notes.copy()
        found: list[Context] = [
            (
                _EPOCH + dt.timedelta(microseconds=hour),
                self._text(log),
                self._text(target),
                macs(mac),
                directions[direction],
                statuses[denied],
                self._text(rule),
                self._text(acl),
                self._text(code),
            )
            for hour, log, target, mac, rule, acl, code, direction, denied in self.reader.context_list(
                array.array("q", edges)
            )
        ]
        self.notes = noted
        return found

    @cached_property
    def flows(self) -> pa.Table:
        """The rows as a table of schema.ENCODED_FLOWS."""
        count = self.reader.row_count
        if not count:
            return schema.ENCODED_FLOWS.empty_table()
        made = self.reader.columns(pa.allocate_buffer)
        texts = pa.array(self._texts, schema.TEXT)
        offsets, data = self.reader.address_texts(pa.allocate_buffer)
        addresses = pa.Array.from_buffers(schema.TEXT, len(offsets) // 4 - 1, [None, offsets, data])
        record_of, *names = (
            pa.Array.from_buffers(pa.int32(), self.reader.group_count, [None, column])
            for column in self.reader.group_columns(pa.allocate_buffer)
        )

        def column(name: str, kind: pa.DataType) -> pa.Array:
            return pa.Array.from_buffers(kind, count, list(made[name]))

        def coded(name: str, words: pa.Array) -> pa.DictionaryArray:
            return pa.DictionaryArray.from_arrays(column(name, pa.int32()), words)

        parents = column("group", pa.int32())
        rows_records = record_of.take(parents)
        states = [schema.STATE_NAME[letter] for letter in self.reader.states]
        denied = [schema.STATUS_NAME["D" if letter == "D" else "A"] for letter in self.reader.states]
        statuses = pa.array(denied, schema.TEXT).dictionary_encode()
        state = column("flow_state", pa.int32())
        columns = {
            "time": column("time", schema.TIMESTAMP),
            "src_ip": coded("src_ip", addresses),
            "dst_ip": coded("dst_ip", addresses),
            "src_port": column("src_port", schema.PORT),
            "dst_port": column("dst_port", schema.PORT),
            "protocol": column("protocol", schema.PROTOCOL),
            "direction": coded("direction", pa.array([schema.DIRECTION_NAME[letter] for letter in self.reader.directions])),
            "flow_state": pa.DictionaryArray.from_arrays(state, pa.array(states, schema.TEXT)),
            "flow_status": pa.DictionaryArray.from_arrays(statuses.indices.take(state), statuses.dictionary),
            "encryption_code": coded("encryption_code", texts),
            **{name: column(name, schema.COUNT) for name in schema.COUNTERS},
            "restarted": pa.Array.from_buffers(pa.bool_(), count, [None, made["restarted"][0]]),
        }
        for name, words in zip(("acl_rule", "acl_id"), names, strict=True):
            columns[name] = spread([self._text(word) for word in words.to_pylist()], parents)
        for name, values in (
            ("mac_address", [record.mac for record in self.records]),
            ("target_resource_id", [record.target for record in self.records]),
            ("flow_log_id", [record.flow_log for record in self.records]),
        ):
            columns[name] = spread(values, rows_records)
        times = pa.array([record.time for record in self.records], schema.TIMESTAMP)
        columns["record_time"] = times.take(rows_records)
        return pa.Table.from_arrays(
            [columns[name] for name in schema.ENCODED_FLOWS.names], schema=schema.ENCODED_FLOWS
        )

