"""Workloads that only the inventory knows: no flow log covers them, so nothing is claimed about them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

import flowlens as fl
from tests.flow_logs import CONTAINER, HOUR, NIC, SUBSCRIPTION, flow_tuple, record, write_blob

LATER = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("vnet", [f"{SUBSCRIPTION}/rg-a/vnet-a", f"{SUBSCRIPTION}/rg-a/vnet-mi"])
def test_a_nic_without_a_flow_log_is_not_observable(tmp_path: Path, vnet: str) -> None:
    write_blob(tmp_path, record([flow_tuple("10.0.0.4", "203.0.113.7", 443)]))
    inventory = tmp_path / "inventory.csv"
    inventory.write_text(
        f"vnet,address,mac_address,workload,subnet\n{SUBSCRIPTION}/rg-a/vnet-a,10.0.0.4,{NIC},vm-a,web\n"
        f"{vnet},10.0.9.4,00005E0053AA,sql-mi,mi\n",
        encoding="utf-8",
    )
    scan = fl.scan(tmp_path / CONTAINER, inventory_file=inventory, now=LATER)
    table = fl.denied_egress(scan, profiles=["windows-kms"]).collect().to_dicts()
    statuses = {row["workload"]: row["status"] for row in table if row["endpoint"] == "KMS activation"}
    assert statuses == {"vm-a": "Not seen", "sql-mi": "Not observable"}


KMS = "20.118.99.224"


def verdict(folder: Path, state: str, *unlogged: str) -> fl.Verdict:
    """The verdict on activation: one logged NIC talks to its server, the inventory knows ``unlogged`` addresses too."""
    write_blob(folder, record([flow_tuple("10.0.0.4", KMS, 1688, state)]))
    inventory = folder / "inventory.csv"
    rows = [f"{SUBSCRIPTION}/rg-a/vnet-a,{address},,vm-{address},web" for address in unlogged]
    inventory.write_text("\n".join(["vnet,address,mac_address,workload,subnet", *rows, ""]), encoding="utf-8")
    scan = fl.scan(folder / CONTAINER, inventory_file=inventory, now=LATER)
    return fl.report(scan, questions=["denied_egress"], profiles=["windows-kms"]).verdicts["denied_egress"]


def test_an_endpoint_that_some_workload_needs_unobserved_is_no_pass(tmp_path: Path) -> None:
    found = verdict(tmp_path, "E", "10.0.9.4", "10.0.9.5")
    assert found.status == "not_determined"
    assert "1 reached, 2 not observable since no flow log covers their workloads, 0 cannot be told" in found.text


def test_what_fails_is_found_beside_what_nobody_observes(tmp_path: Path) -> None:
    found = verdict(tmp_path, "D", "10.0.9.4")
    assert found.status == "findings"
    assert "1 not observable" in found.text


def test_without_unobserved_workloads_there_is_no_word_of_them(tmp_path: Path) -> None:
    found = verdict(tmp_path, "E")
    assert (found.status, "not observable" in found.text) == ("ok", False)


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_change_outside_the_hours_of_a_log_takes_no_log_away(tmp_path: Path, hours: int) -> None:
    write_blob(tmp_path, record([flow_tuple("10.0.0.4", KMS, 1688)]))
    scan = fl.scan(tmp_path, now=LATER, changed_at=HOUR + dt.timedelta(hours=hours))
    parts = (scan.before_change(), scan.after_change())
    found = [fl.denied_egress(part, profiles=["windows-kms"]).collect() for part in parts]
    statuses = [table.filter(endpoint="KMS activation")["status"].to_list() for table in found]
    assert sorted(statuses) == [["Cannot tell"], ["Reached"]]
