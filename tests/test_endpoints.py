"""Every profile in every cloud against the truth of tests/truth/endpoints.py: one scan per cloud, every case."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import flowlens as fl
from flowlens import schema
from flowlens.catalog.profiles import EGRESS, Requirement
from flowlens.catalog.tags import CLOUDS
from flowlens.errors import ConfigError
from tests.flow_logs import OTHER_NIC, flow_tuple, record, vnet_id, write_blob
from tests.truth import endpoints as truths
from tests.truth.endpoints import CASES, QUIET, UNLOGGED, Fact, Truth

Rows = dict[tuple[str, str, str], dict[str, object]]
GOOD = ("Reached", "Service reached", "Recovered")
# Profiles without a service tag, of their own or behind a name: fixed addresses, third parties, FQDN tags, ports alone, and in
# the national clouds names behind Front Door, whose tags only the global file has.
NO_SERVICE = {
    "global": {
        *("aks-gpu", "azure-platform", "office365", "office365-exchange", "office365-sharepoint"),
        *("qualys", "smtp-outbound", "windows-kms"),
    },
    "usgov": {"aks-gpu", "aks-windows", "azure-platform", "rhui", "windows-kms"},
    "china": {"aks-gpu", "aks-windows", "azure-platform", "windows-kms"},
}


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory):
    """The truth of a cloud and the rows of denied_egress by workload, profile and endpoint."""

    @cache
    def of(cloud: str) -> tuple[Truth, Rows]:
        truth = truths.generate(cloud, tmp_path_factory.mktemp(cloud))
        scan = fl.scan(truth.logs, inventory_file=truth.inventory)
        table = fl.denied_egress(
            scan, profiles=fl.profile_names(), cloud=cloud, placeholders=truth.settings, names=truth.names
        ).collect()
        assert scan.ledger.complete
        rows = {(row["workload"], row["profile"], row["endpoint"]): row for row in table.iter_rows(named=True)}
        assert len(rows) == table.height
        return truth, rows

    return of


@cache
def requirements(cloud: str) -> list[tuple[str, Requirement]]:
    return [
        (name, requirement)
        for name in fl.profile_names()
        for requirement in fl.load_profile(name).requirements
        if (requirement.cloud, requirement.concerns) == (cloud, EGRESS)
    ]


def holding(fact: Fact) -> str:
    """The requirement that a fact is in."""
    (name,) = [
        r.name
        for profile, r in requirements(fact.cloud)
        if (profile, r.protocol, r.ports) == (fact.profile, fact.protocol, fact.ports)
        and (fact.kind, fact.value) in {(e.kind, e.value) for e in r.endpoints}
    ]
    return name


def quiet(requirement: Requirement) -> bool:
    return requirement.retired or requirement.need == "safe-to-block"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_case_has_its_status(judged, cloud):
    truth, rows = judged(cloud)
    told = {}
    for answer in truth.answers:
        row = rows[answer.workload, answer.fact.profile, holding(answer.fact)]
        found = (row["status"], row["match"], row["acl_rule"])
        if found != (answer.status, answer.match, answer.rule):
            told[answer.workload, answer.fact.profile, answer.fact.value] = (
                found,
                answer.status,
                answer.match,
                answer.rule,
            )
    assert told == {}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_silence_is_not_seen_only_where_it_can_be_told(judged, cloud):
    _, rows = judged(cloud)
    told = {}
    for workload in QUIET:
        for profile, requirement in requirements(cloud):
            row = rows.get((workload, profile, requirement.name))
            expected = truths.silence(((e.kind, e.value) for e in requirement.endpoints), cloud)
            found = row and row["status"]
            if found != (None if quiet(requirement) else expected):
                told[workload, profile, requirement.name] = (found, expected)
    assert told == {}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_workload_without_logs_is_not_observable(judged, cloud):
    _, rows = judged(cloud)
    found = {key[1:]: row["status"] for key, row in rows.items() if key[0] == UNLOGGED}
    assert found == {(p, r.name): "Not observable" for p, r in requirements(cloud) if not quiet(r)}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_only_problems_name_a_rule_and_a_fix_and_quiet_ones_are_none(judged, cloud):
    _, rows = judged(cloud)
    silent = {(p, r.name) for p, r in requirements(cloud) if quiet(r)}
    for (_, profile, endpoint), row in rows.items():
        problem = row["status"] in schema.EGRESS_PROBLEMS
        assert (row["fix"] is not None) == (problem and (profile, endpoint) not in silent)
        assert problem or row["acl_rule"] is None
        assert (row["last_success"] is not None) or row["status"] not in GOOD


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_profile_has_a_case_or_no_address(judged, cloud):
    truth, rows = judged(cloud)
    with_facts = {profile for profile, _ in requirements(cloud)}
    # FQDN tags of Azure Firewall: nobody knows their members.
    assert with_facts - truth.testable == ({"office365"} if cloud == "global" else set())
    told = {case: {a.fact.profile for a in truth.answers if a.workload == case} for case in CASES}
    assert told == dict.fromkeys(CASES, truth.testable)
    groups = {(f.profile, f.one_of) for f in truths.facts(cloud) if f.one_of}
    assert {(a.fact.profile, a.fact.one_of) for a in truth.answers if a.workload == "sibling"} == groups
    for key, row in rows.items():
        if key[1] == "office365":
            assert row["status"] in ("Cannot tell", "Not observable")
    assert {a.status for a in truth.answers} >= {status for _, status in CASES.values()}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_without_names_a_service_is_told_and_never_an_endpoint(tmp_path, cloud):
    truth = truths.generate_services(cloud, tmp_path)
    scan = fl.scan(truth.logs, inventory_file=truth.inventory)
    table = fl.denied_egress(scan, profiles=fl.profile_names(), cloud=cloud, placeholders=truth.settings).collect()
    rows = {(row["workload"], row["profile"], row["endpoint"]): row for row in table.iter_rows(named=True)}
    told, judged = {}, set()
    for profile, requirement in requirements(cloud):
        endpoints = [(e.kind, e.value) for e in requirement.endpoints]
        expected = truths.by_service(endpoints, requirement.protocol, requirement.ports, cloud, truth.tried)
        for case, status in zip(truths.SERVICE_CASES, expected[:2] if expected else ("", ""), strict=True):
            row = rows.get((case, profile, requirement.name))
            if expected is None:
                assert row is None or row["status"] in ("Cannot tell", "Not seen")
            elif row is None or (row["status"], row["match"]) != (status, expected[2]):
                told[case, profile, requirement.name] = (row and (row["status"], row["match"]), status, expected[2])
        if expected is not None:
            judged.add(profile)
    assert told == {}
    by_tag = {fact.profile for fact in truths.facts(cloud) if truths.tag_of(fact)}
    assert {profile for profile, _ in requirements(cloud)} - judged - by_tag == NO_SERVICE[cloud]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_auto_takes_profiles_by_attempts_and_not_by_success(judged, cloud):
    truth, _ = judged(cloud)
    scan = fl.scan(truth.logs, inventory_file=truth.inventory)
    table = fl.denied_egress(scan, cloud=cloud, placeholders=truth.settings, names=truth.names).collect()
    chosen = {}
    for workload, profile in table.select("workload", "profile").unique().iter_rows():
        chosen.setdefault(workload, set()).add(profile)
    assert "windows-kms" in chosen["denied"]
    for case in CASES:
        assert chosen[case] == chosen["denied"], case
    assert not set(chosen) & {*QUIET, UNLOGGED}


REGISTRY, OTHER = "150.171.69.10", "150.171.70.10"


def statuses(
    folder: Path, *flows: tuple[str, int, str], names: str = "", **asked: object
) -> dict[str, dict[str, object]]:
    """Rows by endpoint of aks-core after one NIC's flows: address, port and state."""
    tuples = [
        flow_tuple("10.0.0.4", address, port, state, src_port=50000 + n)
        for n, (address, port, state) in enumerate(flows)
    ]
    records = [
        record([text for text in tuples if f",{state}," in text], rule=rule)
        for state, rule in (("D", "UserRule_DenyRegistry"), ("E", "DefaultRule_AllowInternetOutBound"))
    ]
    write_blob(folder, *records)
    file = folder.with_suffix(".csv")
    file.write_text(f"name,address\n{names}", encoding="utf-8")
    table = fl.denied_egress(fl.scan(folder), profiles=["aks-core"], names=file if names else None, **asked).collect()
    return {row["endpoint"]: row for row in table.iter_rows(named=True)}


