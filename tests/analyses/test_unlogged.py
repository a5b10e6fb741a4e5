"""Workloads that only the inventory knows: no flow log covers them, so nothing is claimed about them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

import flowlens as fl
from tests.flow_logs import CONTAINER, NIC, SUBSCRIPTION, flow_tuple, record, write_blob

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
