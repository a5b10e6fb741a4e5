"""Servers that the tests of storage share: one of each per worker, started when a test first asks for it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import ContainerClient

from flowlens.sources import ranges, storage
from tests.faults.azurite import KEY, Azurite, running
from tests.faults.identity import Identity, identity_server

# `make faults` runs the long form of each test.
LONG = bool(os.environ.get("FAULTS_LONG"))
_FOREIGN = ("AZURE_", "IDENTITY_", "IMDS_", "MSI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FLOWLENS_")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Stored:
    """A container of a running server."""

    server: Azurite
    name: str
    client: ContainerClient

    @property
    def url(self) -> str:
        """What flowlens is given to read it."""
        return f"{self.server.account_url}/{self.name}"

    def through(self, host: str) -> str:
        """The same by way of a proxy at ``host:port``."""
        return self.url.replace(self.server.host, host)


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """A blob server over plain http. A server that can't be started fails the test that asks."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the certificate that the servers over TLS share: ``server.pem`` and ``server.key``."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="session")
def azurite_tls(certificate: Path) -> Iterator[Azurite]:
    """A blob server over TLS, which takes bearer tokens too."""
    with running(tls=certificate) as server:
        yield server


@pytest.fixture
def identity(azurite_tls: Azurite, certificate: Path) -> Iterator[Identity]:
    """An identity server with the certificate of the blob server."""
    with identity_server((certificate / "server.pem", certificate / "server.key")) as server:
        yield server


@pytest.fixture
def stored(azurite: Azurite) -> Iterator[Stored]:
    """An empty container of the http server."""
    yield from _stored(azurite)


@pytest.fixture
def stored_tls(azurite_tls: Azurite) -> Iterator[Stored]:
    """An empty container of the server over TLS."""
    yield from _stored(azurite_tls)


def _stored(server: Azurite) -> Iterator[Stored]:
    # Named as Azure names it, so that blobs have the names that the same files on disk have.
    name = f"insights-logs-flowlogflowevent-{next(_numbers)}"
    client = server.container(name)
    yield Stored(server, name, client)
    client.delete_container()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing of the machine's identities and proxies reaches a test; the folder is the only one on PATH."""
    for name in os.environ:
        if name.upper().startswith(_FOREIGN):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    programs = home / "bin"
    programs.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(programs))
    # Where the address of the metadata service would be asked; nothing listens on this port.
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    return programs


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are short, those of the libraries too."""
    for module in (ranges, storage):
        for name in ("_FIRST_WAIT", "_LONGEST_WAIT"):
            monkeypatch.setattr(module, name, getattr(module, name) / 100)
    monkeypatch.setattr(RequestsTransport, "sleep", lambda _self, seconds: time.sleep(seconds / 100))


def options(url: str, timeout: float = 5) -> tuple[str, ...]:
    """The options by which the command line reads ``url`` with the account's key."""
    return "--auth", "key", "--account-url", url.rpartition("/")[0], "--timeout", str(timeout)