def test_a_denied_registry_is_a_service_without_names_and_exact_with_them(tmp_path):
    denied = (REGISTRY, 443, "D")
    without = statuses(tmp_path / "a", denied)["mcr.microsoft.com"]
    assert (without["status"], without["match"]) == ("Denied", "approximate tag")
    assert "this name may be the one" in without["note"] and without["service_tag"] == "AzureFrontDoor.FirstParty"
    exact = statuses(tmp_path / "b", denied, names=f"mcr.microsoft.com,{REGISTRY}\n")["mcr.microsoft.com"]
    assert (exact["status"], exact["match"], exact["dst_ip"]) == ("Denied", "name", REGISTRY)
    assert exact["acl_rule"] == "DenyRegistry" and "may be" not in exact["note"]
    # Another address of the service was denied: it is not this name, as far as is known.
    other = statuses(tmp_path / "c", denied, names=f"mcr.microsoft.com,{OTHER}\n")["mcr.microsoft.com"]
    assert (other["status"], other["fix"]) == ("Cannot tell", None)
    assert "which is no address known of the name" in other["note"]


def test_what_is_denied_under_one_name_is_not_held_against_another(tmp_path):
    names = f"mcr.microsoft.com,{REGISTRY}\n"
    rows = statuses(tmp_path / "a", (REGISTRY, 443, "D"), names=names)
    row = rows["*.data.mcr.microsoft.com"]
    assert (row["status"], row["match"], row["fix"]) == ("Cannot tell", "approximate tag", None)
    assert f"denied ({REGISTRY}), known by another name" in row["note"]
    # An address that no name is known for may be that of any.
    rows = statuses(tmp_path / "b", (REGISTRY, 443, "D"), (OTHER, 443, "D"), names=names)
    row = rows["*.data.mcr.microsoft.com"]
    assert (row["status"], row["match"], row["dst_ip"]) == ("Denied", "approximate tag", OTHER)
    # What answers shows the service, whatever its name.
    rows = statuses(tmp_path / "c", (REGISTRY, 443, "E"), names=names)
    assert rows["*.data.mcr.microsoft.com"]["status"] == "Service reached"


