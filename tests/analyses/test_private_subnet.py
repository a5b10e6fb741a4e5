"""What a private subnet loses, and what stays: each destination of a small network, under each way out."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import flowlens as fl
from flowlens import schema
from flowlens.analyses.private_subnet import SERVICE_ENDPOINTS, by_subnet
from flowlens.errors import ConfigError
from flowlens.evidence import LocalParts, Scan
from tests.flow_logs import NIC, OTHER_NIC, SAMPLE, SUBSCRIPTION, flow_tuple, record, run, vnet_id, write_blob

LATER = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
VNET = f"{SUBSCRIPTION}/rg-a/vnet-a"
UNANSWERED = (3, 180, 0, 0)

# As published in the service tags of 2026-06-26.
KMS = "20.118.99.224"
STORAGE_HERE, STORAGE_WEST, STORAGE_GLOBAL = "20.60.172.11", "13.83.72.17", "52.239.191.0"
SQL_HERE, SQL_WEST = "13.78.61.196", "13.86.216.1"
VAULT_WEST = "20.66.2.28"
STRANGER, STRANGER6 = "203.0.113.7", "2001:db8::7"


def network(folder: Path, *tuples: str, region: str | None = "JAPANEAST", inventory: str = "") -> fl.Scan:
    """A scan of one NIC in subnet ``web`` with these flows, in a VNet whose Network Watcher has its usual name."""
    only = record(tuples, rule="UserRule_Any")
    if region:
        watcher = f"PROVIDERS/MICROSOFT.NETWORK/NETWORKWATCHERS/NETWORKWATCHER_{region}/FLOWLOGS/VNET-A-LOG"
        only["flowLogResourceID"] = f"/SUBSCRIPTIONS/{SUBSCRIPTION}/RESOURCEGROUPS/NETWORKWATCHERRG/{watcher}"
    write_blob(folder, only)
    names = folder / "inventory.csv"
    names.write_text(
        f"vnet,address,mac_address,workload,subnet,kind\n{VNET},10.0.0.4,{NIC},vm-a,web,nic\n{inventory}",
        encoding="utf-8",
    )
    return fl.scan(folder / "insights-logs-flowlogflowevent", inventory_file=names, now=LATER)


def out(address: str, port: int = 443, **how: Any) -> str:
    source = "fd00::4" if ":" in address else "10.0.0.4"
    return flow_tuple(source, address, port, **how)


def rows(scan: fl.Scan, **given: Any) -> list[dict[str, Any]]:
    return fl.private_subnet_readiness(scan, **given).collect().to_dicts()


def only(scan: fl.Scan, **given: Any) -> dict[str, Any]:
    (row,) = rows(scan, **given)
    return row


def told(scan: fl.Scan, **given: Any) -> tuple[str, str]:
    row = only(scan, **given)
    return row["status"], row["path"]


@pytest.mark.parametrize("address", [STRANGER, KMS, STORAGE_WEST, SQL_WEST, VAULT_WEST])
@pytest.mark.parametrize(
    ("method", "status"),
    [
        (None, "At risk"),
        ("default", "Lost"),
        ("nat", "Stays"),
        ("lb", "Stays"),
        ("pip", "Stays"),
        ("firewall", "Stays"),
    ],
)
def test_what_was_reached_over_the_internet(tmp_path: Path, address: str, method: str | None, status: str) -> None:
    scan = network(tmp_path, out(address))
    row = only(scan, outbound={"web": method} if method else {})
    assert (row["status"], row["path"], row["outbound"]) == (status, "internet", method)
    assert (row["vnet"], row["subnet"], row["port"], row["protocol"]) == (VNET, "web", 443, "TCP")
    assert (row["flows_reached"], row["flows_unanswered"], row["flows_denied"]) == (1, 0, 0)
    assert row["dst_ip"] == address


@pytest.mark.parametrize("method", [None, "default", "nat"])
@pytest.mark.parametrize(("address", "path"), [(STORAGE_HERE, "same-region storage"), (SQL_HERE, "same-region SQL")])
def test_storage_and_sql_of_the_same_region_stay(tmp_path: Path, address: str, path: str, method: str | None) -> None:
    scan = network(tmp_path, out(address))
    assert told(scan, outbound={"web": method} if method else {}) == ("Stays", path)


@pytest.mark.parametrize("address", [STORAGE_HERE, STORAGE_WEST, SQL_HERE])
def test_without_a_region_nobody_can_tell(tmp_path: Path, address: str) -> None:
    scan = network(tmp_path, out(address), region=None)
    assert told(scan) == ("Cannot tell", "internet")
    assert "region is not known" not in (only(scan, outbound={"web": "nat"})["note"] or "")
    assert told(scan, outbound={"web": "nat"}) == ("Stays", "internet")


def test_a_region_that_the_user_sets_is_believed_where_no_watcher_tells(tmp_path: Path) -> None:
    setting = {"region": "Japan East"}
    nowhere, west = tmp_path / "nowhere", tmp_path / "west"
    assert told(network(nowhere, out(STORAGE_HERE), region=None), placeholders=setting) == (
        "Stays",
        "same-region storage",
    )
    assert told(network(west, out(STORAGE_HERE), region="WESTUS"), placeholders=setting) == ("At risk", "internet")


def test_storage_in_no_regions_tag_cannot_be_told(tmp_path: Path) -> None:
    assert told(network(tmp_path, out(STORAGE_GLOBAL))) == ("Cannot tell", "internet")


@pytest.mark.parametrize(
    ("endpoint", "address", "expected"),
    [
        ("Microsoft.KeyVault", VAULT_WEST, ("Stays", "service endpoint")),
        ("microsoft.keyvault", VAULT_WEST, ("Stays", "service endpoint")),
        ("Microsoft.Storage", VAULT_WEST, ("Lost", "internet")),
        # The endpoint for one region says nothing of another, the global one does.
        ("Microsoft.Storage", STORAGE_WEST, ("Lost", "internet")),
        ("Microsoft.Storage.Global", STORAGE_WEST, ("Stays", "service endpoint")),
        ("Microsoft.Sql", SQL_HERE, ("Stays", "service endpoint")),
        ("Microsoft.Sql", SQL_WEST, ("Lost", "internet")),
    ],
)
def test_service_endpoints(tmp_path: Path, endpoint: str, address: str, expected: tuple[str, str]) -> None:
    scan = network(tmp_path, out(address))
    assert told(scan, outbound={"web": "default"}, service_endpoints={"web": [endpoint]}) == expected


def test_the_tags_of_service_endpoints_are_published() -> None:
    tags = fl.load_tags()
    assert all(tags.prefixes(tag) for tag, _ in SERVICE_ENDPOINTS.values())


def test_private_peers_private_endpoints_and_the_platform_stay(tmp_path: Path) -> None:
    scan = network(
        tmp_path,
        out("10.0.0.9", 1433),
        out("10.0.0.10", 443, counters=UNANSWERED),
        out("10.0.0.20"),
        out("168.63.129.16", 53, protocol=17),
        inventory=f"{VNET},10.0.0.20,,pe-vault,pe,private endpoint\n",
    )
    found = {row["path"]: row for row in rows(scan, outbound={"web": "default"})}
    assert {row["status"] for row in found.values()} == {"Stays"}
    assert {path: (row["destination"], row["addresses"]) for path, row in found.items()} == {
        "private peer": ("private addresses", 2),
        "private endpoint": ("private endpoints", 1),
        "platform": ("168.63.129.16", 1),
    }


@pytest.mark.slow
def test_what_fails_already_is_told_apart(tmp_path: Path) -> None:
    silent = network(tmp_path / "silent", out(KMS, 1688, counters=UNANSWERED), out(STORAGE_HERE))
    found = {row["path"]: row for row in rows(silent, outbound={"web": "default"})}
    assert (found["internet"]["status"], found["same-region storage"]["status"]) == ("Unanswered already", "Stays")
    assert "private already" in found["internet"]["note"]
    some = network(tmp_path / "some", out(KMS, 1688, counters=UNANSWERED), out(STRANGER))
    notes = {row["destination"]: row["note"] for row in rows(some, outbound={"web": "default"})}
    assert "private already" not in str(notes)
    assert told(network(tmp_path / "denied", out(KMS, 1688, state="D"))) == ("Denied already", "internet")
    assert told(network(tmp_path / "begun", out(KMS, 1688, state="B"))) == ("Cannot tell", "internet")


def test_addresses_of_one_tag_are_one_row_and_any_answer_counts(tmp_path: Path) -> None:
    west = ("13.83.72.17", "13.83.72.18", "13.83.72.19")
    scan = network(tmp_path, out(west[0]), out(west[1], counters=UNANSWERED), out(west[2], state="D"))
    row = only(scan)
    assert (row["destination"], row["dst_ip"], row["addresses"], row["workloads"]) == ("Storage.WestUS", west[0], 3, 1)
    assert (row["flows_reached"], row["flows_unanswered"], row["flows_denied"]) == (1, 1, 1)
    assert row["status"] == "At risk"


def test_ports_and_protocols_stand_apart(tmp_path: Path) -> None:
    scan = network(tmp_path, out(STRANGER, 443), out(STRANGER, 80), out(STRANGER, 443, protocol=17))
    assert sorted((row["port"], row["protocol"]) for row in rows(scan)) == [(80, "TCP"), (443, "TCP"), (443, "UDP")]


def test_ipv6_has_no_default_outbound_access(tmp_path: Path) -> None:
    scan = network(tmp_path, out(STRANGER6), inventory=f"{VNET},fd00::4,{NIC},vm-a,web,nic\n")
    assert told(scan, outbound={"web": "default"}) == ("Cannot tell", "internet")
    assert told(scan, outbound={"web": "pip"}) == ("Stays", "internet")


def test_endpoints_of_profiles_are_named(tmp_path: Path) -> None:
    scan = network(tmp_path, out(KMS, 1688), out(STRANGER, 1688))
    found = {row["dst_ip"]: (row["profiles"], row["endpoints"]) for row in rows(scan, profiles=["windows-kms"])}
    assert found == {KMS: ("windows-kms", "KMS activation"), STRANGER: (None, None)}
    assert {row["profiles"] for row in rows(scan)} == {"windows-kms", None}
    assert {row["profiles"] for row in rows(scan, profiles=["rhui"])} == {None}


def test_a_subnet_without_flow_logs_is_not_observable(tmp_path: Path) -> None:
    scan = network(tmp_path, out(STRANGER), inventory=f"{VNET},10.0.9.4,00005E0053AA,sqlmi,mi,nic\n")
    found = {row["subnet"]: row for row in rows(scan, outbound={"mi": "nat"})}
    assert (found["mi"]["status"], found["mi"]["destination"]) == ("Not observable", None)
    assert (found["mi"]["outbound"], found["mi"]["flows_reached"]) == ("nat", 0)
    assert found["web"]["status"] == "At risk"


def test_every_flow_is_in_one_row() -> None:
    scan = fl.scan(SAMPLE, inventory_file=SAMPLE / "inventory.csv", now=LATER)
    table = fl.private_subnet_readiness(scan).collect()
    egress = {
        (row["subnet"], row["destination"], row["port"]): row["flows_reached"] + row["flows_denied"]
        for row in table.to_dicts()
        if row["path"] == "internet"
    }
    assert egress["snet-win", "AzureCloud.southcentralus", 1688] == 3 + 5
    assert egress["snet-aks", "AzureFrontDoor.FirstParty", 443] == 60
    assert set(table["status"]) <= set(schema.READINESS_STATUSES)
    assert set(table["path"].drop_nulls()) <= set(schema.PATHS)


def test_blobs_and_rows_of_traffic_analytics_agree() -> None:
    answers = []
    for source in (SAMPLE, SAMPLE / "traffic_analytics" / "ntanetanalytics.json"):
        scan = fl.scan(source, inventory_file=SAMPLE / "inventory.csv", now=LATER)
        found = rows(scan, outbound={"snet-web": "default", "snet-win": "nat"})
        answers.append({(r["subnet"], r["destination"], r["port"], r["status"], r["path"]) for r in found})
    assert answers[0] == answers[1]


# ---- names of subnets


@pytest.fixture
def two_webs(tmp_path: Path) -> fl.Scan:
    """Subnets called ``web`` in two VNets."""
    write_blob(tmp_path, record([out(STRANGER)]))
    other = record([flow_tuple("10.1.0.4", STRANGER, 443)], mac=OTHER_NIC, target=vnet_id("vnet-b"))
    write_blob(tmp_path, other, mac=OTHER_NIC)
    names = tmp_path / "names.csv"
    names.write_text(
        f"vnet,address,mac_address,subnet\n{VNET},10.0.0.4,{NIC},web\n"
        f"{SUBSCRIPTION}/rg-a/vnet-b,10.1.0.4,{OTHER_NIC},web\n",
        encoding="utf-8",
    )
    return fl.scan(tmp_path / "insights-logs-flowlogflowevent", inventory_file=names, now=LATER)


@pytest.mark.parametrize("name", ["vnet-b/web", "VNET-B/WEB", f"{SUBSCRIPTION}/rg-a/vnet-b/web", "rg-a/vnet-b/web"])
def test_a_subnet_is_named_by_as_much_as_it_takes(two_webs: fl.Scan, name: str) -> None:
    found = {row["vnet"].rsplit("/")[-1]: row["status"] for row in rows(two_webs, outbound={name: "nat"})}
    assert found == {"vnet-a": "At risk", "vnet-b": "Stays"}


def test_a_name_that_fits_several_subnets_or_none_is_an_error(two_webs: fl.Scan) -> None:
    with pytest.raises(ConfigError, match="fits several"):
        rows(two_webs, outbound={"web": "nat"})
    with pytest.raises(ConfigError, match="is in none of these logs") as caught:
        rows(two_webs, outbound={"vnet-b/wbe": "nat"})
    assert "vnet-b/web" in caught.value.hint
    # Part of a name is no name.
    with pytest.raises(ConfigError, match="is in none of these logs"):
        rows(two_webs, outbound={"b/web": "nat"})
    assert by_subnet(two_webs.evidence.inventory, {"elsewhere": "nat"}, strict=False) == {}


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ({"outbound": {"web": "natt"}}, "nat"),
        ({"service_endpoints": {"web": ["Microsoft.Storag"]}}, "Microsoft.Storage"),
    ],
)
def test_an_unknown_word_is_an_error_before_anything_is_read(given: dict[str, Any], near: str) -> None:
    def unread() -> Any:
        raise AssertionError("was read")

    scan = fl.Scan(read=unread, flows=unread, window=fl.Window())
    with pytest.raises(ConfigError) as caught:
        fl.private_subnet_readiness(scan, **given)
    assert near in caught.value.hint


# ---- the command

WHAT_IF = ("--what-if", "private-subnet")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    network(folder, out(STRANGER), out("10.0.0.9"))
    return folder


def asked(logs: Path, *options: str | Path, face: str = "json") -> Any:
    return run("egress", logs / "insights-logs-flowlogflowevent", *WHAT_IF, *options, "--format", face)


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {row["destination"]: row["status"] for row in document["tables"]["private_subnet_readiness"]}


def test_where_the_outbound_method_comes_from(logs: Path, tmp_path: Path) -> None:
    inventory, config = tmp_path / "inventory.csv", tmp_path / "flowlens.toml"
    inventory.write_text(
        f"vnet,address,mac_address,subnet,outbound\n{VNET},10.0.0.4,{NIC},web,default\n", encoding="utf-8"
    )
    config.write_text('[outbound]\nweb = "NAT"\nelsewhere = "lb"\n', encoding="utf-8")
    by_inventory = asked(logs, "--inventory", inventory).document
    assert statuses(by_inventory)[STRANGER] == "Lost"
    by_config = asked(logs, "--inventory", inventory, "--config", config).document
    assert statuses(by_config)[STRANGER] == "Stays"
    assert by_config["settings"]["outbound"] == {f"{VNET}/web": "nat"}
    by_option = asked(logs, "--inventory", inventory, "--config", config, "--outbound", "vnet-a/web=default").document
    assert statuses(by_option)[STRANGER] == "Lost"


@pytest.mark.slow
def test_the_answer_in_every_format(logs: Path, tmp_path: Path) -> None:
    way = ("--inventory", logs / "inventory.csv", "--outbound", "web=default")
    document = asked(logs, *way).document
    assert list(document["tables"]) == ["private_subnet_readiness"]
    verdict = document["verdicts"]["private_subnet_readiness"]
    assert verdict["status"] == "findings"
    assert "1 in 1 subnet(s) would be lost" in verdict["text"] and "2026-03-31" in verdict["text"]
    assert asked(logs, *way, face="csv").out.splitlines()[0] == ",".join(
        schema.RESULTS["private_subnet_readiness"].names
    )
    shown = asked(logs, *way, face="table").out
    assert STRANGER in shown and "Lost" in shown
    assert "private addresses" not in shown and "Not shown: 1 destination" in shown


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--outbound", "web=nat"), "ok", "Nothing that was reached would be lost"),
        ((), "findings", "1 in 1 subnet(s) would be lost unless"),
    ],
)
def test_verdicts(logs: Path, options: tuple[str, ...], status: str, words: str) -> None:
    verdict = asked(logs, "--inventory", logs / "inventory.csv", *options).document["verdicts"]
    assert verdict["private_subnet_readiness"]["status"] == status
    assert words in verdict["private_subnet_readiness"]["text"]


def test_without_flows_nothing_is_determined(tmp_path: Path) -> None:
    ran = run("egress", tmp_path, *WHAT_IF, "--format", "json")
    assert ran.code == 4
    assert ran.document["verdicts"]["private_subnet_readiness"]["status"] == "not_determined"


@pytest.mark.slow
def test_a_gate_fires_on_what_is_lost(logs: Path) -> None:
    gates = ("lost", "at_risk")
    for method, fired in (("", (0, 1)), ("default", (1, 0)), ("nat", (0, 0))):
        way = ("--inventory", logs / "inventory.csv", *(("--outbound", f"web={method}") if method else ()))
        assert tuple(asked(logs, *way, "--fail-on", gate).code for gate in gates) == fired
    assert "another question" in asked(logs, "--fail-on", "unanswered").err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--what-if", "private-subnets"), "private-subnet"),
        (("--outbound", "web=nat"), "--what-if private-subnet"),
        ((*WHAT_IF, "--outbound", "web"), "SUBNET=METHOD"),
        ((*WHAT_IF, "--outbound", "=nat"), "SUBNET=METHOD"),
        ((*WHAT_IF, "--outbound", "web=natt"), "nat"),
        ((*WHAT_IF, "--outbound", "web=nat", "--outbound", "web=lb"), "twice"),
        ((*WHAT_IF, "--changed-at", "2026-06-15T09:30Z"), "--what-if"),
        ((*WHAT_IF, "--outbound", "wbe=nat"), "none of these logs"),
        ((*WHAT_IF, "--fail-on", "findings"), "another question"),
    ],
    ids=" ".join,
)
def test_wrong_usage(logs: Path, options: tuple[str, ...], words: str) -> None:
    ran = run("egress", logs / "insights-logs-flowlogflowevent", *options)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err and ran.err.count("\n") <= 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[outbound]\nweb = "natt"', "nat"),
        ("[outbound]\nweb = 1", "unknown method"),
        ('[service_endpoints]\nweb = "Microsoft.Storage"', "a list of texts"),
        ('[service_endpoints]\nweb = ["Microsoft.Storag"]', "Microsoft.Storage"),
    ],
)
def test_a_wrong_word_in_the_config(logs: Path, tmp_path: Path, content: str, words: str) -> None:
    config = tmp_path / "flowlens.toml"
    config.write_text(content, encoding="utf-8")
    ran = asked(logs, "--config", config)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err and ran.err.count("\n") <= 2


def test_service_endpoints_of_the_config(tmp_path: Path) -> None:
    network(tmp_path, out(VAULT_WEST))
    config = tmp_path / "flowlens.toml"
    config.write_text('[service_endpoints]\nweb = ["Microsoft.KeyVault"]\nother = []', encoding="utf-8")
    ran = asked(tmp_path, "--config", config, "--inventory", tmp_path / "inventory.csv")
    assert [row["path"] for row in ran.document["tables"]["private_subnet_readiness"]] == ["service endpoint"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{VNET},10.0.0.4,web,natt", "unknown outbound method 'natt'"),
        (f"{VNET},10.0.0.4,,nat", "expected a subnet beside outbound"),
        (f"{VNET},10.0.0.4,web,nat\n{VNET},10.0.0.5,web,lb", "goes out by nat in an earlier row"),
    ],
)
def test_a_wrong_word_in_the_inventory(logs: Path, tmp_path: Path, line: str, words: str) -> None:
    inventory = tmp_path / "inventory.csv"
    inventory.write_text(f"vnet,address,subnet,outbound\n{line}\n", encoding="utf-8")
    ran = asked(logs, "--inventory", inventory)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err


def test_a_region_set_on_the_command_line(tmp_path: Path) -> None:
    network(tmp_path, out(STORAGE_HERE), region=None)
    ran = asked(tmp_path, "--set", "Location=Japan East")
    assert [row["path"] for row in ran.document["tables"]["private_subnet_readiness"]] == ["same-region storage"]
    assert ran.document["settings"]["placeholders"] == {"Location": "Japan East"}
    wrong = asked(tmp_path, "--set", "regon=japaneast")
    assert (wrong.code, wrong.out) == (2, "") and "region" in wrong.err


def test_names_tell_who_needs_an_address(tmp_path: Path) -> None:
    network(tmp_path, out(STRANGER), out("10.0.0.9"))
    profile, names = tmp_path / "mine.toml", tmp_path / "names.csv"
    profile.write_text(
        'title = "Mine"\nas_of = "2026-01-01"\nsources = ["a page"]\n'
        '[[requirement]]\nname = "API"\ncloud = "global"\nneed = "required"\nprotocol = "tcp"\nports = "443"\n'
        'purpose = "a test"\nas_of = "2026-01-01"\nendpoints = [{ kind = "fqdn", value = "api.example.com" }]\n',
        encoding="utf-8",
    )
    names.write_text(f"name,address\napi.example.com,{STRANGER}\napi.example.com,10.0.0.9\n", encoding="utf-8")
    way = ("--inventory", tmp_path / "inventory.csv", "--profile", profile)
    needed = {
        options: {
            row["destination"]: (row["profiles"], row["endpoints"])
            for row in asked(tmp_path, *way, *options).document["tables"]["private_subnet_readiness"]
        }
        for options in ((), ("--names", names))
    }
    assert set(needed[()].values()) == {(None, None)}
    assert needed["--names", names] == {STRANGER: ("mine", "API"), "private addresses": ("mine", "API")}
    ran = asked(tmp_path, *way, "--names", names)
    assert ran.document["settings"]["names"] and ran.err.startswith(f"{names}: ")


def test_the_answer_does_not_depend_on_how_the_evidence_is_split() -> None:
    whole = fl.scan(SAMPLE)
    evidence = whole.evidence
    part_of = pl.col("dst_ip").rank("dense") % 3
    parts = tuple(evidence.views.filter(part_of == n) for n in range(3))
    assert all(part.head(1).collect().height for part in parts)
    split = Scan(
        read=lambda: replace(evidence, parts=LocalParts(parts)),
        flows=lambda: whole.flows,
        window=whole.window,
        settings=whole.settings,
    )
    told = [
        fl.private_subnet_readiness(scan, outbound={"10.10.1.0/24": "default"}, profiles=["auto", "aks-core"]).collect()
        for scan in (whole, split)
    ]
    assert told[0].height > 5 and told[0]["profiles"].drop_nulls().len()
    assert_frame_equal(told[0], told[1])
