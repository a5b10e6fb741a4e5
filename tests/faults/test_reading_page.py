"""What docs/reading.md says of storage accounts runs, against a real server over TLS, with each identity that it names."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from pathlib import Path

import pytest

from flowlens.cli import DONE
from flowlens.sources.accounts import AUTHS
from tests.faults.conftest import Stored
from tests.faults.identity import Identity
from tests.faults.proxies import connect_proxy
from tests.faults.writer import DAY, GrowingBlob
from tests.flow_logs import TOP, run

PAGE = (TOP / "docs" / "reading.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Straight from a storage account")[2].partition("\n## ")[0]


def commands() -> list[str]:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    return block.splitlines()


@pytest.mark.parametrize("line", commands())
def test_each_command_runs(
    line: str, stored_tls: Stored, identity: Identity, monkeypatch: pytest.MonkeyPatch, own_environment: Path
) -> None:
    # One blob of the day that is named, and one of the last 24 hours, which are those without a window.
    lately = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=3)
    for hour in (DAY.replace(hour=9), lately):
        GrowingBlob(stored_tls.client, hour=hour).create(2)
    for name, value in identity.managed_identity().items():
        monkeypatch.setenv(name, value)
    with connect_proxy() as proxy:
        words = shlex.split(line)
        if words[0].startswith("HTTPS_PROXY="):
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            words = words[1:]
        program, command, source, *rest = words
        assert (program, source) == ("flowlens", "https://ACCOUNT.blob.core.windows.net/insights-logs-flowlogflowevent")
        place = source.replace("ACCOUNT", stored_tls.server.account).rpartition("/")[0]
        # The account of the example is read at the server of the tests, whose certificate is not one that all trust.
        rest = [word for word in rest if word not in ("--ca-file", "ca.pem")]
        own = ("--account-url", stored_tls.server.account_url, "--ca-file", stored_tls.server.ca_file)
        ran = run(command, f"{place}/{stored_tls.name}", *rest, *own)
        assert ran.code == DONE, ran.err
        assert bool(proxy.log) == line.startswith("HTTPS_PROXY=")
    assert "ManagedIdentityCredential" in ran.out or command == "analyze"


def test_every_way_to_sign_in_is_named() -> None:
    assert [auth for auth in AUTHS if auth not in SECTION] == []
