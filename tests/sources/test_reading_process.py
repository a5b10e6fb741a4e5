"""Small blobs read by a process of its own: the same bytes as from threads, whatever the server does and wherever that process ends."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from flowlens.errors import SourceError
from flowlens.sources import ranges, reading_process
from flowlens.sources.accounts import Access, Account, parse_location
from flowlens.sources.plain_reads import Authorize, PlainReads, by_key, by_signature, plain_reads
from flowlens.sources.ranges import TOGETHER, Reader
from flowlens.sources.reading_process import ReadingProcess, Wanted
from flowlens.sources.stored_blobs import StoredBlob
from tests.faults.azurite import make_certificate
from tests.faults.loopback import Handler, serving
from tests.faults.proxies import GONE, NO_ROLE, Broken, Fault, Refusal, Request, always, fault_proxy, mixed

HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
ETAG = '"0x8D"'
KEY = "c2VjcmV0LWNhbmFyeQ=="


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(ranges, "_LONGEST_WAIT", 0.01)


@contextmanager
def account_of(blobs: Mapping[str, bytes], asked: list[str], tls: tuple[Path, Path] | None = None) -> Iterator[int]:
    """A server that answers ranges of ``blobs`` under their ETag; ``asked`` gets the name of each."""

    class Blobs(Handler):
        def respond(self) -> None:
            name = self.path.partition("?")[0].rpartition("/")[2]
            asked.append(name)
            first, last = self.headers["x-ms-range"].removeprefix("bytes=").split("-")
            if self.headers["If-Match"] != ETAG:
                self.answer(412, b"", x_ms_error_code="ConditionNotMet")
                return
            piece = blobs[name][int(first) : int(last) + 1]
            content_range = f"bytes {first}-{int(first) + len(piece) - 1}/{len(blobs[name])}"
            self.answer(206, piece, ETag=ETAG, Content_Range=content_range)

    with serving(Blobs, tls) as port:
        yield port


def reads(
    port: int, *, authorize: Authorize | None = None, scheme: str = "http", verify: str | bool = True, read: float = 5
) -> PlainReads:
    return plain_reads(
        requests.Session(),
        f"{scheme}://127.0.0.1:{port}/account/logs",
        authorize or by_key("account", KEY),
        version="2025-11-05",
        verify=verify,
        proxies={},
        timeouts=(5, read),
    )


def listed(source: PlainReads, blobs: Mapping[str, bytes], etag: str = ETAG) -> list[StoredBlob]:
    place = parse_location("https://contoso.blob.core.windows.net/logs", Access())
    client: Any = SimpleNamespace()
    account = Account(place, client, source, "key", "me", (), 5)
    return [
        StoredBlob(account, name, len(body), etag, "LOG", HOUR, "MAC", is_open=False) for name, body in blobs.items()
    ]


def small(count: int) -> dict[str, bytes]:
    return {f"b{n:04}": f"{n} ".encode() * (1 + n % 700) for n in range(count)}


def wanted(blobs: Mapping[str, bytes]) -> list[Wanted]:
    return [Wanted(name, len(body), ETAG) for name, body in blobs.items()]


def contents(reader: Reader, count: int) -> list[bytes]:
    try:
        return [b"".join(reader.chunks(index)) for index in range(count)]
    finally:
        reader.close()


def processes() -> list[int]:
    """The processes that read for this one."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        # A thread, or a child, may end while it is looked at.
        with suppress(FileNotFoundError, ProcessLookupError):
            children = (task / "children").read_text().split()
            found += [
                int(child) for child in children if b"reading_process" in Path(f"/proc/{child}/cmdline").read_bytes()
            ]
    return found


def test_small_blobs_come_as_they_are_each_by_one_request_of_another_process() -> None:
    blobs = small(300) | {"c-large": os.urandom(2 * ranges._SMALL), "d-empty": b"", "e-small": b"x"}
    asked: list[str] = []
    with account_of(blobs, asked) as port:
        reader = Reader(listed(reads(port), blobs), threads=2, apart_from=300)
        assert not processes()
        assert next(reader.chunks(0))
        assert len(processes()) == 1
        assert contents(reader, len(blobs)) == list(blobs.values())
    # The first one was asked for again.
    assert sorted(asked) == sorted(["b0000", *(name for name, body in blobs.items() if body)])
    assert not processes()


def test_few_blobs_take_no_process_and_neither_do_those_who_do_not_ask_for_one() -> None:
    blobs = small(20)
    with account_of(blobs, []) as port:
        for apart_from in (None, 21):
            reader = Reader(listed(reads(port), blobs), threads=2, apart_from=apart_from)
            assert next(reader.chunks(0)) and not processes()
            assert contents(reader, len(blobs)) == list(blobs.values())


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_change_nothing_and_a_server_that_refuses_often_is_left_to_threads(seed: int) -> None:
    blobs = small(600)
    # A changed version would be read as a whole by its blocks, which this server does not list.
    plan = mixed(seed, 0.1, [Broken("cut", 40), Broken("reset", -30), Broken("short", -1), Broken("cut", -7)])
    with account_of(blobs, []) as port, fault_proxy(f"127.0.0.1:{port}", plan) as proxy:
        source = reads(int(proxy.host.rpartition(":")[2]))
        reader = Reader(listed(source, blobs), threads=2, apart_from=1)
        assert contents(reader, len(blobs)) == list(blobs.values())
        assert sum(proxy.struck.values()) > 40
        assert re.fullmatch(r"small blobs that threads read since .* left them: [1-9]\d*", reader.told()[-1])
        assert len(proxy.log) < 1.3 * len(blobs)


