"""What an address names, which credential reads it, and what each refusal of a server is told as."""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import re
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import ConfigError, FlowlensError, SourceError
from flowlens.sources import accounts, refusals
from flowlens.sources.accounts import Access, connect, is_remote, parse_location, principal
from flowlens.sources.refusals import REFUSALS, Context, declared, is_passing, is_throttling, redact, refusal
from flowlens.sources.sas import check_sas

KEY = base64.b64encode(b"canary" * 11)[:86].decode() + "=="
CANARY = "c4nary%2FSignature"
SAS = f"sv=2025-11-05&sr=c&sp=rl&spr=https&se=2099-01-01T00:00:00Z&sig={CANARY}"
URL = "https://contoso.blob.core.windows.net/logs"
NOW = dt.datetime(2026, 6, 15, 12, tzinfo=dt.UTC)
LOOPBACK = Access(auth="key", account_url="http://127.0.0.1:10000")


def id_of(error: FlowlensError) -> str:
    return error.problem.split(" ")[0]


# ---- addresses


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (URL, ("https://contoso.blob.core.windows.net", "contoso", "logs", "", "global")),
        (f"{URL}/", ("https://contoso.blob.core.windows.net", "contoso", "logs", "", "global")),
        (f"{URL}/a/b=%2Fc", ("https://contoso.blob.core.windows.net", "contoso", "logs", "a/b=/c", "global")),
        (f"{URL}?{SAS}", ("https://contoso.blob.core.windows.net", "contoso", "logs", "", "global")),
        (
            "https://Contoso.Blob.core.windows.net:443/logs",
            ("https://contoso.blob.core.windows.net", "contoso", "logs", "", "global"),
        ),
        (
            "https://contoso.blob.core.usgovcloudapi.net/logs",
            ("https://contoso.blob.core.usgovcloudapi.net", "contoso", "logs", "", "usgov"),
        ),
        (
            "https://contoso.blob.core.chinacloudapi.cn/logs",
            ("https://contoso.blob.core.chinacloudapi.cn", "contoso", "logs", "", "china"),
        ),
        (
            "https://contoso.z12.blob.storage.azure.net/logs",
            ("https://contoso.z12.blob.storage.azure.net", "contoso", "logs", "", "global"),
        ),
        (
            "https://contoso-secondary.blob.core.windows.net/logs",
            ("https://contoso-secondary.blob.core.windows.net", "contoso-secondary", "logs", "", "global"),
        ),
    ],
)
def test_an_address_names_account_container_and_prefix(source: str, parts: tuple[str, ...]) -> None:
    place = parse_location(source, Access())
    assert (place.account_url, place.account, place.container, place.prefix, place.cloud) == parts
    assert is_remote(source)


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("az://contoso/logs", "FL-S01", "https://contoso.blob.core.windows.net/logs"),
        ("AZ://contoso/logs/a/b", "FL-S01", "https://contoso.blob.core.windows.net/logs/a/b"),
        ("wasbs://logs@contoso.blob.core.windows.net/a", "FL-S01", "https://contoso.blob.core.windows.net/logs/a"),
        (
            "wasbs://logs@contoso.blob.core.chinacloudapi.cn/",
            "FL-S01",
            "https://contoso.blob.core.chinacloudapi.cn/logs",
        ),
        ("az://contoso.blob.core.windows.net/logs", "FL-S01", "https://contoso.blob.core.windows.net/logs"),
        ("az://contoso", "FL-S01", "https://contoso.blob.core.windows.net/CONTAINER"),
        ("az:///", "FL-S01", "https://ACCOUNT.blob.core.windows.net/CONTAINER"),
        ("az://contoso/logs/a b?sig=canary", "FL-S01", "https://contoso.blob.core.windows.net/logs/a%20b"),
        ("http://contoso.blob.core.windows.net/logs", "FL-S02", "plain http"),
        ("https://contoso.blob.core.windows.net", "FL-S01", "no container"),
        ("https://contoso.blob.core.windows.net/Logs_1", "FL-S01", "not the name of a container"),
        ("https://con_toso.blob.core.windows.net/logs", "FL-S01", "not the name of an account"),
        ("https://contoso.dfs.core.windows.net/logs", "FL-S01", "may be contoso.blob.core.windows.net"),
        ("https://contoso.privatelink.blob.core.windows.net/logs", "FL-S01", "may be contoso.blob.core.windows.net"),
        ("https://contoso.z01.dfs.storage.azure.net/logs", "FL-S01", "may be contoso.z01.blob.storage.azure.net"),
        ("https://contoso.blob.core.windows.net.evil.example/logs", "FL-S01", "not the blob endpoint"),
        ("https://evil.example/logs", "FL-S01", "--account-url"),
        ("https://169.254.169.254/logs", "FL-S01", "--account-url"),
        ("http://127.0.0.1:10000/devstoreaccount1/logs", "FL-S01", "--account-url"),
        ("https://contoso.blob.core.windows.net:8443/logs", "FL-S01", ":8443 is not the blob endpoint"),
        ("https://me:canary@contoso.blob.core.windows.net/logs", "FL-S01", "no user"),
        (f"{URL}#part", "FL-S01", "#"),
        (f"{URL}/a%1b[31m", "FL-S01", "control characters"),
        (f"{URL}?comp=list", "FL-S04", "no signature"),
        ("https://[::1/logs", "FL-S01", "not a valid address"),
        ("https://contoso.blob.core.windows.net:99999/logs", "FL-S01", "not a valid address"),
    ],
)
def test_other_addresses_are_wrong_usage_told_in_one_line(source: str, code: str, said: str) -> None:
    with pytest.raises(FlowlensError) as caught:
        parse_location(source, Access())
    text = str(caught.value)
    assert id_of(caught.value) == code and said in text
    assert isinstance(caught.value, ConfigError) == (code != "FL-S04")
    assert "canary" not in text and len(text.splitlines()) == 2 and "\x1b" not in text


