"""The compiled kernel gives what the portable way gives, on anything; and it is at work where it should be."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowlens as fl
from flowlens import conversations, kernel, schema
from flowlens.conversations import KEYS, BlobRollup, rollup
from flowlens.formats import decode_flow_log, flow_log_documents
from flowlens.formats.compiled import new_reader
from tests import strategies
from tests.formats.decoding import agreed
from tests.formats.test_fast import TUPLE, blob, record

DATA = Path(__file__).parent / "data"
SAMPLES = Path(__file__).parents[1] / "sample_logs"
FILES = sorted([*DATA.rglob("*.json"), *SAMPLES.rglob("*.json")])
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
EVER = (-(2**63), 2**63 - 1)


def microseconds(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


def by_kernel(
    data: bytes, folder: Path, edges: Sequence[dt.datetime] = (), window: tuple[int, int] = EVER
) -> tuple[pl.DataFrame, int]:
    """CONVERSATIONS of a blob, and how many of its rows the kernel had."""
    whole = BlobRollup(edges, folder)
    rows = 0
    for document in flow_log_documents([data], where="PT1H.json"):
        if document.batch is not None:
            held = document.batch.held
            rows += held.reader.row_count
            whole.add_compiled(held.reader, held.contexts([microseconds(edge) for edge in edges]), *window)
        if document.rest is not None:
            times = document.rest["time"].cast(pa.int64()).to_pylist()
            whole.add(document.rest.filter(pa.array([window[0] <= time < window[1] for time in times], pa.bool_())))
    pieces = [pl.DataFrame(schema=conversations.SCHEMA), *whole.finish()]
    return pl.concat(pieces).sort(KEYS, nulls_last=True), rows


def by_reference(data: bytes, edges: Sequence[dt.datetime] = (), window: tuple[int, int] = EVER) -> pl.DataFrame:
    batches = [schema.plain(batch.flows) for batch in decode_flow_log([data], where="PT1H.json", strict=True)]
    flows = pa.concat_tables([schema.FLOWS.empty_table(), *batches])
    times = flows["time"].cast(pa.int64()).to_pylist()
    return rollup(flows.filter(pa.array([window[0] <= time < window[1] for time in times], pa.bool_())), edges=edges)


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about the kernel, so they fail where it is not there."""
    monkeypatch.setenv(kernel.VARIABLE, "compiled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernel")


@pytest.mark.slow
@settings(max_examples=150)
@given(data=strategies.blobs() | strategies.damaged())
def test_any_blob_is_rolled_up_the_same(folder: Path, data: bytes) -> None:
    assert by_kernel(data, folder)[0].equals(by_reference(data))


@pytest.mark.slow
@settings(max_examples=60)
@given(data=strategies.blobs(), draw=st.data())
def test_any_window_and_edge_cuts_the_same(folder: Path, data: bytes, draw: st.DataObject) -> None:
    times = [1663146003, 1733976005, 1663146003 // 3600 * 3600]
    moment = st.sampled_from(times).flatmap(
        lambda time: st.integers(-2, 2000).map(lambda ms: EPOCH + dt.timedelta(seconds=time, milliseconds=ms))
    )
    edges = sorted(draw.draw(st.lists(moment, max_size=3)))
    start, end = draw.draw(st.tuples(moment, moment))
    window = draw.draw(
        st.sampled_from([EVER, (microseconds(start), microseconds(end)), (microseconds(start), EVER[1])])
    )
    assert by_kernel(data, folder, edges, window)[0].equals(by_reference(data, edges, window))


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_file_at_hand_is_rolled_up_the_same(folder: Path, path: Path) -> None:
    data = path.read_bytes()
    agreed(data)
    assert by_kernel(data, folder)[0].equals(by_reference(data))


LOOKALIKES = ["10.0.0.4", "10.0.0.40", "110.0.0.4", "10.0.0.44", "1.1.1.1", "::1", "fd00::1:2", "2001:db8::1001:1001"]
LOOKALIKES += [f"2001:db8:0:{middle}::1:2:3" for middle in ("1", "2", "12")]


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(st.lists(st.tuples(*[st.sampled_from(LOOKALIKES)] * 2, st.sampled_from(["X", "NX", ""])), max_size=12)))
def test_addresses_that_begin_and_end_alike_are_told_apart(groups: list[list[tuple[str, str, str]]]) -> None:
    tuples = [
        [f"1663146003606,{source},{target},23956,443,6,O,E,{code},3,767,2,1580" for source, target, code in group]
        for group in groups
    ]
    agreed(blob(record(*tuples), record(*tuples)))


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(st.lists(strategies.vnet_tuples, max_size=30), min_size=1, max_size=4), st.data())
def test_restarts_are_found_in_any_order(groups: list[list[str]], data: st.DataObject) -> None:
    agreed(blob(record(*groups), record(*data.draw(st.permutations(groups)))))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.integers(0, 2**128 - 1) | st.integers(0, 2**32 - 1).map(lambda low: 0xFFFF << 32 | low), st.data())
