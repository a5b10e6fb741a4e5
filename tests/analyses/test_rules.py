"""What kind a rule is, and which flows depend on one."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import flowlens as fl
from flowlens import schema
from flowlens.analyses.rules import kind_of
from tests.flow_logs import HOUR, NIC, OTHER_NIC, SAMPLE, flow_tuple, record, run, vnet_id, write_blob

NSG = "/subscriptions/s/resourceGroups/r/providers/Microsoft.Network/networkSecurityGroups/nsg-a"
MI = "Microsoft.Sql-managedInstances_UseOnly_mi-"
AZURE_OUT = f"{MI}optional-azure-out"
LATER = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("rule", "acl", "kind"),
    [
        (AZURE_OUT, NSG, "sql-mi-optional"),
        # Anything with the optional prefix is optional, also what looks mandatory after it.
        (f"{MI}optional-internal-out", NSG, "sql-mi-optional"),
        (f"{MI}optional-azure-out-10-0-0-0-27", NSG, "sql-mi-optional"),
        (f"{MI}healthprobe-in", NSG, "sql-mi-mandatory"),
        (f"{MI}internal-in", NSG, "sql-mi-mandatory"),
        (f"{MI}internal-out-10-0-0-0-27-v11", NSG, "sql-mi-mandatory"),
        (f"{MI}internal-outside", NSG, "sql-mi-obsolete"),
        (f"{MI}aad-out-10-0-0-0-27-v11", NSG, "sql-mi-obsolete"),
        (f"{MI}strg-p-out-10-0-0-0-27-v11", NSG, "sql-mi-obsolete"),
        (MI, NSG, "sql-mi-obsolete"),
        (MI.rstrip("-"), NSG, "user"),
        ("AllowVnetInBound", NSG, "default"),
        ("BlockRdp", "00000000-0000-0000-0000-0000000000a1", "admin"),
        ("PlatformRule", schema.ZERO_GUID, "platform"),
        ("unspecified", "unspecified", "encryption"),
        ("unspecified", NSG, "user"),
        (None, None, "user"),
    ],
)
@pytest.mark.parametrize("logged", ["as it is", "with the log's prefix", "in lower case"])
def test_kind_of_a_rule(rule: str | None, acl: str | None, kind: str, logged: str) -> None:
    if rule and logged == "in lower case":
        rule, acl = rule.lower(), acl and acl.lower()
    if rule and logged == "with the log's prefix" and (acl == NSG and kind != "default"):
        rule = f"UserRule_{rule}"
    assert kind_of(rule, acl) == kind


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two NICs; one under a user rule and an optional rule of SQL Managed Instance, the other under a default rule."""
    folder = tmp_path_factory.mktemp("logs")
    write_blob(
        folder,
        record(
            [
                flow_tuple("10.0.0.4", "203.0.113.7", 443, counters=(5, 600, 4, 6000), minute=1),
                flow_tuple("10.0.0.4", "203.0.113.7", 443, counters=(1, 60, 1, 40), minute=9, src_port=50001),
                flow_tuple("10.0.0.4", "203.0.113.8", 443, minute=2, src_port=50002),
            ],
            rule="UserRule_AllowWeb",
            acl=NSG,
        ),
        record([flow_tuple("10.0.0.4", "203.0.113.9", 443, src_port=50003)], rule=f"UserRule_{AZURE_OUT}", acl=NSG),
        record([flow_tuple("10.0.0.4", "203.0.113.9", 22, "D")] * 2, rule="UserRule_DenyOut", acl=NSG),
        record([flow_tuple("198.51.100.1", "10.0.0.4", 3389, "D", direction="I")], rule="UserRule_DenyOut", acl=NSG),
    )
    other = record([flow_tuple("10.0.0.5", "203.0.113.7", 443)], mac=OTHER_NIC)
    write_blob(folder, other, mac=OTHER_NIC)
    return folder


@pytest.fixture(scope="module")
def scan(logs: Path) -> fl.Scan:
    return fl.scan(logs, now=LATER)


def rows(scan: fl.Scan, rule: str) -> list[dict[str, Any]]:
    return fl.rule_dependencies(scan, rule).collect().to_dicts()


