"""Reading: the bytes of one version whatever happens on the way, a bounded read-ahead, and an end to all waiting."""

from __future__ import annotations

import datetime as dt
import gzip
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import FormatError, SourceError
from flowlens.sources import ranges
from flowlens.sources.accounts import Access, Account, parse_location
from flowlens.sources.plain_reads import Opened
from flowlens.sources.ranges import Reader, StoppedError
from flowlens.sources.stored_blobs import StoredBlob
from flowlens.sources.workers import Gate

MIB = 1 << 20
HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)


@dataclass
class Server:
    """Blobs by name, answering as an account's client and its reads do; ``meet`` is called before each request and may raise.

    A blob is a list of blocks; its ETag is a hash of them. ``served`` counts bytes of bodies, ``calls`` the requests.
    """

    blobs: dict[str, list[bytes]]
    meet: Callable[[str, int], bytes | None] = lambda _name, _number: None
    calls: list[tuple[str, int]] = field(default_factory=list)
    served: int = 0
    inside: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def etag(self, name: str) -> str:
        return f'"{hash(tuple(self.blobs[name])):x}"'

    @contextmanager
    def range(self, name: str, start: int, length: int, etag: str) -> Iterator[Opened]:
        with self.lock:
            number = len(self.calls)
            self.calls.append((name, start))
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            body = self.meet(name, number)
            if self.etag(name) != etag:
                raise failure(412, "ConditionNotMet")
            data = b"".join(self.blobs[name])
            piece = data[start : start + length] if body is None else body
            with self.lock:
                self.served += len(piece)
            headers = {"ETag": etag, "Content-Range": f"bytes {start}-{start + len(piece) - 1}/{len(data)}"}
        finally:
            with self.lock:
                self.inside -= 1
        yield Opened(headers, filter(None, iter([piece[: len(piece) // 2], piece[len(piece) // 2 :]])))

    @contextmanager
    def blocks(self, name: str) -> Iterator[Opened]:
        self.calls.append((name, -1))
        self.meet(name, len(self.calls) - 1)
        headers = {"ETag": self.etag(name), "x-ms-blob-content-length": str(sum(map(len, self.blobs[name])))}
        each = "".join(
            f"<Block><Name>{hash(block)}</Name><Size>{len(block)}</Size></Block>" for block in self.blobs[name]
        )
        body = f"<BlockList><CommittedBlocks>{each}</CommittedBlocks></BlockList>".encode()
        yield Opened(headers, iter([body]))


def failure(status: int, code: str = "", **headers: str) -> HttpResponseError:
    given = {"x-ms-error-code": code, **headers}
    response = SimpleNamespace(status_code=status, headers=given, reason="", content_type=None)
    return HttpResponseError(message=code, response=response)  # type: ignore[arg-type]


def listed(server: Server, *, timeout: float = 5, is_open: bool = False) -> list[StoredBlob]:
    place = parse_location("https://contoso.blob.core.windows.net/logs", Access())
    account = Account(place, server, server, "key", "me", (), timeout)  # type: ignore[arg-type]
    return [
        StoredBlob(account, name, sum(map(len, blocks)), server.etag(name), "LOG", HOUR, "MAC", is_open)
        for name, blocks in sorted(server.blobs.items())
    ]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(ranges, "_LONGEST_WAIT", 0.01)


def contents(reader: Reader, count: int) -> list[bytes]:
    try:
        return [b"".join(reader.chunks(index)) for index in range(count)]
    finally:
        reader.close()


def random_blobs(seed: int, count: int, most: int) -> dict[str, list[bytes]]:
    rng = random.Random(seed)
    return {f"b{n:04}": [rng.randbytes(rng.randrange(most + 1))] for n in range(count)}


# ---- the bytes


@given(size=st.integers(0, 3000), step=st.integers(65, 700))
def test_ranges_cover_a_blob_once_and_keep_its_end_together(size: int, step: int) -> None:
    reader = Reader(listed(Server({"b": [bytes(size)]})), threads=1)
    reader._range = step
    parts = reader._parts(0)
    assert [start for start, _ in parts] == [sum(length for _, length in parts[:n]) for n in range(len(parts))]
    assert sum(length for _, length in parts) == size
    assert all(length > 1 for _, length in parts[1:]) and all(length <= step + 64 for _, length in parts)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("is_open", [False, True])
def test_blobs_of_all_sizes_come_as_they_are_with_the_fewest_requests(threads: int, is_open: bool) -> None:
    server = Server(random_blobs(1, 40, 3 * MIB // 2) | {"b9998": [], "b9999": [b"x" * (5 * MIB), b"]}"]})
    reader = Reader(listed(server, is_open=is_open), threads=threads)
    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(lambda index: b"".join(reader.chunks(index)), range(len(server.blobs))))
    reader.close()
    assert got == [b"".join(blocks) for _, blocks in sorted(server.blobs.items())]
    needed = sum(len(reader._parts(index)) for index in range(len(got)))
    assert len(server.calls) == needed if not is_open else len({*server.calls}) == len(server.calls)
    assert server.served == sum(map(len, got))


def test_gzip_is_taken_apart_and_damage_is_told() -> None:
    plain = random.Random(2).randbytes(3 * MIB)
    packed = gzip.compress(plain, 1)
    server = Server({"a": [packed], "b": [packed[:-9]], "c": [b"\x1f"]})
    reader = Reader(listed(server), threads=1)
    assert b"".join(reader.chunks(0)) == plain
    with pytest.raises(FormatError):
        list(reader.chunks(1))
    assert list(reader.chunks(2)) == [b"\x1f"]
    reader.close()


@pytest.mark.parametrize("wrong", [b"", b"short", b"x" * 2000])
def test_a_body_of_another_length_is_asked_for_again_and_never_taken(wrong: bytes) -> None:
    server = Server({"b": [b"y" * 1000]}, meet=lambda _name, number: wrong if number == 0 else None)
    assert contents(Reader(listed(server), threads=1), 1) == [b"y" * 1000]
    always = Server({"b": [b"y" * 1000]}, meet=lambda _name, _number: wrong)
    with pytest.raises(SourceError, match="FL-S22"):
        contents(Reader(listed(always), threads=1), 1)


@pytest.mark.parametrize("seed", range(3))
def test_faults_that_pass_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    met, lock = 0, threading.Lock()
    faults = [failure(503), failure(500), failure(429, **{"Retry-After": "0"}), ServiceResponseError("cut"), b"short"]

    def meet(_name: str, _number: int) -> bytes | None:
        nonlocal met
        if rng.random() < 0.2:
            with lock:
                met += 1
            fault = rng.choice(faults)
            if isinstance(fault, Exception):
                raise fault
            return fault
        return None

    server = Server(random_blobs(seed, 60, 2 * MIB), meet=meet)
    wanted = [b"".join(blocks) for _, blocks in sorted(server.blobs.items())]
    reader = Reader(listed(server), threads=2)
    assert contents(reader, 60) == wanted
    again = reader.again.counts()
    assert sum(again.values()) == met > 5 and again.keys() <= {"429", "500", "503", "no whole answer"}
    (note,) = reader.told()
    assert note.startswith(f"requests for blobs that were tried again: {met} (")


# ---- versions


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("at", range(6))
def test_a_blob_that_grows_at_any_request_is_of_one_version(at: int, is_open: bool) -> None:
    rng = random.Random(at)
    body = [rng.randbytes(700_000) for _ in range(6)]
    versions = [[b"[", *body[:4], b"]}"], [b"[", *body, b"]}"]]
    server = Server({"b": versions[0]})
    blobs = listed(server, is_open=is_open)

    def meet(_name: str, number: int) -> None:
        if number == at:
            server.blobs["b"] = versions[1]

    server.meet = meet
    reader = Reader(blobs, threads=1)
    reader._range = MIB
    assert contents(reader, 1)[0] in [b"".join(version) for version in versions]


def test_another_content_behind_what_was_given_is_an_error_and_not_a_mixture() -> None:
    first, second = [b"1" * (3 * MIB)], [b"2" * (3 * MIB)]
    server = Server({"b": first})

    def meet(_name: str, _number: int) -> None:
        if any(offset >= 2 * MIB for _, offset in server.calls):
            server.blobs["b"] = second

    server.meet = meet
    reader = Reader(listed(server), threads=1)
    reader._range = MIB
    got: list[bytes] = []
    with pytest.raises(SourceError, match="FL-S29"):
        got.extend(reader.chunks(0))
    reader.close()
    assert b"".join(got) == b"1" * (2 * MIB)


def test_a_vanished_blob_is_told_and_does_not_end_the_account() -> None:
    def meet(name: str, _number: int) -> None:
        if name == "b0001":
            raise failure(404, "BlobNotFound")

    server = Server(random_blobs(4, 5, 1000), meet=meet)
    reader = Reader(listed(server), threads=1)
    for index in range(5):
        if index == 1:
            with pytest.raises(SourceError, match="FL-S26 deleted before it was read"):
                list(reader.chunks(index))
        else:
            assert b"".join(reader.chunks(index)) == server.blobs[f"b{index:04}"][0]
    assert not reader.broken()
    reader.close()


# ---- ahead of the decoder


def test_what_lies_ready_is_bounded() -> None:
    server = Server({f"b{n:02}": [bytes(3 * MIB)] for n in range(30)})
    reader = Reader(listed(server), threads=1)
    reader._ahead, reader._range = 4 * MIB, MIB
    taken = 0
    settled = threading.Event()
    for index in range(30):
        for chunk in reader.chunks(index):
            taken += len(chunk)
            settled.wait(0.001)
            # What lies ready, and the rest of the range in hand.
            assert server.served - taken <= 4 * MIB + MIB
    reader.close()
    assert taken == server.served == 30 * 3 * MIB


def test_the_next_blobs_are_read_while_one_is_decoded() -> None:
    others = threading.Event()

    def meet(name: str, _number: int) -> None:
        if name == "b0003":
            others.set()

    reader = Reader(listed(Server(random_blobs(5, 8, 1000), meet=meet)), threads=1)
    assert next(reader.chunks(0))
    assert others.wait(5), "nothing was read ahead"
    reader.close()


def test_a_blob_that_is_left_in_the_middle_leaves_nothing_behind() -> None:
    server = Server({"b": [bytes(6 * MIB)]})
    reader = Reader(listed(server), threads=1)
    reader._range = MIB
    chunks = reader.chunks(0)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert not reader._tasks
    reader.close()


# ---- an end to all waiting


def test_closing_ends_whoever_waits_and_all_threads_that_can_end() -> None:
    held, asked = threading.Event(), threading.Event()

    def meet(_name: str, _number: int) -> None:
        asked.set()
        held.wait(30)

    reader = Reader(listed(Server({"b": [b"x" * 100]}, meet=meet)), threads=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(reader.chunks(0)))
        assert asked.wait(5)
        began = time.monotonic()
        reader.close()
        with pytest.raises(StoppedError):
            waiting.result(10)
        assert time.monotonic() - began < 5
    held.set()
    with pytest.raises(StoppedError):
        list(reader.chunks(0))


def test_a_body_that_drips_ends_within_the_time() -> None:
    server = Server({"b": [b"x" * 100_000]})

    @contextmanager
    def dripping(*_asked: object) -> Iterator[Opened]:
        def drops() -> Iterator[bytes]:
            while True:
                threading.Event().wait(0.01)
                yield b"x"

        yield Opened({}, drops())

    server.range = dripping  # type: ignore[method-assign]
    reader = Reader(listed(server, timeout=0.1), threads=1)
    began = time.monotonic()
    with pytest.raises(SourceError, match="FL-S22"):
        list(reader.chunks(0))
    reader.close()
    assert time.monotonic() - began < 3


def test_a_body_that_goes_on_for_ever_is_left_at_once() -> None:
    server = Server({"b": [b"x" * 100_000]})
    given = 0

    @contextmanager
    def endless(*_asked: object) -> Iterator[Opened]:
        def pieces() -> Iterator[bytes]:
            nonlocal given
            while True:
                given += 1
                yield b"x" * 60_000

        yield Opened({}, pieces())

    server.range = endless  # type: ignore[method-assign]
    reader = Reader(listed(server), threads=1)
    with pytest.raises(SourceError, match="FL-S22"):
        list(reader.chunks(0))
    reader.close()
    assert given == 2 * ranges._TRIES


def test_an_account_that_refuses_is_asked_no_more() -> None:
    def meet(_name: str, _number: int) -> None:
        raise failure(403, "AuthorizationPermissionMismatch")

    server = Server({f"b{n:04}": [b"x" * 100] for n in range(100)}, meet=meet)
    reader = Reader(listed(server), threads=1)
    for index in range(100):
        with pytest.raises(SourceError, match="FL-S10"):
            list(reader.chunks(index))
    assert len(reader.broken()) == 1
    reader.close()
    # Those that were under way at the same time.
    assert len(server.calls) <= 2 * ranges.AHEAD_PARTS


def test_small_blobs_in_a_row_fail_and_change_each_for_itself() -> None:
    def meet(name: str, number: int) -> None:
        if name == "b0005":
            raise failure(404, "BlobNotFound")
        if name == "b0007" and server.blobs[name] == [b"old"]:
            server.blobs[name] = [b"newer"]

    names = [f"b{n:04}" for n in range(3 * ranges.TOGETHER)]
    server = Server({name: [b"old"] if name == "b0007" else [name.encode() * 9] for name in names}, meet=meet)
    server.blobs["b0020"] = [b"x" * (2 * ranges._SMALL)]
    reader = Reader(listed(server), threads=1)
    read = {}
    for index, name in enumerate(names):
        if name == "b0005":
            with pytest.raises(SourceError, match="FL-S26"):
                list(reader.chunks(index))
        else:
            read[name] = b"".join(reader.chunks(index))
    reader.close()
    assert read == {name: b"".join(blocks) for name, blocks in server.blobs.items() if name != "b0005"}
    assert read["b0007"] == b"newer"


def test_an_account_that_goes_on_failing_is_given_up_and_one_fault_is_not_enough() -> None:
    def meet(name: str, _number: int) -> None:
        if name != "b0000":
            raise failure(503)

    server = Server({f"b{n:04}": [b"x" * 100] for n in range(60)}, meet=meet)
    reader = Reader(listed(server), threads=1)
    reader._read_ahead = lambda *_: None  # type: ignore[method-assign]
    list(reader.chunks(0))
    for index in range(1, 60):
        with pytest.raises(SourceError, match="FL-S23"):
            list(reader.chunks(index))
    reader.close()
    assert len(server.calls) == 1 + ranges._FAILURES_LIMIT * ranges._TRIES


def test_a_throttling_account_is_asked_less_at_once() -> None:
    gate = Gate(16)
    stopped = threading.Event()
    for _ in range(3):
        gate.enter(stopped)
        gate.leave(throttled=True)
    assert gate._limit == 2
    for _ in range(200):
        gate.enter(stopped)
        gate.leave(throttled=False)
    assert gate._limit > 4
