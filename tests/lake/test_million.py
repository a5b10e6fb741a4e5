"""An account of a million blobs: a day of one flow log costs the prefixes of that day, and no memory of the rest."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, urlsplit

import pytest

from flowlens.evidence import Window
from flowlens.sources.accounts import Access, connect, parse_location
from flowlens.sources.storage import Listing, list_blobs
from tests.faults.loopback import Handler, serving

LONG = bool(os.environ.get("LAKE_LONG"))
ROOT = "flowLogResourceID=/S_NW/NW_LOG/"
FIRST = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
DAY = dt.datetime(2026, 5, 20, tzinfo=dt.UTC)
DAYS = 42
NICS = 1000 if LONG else 40
PAGE = 5000
_TIME = "Mon, 01 Jun 2026 00:00:00 GMT"


def hours(days: int) -> list[str]:
    return [f"{ROOT}{FIRST + dt.timedelta(hours=n):y=%Y/m=%m/d=%d/h=%H/m=00/}" for n in range(24 * days)]


def names(folders: list[str], prefix: str) -> Iterator[str]:
    """The names below a prefix, in order, of all those that the container is said to hold."""
    for folder in folders:
        if folder.startswith(prefix) or prefix.startswith(folder):
            for nic in range(NICS):
                name = f"{folder}macAddress={nic:012X}/PT1H.json"
                if name.startswith(prefix):
                    yield name


def lists(days: int, asked: list[str]) -> type[Handler]:
    """What lists as many days of a flow log without having any of it; ``asked`` gets the prefixes."""
    folders = hours(days)

    class Lists(Handler):
        def respond(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            prefix = query.get("prefix", "")
            asked.append(prefix)
            skip = int(query.get("marker", "0"))
            if query.get("delimiter"):
                below = ROOT if len(prefix) < len(ROOT) else f"{ROOT}y=2026/"
                found = below[: below.find("/", len(prefix)) + 1] if below.startswith(prefix) else ""
                body = f"<BlobPrefix><Name>{found}</Name></BlobPrefix>" if found else ""
                self.page(body, "")
                return
            page = []
            following = ""
            for number, name in enumerate(names(folders, prefix)):
                if number >= skip + PAGE:
                    following = str(number)
                    break
                if number >= skip:
                    page.append(
                        f"<Blob><Name>{name}</Name><Properties><Creation-Time>{_TIME}</Creation-Time><Etag>0x1</Etag>"
                        f"<Last-Modified>{_TIME}</Last-Modified><Content-Length>20000</Content-Length>"
                        "<BlobType>BlockBlob</BlobType></Properties></Blob>"
                    )
            self.page("".join(page), following)

        def page(self, body: str, following: str) -> None:
            text = f"<EnumerationResults><Blobs>{body}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
            self.answer(200, f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode(), "application/xml")

    return Lists


def serve(days: int, pipe: Connection) -> None:
    """The account in a process of its own, until it is asked for the prefixes."""
    asked: list[str] = []
    with serving(lists(days, asked)) as port:
        pipe.send(port)
        pipe.recv()
        pipe.send(asked)


@contextmanager
def account(days: int, asked: list[str]) -> Iterator[str]:
    """The address of such an account, whose pages are no memory of this process."""
    of_its_own = multiprocessing.get_context("spawn")
    pipe, other = of_its_own.Pipe()
    process = of_its_own.Process(target=serve, args=(days, other), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{pipe.recv()}/contoso/logs"
        pipe.send(None)
        asked += pipe.recv()
    finally:
        process.kill()
        process.join()
        process.close()
        pipe.close()
        other.close()


def listed(days: int, asked: list[str]) -> tuple[Listing, int]:
    """The blobs of one day out of so many, and the memory that listing them took at most."""
    with account(days, asked) as url:
        access = Access(auth="key", account_url=url.rpartition("/")[0])
        there = connect(parse_location(url, access), access)
        tracemalloc.start()
        try:
            found = list_blobs(there, Window(DAY, DAY + dt.timedelta(days=1)), now=DAY + dt.timedelta(days=9))
            return found, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.slow
def test_a_day_costs_its_own_prefixes_and_no_memory_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "a2V5")
    monkeypatch.setenv("NO_PROXY", "*")
    asked: list[str] = []
    few, little = listed(21, [])
    many, much = listed(DAYS, asked)
    # The hour behind the window is read too, since a record flushed just after it holds tuples of before it.
    assert len(few.blobs) == len(many.blobs) == 25 * NICS
    dated = {prefix for prefix in asked if "/d=" in prefix}
    assert len(dated) <= 25 and all("/d=20/" in prefix or "/d=21/h=00/" in prefix for prefix in dated)
    assert len(asked) <= 25 + 25 * NICS // PAGE + 8
    assert much < 1.2 * little
