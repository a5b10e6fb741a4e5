"""What a sync reads and commits: each record once, only what is new, whatever became of a blob in the meantime."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from flowlens.errors import SourceError
from flowlens.evidence import Window
from flowlens.lake.care import status, vacuum
from flowlens.lake.ledger import blob_id
from flowlens.lake.syncing import Sync, follow
from flowlens.sources.accounts import Access
from flowlens.sources.delta import FORMAT, Lake, OvertakenError, open_lake
from flowlens.sources.lake_places import LakePlace, parse_lake
from flowlens.sources.stores import Store, stores
from tests.flow_logs import blob_path
from tests.lake.block_store import HEAD, TAIL, MemoryBlob, MemoryStore, minute, new_blob, record
from tests.lake.histories import Killed, KilledLake, current_ledger, rows_of

LONG = bool(os.environ.get("LAKE_LONG"))
HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = HOUR + dt.timedelta(minutes=1)

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def opened(folder: Path) -> Lake:
    return open_lake(LakePlace(str(folder), folder), create=True)


def sync_of(store: Store, folder: Path, clock: Clock, **options: Any) -> Sync:
    return Sync([store], lambda: opened(folder), clock=clock, readers=1, **options)


def expected(*blobs: MemoryBlob) -> Counter[tuple[str, int, int]]:
    return Counter(row for blob in blobs for row in blob.expected())


@pytest.mark.slow
def test_an_hour_that_is_polled_each_minute_costs_hardly_more_than_its_bytes(lake: Path, clock: Clock) -> None:
    """Bytes downloaded over an hour of polls are at most 1.05 times those of the blob, and blocks of any other kind of poll nothing."""
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    sync = sync_of(store, lake, clock)
    for _ in range(60):
        blob.commit([minute(blob, 40)])
        sync.poll()
        before = store.downloaded
        sync.poll()
        assert store.downloaded == before, "nothing new was read again"
        clock.now += dt.timedelta(minutes=1)
    clock.now = HOUR + dt.timedelta(hours=1, minutes=20)
    sync.poll()
    assert store.downloaded <= 1.05 * len(blob.data)
    assert rows_of(opened(lake)) == expected(blob)


def test_an_hour_stays_open_until_it_is_past_and_was_read_to_its_end(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 2)])
    sync = sync_of(store, lake, clock)
    assert sync.poll().closed == 0
    clock.now = HOUR + dt.timedelta(hours=1, minutes=14)
    blob.commit([minute(blob, 2)])
    assert sync.poll().closed == 0
    clock.now = HOUR + dt.timedelta(hours=1, minutes=16)
    assert sync.poll().closed == 1
    blob.commit([minute(blob, 3)])
    late = sync.poll()
    assert late.ledger.rows == 3 and late.closed == 1 and not late.replaced, "a record that came after all is read too"
    assert rows_of(opened(lake)) == expected(blob)


def test_a_block_without_rows_is_read_once(lake: Path, clock: Clock) -> None:
    """Neither an empty record nor one whose tuples are all rejected leaves a row that would tell how far a blob was read."""
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 0), minute(blob, 0, rejected=3)])
    assert sync_of(store, lake, clock).poll().ledger.records == 2
    blob.touch()
    again = sync_of(store, lake, clock).poll()
    assert again.ledger.records == 0 and store.downloaded <= len(blob.data) + len(TAIL)


def test_a_blob_that_was_created_again_takes_the_place_of_the_former(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    former = store.put(new_blob(1, HOUR))
    former.commit([minute(former, 5)])
    sync = sync_of(store, lake, clock)
    sync.poll()
    later = new_blob(1, HOUR)
    later.commit([minute(later, 1)])
    store.put(later)
    polled = sync.poll()
    assert polled.replaced == 1 and "replaced" in polled.notes[-1]
    assert rows_of(opened(lake)) == expected(later)


def test_a_shorter_content_under_the_same_name_takes_the_place_of_the_former(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 5), minute(blob, 5)])
    sync = sync_of(store, lake, clock)
    sync.poll()
    del blob.blocks[1:-1]
    blob.commit([minute(blob, 1)])
    sync.poll()
    assert rows_of(opened(lake)) == expected(blob)


def test_a_name_that_sorts_before_all_others_and_comes_late_is_read(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    store.put(new_blob(9, HOUR)).commit([])
    sync = sync_of(store, lake, clock)
    sync.poll()
    first = store.put(new_blob(1, HOUR))
    first.commit([minute(first, 2)])
    # Both commits within one moment: only the ETag tells.
    sync.poll()
    first.commit([minute(first, 2)])
    sync.poll()
    assert rows_of(opened(lake)) == expected(first)


@pytest.mark.slow
def test_two_syncs_of_one_lake_are_both_right(lake: Path, clock: Clock) -> None:
    """Whoever comes second is told by the fence, reads the cursors anew, and adds what the first one has not."""
    store = MemoryStore()
    blobs = [store.put(new_blob(number, HOUR)) for number in range(1, 6)]
    for blob in blobs:
        blob.commit([minute(blob, 2)])
    one, two = sync_of(store, lake, clock), sync_of(store, lake, clock)
    state = {"depth": 0}

    def beside(request: str, _name: str) -> None:
        if request == "range" and not state["depth"]:
            state["depth"] = 1
            blobs[0].commit([minute(blobs[0], 1)])
            two.poll()
            state["depth"] = 0

    store.step = beside
    for _ in range(3):
        one.poll()
    store.step = lambda _request, _name: None
    one.poll()
    assert rows_of(opened(lake)) == expected(*blobs)


def test_the_fence_refuses_a_commit_from_cursors_that_are_not_the_newest(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 2)])
    stale = opened(lake)
    sync_of(store, lake, clock).poll()
    rows = opened(lake).scan_flows().collect().to_arrow()
    from flowlens import schema

    with pytest.raises(OvertakenError):
        stale.append_flows(rows.cast(schema.LAKE_FLOWS))
    assert rows_of(opened(lake)) == expected(blob)


def test_what_another_sync_has_finished_meanwhile_is_not_read_again(lake: Path, clock: Clock) -> None:
    """The blobs of a later batch, which were pending when this sync began."""
    store = MemoryStore()
    for number in (1, 2, 3):
        store.put(new_blob(number, HOUR)).commit([minute(new_blob(number, HOUR), 5)])
    clock.now = HOUR + dt.timedelta(days=1)
    other: list[Sync] = []

    def beside(request: str, _name: str) -> None:
        if request == "range" and not other:
            other.append(sync_of(store, lake, clock))
            assert other[0].poll().closed == 3

    store.step = beside
    sync_of(store, lake, clock, batch_bytes=1).poll()
    assert rows_of(opened(lake)) == Counter(row for blob in store.blobs.values() for row in blob.expected())


def test_compaction_and_syncs_do_not_disturb_each_other(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    sync = sync_of(store, lake, clock)
    for number in range(6):
        blob.commit([minute(blob, 2)])
        sync.poll()
        if number % 2:
            opened(lake).compact()
    assert rows_of(opened(lake)) == expected(blob)
    assert opened(lake).files()[0] == 1


def test_vacuum_keeps_the_ledger_and_whatever_is_young(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    sync = sync_of(store, lake, clock)
    for _ in range(3):
        blob.commit([minute(blob, 2)])
        sync.poll()
    opened(lake).compact()
    orphan = lake / "date=2026-06-15" / "part-left-behind.zstd.parquet"
    orphan.write_bytes(b"PAR1")
    assert vacuum(opened(lake), dt.timedelta(hours=24), dry_run=False) == [], "all of it is younger than a day"
    assert vacuum(opened(lake), dt.timedelta(0), dry_run=False)
    assert not orphan.exists()
    assert rows_of(opened(lake)) == expected(blob)
    assert current_ledger(opened(lake))["rows"].sum() == 6
    blob.commit([minute(blob, 2)])
    sync_of(store, lake, clock).poll()
    assert rows_of(opened(lake)) == expected(blob)


def test_the_ledger_accounts_for_every_byte_and_tuple_and_keeps_what_was_rejected(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 3, rejected=2), minute(blob, 1)])
    clock.now = HOUR + dt.timedelta(hours=2)
    sync_of(store, lake, clock).poll()
    day = status(opened(lake)).days.row(0, named=True)
    assert (day["blobs"], day["open"], day["rows"], day["rejected"], day["tuples"]) == (1, 0, 4, 2, 6)
    assert day["bytes"] == len(blob.data) and day["balanced"]
    facts = current_ledger(opened(lake)).row(0, named=True)
    assert [each["offset"] for each in facts["rejects"]] == [len(HEAD)] * 2
    assert facts["rejects"][0]["reason"] and "10.1.0.4" in facts["rejects"][0]["sample"]


def test_a_blob_that_cannot_be_read_is_told_and_read_later(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blobs = [store.put(new_blob(number, HOUR)) for number in (1, 2)]
    for blob in blobs:
        blob.commit([minute(blob, 2)])

    def refuse(request: str, name: str) -> None:
        if request == "range" and name == blobs[0].name:
            raise SourceError(name, "FL-S22 is incomplete", hint="try again")

    store.step = refuse
    sync = sync_of(store, lake, clock)
    assert sync.poll().unread == 1
    assert current_ledger(opened(lake)).filter("failed")["name"].to_list() == [blobs[0].name]
    store.step = lambda _request, _name: None
    assert sync.poll().unread == 0
    assert rows_of(opened(lake)) == expected(*blobs)


def test_following_goes_on_after_a_poll_that_failed(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    sync = sync_of(store, lake, clock)
    told: list[str] = []
    polls = iter(range(4))

    def pause(seconds: float) -> None:
        assert 0 <= seconds <= 60
        number = next(polls)
        blob.commit([minute(blob, 1)])
        store.step = refuse if number == 1 else lambda _request, _name: None
        if number == 3:
            raise KeyboardInterrupt

    def refuse(_request: str, _name: str) -> None:
        raise SourceError("account", "FL-S16 ServerBusy", hint="")

    with pytest.raises(KeyboardInterrupt):
        follow(
            sync,
            lambda polled: told.append(f"{polled.ledger.rows}"),
            lambda error: told.append(error.problem),
            wait=pause,
        )
    assert told == ["0", "1", "FL-S16 ServerBusy", "2"]


def test_a_lake_of_a_later_version_is_refused_and_left_alone(lake: Path) -> None:
    opened(lake)
    marks = CommitProperties(app_transactions=[Transaction("flowlens.format", FORMAT + 1)])
    DeltaTable(lake).alter.set_table_description("later", commit_properties=marks)
    before = sorted(path.name for path in (lake / "_delta_log").iterdir())
    with pytest.raises(
        SourceError, match=f"was written by a later flowlens .format {FORMAT + 1}, this one knows {FORMAT}"
    ):
        opened(lake)
    assert sorted(path.name for path in (lake / "_delta_log").iterdir()) == before


FLOWS_LOG, LEDGER_LOG = (f"{part}_delta_log/00000000000000000001.json" for part in ("", "_ledger/"))


@pytest.mark.parametrize(
    ("at", "damage"),
    [(FLOWS_LOG, b"{"), (FLOWS_LOG, b"\x00" * 100), (LEDGER_LOG, b""), (LEDGER_LOG, b"{"), (LEDGER_LOG, b"\x00" * 100)],
)
def test_a_damaged_log_is_an_error_and_stays_as_it_is(lake: Path, clock: Clock, at: str, damage: bytes) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 2)])
    sync_of(store, lake, clock).poll()
    (lake / at).write_bytes(damage)
    with pytest.raises(SourceError, match=r"the lake could not be|does not know byte"):
        sync_of(store, lake, clock).poll()
    assert (lake / at).read_bytes() == damage


def test_a_commit_that_a_power_loss_emptied_is_made_again(lake: Path, clock: Clock) -> None:
    """A file system may keep the name of the newest entry and lose its content; no rows, then no progress."""
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 2)])
    sync_of(store, lake, clock).poll()
    (lake / FLOWS_LOG).write_bytes(b"")
    blob.commit([minute(blob, 1)])
    sync_of(store, lake, clock).poll()
    assert rows_of(opened(lake)) == expected(blob)


def test_a_lost_ledger_is_an_error_and_doubles_nothing(lake: Path, clock: Clock) -> None:
    store = MemoryStore()
    blob = store.put(new_blob(1, HOUR))
    blob.commit([minute(blob, 2)])
    sync_of(store, lake, clock).poll()
    shutil.rmtree(lake / "_ledger")
    with pytest.raises(SourceError):
        sync_of(store, lake, clock).poll()
    assert rows_of(opened_as_it_is(lake)) == expected(blob)


def opened_as_it_is(folder: Path) -> Any:
    class Flows:
        def scan_flows(self) -> pl.LazyFrame:
            return pl.scan_delta(str(folder))

    return Flows()


def test_a_folder_that_holds_other_things_is_not_made_a_lake(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(SourceError, match=r"expected a lake or an empty folder, found 'letters\.txt'"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


# Folders of blobs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


def written(folder: Path, records: int, *, first: int = 0, closed: bool = True) -> Path:
    path = blob_path(folder, hour=HOUR)
    path.parent.mkdir(parents=True, exist_ok=True)
    bodies = [record(number, 2, time=HOUR + dt.timedelta(minutes=number)) for number in range(first, first + records)]
    path.write_bytes(HEAD + b",".join(bodies) + (TAIL if closed else b""))
    return path


def test_a_file_that_grows_is_read_by_what_is_new(folder: Path, lake: Path, clock: Clock) -> None:
    sync = Sync(stores([str(folder.parent / "blobs")], Access()), lambda: opened(lake), clock=clock)
    written(folder, 2)
    assert sync.poll().ledger.records == 2
    written(folder, 5)
    grown = sync.poll()
    assert grown.ledger.records == 3 and not grown.replaced
    clock.now = HOUR + dt.timedelta(hours=2)
    assert sync.poll().closed == 1


def test_a_copy_that_is_cut_off_waits_for_its_end(folder: Path, lake: Path, clock: Clock) -> None:
    path = written(folder, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    sync = Sync(stores([str(folder)], Access()), lambda: opened(lake), clock=clock)
    assert sync.poll().ledger.records == 2
    path.write_bytes(whole)
    assert sync.poll().ledger.records == 1
    assert not sync.poll().ledger.records


def test_a_cut_off_file_that_was_taken_for_whole_is_read_anew_once_it_is(
    folder: Path, lake: Path, clock: Clock
) -> None:
    path = written(folder, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    clock.now = HOUR + dt.timedelta(hours=2)
    sync = Sync(stores([str(folder)], Access()), lambda: opened(lake), clock=clock)
    assert sync.poll().ledger.rejected_records == 1
    path.write_bytes(whole)
    again = sync.poll()
    assert again.replaced == 1 and again.ledger.complete
    assert opened(lake).scan_flows().collect().height == 6
    assert status(opened(lake)).days["rejected_records"].to_list() == [0]


@pytest.mark.parametrize("left", [1, 2, 3])
@pytest.mark.parametrize("grown", [False, True])
def test_a_kill_before_the_end_is_noted_neither_doubles_nor_keeps_what_rests_on_it(
    folder: Path, lake: Path, clock: Clock, left: int, grown: bool
) -> None:
    """Of a file that is cut off: its last record is a reject, told once, and another one once the file is whole."""
    path = written(folder, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    clock.now = HOUR + dt.timedelta(hours=2)
    places = stores([str(folder)], Access())
    with pytest.raises(Killed):
        Sync(places, lambda: KilledLake(opened(lake), [left]), clock=clock).poll()  # type: ignore[arg-type,return-value]
    if grown:
        path.write_bytes(whole)
    sync = Sync(places, lambda: opened(lake), clock=clock)
    sync.poll()
    assert opened(lake).scan_flows().collect().height == (6 if grown else 4)
    assert status(opened(lake)).days["rejected_records"].to_list() == [0 if grown else 1]
    assert not Sync(places, lambda: opened(lake), clock=clock).poll().read
    path.write_bytes(whole)
    sync.poll()
    assert opened(lake).scan_flows().collect().height == 6
    assert status(opened(lake)).days["rejected_records"].to_list() == [0]


def test_a_file_with_another_content_takes_the_place_of_the_former(folder: Path, lake: Path, clock: Clock) -> None:
    written(folder, 3)
    sync = Sync(stores([str(folder)], Access()), lambda: opened(lake), clock=clock)
    sync.poll()
    written(folder, 3, first=50)
    assert sync.poll().replaced == 1
    assert opened(lake).scan_flows().collect().height == 6


def test_only_hours_of_the_window_are_read(folder: Path, lake: Path, clock: Clock) -> None:
    written(folder, 1)
    window = Window(HOUR + dt.timedelta(hours=3), None)
    sync = Sync(stores([str(folder)], Access()), lambda: opened(lake), clock=clock, window=window)
    assert sync.poll().listed == 0


def test_an_address_of_a_lake_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWLENS_LAKE_KEY", "c2VjcmV0")
    place = parse_lake("abfss://lake@contoso.dfs.core.windows.net/flows")
    assert "c2VjcmV0" not in f"{place} {place!r}"
    assert place.options["azure_storage_account_key"] == "c2VjcmV0"


def test_a_blob_id_has_128_bits_and_no_two_names_share_one() -> None:
    ids = {blob_id("contoso", f"logs/{number}", "2026") for number in range(100_000)}
    assert len(ids) == 100_000 and {len(each) for each in ids} == {32}
    assert len({blob_id("a", "bc", ""), blob_id("ab", "c", ""), blob_id("a", "b", "c"), blob_id("a", "bc", "", 1)}) == 4


def test_pairs_of_syncs_started_at_once_are_all_right(lake: Path, clock: Clock) -> None:
    """Threads of one process stand for processes: they share nothing but the folder."""
    store = MemoryStore()
    blobs = [store.put(new_blob(number, HOUR)) for number in range(1, 5)]
    for _ in range(50 if LONG else 2):
        for blob in blobs:
            blob.commit([minute(blob, 1)])
        with ThreadPoolExecutor(10 if LONG else 3) as pool:
            for polled in pool.map(lambda _: sync_of(store, lake, clock).poll(), range(10 if LONG else 3)):
                assert polled.ledger.complete
        assert rows_of(opened(lake)) == expected(*blobs)