@pytest.mark.parametrize("source", ["logs", "/a/b", r"C:\logs", "C:/logs", "file.json", "a*:b/c", "workspace:0", ""])
def test_what_is_no_address_is_left_to_files(source: str) -> None:
    assert not is_remote(source)


def test_an_own_endpoint_is_read_only_where_it_was_named() -> None:
    place = parse_location("http://127.0.0.1:10000/devstoreaccount1/logs/p", LOOPBACK)
    assert (place.account_url, place.account) == ("http://127.0.0.1:10000/devstoreaccount1", "devstoreaccount1")
    assert (place.container, place.prefix) == ("logs", "p")
    for other in ("http://127.0.0.1:10001/a/logs", "http://127.0.0.1:100001/a/logs", "http://127.0.0.2:10000/a/logs"):
        with pytest.raises(ConfigError, match=r"--account-url|valid address"):
            parse_location(other, LOOPBACK)
    named = Access(account_url="https://logs.contoso.example/")
    assert parse_location("https://logs.contoso.example/logs/p", named).account_url == "https://logs.contoso.example"
    with pytest.raises(ConfigError):
        parse_location("https://logs.contoso.example.evil.example/logs/p", named)


def test_an_account_is_read_at_the_endpoint_of_its_name() -> None:
    access = Access(account_url="http://127.0.0.1:10000/contoso")
    assert parse_location(URL, access).account_url == "http://127.0.0.1:10000/contoso"
    other = parse_location("https://fabrikam.blob.core.windows.net/logs", access)
    assert other.account_url == "https://fabrikam.blob.core.windows.net"


def test_the_cloud_asked_for_and_that_of_the_address_must_agree() -> None:
    with pytest.raises(ConfigError, match="cloud global, --cloud says china"):
        parse_location(URL, Access(cloud="china"))


