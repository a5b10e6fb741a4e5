"""Blobs that change while they are read: no torn, lost or doubled row, wherever the change falls."""

from __future__ import annotations

import datetime as dt
import io
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl
import pytest

import flowlens as fl
from flowlens.evidence import Ledger
from flowlens.sources.accounts import Access
from flowlens.sources.ranges import Reader
from tests.faults.conftest import LONG, Stored
from tests.faults.proxies import Request, fault_proxy
from tests.faults.writer import GrowingBlob, expected_rows

HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
# In the hour itself the blob may still grow; a day later it is taken as closed.
MOMENTS = {"open": HOUR + dt.timedelta(minutes=30), "closed": HOUR + dt.timedelta(days=1)}
TUPLES = 40
BEFORE, AFTER = range(4), range(20, 24)
OTHER = 9
RANGE_BYTES = 4096

Rows = Counter[tuple[str, int]]

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges so small that a blob of a few minutes takes several."""
    given = Reader.__init__

    def small(self: Reader, *arguments: Any, **options: Any) -> None:
        given(self, *arguments, **options)
        self._range = RANGE_BYTES

    monkeypatch.setattr(Reader, "__init__", small)


def read(url: str, now: dt.datetime) -> tuple[Rows, Ledger]:
    """(destination, source port) of every row with how often it came, and the ledger of the same pass."""
    access = Access(auth="key", account_url=url.rpartition("/")[0], timeout=5)
    scan = fl.scan(url, start=HOUR, end=HOUR + dt.timedelta(hours=1), access=access, threads=1, now=now)
    file = io.BytesIO()
    ledger = scan.write_flows(file)
    file.seek(0)
    return Counter(pl.read_parquet(file).select("dst_ip", "src_port").iter_rows()), ledger


def grown(blob: GrowingBlob) -> None:
    blob.commit()


def grown_by_two(blob: GrowingBlob) -> None:
    blob.commit()
    blob.commit()


def touched(blob: GrowingBlob) -> None:
    """Committed again as it is: another ETag, the same bytes."""
    blob.commit(0)


def rewritten(blob: GrowingBlob) -> None:
    blob.rewrite()


def replaced(blob: GrowingBlob) -> None:
    blob.replace_with(AFTER)


def amended(blob: GrowingBlob) -> None:
    """The first record is another one of the same size, all blocks behind it are as they were."""
    blob.amend(OTHER)


CHANGES: dict[Callable[[GrowingBlob], None], list[Iterable[int]]] = {
    grown: [BEFORE, range(5)],
    grown_by_two: [BEFORE, range(5), range(6)],
    touched: [BEFORE],
    rewritten: [BEFORE],
    replaced: [BEFORE, AFTER],
    amended: [BEFORE, (OTHER, *BEFORE[1:])],
}
# The others are weaker forms of these.
TRIED = list(CHANGES) if LONG else [grown, rewritten, replaced, amended]


@pytest.mark.slow
@pytest.mark.parametrize("state", MOMENTS)
@pytest.mark.parametrize("change", TRIED, ids=lambda change: change.__name__)
def test_a_change_between_any_two_requests_tears_loses_and_doubles_nothing(
    stored: Stored, change: Callable[[GrowingBlob], None], state: str
) -> None:
    blob = GrowingBlob(stored.client, tuples=TUPLES)
    allowed = [expected_rows(minutes, TUPLES) for minutes in CHANGES[change]]
    position, seen = 0, 0
    while position <= seen:
        blob.create(len(BEFORE))
        with fault_proxy(stored.server.host) as proxy:

            def plan(request: Request, at: int = position) -> None:
                if request.number == at:
                    change(blob)

            proxy.plan = plan
            rows, ledger = read(stored.through(proxy.host), MOMENTS[state])
            seen = len(proxy.log)
        if ledger.unread:
            # Only another content of the same name can't be put together; what was given before is of one version.
            assert change in (replaced, amended) and rows <= allowed[0], f"position {position}"
            assert "FL-S29" in ledger.rejects[0].reason
        else:
            assert rows in allowed, f"position {position}: {sum(rows.values())} rows"
        assert ledger.balanced and not ledger.rejected + ledger.rejected_records
        position += 1
    assert seen >= 6, "the blob was not read in several ranges"


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_writer_that_never_rests_does_not_keep_the_reader_from_its_end(stored: Stored, every: int) -> None:
    blob = GrowingBlob(stored.client, tuples=TUPLES).create(len(BEFORE))

    def plan(request: Request) -> None:
        if request.number % every == every - 1 and blob.committed < 50:
            blob.commit()

    with fault_proxy(stored.server.host, plan) as proxy:
        rows, ledger = read(stored.through(proxy.host), MOMENTS["open"])
        assert len(proxy.log) < (400 if LONG else 200)
    assert rows in [expected_rows(range(n), TUPLES) for n in range(len(BEFORE), blob.committed + 1)]
    assert ledger.complete and ledger.balanced


def test_a_blob_that_changes_at_every_request_is_read_or_told(stored: Stored) -> None:
    blob = GrowingBlob(stored.client, tuples=TUPLES).create(len(BEFORE))

    with fault_proxy(stored.server.host, lambda request: touched(blob) if request.is_read else None) as proxy:
        rows, ledger = read(stored.through(proxy.host), MOMENTS["open"])
        assert len(proxy.log) < 500
    assert ledger.unread == 1 and not rows
    assert "FL-S30" in ledger.rejects[0].reason


def test_blocks_that_are_not_committed_are_not_read(stored: Stored) -> None:
    blob = GrowingBlob(stored.client, tuples=TUPLES).create(2)
    blob.stage_only()
    assert read(stored.url, MOMENTS["open"])[0] == expected_rows(range(2), TUPLES)


def test_a_blob_without_records_has_no_rows_and_no_fault(stored: Stored) -> None:
    GrowingBlob(stored.client).create(0)
    rows, ledger = read(stored.url, MOMENTS["open"])
    assert not rows and ledger.complete and ledger.blobs == 1


def test_each_poll_of_a_growing_blob_has_all_that_is_committed(stored: Stored) -> None:
    blob = GrowingBlob(stored.client, tuples=TUPLES).create(0)
    for minutes in (1, 2, 4, 1):
        blob.commit(minutes)
        assert read(stored.url, MOMENTS["open"])[0] == expected_rows(range(blob.committed), TUPLES)
