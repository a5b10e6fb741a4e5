"""What a task of Spark does, without Spark: the same as one machine, and nothing secret on its way."""

from __future__ import annotations

import datetime as dt
import pickle
from dataclasses import replace
from pathlib import Path

import msgspec
import polars as pl
import pytest

import flowlens
from flowlens import conversations
from flowlens.errors import SourceError
from flowlens.evidence import COUNTS, Ledger, Reject, Window, total
from flowlens.nic_hours import READ
from flowlens.scanning import scan
from flowlens.selecting import select_files
from flowlens.sources.accounts import Access, Location
from flowlens.spark_tasks import (
    BLOB_BYTES,
    LEAST_TASK_BYTES,
    OUTPUT,
    TASK_BYTES,
    BlobOutcome,
    Job,
    ListedBlob,
    Outcome,
    listed,
    pack,
    read_task,
    shares,
)
from tests.faults.day import write_day
from tests.flow_logs import CONTAINER, SAMPLE

WINDOW = Window(dt.datetime(2026, 6, 15, 9, 30, tzinfo=dt.UTC), dt.datetime(2026, 6, 15, 11, tzinfo=dt.UTC))
NOWHERE = Location("http://127.0.0.1:9/account", "account", "logs", "", "global")


def job_over(folder: Path, window: Window, *, tasks: int = 1, places: tuple[tuple[Location, Access], ...] = ()) -> Job:
    """A job over the files below ``folder``, dealt out to so many tasks in the order of their names."""
    blobs = list(listed(select_files([str(folder)], window).flow_logs, {}))
    step = -(-len(blobs) // tasks)
    packed = tuple((2 * at, pack(blobs[at : at + step])) for at in range(0, len(blobs), step))
    return Job(flowlens.__version__, window, None, False, places, packed, 4)


def read(job: Job, task: int, attempt: int = 7, *, is_last: bool = True) -> tuple[pl.DataFrame, Outcome]:
    """The conversations of a task, and its outcome."""
    batches = list(read_task(job, task, attempt, is_last=is_last))
    assert all(batch.schema == OUTPUT for batch in batches)
    rows = pl.concat([pl.DataFrame(pl.from_arrow(batch)) for batch in batches])
    assert rows.select("task", "attempt").unique().rows() == [(job.tasks[task][0], attempt)]
    *others, last = rows["outcome"].to_list()
    assert set(others) <= {None}
    return rows.filter(pl.col("outcome").is_null()).select(conversations.COLUMNS), Outcome.parse(last)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hours of six NICs; one blob is gzip, one cut off, one has a tuple that is none."""
    folder = tmp_path_factory.mktemp("day")
    write_day(folder, 3, nics=6, hours=12)
    return folder / CONTAINER


@pytest.mark.parametrize("tasks", [1, 5])
@pytest.mark.parametrize("window", [Window(), WINDOW], ids=["all", "window"])
def test_tasks_together_give_what_one_machine_gives(day: Path, window: Window, tasks: int) -> None:
    job = job_over(day, window, tasks=tasks)
    found = [read(job, task) for task in range(len(job.tasks))]
    here = scan(day, start=window.start, end=window.end, threads=1)
    assert conversations.merge(*(rows.cast(conversations.SCHEMA) for rows, _ in found)).equals(
        conversations.merge(here.conversations.collect())
    )
    results = [result for _, outcome in found for result in outcome.results()]
    ledger = total(result.ledger for result in results)
    assert replace(ledger, sources=1, notes=here.ledger.notes) == here.ledger
    assert ledger.rejects and ledger.balanced
    assert [outcome.rows for _, outcome in found] == [rows.height for rows, _ in found]


def test_nic_hours_survive_their_way(day: Path) -> None:
    _, outcome = read(job_over(day, Window()), 0)
    hours = [row for result in outcome.results() for row in result.hours]
    frame = pl.DataFrame(hours, schema=READ, orient="row")
    states = dict(frame.group_by("state").len().rows())
    assert states["partly read"] and states["empty"] and states["read"]
    assert frame["hour"].dt.minute().max() == 0


def test_restarted_flows_survive_their_way() -> None:
    here = scan(SAMPLE / CONTAINER, threads=1)
    _, outcome = read(job_over(SAMPLE / CONTAINER, Window()), 0)
    assert sum(len(result.restarted_ends) for result in outcome.results()) == len(outcome.restarted)
    assert total(each.ledger for each in outcome.blobs).tuples == here.ledger.tuples


def test_a_blob_is_told_with_its_name_and_length(day: Path) -> None:
    _, outcome = read(job_over(day, Window()), 0)
    sizes = {path.relative_to(day.parent).as_posix(): path.stat().st_size for path in day.rglob("*.json")}
    assert {each.blob: each.length for each in outcome.blobs} == sizes


def test_an_executor_that_cannot_sign_in_has_spark_try_elsewhere(day: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY", raising=False)
    hour = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
    blob = ListedBlob(0, "a/PT1H.json", 10, '"0x1"', "A", hour, "00005E005400")
    job = Job(flowlens.__version__, Window(), None, False, ((NOWHERE, Access(auth="key")),), ((0, pack([blob])),), 4)
    with pytest.raises(flowlens.FlowlensError, match="FL-S03"):
        read(job, 0, is_last=False)
    rows, outcome = read(job, 0, is_last=True)
    assert rows.is_empty()
    (told,) = outcome.blobs
    assert (told.ledger.unread, told.ledger.blobs, told.failed) == (1, 1, True)
    assert "FL-S03" in told.ledger.rejects[0].reason
    assert [row[4] for row in told.hours] == ["failed"]
    ((where, problem, hint),) = outcome.given_up
    assert str(NOWHERE) == where and problem.startswith("FL-S03") and hint


def test_an_account_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    hour = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
    blobs = [ListedBlob(0, f"{n}/PT1H.json", 10, '"0x1"', "A", hour, "00005E005400") for n in range(5)]
    access = Access(auth="key", timeout=0.2)
    job = Job(flowlens.__version__, Window(), None, False, ((NOWHERE, access),), ((0, pack(blobs)),), 4)
    with pytest.raises(SourceError, match="FL-S17"):
        read(job, 0, is_last=False)
    _, outcome = read(job, 0, is_last=True)
    assert total(each.ledger for each in outcome.blobs).unread == 5
    assert outcome.given_up[0][1].startswith("FL-S17")


def test_nothing_secret_is_in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "c2VjcmV0LXNlY3JldA=="
    monkeypatch.setenv("AZURE_STORAGE_KEY", secret)
    job = Job(flowlens.__version__, Window(), None, False, ((NOWHERE, Access(auth="key")),), ((0, pack([])),), 4)
    assert secret.encode() not in pickle.dumps(job)
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize(
    ("sizes", "cores", "tasks"),
    [
        ([10] * 10, 2, 1),
        ([LEAST_TASK_BYTES] * 8, 8, 8),
        ([TASK_BYTES * 4, 10, 10], 2, 2),
        ([TASK_BYTES // 8 - BLOB_BYTES] * 80, 2, 10),
        ([], 2, 0),
    ],
)
def test_work_is_dealt_out_in_order(sizes: list[int], cores: int, tasks: int) -> None:
    blobs = [ListedBlob(-1, str(n), size, "", None, None, None) for n, size in enumerate(sizes)]
    dealt = list(shares(blobs, sum(size + BLOB_BYTES for size in sizes), cores))
    assert [blob for share in dealt for blob in share] == blobs
    assert len(dealt) == tasks


def test_a_packed_blob_is_the_same_again() -> None:
    hour = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
    blob = ListedBlob(
        2, "\u00e9/PT1H.json", 2**40, '"0x1"', "A", hour, "00005E005400", True, "FL-S27", b"/a\xff", (3, 2**40)
    )
    job = Job("1", Window(), None, True, (), ((0, pack([blob] * 3)),), 1)
    assert job.blobs_of(0) == [blob] * 3


def test_a_ledger_survives_its_way() -> None:
    numbers = {name: n for n, name in enumerate(COUNTS)}
    ledger = Ledger(
        **numbers, unknown_codes={"NX_NEW": 2}, rejects=(Reject("\u00e9", 12, "expected", "\\x1b"),), notes=("a note",)
    )
    outcome = Outcome(0, [BlobOutcome("a", "", 1, ledger, False, [])], [], [], {})
    assert Outcome.parse(msgspec.json.encode(outcome).decode()).results()[0].ledger == ledger
