"""A query API on loopback that the tests of workspaces share, and an identity that it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowlens.sources import slices
from tests.faults.azurite import make_certificate
from tests.faults.identity import Identity, identity_server
from tests.workspace.server import Logs, logs_server, newer_table

_FOREIGN = ("AZURE_", "IDENTITY_", "IMDS_", "MSI_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FLOWLENS_")


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of the servers."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def identity(tls: tuple[Path, Path]) -> Iterator[Identity]:
    """An identity server."""
    with identity_server(tls) as server:
        yield server


@pytest.fixture
def logs(tls: tuple[Path, Path], identity: Identity, monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    """A workspace with an empty NTANetAnalytics; who asks signs in by the environment."""
    for name in os.environ:
        if name.upper().startswith(_FOREIGN):
            monkeypatch.delenv(name)
    for name, value in identity.environment().items():
        monkeypatch.setenv(name, value)
    # Waits between tries are short; what a server asks for is waited out all the same.
    for name in ("_FIRST_WAIT", "_LONGEST_WAIT"):
        monkeypatch.setattr(slices, name, getattr(slices, name) / 1000)
    with logs_server(tls, [newer_table()]) as server:
        yield server