def test_any_address_gets_its_canonical_text(number: int, data: st.DataObject) -> None:
    groups = [number >> 16 * place & 0xFFFF for place in range(8)]
    # Zeros here and there, so that runs of them of any length and place come up.
    for place in data.draw(st.sets(st.integers(0, 7))):
        groups[place] = 0
    address = ipaddress.IPv6Address(sum(group << 16 * place for place, group in enumerate(groups)))
    shown = data.draw(st.sampled_from([address.exploded, address.exploded.upper(), str(address)]))
    text = TUPLE.replace("192.0.2.180", shown)
    rows, ledger = agreed(blob(record([text])))
    assert (rows[0]["dst_ip"], ledger.strict_records) == (str(address.ipv4_mapped or address), 0)


@pytest.mark.slow
@settings(max_examples=200)
@given(
    st.integers(-(10**16), 10**16).map(lambda us: EPOCH + dt.timedelta(microseconds=us)), st.integers(1, 12), st.data()
)
def test_any_record_time_is_read_the_same(moment: dt.datetime, digits: int, data: st.DataObject) -> None:
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06}"[:digits].ljust(min(digits, 9), "7") + "Z"
    place = data.draw(st.integers(0, len(text) - 1) | st.none())
    if place is not None:
        text = text[:place] + data.draw(st.sampled_from("09-:.TZz ")) + text[place + 1 :]
    agreed(blob(record([TUPLE], time=text)))


def test_the_kernel_takes_what_is_clean() -> None:
    for options in ({}, {"separators": (", ", ": ")}, {"indent": 1}, {"indent": "\t"}):
        data = blob(*[record([TUPLE] * 3, [], [TUPLE + ","], flowLogVersion=4, x=None, y=True, z=-1)] * 4, **options)
        assert by_kernel(data, Path())[1] == 16


def test_real_logs_and_samples_are_the_kernels() -> None:
    paths = [path for path in SAMPLES.rglob("*.json") if "flowLogResourceID" in str(path)]
    assert paths
    for path in paths:
        data = path.read_bytes()
        tuples = sum(batch.ledger.tuples for batch in decode_flow_log([data], where=path.name))
        assert by_kernel(data, Path())[1] == tuples


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"time"', '"t\\u0069me"'),
        lambda text: text.replace('"rule"', '"mac":"112233445566","rule"'),
        lambda text: text.replace('"rule"', '"rule":"first","rule"'),
        lambda text: text.replace('"time"', '"deep":[1],"time"'),
        lambda text: text.replace('"time"', '"number":1.5,"time"'),
        lambda text: text.replace(",6,O,", ",T,O,"),
        lambda text: text.replace(",E,NX,", ",D,B,"),
    ],
)
def test_a_deviating_record_is_left_and_the_next_one_taken(change: Any) -> None:
    good = json.dumps(record([TUPLE] * 2), separators=(",", ":"))
    data = f'{{"records":[{good},{change(good)},{good}]}}'.encode()
    agreed(data)
    assert by_kernel(data, Path())[1] == 4


def test_many_addresses_and_words_and_rows_are_held(folder: Path) -> None:
    tuples = [
        TUPLE.replace("10.0.0.6", f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}").replace(",NX,", f",NX_{n % 3000},")
        for n in range(20_000)
    ]
    data = blob(*[record(tuples[start : start + 100]) for start in range(0, len(tuples), 100)])
    found, rows = by_kernel(data, folder)
    assert rows == found.height == len(tuples)
    assert found.equals(by_reference(data))