def test_one_address_of_a_name_is_enough(tmp_path):
    names = f"mcr.microsoft.com,{REGISTRY}\nmcr.microsoft.com,{OTHER}\n"
    row = statuses(tmp_path / "a", (REGISTRY, 443, "D"), (OTHER, 443, "E"), names=names)["mcr.microsoft.com"]
    assert (row["status"], row["match"], row["dst_ip"]) == ("Reached", "name", OTHER)
    assert f"{REGISTRY} failed, an alternative answered" in row["note"]


def test_names_of_another_time_do_not_count(tmp_path):
    folder = tmp_path / "a"
    write_blob(folder, record([flow_tuple("10.0.0.4", REGISTRY, 443, "D")], rule="UserRule_DenyRegistry"))
    file = tmp_path / "names.csv"
    for day, match in (("2026-06-14", "name"), ("2026-06-12", "approximate tag"), ("2026-06-18", "approximate tag")):
        file.write_text(f"name,address,last_seen\nmcr.microsoft.com,{REGISTRY},{day}T09:30:00Z\n", encoding="utf-8")
        table = fl.denied_egress(fl.scan(folder), profiles=["aks-core"], names=file).collect()
        (row,) = table.filter(endpoint="mcr.microsoft.com").iter_rows(named=True)
        assert row["match"] == match, day


def test_a_private_endpoint_is_known_by_its_name(tmp_path):
    names = "login.microsoftonline.com,10.0.0.9\nmanagement.azure.com,10.0.0.8\n"
    rows = statuses(tmp_path / "a", ("10.0.0.9", 443, "E"), names=names)
    found = rows["login.microsoftonline.com"]
    assert (found["status"], found["match"], found["dst_ip"]) == ("Reached", "name", "10.0.0.9")
    assert rows["management.azure.com"]["status"] == "Not seen"


def test_a_private_endpoint_of_the_inventory_is_known_by_its_name(tmp_path):
    write_blob(tmp_path, record([flow_tuple("10.0.0.4", "10.0.0.9", 443, "D")], rule="UserRule_DenyVault"))
    inventory = tmp_path / "inventory.csv"
    vnet = "00000000-0000-0000-0000-000000000000/rg-a/vnet-a"
    inventory.write_text(f"vnet,address,workload,kind\n{vnet},10.0.0.9,kv1.vault.azure.net,private endpoint\n")
    scan = fl.scan(tmp_path / "insights-logs-flowlogflowevent", inventory_file=inventory)
    table = fl.denied_egress(scan, profiles=["aks-addon-keyvault-csi"], placeholders={"vault": "kv1"}).collect()
    (row,) = table.filter(status="Denied").iter_rows(named=True)
    assert (row["endpoint"], row["match"], row["acl_rule"]) == ("Key Vault", "name", "DenyVault")


OWN_PROFILE = """
title = "Licences"
as_of = 2026-01-15
sources = ["the wiki"]

[[requirement]]
name = "Licence server"
cloud = "global"
need = "required"
protocol = "tcp"
ports = "443"
purpose = "licences"
as_of = 2026-01-15
endpoints = [{ kind = "fqdn", value = "licences.example.com" }]
"""