@pytest.mark.parametrize(
    "options",
    [
        {"auth": "password"},
        {"cloud": "moon"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"account_url": "http://contoso.example"},
        {"account_url": "ftp://127.0.0.1"},
        {"account_url": f"https://contoso.example/?{SAS}"},
        {"account_url": "https://u:canary@contoso.example/"},
        {"account_url": "https://[canary"},
        {"account_url": "https://contoso.example:99999/"},
    ],
)
def test_wrong_options_are_wrong_usage(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Access(**options)
    assert "canary" not in str(caught.value)


# ---- credentials


def test_no_secret_stands_in_any_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    place = parse_location(f"{URL}/p?{SAS}", Access())
    account = connect(place, Access())
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    keyed = connect(parse_location(URL, Access()), Access(auth="key"))
    for shown in (place, str(place), account, account.identity, account.context("x"), keyed, keyed.identity):
        assert CANARY not in repr(shown) and KEY not in repr(shown)
    assert account.auth == "sas" and account.identity == "SAS token from the address, until 2099-01-01T00:00:00+00:00"
    assert keyed.identity == "account key (AZURE_STORAGE_KEY)"


def test_a_token_in_the_address_beats_the_chain_but_not_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    place = parse_location(f"{URL}?{SAS}", Access())
    assert connect(place, Access()).auth == "sas"
    assert connect(place, Access(auth="key")).auth == "key"


@pytest.mark.parametrize(
    ("auth", "variable"),
    [
        ("key", "AZURE_STORAGE_KEY"),
        ("sas", "AZURE_STORAGE_SAS_TOKEN"),
        ("connection-string", "AZURE_STORAGE_CONNECTION_STRING"),
    ],
)
def test_a_secret_that_is_not_there_is_named(auth: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=f"FL-S03 {variable} is not set"):
        connect(parse_location(URL, Access()), Access(auth=auth))


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY", raising=False)
    file = tmp_path / "key"
    monkeypatch.setenv("AZURE_STORAGE_KEY_FILE", str(file))
    place = parse_location(URL, Access())
    with pytest.raises(ConfigError, match="FL-S03 AZURE_STORAGE_KEY_FILE names a file that can't be read"):
        connect(place, Access(auth="key"))
    file.write_text(f"{KEY}\n", encoding="utf-8")
    assert connect(place, Access(auth="key")).auth == "key"


@pytest.mark.parametrize(
    ("text", "auth", "said"),
    [
        (f"AccountName=contoso;AccountKey={KEY};EndpointSuffix=core.windows.net", "key", "account key"),
        (f"BlobEndpoint=https://contoso.blob.core.windows.net/;SharedAccessSignature={SAS}", "sas", "SAS token"),
        (f"AccountName=fabrikam;AccountKey={KEY}", "FL-S34", "account fabrikam"),
        ("AccountName=contoso", "FL-S34", "neither"),
        ("nonsense", "FL-S34", "neither"),
        ("AccountName=contoso;AccountKey=short!", "FL-S12", "key"),
    ],
)
def test_connection_strings(text: str, auth: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    place, access = parse_location(URL, Access()), Access(auth="connection-string")
    if not auth.startswith("FL-"):
        account = connect(place, access)
        assert account.auth == auth and said in account.identity
        return
    with pytest.raises(FlowlensError) as caught:
        connect(place, access)
    assert id_of(caught.value) == auth and said in str(caught.value) and KEY not in str(caught.value)


def test_a_connection_string_with_no_address_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"BlobEndpoint=https://[canary;AccountKey={KEY}")
    with pytest.raises(ConfigError, match="AZURE_STORAGE_CONNECTION_STRING: is not a valid address") as caught:
        connect(parse_location(URL, Access()), Access(auth="connection-string"))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:abc", "foo:bar"])
def test_a_proxy_with_no_address_is_wrong_usage(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(ConfigError, match="HTTPS_PROXY: is not a valid address"):
        connect(parse_location(URL, Access()), Access(auth="key"))


def test_a_sign_in_that_answers_something_else_is_told() -> None:
    with pytest.raises(SourceError, match="AttributeError"):
        accounts.within(5, lambda: [].get("access_token"), URL)  # type: ignore[attr-defined]


def test_a_token_is_never_sent_over_plain_http() -> None:
    access = Access(account_url="http://127.0.0.1:10000")
    with pytest.raises(ConfigError, match="FL-S02"):
        connect(parse_location("http://127.0.0.1:10000/contoso/logs", access), access)


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
def test_a_ca_file_that_is_none_is_wrong_usage(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="FL-S33"):
        connect(parse_location(f"{URL}?{SAS}", Access()), Access(ca_file=path))


# ---- SAS tokens by their own words


def sas(**words: str | None) -> str:
    given = {
        "sv": "2025-11-05",
        "sr": "c",
        "sp": "rl",
        "spr": "https",
        "se": "2026-06-16T00:00:00Z",
        "sig": "x",
        **words,
    }
    return "&".join(f"{name}={value}" for name, value in given.items() if value is not None)


@pytest.mark.parametrize(
    "token",
    [
        sas(),
        sas(st="2026-06-15T12:04:00Z"),
        sas(se="2026-06-16"),
        sas(se="2026-06-15T12:00:01Z"),
        sas(sp=None, se=None, si="policy"),
        sas(sr=None, ss="bfqt", srt="sco"),
        sas(sr="d", sdd="3"),
    ],
)
def test_a_narrow_token_is_taken_without_a_word(token: str) -> None:
    assert check_sas(token, URL, now=NOW)[1] == ()


@pytest.mark.parametrize(
    ("token", "code", "said"),
    [
        (sas(sig=None), "FL-S04", "signature"),
        (sas(se="2026-06-15T12:00:00Z"), "FL-S05", "2026-06-15T12:00"),
        (sas(se="2020-01-01"), "FL-S05", "2020-01-01"),
        (sas(st="2026-06-15T12:06:00Z"), "FL-S06", "2026-06-15T12:06"),
        (sas(se=None), "FL-S04", "no end"),
        (sas(se="soon"), "FL-S04", "no valid time in se="),
        (sas(sp="r"), "FL-S04", "list"),
        (sas(sp="l"), "FL-S04", "read"),
        (sas(sp=None), "FL-S04", "read"),
        (sas(sp="r", si="policy"), "FL-S04", "list"),
        (sas(sr=None, ss="f", srt="sco"), "FL-S04", "not for blobs"),
        (sas(sr=None, ss="b", srt="s"), "FL-S04", "srt=co"),
        (sas(sr=None, ss="b", srt="o"), "FL-S04", "srt=co"),
        (sas(sr="b"), "FL-S04", "one blob"),
    ],
)
def test_a_token_that_cannot_serve_is_told_before_the_start(token: str, code: str, said: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_sas(token, URL, now=NOW)
    assert id_of(caught.value) == code and said in caught.value.problem


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (sas(sp="rwl"), "more than read"),
        (sas(se="2026-07-01"), "7 days"),
        (sas(spr=None), "http"),
        (sas(spr="https,http"), "http"),
    ],
)
def test_a_token_that_can_do_too_much_is_warned_about(token: str, said: str) -> None:
    warnings = check_sas(token, URL, now=NOW)[1]
    assert len(warnings) == 1 and said in warnings[0]


# ---- identities


def jwt(claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{body}.signature"


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"upn": "ann@contoso.example", "tid": "t"}, " (ann@contoso.example, tenant t)"),
        ({"appid": "a", "oid": "o", "tid": "t", "aud": "x"}, " (application a, object o, tenant t)"),
        ({"upn": "a\x1b[31m"}, r" (a\x1b[31m)"),
        ({"upn": 7}, ""),
        ([1], ""),
    ],
)
def test_a_token_says_whose_it_is(claims: object, said: str) -> None:
    assert principal(jwt(claims)) == said