@pytest.mark.parametrize("name", ["AllowWeb", "allowweb", "UserRule_AllowWeb", "userrule_allowweb", "  AllowWeb "])
def test_flows_that_a_rule_decided(scan: fl.Scan, name: str) -> None:
    found = [
        {column: row[column] for column in ("peer", "port", "protocol", "direction", "flow_status", "flows", "bytes")}
        for row in rows(scan, name)
    ]
    way = {"port": 443, "protocol": "TCP", "direction": "Outbound", "flow_status": "Allowed"}
    assert found == [
        {"peer": "203.0.113.7", **way, "flows": 2, "bytes": 6700},
        {"peer": "203.0.113.8", **way, "flows": 1, "bytes": 6600},
    ]
    first = rows(scan, name)[0]
    assert (first["acl_id"], first["acl_rule"], first["rule_kind"]) == (NSG, "AllowWeb", "user")
    assert first["workload"] == f"10.0.0.4 ({NIC})"
    assert (first["first_seen"], first["last_seen"]) == tuple(HOUR + dt.timedelta(minutes=m) for m in (1, 9))


def test_denied_flows_count_and_inbound_peers_are_their_sources(scan: fl.Scan) -> None:
    found = {(row["direction"], row["peer"], row["port"], row["flows"], row["bytes"]) for row in rows(scan, "DenyOut")}
    assert found == {("Outbound", "203.0.113.9", 22, 2, None), ("Inbound", "198.51.100.1", 3389, 1, None)}
    assert {row["flow_status"] for row in rows(scan, "DenyOut")} == {"Denied"}


def test_optional_stands_for_the_optional_rules_of_sql_managed_instance(scan: fl.Scan) -> None:
    (row,) = rows(scan, "optional")
    assert (row["acl_rule"], row["rule_kind"], row["peer"]) == (AZURE_OUT, "sql-mi-optional", "203.0.113.9")
    assert rows(scan, AZURE_OUT) == [row]
    assert rows(scan, "Optional") == [row]


def test_every_flow_of_a_rule_is_listed(scan: fl.Scan) -> None:
    for usage in fl.rule_usage(scan).collect().to_dicts():
        found = [r for r in rows(scan, usage["acl_rule"]) if r["direction"] == usage["direction"]]
        assert sum(row["flows"] for row in found) == usage["flows_allowed"] + usage["flows_denied"]
        assert {row["rule_kind"] for row in found} == {usage["rule_kind"]}


def test_several_flow_logs_of_a_nic_count_once(tmp_path: Path) -> None:
    for target in (vnet_id(), f"{vnet_id()}/subnets/web"):
        only = record([flow_tuple("10.0.0.4", "203.0.113.7", 443)], rule="UserRule_A", target=target)
        path = write_blob(tmp_path / target.rsplit("/", 1)[-1], only)
        assert path.exists()
    (row,) = rows(fl.scan(tmp_path, now=LATER), "A")
    assert row["flows"] == 1


@pytest.mark.parametrize("rule", ["AllowWeeb", "optional", "Nothing-like-it", "x'; DROP TABLE", "Sql*"])
def test_a_rule_without_a_logged_flow_is_not_observable(tmp_path: Path, rule: str) -> None:
    write_blob(tmp_path, record([flow_tuple("10.0.0.4", "203.0.113.7", 443)], rule="UserRule_AllowWeb"))
    (row,) = rows(fl.scan(tmp_path, now=LATER), rule)
    assert (row["status"], row["acl_rule"], row["flows"], row["peer"]) == ("Not observable", rule, 0, None)
    assert "lower priority decide, after the admin rules" in row["note"]
    assert "safe" not in row["note"]
    assert ("AllowWeb" in row["note"]) == (rule == "AllowWeeb")


def test_an_empty_log_is_not_observable_either(tmp_path: Path) -> None:
    (row,) = rows(fl.scan(tmp_path), "AllowWeb")
    assert row["status"] == "Not observable"


def test_nics_without_a_flow_log_are_told(logs: Path, tmp_path: Path) -> None:
    scope = vnet_id().split("/")
    vnet = "/".join((scope[2], scope[4], scope[-1])).lower()
    inventory = tmp_path / "inventory.csv"
    inventory.write_text(
        "vnet,address,mac_address,workload,subnet\n"
        f"{vnet},10.0.0.4,{NIC},vm-a,web\n{vnet},10.0.0.9,00005E0053AA,vm-z,web\n{vnet},10.0.1.9,00005E0053AB,vm-y,app\n",
        encoding="utf-8",
    )
    found = rows(fl.scan(logs, inventory_file=inventory, now=LATER), "AllowWeb")
    assert {row["note"].split(":")[0] for row in found} == {"1 NIC(s) of the subnet have no flow log"}
    assert {(row["workload"], row["subnet"]) for row in found} == {("vm-a", "web")}


