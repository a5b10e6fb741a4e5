"""What doctor tells of an account: who reads it and what it may do, what is missing, and what a run would cost."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

from flowlens.cli import DONE, ERROR
from tests.faults.conftest import Stored, options
from tests.faults.proxies import FIREWALL, NO_ROLE, Plan, Refusal, Request, always, connect_proxy, fault_proxy
from tests.faults.writer import DAY, GrowingBlob
from tests.flow_logs import Ran, run
from tests.make_logs import MACS, vnet_log

WINDOW = ("--start", "2026-06-15T08:00Z", "--end", "2026-06-15T10:00Z")

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def logs(stored: Stored) -> Stored:
    """Two flow logs with two NICs each, over three hours; the last lies outside the window but for late records."""
    for number, mac in enumerate(MACS[:4]):
        for hour in (8, 9, 10):
            log = vnet_log(f"vnet-{number % 2}")
            GrowingBlob(stored.client, mac=mac, log=log, hour=DAY.replace(hour=hour)).create(2)
    return stored


def doctor(url: str, *arguments: str | Path) -> Ran:
    return run("doctor", url, *arguments, *WINDOW, columns=400)


def test_it_tells_what_there_is_and_what_a_run_costs_as_the_run_then_does(logs: Stored) -> None:
    with fault_proxy(logs.server.host) as proxy:
        url = logs.through(proxy.host)
        told = doctor(url, *options(url))
        assert told.code == DONE, told.err
        assert not proxy.of(lambda request: request.is_read and request.method == "GET")
        proxy.clear()
        assert run("coverage", url, *options(url), *WINDOW).code == DONE
        reads = len(proxy.of(lambda request: request.is_read))
        lists = len(proxy.of(lambda request: request.is_list))
    size = sum(blob.size for blob in logs.client.list_blobs())
    assert "identity: account key" in told.out
    assert "list: yes" in told.out and "read: yes" in told.out
    assert "127.0.0.1 leads to the private address 127.0.0.1" in told.out
    assert f"2 flow log(s), 4 NIC(s), 3 hour(s), 12 blob(s), {size / 1e6:.1f} MB" in told.out
    assert "hours 2026-06-15T08:00:00+00:00 to 2026-06-15T10:00:00+00:00" in told.out
    assert f"{reads} read and {lists} list operations, {size / 1e9:.2f} GB out of the account" in told.out
    assert re.search(r"a run takes about \d+ s on this machine", told.out)


OLD = (("Date", "Mon, 15 Jun 2026 09:00:00 GMT"),)
MISSING: dict[str, tuple[Plan, str, str, str]] = {
    "role to list": (always(NO_ROLE), "FL-S10", "Storage Blob Data Reader on container", "identity: "),
    "role to read": (
        always(NO_ROLE, lambda request: not request.is_list),
        "FL-S10",
        "Storage Blob Data Reader on container",
        "list: yes",
    ),
    "firewall": (always(FIREWALL), "FL-S11", "leads to the private address 127.0.0.1", "identity: "),
    "clock": (
        always(Refusal(403, "AuthenticationFailed", "Server failed to authenticate.", head=OLD)),
        "FL-S19",
        "set the clock",
        "identity: ",
    ),
    "keys": (always(Refusal(403, "KeyBasedAuthenticationNotPermitted", "No.")), "FL-S15", "--auth", "identity: "),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_told_apart_with_the_next_step(logs: Stored, case: str) -> None:
    plan, code, words, before = MISSING[case]
    with fault_proxy(logs.server.host, plan) as proxy:
        url = logs.through(proxy.host)
        ran = doctor(url, *options(url))
    assert ran.code == ERROR
    first, last = ran.err.splitlines()
    assert code in first and words in first + last
    # What works is told too, and what does not in its place.
    assert before in ran.out and code in ran.out and words in ran.out
    assert "read: yes" not in ran.out


def test_a_signature_that_has_ended_is_told_before_anything_is_asked(logs: Stored) -> None:
    ended = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    with fault_proxy(logs.server.host) as proxy:
        url = logs.through(proxy.host)
        sas = logs.server.sas(logs.name, start=ended - dt.timedelta(hours=1), expiry=ended)
        ran = doctor(f"{url}?{sas}", "--account-url", url.rpartition("/")[0])
        assert not proxy.log
    assert ran.code == ERROR and "FL-S05" in ran.err and f"{ended:%Y-%m-%dT%H:%M}" in ran.err


def test_a_name_that_leads_nowhere_points_to_the_dns_zone() -> None:
    ran = doctor("https://contoso.invalid/logs", "--account-url", "https://contoso.invalid", "--auth", "key")
    assert ran.code == ERROR and "FL-S16" in ran.err and "DNS zone" in ran.err
    assert "network:" not in ran.out


def test_a_proxy_on_the_way_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with connect_proxy(refuse=503) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary@127.0.0.1:{proxy.port}")
        ran = doctor("https://contoso.blob.core.windows.net/logs", "--auth", "key", "--timeout", "1")
    assert ran.code == ERROR and "FL-S21" in ran.err
    assert f"network: through the proxy http://***@127.0.0.1:{proxy.port}" in ran.out
    assert "canary" not in ran.out + ran.err


def test_of_several_accounts_each_is_described(logs: Stored) -> None:
    def plan(request: Request) -> Refusal | None:
        return NO_ROLE if "refused" in request.path else None

    with fault_proxy(logs.server.host, plan) as proxy:
        url = logs.through(proxy.host)
        ran = run("doctor", f"{url.rpartition('/')[0]}/refused", url, *options(url), *WINDOW, columns=400)
    assert ran.code == ERROR and "FL-S10" in ran.err
    assert "FL-S10" in ran.out and "12 blob(s)" in ran.out
