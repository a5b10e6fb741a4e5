"""A blob in parts gives what the whole gives, or shows that it cannot be read in parts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens import schema
from flowlens.evidence import Ledger, total
from flowlens.formats import decode_flow_log
from flowlens.formats.splitting import HEAD_BYTES, edges, opener_of, own_bytes, wrapped
from tests.flow_logs import flow_tuple, record


def blob_of(records: int, *, space: str = "") -> bytes:
    """A blob as Azure writes it, of so many records of some tuples."""
    separators = (f",{space}", f":{space}")
    texts = [
        json.dumps(
            record([flow_tuple("10.0.0.4", f"10.0.1.{n}", 443, "CE"[m % 2], minute=n) for m in range(n % 4)]),
            separators=separators,
        )
        for n in range(records)
    ]
    return ('{"records":[' + ",".join(texts) + "]}").encode()


def decoded(chunks: Iterator[bytes]) -> tuple[pl.DataFrame, Ledger]:
    """The flows and the ledger of a blob."""
    found = list(decode_flow_log(chunks, where="PT1H.json"))
    tables = [schema.plain(each.flows) for each in found]
    rows = pl.concat(
        [pl.DataFrame(schema=schema.polars_schema(schema.FLOWS)), *(pl.DataFrame(pl.from_arrow(t)) for t in tables)]
    )
    return rows, total(each.ledger for each in found)


def in_parts(blob: bytes, cuts: list[int]) -> list[tuple[pl.DataFrame, Ledger]] | None:
    """The same, of each part; None where the blob can't be cut."""

    def read(start: int, end: int) -> Iterator[bytes]:
        return iter([blob[start:end]] if start < end else [])

    found = []
    for start, end in pairwise([0, *sorted(cuts), len(blob)]):
        span = edges(read, start, end, len(blob))
        if span is None:
            return None
        rows, ledger = decoded(wrapped(read, *span, len(blob)))
        found.append((rows, own_bytes(ledger, *span, len(blob))))
    return found


def deviates(ledger: Ledger, size: int) -> bool:
    """Whether a part says that the blob is to be read in one."""
    return bool(ledger.rejected or ledger.rejected_records or ledger.strict_records or ledger.bytes != size)


@given(st.integers(0, 7), st.lists(st.integers(1, 3500), max_size=4), st.sampled_from(["", " "]))
def test_parts_give_what_the_whole_gives(records: int, cuts: list[int], space: str) -> None:
    blob = blob_of(records, space=space)
    whole, ledger = decoded(iter([blob]))
    parts = in_parts(blob, [cut for cut in cuts if cut < len(blob)])
    if not records:
        assert parts is None
        return
    assert parts is not None
    assert pl.concat([rows for rows, _ in parts]).equals(whole)
    added = total(part for _, part in parts)
    assert added == ledger and added.bytes == len(blob) and added.balanced


@pytest.mark.slow
@given(st.integers(0, 2**32), st.lists(st.integers(1, 3000), min_size=1, max_size=2))
def test_what_is_wrong_with_a_blob_shows_in_its_parts(seed: int, cuts: list[int]) -> None:
    rng = random.Random(seed)
    blob = bytearray(blob_of(6))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(blob))
        blob[at : at + rng.choice((0, 1, 40))] = rng.choice((b"", b"{", b'"', b"]}", b'{"time":', b"\\", b","))
    data = bytes(blob)
    parts = in_parts(data, [cut for cut in cuts if cut < len(data)])
    if parts is None or deviates(total(ledger for _, ledger in parts), len(data)):
        return
    whole, ledger = decoded(iter([data]))
    assert pl.concat([rows for rows, _ in parts]).equals(whole)
    assert total(part for _, part in parts) == ledger


def test_a_record_that_is_cut_by_its_own_text_is_not_taken_for_two() -> None:
    # A nested object that begins as records do: the cut falls into it, and both parts say so.
    inner = {"time": "x", "more": "y" * 50}
    records = [record([flow_tuple("10.0.0.4", "10.0.1.1", 443)]) for _ in range(3)]
    blob = json.dumps({"records": [{**each, "extra": inner} for each in records]}, separators=(",", ":")).encode()
    opener = opener_of(blob)
    assert opener is not None and blob.count(opener) == 6
    within = blob.index(opener, blob.index(b'"extra"'))
    parts = in_parts(blob, [within])
    assert parts is not None and deviates(total(ledger for _, ledger in parts), len(blob))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x1f\x8b\x08",
        b"[{",
        b'{"time":1}',
        b'{"records":[]}',
        b'\xef\xbb\xbf{"records":[{"a":',
        b"{" * HEAD_BYTES,
    ],
)
def test_what_is_not_written_as_azure_does_is_not_cut(head: bytes) -> None:
    assert opener_of(head) is None
