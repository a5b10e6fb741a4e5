"""Where reports are kept: folders and containers alike, with each kind of credential, and who may not write is told what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import flowlens as fl
from flowlens.outputs.places import Place, names, place_of, read, write
from flowlens.sources.accounts import Access, parse_location
from tests.faults.azurite import KEY, SECOND_ACCOUNT, Azurite
from tests.faults.conftest import Stored
from tests.faults.identity import Identity
from tests.faults.loopback import Handler, serving


@pytest.fixture
def container(azurite: Azurite) -> Iterator[Azurite]:
    """The second account of the server, with a container for reports."""
    account = Azurite(azurite.port, account=SECOND_ACCOUNT)
    client = account.container("reports")
    yield account
    client.delete_container()


def by_key(account: Azurite, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("OUT_SECRET", KEY)
    return place_of(
        f"{account.account_url}/reports/kept", Access("key", account_url=account.account_url), "OUT_SECRET", []
    )


def by_sas(account: Azurite, monkeypatch: pytest.MonkeyPatch, permission: str = "rcwl") -> Place:
    monkeypatch.setenv("OUT_SECRET", "?" + account.sas("reports", permission=permission))
    return place_of(
        f"{account.account_url}/reports/kept", Access("sas", account_url=account.account_url), "OUT_SECRET", []
    )


def keeps(place: Place) -> None:
    """A place keeps what is written, replaces it whole, lists one folder of it, and has nothing where nothing was written."""
    assert (read(place, "a/2.json"), names(place, "a")) == (None, [])
    for name, data in (
        ("a/2.json", b"two"),
        ("a/1.json", b"one"),
        ("a/below/x", b"x"),
        ("b/y", b""),
        ("a/2.json", b"2"),
    ):
        assert write(place, name, lambda file, data=data: file.write(data)).endswith(f"kept/{name}")
    assert names(place, "a") == ["1.json", "2.json"]
    assert (read(place, "a/2.json"), read(place, "b/y")) == (b"2", b"")


def test_a_folder_keeps(tmp_path: Path) -> None:
    keeps(place_of(str(tmp_path / "kept"), None, None, []))


@pytest.mark.parametrize("place", [by_key, by_sas])
def test_a_container_keeps(container: Azurite, monkeypatch: pytest.MonkeyPatch, place: object) -> None:
    assert callable(place)
    keeps(place(container, monkeypatch))


def test_an_identity_writes(
    stored_tls: Stored, certificate: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in identity.environment().items():
        monkeypatch.setenv(name, value)
    access = Access("environment", account_url=stored_tls.server.account_url, ca_file=certificate / "server.pem")
    keeps(place_of(f"{stored_tls.url}/kept", access, None, []))


def test_who_may_not_write_is_told_which_role_it_takes(container: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    place = by_sas(container, monkeypatch, permission="rl")
    with pytest.raises(fl.SourceError) as found:
        write(place, "x", lambda file: None)
    assert "whoever writes the report has no right to" in str(found.value)
    assert "Storage Blob Data Contributor on the container reports" in str(found.value)
    assert "sig=" not in str(found.value)


@pytest.mark.parametrize("body", ["<html><body>Please sign in</body></html>", "<a", "", "[]"])
def test_an_answer_that_is_no_list_is_not_an_empty_list(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Instead(Handler):
        def respond(self) -> None:
            self.answer(200, body.encode(), "application/xml")

    monkeypatch.setenv("OUT_SECRET", KEY)
    with serving(Instead) as port:
        account = f"http://127.0.0.1:{port}/contoso"
        place = place_of(f"{account}/reports/kept", Access("key", account_url=account), "OUT_SECRET", [])
        with pytest.raises(fl.SourceError):
            names(place, "a")


def test_a_file_that_fails_half_way_leaves_what_was_there(container: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    place = by_key(container, monkeypatch)
    write(place, "x", lambda file: file.write(b"whole"))

    def half(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise fl.SourceError("x", "no more")

    with pytest.raises(fl.SourceError, match="no more"):
        write(place, "x", half)
    assert read(place, "x") == b"whole"


def test_the_account_of_the_logs_takes_no_report(container: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT_SECRET", KEY)
    access = Access("key", account_url=container.account_url)
    logs = [parse_location(f"{container.account_url}/logs", access)]
    with pytest.raises(fl.ConfigError, match="which holds the logs and is only read"):
        place_of(f"{container.account_url}/reports/x", access, "OUT_SECRET", logs)
