"""Framing: every byte in one span, whatever the wrapper, the damage or the block size; nothing hostile stops it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import SourceError
from flowlens.evidence import Decoded, total
from flowlens.formats import decode_flow_log, framing
from flowlens.formats import strict as reference
from flowlens.formats.framing import Broken, Framing, Record
from tests import strategies
from tests.formats.decoding import agreed, decoded
from tests.strategies import examples

TUPLE = "1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580"


def record(number: int = 0, *, rule: str = "UserRule_a") -> dict[str, Any]:
    """A small VNet record; ``number`` is the source port of its flow tuple."""
    group = {"rule": rule, "flowTuples": [TUPLE.replace("23956", str(number))]}
    return {"time": "2022-09-14T09:00:52Z", "flowRecords": {"flows": [{"aclID": "acl", "flowGroups": [group]}]}}


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def spans(chunks: bytes | Iterable[bytes], **options: Any) -> list[Framing | Record[Any, Any] | Broken]:
    chunks = [chunks] if isinstance(chunks, bytes) else chunks
    return list(framing.frames(chunks, reference.parse_record, **options))


def length(span: Framing | Record[Any, Any] | Broken) -> int:
    return len(span.raw) if isinstance(span, Record) else span.length


def ports(rows: list[dict[str, Any]]) -> list[int]:
    return [row["src_port"] for row in rows]


@examples(80)
@given(strategies.blobs() | strategies.damaged() | st.binary(max_size=40), st.integers(1, 300), st.data())
def test_spans_lie_end_to_end_and_do_not_depend_on_blocks(data: bytes, size: int, draw: st.DataObject) -> None:
    found = spans(data)
    at = 0
    for span in found:
        if not isinstance(span, Framing):
            assert span.offset == at
        if isinstance(span, Record):
            assert data[at : at + len(span.raw)] == span.raw
        at += length(span)
    assert at == len(data)
    again = spans(draw.draw(strategies.chunked(data)), block_bytes=size)
    # Only how blanks between records are split into spans may differ.
    assert [span for span in again if not isinstance(span, Framing)] == [s for s in found if not isinstance(s, Framing)]


@pytest.mark.parametrize(
    "data",
    [
        compact({"records": [record(1), record(2)]}),
        compact({"version": 1, "records": [record(1), record(2)], "more": {"records": [1]}}),
        compact([record(1), record(2)]),
        compact(record(1)) + b"\n" + compact(record(2)) + b"\n",
        b"," + compact(record(1)) + b"," + compact(record(2)),
        compact({"records": [record(1)]}) + b"\n" + compact({"records": [record(2)]}),
        json.dumps({"records": [record(1), record(2)]}, indent=4).encode(),
        b"\xef\xbb\xbf \r\n" + compact({"records": [record(1), record(2)]}) + b"\r\n\r\n",
    ],
)
def test_wrappers(data: bytes) -> None:
    rows, ledger = agreed(data)
    assert (ports(rows), ledger.records, ledger.complete) == ([1, 2], 2, True)
    assert ledger.record_bytes >= 2 * len(compact(record(1)))
    assert ledger.framing_bytes < len(data) - ledger.record_bytes + 1


@pytest.mark.parametrize("data", [b'{"records":[]}', b"[]", b'{"a":1,"records" : [ ] ,"b":[2]}\n'])
def test_no_records_are_no_reject(data: bytes) -> None:
    assert agreed(data)[1].complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b"\xef\xbb\xbf",
        b"{}",
        b'{"records":5}',
        b"null",
        b'"text"',
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89",
        b"\x1f\x8b\x08\0\0\0\0\0",
        b"\xff\xfe{\0}\0",
        b"<html><body>{not} [found]</body></html>",
        b"time,src_ip\n2026,10.0.0.1\n",
        b"[" * 100_000,
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b'"' * 99_999,
        b"\\" * 1000,
    ],
)
def test_what_is_no_flow_log_is_one_reject(data: bytes) -> None:
    rows, ledger = agreed(data)
    assert (rows, ledger.records, ledger.rejected, ledger.rejected_records) == ([], 1, 0, 1)


def test_64_mb_without_any_structure() -> None:
    _, ledger = decoded(b"a" * 2**20 for _ in range(64))
    assert (ledger.rejected_records, ledger.record_bytes) == (1, 2**26)


@pytest.mark.slow
def test_a_cut_at_any_byte_keeps_the_complete_records() -> None:
    data = compact({"records": [record(number) for number in range(3)], "after": 1})
    ends = [data.index(b"]}]}]}}", data.index(b"UserRule", at)) + 7 for at in (0, *_starts(data)[1:])]
    for cut in range(len(data)):
        rows, ledger = agreed(data[:cut])
        assert ports(rows) == list(range(sum(end <= cut for end in ends)))
        assert ledger.rejected_records == 1
        assert (ledger.rejects[0].reason.startswith("cut off after")) == (cut > 0)
    assert agreed(data)[1].complete


@pytest.mark.parametrize("strict", [False, True], ids=["fast", "strict"])
def test_where_reading_fails_every_record_before_is_used_and_the_rest_is_unread(strict: bool) -> None:
    data = compact({"records": [record(number) for number in range(3)], "after": 1})
    ends = [data.index(b"]}]}]}}", data.index(b"UserRule", at)) + 7 for at in (0, *_starts(data)[1:])]

    def failing(cut: int) -> Iterator[bytes]:
        yield data[: cut // 2]
        yield data[cut // 2 : cut]
        raise SourceError("PT1H.json", "the server is gone")

    for cut in range(len(data) + 1):
        batches: list[Decoded] = []
        with pytest.raises(SourceError, match="the server is gone"):
            batches.extend(decode_flow_log(failing(cut), where="PT1H.json", strict=strict))
        ledger = total(batch.ledger for batch in batches)
        whole = sum(end <= cut for end in ends)
        assert [port for batch in batches for port in batch.flows["src_port"].to_pylist()] == list(range(whole))
        assert (ledger.records, ledger.rejected_records, ledger.balanced) == (whole, 0, True)
        assert ledger.bytes <= cut


def _starts(data: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(b'{"time"', at)]


@pytest.mark.parametrize("damage", [b'"', b"{", b"}", b"[", b"]", b"\\", b"\x00", b"\xff", b",,", b"NaN", b""])
def test_damage_to_one_record_leaves_the_others(damage: bytes) -> None:
    data = compact({"records": [record(number) for number in range(4)]})
    starts = _starts(data)
    for number, start in enumerate(starts):
        # After the rule's name: nothing but ruining the record's structure can come of it.
        at = data.index(b',"flowTuples"', start)
        rows, ledger = agreed(data[:at] + damage + data[at + 1 :])
        others = [other for other in range(4) if other != number]
        assert ports(rows) == others
        assert ledger.rejected_records == 1
        assert ledger.rejects[0].offset == start


def test_a_record_that_is_too_large_is_skipped_without_being_held() -> None:
    size = framing.MAX_RECORD_BYTES // 2**20 + 3

    def chunks() -> Iterable[bytes]:
        yield b'{"records":[' + compact(record(1)) + b',{"time":"'
        yield from (b"a" * 2**20 for _ in range(size))
        yield b'"},' + compact(record(2)) + b"]}"

    rows, ledger = decoded(chunks())
    assert (ports(rows), ledger.rejected_records) == ([1, 2], 1)
    assert ledger.rejects[0].reason == f"larger than {framing.MAX_RECORD_BYTES} bytes"
    assert ledger.record_bytes > size * 2**20


@pytest.mark.parametrize(
    "data",
    [
        b'{"time":1}' + b'{"time":\\"' * 10_000,
        b'{"time":1}' + b'{"time":"{"time":' * 8_000,
        b'{"time":[' + b'{"time":1},' * 12_000 + b"x]}",
        b'{"a":1}{"a":1}{"b":1}{"b":1}' * 2_000,
        b'{"time":"' * 12_000,
        b'{"k' + b'":1},{"k'.join(b"%d" % number for number in range(12_000)),
        b"]" * 100_000,
        b'{"records":[' * 10_000,
        b'{"records":[],' * 10_000,
        b" " * 100_000 + b"x",
        b'{"time":' + b" " * 100_000 + b"1",
        b'{"records":[{"time":1}' + b", " * 50_000 + b'{"time":1}',
    ],
)
def test_the_cost_of_hostile_structure_is_linear(data: bytes) -> None:
    # Without a bar of time, which a busy machine would miss: a cost that grows with the square is felt all the same.
    agreed(data)


@pytest.mark.parametrize("size", [1, 7, 64, 255, 1000])
def test_the_next_record_is_found_across_the_borders_of_blocks(size: int) -> None:
    data = b'{"records":[' + b",".join([compact(record(1)), b"x" * 3000, compact(record(2))]) + b"]}"
    for padding in range(24):
        found = [span for span in spans(b" " * padding + data, block_bytes=size) if not isinstance(span, Framing)]
        assert [type(span) for span in found] == [Record, Broken, Record]


@pytest.mark.parametrize("gap", [b" " * 300, b" " * 255 + b",", b"," * 300, b"\n" * 1000])
def test_a_wide_gap_belongs_to_no_record(gap: bytes) -> None:
    rows, ledger = agreed(b"[" + gap.join(compact(record(number)) for number in range(3)) + b"]")
    assert (ports(rows), ledger.complete) == ([0, 1, 2], True)
    assert ledger.framing_bytes == 2 + 2 * len(gap)


def test_a_ruined_wrapper_does_not_hide_its_records() -> None:
    rows, ledger = agreed(b'{"version":,"records":[' + compact(record(1)) + b"," + compact(record(2)) + b"]}")
    assert ports(rows) == [1, 2]
    assert not ledger.complete
    rows, ledger = agreed(b'{"records":[' + compact(record(1)) + b'],"next" "x",' + compact(record(2)) + b"}")
    assert ports(rows) == [1, 2]
    assert not ledger.complete


def test_another_record_in_a_string_is_no_record() -> None:
    inner = compact(record(7)).decode()
    rows, ledger = agreed(compact({"records": [record(1, rule=inner), record(2)]}))
    assert (ports(rows), ledger.complete, rows[0]["acl_rule"]) == ([1, 2], True, inner)


def test_the_opener_is_learned_from_the_records_themselves() -> None:
    swapped = [dict(reversed(record(number).items())) for number in range(3)]
    data = compact({"records": swapped})
    assert data.count(b'{"flowRecords"') == 3
    at = data.index(b"UserRule", data.index(b"UserRule") + 1)
    rows, ledger = agreed(data[: at - 1] + data[at:])
    assert (ports(rows), ledger.rejected_records) == ([0, 2], 1)
