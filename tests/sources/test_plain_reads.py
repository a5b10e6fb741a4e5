"""Single reads against a small server: one connection, what is sent, tokens that end, and answers that are errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError

from flowlens.sources.plain_reads import PlainReads, Tokens, by_signature, plain_reads
from tests.faults.loopback import Handler, serving


class Asked(NamedTuple):
    """A request as a server got it, and over which connection."""

    path: str
    headers: dict[str, str]
    port: int


def reads(port: int, authorize: Any, *, timeouts: tuple[float, float] = (2, 2), **proxies: str) -> PlainReads:
    return plain_reads(
        requests.Session(),
        f"http://127.0.0.1:{port}/account/logs",
        authorize,
        version="2025-11-05",
        verify=True,
        proxies=proxies,
        timeouts=timeouts,
    )


def read(source: PlainReads) -> bytes:
    with source.range("a b", 3, 4, '"e"') as (_, pieces):
        return b"".join(pieces)


@contextmanager
def answering(asked: list[Asked], *statuses: int) -> Iterator[int]:
    """A server that answers with these statuses and then 206, and keeps what was asked."""
    left = list(statuses)

    class Answers(Handler):
        def respond(self) -> None:
            asked.append(Asked(self.path, dict(self.headers), self.client_address[1]))
            self.answer(left.pop(0) if left else 206, b"body", x_ms_error_code="Code")

    with serving(Answers) as port:
        yield port


class Credential:
    """Gives tokens 1, 2, ...; each is valid for ``seconds``."""

    def __init__(self, seconds: float = 3600) -> None:
        self.asked: list[dict[str, Any]] = []
        self._seconds = seconds

    def get_token(self, *_scopes: str, **more: Any) -> AccessToken:
        self.asked.append(more)
        return AccessToken(str(len(self.asked)), int(time.time() + self._seconds))


def test_a_read_is_one_request_and_all_share_a_connection() -> None:
    asked: list[Asked] = []
    with answering(asked) as port:
        source = reads(port, by_signature("?sp=rl&sig=x%3D"))
        assert [read(source), read(source)] == [b"body"] * 2
    first, second = asked
    assert first.path == second.path == "/account/logs/a%20b?sp=rl&sig=x%3D"
    assert first.port == second.port
    sent = {name.lower(): value for name, value in first.headers.items()}
    assert (sent["x-ms-range"], sent["if-match"], sent["accept-encoding"]) == ("bytes=3-6", '"e"', "identity")
    assert "sig" not in repr(source)


def test_a_body_that_is_left_does_not_reach_the_next_read() -> None:
    asked: list[Asked] = []
    with answering(asked) as port:
        source = reads(port, by_signature("sig=x"))
        with pytest.raises(KeyError), source.range("a", 0, 4, '"e"'):
            raise KeyError
        assert read(source) == b"body"


def test_an_answer_that_is_an_error_tells_status_code_and_message() -> None:
    with answering([], 403) as port, pytest.raises(HttpResponseError) as caught:
        read(reads(port, by_signature("sig=x")))
    response: Any = caught.value.response
    assert (caught.value.status_code, caught.value.message) == (403, "body")
    assert response.headers["x-ms-error-code"] == "Code"


def test_a_server_that_is_not_there_or_hangs_up_is_an_error_of_the_connection() -> None:
    class HangsUp(Handler):
        def respond(self) -> None:
            self.close_connection = True

    with serving(HangsUp) as port, pytest.raises(ServiceResponseError):
        read(reads(port, by_signature("sig=x")))
    with pytest.raises(ServiceRequestError):
        read(reads(port, by_signature("sig=x")))


def test_plain_http_goes_through_its_proxy_with_the_whole_address() -> None:
    asked: list[Asked] = []
    with answering(asked) as port:
        read(reads(9, by_signature("sig=x"), http=f"http://user:word@127.0.0.1:{port}"))
    assert asked[0].path == "http://127.0.0.1:9/account/logs/a%20b?sig=x"
    assert asked[0].headers["Proxy-Authorization"].startswith("Basic ")


# ---- tokens


def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    for seconds, tokens in ((3600, 1), (60, 3)):
        credential, asked = Credential(seconds), []
        with answering(asked) as port:
            held = Tokens(credential)
            held.get_token("scope")
            for _ in range(2):
                read(reads(port, held))
        assert len(credential.asked) == tokens
        assert asked[-1].headers["Authorization"] == f"Bearer {tokens}"


def test_a_token_that_is_refused_is_renewed_once() -> None:
    credential, asked = Credential(), []
    with answering(asked, 401) as port:
        held = Tokens(credential)
        held.get_token("scope")
        assert read(reads(port, held)) == b"body"
    assert [each.headers["Authorization"] for each in asked] == ["Bearer 1", "Bearer 2"]
    with answering(asked, 401, 401) as port, pytest.raises(HttpResponseError):
        read(reads(port, held))
    assert len(asked) == 4


def test_a_token_serves_to_its_end_where_no_other_can_be_had() -> None:
    class Fails(Credential):
        def get_token(self, *scopes: str, **more: Any) -> AccessToken:
            if self.asked:
                self.asked.append(more)
                raise ServiceRequestError("the metadata service is busy")
            return super().get_token(*scopes, **more)

    for seconds, asked, served in ((200, 2, True), (20, 4, False)):
        credential = Fails(seconds)
        held = Tokens(credential)
        held.get_token("scope")
        headers: dict[str, str] = {}
        for _ in range(3):
            if served:
                assert held("/path", {}, headers) == "/path" and headers["Authorization"] == "Bearer 1"
            else:
                with pytest.raises(ServiceRequestError, match="busy"):
                    held("/path", {}, headers)
        # Not at each request: some credentials start a program.
        assert len(credential.asked) == asked


def test_the_tenant_that_the_account_asked_for_is_kept() -> None:
    credential = Credential()
    held = Tokens(credential)
    held.get_token("scope", enable_cae=True)
    held.get_token("scope")
    assert len(credential.asked) == 1
    held.get_token("scope", tenant_id="t")
    headers: dict[str, str] = {}
    assert held("/path", {}, headers) == "/path" and headers["Authorization"] == "Bearer 2"
    held.renew("Bearer 1")
    held("/path", {}, headers)
    assert len(credential.asked) == 2
    held.renew("Bearer 2")
    held("/path", {}, headers)
    assert credential.asked == [{"enable_cae": True}, {"tenant_id": "t"}, {"tenant_id": "t"}]


# ---- a connection that is open already


class Says(NamedTuple):
    """What a server answers, byte for byte, and whether it then closes the connection."""

    text: bytes
    closes: bool = False


WHOLE = b"HTTP/1.1 206 Partial\r\nContent-Length: 4\r\nX-A:  b \r\n\r\nbody"


@contextmanager
def saying(*answers: Says) -> Iterator[tuple[int, list[int]]]:
    """A server that gives these answers in turn, and the last for ever; the ports that asked."""
    left, ports = list(answers), []

    class Speaks(Handler):
        def respond(self) -> None:
            ports.append(self.client_address[1])
            answer = left.pop(0) if len(left) > 1 else left[0]
            self.wfile.write(answer.text)
            self.close_connection = answer.closes

    with serving(Speaks) as port:
        yield port, ports


def test_an_open_connection_is_used_and_headers_are_known_by_any_case() -> None:
    with saying(Says(WHOLE)) as (port, ports):
        source = reads(port, by_signature("sig=x"))
        read(source)
        with source.range("a", 0, 4, '"e"') as (headers, pieces):
            assert (headers["x-a"], headers.get("CONTENT-LENGTH"), b"".join(pieces)) == ("b", "4", b"body")
        read(source)
    assert len(ports) == 3 and len(set(ports)) == 1


@pytest.mark.parametrize(
    "odd",
    [
        Says(b"HTTP/1.1 206 Partial\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        Says(b"HTTP/1.0 206 Partial\r\nContent-Length: 4\r\n\r\nbody", closes=True),
        Says(b"HTTP/1.1 206 Partial\r\n\r\nbody", closes=True),
        Says(b"HTTP/1.1 206\nContent-Length: 4\r\n\r\nbody"),
        Says(b"HTTP/1.1 206 Partial\r\n" + b"X: y\r\n" * 101 + b"Content-Length: 4\r\n\r\nbody"),
    ],
)
def test_an_answer_of_another_form_is_left_to_the_library(odd: Says) -> None:
    with saying(Says(WHOLE), odd, Says(WHOLE)) as (port, ports):
        source = reads(port, by_signature("sig=x"))
        assert [read(source) for _ in range(3)] == [b"body"] * 3
    assert len(set(ports)) > 1


def test_headers_end_at_the_first_empty_line_however_lines_end() -> None:
    with saying(Says(WHOLE), Says(b"HTTP/1.1 206 Partial\r\nContent-Length: 8\n\r\nbo\r\n\r\ndy")) as (port, _):
        source = reads(port, by_signature("sig=x"))
        assert [read(source) for _ in range(2)] == [b"body", b"bo\r\n\r\ndy"]


@pytest.mark.parametrize("end", range(1, len(WHOLE)))
def test_an_answer_that_ends_early_is_an_error_wherever_it_ends(end: int) -> None:
    with saying(Says(WHOLE), Says(WHOLE[:end], closes=True)) as (port, _):
        source = reads(port, by_signature("sig=x"))
        read(source)
        with pytest.raises(ServiceResponseError):
            read(source)


def test_a_connection_that_shall_be_closed_is_not_used_again() -> None:
    last = WHOLE.replace(b"X-A", b"Connection: Close\r\nX-A")
    with saying(Says(WHOLE), Says(last), Says(WHOLE)) as (port, ports):
        source = reads(port, by_signature("sig=x"))
        assert [read(source) for _ in range(3)] == [b"body"] * 3
    assert ports[0] == ports[1] != ports[2]


def test_a_server_that_falls_silent_on_an_open_connection_is_an_error() -> None:
    with saying(Says(WHOLE), Says(WHOLE[:-2])) as (port, _):
        source = reads(port, by_signature("sig=x"), timeouts=(2, 0.1))
        read(source)
        with pytest.raises(ServiceResponseError, match="timed out"):
            read(source)


def test_a_line_break_never_gets_into_a_request() -> None:
    with saying(Says(WHOLE)) as (port, ports):
        source = reads(port, by_signature("sig=x"))
        read(source)
        with pytest.raises(ValueError, match="line break"), source.range("a", 0, 4, '"e"\r\nx-ms-more: 1'):
            pass
    assert len(ports) == 1


@pytest.mark.parametrize("status", [401, 403, 412, 416, 503])
def test_errors_on_an_open_connection_are_told_and_it_goes_on(status: int) -> None:
    refused = Says(b"HTTP/1.1 %d No\r\nx-ms-error-code: Code\r\nContent-Length: 4\r\n\r\nwhy?" % status)
    with saying(Says(WHOLE), refused, Says(WHOLE)) as (port, ports):
        source = reads(port, by_signature("sig=x"))
        read(source)
        with pytest.raises(HttpResponseError) as caught:
            read(source)
        assert read(source) == b"body"
    response: Any = caught.value.response
    assert (caught.value.status_code, caught.value.message, response.headers["X-MS-Error-Code"]) == (
        status,
        "why?",
        "Code",
    )
    assert len(set(ports)) == 1


# ---- pages


def test_a_page_is_asked_for_with_its_prefix_and_place() -> None:
    asked: list[Asked] = []
    with answering(asked) as port:
        for marker in ("", "a+/=&"):
            with reads(port, by_signature("sig=x")).page("flow/ä&", marker, 7) as (_, pieces):
                assert b"".join(pieces) == b"body"
    assert [each.path for each in asked] == [
        "/account/logs?restype=container&comp=list&maxresults=7&prefix=flow%2F%C3%A4%26&sig=x",
        "/account/logs?restype=container&comp=list&maxresults=7&prefix=flow%2F%C3%A4%26&marker=a%2B%2F%3D%26&sig=x",
    ]