def test_a_run_that_stays_unfinished_again_and_again_ends_the_serving() -> None:
    blobs = small(TOGETHER)
    with account_of(blobs, []) as port, fault_proxy(f"127.0.0.1:{port}", always(NO_ROLE)) as proxy:
        process = ReadingProcess(4)
        source = reads(int(proxy.host.rpartition(":")[2]))
        for _ in range(3):
            futures = process.submit(source, wanted(blobs))
            assert futures is not None
            assert [future.result(timeout=20) for future in futures] == [b""] * len(blobs)
        assert process.submit(source, wanted(blobs)) is None
        # The rest of a run is not asked for.
        assert len(proxy.log) == 3
        process.close()


def test_one_refusal_among_many_runs_does_not() -> None:
    blobs = small(TOGETHER)
    with account_of(blobs, []) as port:
        process = ReadingProcess(4)
        source = reads(port)
        for run in range(60):
            rest = wanted(blobs)
            if run % 20 == 19:
                rest[5] = Wanted(rest[5].key, rest[5].size, '"another"')
            futures = process.submit(source, rest)
            assert futures is not None
            found = [future.result(timeout=20) for future in futures]
            assert found == ([*blobs.values()][:5] + [b""] * 11 if run % 20 == 19 else [*blobs.values()])
        process.close()


def test_an_account_that_refuses_is_told_as_ever_and_asked_no_more() -> None:
    blobs = small(400)
    with account_of(blobs, []) as port, fault_proxy(f"127.0.0.1:{port}", always(NO_ROLE)) as proxy:
        reader = Reader(listed(reads(int(proxy.host.rpartition(":")[2])), blobs), threads=2, apart_from=1)
        for index in range(len(blobs)):
            with pytest.raises(SourceError, match="FL-S10"):
                list(reader.chunks(index))
        reader.close()
        assert len(proxy.log) <= 4 * ranges.AHEAD_PARTS


@pytest.mark.parametrize("fault", [Broken("stall", -2), Broken("stall", 3), Broken("drip", 200)])
def test_a_server_that_stalls_or_drips_is_waited_for_as_long_as_told(fault: Broken) -> None:
    blobs = {f"b{n}": bytes(5000) for n in range(4)}
    with account_of(blobs, []) as port, fault_proxy(f"127.0.0.1:{port}", always(fault)) as proxy:
        process = ReadingProcess(1)
        began = time.monotonic()
        futures = process.submit(reads(int(proxy.host.rpartition(":")[2]), read=0.5), wanted(blobs))
        assert futures is not None
        assert [future.result(timeout=20) for future in futures] == [b""] * 4
        assert time.monotonic() - began < 10
        process.close()


@pytest.mark.parametrize("after", [0, 100])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_where_the_process_is_killed_or_stopped_threads_read_the_rest(
    number: signal.Signals, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_process, "SILENT", 3.0)
    blobs = small(400)
    with account_of(blobs, []) as port:
        reader = Reader(listed(reads(port), blobs), threads=2, ahead=100_000, apart_from=1)
        found = [b"".join(reader.chunks(index)) for index in range(after + 1)]
        (process,) = processes()
        os.kill(process, number)
        found += [b"".join(reader.chunks(index)) for index in range(after + 1, len(blobs))]
        reader.close()
    assert found == list(blobs.values())


def test_one_that_serves_no_more_and_is_stopped_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "SILENT", 2.0)
    blobs = small(2)
    refused, stalled = ({name: blobs[name]} for name in blobs)

    def plan(request: Request) -> Fault | None:
        return NO_ROLE if next(iter(refused)) in request.path else Broken("stall", 3)

    with account_of(blobs, []) as port, fault_proxy(f"127.0.0.1:{port}", plan) as proxy:
        process = ReadingProcess(2)
        source = reads(int(proxy.host.rpartition(":")[2]), read=60)
        waiting = process.submit(source, wanted(stalled))
        assert waiting is not None
        for _ in range(3):
            futures = process.submit(source, wanted(refused))
            assert futures is not None and futures[0].result(timeout=20) == b""
        assert process.submit(source, wanted(refused)) is None and not waiting[0].done()
        (pid,) = processes()
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while not waiting[0].done() and time.monotonic() < deadline:
            process.end_if_silent()
            time.sleep(0.2)
        assert waiting[0].result(timeout=0) == b""
        process.close()


