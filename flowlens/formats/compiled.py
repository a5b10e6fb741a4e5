"""What the compiled reader holds of one document: as a table of flows, as contexts for a rollup, and record by record.

The kernel keeps texts as numbers of words; here they get their meaning, by the same functions that the strict decoder uses.
"""

from __future__ import annotations

import array
import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from flowlens import kernel, schema
from flowlens.formats import fast, fields
from flowlens.formats.fields import Notes
from flowlens.formats.framing import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from flowlens._kernel import Reader

Context = tuple[dt.datetime, str | None, str | None, str | None, str, str, str | None, str | None, str | None]
"""Bucket, flow log, target, MAC address, direction, status, rule, acl, encryption code: as in schema.CONVERSATION_KEYS."""

Value = TypeVar("Value")
Key = TypeVar("Key")
NicHour = tuple[str | None, str | None, str | None, int]
"""Flow log, target, MAC address, hours since 1970."""
HOUR = 3_600_000_000
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


class Batch:
    """The rows that a reader holds; of use until the reader is cleared.

    ``notes`` are its unknown codes and unreadable names; ``rows`` and ``times`` (microseconds, or None) go by record.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.notes = Notes()
        self._texts = [word.decode("utf-8", "replace") for word in reader.word_list()]
        self._records = reader.record_list()
        self.rows = [record[5] for record in self._records]
        times: dict[int, int | None] = {}
        self._macs: dict[int, str | None] = {-1: None}
        self._read([word for _, word, *_ in self._records if word is not None], fields.record_time, times)
        self._read([mac for _, _, mac, *_ in self._records], fields.mac_address, self._macs)
        self.times = [moment if word is None else times[word] for moment, word, *_ in self._records]
        for word, count in reader.encryption_counts().items():
            if (code := self._texts[word]) not in schema.ENCRYPTION_STATUS:
                self.notes[f"encryption {fields.shown(code)}"] += count

    def _read(self, words: list[int], read: Callable[[object, Notes], Value], known: dict[int, Value]) -> None:
        """Fill ``known`` with what ``read`` makes of each word; what it notes is noted as often as the word stands there."""
        for word, count in Counter(words).items():
            notes = Notes()
            known[word] = read(self._text(word), notes)
            for note in notes:
                self.notes[note] += count

    def _text(self, word: int) -> str | None:
        return None if word < 0 else self._texts[word]

    def hours(self, start: int, end: int) -> dict[NicHour, tuple[int, int]]:
        """Flow tuples from ``start`` to before ``end`` (microseconds) and all of them, by NIC and hour of the record.

        Records without a time are left out: their tuples count by their own.
        """
        words: dict[tuple[int, int, int, int], tuple[int, int]] = {}
        inside = self.reader.rows_inside(start, end)
        for (_, _, mac, target, log, rows), time, kept in zip(self._records, self.times, inside, strict=True):
            if time is not None and rows:
                add(words, (log, target, mac, time // HOUR), kept, rows)
        found: dict[NicHour, tuple[int, int]] = {}
        for (log, target, mac, hour), counts in words.items():
            # Several words are the same MAC address, in other forms.
            add(found, (self._text(log), self._text(target), self._macs[mac], hour), *counts)
        return found

    def contexts(self, edges: Sequence[int]) -> list[Context]:
        """The contexts of all rows, by their numbers in the reader; ``edges`` in microseconds, sorted, cut the hours."""
        directions = [schema.DIRECTION_NAME[letter] for letter in self.reader.directions]
        statuses = [schema.STATUS_NAME["A"], schema.STATUS_NAME["D"]]
        text, macs = self._text, self._macs
        return [
            (
                _EPOCH + dt.timedelta(microseconds=hour),
                text(log),
                text(target),
                macs[mac],
                directions[direction],
                statuses[denied],
                text(rule),
                text(acl),
                text(code),
            )
            for hour, log, target, mac, rule, acl, code, direction, denied in self.reader.context_list(
                array.array("q", edges)
            )
        ]

    @cached_property
    def flows(self) -> pa.Table:
        """The rows as a table of schema.ENCODED_FLOWS."""
        count = self.reader.row_count
        if not count:
            return schema.ENCODED_FLOWS.empty_table()
        made = self.reader.columns(pa.allocate_buffer)
        offsets, data = self.reader.address_texts(pa.allocate_buffer)
        addresses = pa.Array.from_buffers(schema.TEXT, len(offsets) // 4 - 1, [None, offsets, data])

        def column(name: str, kind: pa.DataType) -> pa.Array:
            return pa.Array.from_buffers(kind, count, list(made[name][:2]))

        def coded(name: str, words: pa.Array) -> pa.DictionaryArray:
            return pa.DictionaryArray.from_arrays(column(name, pa.int32()), words)

        states = self.reader.states
        state = column("flow_state", pa.int32())
        columns = {
            "time": column("time", schema.TIMESTAMP),
            "src_ip": coded("src_ip", addresses),
            "dst_ip": coded("dst_ip", addresses),
            "src_port": column("src_port", schema.PORT),
            "dst_port": column("dst_port", schema.PORT),
            "protocol": column("protocol", schema.PROTOCOL),
            "direction": coded(
                "direction", _words([schema.DIRECTION_NAME[letter] for letter in self.reader.directions])
            ),
            "flow_state": pa.DictionaryArray.from_arrays(
                state, _words([schema.STATE_NAME[letter] for letter in states])
            ),
            "flow_status": fast.status(state, [schema.STATE_NAME[letter] for letter in states]),
            **{name: column(name, schema.COUNT) for name in schema.COUNTERS},
            "restarted": pa.Array.from_buffers(schema.FLAG, count, [None, made["restarted"][1]]),
            "record_time": pa.array(self.times, schema.TIMESTAMP).take(column("record", pa.int32())),
        }
        macs = _words([self._macs[word] for word in made["mac_address"][2]])
        columns["mac_address"] = coded("mac_address", macs)
        if macs.null_count:
            # What could not be read is null like what is not there; a dictionary must not hold it.
            columns["mac_address"] = macs.take(columns["mac_address"].indices).dictionary_encode()
        for name in ("encryption_code", "acl_rule", "acl_id", "target_resource_id", "flow_log_id"):
            columns[name] = coded(name, _words([self._texts[word] for word in made[name][2]]))
        return pa.Table.from_arrays([columns[name] for name in schema.ENCODED_FLOWS.names], schema=schema.ENCODED_FLOWS)

    def ends(self, start: int, end: int) -> pa.Table:
        """The Ends from ``start`` to before ``end`` (microseconds), as `flows`; of all other rows nothing is left."""
        self.reader.keep_ends(start, end)
        self.__dict__.pop("flows", None)
        return self.flows


def add(counts: dict[Key, tuple[int, int]], key: Key, inside: int, seen: int) -> None:
    """Count flow tuples inside a window, and all that were seen, at ``key``."""
    before = counts.get(key, (0, 0))
    counts[key] = (before[0] + inside, before[1] + seen)


def _words(texts: list[str | None]) -> pa.Array:
    return pa.array(texts, schema.TEXT)
