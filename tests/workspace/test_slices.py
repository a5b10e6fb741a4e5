"""A query over a window is answered whole, or its end is told: through faults, limits and rows that arrive meanwhile."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import SourceError
from flowlens.queries import encode
from flowlens.sources import slices
from flowlens.sources.accounts import Access
from flowlens.sources.slices import MOST_SLICES, STEP, Asker, Reading, Slice, numbers_in, read_slices
from flowlens.sources.workspace import Answer, Connection, Cut, connect, parse_workspace
from flowlens.workspace_rows import Tally
from tests.workspace import server
from tests.workspace.server import WORKSPACE, Asked, Logs, Told

# `make workspace` runs all of them, with the queries really executed.
LONG = bool(os.environ.get("WORKSPACE_LONG"))
RUNS = 200 if LONG else 12
START = dt.datetime(2026, 6, 15, 6, tzinfo=dt.UTC)
END = START + dt.timedelta(hours=4)
LATE = dt.timedelta(days=1)
# In steps, as in conversations.kql: the interpreter writes what is nested out again and again.
TEXT = """\
let start = {start};
let end = {end};
let slices = {slices};
let slice = {slice};
NTANetAnalytics
| where TimeGenerated >= start and TimeGenerated < end + 1d
| where FlowIntervalStartTime >= start and FlowIntervalStartTime < end
| extend digest = hash_md5(SrcIp)
| extend digits = substring(digest, 0, 8)
| extend hexadecimal = strcat("0x", digits)
| where slices == 1 or tolong(hexadecimal) % slices == slice
| project SrcIp, DestPort, FlowIntervalStartTime
"""


def text_of(part: Slice) -> str:
    return TEXT.format(
        start=encode(part.start, "datetime"), end=encode(part.end, "datetime"), slices=part.slices, slice=part.slice
    )


def row(number: int, time: dt.datetime, late: dt.timedelta = dt.timedelta(minutes=21)) -> dict[str, object]:
    return {
        "TimeGenerated": (time + late).isoformat(),
        "FlowIntervalStartTime": time.isoformat(),
        "SrcIp": f"10.0.{number // 256}.{number % 256}",
        "DestPort": number,
    }


def made_rows(rng: random.Random, count: int) -> list[dict[str, object]]:
    steps = int((END - START) / STEP)
    late = [dt.timedelta(minutes=rng.choice((11, 30, 70, 600))) for _ in range(count)]
    return [row(number, START + rng.randrange(steps) * STEP, late[number]) for number in range(count)]


@pytest.fixture
def logs(logs: Logs) -> Logs:
    """The same with no more columns than are asked for."""
    columns = {"TimeGenerated": "datetime", "FlowIntervalStartTime": "datetime", "SrcIp": "string", "DestPort": "int"}
    logs.tables["NTANetAnalytics"] = server.Table("NTANetAnalytics", columns)
    return logs


@pytest.fixture
def connection(logs: Logs) -> Connection:
    access = Access(auth="environment", account_url=logs.endpoint, ca_file=logs.ca_file, timeout=5)
    return connect(parse_workspace(f"workspace:{WORKSPACE}", access), access)


def read(connection: Connection, *parts: Slice) -> list[Reading]:
    given = parts or (Slice(START, END),)
    return list(read_slices(Asker(connection), given, text_of, lambda part: (part.start, part.end + LATE)))


def ports(readings: list[Reading]) -> Counter[int]:
    return Counter(port for reading in readings if reading.error is None for port in reading.rows["DestPort"])


def once(*faults: Told) -> Callable[[Asked], Told | None]:
    """One fault after another, then none."""
    left = list(faults)
    return lambda _asked: left.pop(0) if left else None


def of_data(fault: Callable[[Asked], Told | None]) -> Callable[[Asked], Told | None]:
    return lambda asked: None if asked.is_count else fault(asked)


@given(hours=st.integers(1, 200), minutes=st.integers(0, 59), seed=st.integers(0, 2**32))
def test_halves_hold_each_thing_once(hours: int, minutes: int, seed: int) -> None:
    whole = Slice(START + dt.timedelta(minutes=minutes), START + dt.timedelta(hours=hours, minutes=7))
    rng = random.Random(seed)
    part, depth = whole, 0
    while (halves := part.halves()) is not None:
        first, second = halves
        if part.slices == first.slices:
            assert (part.start, part.end, first.end) == (first.start, second.end, second.start)
            assert first.start < first.end < second.end
            assert (first.end - dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) % STEP == dt.timedelta(0)
        else:
            assert part.end - part.start <= STEP
            hashed = rng.randrange(2**32) // part.slices * part.slices + part.slice
            assert [hashed % half.slices == half.slice for half in halves].count(True) == 1
        part, depth = rng.choice(halves), depth + 1
    assert (part.slices, part.end - part.start <= STEP) == (MOST_SLICES, True)
    assert depth < 30


def test_everything_comes_in_one_answer_where_nothing_is_in_the_way(logs: Logs, connection: Connection) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(1), 50))
    (reading,) = read(connection)
    assert ports([reading]) == Counter(range(50))
    assert reading.rows["FlowIntervalStartTime"].dtype.time_zone == "UTC"  # type: ignore[attr-defined]
    assert [asked.is_count for asked in logs.asked] == [False, True]
    assert {asked.prefer for asked in logs.asked} == {"wait=180"}
    assert {asked.span for asked in logs.asked} == {(START, END + LATE)}


def test_a_resource_is_asked_by_its_id(logs: Logs) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(1), 5))
    access = Access(auth="environment", account_url=logs.endpoint, ca_file=logs.ca_file, timeout=5)
    by_resource = connect(parse_workspace(f"workspace:{server.RESOURCE}", access), access)
    assert ports(read(by_resource)) == Counter(range(5))
    assert {asked.target for asked in logs.asked} == {server.RESOURCE}


@pytest.mark.parametrize(
    "fault",
    [
        Told(429, server.THROTTLED, {"Retry-After": "0"}),
        Told(500, server.error("InternalServerError", "Something went wrong")),
        Told(502, None),
        Told(503, server.error("ServiceUnavailable", "try again")),
        Told(502, "<html>bad gateway</html>"),
    ],
    ids=["429", "500", "502", "503", "502 in HTML"],
)
def test_what_passes_is_asked_again(logs: Logs, connection: Connection, fault: Told) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(2), 20))
    logs.fault = once(fault, fault)
    asker = Asker(connection)
    (reading,) = read_slices(asker, [Slice(START, END)], text_of, lambda part: (part.start, part.end + LATE))
    assert asker.again.counts() == {str(fault.status): 2}
    assert ports([reading]) == Counter(range(20))
    assert len(logs.asked) == 4
    assert len({asked.query for asked in logs.asked[:3]}) == 1


def test_retry_after_holds_every_thread_back(
    logs: Logs, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(2), 20))
    clock = [1000.0]
    waits = []
    monkeypatch.setattr(slices.time, "monotonic", lambda: clock[0])

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            clock[0] += timeout or 0
            return False

    asker = Asker(connection)
    asker.stop = Stop()
    logs.fault = once(Told(429, server.THROTTLED, {"Retry-After": "17"}))
    answer = asker.ask(text_of(Slice(START, END)), (START, END + LATE))
    assert answer.frame().height == 20
    assert waits == [17.0]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Told(429, server.THROTTLED, {"Retry-After": "0"}), "FL-W11"), (Told(502), "FL-W10"), (Told(503), "FL-W10")],
    ids=["429", "502", "503"],
)
def test_a_fault_without_end_ends_the_run_with_its_reason(
    logs: Logs, connection: Connection, fault: Told, reason: str
) -> None:
    logs.fault = lambda _asked: fault
    (reading,) = read(connection)
    assert reading.error is not None
    assert reason in reading.error.problem
    assert len(logs.asked) == 6


@pytest.mark.parametrize("fault", [Told(504, server.TIMED_OUT), Told(413)], ids=["504", "413"])
def test_a_time_out_is_not_repeated_but_halved(logs: Logs, connection: Connection, fault: Told) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(3), 30))
    logs.fault = once(fault)
    readings = read(connection)
    assert ports(readings) == Counter(range(30))
    assert sorted(str(reading.part) for reading in readings) == sorted(map(str, Slice(START, END).halves() or ()))


def test_silence_is_a_time_out(logs: Logs, connection: Connection) -> None:
    access = Access(auth="environment", account_url=logs.endpoint, ca_file=logs.ca_file, timeout=1)
    hasty = connect(connection.workspace, access)
    logs.fault = lambda _asked: Told(0, silent=60.0)
    with pytest.raises(Cut) as raised:
        hasty.ask(text_of(Slice(START, END)), (START, END + LATE), seconds=1)
    assert raised.value.is_silence
    assert len(logs.asked) == 1


def test_a_part_of_an_answer_is_never_taken(logs: Logs, connection: Connection) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(4), 60))
    logs.after = lambda asked, rows: server.partial(["SrcIp", "DestPort", "x"], rows[:9]) if len(rows) > 10 else rows
    readings = read(connection)
    assert ports(readings) == Counter(range(60))
    assert max(reading.rows.height for reading in readings) <= 10


def test_an_answer_cut_in_silence_is_found_out_by_the_count(logs: Logs, connection: Connection) -> None:
    logs.tables["NTANetAnalytics"].add([row(number, START + number % 2 * STEP) for number in range(50)])
    logs.after = lambda _asked, rows: rows[:11]
    readings = read(connection)
    assert ports(readings) == Counter(range(50))
    # Two intervals of twenty-five rows can only be cut further by hash.
    assert max(reading.part.slices for reading in readings) >= 4


def test_what_can_not_be_cut_further_fails_and_the_rest_is_read(
    logs: Logs, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "MOST_SLICES", 16)
    flood = [row(7, START + STEP) for _ in range(12)]
    logs.tables["NTANetAnalytics"].add([*flood, *(row(n, START + 3 * STEP) for n in range(5))])
    logs.after = lambda _asked, rows: rows[:11]
    readings = read(connection)
    failed = [reading for reading in readings if reading.error is not None]
    assert [("FL-W09" in str(reading.error), reading.part.slices) for reading in failed] == [(True, 16)]
    assert failed[0].part.start == START + STEP
    assert ports(readings) == Counter(range(5))


def test_a_row_that_arrives_between_answer_and_count_is_read_too(logs: Logs, connection: Connection) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(5), 10))

    def arrive(asked: Asked) -> None:
        if asked.is_count and asked.number == 1:
            logs.tables["NTANetAnalytics"].add([row(99, START + STEP)])

    logs.fault = arrive
    (reading,) = read(connection)
    assert ports([reading]) == Counter([*range(10), 99])


def test_a_service_that_is_down_is_not_asked_for_ever(logs: Logs, connection: Connection) -> None:
    logs.fault = lambda _asked: Told(504, server.TIMED_OUT)
    readings = read(connection)
    assert ports(readings) == Counter()
    assert all("FL-W10" in str(reading.error) for reading in readings)
    assert len(logs.asked) < 100


def test_no_more_than_four_queries_run_at_once(logs: Logs, connection: Connection) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(6), 10))
    running, most, lock = [0], [0], threading.Lock()
    four = threading.Barrier(4)

    def enter(asked: Asked) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        if asked.number < 4:
            # All four threads are let on only once all four are here.
            four.wait(20)

    def leave(_asked: Asked, rows: list[list[object]]) -> list[list[object]]:
        with lock:
            running[0] -= 1
        return rows

    logs.fault, logs.after = enter, leave
    hour = dt.timedelta(hours=1)
    parts = [Slice(START + n * hour / 2, START + (n + 1) * hour / 2) for n in range(8)]
    assert ports(read(connection, *parts)) == Counter(range(10))
    assert most == [4]


def test_an_answer_above_its_share_of_memory_is_asked_for_in_parts(logs: Logs, connection: Connection) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(7), 40))
    asker = Asker(connection)
    parts = read_slices(asker, [Slice(START, END)], text_of, lambda part: (part.start, part.end + LATE), at_most=1200)
    readings = list(parts)
    assert ports(readings) == Counter(range(40))
    assert len(readings) > 2
    assert max(reading.bytes for reading in readings) < 2 * 1200


def test_while_one_answer_is_worked_on_no_more_is_asked_than_may_be_held(logs: Logs, connection: Connection) -> None:
    logs.tables["NTANetAnalytics"].add(made_rows(random.Random(8), 20))
    hour = dt.timedelta(hours=1)
    parts = [Slice(START + n * hour, START + (n + 1) * hour) for n in range(4)]
    span_of: Callable[[Slice], tuple[dt.datetime, dt.datetime]] = lambda part: (part.start, part.end + LATE)  # noqa: E731
    readings = read_slices(Asker(connection), parts, text_of, span_of, concurrent=1)
    for number, _ in enumerate(readings, 1):
        time.sleep(0.3)
        assert len(logs.asked) == 2 * number


@dataclasses.dataclass
class Moody:
    """A service with limits of its own, that fails now and then; the rows it has are ``rows``."""

    rng: random.Random
    rows_at_most: int
    silent: bool
    bytes_at_most: int
    slow_above: int
    faults: float

    def fault(self, asked: Asked) -> Told | None:
        if self.rng.random() >= self.faults:
            return None
        return self.rng.choice(
            (Told(429, server.THROTTLED, {"Retry-After": "0"}), Told(502), Told(503), Told(504, server.TIMED_OUT))
        )

    def after(self, asked: Asked, rows: list[list[object]]) -> Told | list[list[object]]:
        if asked.is_count:
            return rows
        if len(rows) > self.slow_above:
            return Told(504, server.TIMED_OUT)
        if len(str(rows)) > self.bytes_at_most or (len(rows) > self.rows_at_most and not self.silent):
            return server.partial(["SrcIp", "DestPort", "FlowIntervalStartTime"], rows[: self.rows_at_most])
        return rows[: self.rows_at_most]


@pytest.mark.parametrize("seed", range(RUNS))
def test_random_limits_give_exactly_the_rows_or_an_error(logs: Logs, connection: Connection, seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randrange(1, 40)
    logs.tables["NTANetAnalytics"].add(made_rows(rng, count))
    moody = Moody(
        rng,
        rows_at_most=rng.choice((2, 5, 20, 500)),
        silent=rng.random() < 0.5,
        bytes_at_most=rng.choice((300, 1500, 10**6)),
        slow_above=rng.choice((3, 30, 500)),
        faults=rng.choice((0.0, 0.1, 0.3)),
    )
    logs.fault, logs.after = moody.fault, moody.after
    readings = read(connection)
    failed = [reading for reading in readings if reading.error is not None]
    found = ports(readings)
    assert not found - Counter(range(count))
    if not failed:
        assert found == Counter(range(count))
    else:
        # What is missing lies in parts that are told.
        assert [str(r.error) for r in failed if r.error and not r.error.problem.startswith("FL-W")] == []


@pytest.mark.parametrize("counted", [(1,), (1, 1), (1, 1, 1, 1)])
def test_a_proof_of_other_width_is_told(counted: tuple[int, ...]) -> None:
    reading = Reading(Slice(START, END), pl.DataFrame(), counted=counted)
    with pytest.raises(SourceError, match="FL-W14"):
        Tally("the workspace").take(reading, 1)


@pytest.mark.parametrize("row", ["[" * 2000 + "]" * 2000, "1", "{}", "[]", "[1.5]", "[null]", '["1"]', "nothing"])
def test_a_proof_that_is_no_row_of_numbers_is_told(row: str) -> None:
    answer = Answer("the workspace", [], [msgspec.Raw(row.encode())], 0)
    with pytest.raises(SourceError, match="FL-W14"):
        numbers_in(answer)