@given(st.text())
def test_an_opaque_token_says_nothing_and_breaks_nothing(token: str) -> None:
    assert isinstance(principal(token), str)
    assert principal("opaque") == principal("a.!.b") == ""


def test_an_identity_that_hangs_ends_at_the_deadline() -> None:
    never = __import__("threading").Event()
    with pytest.raises(SourceError, match=r"FL-S08 .* 0\.05 s"):
        accounts.within(0.05, lambda: never.wait(20), URL)
    never.set()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClientAuthenticationError("AADSTS7000215: Invalid client secret provided."), "FL-S09"),
        (ClientAuthenticationError("Unable to get authority configuration: invalid_tenant"), "FL-S09"),
        (
            ClientAuthenticationError(
                "DefaultAzureCredential failed to retrieve a token from the included credentials."
            ),
            "FL-S07",
        ),
        (ServiceRequestError("x", error=requests.exceptions.ProxyError("no")), "FL-S21"),
        (ServiceRequestError("x", error=ssl.SSLCertVerificationError("certificate verify failed")), "FL-S20"),
    ],
)
def test_a_refused_sign_in_is_told_by_its_cause(error: Exception, code: str) -> None:
    def get() -> None:
        raise error

    with pytest.raises(SourceError) as caught:
        accounts.within(5, get, URL)
    assert id_of(caught.value) == code
    assert caught.value.__suppress_context__


