"""The fast decoder says what the strict one says, on anything, and serves what it should."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.formats import decode_flow_log
from tests import strategies
from tests.formats.decoding import agreed
from tests.strategies import examples

TUPLE = "1663146003606,10.0.0.6,192.0.2.180,23956,443,6,O,E,NX,3,767,2,1580"


def record(*groups: list[Any], **others: Any) -> dict[str, Any]:
    """A VNet record with these flowTuples arrays."""
    flow_groups = [{"rule": f"UserRule_{number}", "flowTuples": tuples} for number, tuples in enumerate(groups)]
    return {
        "time": "2022-09-14T09:00:52.5625085Z",
        "macAddress": "112233445566",
        "flowRecords": {"flows": [{"aclID": "acl", "flowGroups": flow_groups}]},
        **others,
    }


def blob(*records: dict[str, Any], **options: Any) -> bytes:
    return json.dumps({"records": records}, **{"separators": (",", ":"), **options}).encode()


@examples(60)
@given(strategies.blobs())
def test_any_flow_log_gives_the_same_from_both_decoders(data: bytes) -> None:
    agreed(data)


@examples(60)
@given(strategies.damaged())
def test_any_damaged_flow_log_gives_the_same_from_both_decoders(data: bytes) -> None:
    agreed(data)


@examples(60)
@given(st.data())
def test_any_array_of_flow_tuples_gives_the_same_from_both_decoders(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.lists(strategies.any_tuples, max_size=12), min_size=1, max_size=4))
    # A good record on each side: what is wrong with one must not touch the others.
    rows, ledger = agreed(blob(record([TUPLE]), record(*groups), record([TUPLE] * 2)))
    assert ledger.tuples == 3 + sum(map(len, groups))
    assert [row["time"] for row in rows[-2:]] == [rows[0]["time"]] * 2


@examples(40)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ \n1tnrecods', max_size=80).map(str.encode))
def test_arbitrary_bytes_never_raise_and_balance(data: bytes) -> None:
    agreed(data)


@examples(40)
@given(strategies.blobs() | strategies.damaged(), st.data())
def test_chunks_do_not_matter(data: bytes, draw: st.DataObject) -> None:
    assert agreed(draw.draw(strategies.chunked(data))) == agreed(data)


@examples(40)
@given(st.lists(strategies.vnet_records() | strategies.nsg_records(), min_size=1, max_size=4), st.data())
def test_another_serialisation_gives_the_same_rows(contents: list[dict[str, Any]], data: st.DataObject) -> None:
    rows, ledger = agreed(blob(*contents))
    other_rows, other = agreed(data.draw(strategies.serialised(contents)))
    assert other_rows == rows
    counts = [
        (one.records, one.tuples, one.rejected, one.rejected_records, one.unknown_codes) for one in (ledger, other)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("options", [{}, {"separators": (", ", ": ")}, {"indent": 1}, {"indent": "\t"}])
def test_whole_records_are_served_without_the_strict_decoder(options: dict[str, Any]) -> None:
    rows, ledger = agreed(blob(*[record([TUPLE] * 3, [], [TUPLE])] * 4, **options))
    assert (len(rows), ledger.strict_records) == (16, 0)


@pytest.mark.parametrize(
    "odd", [TUPLE + ",", TUPLE + ",1", TUPLE.replace("E,NX,3,767,2,1580", "D,NX"), "", "1,2,3", ",", "é"]
)
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_flow_tuple_of_other_length_is_diverted_alone(odd: str, at: int) -> None:
    tuples = [TUPLE.replace("23956", str(number)) for number in range(6)]
    tuples[at] = odd
    rows, ledger = agreed(blob(record(tuples[:3], tuples[3:]), record([TUPLE]), ensure_ascii=False))
    assert ledger.strict_records == 0
    assert [row["src_port"] for row in rows if row["flow_state"] == "End" and row["src_port"] != 23956] == [
        number for number in range(6) if number != at
    ]


@pytest.mark.parametrize(
    "field",
    [
        " 443",
        "443 ",
        "\t443",
        "+443",
        "-443",
        "-0",
        "0x1BB",
        "0X1BB",
        "4e2",
        "443.0",
        "nan",
        "NULL",
        "\ufeff443",
        "٤٤٣",
    ],
)
@pytest.mark.parametrize("at", [0, 3, 4, 5, 9, 12])
def test_a_number_that_only_a_csv_reader_takes_is_rejected(field: str, at: int) -> None:
    fields = TUPLE.split(",")
    fields[at] = field.replace("443", fields[at])
    contents = blob(record([",".join(fields), TUPLE]), record([TUPLE]), ensure_ascii=False)
    _, ledger = agreed(contents)
    assert (ledger.rows, ledger.rejected, ledger.strict_records) == (2, 1, 1)


@pytest.mark.parametrize(
    ("at", "field"),
    [
        *[(at, "") for at in (0, 1, 2, 5, 6, 7)],
        *[(0, time) for time in ("1420070399999", "4133980800000", "1420070399", "9223372036854775807")],
        *[(at, "65536") for at in (3, 4)],
        (5, "256"),
        *[(at, "281474976710656") for at in (9, 10, 11, 12)],
        (1, "10.0.0.256"),
        (2, "010.0.0.1"),
    ],
)
def test_a_field_out_of_its_range_is_rejected(at: int, field: str) -> None:
    fields = TUPLE.split(",")
    fields[at] = field
    _, ledger = agreed(blob(record([",".join(fields), TUPLE]), record([TUPLE])))
    assert (ledger.rows, ledger.rejected, ledger.strict_records) == (2, 1, 1)


def test_a_restart_does_not_reach_into_another_array() -> None:
    begin = TUPLE.replace("E,NX,3,767,2,1580", "B,NX,0,0,0,0")
    rows, ledger = agreed(blob(record([TUPLE], [begin, TUPLE], [TUPLE, begin])))
    assert [row["restarted"] for row in rows] == [False, False, False, True, False]
    assert ledger.strict_records == 0


@pytest.mark.parametrize("damage", ["1,2\xff", "\xff", TUPLE.replace("NX", "\xff"), TUPLE.replace("10.0.0.6", "\xff")])
def test_flow_tuples_that_are_not_utf_8(damage: str) -> None:
    text = blob(record([TUPLE, "damage", TUPLE])).replace(b"damage", damage.encode("latin-1"))
    rows, ledger = agreed(text)
    assert ledger.tuples == 3
    assert len(rows) == 3 - ledger.rejected


@pytest.mark.parametrize("separator", ['", "', '" ,"', '",\n"', '"\t,\r\n  "'])
def test_blanks_between_flow_tuples_do_not_matter(separator: str) -> None:
    text = blob(record([TUPLE, TUPLE, TUPLE])).replace(b'","1663', separator.encode() + b"1663")
    rows, ledger = agreed(text)
    assert (len(rows), ledger.strict_records) == (3, 0)


@pytest.mark.parametrize("tuples", [[" ,"], [","], [" , ", " , ", TUPLE], [TUPLE, " ,"], [" ", " ,", ""]])
@pytest.mark.parametrize("separators", [(",", ":"), (" , ", ":")])
def test_a_flow_tuple_that_is_a_comma_alone_is_no_separator(tuples: list[str], separators: tuple[str, str]) -> None:
    rows, ledger = agreed(blob(record(tuples), record([*tuples, TUPLE]), separators=separators))
    assert [each.sample or "" for each in ledger.rejects] == [text for text in tuples * 2 if text != TUPLE]
    assert len(rows) == 2 * tuples.count(TUPLE) + 1


def test_a_record_that_does_not_fit_leaves_the_others_in_order() -> None:
    contents = [
        record([TUPLE.replace("23956", str(number))], odd={"nested": []} if number % 3 else 1) for number in range(30)
    ]
    rows, ledger = agreed(blob(*contents))
    assert [row["src_port"] for row in rows] == list(range(30))
    assert ledger.strict_records == 20


def test_deviations_everywhere_leave_rows_in_order() -> None:
    contents = [
        record([TUPLE.replace("23956", str(n)), TUPLE.replace("443", "65536" if n % 2 else "80")]) for n in range(400)
    ]
    rows, ledger = agreed(blob(*contents))
    assert [row["src_port"] for row in rows if row["dst_port"] == 443] == list(range(400))
    assert (ledger.rejected, len(ledger.rejects)) == (200, 100)


@pytest.mark.parametrize(
    "text",
    [
        '{"flowTuples":[[[[[[[[[[[[[[]]]]]]]]]]]]],"flowTuples":[]}',
        '{"flowTuples":[{"a":"b"}]}',
        '{"flowTuples":"text"}',
        '{"flowTuples":["],[","a"]}',
        '{"flowTuples":["a",",","b"]}',
        '{"flowTuples":["a"," , ","b"]}',
        '{"flowTuples":[5]}',
        '{"flowTuples":[null,"a"]}',
        '{"flowTuples":[],"new":"scalar"}',
        '{"flowTuples":[],"mac":5}',
        '{"flowTup\\u006ces":["a"]}',
        '{"rule":5,"flowTuples":[]}',
        '{"rule":"\\ud800","flowTuples":[]}',
        '{"flowTuples":["a\\u0022,\\u0022b"]}',
        '{"rule":"[","flowTuples":[]}',
    ],
)
def test_shapes_that_could_pass_for_another(text: str) -> None:
    good = blob(record([TUPLE])).decode()
    agreed(good.replace("]}]}}]}", f"]}},{text}]}}]}}}}]}}").encode())
    agreed(good.replace('"flowGroups":[', f'"flowGroups":[{text},').encode())


def test_a_blob_of_many_batches_keeps_its_order() -> None:
    contents = [record([TUPLE.replace("23956", str(number))] * 40) for number in range(3500)]
    batches = list(decode_flow_log([blob(*contents)], where="PT1H.json"))
    assert len(batches) > 2 and sum(batch.ledger.strict_records for batch in batches) == 0
    # As columns: a hundred thousand rows of Python objects would say no more and take seconds.
    ports = pa.chunked_array(batch.flows["src_port"].combine_chunks() for batch in batches).to_pylist()
    assert ports == [number for number in range(3500) for _ in range(40)]


def test_unknown_encryption_codes_stay_on_the_fast_path() -> None:
    rows, ledger = agreed(blob(record([TUPLE, TUPLE.replace(",NX,", ",NX_FOO,"), TUPLE.replace(",NX,", ",NX_NEW,")])))
    assert [row["encryption_code"] for row in rows] == ["NX", "NX_FOO", "NX_NEW"]
    assert (ledger.unknown_codes, ledger.strict_records) == ({"encryption NX_FOO": 1, "encryption NX_NEW": 1}, 0)
