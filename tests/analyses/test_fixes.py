"""What mends a failing endpoint: the words of the table, and commands that only use what the Azure CLI documents."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import flowlens as fl
from flowlens.analyses.fixes import OUTSIDE_AZURECLOUD
from tests.flow_logs import CONTAINER, NIC, OTHER_NIC, SAMPLE, SUBSCRIPTION, Ran, flow_tuple, record, run, write_blob

LATER = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
NSG = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-a/providers/Microsoft.Network/networkSecurityGroups/nsg-a"
GUID = "00000000-0000-0000-0000-0000000000a1"
VNET = f"{SUBSCRIPTION}/rg-a/vnet-a"
KMS = ("20.118.99.224", "40.83.235.53")
REGISTRY, SIGN_IN, MONITOR = "150.171.70.10", "20.190.144.133", "20.189.225.1"
UNANSWERED, RESET = (3, 180, 0, 0), (5, 600, 3, 180)

# Command -> options that it must have, options that it may have. Read from the parser of Azure CLI 2.91.0 (azure-cli on PyPI)
# and, for the firewall, from azext_firewall/_params.py of Azure/azure-cli-extensions at 01052dbb; --subscription is global.
OPTIONS = {
    "network nsg rule create": (
        {"--resource-group", "--nsg-name", "--name", "--priority"},
        {
            *("--subscription", "--direction", "--access", "--protocol", "--source-address-prefixes"),
            *("--destination-address-prefixes", "--destination-port-ranges"),
        },
    ),
    "network firewall policy rule-collection-group collection add-filter-collection": (
        {"--resource-group", "--policy-name", "--rule-collection-group-name", "--name", "--collection-priority"},
        {
            *("--action", "--rule-name", "--rule-type", "--source-addresses", "--destination-addresses"),
            *("--destination-ports", "--ip-protocols", "--protocols", "--target-fqdns", "--fqdn-tags"),
        },
    ),
    "network public-ip create": (
        {"--resource-group", "--name"},
        {"--subscription", "--location", "--sku", "--allocation-method"},
    ),
    "network nat gateway create": (
        {"--resource-group", "--name"},
        {"--subscription", "--location", "--public-ip-addresses"},
    ),
    "network vnet subnet update": (
        {"--resource-group", "--vnet-name", "--name"},
        {"--subscription", "--nat-gateway"},
    ),
    "network route-table route create": (
        {"--resource-group", "--route-table-name", "--name", "--next-hop-type", "--address-prefix"},
        {"--subscription"},
    ),
}
CHOICES = {
    "--direction": {"Inbound", "Outbound"},
    "--access": {"Allow"},
    "--action": {"Allow"},
    "--protocol": {"*", "Ah", "Esp", "Icmp", "Tcp", "Udp"},
    "--ip-protocols": {"TCP", "UDP", "Any", "ICMP"},
    "--rule-type": {"ApplicationRule", "NetworkRule"},
    "--next-hop-type": {"Internet"},
    "--sku": {"Standard"},
    "--allocation-method": {"Static"},
    "--protocols": {"Http=80", "Https=443"},
}


def parsed(line: str) -> tuple[str, dict[str, list[str]]]:
    """A command line as the Azure CLI would take it apart, known to have documented options only."""
    words = shlex.split(line)
    assert words[0] == "az"
    start = next(n for n, word in enumerate(words) if word.startswith("--"))
    name = " ".join(words[1:start])
    options: dict[str, list[str]] = {}
    for word in words[start:]:
        if word.startswith("--"):
            assert word not in options
            options[word] = []
        else:
            options[list(options)[-1]].append(word)
    required, more = OPTIONS[name]
    assert required <= set(options) <= required | more
    assert all(options.values())
    for option, allowed in CHOICES.items():
        assert set(options.get(option, ())) <= allowed
    return name, options


def commands(script: str) -> list[tuple[str, dict[str, list[str]]]]:
    """The commands that a script runs; those that it only names are taken apart too."""
    for line in script.splitlines():
        if line.startswith("#    Instead: "):
            parsed(line.removeprefix("#    Instead: "))
    return [parsed(line) for line in script.splitlines() if line.startswith("az ")]


def out(address: str, port: int, state: str = "D", **how: Any) -> str:
    return flow_tuple("10.0.0.4", address, port, state, **how)


def logs(folder: Path, *tuples: str, rule: str = "UserRule_DenyOut", acl: str = NSG, subnet: str = "web") -> Path:
    """A folder with a day of one VM, ``vm-a`` in ``subnet``, and the inventory that names it."""
    only = record(tuples, rule=rule, acl=acl)
    watcher = "PROVIDERS/MICROSOFT.NETWORK/NETWORKWATCHERS/NETWORKWATCHER_JAPANEAST/FLOWLOGS/VNET-A-LOG"
    only["flowLogResourceID"] = f"/SUBSCRIPTIONS/{SUBSCRIPTION}/RESOURCEGROUPS/NETWORKWATCHERRG/{watcher}"
    write_blob(folder, only)
    (folder / "inventory.csv").write_text(
        f"vnet,address,mac_address,workload,subnet\n{VNET},10.0.0.4,{NIC},vm-a,{subnet}\n", encoding="utf-8"
    )
    return folder


def fix(folder: Path, way: str, *options: str | Path, profile: str = "windows-kms") -> Ran:
    ran = run(
        "egress",
        folder / CONTAINER,
        "--inventory",
        folder / "inventory.csv",
        "--profile",
        profile,
        "--fix",
        way,
        *options,
    )
    assert ran.code == 0, ran.err
    assert ran.out.startswith("#!/usr/bin/env bash\n")
    return ran


def words(folder: Path, profile: str = "windows-kms", **given: Any) -> dict[str, str]:
    """What the table says to do, by endpoint."""
    table = fl.denied_egress(fl.scan(folder / CONTAINER, now=LATER), profiles=[profile], **given).collect()
    return {row["endpoint"]: row["fix"] for row in table.to_dicts() if row["fix"]}


# ---- NSG rules


def test_activation_is_let_through_by_its_tag(tmp_path: Path) -> None:
    folder = logs(tmp_path, *(out(address, 1688) for address in KMS))
    script = fix(folder, "nsg").out
    ((name, options),) = commands(script)
    assert name == "network nsg rule create"
    assert options == {
        "--subscription": [SUBSCRIPTION],
        "--resource-group": ["rg-a"],
        "--nsg-name": ["nsg-a"],
        "--name": ["Allow-AzurePlatformLKM-TCP-1688"],
        "--priority": ["$PRIORITY_1"],
        "--direction": ["Outbound"],
        "--access": ["Allow"],
        "--protocol": ["Tcp"],
        "--destination-address-prefixes": ["AzurePlatformLKM"],
        "--destination-port-ranges": ["1688"],
    }
    assert ': "${PRIORITY_1:?' in script and "PRIORITY_2" not in script
    (instead,) = [line for line in script.splitlines() if "Instead: az" in line]
    assert all(address in instead for address in KMS)
    assert "vm-a: KMS activation (TCP 1688) is denied by DenyOut in nsg-a" in script
    (told,) = words(folder).values()
    assert "AzurePlatformLKM" in told and "lower priority number than DenyOut in nsg-a" in told
    assert all(address in told for address in KMS)


def test_the_image_registry_needs_both_its_tags(tmp_path: Path) -> None:
    folder = logs(tmp_path, out(REGISTRY, 443))
    script = fix(folder, "nsg", profile="aks-core").out
    found = [options["--destination-address-prefixes"] for _, options in commands(script)]
    assert found == [["MicrosoftContainerRegistry"], ["AzureFrontDoor.FirstParty"]]
    assert "Allowing AzureCloud does not help: AzureFrontDoor.FirstParty is not part of it." in script
    # One problem with three names is told, and mended, once.
    assert script.count("\n# 1. ") == 1 and "\n# 2. " not in script
    told = set(words(folder, "aks-core").values())
    assert len(told) == 1
    assert "MicrosoftContainerRegistry and AzureFrontDoor.FirstParty" in told.pop()


def test_tags_outside_azurecloud_are_so_in_the_published_file() -> None:
    tags = fl.load_tags()
    networks = [ipaddress.ip_network(p) for p in tags.prefixes("AzureCloud") if ":" not in p]
    held = {int(n.network_address) >> (32 - n.prefixlen) << 8 | n.prefixlen for n in networks}
    lengths = {n.prefixlen for n in networks}
    for tag in OUTSIDE_AZURECLOUD:
        own = [ipaddress.ip_network(p) for p in tags.prefixes(tag) if ":" not in p]
        inside = sum(
            n.num_addresses
            for n in own
            if any(int(n.network_address) >> (32 - bits) << 8 | bits in held for bits in lengths if bits <= n.prefixlen)
        )
        assert inside / sum(n.num_addresses for n in own) < 0.1


def test_a_rule_takes_one_tag_or_a_list_of_addresses(tmp_path: Path) -> None:
    for profile, address, port in (
        ("rhui", "20.24.186.80", 443),
        ("entra-id", SIGN_IN, 443),
        ("aks-core", REGISTRY, 443),
    ):
        folder = logs(tmp_path / profile, out(address, port))
        for _, options in commands(fix(folder, "nsg", profile=profile).out):
            prefixes = options["--destination-address-prefixes"]
            are_addresses = {word[0].isdigit() for word in prefixes}
            assert are_addresses == {True} or len(prefixes) == 1
    rhui = commands(fix(tmp_path / "rhui", "nsg", profile="rhui").out)
    assert "20.24.186.80" in rhui[0][1]["--destination-address-prefixes"]
    assert len(rhui[0][1]["--destination-address-prefixes"]) > 1


def test_every_new_rule_has_its_own_priority_and_name(tmp_path: Path) -> None:
    folder = logs(tmp_path, out(REGISTRY, 443), out(SIGN_IN, 443), out("13.73.232.1", 443))
    found = commands(fix(folder, "nsg", profile="aks-core").out)
    assert len(found) > 2
    for option in ("--priority", "--name"):
        values = [options[option][0] for _, options in found]
        assert len(set(values)) == len(values)


def test_workloads_behind_one_nsg_share_a_rule(tmp_path: Path) -> None:
    folder = logs(tmp_path, out(KMS[0], 1688))
    other = record([flow_tuple("10.0.0.5", KMS[0], 1688, "D")], rule="UserRule_DenyOut", acl=NSG, mac=OTHER_NIC)
    write_blob(folder, other, mac=OTHER_NIC)
    assert len(commands(fix(folder, "nsg").out)) == 1


@pytest.mark.parametrize("rule", ["DefaultRule_DenyAllOutBound", "UserRule_DenyOut"])
def test_below_a_default_rule_any_priority_will_do(tmp_path: Path, rule: str) -> None:
    script = fix(logs(tmp_path, out(KMS[0], 1688), rule=rule), "nsg").out
    assert ("any free priority from 100 to 4096" in script) == rule.startswith("Default")
    assert ("look up that of the denying rule" in script) == rule.startswith("User")
    assert len(commands(script)) == 1


@pytest.mark.parametrize(
    ("acl", "group", "name"),
    [
        (NSG, "rg-a", "nsg-a"),
        (NSG.upper(), "RG-A", "NSG-A"),
        (NSG.removeprefix("/"), "rg-a", "nsg-a"),
        ("nsg-b", "$NSG_GROUP_1", "nsg-b"),
        (GUID, "$NSG_GROUP_1", "$NSG_1"),
    ],
)
def test_which_nsg_it_is(tmp_path: Path, acl: str, group: str, name: str) -> None:
    ((_, options),) = commands(fix(logs(tmp_path, out(KMS[0], 1688), acl=acl), "nsg").out)
    assert (options["--resource-group"], options["--nsg-name"]) == ([group], [name])


@pytest.mark.parametrize(
    ("rule", "acl", "word"),
    [
        ("BlockKms", GUID, "admin rule BlockKms of Virtual Network Manager (00000000-0000-0000-0000-0000000000a1)"),
        ("PlatformRule", "00000000-0000-0000-0000-000000000000", "denied by the platform"),
        ("unspecified", "unspecified", "VNet encryption"),
    ],
)
def test_what_no_nsg_rule_mends_is_told_with_its_owner(tmp_path: Path, rule: str, acl: str, word: str) -> None:
    folder = logs(tmp_path, out(KMS[0], 1688), rule=rule, acl=acl)
    script = fix(folder, "nsg").out
    assert commands(script) == []
    assert word in script and "No command" in script
    (told,) = words(folder).values()
    assert word.lower() in told.lower()
    assert "Allow outbound" not in told


def test_a_denial_at_the_destination_is_mended_there(tmp_path: Path) -> None:
    folder = logs(tmp_path, out("10.0.0.9", 53, "E", protocol=17, counters=UNANSWERED))
    far = record([flow_tuple("10.0.0.4", "10.0.0.9", 53, "D", direction="I", protocol=17)], acl=NSG, mac=OTHER_NIC)
    far["flowRecords"]["flows"][0]["flowGroups"][0]["rule"] = "UserRule_DenyDns"
    write_blob(folder, far, mac=OTHER_NIC)
    config = tmp_path / "flowlens.toml"
    config.write_text('[placeholders]\nCustomDNSIP = "10.0.0.9"\n', encoding="utf-8")
    ((_, options),) = commands(fix(folder, "nsg", "--config", config, profile="aks-core").out)
    assert options["--direction"] == ["Inbound"]
    assert options["--source-address-prefixes"] == ["10.0.0.4"]
    assert (options["--destination-address-prefixes"], options["--protocol"]) == (["10.0.0.9"], ["Udp"])
    assert options["--destination-port-ranges"] == ["53"]


def test_a_tag_with_an_unset_placeholder_is_asked_for(tmp_path: Path) -> None:
    # A control plane tunnel to an Azure address of the region.
    folder = logs(tmp_path, out("20.78.1.1", 1194, protocol=17))
    script = fix(folder, "nsg", profile="aks-core").out
    ((_, options),) = commands(script)
    assert options["--destination-address-prefixes"] == ["$SERVICE_TAG_1"]
    assert ': "${SERVICE_TAG_1:?AzureCloud.REGION with the region of the workload}"' in script
    config = tmp_path / "flowlens.toml"
    config.write_text('[placeholders]\nregion = "japaneast"\n', encoding="utf-8")
    for way in (("--config", config), ("--set", "location=japaneast")):
        ((_, options),) = commands(fix(folder, "nsg", *way, profile="aks-core").out)
        assert options["--destination-address-prefixes"] == ["AzureCloud.japaneast"]


HOSTILE = (
    "x'; touch owned; '",
    "$(touch owned)",
    "a\nb",
    "\x1b]0;x\x07",
    "\u202etxt",
    "--help",
    "@file",
    "x" * 300,
    "日本",
)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_never_reach_a_command(tmp_path: Path, name: str) -> None:
    acl = f"/subscriptions/{name}/resourceGroups/{name}/providers/Microsoft.Network/networkSecurityGroups/{name}"
    lost = out(REGISTRY, 443, "E", counters=UNANSWERED)
    folder = logs(tmp_path, out(KMS[0], 1688), lost, rule=f"UserRule_{name}", acl=acl)
    for way in ("nsg", "firewall", "route"):
        script = fix(folder, way, "--profile", "aks-core").out
        assert commands(script)
        assert script.isascii()
        assert all(line == "" or line.isprintable() for line in script.splitlines())
        for line in script.splitlines():
            assert line == "" or line.startswith(("#", "az ", "set -eu", ": "))
        for _, options in commands(script):
            assert name not in [word for values in options.values() for word in values]
    ((_, options),) = commands(fix(folder, "nsg").out)
    assert (options["--nsg-name"], options["--resource-group"]) == (["$NSG_1"], ["$NSG_GROUP_1"])
    assert "--subscription" not in options


# ---- ways out


def silent(folder: Path, subnet: str = "web") -> Path:
    tuples = [out(address, 1688, "E", counters=UNANSWERED) for address in KMS]
    return logs(folder, *tuples, rule="DefaultRule_AllowInternetOutBound", subnet=subnet)


def test_a_private_subnet_gets_a_nat_gateway(tmp_path: Path) -> None:
    folder = silent(tmp_path)
    script = fix(folder, "route").out
    (_, address), (_, gateway), (name, subnet) = commands(script)
    assert address["--location"] == gateway["--location"] == ["japaneast"]
    assert gateway["--public-ip-addresses"] == address["--name"]
    assert subnet["--nat-gateway"] == gateway["--name"]
    assert name == "network vnet subnet update"
    assert (subnet["--resource-group"], subnet["--vnet-name"], subnet["--name"]) == (["rg-a"], ["vnet-a"], ["web"])
    assert "do not help in a private subnet" in script
    assert "set -eu\n\n# 1." in script
    (told,) = words(folder).values()
    assert "NAT gateway" in told and "in a private subnet a route to Internet alone does not help" in told


def test_a_subnet_known_by_its_addresses_only_is_asked_for(tmp_path: Path) -> None:
    folder = silent(tmp_path, subnet="")
    script = fix(folder, "route").out
    _, _, (_, subnet) = commands(script)
    assert subnet["--name"] == ["$SUBNET_1"]
    assert "10.0.0.0/24" in script.splitlines()[4]


def test_past_a_firewall_go_routes_with_a_warning(tmp_path: Path) -> None:
    script = fix(silent(tmp_path), "route", "--outbound", "web=firewall").out
    found = commands(script)
    assert [options["--address-prefix"] for _, options in found] == [[f"{address}/32"] for address in KMS]
    assert {name for name, _ in found} == {"network route-table route create"}
    assert "in a private subnet next hop Internet leads nowhere" in script


@pytest.mark.parametrize("method", ["nat", "lb", "pip"])
def test_a_subnet_that_has_a_way_out_needs_no_other(tmp_path: Path, method: str) -> None:
    script = fix(silent(tmp_path), "route", "--outbound", f"web={method}").out
    assert commands(script) == []
    assert f"goes out by {method} already" in script


# ---- firewalls


def test_a_firewall_takes_the_addresses_of_activation(tmp_path: Path) -> None:
    ((_, options),) = commands(fix(silent(tmp_path), "firewall").out)
    assert (options["--rule-type"], options["--ip-protocols"]) == (["NetworkRule"], ["TCP"])
    assert options["--destination-addresses"] == list(KMS)
    assert (options["--destination-ports"], options["--source-addresses"]) == (["1688"], ["10.0.0.4"])


@pytest.mark.parametrize("counters", [UNANSWERED, RESET])
def test_a_firewall_takes_the_fqdn_tag_of_a_profile_that_has_one(tmp_path: Path, counters: tuple[int, ...]) -> None:
    begun = out(REGISTRY, 443, "B")
    folder = logs(tmp_path, begun, out(REGISTRY, 443, "E", counters=counters), rule="UserRule_AllowOut")
    ((_, options),) = commands(fix(folder, "firewall", profile="aks-core").out)
    assert options["--fqdn-tags"] == ["AzureKubernetesService"]
    assert (options["--rule-type"], options["--protocols"]) == (["ApplicationRule"], ["Https=443"])
    assert "--target-fqdns" not in options


def test_a_firewall_takes_names_where_there_is_no_tag(tmp_path: Path) -> None:
    address = fl.load_tags().prefixes("AzureMonitor.JapanEast")[0].split("/")[0]
    folder = logs(tmp_path, out(address, 443, "E", counters=UNANSWERED), rule="UserRule_AllowOut")
    found = commands(fix(folder, "firewall", profile="azure-monitor-agent").out)
    names = [name for _, options in found for name in options.get("--target-fqdns", ())]
    assert "global.handler.control.monitor.azure.com" in names
    assert not any("japaneast" in name for name in names)
    assert all("*" not in name[1:] and "<" not in name for name in names)
    assert not any("--fqdn-tags" in options for _, options in found)
    config = tmp_path / "flowlens.toml"
    config.write_text('[placeholders]\nregion = "japaneast"\n', encoding="utf-8")
    script = fix(folder, "firewall", "--config", config, profile="azure-monitor-agent").out
    assert "japaneast.handler.control.monitor.azure.com" in script


def test_each_way_tells_of_what_it_does_not_mend(tmp_path: Path) -> None:
    denied_and_silent = logs(tmp_path, out(REGISTRY, 443), out(SIGN_IN, 443, "E", counters=UNANSWERED))
    for way in ("nsg", "firewall", "route"):
        script = fix(denied_and_silent, way, profile="aks-core").out
        assert "mcr.microsoft.com" in script and "login.microsoftonline.com" in script
        assert "No command: this is not mended here." in script


def test_nothing_to_mend(tmp_path: Path) -> None:
    folder = logs(tmp_path, out(KMS[0], 1688, "E"), rule="UserRule_AllowOut")
    ran = fix(folder, "nsg")
    assert commands(ran.out) == []
    assert "there is nothing to mend" in ran.out
    assert "1 file" in ran.err


# ---- the command


def test_the_sample_is_mended() -> None:
    scripts = {}
    for way in ("nsg", "firewall", "route"):
        ran = run("egress", SAMPLE, "--inventory", SAMPLE / "inventory.csv", "--fix", way)
        assert ran.code == 0
        scripts[way] = commands(ran.out)
    tags = [options["--destination-address-prefixes"] for _, options in scripts["nsg"]]
    assert tags == [["MicrosoftContainerRegistry"], ["AzureFrontDoor.FirstParty"], ["AzurePlatformLKM"]]
    assert [options["--nsg-name"] for _, options in scripts["nsg"]] == [["nsg-aks"], ["nsg-aks"], ["nsg-win2"]]
    assert scripts["route"][-1][1]["--name"] == ["snet-private"]
    assert scripts["firewall"][0][1]["--source-addresses"] == ["10.10.4.4"]


def test_a_script_goes_to_a_file(tmp_path: Path) -> None:
    folder = silent(tmp_path / "logs")
    ran = run("egress", folder / CONTAINER, "--fix", "route", "-o", tmp_path / "fix.sh")
    assert (ran.code, ran.out) == (0, "")
    assert (tmp_path / "fix.sh").read_text("ascii").startswith("#!/usr/bin/env bash\n")
    assert ran.err.startswith("wrote ")


def test_after_a_change_only_what_fails_since_is_mended(tmp_path: Path) -> None:
    folder = logs(tmp_path, out(KMS[0], 1688, minute=1), out(KMS[0], 1688, "E", minute=50))
    change = ("--changed-at", "2026-06-15T09:30Z")
    assert len(commands(fix(folder, "nsg").out)) == 0
    assert "nothing to mend" in fix(folder, "nsg", *change).out
    broken = logs(tmp_path / "b", out(KMS[0], 1688, "E", minute=1), out(KMS[0], 1688, minute=50))
    assert len(commands(fix(broken, "nsg", *change).out)) == 1


def test_gates_fire_beside_a_script(tmp_path: Path) -> None:
    ran = run("egress", silent(tmp_path) / CONTAINER, "--fix", "route", "--fail-on", "unanswered")
    assert ran.code == 1
    assert "az network nat gateway create" in ran.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fix", "nsgs"), "nsg"),
        (("--fix", "nsg", "--format", "json"), "does not go with --fix"),
        (("--fix", "nsg", "-o", "fix.json"), "asks for json"),
        (("--fix", "nsg", "-o", "folder/"), "is a folder"),
        (("--fix", "nsg", "--what-if", "private-subnet"), "does not go with --what-if"),
        (("--fix", "nsg", "--outbound", "web=nat"), "--fix route"),
        (("--fix", "route", "--outbound", "web"), "SUBNET=METHOD"),
        (("--fix", "route", "--outbound", "wbe=nat"), "none of these logs"),
    ],
    ids=" ".join,
)
def test_wrong_usage(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    ran = run("egress", silent(tmp_path) / CONTAINER, *options)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err and ran.err.count("\n") <= 2


def test_json_has_the_same_words(tmp_path: Path) -> None:
    folder = logs(tmp_path, out(KMS[0], 1688))
    document = run("egress", folder / CONTAINER, "--profile", "windows-kms", "--format", "json").document
    told = [row["fix"] for row in document["tables"]["denied_egress"] if row["fix"]]
    assert told == list(words(folder).values())
    assert json.dumps(document["findings"]).count("AzurePlatformLKM") == 1


# ---- profiles of the user's own

OWN = """
title = "Own"
as_of = "2026-01-01"
sources = ["a page"]
"""


def requirement(name: str, *endpoints: tuple[str, str], ports: str = "443", protocol: str = "tcp") -> str:
    listed = ", ".join(f'{{ kind = "{kind}", value = "{value}" }}' for kind, value in endpoints)
    return (
        f'[[requirement]]\nname = "{name}"\ncloud = "global"\nneed = "required"\nprotocol = "{protocol}"\n'
        f'ports = "{ports}"\npurpose = "a test"\nas_of = "2026-01-01"\nendpoints = [{listed}]\n'
    )


def own_profile(folder: Path, *requirements: str, name: str = "own.toml") -> str:
    path = folder / name
    path.write_text(OWN + "\n".join(requirements), encoding="utf-8")
    return str(path)


def test_two_rules_of_one_name_become_two_names(tmp_path: Path) -> None:
    one, two = ("203.0.113.1", "203.0.113.2"), ("198.51.100.1", "198.51.100.2")
    profile = own_profile(
        tmp_path, requirement("One", *(("ip", a) for a in one)), requirement("Two", *(("ip", a) for a in two))
    )
    folder = logs(tmp_path, out(one[0], 443), out(two[0], 443))
    found = {options["--name"][0]: options for _, options in commands(fix(folder, "nsg", profile=profile).out)}
    assert {name: options["--destination-address-prefixes"] for name, options in found.items()} == {
        "Allow-own-TCP-443": list(one),
        "Allow-own-TCP-443-2": list(two),
    }
    assert len({options["--priority"][0] for options in found.values()}) == 2


@pytest.mark.parametrize("name", ["x; touch owned.toml", "$(touch owned).toml", "日本.toml", "--help.toml"], ids=ascii)
def test_a_profile_may_be_called_anything(tmp_path: Path, name: str) -> None:
    profile = own_profile(tmp_path, requirement("One", ("ip", "203.0.113.1"), ("ip", "203.0.113.2")), name=name)
    for state, way in (("D", "nsg"), ("E", "firewall")):
        tuples = out("203.0.113.1", 443, state, counters=UNANSWERED if state == "E" else None)
        script = fix(logs(tmp_path / way, tuples), way, profile=profile).out
        ((_, options),) = commands(script)
        assert options["--name"][0].replace("-", "").replace(".", "").replace("_", "").isalnum()
        assert options["--name"][0].isascii()


@pytest.mark.parametrize(
    ("ports", "protocol", "nsg", "firewall"),
    [
        ("any", "any", (["*"], ["*"]), (["*"], ["Any"])),
        ("1433,11000-11999", "tcp", (["1433", "11000-11999"], ["Tcp"]), (["1433", "11000-11999"], ["TCP"])),
        ("123", "udp", (["123"], ["Udp"]), (["123"], ["UDP"])),
    ],
)
def test_ports_and_protocols(
    tmp_path: Path,
    ports: str,
    protocol: str,
    nsg: tuple[list[str], list[str]],
    firewall: tuple[list[str], list[str]],
) -> None:
    profile = own_profile(tmp_path, requirement("One", ("ip", "203.0.113.1"), ports=ports, protocol=protocol))
    port, number = (11500, 6) if protocol != "udp" else (123, 17)
    denied = logs(tmp_path / "denied", out("203.0.113.1", port, protocol=number))
    ((_, options),) = commands(fix(denied, "nsg", profile=profile).out)
    assert (options["--destination-port-ranges"], options["--protocol"]) == nsg
    lost = logs(tmp_path / "lost", out("203.0.113.1", port, "E", protocol=number, counters=UNANSWERED))
    ((_, options),) = commands(fix(lost, "firewall", profile=profile).out)
    assert (options["--destination-ports"], options["--ip-protocols"]) == firewall


def test_a_fqdn_tag_that_covers_only_a_part_is_not_taken_for_the_rest(tmp_path: Path) -> None:
    address = fl.load_tags().prefixes("AzureMonitor.JapanEast")[0].split("/")[0]
    profile = own_profile(
        tmp_path,
        requirement("Cloud protection", ("fqdn-tag", "MicrosoftActiveProtectionService")),
        requirement("Data", ("fqdn-wildcard", "*.ods.opinsights.azure.com")),
    )
    folder = logs(tmp_path, out(address, 443, "E", counters=UNANSWERED))
    ((_, options),) = commands(fix(folder, "firewall", profile=profile).out)
    assert options["--target-fqdns"] == ["*.ods.opinsights.azure.com"]
    assert "--fqdn-tags" not in options


@pytest.mark.parametrize("way", ["nsg", "firewall"])
def test_a_name_that_no_tag_stands_for_has_no_nsg_rule(tmp_path: Path, way: str) -> None:
    profile = own_profile(
        tmp_path, requirement("Mirror", ("fqdn", "mirror.example.org"), ("cidr", "0.0.0.0/0"), ports="8443")
    )
    state = {"nsg": "D", "firewall": "E"}[way]
    folder = logs(tmp_path, out("203.0.113.1", 8443, state, counters=UNANSWERED if state == "E" else None))
    script = fix(folder, way, profile=profile).out
    assert commands(script) == []
    assert "mirror.example.org" in script
    told = words(folder, profile)["Mirror"]
    assert ("no service tag stands for mirror.example.org" in told) == (way == "nsg")


def test_mail_is_not_a_matter_of_rules(tmp_path: Path) -> None:
    profile = own_profile(tmp_path, requirement("Relay", ("ip", "203.0.113.25"), ports="25"))
    folder = logs(tmp_path, out("203.0.113.25", 25, "E", counters=UNANSWERED))
    assert "587" in words(folder, profile)["Relay"]


# ---- names that lead to private addresses


@pytest.fixture
def vault(tmp_path: Path) -> tuple[str, Path]:
    """A profile that needs a key vault by its name, and the names file that leads the name to a private endpoint."""
    names = tmp_path / "names.csv"
    names.write_text("name,address\nvault1.vault.azure.net,10.0.0.9\n", encoding="utf-8")
    return own_profile(tmp_path, requirement("Vault", ("fqdn", "vault1.vault.azure.net"))), names


def test_a_denied_private_endpoint_is_let_through_by_its_address(tmp_path: Path, vault: tuple[str, Path]) -> None:
    profile, names = vault
    folder = logs(tmp_path, out("10.0.0.9", 443))
    ((_, options),) = commands(fix(folder, "nsg", "--names", names, profile=profile).out)
    assert options["--destination-address-prefixes"] == ["10.0.0.9"]
    told = words(folder, profile, names=names)["Vault"]
    assert told == "Allow outbound TCP 443 to 10.0.0.9 at a lower priority number than DenyOut in nsg-a."


def test_a_public_address_of_the_name_is_let_through_by_the_tag(tmp_path: Path, vault: tuple[str, Path]) -> None:
    profile, names = vault
    names.write_text("name,address\nvault1.vault.azure.net,20.66.2.28\n", encoding="utf-8")
    folder = logs(tmp_path, out("20.66.2.28", 443))
    ((_, options),) = commands(fix(folder, "nsg", "--names", names, profile=profile).out)
    assert options["--destination-address-prefixes"] == ["AzureKeyVault"]


def test_no_route_leads_to_a_private_endpoint(tmp_path: Path, vault: tuple[str, Path]) -> None:
    profile, names = vault
    folder = logs(tmp_path, out("10.0.0.9", 443, "E", counters=UNANSWERED), rule="UserRule_AllowOut")
    script = fix(folder, "route", "--names", names, profile=profile).out
    assert commands(script) == [] and "No command" in script
    assert "10.0.0.9" in script and "an outbound method does not help" in script
    assert "give the subnet" not in words(folder, profile, names=names)["Vault"]