@pytest.mark.parametrize(
    ("known", "status_a", "status_b"),
    [
        # The only one known to have the address is a VM in B: what A tries is taken for it.
        ("", "Reached", "Reached"),
        ("vnet-a,10.0.0.9,pe-licences,private endpoint\n", "Reached", "Cannot tell"),
        ("vnet-a,10.0.0.9,vm-a,nic\n", "Cannot tell", "Cannot tell"),
    ],
)
def test_a_private_address_of_a_name_is_one_of_its_virtual_network(tmp_path, known, status_a, status_b):
    profile, names, inventory = (tmp_path / name for name in ("own.toml", "names.csv", "inventory.csv"))
    profile.write_text(OWN_PROFILE, encoding="utf-8")
    names.write_text("name,address\nlicences.example.com,10.0.0.9\n", encoding="utf-8")
    prefix = "00000000-0000-0000-0000-000000000000/rg-a/"
    inventory.write_text(f"vnet,address,workload,kind\n{prefix if known else ''}{known}", encoding="utf-8")
    there = vnet_id("vnet-b")
    write_blob(tmp_path / "logs", record([flow_tuple("10.0.0.4", "10.0.0.9", 443)]))
    write_blob(
        tmp_path / "logs", record([flow_tuple("10.0.0.5", "10.0.0.9", 443)], mac=OTHER_NIC, target=there), mac=OTHER_NIC
    )
    third = "00005E005309"
    own = record([flow_tuple("10.0.0.9", "203.0.113.9", 80)], mac=third, target=there)
    write_blob(tmp_path / "logs", own, mac=third)
    scan = fl.scan(tmp_path / "logs", inventory_file=inventory)
    table = fl.denied_egress(scan, profiles=[str(profile)], names=names).collect()
    found = {row["workload"].split()[0]: row for row in table.iter_rows(named=True)}
    assert (found["10.0.0.4"]["status"], found["10.0.0.5"]["status"]) == (status_a, status_b)
    for row in (found["10.0.0.4"], found["10.0.0.5"]):
        assert ("somebody else's in this virtual network" in (row["note"] or "")) == (row["status"] == "Cannot tell")


def test_mail_that_the_platform_blocks_is_no_problem(tmp_path):
    tuples = [flow_tuple("10.0.0.4", "20.1.2.3", 25, "E", counters=(3, 180, 0, 0))]
    write_blob(tmp_path, record(tuples))
    report = fl.report(fl.scan(tmp_path), profiles=["smtp-outbound"], questions=["denied_egress"])
    (row,) = report.tables["denied_egress"].filter(endpoint="Direct mail delivery").iter_rows(named=True)
    assert (row["status"], row["requirement"], row["fix"]) == ("Unanswered", "safe-to-block", None)
    assert report.verdicts["denied_egress"].status == "not_determined" and report.findings == ()
    assert report.metrics["unanswered"] == report.metrics["denied_required"] == 0


def test_an_alternative_of_the_tunnel_is_no_problem(tmp_path):
    settings = {"APIServerPublicIP": "20.1.2.3", "region": "westeurope"}
    regional = fl.load_tags().prefixes("AzureCloud.westeurope")[0].split("/")[0]
    tunnel = "Node to control plane tunnel (TCP 9000)"
    row = statuses(tmp_path / "a", ("20.1.2.3", 9000, "D"), placeholders=settings)[tunnel]
    assert (row["status"], row["match"], row["acl_rule"]) == ("Denied", "address", "DenyRegistry")
    row = statuses(tmp_path / "b", ("20.1.2.3", 9000, "D"), (regional, 9000, "E"), placeholders=settings)[tunnel]
    assert (row["status"], row["match"], row["fix"]) == ("Service reached", "service tag", None)
    assert "20.1.2.3 failed, an alternative answered" in row["note"]


def test_profiles_that_are_asked_for_stand_beside_those_that_auto_takes(tmp_path):
    write_blob(tmp_path, record([flow_tuple("10.0.0.4", "20.118.99.224", 1688, "D")]))
    scan = fl.scan(tmp_path)
    assert set(fl.denied_egress(scan).collect()["profile"]) == {"windows-kms"}
    assert set(fl.denied_egress(scan, profiles=["auto", "rhui"]).collect()["profile"]) == {"rhui", "windows-kms"}
    assert set(fl.denied_egress(scan, profiles=["rhui"]).collect()["profile"]) == {"rhui"}


def test_a_short_window_says_so(tmp_path):
    write_blob(tmp_path, record([flow_tuple("10.0.0.4", "203.0.113.7", 443)]))
    table = fl.denied_egress(fl.scan(tmp_path), profiles=["windows-kms", "rhui"]).collect()
    for endpoint, why in (
        ("KMS activation", "Windows renews weekly"),
        ("RHUI 4 package updates", "packages are updated"),
    ):
        (row,) = table.filter(endpoint=endpoint).iter_rows(named=True)
        assert row["status"] == "Not seen" and "1 h of logs prove little" in row["note"] and why in row["note"]


def test_an_unknown_placeholder_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="is in no profile"):
        fl.denied_egress(fl.scan(tmp_path), placeholders={"locaton": "x"})


def test_files_of_the_truth_import_nothing_of_flowlens():
    text = Path(truths.__file__).read_text("utf-8")
    assert "import flowlens" not in text and "from flowlens" not in text
