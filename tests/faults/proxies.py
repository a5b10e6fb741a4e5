"""Proxies that break what passes through them, on purpose and repeatably.

`fault_proxy` stands before a blob server and knows requests: it answers in the server's place, changes, cuts, resets or holds
a response, and logs what was asked. `connect_proxy` is what HTTPS_PROXY names: it tunnels and logs where to.
"""

from __future__ import annotations

import http.client
import os
import random
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.faults.loopback import Handler, serving

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "proxy-connection", "content-length"}
_TUNNEL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the proxy got it; ``number`` counts from 0 in the order of arrival."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    attempt: int
    """How often the same was asked before."""

    @property
    def query(self) -> dict[str, str]:
        """The parameters behind the question mark."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    @property
    def range(self) -> str:
        """The bytes asked for, empty where the whole is."""
        return self.headers.get("x-ms-range") or self.headers.get("range") or ""

    @property
    def is_list(self) -> bool:
        """Whether names are asked for: of blobs or of containers."""
        return self.query.get("comp") == "list"

    @property
    def is_block_list(self) -> bool:
        """Whether the blocks of a blob are asked for."""
        return self.query.get("comp") == "blocklist"

    @property
    def is_read(self) -> bool:
        """Whether the bytes of a blob are asked for."""
        return self.method == "GET" and "comp" not in self.query and "restype" not in self.query


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server's place is taken: an error answer with a code of the storage service, or a redirect to ``location``."""

    status: int
    code: str = ""
    message: str = ""
    location: str = ""
    retry_after: str = ""
    is_bare: bool = False
    """Whether only the body says the code, as behind a proxy that drops headers."""
    head: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """The server's response, broken. ``kind`` is one of:

    ``cut`` ends the connection after byte ``at`` of the response (head and body together); ``reset`` does so with RST;
    ``stall`` sends nothing behind byte ``at`` and holds the connection, ``drip`` a byte now and then; ``short`` gives the first ``at`` bytes of the body with a
    Content-Length that agrees with them; ``long`` claims more bytes than follow and holds the connection. A negative ``at`` counts
    from the end.
    """

    kind: str
    at: int = 0


Fault = Refusal | Broken
Plan = Callable[[Request], Fault | None]
"""What to do to a request; None lets it pass. It is called before the request goes on, so it may change the blob first."""

