"""Servers and networks that fail: over what passes the run gets, and what stays ends it in time with a clear error."""

from __future__ import annotations

import io
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import flowlens as fl
from flowlens.cli import ERROR, INCOMPLETE
from flowlens.sources.accounts import Access
from tests.faults.conftest import LONG, Stored, options
from tests.faults.day import upload
from tests.faults.loopback import Handler, serving
from tests.faults.proxies import (
    ARCHIVED,
    FIREWALL,
    GONE,
    INTERNAL,
    NO_ROLE,
    SERVER_BUSY,
    TIMED_OUT,
    TOO_MANY,
    Broken,
    Fault,
    Refusal,
    Request,
    always,
    fault_proxy,
    first_only,
)
from tests.faults.writer import DAY, GrowingBlob
from tests.flow_logs import Ran, run
from tests.make_logs import MACS, flow, write_blob

TIMEOUT = 0.3
# Shorter where nothing but silence is expected, since each of these runs waits it out several times.
SILENCE = 0.15
# A request with all its tries ends within six times the time-out; the rest is for what several are made of, and for a busy
# machine.
DEADLINE = 12 * SILENCE + 5
PLACES = {
    "listing": lambda request: request.is_list,
    "range": lambda request: request.is_read,
}

pytestmark = pytest.mark.usefixtures("impatient")


def analyze(url: str, timeout: float = TIMEOUT) -> Ran:
    return run(
        "rules",
        url,
        *options(url, timeout),
        "--start",
        "2026-06-15T09:00Z",
        "--end",
        "2026-06-15T10:00Z",
        "--format",
        "json",
    )


@pytest.fixture
def small(stored: Stored, tmp_path: Path) -> Stored:
    """A container with one small blob."""
    write_blob(tmp_path, MACS[1], [flow("10.1.0.4", "198.51.100.7", 443)])
    upload(next(tmp_path.iterdir()), stored.client)
    return stored


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "fault", [Broken("stall", 0), Broken("stall", 30), Broken("stall", -3), Broken("long")], ids=str
)
def test_a_server_that_falls_silent_ends_in_an_error_within_the_deadline(
    small: Stored, fault: Fault, place: str
) -> None:
    with fault_proxy(small.server.host, always(fault, PLACES[place])) as proxy:
        began = time.monotonic()
        ran = analyze(small.through(proxy.host), SILENCE)
        assert time.monotonic() - began < DEADLINE
    assert ran.code in (ERROR, INCOMPLETE)
    said = ran.err if ran.code == ERROR else ran.out
    assert "FL-S22" in said, ran.err + ran.out


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (SERVER_BUSY, "FL-S23"),
        (TOO_MANY, "FL-S23"),
        (TIMED_OUT, "FL-S24"),
        (INTERNAL, "FL-S24"),
        (Broken("cut", 40), "FL-S22"),
        (Broken("cut", -3), "FL-S22"),
        (Broken("reset", -3), "FL-S22"),
        (Broken("short", -3), "FL-S22"),
    ],
    ids=str,
)
def test_a_fault_that_stays_is_told_and_one_that_passes_is_not(small: Stored, fault: Fault, code: str) -> None:
    with fault_proxy(small.server.host, always(fault, PLACES["range"])) as proxy:
        ran = analyze(small.through(proxy.host))
        assert ran.code in (ERROR, INCOMPLETE) and code in ran.out + ran.err
        assert len(proxy.log) < 20
        proxy.clear()
        proxy.plan = first_only(fault)
        ran = analyze(small.through(proxy.host), timeout=5)
        assert ran.code == 0 and proxy.struck.total() == 1, ran.err
        (note,) = ran.document["ledger"]["notes"]
        assert note.startswith("requests for blobs that were tried again: 1 (")


def test_a_body_that_comes_a_byte_at_a_time_ends_within_the_deadline(small: Stored) -> None:
    """No single wait for it is ever too long."""
    with fault_proxy(small.server.host, always(Broken("drip", 600), PLACES["range"])) as proxy:
        began = time.monotonic()
        ran = analyze(small.through(proxy.host), SILENCE)
        assert time.monotonic() - began < DEADLINE
    assert ran.code == INCOMPLETE and "FL-S22" in ran.out, ran.err


@pytest.mark.parametrize("of_folders", [True, False])
def test_a_page_of_names_that_comes_a_byte_at_a_time_ends_within_the_deadline(small: Stored, of_folders: bool) -> None:
    def asked(request: Request) -> bool:
        return request.is_list and ("delimiter" in request.query) == of_folders

    with fault_proxy(small.server.host, always(Broken("drip", 600), asked)) as proxy:
        began = time.monotonic()
        ran = analyze(small.through(proxy.host), SILENCE)
        assert time.monotonic() - began < DEADLINE
        assert proxy.struck["drip"]
    assert ran.code == ERROR and "FL-S22" in ran.err and not ran.stdout


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("refusal", "code"), [(NO_ROLE, "FL-S10"), (FIREWALL, "FL-S11"), (ARCHIVED, "FL-S27")], ids=str
)
def test_an_error_code_is_read_from_the_body_where_a_proxy_drops_its_header(
    small: Stored, refusal: Refusal, code: str, place: str
) -> None:
    with fault_proxy(small.server.host, always(replace(refusal, is_bare=True), PLACES[place])) as proxy:
        ran = analyze(small.through(proxy.host))
    assert ran.code in (ERROR, INCOMPLETE) and code in ran.out + ran.err, ran.out + ran.err