@pytest.mark.parametrize("spill_rows", [1, 300, 10**6])
def test_a_rollup_that_spills_gives_the_same_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spill_rows: int
) -> None:
    monkeypatch.setattr(conversations, "SPILL_ROWS", spill_rows)
    monkeypatch.setattr("flowlens.formats.flow_log.DOCUMENT_BYTES", 2_000)
    records = [
        record(
            [TUPLE.replace(",443,", f",{number * place % 700},") for place in range(30)], odd=[] if number % 7 else 1
        )
        for number in range(60)
    ]
    data = blob(*records)
    found, rows = by_kernel(data, tmp_path)
    assert 0 < rows < 60 * 30
    assert found.equals(by_reference(data))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [False, True])
def test_a_scan_is_the_same_by_either_engine(monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    scans = []
    hours = fl.scan(SAMPLES).coverage["hour"].unique().sort()
    assert len(hours) > 1
    window = {"start": hours[1] + dt.timedelta(minutes=20)} if cut else {}
    for engine in kernel.ENGINES:
        monkeypatch.setenv(kernel.VARIABLE, engine)
        scan = fl.scan(SAMPLES, **window)
        tables = [scan.conversations.collect(), scan.inventory, scan.coverage]
        scans.append(([table.sort(table.columns, nulls_last=True) for table in tables], scan.ledger))
    assert scans[0][1] == scans[1][1]
    for one, other in zip(scans[0][0], scans[1][0], strict=True):
        assert one.equals(other)


def test_the_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert new_reader() is not None
    assert kernel.engine() == "compiled kernel"
    monkeypatch.setenv(kernel.VARIABLE, "portable")
    assert new_reader() is None
    assert kernel.engine() == "portable decoder (FLOWLENS_ENGINE=portable)"
    monkeypatch.setenv(kernel.VARIABLE, "fastest")
    with pytest.raises(fl.ConfigError, match="expected one of compiled, portable, found 'fastest'"):
        kernel.engine()


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["words", "records", "reader", "rollup"])
def test_without_any_one_of_its_modules_flowlens_works_and_says_so(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(kernel.VARIABLE)
    program = (
        f"import sys; sys.modules['flowlens.kernel.{missing}'] = None\n"
        "import flowlens as fl; from flowlens import kernel\n"
        "print(kernel.engine(), fl.scan(sys.argv[1]).ledger.tuples, sep='|')\n"
    )
    run = [sys.executable, "-c", program, str(SAMPLES)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    engine, tuples = done.stdout.strip().split("|")
    assert engine.startswith("portable decoder (compiled kernel not installed: ")
    assert int(tuples) == fl.scan(SAMPLES).ledger.tuples
    done = subprocess.run(
        run, capture_output=True, text=True, check=False, env={**os.environ, kernel.VARIABLE: "compiled"}
    )
    assert "the compiled kernel is not installed" in done.stderr


def test_the_kernel_takes_a_fraction_of_the_portable_decoders_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Beside each other in one run, so that a slow machine slows both. On a quiet one the kernel takes a quarter.
    tuples = [
        TUPLE.replace("23956", str(number)).replace("10.0.0.6", f"10.0.0.{number % 200}") for number in range(400)
    ]
    data = blob(*[record(tuples)] * 100)
    least: dict[str, float] = dict.fromkeys(kernel.ENGINES, float("inf"))
    for _ in range(3):
        for engine in kernel.ENGINES:
            monkeypatch.setenv(kernel.VARIABLE, engine)
            started = time.process_time()
            rows = sum(decoded.flows.num_rows for decoded in decode_flow_log([data], where="PT1H.json"))
            least[engine] = min(least[engine], time.process_time() - started)
            assert rows == 40_000
    assert least["compiled"] < 0.7 * least["portable"]


def test_one_mac_address_in_several_forms_is_one_nic_to_either_engine(monkeypatch):
    ledgers, covered = [], []
    for engine in kernel.ENGINES:
        monkeypatch.setenv(kernel.VARIABLE, engine)
        scan = fl.scan(DATA / "mac_address_forms.json", threads=1)
        ledgers.append(scan.ledger)
        covered.append(fl.coverage(scan).collect())
    assert ledgers[0].rows == ledgers[1].rows == ledgers[0].tuples
    assert covered[0].equals(covered[1])
