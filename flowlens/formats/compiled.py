"""What the compiled reader holds of one or several documents: as a table of flows, as contexts for a rollup, and record by record.

The kernel keeps texts as numbers of words; here they get their meaning, by the same functions that the strict decoder uses.
"""

from __future__ import annotations

import array
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import polars as pl
import pyarrow as pa

from flowlens import kernel, schema
from flowlens.formats import fields
from flowlens.formats.fields import Notes
from flowlens.formats.framing import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from flowlens.kernel.reader import Reader

Context = tuple[dt.datetime, str | None, str | None, str | None, str, str, str | None, str | None, str | None]
"""Bucket, flow log, target, MAC address, direction, status, rule, acl, encryption code: as in schema.CONVERSATION_KEYS."""

Key = TypeVar("Key")
NicHour = tuple[str | None, str | None, str | None, int]
"""Flow log, target, MAC address, hours since 1970."""
HOUR = 3_600_000_000
ENOUGH_ROWS = 20_000
"""So many flow tuples, 1.5 MB of text, are handed on at once: what each table and each rollup costs is little beside them."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_TIME = -(2**62)
"""Stands for no time in the kernel; no year of four digits has it."""


def new_reader() -> Held | None:
    """A reader of the compiled kernel; None where the portable way serves."""
    module = kernel.compiled()
    if module is None:
        return None
    return Held(
        module.Reader(
            fields.EARLIEST,
            fields.LATEST,
            fields.PORT_LIMIT,
            fields.PROTOCOL_LIMIT,
            schema.COUNTER_LIMIT,
            MAX_RECORD_BYTES,
        )
    )


class Held:
    """A reader and what it holds: the documents of one or several blobs, one behind the other, until it is cleared."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.clear()

    def clear(self) -> None:
        """Forget all documents; their batches are of no use any more."""
        self.reader.clear()
        self.times = array.array("q")
        self._texts: list[str] = []
        self._macs: dict[int, tuple[str | None, Notes]] = {-1: (None, Notes())}

    @property
    def is_full(self) -> bool:
        """Whether it is time to hand on what is held."""
        return self.reader.row_count >= ENOUGH_ROWS

    def text(self, word: int) -> str | None:
        """What a word says; None for none."""
        if word < 0:
            return None
        if word >= len(self._texts):
            self._texts += [text.decode("utf-8", "replace") for text in self.reader.word_list(len(self._texts))]
        return self._texts[word]

    def mac(self, word: int) -> tuple[str | None, Notes]:
        """The MAC address that a word is, and what is to be noted of it."""
        if word not in self._macs:
            notes = Notes()
            self._macs[word] = fields.mac_address(self.text(word), notes), notes
        return self._macs[word]

    def contexts(self, edges: Sequence[int]) -> list[Context]:
        """The contexts of all rows, by their numbers in the reader; ``edges`` in microseconds, sorted, cut the hours."""
        directions = [schema.DIRECTION_NAME[letter] for letter in self.reader.directions]
        statuses = [schema.STATUS_NAME["A"], schema.STATUS_NAME["D"]]
        text = self.text
        return [
            (
                _EPOCH + dt.timedelta(microseconds=hour),
                text(log),
                text(target),
                self.mac(mac)[0],
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

    def flows(self, first: int, end: int) -> pa.Table:
        """The rows from number ``first`` to before ``end`` as a table of schema.ENCODED_FLOWS."""
        count = end - first
        if not count:
            return schema.without_rows(schema.ENCODED_FLOWS)
        made = self.reader.columns(pa.allocate_buffer, first, end, self.times, _NO_TIME)
        offsets, data = self.reader.address_texts(pa.allocate_buffer)
        addresses = pa.Array.from_buffers(schema.TEXT, len(offsets) // 4 - 1, [None, offsets, data])
        macs = _words([self.mac(word)[0] for word in made["mac_address"][2]])
        words = {
            "src_ip": addresses,
            "dst_ip": addresses,
            "direction": _names(tuple(schema.DIRECTION_NAME[letter] for letter in self.reader.directions)),
            "flow_state": _names(tuple(schema.STATE_NAME[letter] for letter in self.reader.states)),
            "flow_status": _names((schema.STATUS_NAME["A"], schema.STATUS_NAME["D"])),
            "mac_address": macs,
            **{
                name: _words([self.text(word) for word in made[name][2]])
                for name in ("encryption_code", "acl_rule", "acl_id", "target_resource_id", "flow_log_id")
            },
        }
        columns = [
            pa.DictionaryArray.from_buffers(schema.DICTIONARY, count, made[column.name][:2], words[column.name])
            if column.name in words
            else pa.Array.from_buffers(column.type, count, made[column.name])
            for column in schema.ENCODED_FLOWS
        ]
        if macs.null_count:
            # What could not be read is null like what is not there; a dictionary must not hold it.
            place = schema.ENCODED_FLOWS.get_field_index("mac_address")
            columns[place] = macs.take(columns[place].indices).dictionary_encode()
        return pa.Table.from_arrays(columns, schema=schema.ENCODED_FLOWS)

    def ends(self, start: int, end: int) -> pa.Table:
        """The Ends from ``start`` to before ``end`` (microseconds), as `flows`; of all other rows nothing is left."""
        self.reader.keep_ends(start, end)
        return self.flows(0, self.reader.row_count)


class Batch:
    """The records of one document from number ``first`` on, as a reader holds them until it is cleared.

    ``notes`` are its unknown codes and unreadable names; ``rows`` and ``times`` (microseconds, or None) go by record.
    """

    def __init__(self, held: Held, first: int) -> None:
        self.held = held
        self.notes = Notes()
        self._first = first
        self._records = held.reader.record_list(first)
        self.first_row, self.end_row = self._records[0][5], self._records[-1][6]
        self.rows = [end - start for *_, start, end in self._records]
        self.times = [
            moment if word is None else fields.record_time(held.text(word), self.notes)
            for moment, word, *_ in self._records
        ]
        held.times.extend([_NO_TIME if time is None else time for time in self.times])
        for mac, count in Counter([mac for _, _, mac, *_ in self._records]).items():
            for note in held.mac(mac)[1]:
                self.notes[note] += count
        for word, count in held.reader.encryption_counts(first).items():
            if (code := held.text(word)) is not None and code not in schema.ENCRYPTION_STATUS:
                self.notes[f"encryption {fields.shown(code)}"] += count

    def rows_inside(self, start: int, end: int) -> list[int]:
        """How many rows of each record lie from ``start`` to before ``end`` (microseconds)."""
        return self.held.reader.rows_inside(self._first, self._first + len(self._records), start, end)

    def hours(self, start: int, end: int) -> dict[NicHour, tuple[int, int]]:
        """Flow tuples from ``start`` to before ``end`` (microseconds) and all of them, by NIC and hour of the record.

        Records without a time are left out: their tuples count by their own.
        """
        inside = self.rows_inside(start, end)
        facts = zip(self._records, self.times, self.rows, inside, strict=True)
        words: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
        for (_, _, mac, target, log, *_), time, rows, kept in facts:
            if time is not None and rows:
                words.setdefault((log, target, mac, time // HOUR), []).append((kept, rows))
        found: dict[NicHour, tuple[int, int]] = {}
        for (log, target, mac, hour), counts in words.items():
            key = self.held.text(log), self.held.text(target), self.held.mac(mac)[0], hour
            # Several words are the same MAC address, in other forms.
            add(found, key, sum(kept for kept, _ in counts), sum(rows for _, rows in counts))
        return found

    def flows(self) -> pa.Table:
        """The rows as a table of schema.ENCODED_FLOWS."""
        return self.held.flows(self.first_row, self.end_row)


def add(counts: dict[Key, tuple[int, int]], key: Key, inside: int, seen: int) -> None:
    """Count flow tuples inside a window, and all that were seen, at ``key``."""
    before = counts.get(key, (0, 0))
    counts[key] = (before[0] + inside, before[1] + seen)


def _words(texts: Sequence[str | None]) -> pa.Array:
    # pa.array would import pandas wherever that is installed, which takes longer than the rest of a start.
    return pl.Series(values=texts, dtype=pl.String).to_arrow().cast(schema.TEXT)


@cache
def _names(texts: tuple[str, ...]) -> pa.Array:
    """Words of the schema, of which there are few."""
    return _words(texts)
