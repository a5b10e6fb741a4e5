"""Reading a blob in steps: whatever is read of it when, units, rows and rejects are those of reading it at once."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from flowlens import schema
from flowlens.evidence import Ledger, total
from flowlens.formats import decode_flow_log
from flowlens.formats.framing import Place
from flowlens.formats.growing import Piece, Rest, Unit, decode_growing

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "data").rglob("*.json"), *list((ROOT.parent / "sample_logs").rglob("PT1H.json"))[:3]])
SCHEDULES = 6


def read(data: bytes, cuts: list[int]) -> tuple[pa.Table, list[Unit], Ledger]:
    """The rows and units of ``data`` as it grows to each of ``cuts`` and then is whole."""
    place = Place()
    tables = [schema.FLOWS.empty_table().append_column("block", pa.array([], pa.int64()))]
    units: list[Unit] = []
    rest = None
    for cut in [*cuts, None]:
        parts = decode_growing([data[place.offset : cut]], where="x", start=place, whole=cut is None)
        for part in parts:
            if isinstance(part, Rest):
                rest = part
            else:
                assert isinstance(part, Piece)
                tables.append(part.flows)
                units += part.units
        # As a lake keeps it: the offset, and a text.
        place = Place.parse(units[-1].place.offset, units[-1].place.text) if units else Place()
    assert rest is not None
    return pa.concat_tables(tables), units, total([*(unit.ledger for unit in units), rest.ledger])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_however_a_blob_grows_its_units_are_the_same(path: Path) -> None:
    data = path.read_bytes()
    batches = list(decode_flow_log([data], where="x"))
    whole = total(batch.ledger for batch in batches)
    expected = pa.concat_tables([schema.FLOWS.empty_table(), *(schema.plain(batch.flows) for batch in batches)])
    rows, units, ledger = read(data, [])
    assert rows.drop_columns(["block"]).equals(expected)
    # The compiled kernel, which reads whole blobs only, takes some records that else the strict decoder serves.
    assert replace(ledger, strict_records=whole.strict_records) == whole and ledger.balanced
    chance = random.Random(path.name)
    for _ in range(SCHEDULES):
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 5)))
        again, same, counted = read(data, cuts)
        assert (same, counted) == (units, ledger), f"cut at {cuts}"
        assert again.equals(rows), f"cut at {cuts}"


def test_units_follow_each_other_and_a_row_says_where_its_own_ends() -> None:
    data = FILES[-1].read_bytes()
    rows, units, _ = read(data, [])
    assert [unit.after for unit in units] == [0, *(unit.place.offset for unit in units[:-1])]
    for unit in units:
        assert data[unit.start : unit.start + 1] == b"{" and data[unit.place.offset - 1 : unit.place.offset] == b"}"
    assert set(rows["block"].to_pylist()) <= {unit.place.offset for unit in units}
    assert [unit.ledger.rows for unit in units] == [
        rows["block"].to_pylist().count(unit.place.offset) for unit in units
    ]


def test_the_two_bytes_that_close_a_list_belong_to_no_unit() -> None:
    parts = list(decode_growing([b'{"records":[{"time":1}]}'], where="x", start=Place(), whole=False))
    assert [unit.place.offset for part in parts if isinstance(part, Piece) for unit in part.units] == [22]


def test_what_rests_on_the_end_of_the_blob_is_said() -> None:
    *_, rest = decode_growing([b'{"records":[{"time":1},{"time":'], where="x", start=Place(), whole=True)
    assert isinstance(rest, Rest) and rest.provisional
    *_, rest = decode_growing([b'{"records":[{"time":1}]}'], where="x", start=Place(), whole=True)
    assert isinstance(rest, Rest) and not rest.provisional
