"""Listing: which prefixes a window needs, against every hour one by one, and what a container holds beside flow logs."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import SourceError
from flowlens.evidence import Window
from flowlens.sources import storage
from flowlens.sources.accounts import Access, Account, parse_location
from flowlens.sources.plain_reads import Opened
from flowlens.sources.storage import Listing, default_window, list_blobs, window_prefixes

UTC = dt.UTC
HOUR = dt.timedelta(hours=1)
NINE = dt.datetime(2026, 6, 15, 9, tzinfo=UTC)
NOW = dt.datetime(2026, 6, 20, 12, 5, tzinfo=UTC)
SUBSCRIPTION = "A64ACBF7-0000-1111-2222-0123456789AB"
ROOT = f"flowLogResourceID=/{SUBSCRIPTION}_NETWORKWATCHERRG/NETWORKWATCHER_EASTUS_HUB/"
OTHER = "flowLogResourceID=/B64ACBF7-0000-1111-2222-0123456789AB_NW_RG-1/NETWORKWATCHER_EASTUS_SPOKE/"
NSG = f"resourceId=/SUBSCRIPTIONS/{SUBSCRIPTION}/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.NETWORK/NETWORKSECURITYGROUPS/N/"
DAY = Window(dt.datetime(2026, 6, 15, tzinfo=UTC), dt.datetime(2026, 6, 16, tzinfo=UTC))


def path(hour: dt.datetime) -> str:
    return f"{hour:y=%Y/m=%m/d=%d/h=%H/}"


def key(root: str = ROOT, hour: dt.datetime = NINE, mac: str = "0022480A1B2C") -> str:
    return f"{root}{path(hour)}m=00/macAddress={mac}/PT1H.json"


@dataclass
class Container:
    """A container by its names alone, page by page: folders as the client library gives them, blobs as the service's XML.

    ``fails`` is asked before each page and may give what is raised instead.
    """

    names: list[str]
    page_size: int = 5000
    odd: dict[str, dict[str, Any]] = field(default_factory=dict)
    fails: Callable[[int], Exception | None] = lambda _number: None
    date: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def walk_blobs(self, name_starts_with: str | None, delimiter: str, **options: Any) -> SimpleNamespace:
        start = name_starts_with or ""
        folders = {}
        for name in sorted(self.names):
            if name.startswith(start):
                rest = name[len(start) :]
                cut = rest.find(delimiter)
                folders[start + rest[: cut + 1] if cut >= 0 else name] = cut >= 0
        items = [SimpleNamespace(name=name, **({} if folder else {"etag": "0x8D"})) for name, folder in folders.items()]
        return self._pages(start, items, options)

    @contextmanager
    def page(self, prefix: str, marker: str, most: int) -> Iterator[Opened]:
        names = [name for name in sorted(self.names) if name.startswith(prefix)]
        at = int(marker or 0)
        following = at + min(self.page_size, most)
        headers = self._called("list", prefix)
        blobs = "".join(map(self._xml, names[at:following]))
        rest = following if following < len(names) else ""
        text = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{rest}</NextMarker></EnumerationResults>"
        yield Opened(headers, iter([text[:70].encode(), text[70:].encode()]))

    def _xml(self, name: str) -> str:
        odd = self.odd.get(name, {})
        facts = {"Content-Length": 14, "Etag": "0x8D", "BlobType": "BlockBlob", "AccessTier": "Hot"}
        inside = {key: odd[key] for key in ("Snapshot", "Deleted", "IsCurrentVersion") if key in odd}
        facts |= {key: value for key, value in odd.items() if key not in inside}
        written = "".join(f"<{key}>{value}</{key}>" for key, value in facts.items())
        beside = "".join(f"<{key}>{value}</{key}>" for key, value in inside.items())
        named = f"<Name>{escape(name)}</Name>" if name.isprintable() else f'<Name Encoded="true">{quote(name)}</Name>'
        return f"<Blob>{named}{beside}<Properties>{written}</Properties></Blob>"

    def _called(self, kind: str, start: str) -> dict[str, str]:
        self.calls.append((kind, start))
        if error := self.fails(len(self.calls)):
            raise error
        return {"Date": self.date} if self.date else {}

    def _pages(self, start: str, items: list[Any], options: dict[str, Any]) -> SimpleNamespace:
        container = self

        class Pages:
            def __init__(self, token: str | None) -> None:
                self.continuation_token = token

            def __iter__(self) -> Iterator[Any]:
                return self

            def __next__(self) -> Any:
                at = int(self.continuation_token or 0)
                headers = container._called("walk", start)
                options["raw_response_hook"](SimpleNamespace(http_response=SimpleNamespace(headers=headers)))
                following = at + container.page_size
                self.continuation_token = str(following) if following < len(items) else None
                return iter(items[at:following])

        return SimpleNamespace(by_page=Pages)


def listing(container: Container, window: Window = DAY, *, prefix: str = "", **options: Any) -> Listing:
    place = parse_location(f"https://contoso.blob.core.windows.net/logs/{prefix}", Access())
    account = Account(place, container, container, "key", "me", (), 30)  # type: ignore[arg-type]
    return list_blobs(account, window, **{"now": NOW, **options})


def keys(found: Listing) -> list[str]:
    return [blob.key for blob in found.blobs]


# ---- prefixes

_BOUNDS = [dt.datetime.fromisoformat(day) for day in ("2023-12-01", "2026-02-01")]
TIMES = st.datetimes(*_BOUNDS, timezones=st.just(UTC))


@given(start=TIMES, length=st.timedeltas(dt.timedelta(microseconds=1), dt.timedelta(days=500)), data=st.data())
def test_prefixes_hold_each_hour_of_the_window_and_the_next_exactly_once(
    start: dt.datetime, length: dt.timedelta, data: st.DataObject
) -> None:
    window = Window(start, start + length)
    prefixes = window_prefixes(window, range(2022, 2029))
    assert len(set(prefixes)) == len(prefixes)
    near = [st.integers(-30, 30).map(lambda n, at=at: at + n * HOUR) for at in (window.start, window.end)]
    hours = data.draw(st.lists(st.one_of(*near, TIMES), max_size=60))
    for time in hours:
        hour = time.replace(minute=0, second=0, microsecond=0)
        wanted = hour + HOUR > window.start and hour - HOUR < window.end
        assert sum(path(hour).startswith(prefix) for prefix in prefixes) == wanted, hour


@pytest.mark.parametrize(
    ("start", "end", "count"),
    [
        ("2026-01-01T00:00", "2026-12-31T23:00", 1),
        ("2026-02-01T00:00", "2026-02-28T23:00", 1),
        ("2026-06-15T00:00", "2026-06-15T23:00", 1),
        ("2026-06-15T00:00", "2026-06-16T00:00", 2),
        ("2026-06-15T09:15", "2026-06-15T09:16", 2),
        ("2026-06-14T10:45", "2026-06-15T10:45", 14 + 12),
        ("2025-11-30T00:00", "2026-02-02T23:00", 1 + 1 + 1 + 2),
    ],
)
def test_prefixes_are_as_long_as_the_window_allows(start: str, end: str, count: int) -> None:
    first, last = (dt.datetime.fromisoformat(f"{text}Z") for text in (start, end))
    assert len(window_prefixes(Window(first, last), [2024, 2025, 2026, 2027])) == count


def test_open_ends_are_bounded_by_the_years_that_there_are() -> None:
    assert window_prefixes(Window(), [2025, 2026]) == ["y=2025/", "y=2026/"]
    assert window_prefixes(Window(end=dt.datetime(2025, 1, 1, 0, 30, tzinfo=UTC)), [2024, 2025]) == [
        "y=2024/",
        "y=2025/m=01/d=01/h=00/",
        "y=2025/m=01/d=01/h=01/",
    ]
    assert window_prefixes(Window(dt.datetime(2025, 12, 31, 23, 30, tzinfo=UTC), None), [2025]) == [
        "y=2025/m=12/d=31/h=23/"
    ]
    assert window_prefixes(DAY, [2024]) == window_prefixes(DAY, []) == []
    assert window_prefixes(Window(), [1, 9999])[0] == "y=0001/"


@given(TIMES)
def test_the_default_window_is_a_day_that_ended_a_quarter_of_an_hour_ago(now: dt.datetime) -> None:
    start, end = default_window(now)
    assert end - start == dt.timedelta(hours=24)
    assert dt.timedelta(minutes=15) <= now - end < dt.timedelta(minutes=16)


# ---- what is found


def test_flow_logs_of_both_kinds_are_found_and_only_the_window_is_listed() -> None:
    wanted = [key(root, hour) for root in (NSG, OTHER, ROOT) for hour in (NINE, NINE + 16 * HOUR - HOUR)]
    outside = [key(root, hour) for root in (NSG, OTHER, ROOT) for hour in (NINE - 24 * HOUR, NINE + 30 * HOUR)]
    found = listing(Container([*wanted, *outside]))
    assert keys(found) == sorted(wanted)
    assert len(found.flow_logs) == 3 and not found.notes
    blob = next(blob for blob in found.blobs if blob.key == key(ROOT))
    assert (blob.flow_log, blob.hour, blob.mac_address) == (ROOT[19:-1], NINE, "0022480A1B2C")
    assert (blob.name, blob.etag, blob.size) == (f"logs/{key(ROOT)}", '"0x8D"', 14)
    assert not blob.is_open and not blob.refused


def test_foreign_blobs_beside_cost_no_request() -> None:
    own = [key(ROOT, NINE + n * HOUR) for n in range(3)]
    foreign = [f"backup/{n}.bin" for n in range(300)] + [f"{n}.bin" for n in range(300)]
    few, many = Container(own, page_size=10), Container([*own, *foreign], page_size=10)
    assert keys(listing(many)) == keys(listing(few)) == own
    assert len(many.calls) == len(few.calls) < 15
    assert not any(start in ("", ROOT) for kind, start in many.calls if kind == "list")


def test_a_day_of_one_flow_log_among_many_days_is_listed_alone() -> None:
    names = [key(ROOT, NINE + n * 24 * HOUR, f"0022480A{mac:04X}") for n in range(-90, 5) for mac in range(30)]
    container = Container(names, page_size=10)
    found = listing(container)
    assert len(found.blobs) == 30
    assert len(container.calls) <= 3 + 24 == found.requests + 27 - len(container.calls)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "flowLogResourceID=",
        "flowLogResourceID=/",
        ROOT[:40],
        ROOT[:-5],
        ROOT[:-1],
        ROOT,
        f"{ROOT}y=2026",
        f"{ROOT}y=2026/m=06/",
        f"{ROOT}y=2026/m=06/d=15/h=0",
        key(),
    ],
)
def test_a_prefix_may_end_anywhere(prefix: str) -> None:
    names = [key(), key(hour=NINE + 2 * 24 * HOUR)]
    assert keys(listing(Container(names), prefix=prefix)) == [key()]
    assert keys(listing(Container(names), Window(), prefix=prefix)) == [n for n in names if n.startswith(prefix)]


def test_a_prefix_leads_to_copies_in_folders_and_to_other_spellings() -> None:
    copied = f"copy/2026/{key()}"
    lower = key().replace("flowLogResourceID", "flowlogresourceid")
    assert keys(listing(Container([copied]), prefix="copy/2026")) == [copied]
    assert keys(listing(Container([copied]), prefix="copy/2026/")) == [copied]
    assert keys(listing(Container([lower]))) == [lower]
    nothing = listing(Container([copied]))
    assert not nothing.blobs and "no flow log was found" in nothing.notes[0]


def test_flow_logs_of_another_subscription_are_pruned_and_said() -> None:
    container = Container([key(ROOT), key(OTHER), key(NSG)])
    found = listing(container, subscriptions=[SUBSCRIPTION.lower()])
    assert keys(found) == sorted([key(ROOT), key(NSG)])
    assert "1 flow log(s) of other subscriptions" in found.notes[0]
    assert not any(start.startswith(OTHER) for kind, start in container.calls if kind == "list")
    unnamed = key("flowLogResourceID=/CUSTOM/NW/")
    assert keys(listing(Container([unnamed]), subscriptions=[SUBSCRIPTION])) == [unnamed], "not sure, so it is read"


# ---- what is no blob of a flow log


def test_folders_of_a_hierarchical_namespace_are_no_blobs_and_empty_blobs_are() -> None:
    parts = key().split("/")
    folders = ["/".join(parts[:n]) for n in range(1, len(parts))]
    odd = {name: {"Content-Length": 0} for name in [*folders, key()]}
    found = listing(Container([*folders, key()], odd=odd), Window())
    assert keys(found) == [key()] and found.blobs[0].size == 0
    assert not found.notes


def test_other_names_below_a_flow_log_are_counted_and_named() -> None:
    others = [key().replace("PT1H.json", f"x{n}.txt\x1b") for n in range(5)] + [
        key(hour=NINE).replace("d=15", "d=15/d=99")
    ]
    found = listing(Container([key(), *others]))
    assert keys(found) == [key()]
    assert "6 blob(s) were not read" in found.notes[0] and ", ..." in found.notes[0] and "\x1b" not in found.notes[0]


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"AccessTier": "Archive"}, "FL-S27"),
        ({"BlobType": "AppendBlob"}, "FL-S28"),
        ({"BlobType": "PageBlob"}, "FL-S28"),
        ({"AccessTier": ""}, ""),
    ],
)
def test_what_cannot_be_read_is_known_before_it_is_asked_for(facts: dict[str, Any], code: str) -> None:
    assert [blob.refused for blob in listing(Container([key()], odd={key(): facts})).blobs] == [code]


@pytest.mark.parametrize("facts", [{"Snapshot": "2026"}, {"Deleted": "true"}, {"IsCurrentVersion": "false"}])
def test_what_was_not_asked_for_is_an_error(facts: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="FL-S32"):
        listing(Container([key()], odd={key(): facts}))


@pytest.mark.parametrize(
    ("now", "is_open"),
    [
        (NINE, True),
        (NINE + dt.timedelta(minutes=59), True),
        (NINE + dt.timedelta(hours=1, minutes=14), True),
        (NINE + dt.timedelta(hours=1, minutes=15), False),
        (NINE - 24 * HOUR, True),
    ],
)
def test_an_hour_may_grow_until_a_while_after_its_end(now: dt.datetime, is_open: bool) -> None:
    assert [blob.is_open for blob in listing(Container([key()]), now=now).blobs] == [is_open]


# ---- faults


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda _seconds: None)


@pytest.mark.usefixtures("no_waiting")
def test_each_page_is_tried_again_where_it_stood() -> None:
    names = [key(mac=f"0022480A{mac:04X}") for mac in range(95)]
    every_other = itertools.cycle([ServiceResponseError("cut"), None])
    container = Container(names, page_size=10, fails=lambda _number: next(every_other))
    found = listing(container, prefix=key()[:60])
    assert keys(found) == names


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("number", range(1, 8))
def test_a_page_that_goes_on_failing_is_an_error_and_never_fewer_blobs(number: int) -> None:
    names = [key(mac=f"0022480A{mac:04X}") for mac in range(95)]
    container = Container(names, page_size=30, fails=lambda n: ServiceResponseError("cut") if n >= number else None)
    with pytest.raises(SourceError, match="FL-S22"):
        listing(container)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("status", "code", "asked"), [(403, "FL-S35", 1), (404, "FL-S26", 1), (500, "FL-S31", 6), (503, "FL-S23", 6)]
)
def test_what_cannot_pass_is_asked_for_once(status: int, code: str, asked: int) -> None:
    response = SimpleNamespace(status_code=status, headers={}, reason="", content_type=None)
    container = Container([key()], fails=lambda _n: HttpResponseError("no", response=response))  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=code):
        listing(container)
    assert len(container.calls) == asked


class Cached(Container):
    """A container behind a cache that gives the second page of a kind for each one behind it."""

    kind = "list"

    @contextmanager
    def page(self, prefix: str, marker: str, most: int) -> Iterator[Opened]:
        with super().page(prefix, min(marker, str(self.page_size)) if self.kind == "list" else marker, most) as opened:
            yield opened

    def walk_blobs(self, name_starts_with: str | None, delimiter: str, **options: Any) -> SimpleNamespace:
        pages = super().walk_blobs(name_starts_with, delimiter, **options)
        if self.kind == "list":
            return pages
        return SimpleNamespace(by_page=lambda token: pages.by_page(min(token, str(self.page_size)) if token else None))


@pytest.mark.parametrize("kind", ["list", "walk"])
def test_pages_that_come_again_and_again_are_an_error(kind: str) -> None:
    macs = [key(mac=f"0022480A{mac:04X}") for mac in range(9)]
    logs = [key(root=f"flowLogResourceID=/{n}/") for n in range(9)]
    container = Cached(macs + logs, page_size=3)
    container.kind = kind
    with pytest.raises(SourceError, match=r"FL-S31 .*names itself"):
        listing(container)
    assert len(container.calls) < 60


def throttled(seconds: str) -> HttpResponseError:
    response = SimpleNamespace(status_code=503, headers={"Retry-After": seconds}, reason="", content_type=None)
    return HttpResponseError("busy", response=response)  # type: ignore[arg-type]


def test_a_server_that_asks_for_time_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waited.append)
    found = listing(Container([key()], fails=lambda number: throttled("10") if number in (1, 5) else None))
    assert keys(found) == [key()] and waited == [10, 10]


def test_a_server_that_asks_for_more_time_than_there_is_gets_no_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", waited.append)
    container = Container([key()], fails=lambda _number: throttled("181"))
    with pytest.raises(SourceError, match="FL-S23"):
        listing(container)
    assert (len(container.calls), waited) == (1, [])


@pytest.mark.parametrize(
    ("minutes", "told"),
    [(0, ""), (1, ""), (5, "differs by 5 minutes"), (-5, "differs by 5 minutes"), (20, "error"), (-20, "error")],
)
def test_a_wrong_clock_is_told_and_a_very_wrong_one_is_an_error(minutes: int, told: str) -> None:
    server = dt.datetime.now(UTC) + dt.timedelta(minutes=minutes)
    container = Container([key()], date=f"{server:%a, %d %b %Y %H:%M:%S} GMT")
    if told == "error":
        with pytest.raises(SourceError, match="FL-S19 the clock of this machine is wrong by 20 minutes"):
            listing(container)
    else:
        assert told in "".join(listing(container).notes) and (told != "") == bool(listing(container).notes)


def test_folders_without_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_FOLDERS_LIMIT", 50)
    with pytest.raises(SourceError, match="FL-S37"):
        listing(Container([f"flowLogResourceID=/{n}/x" for n in range(100)]))
