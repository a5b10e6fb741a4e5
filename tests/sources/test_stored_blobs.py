"""Many stored blobs: whatever was added comes back, each once, and little of it is kept."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.evidence import Window
from flowlens.sources.accounts import Access, Account, parse_location
from flowlens.sources.ranges import Reader
from flowlens.sources.storage import list_blobs
from flowlens.sources.stored_blobs import StoredBlob, StoredBlobs
from tests.sources.test_storage import DAY, NOW, ROOT, Container, key

NINE = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)


def account(name: str = "contoso", container: str = "logs") -> Account:
    place = parse_location(f"https://{name}.blob.core.windows.net/{container}", Access())
    return Account(place, SimpleNamespace(), SimpleNamespace(), "key", "me", (), 30)  # type: ignore[arg-type]


ACCOUNTS = [account(), account(), account("fabrikam"), account(container="other")]
ETAGS = st.one_of(
    st.integers(0, 1 << 68).map(lambda number: f'"0x{number:X}"'),
    st.sampled_from(['""', '"0x0"', '"0x08D"', '"0x8d"', '"W/x"', '"0x-1"', '"0x 8D"', '"0x8_D"', "x", '"0x"']),
)
TIMES = st.one_of(
    st.integers(-1, 1 << 33).map(lambda seconds: formatdate(seconds, usegmt=True)),
    st.sampled_from(
        ["", "x", "Thu, 01 Jan 1970 00:00:00 GMT", "Sat, 28 Nov 2026 12:00:00", "sat, 28 nov 2026 12:00:00 GMT"]
    ),
)
BLOBS = st.lists(
    st.builds(
        StoredBlob,
        st.sampled_from(ACCOUNTS),
        st.sampled_from([*(f"a/h=0{hour}/{mac}/PT1H.json" for hour in (1, 2) for mac in "xyz"), "", "a", "/", "a/b"]),
        st.integers(0, (1 << 63) - 1),
        ETAGS,
        st.sampled_from(["LOG", "OTHER"]),
        st.sampled_from([NINE, NINE + dt.timedelta(hours=1)]),
        st.sampled_from(["M", "N"]),
        st.booleans(),
        st.sampled_from(["", "FL-S27", "FL-S28"]),
        TIMES,
    ),
    max_size=30,
)


def made(blobs: list[StoredBlob]) -> StoredBlobs:
    result = StoredBlobs()
    for blob in blobs:
        result.append(blob)
    return result


@given(BLOBS)
def test_what_was_added_comes_back_as_it_was(blobs: list[StoredBlob]) -> None:
    held = made(blobs)
    assert list(held) == blobs == [held[at] for at in range(len(held))]
    assert held[1:3] == blobs[1:3]
    if blobs:
        assert held[-1] == blobs[-1]
    with pytest.raises(IndexError):
        held[len(blobs)]


@pytest.mark.slow
@given(st.lists(BLOBS, min_size=1, max_size=4))
def test_of_several_lists_each_blob_is_taken_from_the_first(lists: list[list[StoredBlob]]) -> None:
    def place(blob: StoredBlob) -> tuple[str, str]:
        return blob.account.location.account_url, blob.name

    # A list holds a name once.
    lists = [list({place(blob): blob for blob in each}.values()) for each in lists]
    joined = StoredBlobs()
    again = sum(joined.extend(made(each)) for each in lists)
    first: dict[object, StoredBlob] = {}
    for blob in (blob for each in lists for blob in each):
        first.setdefault(place(blob), blob)
    assert list(joined) == list(first.values())
    assert again == sum(map(len, lists)) - len(first)


@pytest.mark.slow
def test_a_name_more_takes_few_bytes() -> None:
    """From the pages of a listing to what reads them; ``python -m bench.listing`` does the same with a million."""
    count = 10_000
    names = [key(ROOT, DAY.start + dt.timedelta(hours=n // 500), f"0022480A{n % 500:04X}") for n in range(count)]
    container = Container(names, odd={names[n]: {"Etag": f"0x8DE{n:012X}"} for n in range(count)})
    place = parse_location("https://contoso.blob.core.windows.net/logs", Access())
    source = Account(place, container, container, "key", "me", (), 30)  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        found = list_blobs(source, Window(DAY.start, DAY.end), now=NOW)
        reader = Reader(found.blobs, threads=2)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reader.close()
    assert [blob.key for blob in found.blobs] == names
    assert found.blobs[-1].etag == f'"0x8DE{count - 1:012X}"'
    assert (after - before) / count < 64