def test_a_server_that_is_slow_beyond_the_silence_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process says that it is there while its server says nothing."""
    monkeypatch.setattr(reading_process, "SILENT", 2.0)
    blobs = small(2)
    with (
        account_of(blobs, []) as port,
        fault_proxy(f"127.0.0.1:{port}", always(Broken("stall", -2))) as proxy,
        closing(ReadingProcess(1)) as process,
    ):
        # Its start is no part of the silence, and takes longer than two seconds where others want the cores.
        started = process.submit(reads(port), wanted(blobs))
        assert started is not None and started[0].result(timeout=60) == blobs["b0000"]
        futures = process.submit(reads(int(proxy.host.rpartition(":")[2]), read=4), wanted(blobs))
        assert futures is not None
        began = time.monotonic()
        while not futures[0].done():
            process.end_if_silent()
            time.sleep(0.2)
        assert time.monotonic() - began > 3.5 and process.submit(reads(port), wanted(blobs)) is not None


@pytest.mark.parametrize("program", ["/usr/bin/uwsgi", "", "/nowhere/python3"])
def test_where_no_process_can_be_started_threads_read_all(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", program)
    blobs = small(100)
    with account_of(blobs, []) as port:
        reader = Reader(listed(reads(port), blobs), threads=2, apart_from=1)
        assert contents(reader, len(blobs)) == list(blobs.values())


def test_a_blob_that_is_gone_is_told_for_itself_and_the_rest_of_its_run_is_read() -> None:
    blobs = small(200)
    gone = {f"b{n:04}" for n in range(3, 200, 25)}

    def plan(request: Request) -> Refusal | None:
        return GONE if request.path.partition("?")[0].rpartition("/")[2] in gone else None

    with account_of(blobs, []) as port, fault_proxy(f"127.0.0.1:{port}", plan) as proxy:
        source = reads(int(proxy.host.rpartition(":")[2]))
        reader = Reader(listed(source, blobs), threads=2, apart_from=1)

        def read(index: int) -> bytes:
            try:
                return b"".join(reader.chunks(index))
            except SourceError as error:
                return error.where.encode()

        with ThreadPoolExecutor(2) as decoders:
            found = list(decoders.map(read, range(len(blobs))))
        reader.close()
    assert found == [f"logs/{name}".encode() if name in gone else body for name, body in blobs.items()]


def test_closing_ends_the_process_and_all_waiting() -> None:
    blobs = small(TOGETHER)
    release = threading.Event()

    class Silent(Handler):
        def respond(self) -> None:
            release.wait(20)
            self.close_connection = True

    with serving(Silent) as port:
        process = ReadingProcess(2)
        futures = process.submit(reads(port), wanted(blobs))
        assert futures is not None
        process.close()
        release.set()
        assert [future.result(timeout=5) for future in futures] == [b""] * len(blobs)
        assert process.submit(reads(port), wanted(blobs)) is None
    assert not processes()


def test_only_a_certificate_that_is_trusted_is_talked_to(tmp_path: Path) -> None:
    blobs = small(TOGETHER)
    server = make_certificate(tmp_path, "server")
    other, _ = make_certificate(tmp_path, "other")
    asked: list[str] = []
    with account_of(blobs, asked, server) as port:
        for trusted, found in ((server[0], list(blobs.values())), (other, [b""] * TOGETHER)):
            process = ReadingProcess(2)
            futures = process.submit(reads(port, scheme="https", verify=str(trusted)), wanted(blobs))
            assert futures is not None
            assert [future.result(timeout=20) for future in futures] == found
            process.close()
    assert len(asked) == TOGETHER


def test_the_key_stays_here_and_only_a_pipe_carries_signed_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_KEY", "AZURE_CLIENT_SECRET", "FLOWLENS_LAKE_KEY"):
        monkeypatch.setenv(name, "canary")
    blobs = small(TOGETHER)
    with account_of(blobs, []) as port:
        process = ReadingProcess(2)
        futures = process.submit(reads(port, authorize=by_signature("sig=canary")), wanted(blobs))
        assert futures is not None
        assert [future.result(timeout=20) for future in futures] == list(blobs.values())
        (number,) = processes()
        told = Path(f"/proc/{number}/cmdline").read_bytes() + Path(f"/proc/{number}/environ").read_bytes()
        assert b"canary" not in told and KEY.encode() not in told
        process.close()


def test_a_credential_that_fails_leaves_all_to_who_tells_it() -> None:
    def failing(_path: str, _parameters: object, _headers: object) -> str:
        raise ValueError("no token")

    process = ReadingProcess(2)
    futures = process.submit(reads(9, authorize=failing), wanted(small(3)))
    assert futures is not None
    assert [future.result(timeout=5) for future in futures] == [b""] * 3
    process.close()


def test_blobs_of_two_accounts_come_each_from_its_own() -> None:
    first, second = small(40), {name: body + b"2" for name, body in small(40).items()}
    with account_of(first, []) as one, account_of(second, []) as other:
        stored = [*listed(reads(one), first), *listed(reads(other), second)]
        assert contents(Reader(stored, threads=2, apart_from=1), 80) == [*first.values(), *second.values()]