# ---- what a server says


def answer(status: int, code: str = "", message: str = "", **headers: str) -> HttpResponseError:
    given = {"x-ms-error-code": code} if code else {}
    response = SimpleNamespace(status_code=status, reason="", headers={**given, **headers}, content_type=None)
    return HttpResponseError(message=message or code, response=response)  # type: ignore[arg-type]


FAR = "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(
    ("error", "auth", "code", "said"),
    [
        (
            answer(403, "AuthorizationPermissionMismatch"),
            "token",
            "FL-S10",
            "Storage Blob Data Reader on container logs",
        ),
        (answer(403, "AuthorizationPermissionMismatch"), "sas", "FL-S04", "does not allow"),
        (answer(403, "AuthorizationFailure", "This request is not authorized"), "token", "FL-S11", "network"),
        (answer(403, "AuthorizationFailure", "Server failed to authenticate the request"), "key", "FL-S12", "key"),
        (answer(403, "AuthenticationFailed"), "key", "FL-S12", "key"),
        (answer(403, "AuthenticationFailed"), "sas", "FL-S13", "SAS"),
        (answer(403, "AuthenticationFailed"), "token", "FL-S14", "tenant"),
        (answer(403, "AuthenticationFailed", Date=FAR), "key", "FL-S19", "minutes"),
        (answer(403, "AuthorizationSourceIPMismatch"), "sas", "FL-S13", "other addresses"),
        (answer(403, "AuthorizationResourceTypeMismatch"), "sas", "FL-S04", "something else"),
        (answer(403, "KeyBasedAuthenticationNotPermitted"), "key", "FL-S15", "--auth default"),
        (answer(403, "AccountIsDisabled"), "key", "FL-S36", "disabled"),
        (answer(403, "SomethingNew"), "key", "FL-S35", "SomethingNew"),
        (answer(401, "InvalidAuthenticationInfo"), "token", "FL-S14", "az login --tenant"),
        (answer(401), "token", "FL-S14", "tenant"),
        (answer(404, "ContainerNotFound"), "key", "FL-S18", "insights-logs-flowlogflowevent"),
        (answer(404, "BlobNotFound"), "key", "FL-S26", "deleted"),
        (answer(404), "key", "FL-S26", "deleted"),
        (answer(409, "BlobArchived"), "key", "FL-S27", "rehydrate"),
        (answer(409, "InvalidBlobType"), "key", "FL-S28", "block blob"),
        (answer(302), "key", "FL-S25", "redirect"),
        (answer(407), "key", "FL-S21", "HTTPS_PROXY"),
        (answer(503, "ServerBusy"), "key", "FL-S23", "--threads"),
        (answer(429), "key", "FL-S23", "throttled"),
        (answer(500, "OperationTimedOut"), "key", "FL-S24", "500 OperationTimedOut"),
        (answer(400, "OutOfRangeInput"), "key", "FL-S35", "400 OutOfRangeInput"),
        (ServiceRequestError("x", error=requests.exceptions.ProxyError("no")), "key", "FL-S21", "NO_PROXY"),
        (ServiceRequestError("x", error=ssl.SSLCertVerificationError("verify failed")), "key", "FL-S20", "--ca-file"),
        (ServiceRequestError("x", error=socket.gaierror(-2, "unknown")), "key", "FL-S16", "contoso.invalid"),
        (ServiceRequestError("x", error=requests.exceptions.ConnectTimeout("t")), "key", "FL-S17", "does not answer"),
        (ServiceRequestError("x", error=ConnectionRefusedError()), "key", "FL-S17", "does not answer"),
        (ServiceResponseError("x", error=requests.exceptions.ReadTimeout("t")), "key", "FL-S22", "--timeout"),
        (ServiceResponseError("x", error=ConnectionResetError()), "key", "FL-S22", "--timeout"),
        (DecodeError("not well-formed"), "key", "FL-S31", "control characters"),
    ],
)
def test_each_refusal_has_an_id_a_cause_and_a_next_step(error: Exception, auth: str, code: str, said: str) -> None:
    told = refusal(error, Context(URL, "contoso.invalid", auth, "me", "container logs", 7))
    assert id_of(told) == code
    assert said in str(told) and told.hint and len(str(told).splitlines()) == 2
    assert told.where == URL