def test_rows_of_traffic_analytics_give_the_same_flows() -> None:
    told = []
    for source in (SAMPLE, SAMPLE / "traffic_analytics" / "ntanetanalytics.json"):
        scan = fl.scan(source, inventory_file=SAMPLE / "inventory.csv", now=LATER)
        told.append(
            [(r["workload"], r["peer"], r["port"], r["flow_status"], r["flows"]) for r in rows(scan, "DenyKms")]
        )
    assert told[0] == told[1] == [("vm-win2", a, 1688, "Denied", 5) for a in ("20.118.99.224", "40.83.235.53")]


# ---- the command


def test_every_format_has_the_same_rows(logs: Path, tmp_path: Path) -> None:
    document = run("rules", logs, "--depends", "AllowWeb", "--format", "json").document
    assert list(document["tables"]) == ["rule_dependencies"]
    assert document["settings"]["depends"] == "AllowWeb"
    assert document["verdicts"]["rule_dependencies"]["status"] == "findings"
    assert [row["peer"] for row in document["tables"]["rule_dependencies"]] == ["203.0.113.7", "203.0.113.8"]
    csv = run("rules", logs, "--depends", "AllowWeb", "--format", "csv").out.splitlines()
    assert csv[0] == ",".join(schema.RESULTS["rule_dependencies"].names)
    assert len(csv) == 3
    assert run("rules", logs, "--depends", "AllowWeb", "-o", tmp_path / "r.parquet").code == 0
    assert pl.read_parquet(tmp_path / "r.parquet").equals(fl.rule_dependencies(fl.scan(logs), "AllowWeb").collect())
    shown = run("rules", logs, "--depends", "AllowWeb")
    assert shown.code == 0
    assert (
        "203.0.113.8" in shown.out and "rules of lower priority" not in shown.out.split("What depends on the rule,")[1]
    )


def test_not_observable_is_said_in_every_format(logs: Path) -> None:
    for face in ("table", "json", "csv"):
        ran = run("rules", logs, "--depends", "Allowweeb", "--format", face)
        assert ran.code == 0
        told = " ".join(ran.out.split())
        assert "Not observable" in told and "AllowWeb" in told
        assert "safe to remove" not in told


@pytest.mark.parametrize("gate", ["findings", "unencrypted > 0"])
def test_gates_of_other_questions_are_wrong_usage(logs: Path, gate: str) -> None:
    ran = run("rules", logs, "--depends", "AllowWeb", "--fail-on", gate)
    assert (ran.code, ran.out) == (2, "")
    assert "belongs to another question" in ran.err


def test_a_rule_needs_a_name(logs: Path) -> None:
    ran = run("rules", logs, "--depends", " ")
    assert (ran.code, ran.out) == (2, "")
    assert "expected the name of a rule" in ran.err


def test_a_rule_decides_for_workloads_not_for_their_nics(tmp_path: Path) -> None:
    # Two NICs of a scale set, one of the same name in another virtual network, a record that names no NIC, and one without
    # a name.
    macs = [f"00005E00540{n}" for n in range(5)]
    for n, mac in enumerate(macs):
        target = vnet_id("vnet-b" if n == 2 else "vnet-a")
        one = record([flow_tuple(f"10.0.0.{n + 4}", "203.0.113.7", 443)], rule="UserRule_A", mac=mac, target=target)
        if n == 3:
            del one["macAddress"]
        write_blob(tmp_path / f"{n}", one, mac="" if n == 3 else mac)
    inventory = tmp_path / "inventory.csv"
    inventory.write_text("\n".join(["mac_address,workload", *(f"{mac},scale-set" for mac in macs[:3]), ""]), "utf-8")
    scan = fl.scan(tmp_path, inventory_file=inventory, now=LATER)
    assert scan.conversations.collect()["mac_address"].null_count() == 1
    (row,) = fl.rule_usage(scan).collect().to_dicts()
    assert (row["acl_rule"], row["flows_allowed"], row["workloads"]) == ("A", 5, 3)
