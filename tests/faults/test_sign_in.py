"""Who signs in, and what is said where that fails: one error that names its cause and the next step."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowlens.cli import DONE, ERROR, WRONG_USAGE
from flowlens.sources.accounts import Access, connect, parse_location
from tests.faults.azurite import Azurite, make_certificate
from tests.faults.conftest import Stored
from tests.faults.identity import CLIENT_ID, TENANT, Identity, write_az
from tests.faults.loopback import Handler, serving
from tests.faults.proxies import (
    ARCHIVED,
    FIREWALL,
    NO_ROLE,
    Refusal,
    always,
    connect_proxy,
    fault_proxy,
)
from tests.faults.writer import GrowingBlob
from tests.flow_logs import Ran, run

WINDOW = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
SOON = dt.timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("impatient")


def analyze(url: str, *arguments: str | Path, auth: str = "default", timeout: float = 3) -> Ran:
    account_url = url.partition("?")[0].rpartition("/")[0]
    return run(
        "coverage",
        url,
        "--auth",
        auth,
        "--account-url",
        account_url,
        *arguments,
        *WINDOW,
        "--format",
        "json",
        "--timeout",
        str(timeout),
    )


def refused(ran: Ran, code: str, *words: str, exit_code: int = ERROR) -> None:
    """One line with the error and one with the next step; nothing on stdout."""
    lines = ran.err.rstrip("\n").splitlines()
    assert ran.code == exit_code, ran.err
    assert not ran.stdout
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("  hint: "), ran.err
    assert code in lines[0]
    for word in words:
        assert word in ran.err


@pytest.fixture
def blob_tls(stored_tls: Stored) -> Stored:
    GrowingBlob(stored_tls.client).create(2)
    return stored_tls


@pytest.fixture
def blob(stored: Stored) -> Stored:
    GrowingBlob(stored.client).create(2)
    return stored


@pytest.fixture
def way(
    request: pytest.FixtureRequest, identity: Identity, monkeypatch: pytest.MonkeyPatch, own_environment: Path
) -> Iterator[str]:
    """The machine set up for one way to sign in; its name."""
    if request.param == "environment":
        variables = identity.environment()
    elif request.param == "managed-identity":
        variables = identity.managed_identity()
    else:
        write_az(own_environment)
        variables = {}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return request.param


KINDS = {
    "environment": "EnvironmentCredential",
    "managed-identity": "ManagedIdentityCredential",
    "cli": "AzureCliCredential",
}


@pytest.mark.parametrize("chain", [True, False], ids=["default", "named"])
@pytest.mark.parametrize("way", KINDS, indirect=True)
def test_each_identity_signs_in_and_is_named(blob_tls: Stored, identity: Identity, way: str, chain: bool) -> None:
    ran = analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file, auth="default" if chain else way)
    assert ran.code == DONE, ran.err
    assert ran.document["ledger"]["blobs"] == 1
    said = " ".join(ran.document["settings"]["identities"])
    assert KINDS[way] in said and CLIENT_ID in said and TENANT in said
    assert len(identity.issued) == (0 if way == "cli" else 1)


@pytest.mark.parametrize("way", KINDS, indirect=True)
def test_no_token_is_sent_before_the_certificate_is_trusted(blob_tls: Stored, way: str, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path)
    refused(analyze(blob_tls.url, "--ca-file", other, auth=way), "FL-S20", "--ca-file")


def test_the_chain_tells_a_sign_in_service_that_is_not_trusted(
    blob_tls: Stored, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in identity.environment().items():
        monkeypatch.setenv(name, value)
    refused(analyze(blob_tls.url), "FL-S20", "sign-in service", "--ca-file")


def test_the_wrong_tenant_is_named(blob_tls: Stored, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in identity.environment(tenant="22222222-2222-3333-4444-555555555555").items():
        monkeypatch.setenv(name, value)
    refused(analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file, auth="environment"), "FL-S09", "tenant")
    refused(analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file), "FL-S09", "tenant")


def test_a_wrong_client_secret_is_named(blob_tls: Stored, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in identity.environment(secret="canary-that-is-wrong").items():
        monkeypatch.setenv(name, value)
    ran = analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file)
    refused(ran, "FL-S09", "AADSTS7000215", "secret")
    assert "canary" not in ran.err


def test_a_token_of_another_tenant_is_refused_by_the_account(
    blob_tls: Stored, own_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_az(own_environment)
    program = own_environment / "az"
    program.write_text(program.read_text().replace('"accessToken": "', '"accessToken": "x'))
    refused(analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file, auth="cli"), "FL-S14", "--cloud")


def test_who_is_not_signed_in_is_told_how(blob_tls: Stored, own_environment: Path) -> None:
    write_az(own_environment, signed_in=False)
    ca_file = blob_tls.server.ca_file
    refused(analyze(blob_tls.url, "--ca-file", ca_file, auth="cli"), "FL-S07", "az login")
    refused(analyze(blob_tls.url, "--ca-file", ca_file, auth="environment"), "FL-S07", "--auth")


def test_an_identity_that_never_answers_ends_at_the_deadline(blob_tls: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Handler):
        def respond(self) -> None:
            self.connection.recv(1)

    with serving(Silent) as port:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{port}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "x")
        began = time.monotonic()
        refused(analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file, timeout=0.2), "FL-S08", "1.2 s", "--auth")
    assert time.monotonic() - began < 30


def test_a_token_never_goes_over_plain_http(blob: Stored, own_environment: Path) -> None:
    write_az(own_environment)
    refused(analyze(blob.url, auth="cli"), "FL-S02", "https", exit_code=WRONG_USAGE)


# Keys and shared access signatures


def test_a_wrong_key_is_told(blob: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "Y2FuYXJ5" * 10 + "YWJjZGVmZw==")
    ran = analyze(blob.url, auth="key")
    refused(ran, "FL-S12", "AZURE_STORAGE_KEY")
    assert "Y2FuYXJ5" not in ran.err


@pytest.mark.parametrize(("key", "code"), [("", "FL-S03"), ("not a key", "FL-S12")])
def test_a_key_that_can_be_none_is_told(blob: Stored, monkeypatch: pytest.MonkeyPatch, key: str, code: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", key)
    exit_code = WRONG_USAGE if code == "FL-S03" else ERROR
    refused(analyze(blob.url, auth="key"), code, "AZURE_STORAGE_KEY", exit_code=exit_code)


@pytest.mark.parametrize("place", ["address", "variable", "connection string"])
def test_a_shared_access_signature_reads(blob: Stored, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    sas = blob.server.sas(blob.name)
    url, auth = blob.url, "sas"
    if place == "address":
        url, auth = f"{blob.url}?{sas}", "default"
    elif place == "variable":
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas)
    else:
        text = f"BlobEndpoint={blob.server.account_url};AccountName={blob.server.account};SharedAccessSignature={sas}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        auth = "connection-string"
    ran = analyze(url, auth=auth)
    assert ran.code == DONE and ran.document["ledger"]["blobs"] == 1, ran.err
    assert sas.partition("sig=")[2].partition("&")[0] not in ran.out + ran.err


def test_the_key_of_a_connection_string_reads(blob: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", blob.server.connection_string)
    assert analyze(blob.url, auth="connection-string").code == DONE


def test_a_signature_that_has_ended_or_not_begun_is_told(blob: Stored) -> None:
    now = dt.datetime.now(dt.UTC)
    ended = blob.server.sas(blob.name, start=now - 2 * SOON, expiry=now - SOON)
    refused(analyze(f"{blob.url}?{ended}"), "FL-S05", "new one")
    later = blob.server.sas(blob.name, start=now + SOON, expiry=now + 2 * SOON)
    refused(analyze(f"{blob.url}?{later}"), "FL-S06")


def test_a_signature_that_is_not_for_reading_and_listing_is_told(blob: Stored) -> None:
    refused(analyze(f"{blob.url}?{blob.server.sas(blob.name, permission='r')}"), "FL-S04", "list")
    refused(analyze(f"{blob.url}?{blob.server.sas('another-container')}"), "FL-S13", "sp=rl")
    changed = blob.server.sas(blob.name).replace("sig=", "sig=A")
    refused(analyze(f"{blob.url}?{changed}"), "FL-S13")


def test_a_signature_that_ends_while_it_is_used_is_told_as_that(blob: Stored) -> None:
    # A second from now: the words of the token still say that it is valid when the run begins.
    refusal = Refusal(
        403, "AuthenticationFailed", "Server failed to authenticate the request. Signature not valid in the time frame"
    )
    with fault_proxy(blob.server.host, always(refusal, lambda request: request.is_read)) as proxy:
        ran = analyze(f"{blob.through(proxy.host)}?{blob.server.sas(blob.name)}")
    assert ran.code in (ERROR, 4)
    assert "FL-S13" in ran.out + ran.err


# What the account says


def test_a_container_that_is_not_there_is_told(azurite: Azurite) -> None:
    refused(analyze(f"{azurite.account_url}/no-such-container", auth="key"), "FL-S18", "insights-logs-flowlogflowevent")


REFUSALS = {
    "no role": (NO_ROLE, "FL-S10", "Storage Blob Data Reader"),
    "firewall": (FIREWALL, "FL-S11", "network"),
    "no keys": (
        Refusal(403, "KeyBasedAuthenticationNotPermitted", "Key based authentication is not permitted."),
        "FL-S15",
        "cli",
    ),
    "disabled": (Refusal(409, "AccountIsDisabled", "The specified account is disabled."), "FL-S36", "subscription"),
    "being deleted": (Refusal(409, "ContainerBeingDeleted", "The specified container is being deleted."), "FL-S18", ""),
    "unknown": (Refusal(418, "NeverHeardOf", "Something new."), "FL-S35", "NeverHeardOf"),
    "no code": (Refusal(403), "FL-S35", "403"),
    "clock": (
        Refusal(
            403,
            "AuthenticationFailed",
            "Server failed to authenticate.",
            head=(("Date", "Mon, 15 Jun 2026 09:00:00 GMT"),),
        ),
        "FL-S19",
        "clock",
    ),
    "proxy": (Refusal(407), "FL-S21", "HTTPS_PROXY"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_account_refuses_is_told_apart_and_asked_once(blob: Stored, case: str) -> None:
    refusal, code, word = REFUSALS[case]
    with fault_proxy(blob.server.host, always(refusal)) as proxy:
        refused(analyze(blob.through(proxy.host), auth="key"), code, word)
        assert len(proxy.log) == 1


def test_a_redirect_is_not_followed(blob: Stored) -> None:
    asked: list[str] = []

    class Elsewhere(Handler):
        def respond(self) -> None:
            asked.append(self.path)
            self.answer(200, b"")

    with serving(Elsewhere) as port:
        for status in (301, 302, 307, 308):
            redirect = Refusal(status, location=f"http://127.0.0.1:{port}/stolen")
            for wanted in (lambda request: request.is_list, lambda request: request.is_read):
                with fault_proxy(blob.server.host, always(redirect, wanted)) as proxy:
                    ran = analyze(blob.through(proxy.host), auth="key")
                assert "FL-S25" in ran.out + ran.err and ran.code in (ERROR, 4)
    assert not asked


def test_a_server_that_nobody_runs_is_told(blob: Stored) -> None:
    with serving(Handler) as port:
        pass
    refused(analyze(blob.through(f"127.0.0.1:{port}"), auth="key"), "FL-S17", "firewall")


def test_a_blob_in_the_archive_tier_is_left_out_and_told(blob: Stored) -> None:
    with fault_proxy(blob.server.host, always(ARCHIVED, lambda request: request.is_read)) as proxy:
        ran = analyze(blob.through(proxy.host), auth="key")
    assert ran.code == 4
    assert "FL-S27" in ran.out and ran.document["ledger"]["unread"] == 1


# Through a proxy


def test_https_proxy_is_used_and_its_certificate_must_be_given(
    blob_tls: Stored, own_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_az(own_environment)
    with connect_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary-proxy-password@127.0.0.1:{proxy.port}")
        ran = analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file, auth="cli")
        assert ran.code == DONE, ran.err
        assert proxy.log and set(proxy.log) == {blob_tls.server.host}
        assert all(proxy.credentials)
        refused(analyze(blob_tls.url, auth="cli"), "FL-S20", "--ca-file")
        assert "canary" not in ran.out + ran.err


def test_a_proxy_that_refuses_is_told(blob_tls: Stored, own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_az(own_environment)
    with connect_proxy(refuse=407) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary-proxy-password@127.0.0.1:{proxy.port}")
        ran = analyze(blob_tls.url, "--ca-file", blob_tls.server.ca_file, auth="cli")
        refused(ran, "FL-S21", "HTTPS_PROXY")
        assert "canary" not in ran.err


ODD_NAMES = ("a b/c", "ü%41+~&=#?/x", "a//b", "'()*!,;:@$[]", "x.", "%2F%5c")


@pytest.mark.parametrize("auth", ["key", "sas"])
def test_blobs_of_any_name_are_read(stored: Stored, monkeypatch: pytest.MonkeyPatch, auth: str) -> None:
    """The server recomputes what was signed from what it was asked."""
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", stored.server.sas(stored.name))
    access = Access(auth=auth, account_url=stored.server.account_url)
    reads = connect(parse_location(stored.url, access), access).reads
    for name in ODD_NAMES:
        etag = stored.client.upload_blob(name, name.encode()).get_blob_properties().etag
        with reads.range(name, 0, len(name.encode()), etag) as (_, pieces):
            assert b"".join(pieces) == name.encode()