@pytest.mark.parametrize(
    ("error", "passing", "throttling"),
    [
        (answer(503), True, True),
        (answer(429), True, True),
        (answer(500), True, False),
        (answer(408), True, False),
        (answer(403), False, False),
        (answer(404), False, False),
        (answer(409), False, False),
        (ServiceResponseError("x", error=ConnectionResetError()), True, False),
        (ServiceRequestError("x", error=ConnectionRefusedError()), True, False),
        (ServiceRequestError("x", error=ssl.SSLCertVerificationError("no")), False, False),
        (ServiceRequestError("x", error=requests.exceptions.ProxyError("no")), False, False),
        (ClientAuthenticationError("no"), False, False),
    ],
)
def test_only_what_can_pass_is_tried_again(error: Exception, passing: bool, throttling: bool) -> None:
    assert (is_passing(error), is_throttling(error)) == (passing, throttling)


def test_every_declared_error_is_raised_somewhere_and_only_those() -> None:
    package = Path(refusals.__file__).parents[1]
    code = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    table = code[code.index("REFUSALS: Mapping") : code.index("Every error of these sources")]
    used = set(re.findall(r'"(FL-[ACSW]\d\d)"', code.replace(table, "")))
    assert used == set(REFUSALS)


# ---- secrets

SECRETS = st.sampled_from([f"sig={CANARY}", f"AccountKey={KEY}", f"Bearer {jwt({'a': 1})}", jwt({"b": 2}), KEY])


@given(
    before=st.text(alphabet="ab/?&;:= ", max_size=8),
    secret=SECRETS,
    after=st.sampled_from(["", "&se=1", " end", '"', "\n"]),
)
def test_no_secret_passes_into_an_error(before: str, secret: str, after: str) -> None:
    for text in (
        redact(f"{before} {secret}{after}"),
        str(declared("FL-S35", f"https://a/{secret}", f"{before} {secret}{after}")),
    ):
        assert not any(each in text for each in (CANARY, KEY, KEY[:40], "eyJhbGci"))


@pytest.mark.parametrize(
    "text",
    [
        f"https://a.blob.core.windows.net/c?sv=1&SIG={CANARY}",
        f"'sig': '{CANARY}'",
        f"sig%3D{CANARY}",
        "http://user:canary4@proxy:3128",
        "client_secret=canary4&x=1",
        "x-identity-header: canary4",
        "Authorization: SharedKey contoso:canary4",
        '{"access_token": "canary4"}',
    ],
)
def test_secrets_in_other_forms(text: str) -> None:
    assert CANARY not in redact(text) and "canary4" not in redact(text)


def test_what_is_no_secret_stays() -> None:
    text = "https://contoso.blob.core.windows.net/logs/flowLogResourceID=/0000_RG/NW/y=2026/m=06: design=1 signal"
    assert redact(text) == text


def test_libraries_that_log_addresses_log_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    accounts.quiet_loggers()
    accounts.quiet_loggers()
    logger = logging.getLogger("urllib3.connectionpool")
    assert len([each for each in logger.filters if type(each).__name__ == "_Redacted"]) == 1
    with caplog.at_level(logging.DEBUG, logger="urllib3.connectionpool"):
        logger.debug('%s "%s %s"', "https://a:443", "GET", f"/c?sig={CANARY}")
    assert "GET /c?sig=***" in caplog.text and CANARY not in caplog.text
