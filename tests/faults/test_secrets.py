"""No secret in any byte that is written, whatever happens and however much the libraries say."""

from __future__ import annotations

import base64
import io
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.faults.azurite import KEY, make_certificate
from tests.faults.conftest import LONG, Stored
from tests.faults.identity import CLIENT_SECRET, IDENTITY_HEADER, Identity, write_az
from tests.faults.proxies import (
    INTERNAL,
    NO_ROLE,
    Broken,
    Fault,
    Refusal,
    always,
    connect_proxy,
    fault_proxy,
    no_faults,
)
from tests.faults.writer import DAY, GrowingBlob
from tests.flow_logs import run

WINDOW = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
FAULTS: dict[str, Fault | None] = {
    "none": None,
    "refused": NO_ROLE,
    "wrong": Refusal(
        403, "AuthenticationFailed", "The MAC signature found in the request is not the same as any computed"
    ),
    "broken": INTERNAL,
    "cut": Broken("cut", 40),
    "cut in the body": Broken("cut", -3),
    "reset": Broken("reset"),
}

pytestmark = pytest.mark.usefixtures("impatient")


@contextmanager
def everything_logged() -> Iterator[io.StringIO]:
    """What the program and all libraries log at the lowest level, with the tracebacks."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root = logging.getLogger()
    before = root.level
    names = [
        name for name in logging.root.manager.loggerDict if name.startswith(("azure", "msal", "urllib3", "requests"))
    ]
    levels = {name: logging.getLogger(name).level for name in names}
    root.addHandler(handler)
    root.setLevel(1)
    for name in names:
        logging.getLogger(name).setLevel(1)
    try:
        yield said
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def written(*arguments: str | Path, folder: Path) -> str:
    """Everything that one run writes: both outputs, its log at the lowest level, and its files."""
    with everything_logged() as logged:
        ran = run(*arguments, "-o", folder / "report.json", "--timeout", "1", *WINDOW)
    assert "urllib3" in logged.getvalue() or "msal" in logged.getvalue() or logged.getvalue(), "nothing was logged"
    files = [path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()]
    return "\n".join([ran.out, ran.err, logged.getvalue(), *files])


def absent(said: str, *secrets: str) -> None:
    for secret in secrets:
        assert secret
        for form in {secret, unquote(secret), base64.b64encode(secret.encode()).decode()}:
            at = said.find(form)
            assert at < 0, f"a secret was written: ...{said[max(0, at - 200) : at]}[{form[:6]}...]"


def signature_of(sas: str) -> str:
    return sas.partition("sig=")[2].partition("&")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir()
    return made


@pytest.mark.parametrize("fault", FAULTS)
def test_a_key_and_a_signature_are_never_written(stored: Stored, folder: Path, fault: str) -> None:
    GrowingBlob(stored.client, hour=DAY.replace(hour=9)).create(2)
    sas = stored.server.sas(stored.name)
    strike = FAULTS[fault]
    with fault_proxy(stored.server.host, always(strike) if strike else no_faults) as proxy:
        url = stored.through(proxy.host)
        base = ("--account-url", url.rpartition("/")[0])
        by_key = written("analyze", url, "--auth", "key", *base, folder=folder)
        by_sas = written("analyze", f"{url}?{sas}", *base, folder=folder)
    # The library that writes whole addresses did so, or nothing was tested.
    assert "sig=***" in by_sas
    absent(by_key + by_sas, KEY, signature_of(sas))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("flowlens.sources.storage", "_Sieve"),
        ("flowlens.sources.ranges", "_wait"),
        ("flowlens.selecting", "list_blobs"),
        ("flowlens.selecting", "Reader"),
    ],
)
def test_a_traceback_holds_no_secret(
    stored: Stored, folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    """A fault of the program itself, told with what its functions were given and with all of its own objects on the way."""
    GrowingBlob(stored.client, hour=DAY.replace(hour=9)).create(2)
    sas = stored.server.sas(stored.name)

    def crash(*arguments: object, **options: object) -> None:
        raise RuntimeError(f"crashed with {arguments} and {options}")

    monkeypatch.setattr(import_module(module), name, crash)
    with fault_proxy(stored.server.host, always(INTERNAL, lambda request: request.is_read)) as proxy:
        url = f"{stored.through(proxy.host)}?{sas}"
        with everything_logged() as logged, pytest.raises(RuntimeError, match="crashed with") as caught:
            run("coverage", url, "--account-url", url.partition("/insights")[0], *WINDOW)
    said = [logged.getvalue(), *traceback.format_exception(caught.value)]
    for frame, _ in traceback.walk_tb(caught.tb):
        own = frame.f_globals.get("__name__", "").startswith("flowlens.")
        said += [
            repr(value) for value in frame.f_locals.values() if own and type(value).__module__.startswith("flowlens")
        ]
    absent("\n".join(said), KEY, signature_of(sas))


def test_tokens_client_secrets_and_proxy_passwords_are_never_written(
    stored_tls: Stored,
    identity: Identity,
    folder: Path,
    own_environment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    GrowingBlob(stored_tls.client, hour=DAY.replace(hour=9)).create(2)
    right = stored_tls.server.ca_file
    wrong, _ = make_certificate(tmp_path / "other")
    write_az(own_environment)
    token = (own_environment / "az").read_text().partition('"accessToken": "')[2].partition('"')[0]
    base = ("coverage", stored_tls.url, "--account-url", stored_tls.server.account_url)
    said = []

    def go(auth: str, ca_file: Path, **variables: str) -> None:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            said.append(written(*base, "--auth", auth, "--ca-file", ca_file, folder=folder))

    with connect_proxy() as proxy:
        through = {"HTTPS_PROXY": f"http://user:canary-proxy-password@127.0.0.1:{proxy.port}"}
        go("environment", right, **identity.environment())
        go("environment", right, **identity.environment(secret="canary-wrong-secret"))
        go("managed-identity", right, **identity.managed_identity())
        go("cli", right, **through)
        go("cli", wrong, **through)
        if LONG:
            go("default", wrong, **identity.environment(), **through)
    assert len(identity.issued) >= 2 and proxy.log
    secrets = (CLIENT_SECRET, "canary-wrong-secret", IDENTITY_HEADER, "canary-proxy-password", token, *identity.issued)
    absent("\n".join(said), *secrets)
