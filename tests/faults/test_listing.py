"""What is asked of an account: only reading and listing, in calls that the prefixes bound, and each account on its own."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from flowlens.cli import DONE, ERROR, INCOMPLETE
from tests.faults.azurite import SECOND_ACCOUNT, Azurite
from tests.faults.conftest import LONG, Stored, options
from tests.faults.proxies import NO_ROLE, Fault, Request, fault_proxy
from tests.faults.writer import DAY, GrowingBlob, blob_name, plain_blob
from tests.flow_logs import run
from tests.make_logs import MACS, vnet_log

FOREIGN = 50_000 if LONG else 1_000


def put_all(stored: Stored, blobs: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: stored.client.upload_blob(*each), blobs.items()))


def day(logs: int, nics: int) -> dict[str, bytes]:
    """One blob per flow log, NIC and hour of two days."""
    blobs = {}
    for log in (vnet_log(f"vnet-{number}") for number in range(logs)):
        for mac in MACS[:nics]:
            for hour in (DAY + dt.timedelta(hours=number) for number in range(48)):
                blobs[blob_name(log, mac, hour)] = plain_blob(log, mac, hour, 1, 1)
    return blobs


@pytest.mark.slow
def test_foreign_blobs_beside_cost_no_calls(stored: Stored) -> None:
    window = ("--start", "2026-06-15T06:00Z", "--end", "2026-06-15T09:00Z")
    put_all(stored, day(logs=2, nics=2))

    def calls() -> list[Request]:
        with fault_proxy(stored.server.host) as proxy:
            url = stored.through(proxy.host)
            ran = run("coverage", url, *options(url), *window, "--format", "json")
        assert ran.code == DONE, ran.err
        # Two flow logs, two NICs, three hours and the one behind them.
        assert ran.document["ledger"]["blobs"] == 16
        assert {request.method for request in proxy.log} <= {"GET", "HEAD"}
        assert len(proxy.of(lambda request: request.is_read)) == 16
        return proxy.of(lambda request: request.is_list)

    before = calls()
    put_all(stored, {f"{'a' if n % 2 else 'z'}-exports/{n}.bin": b"x" for n in range(FOREIGN)})
    after = calls()
    assert sorted(request.path for request in after) == sorted(request.path for request in before)
    # One for each flow log and hour, and those that find the flow logs.
    assert len(after) <= 2 * 4 + 12
    assert not [request for request in after if "exports" in request.path]
    prefixes = [request.query.get("prefix", "") for request in after]
    assert all(prefix.lower().startswith(("flowlogresourceid=", "resourceid=", "resoureid=")) for prefix in prefixes)


def test_a_whole_day_is_listed_by_the_day(stored: Stored) -> None:
    put_all(stored, day(logs=1, nics=1))
    with fault_proxy(stored.server.host) as proxy:
        url = stored.through(proxy.host)
        ran = run(
            "coverage",
            url,
            *options(url),
            "--start",
            "2026-06-15T00:00Z",
            "--end",
            "2026-06-16T00:00Z",
            "--format",
            "json",
        )
    assert ran.document["ledger"]["blobs"] == 25
    ended = [request.query.get("prefix", "").partition("/y=")[2] for request in proxy.log if request.is_list]
    assert sorted(filter(None, ended)) == ["2026/m=06/d=15/", "2026/m=06/d=16/h=00/"]


def test_doctor_reads_no_flow_and_writes_nothing(stored: Stored) -> None:
    blob = GrowingBlob(stored.client, hour=DAY.replace(hour=9)).create(30)
    with fault_proxy(stored.server.host) as proxy:
        url = stored.through(proxy.host)
        ran = run("doctor", url, *options(url), "--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
    assert ran.code == DONE, ran.err
    assert {request.method for request in proxy.log} <= {"GET", "HEAD"}
    reads = proxy.of(lambda request: request.is_read and request.method == "GET")
    assert all(request.range in ("bytes=0-0", "") or request.range.endswith("-0") for request in reads)
    for word in ("account key", "1 flow log(s)", "1 NIC(s)", "1 blob(s)"):
        assert word in ran.out
    assert blob.mac not in ran.err


@pytest.mark.parametrize("refused", ["list", "read"])
def test_of_several_accounts_those_that_can_be_read_are_analysed(azurite: Azurite, refused: str) -> None:
    good = replace(azurite, account=SECOND_ACCOUNT)
    name = f"insights-logs-several-{refused}"
    hour = DAY.replace(hour=9)
    for number, server in enumerate((azurite, good)):
        GrowingBlob(server.container(name), mac=MACS[number], log=vnet_log(f"vnet-{number}"), hour=hour).create(2)

    def plan(request: Request) -> Fault | None:
        wanted = request.is_list if refused == "list" else request.is_read
        return NO_ROLE if wanted and SECOND_ACCOUNT not in request.path else None

    window = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
    with fault_proxy(azurite.host, plan) as proxy:
        urls = [f"http://{proxy.host}/{account}/{name}" for account in (azurite.account, SECOND_ACCOUNT)]
        access = ("--auth", "key", "--account-url", f"http://{proxy.host}", "--format", "json")
        ran = run("coverage", *urls, *access, *window)
        alone = run("coverage", urls[0], *access, *window)
    ledger = ran.document["ledger"]
    assert (ran.code, ledger["unread"], ledger["tuples"]) == (INCOMPLETE, 1, 6), ran.err
    assert not ledger["complete"]
    assert "FL-S10" in ran.out
    assert [row["mac_address"] for row in ran.document["tables"]["coverage"] if row["state"] == "read"] == [MACS[1]]
    assert "FL-S10" in alone.out + alone.err and alone.code == (ERROR if refused == "list" else INCOMPLETE)


def test_the_same_blob_by_two_ways_is_read_once(stored: Stored, tmp_path: Path) -> None:
    GrowingBlob(stored.client, hour=DAY.replace(hour=9)).create(2)
    window = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
    again = f"{stored.url}/flowLogResourceID=/"
    ran = run("coverage", stored.url, again, *options(stored.url), *window, "--format", "json")
    assert (ran.code, ran.document["ledger"]["tuples"]) == (DONE, 6), ran.err
    assert "given twice" in ran.out + ran.err