SERVER_BUSY = Refusal(503, "ServerBusy", "The server is busy.")
TIMED_OUT = Refusal(500, "OperationTimedOut", "Operation could not be completed within the permitted time.")
INTERNAL = Refusal(500, "InternalError", "The server encountered an internal error. Please retry the request.")
TOO_MANY = Refusal(429, "TooManyRequests", "Too many requests.", retry_after="1")
CHANGED = Refusal(412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.")
NO_ROLE = Refusal(
    403,
    "AuthorizationPermissionMismatch",
    "This request is not authorized to perform this operation using this permission.",
)
FIREWALL = Refusal(403, "AuthorizationFailure", "This request is not authorized to perform this operation.")
ARCHIVED = Refusal(409, "BlobArchived", "This operation is not permitted on an archived blob.")
GONE = Refusal(404, "BlobNotFound", "The specified blob does not exist.")
MIXED: tuple[Fault, ...] = (
    SERVER_BUSY,
    TIMED_OUT,
    INTERNAL,
    CHANGED,
    Broken("cut", 40),
    Broken("cut", -7),
    Broken("reset", 0),
    Broken("reset", -300),
    Broken("short", -5),
)
"""What a read can meet and get over by asking again."""
_OF_BYTES = (CHANGED, Broken("short", -5))


def no_faults(_request: Request) -> None:
    """Everything passes."""


def first_only(fault: Fault, wanted: Callable[[Request], bool] = lambda request: request.is_read) -> Plan:
    """``fault`` for the first time that each wanted thing is asked for."""
    return lambda request: fault if wanted(request) and request.attempt == 0 else None


def always(fault: Fault, wanted: Callable[[Request], bool] = lambda _request: True) -> Plan:
    """``fault`` for everything wanted."""
    return lambda request: fault if wanted(request) else None


def mixed(seed: int, share: float, faults: Iterable[Fault] = MIXED) -> Plan:
    """One of ``faults`` for that share of requests, decided by the seed and by what is asked, in whatever order threads ask.

    What only the bytes of a blob can meet, another version or a part of a range, is kept to these.
    """
    choices = tuple(faults)
    anywhere = tuple(fault for fault in choices if fault not in _OF_BYTES)

    def plan(request: Request) -> Fault | None:
        urge = random.Random(f"{seed} {request.method} {request.path} {request.range} {request.attempt}")
        return urge.choice(choices if request.is_read else anywhere) if urge.random() < share else None

    return plan


@dataclass
class FaultProxy:
    """A running fault proxy; ``plan`` may be changed while it runs. ``log`` holds the requests in order of arrival."""

    host: str
    plan: Plan = no_faults
    log: list[Request] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    """How often each fault was met."""

    def take(self, method: str, path: str, headers: dict[str, str]) -> tuple[Request, Fault | None]:
        """The request with its number, and what becomes of it."""
        with self._lock:
            asked = f"{method} {path} {headers.get('x-ms-range', '')}"
            request = Request(len(self.log), method, path, headers, self._attempts[asked])
            self._attempts[asked] += 1
            self.log.append(request)
            fault = self.plan(request)
            if fault is not None:
                self.struck[fault.code or str(fault.status) if isinstance(fault, Refusal) else fault.kind] += 1
            return request, fault

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _attempts: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Forget what was asked so far."""
        with self._lock:
            self.log.clear()
            self.struck.clear()
            self._attempts.clear()

    def of(self, kind: Callable[[Request], bool]) -> list[Request]:
        """The logged requests of a kind."""
        return [request for request in self.log if kind(request)]


@contextmanager
def fault_proxy(server: str, plan: Plan = no_faults) -> Iterator[FaultProxy]:
    """A proxy before ``server`` (``127.0.0.1:PORT``, plain http). Signatures stay valid, since they leave the host out."""
    over = threading.Event()

    class Passing(Handler):
        upstream: http.client.HTTPConnection | None = None

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            _, fault = proxy.take(self.command, self.path, headers)
            if isinstance(fault, Refusal):
                self._refuse(fault)
                return
            head, content = self._forwarded(body)
            if fault is None:
                self.wfile.write(head + content)
            else:
                self._break(fault, head, content)

        def finish(self) -> None:
            if self.upstream is not None:
                self.upstream.close()
            super().finish()

        def _forwarded(self, body: bytes) -> tuple[bytes, bytes]:
            if self.upstream is None:
                self.upstream = http.client.HTTPConnection(server, timeout=120)
            self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP - {"content-length"}:
                    self.upstream.putheader(name, value)
            self.upstream.endheaders(body)
            response = self.upstream.getresponse()
            content = response.read()
            length = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            lines = [f"HTTP/1.1 {response.status} {response.reason}", f"Content-Length: {length}"]
            lines += [f"{name}: {value}" for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
            if response.will_close:
                self.upstream.close()
            return "\r\n".join([*lines, "", ""]).encode("latin-1"), content

        def _refuse(self, fault: Refusal) -> None:
            text = f"{fault.message}\nRequestId:00000000-0000-0000-0000-000000000000\nTime:2026-06-15T09:00:00.0000000Z"
            xml = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{fault.code}</Code><Message>{text}</Message></Error>'
            headers = {"x-ms-request-id": "00000000-0000-0000-0000-000000000000", **dict(fault.head)}
            if fault.code and not fault.is_bare:
                headers["x-ms-error-code"] = fault.code
            if fault.location:
                headers["Location"] = fault.location
            if fault.retry_after:
                headers["Retry-After"] = fault.retry_after
            self.answer(fault.status, xml.encode() if fault.code else b"", "application/xml", **headers)

        def _break(self, fault: Broken, head: bytes, content: bytes) -> None:
            self.close_connection = True
            whole = head + content
            if fault.kind == "cut":
                self.wfile.write(whole[: fault.at])
            elif fault.kind == "reset":
                self.wfile.write(whole[: fault.at])
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            elif fault.kind == "stall":
                self.wfile.write(whole[: fault.at])
                self._hold()
            elif fault.kind == "drip":
                self.wfile.write(whole[: fault.at])
                for place in range(fault.at, len(whole)):
                    if over.wait(0.02):
                        return
                    self.wfile.write(whole[place : place + 1])
            elif fault.kind == "short":
                some = content[: fault.at]
                self.wfile.write(_with_length(head, len(some)) + some)
                self.close_connection = False
            else:
                assert fault.kind == "long"
                self.wfile.write(_with_length(head, len(content) + 64) + content)
                self._hold()

        def _hold(self) -> None:
            """Until the client hangs up or the proxy ends."""
            while not over.is_set():
                if select.select([self.connection], [], [], 0.05)[0]:
                    return

    with serving(Passing) as port:
        proxy = FaultProxy(f"127.0.0.1:{port}", plan)
        try:
            yield proxy
        finally:
            over.set()


def _with_length(head: bytes, length: int) -> bytes:
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join([lines[0], b"Content-Length: %d" % length, *lines[1:]])


@dataclass(frozen=True, slots=True)
class ConnectProxy:
    """A running proxy for HTTPS_PROXY; ``log`` holds the places (``host:port``) that were asked for."""

    port: int
    log: list[str] = field(default_factory=list)
    credentials: list[str] = field(default_factory=list)
    """The Proxy-Authorization headers that came."""


@contextmanager
def connect_proxy(refuse: int | None = None) -> Iterator[ConnectProxy]:
    """A proxy that opens tunnels and nothing else; ``refuse`` is the status with which it refuses each (407, 503)."""
    log: list[str] = []
    credentials: list[str] = []

    class Tunnels(Handler):
        def respond(self) -> None:
            log.append(self.path)
            if self.command != "CONNECT":
                self.answer(405, b"")
                return
            credentials.append(self.headers.get("Proxy-Authorization", ""))
            self.close_connection = True
            if refuse is not None:
                self.answer(refuse, b"", Proxy_Authenticate="Basic realm=tests")
                return
            host, _, port = self.path.rpartition(":")
            with closing(socket.create_connection((host, int(port)), 10)) as far:
                self.send_response(200, "Connection established")
                self.end_headers()
                ends = [self.connection, far]
                while True:
                    for end in select.select(ends, [], [], 60)[0]:
                        data = end.recv(_TUNNEL_BYTES)
                        if not data:
                            return
                        ends[end is self.connection].sendall(data)

    with serving(Tunnels) as port:
        yield ConnectProxy(port, log, credentials)