@pytest.mark.parametrize(
    "fault", [SERVER_BUSY, TOO_MANY, INTERNAL, Broken("cut", 40), Broken("cut", -9), Broken("reset")], ids=str
)
def test_a_page_of_names_that_fails_once_is_asked_for_again(small: Stored, fault: Fault) -> None:
    """A listing that failed must never look like fewer blobs."""
    with fault_proxy(small.server.host, first_only(fault, PLACES["listing"])) as proxy:
        ran = analyze(small.through(proxy.host), timeout=5)
        assert ran.code == 0 and ran.document["ledger"]["blobs"] == 1, ran.err
        assert proxy.struck.total() >= 2
        (note,) = ran.document["ledger"]["notes"]
        assert note.startswith(f"requests for names that were tried again: {proxy.struck.total()} (")


@pytest.mark.parametrize("fault", [SERVER_BUSY, Broken("cut", 40)], ids=str)
def test_a_page_of_names_that_never_comes_is_an_error_and_no_answer(small: Stored, fault: Fault) -> None:
    with fault_proxy(small.server.host, always(fault, PLACES["listing"])) as proxy:
        ran = analyze(small.through(proxy.host))
    assert ran.code == ERROR and not ran.stdout
    assert "FL-S" in ran.err


def test_every_request_asks_for_the_version_that_every_account_knows(small: Stored) -> None:
    GrowingBlob(small.client, mac=MACS[2], hour=DAY.replace(hour=9)).create(2)
    with fault_proxy(small.server.host) as proxy:
        assert analyze(small.through(proxy.host), timeout=5).code == 0
        ran = run("doctor", small.through(proxy.host), *options(small.through(proxy.host)))
        assert ran.code in (0, INCOMPLETE), ran.err
        # By the client library: folders and properties; by plain reads: names and bytes.
        asked = {(request.method, request.is_list, "delimiter" in request.query) for request in proxy.log}
        assert {("GET", True, True), ("GET", True, False), ("GET", False, False)} <= asked
        assert {request.headers["x-ms-version"] for request in proxy.log} == {"2021-12-02"}


def rows(url: str) -> bytes:
    """All flow tuples as Parquet; every blob was read to its end."""
    access = Access(auth="key", account_url=url.rpartition("/")[0], timeout=5)
    file = io.BytesIO()
    nine = DAY.replace(hour=9)
    ledger = fl.scan(url, start=nine, end=nine.replace(hour=10), access=access, threads=1).write_flows(file)
    assert ledger.complete and ledger.balanced, ledger
    return file.getvalue()


def test_every_cut_of_a_response_is_seen(small: Stored) -> None:
    wanted = rows(small.url)
    with fault_proxy(small.server.host) as proxy:
        for place in range(0, 1700, 1 if LONG else 241):
            for kind in ("cut", "reset"):
                proxy.clear()
                proxy.plan = first_only(Broken(kind, place))
                assert rows(small.through(proxy.host)) == wanted, f"{kind} after byte {place}"


@pytest.mark.parametrize("kind", ["text/html", "application/xml"])
@pytest.mark.parametrize(
    "page", [b"<html><body>Sign in</body></html>", b"<EnumerationResults />", b"Sign in", b"", b'{"signIn": true}']
)
def test_another_page_in_the_place_of_a_list_is_told(page: bytes, kind: str) -> None:
    class Portal(Handler):
        def respond(self) -> None:
            self.answer(200, page, kind)

    with serving(Portal) as port:
        ran = analyze(f"http://127.0.0.1:{port}/contoso/logs")
    assert ran.code == ERROR
    assert "Traceback" not in ran.err and "FL-S31" in ran.err, ran.err


def test_every_short_body_is_seen(small: Stored) -> None:
    """A body that ends early under headers that agree with it, as a middlebox may make it."""
    wanted = rows(small.url)
    with fault_proxy(small.server.host) as proxy:
        for place in range(0, 900, 1 if LONG else 181):
            proxy.clear()
            proxy.plan = first_only(Broken("short", place))
            assert rows(small.through(proxy.host)) == wanted, f"short after byte {place}"


def test_a_blob_that_is_gone_is_told_and_the_others_are_read(stored: Stored) -> None:
    for mac in MACS[1:4]:
        GrowingBlob(stored.client, mac=mac, hour=DAY.replace(hour=9)).create(2)
    gone = MACS[2]
    with fault_proxy(stored.server.host, always(GONE, lambda r: r.is_read and gone in r.path)) as proxy:
        ran = analyze(stored.through(proxy.host))
        assert Counter(gone in request.path for request in proxy.of(PLACES["range"])) == {False: 2, True: 1}
    ledger = ran.document["ledger"]
    assert (ran.code, ledger["blobs"], ledger["unread"], ledger["tuples"]) == (INCOMPLETE, 3, 1, 12)
    assert "FL-S26" in ledger["rejects"][0]["reason"] and gone in ledger["rejects"][0]["blob"]


def test_a_throttled_account_is_asked_less_and_answers(stored: Stored) -> None:
    for mac in MACS[1:]:
        GrowingBlob(stored.client, mac=mac, hour=DAY.replace(hour=9)).create(1)

    def busy(request: Request) -> Fault | None:
        return SERVER_BUSY if request.is_read and request.attempt < 3 else None

    with fault_proxy(stored.server.host, busy) as proxy:
        ran = analyze(stored.through(proxy.host), timeout=5)
        assert len(proxy.of(PLACES["range"])) == 4 * len(MACS[1:])
    assert ran.code == 0 and ran.document["ledger"]["blobs"] == len(MACS[1:])
