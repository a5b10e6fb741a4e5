"""Service tags asked of Azure Resource Manager: what it answers, refuses and does to a client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import flowlens as fl
from flowlens.cli import DONE, ERROR, WRONG_USAGE
from flowlens.errors import SourceError
from flowlens.sources import management
from tests.faults.azurite import make_certificate
from tests.faults.identity import CLIENT_ID, Identity, identity_server, write_az
from tests.faults.loopback import Handler, serving
from tests.faults.proxies import connect_proxy
from tests.flow_logs import Ran, run

SUBSCRIPTION = "0a0a0a0a-0000-4000-8000-00000000000a"
PATH = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Network/locations/chinaeast2/serviceTags"
TLS = tuple[Path, Path]


def document(**more: object) -> dict[str, object]:
    """An answer with the tags of the package for China, and one tag more."""
    tags = fl.load_tags("china")
    values = [
        {"name": name, "id": name, "properties": {"addressPrefixes": list(tags.prefixes(name)), "region": ""}}
        for name in tags.names
    ]
    brand = {"name": "Brand", "id": "Brand", "properties": {"addressPrefixes": ["203.0.113.0/24"], "region": ""}}
    return {"name": "China", "type": "x", "changeNumber": "63", "cloud": "China", "values": [*values, brand], **more}


@dataclass(frozen=True, slots=True)
class Resources:
    """A running stand-in for Azure Resource Manager; ``asked`` holds the path and the authorization of each request."""

    port: int
    tls: TLS
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


Respond = Callable[[Handler, int], None]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TLS:
    return make_certificate(tmp_path_factory.mktemp("resources"))


@pytest.fixture
def identity(tls: TLS, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
    """An identity server, and the variables by which a client signs in there."""
    with identity_server(tls) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWLENS_DATA", str(tmp_path / "own"))
    monkeypatch.setattr(management, "_FIRST_WAIT", 0.005)
    return tmp_path / "own"


@pytest.fixture
def resources(tls: TLS) -> Iterator[Callable[[Respond], Resources]]:
    """Starts a server that answers request ``n`` (from 0) with what ``respond(handler, n)`` does."""
    stacks = []

    def start(respond: Respond) -> Resources:
        asked: list[tuple[str, str]] = []

        class Answers(Handler):
            def respond(self) -> None:
                asked.append((self.path, self.headers.get("Authorization", "")))
                respond(self, len(asked) - 1)

        stacks.append(serving(Answers, tls))
        return Resources(stacks[-1].__enter__(), tls, asked)

    yield start
    for stack in stacks:
        stack.__exit__(None, None, None)


def update(server: Resources, *more: str | Path, auth: str = "environment") -> Ran:
    return run(
        "tags",
        "update",
        "--subscription",
        SUBSCRIPTION,
        "--cloud",
        "china",
        "--auth",
        auth,
        "--management-url",
        server.url,
        "--ca-file",
        server.tls[0],
        "--timeout",
        "2",
        *more,
    )


def refused(ran: Ran, *words: str, code: int = ERROR) -> None:
    """Nothing is stored, and one line says why, with one for what to do next."""
    lines = ran.err.splitlines()
    assert ran.code == code, ran.err
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("  hint: "), ran.err
    for word in words:
        assert word in ran.err
    assert "eyJ" not in ran.err
    assert fl.load_tags("china").find("Brand") is None


def body(content: object) -> bytes:
    return json.dumps(content).encode()


def test_tags_are_asked_for_with_the_credential_and_put_in_place(
    resources: Callable[[Respond], Resources], identity: Identity, own_data: Path
) -> None:
    server = resources(lambda handler, _: handler.answer(200, body(document())))
    before = fl.load_tags("china")
    ran = update(server)
    assert ran.code == DONE, ran.err
    assert (
        CLIENT_ID in ran.err and PATH in ran.err and f"in the place of {len(before.names)} of {before.date}" in ran.err
    )
    assert server.asked == [(f"{PATH}?api-version={management.API_VERSION}", f"Bearer {identity.issued[0]}")]
    assert identity.issued[0] not in ran.err
    assert [path.name for path in own_data.iterdir()] == ["service_tags_china.parquet"]
    assert run("tags", "lookup", "203.0.113.7", "--cloud", "china").out == "203.0.113.7: Brand\n"


def test_all_pages_are_one_answer(resources: Callable[[Respond], Resources], identity: Identity) -> None:
    whole = document()
    values = whole["values"]
    assert isinstance(values, list)
    links = [f"{PATH}?api-version={management.API_VERSION}&page={n}" for n in (1, 2)]

    def respond(handler: Handler, number: int) -> None:
        host = handler.headers["Host"]
        # A link may be whole or a path; the last page has none.
        link = {0: f"https://{host}{links[0]}", 1: links[1]}.get(number)
        part = values[number::3]
        handler.answer(200, body({**whole, "values": part, "nextLink": link}))

    server = resources(respond)
    assert update(server).code == DONE
    assert [path for path, _ in server.asked][1:] == links
    assert set(fl.load_tags("china").names) == {tag["name"] for tag in values}


def test_the_cli_signs_in_too(resources: Callable[[Respond], Resources], own_environment: Path) -> None:
    write_az(own_environment)
    ran = update(
        resources(lambda handler, _: handler.answer(200, body(document()))), "--location", "China North", auth="cli"
    )
    assert ran.code == DONE and "AzureCliCredential" in ran.err and "/locations/chinanorth/" in ran.err, ran.err


NOTHING = {"error": {"code": "AuthorizationFailed", "message": "The client \x1b[31mx does not have authorization"}}
ANSWERS = {
    "no role": (403, NOTHING, "FL-A02", "Reader", 1),
    "wrong tenant": (401, {"error": {"code": "InvalidAuthenticationTokenTenant"}}, "FL-A01", "tenant", 1),
    "no subscription": (404, {"error": {"code": "SubscriptionNotFound"}}, "FL-A03", "SubscriptionNotFound", 1),
    "no location": (400, {"error": {"code": "NoRegisteredProviderFound"}}, "FL-A03", "--location", 1),
    "throttled": (429, {"error": {"code": "TooManyRequests"}}, "FL-A04", "429 TooManyRequests", 4),
    "failing": (503, "down", "FL-A04", "503", 4),
    "proxy": (407, None, "FL-S21", "HTTPS_PROXY", 1),
    "not tags": (200, {"value": []}, "FL-A05", "values", 1),
    "not JSON": (200, "<html>Sign in</html>", "FL-A05", "something else", 1),
    "no tags": (200, {"cloud": "China", "values": []}, "service tags", "found none", 1),
    "a part": (200, {"cloud": "China", "values": [{"name": "A", "properties": {"addressPrefixes": []}}]}, "a part", "", 1),
    "other cloud": (200, document(cloud="Public"), "expected the service tags of china", "", 1),
    "a wrong prefix": (200, document(values=[{"name": "A", "properties": {"addressPrefixes": ["x"]}}]), "tag A", "", 1),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_without_tags_is_one_line_and_changes_nothing(
    resources: Callable[[Respond], Resources], identity: Identity, own_data: Path, case: str
) -> None:
    status, content, word, other, requests = ANSWERS[case]
    server = resources(
        lambda handler, _: handler.answer(status, content.encode() if isinstance(content, str) else body(content))
    )
    ran = update(server)
    refused(ran, word, other, code=ERROR if word.startswith("FL-") else WRONG_USAGE)
    assert "\x1b" not in ran.err
    assert len(server.asked) == requests
    assert not own_data.exists()


def test_what_fails_for_a_moment_is_asked_again(resources: Callable[[Respond], Resources], identity: Identity) -> None:
    def respond(handler: Handler, number: int) -> None:
        if number == 0:
            handler.answer(503, b"")
        elif number == 1:
            handler.close_connection = True
        else:
            handler.answer(200, body(document()))

    server = resources(respond)
    assert update(server).code == DONE
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(resources: Callable[[Respond], Resources], identity: Identity, status: int) -> None:
    other = resources(lambda handler, _: handler.answer(200, body(document())))
    server = resources(lambda handler, _: handler.answer(status, b"", Location=f"{other.url}{PATH}"))
    refused(update(server), "FL-S25", "proxy")
    assert not other.asked


def test_a_link_to_another_host_is_not_followed(resources: Callable[[Respond], Resources], identity: Identity) -> None:
    other = resources(lambda handler, _: handler.answer(200, body(document())))
    for link in (
        f"{other.url}{PATH}",
        "//localhost:1/x",
        "http://localhost/x",
        f"https://localhost:{other.port}@evil/x",
    ):
        server = resources(lambda handler, _, link=link: handler.answer(200, body(document(nextLink=link))))
        refused(update(server), "FL-A05", "another host")
        assert len(server.asked) == 1
    assert not other.asked


def test_a_link_may_spell_the_endpoint_in_its_own_way() -> None:
    page = management._Page([], next_link="https://Management.azure.com:443/subscriptions/x?page=2")
    assert management._next(page, "https://management.azure.com", "", "") == page.next_link
    for wrong in (
        "http://management.azure.com:443/x",
        "https://a@management.azure.com/x",
        "https://management.azure.com:x/",
    ):
        with pytest.raises(SourceError, match="another host"):
            management._next(management._Page([], next_link=wrong), "https://management.azure.com", "", "")


def test_pages_that_never_end_are_told(resources: Callable[[Respond], Resources], identity: Identity) -> None:
    server = resources(lambda handler, _: handler.answer(200, body(document(nextLink=PATH))))
    refused(update(server), "FL-A05", "without an end")
    assert len(server.asked) == 2


def test_pages_of_several_clouds_are_told(resources: Callable[[Respond], Resources], identity: Identity) -> None:
    def respond(handler: Handler, number: int) -> None:
        handler.answer(200, body(document(cloud="Public") if number else document(nextLink=f"{PATH}?page=2")))

    refused(update(resources(respond)), "FL-A05", "China, Public")


def test_an_answer_without_an_end_is_told(
    resources: Callable[[Respond], Resources], identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management, "_LARGEST_ANSWER", 1000)
    refused(
        update(resources(lambda handler, _: handler.answer(200, body(document())))), "FL-A05", "more than 1000 bytes"
    )


def test_an_answer_that_stalls_or_is_cut_is_told(resources: Callable[[Respond], Resources], identity: Identity) -> None:
    def stalled(handler: Handler, _: int) -> None:
        handler.connection.recv(1)

    def cut(handler: Handler, _: int) -> None:
        handler.send_response_only(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(body(document())[:5000])
        handler.close_connection = True

    refused(update(resources(stalled), "--timeout", "0.2"), "FL-S22", "--timeout")
    refused(update(resources(cut)), "FL-S22", "--timeout")


def test_no_token_goes_to_a_server_that_is_not_trusted(
    resources: Callable[[Respond], Resources], own_environment: Path, tmp_path: Path
) -> None:
    write_az(own_environment)
    server = resources(lambda handler, _: handler.answer(200, body(document())))
    other, _ = make_certificate(tmp_path)
    refused(update(server, "--ca-file", other, auth="cli"), "FL-S20", "--ca-file")
    assert not server.asked


def test_a_sign_in_that_is_refused_is_told_before_anything_is_asked(
    resources: Callable[[Respond], Resources], identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = resources(lambda handler, _: handler.answer(200, body(document())))
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "canary-that-is-wrong")
    ran = update(server)
    refused(ran, "FL-S09", "AADSTS7000215")
    assert "canary" not in ran.err and not server.asked


def test_a_server_that_nobody_runs_and_a_proxy_that_refuses_are_told(
    resources: Callable[[Respond], Resources], tls: TLS, own_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_az(own_environment)
    with serving(Handler) as port:
        pass
    refused(update(Resources(port, tls), auth="cli"), "FL-S17")
    with connect_proxy(refuse=407) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary-password@127.0.0.1:{proxy.port}")
        ran = update(Resources(port, tls), auth="cli")
    refused(ran, "FL-S21", "HTTPS_PROXY")
    assert "canary" not in ran.err
