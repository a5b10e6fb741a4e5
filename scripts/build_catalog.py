"""Makes the data files of flowlens.catalog from the reference files they come from.

    python scripts/build_catalog.py tags ServiceTags_Public_20260720.json ServiceTags_China_20260720.json ...
    python scripts/build_catalog.py profiles required-endpoints.csv

The CSV has one fact per row (profile, cloud, requirement, kind, value, protocol, port, condition, purpose, source,
as_of); the tables below say which rows are one requirement, and how it and its note read.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from flowlens.catalog.profiles import EGRESS, KINDS, read_profile
from flowlens.catalog.tags import CLOUDS, PUBLISHED_CLOUDS, UNKNOWN_DATE, load_tags, packed

DATA = Path(__file__).parents[1] / "flowlens" / "catalog" / "data"

TITLES = {
    "aks-addon-app-routing": "AKS application routing add-on",
    "aks-addon-azure-monitor": "AKS monitoring: Prometheus, Container insights",
    "aks-addon-azure-policy": "AKS Azure Policy add-on",
    "aks-addon-cost-analysis": "AKS cost analysis add-on",
    "aks-addon-istio": "AKS service mesh add-on (Istio)",
    "aks-addon-keyvault-csi": "AKS Key Vault provider for the secrets store",
    "aks-addon-workload-identity": "AKS workload identity",
    "aks-cluster-extensions": "AKS cluster extensions",
    "aks-core": "Azure Kubernetes Service, every cluster",
    "aks-gpu": "AKS GPU node pools",
    "aks-recommended": "AKS node OS updates",
    "aks-windows": "AKS Windows node pools",
    "arc-servers": "Azure Arc-enabled servers",
    "azure-monitor-agent": "Azure Monitor agent",
    "azure-platform": "Platform addresses: DNS, metadata, guest agent",
    "azure-portal": "Azure portal",
    "azure-sql": "Azure SQL Database over the backbone",
    "azure-storage": "Azure Storage over the backbone",
    "defender-containers": "Defender for Containers",
    "defender-endpoint": "Defender for Endpoint, streamlined",
    "defender-endpoint-mma": "Defender for Endpoint, monitoring agent",
    "defender-endpoint-standard": "Defender for Endpoint, standard",
    "defender-identity": "Defender for Identity sensor",
    "entra-id": "Sign-in with Microsoft Entra ID",
    "log-analytics-agent": "Log Analytics agent, retired 2024-08-31",
    "machine-configuration": "Machine configuration (guest configuration)",
    "office365": "Microsoft 365, tags of Azure Firewall",
    "office365-common": "Microsoft 365 common and Office online",
    "office365-exchange": "Exchange Online",
    "office365-sharepoint": "SharePoint Online and OneDrive",
    "office365-teams": "Microsoft Teams",
    "qualys": "Qualys vulnerability scanner",
    "rhui": "Red Hat Update Infrastructure (RHUI)",
    "smtp-outbound": "Outbound mail",
    "sql-mi": "SQL Managed Instance subnet",
    "ubuntu-repos": "Ubuntu package repositories",
    "windows-kms": "Windows activation (KMS)",
    "windows-update": "Windows Update",
}

# Rows that are one line of an answer beside those that the CSV groups: a column of the CSV, what stands in it, and the
# group. Names join the addresses they are served from, parts of one address list join each other, and so do servers of
# which a machine needs only its own region's.
JOINED = {
    "aks-addon-keyvault-csi": (("value", r".*vault\.azure\.net", "vault"),),
    "defender-endpoint": tuple(
        ("condition", rf"static range for {place} .*", f"defender {place}") for place in ("US", "EU", "UK", "AU")
    ),
    "defender-identity": (("condition", r"OUTDATED: regional front ends.*", "defender front ends"),),
    "entra-id": (("value", r"[0-9a-f:.]+/[0-9]+", "id 56"),),
    "machine-configuration": (("condition", r"only the account\(s\) of the machine's region.*", "guest accounts"),),
    "office365-common": (("condition", r"ids 46 and 64 Allow .*", "id 46"),),
    "office365-exchange": (
        ("condition", r"id 1 Optimize", "id 1"),
        ("condition", r"id 9 Allow", "id 9"),
        ("condition", r"id 10 Allow.*", "id 10"),
    ),
    "office365-sharepoint": (("condition", r"id 31 Optimize.*", "id 31"),),
    "office365-teams": (("condition", r"id 11 Optimize", "id 11"), ("condition", r"id 12 Allow", "id 12")),
    "qualys": (("kind", "ip", "qualys addresses"),),
    "rhui": (
        ("value", r"rhui4-1\.microsoft\.com", "rhui4"),
        ("value", r"rhui-[123]\.microsoft\.com", "rhui3"),
        ("value", r"13\.91\.47\.76|40\.85\.190\.91|52\.187\.75\.218|52\.174\.163\.213|52\.237\.203\.198", "rhui3"),
        ("value", r"13\.72\.186\.193|13\.72\.14\.155|52\.244\.249\.194", "rhui usgov"),
    ),
    "sql-mi": (
        ("condition", r"INBOUND NSG rule .*mi-healthprobe-in;.*", "mi healthprobe-in"),
        ("condition", r"INBOUND NSG rule .*mi-internal-in;.*", "mi internal-in"),
        ("condition", r"OUTBOUND NSG rule .*mi-internal-out;.*", "mi internal-out"),
        ("condition", r"OUTBOUND NSG rule .*mi-optional-azure-out;.*", "mi optional-azure-out"),
        ("condition", r"ROUTE .*-to-vnetlocal.*", "mi to-vnetlocal"),
        ("condition", r"ROUTE .*mi-optional-AzureCloud.*", "mi optional routes"),
        ("condition", r"ROUTES of the same names.*", "mi obsolete routes"),
        ("condition", r"ROUTE mi-\*-internet.*", "mi old routes"),
        ("condition", r"INBOUND rule management;.*", "mi old management in"),
        ("condition", r"OUTBOUND rule management;.*", "mi old management out"),
    ),
    "windows-kms": (
        ("value", r"(az)?kms\.core\.(usgovcloudapi\.net|chinacloudapi\.cn)|azkms\.core\.windows\.net", "kms"),
    ),
}  # fmt: skip

# Requirements that only workloads of that kind try, so that an attempt shows the profile to apply. What is named but has
# no address of its own tells only where the user's names tie an address to it.
TELLING = {
    ("aks-addon-azure-policy", "data.policy.core.windows.net"),
    ("aks-addon-azure-policy", "data.policy.azure.us"),
    ("aks-addon-azure-policy", "data.policy.azure.cn"),
    ("aks-cluster-extensions", "<region>.dp.kubernetesconfiguration.azure.com"),
    ("aks-cluster-extensions", "<region>.dp.kubernetesconfiguration.azure.us"),
    ("aks-core", "Node to control plane tunnel (TCP 9000)"),
    ("aks-core", "Node to control plane tunnel (UDP 1194)"),
    ("aks-core", "API server address"),
    ("arc-servers", "*.his.arc.azure.com"),
    ("arc-servers", "*.his.arc.azure.us"),
    ("arc-servers", "*.his.arc.azure.cn"),
    ("azure-monitor-agent", "AzureMonitor"),
    ("azure-platform", "Platform DNS (UDP 53)"),
    ("azure-platform", "Platform DNS (TCP 53)"),
    ("azure-platform", "Instance metadata service"),
    ("azure-platform", "Guest agent (WireServer)"),
    ("azure-portal", "AzurePortal"),
    ("azure-sql", "Sql.<region> (TCP 1433)"),
    ("azure-storage", "Storage.<region>"),
    ("defender-containers", "*.cloud.defender.microsoft.com"),
    ("defender-endpoint", "MicrosoftDefenderForEndpoint"),
    ("defender-identity", "AzureAdvancedThreatProtection"),
    ("entra-id", "AzureActiveDirectory"),
    ("log-analytics-agent", "*.agentsvc.azure-automation.net"),
    ("machine-configuration", "AzureArcInfrastructure"),
    ("office365-common", "Office online and portals (ids 46 and 64)"),
    ("office365-exchange", "Exchange Online (id 1)"),
    ("office365-sharepoint", "SharePoint and OneDrive (id 31)"),
    ("office365-teams", "Teams media (id 11)"),
    ("qualys", "Qualys platform addresses"),
    ("rhui", "RHUI 4 package updates"),
    ("smtp-outbound", "smtp.office365.com"),
    ("ubuntu-repos", "azure.archive.ubuntu.com"),
    ("windows-kms", "KMS activation"),
    ("windows-kms", "KMS server before 2022"),
    ("windows-update", "AzureUpdateDelivery"),
}

# What a row is about where it is not egress: rules that let traffic in, routes that must exist, tags that only rules of
# an NSG can name.
CONCERNS = (
    (r"INBOUND\b.*", "ingress"),
    (r"ROUTES?\b.*", "route"),
    (r"NSG-only tag\b.*", "rule"),
)

# Rows whose own words contradict their column: profile, value and port of what the profile says instead.
CORRECTED = {
    # The owner may remove the rule that lets it out, so a denial is a choice (service-aided subnet configuration).
    ("sql-mi", "AzureCloud", "443"): {"requirement": "safe-to-block"},
}

# Name and, where the rows' own words do not do for all of them, note of a group, by cloud where clouds differ.
GROUPS = {
    "kms": ("KMS activation", {
        "global": "azkms.core.windows.net is both addresses; a platform rule lets it past NSGs, unless a 0.0.0.0/0 "
        "route exists; all Windows VMs use this pair since 2023-03-01",
        "usgov": "kms.core.usgovcloudapi.net is 23.97.0.13, azkms.core.usgovcloudapi.net is 52.126.105.2",
        "china": "azkms.core.chinacloudapi.cn is 159.27.28.100 and 163.228.64.161, kms.core.chinacloudapi.cn is "
        "42.159.7.249",
    }),
    "aks-tunnel-1194": ("Node to control plane tunnel (UDP 1194)", {}),
    "aks-tunnel-9000": ("Node to control plane tunnel (TCP 9000)", {}),
    "aks-tunnel-22": ("Node to control plane tunnel (TCP 22)", {}),
    "aks-ntp": ("Node time sync", {}),
    "rhui4": ("RHUI 4 package updates", {
        "global": "all five addresses should be open, Traffic Manager may pick any of them; the source must leave from "
        "an Azure public address; no TLS inspection; West Europe 52.136.197.163, South Central US 20.225.226.182, "
        "East US 52.142.4.99, Australia East 20.248.180.252, Southeast Asia 20.24.186.80",
        "usgov": "all five addresses should be open, Traffic Manager may pick any of them; images of usgov use the "
        "public cloud's RHUI addresses, which are in no usgov service tag",
    }),
    "rhui3": ("RHUI 3 package updates", {}),
    "rhui usgov": ("RHUI of usgov before 2023", {}),
    "vault": ("Key Vault", {}),
    "defender US": ("Static ranges, US data location", {}),
    "defender EU": ("Static ranges, EU data location", {}),
    "defender UK": ("Static ranges, UK data location", {}),
    "defender AU": ("Static ranges, AU data location", {}),
    "defender front ends": ("Regional front ends of older pages", {}),
    "guest accounts": ("Storage account of the machine's region", {}),
    "id 46": ("Office online and portals (ids 46 and 64)", {}),
    "id 1": ("Exchange Online (id 1)", {}),
    "id 9": ("Mail protection (id 9)", {}),
    "id 10": ("Mail to Exchange Online (id 10)", {}),
    "id 31": ("SharePoint and OneDrive (id 31)", {}),
    "id 11": ("Teams media (id 11)", {}),
    "id 12": ("Teams (id 12)", {}),
    "qualys": ("Qualys platform", {}),
    "qualys addresses": ("Qualys platform addresses", {}),
    "mi healthprobe-in": ("NSG rule mi-healthprobe-in", {}),
    "mi internal-in": ("NSG rule mi-internal-in", {}),
    "mi internal-out": ("NSG rule mi-internal-out", {}),
    "mi optional-azure-out": ("NSG rule mi-optional-azure-out", {}),
    "mi to-vnetlocal": ("Route mi-subnet-<range>-to-vnetlocal", {}),
    "mi optional routes": ("Routes mi-optional-AzureCloud", {}),
    "mi obsolete routes": ("Routes of obsolete rules", {}),
    "mi old routes": ("Routes mi-*-internet", {}),
    "mi old management in": ("NSG rule management, inbound", {}),
    "mi old management out": ("NSG rule management, outbound", {}),
    "id 56": ("Sign-in address ranges (Microsoft 365 id 56)", {
        "global": "all ranges should be open, a client is sent to any of them; Microsoft 365 endpoint id 56 (inferred "
        "for 20.20.32.0/19 and 20.231.128.0/19); inside AzureActiveDirectory, largely outside AzureCloud",
    }),
}  # fmt: skip

# Names of requirements whose endpoint alone says too little, by profile, value and port.
NAMES = {
    ("windows-kms", "23.102.135.246", "1688"): "KMS server before 2022",
    ("aks-core", "<CustomDNSIP>", "53"): "Custom DNS servers",
    ("aks-core", "<APIServerPublicIP>", "443"): "API server address",
    ("aks-core", "AzureCloud.<Region>", "123"): "Node time sync through AzureCloud",
    ("azure-platform", "168.63.129.16", "53"): "Platform DNS",
    ("azure-platform", "168.63.129.16", "80,32526"): "Guest agent (WireServer)",
    ("azure-platform", "168.63.129.16", "443"): "Guest agent, older form",
    ("azure-platform", "169.254.169.254", "80"): "Instance metadata service",
    ("smtp-outbound", "0.0.0.0/0", "25"): "Direct mail delivery",
    ("sql-mi", "168.63.129.16", "53"): "Platform DNS",
    ("sql-mi", "<mi-subnet>", "1433"): "TDS from clients",
    ("sql-mi", "<mi-subnet>", "11000-11999"): "TDS redirect from clients",
    ("sql-mi", "<mi-subnet>", "3342"): "TDS public endpoint",
}

# Words of the CSV that only make sense beside its other sources, and what the profile says.
REWORDED = (
    ("Azure Firewall only; seed says 443, current sample uses http 80 and https 443; contains the FQDNs of this page",
     "Azure Firewall only; http 80 and https 443; contains the names of this profile"),
    ("seed 001 rule; the AKS page", "a third party's rule; the AKS page"),
    ("the page writes *", "the page allows any destination"),
    ("Linux node time sync (seed variant)", "Linux node time sync (a third party's rule)"),
    ("RHUI 3 names from the seed; replaced", "replaced"),
    ("in both the seed and the current page", "named by older and current pages"),
    ("ADDED since the seed; has no", "named by current pages only; has no"),
    ("seed lists it first, current page no longer names it", "older pages list it first, the current one no longer names it"),
    ("NEW since both seeds; sensor needs it", "newer than the other names; the sensor needs it"),
    ("INCOMPLETE in the seed: this is the Delivery", "this is the Delivery"),
    ("seed says 443, AKS page says 80", "articles say 443, the AKS page says 80"),
    ("snap content also comes from CDN hosts not listed in the seed", "snap content also comes from CDN hosts not listed"),
    (". Seed spells it OneDsColelctor once", ""),
    ("M365 endpoint id 97; the portal page points to 56, 59 and 97 where the seed says 56, 59 and 125",
     "M365 endpoint id 97; only with Microsoft accounts"),
)  # fmt: skip
# Sources that nobody else can look up.
PRIVATE_SOURCE = (
    r"seed [0-9]{3}_[0-9a-f]+\.txt( \([^)]*\))?|stored text, | \(stored cop(y|ies)( of the MicrosoftDocs page)?\)"
)
SOURCE_OF_THE_REST = "a third party's article on egress to Azure platform services (2023-03)"


def build_tags(published: Path) -> Iterable[Path]:
    """The package's file of one cloud's service tags, from the published JSON file of that cloud."""
    name = next((name for name in PUBLISHED_CLOUDS if f"_{name}_" in published.name), "")
    tags = load_tags(PUBLISHED_CLOUDS.get(name, "global"), published)
    if tags.date == UNKNOWN_DATE:
        sys.exit(f"{published.name}: expected a date in the file's name")
    target = DATA / f"service_tags_{tags.cloud}.parquet"
    target.write_bytes(packed(tags))
    yield target


def build_profiles(endpoints: Path) -> Iterable[Path]:
    """The package's profiles, from the table of required endpoints."""
    with endpoints.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, title in TITLES.items():
        text = profile_text(title, [row for row in rows if row["profile"] == name])
        read_profile(text.encode(), name=name, where=f"{name}.toml")
        target = DATA / "profiles" / f"{name}.toml"
        target.write_text(text, "utf-8", newline="\n")
        yield target


def profile_text(title: str, rows: list[dict[str, str]]) -> str:
    """One profile as TOML: requirements by cloud in the order of the rows."""
    requirements: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: CLOUDS.index(row["cloud"])):
        row = {**row, **CORRECTED.get((row["profile"], row["value"], row["port"]), {})}
        subject = group_of(row) or f"{row['kind']} {row['value']}"
        requirements.setdefault((row["cloud"], subject, row["protocol"], row["port"]), []).append(row)
    names = Counter((members[0]["cloud"], name_of(members).lower()) for members in requirements.values())
    lines = [
        "# Made by scripts/build_catalog.py; a profile of your own has the same form.",
        f"title = {text_of(title)}",
        f"as_of = {text_of(max(dates_of(rows)))}",
        "sources = [",
        *(f"  {text_of(source)}," for source in sources_of(rows)),
        "]",
    ]
    for members in requirements.values():
        name = name_of(members)
        if names[members[0]["cloud"], name.lower()] > 1:
            name += f" ({members[0]['protocol'].upper()} {members[0]['port']})"
        lines += ["", "[[requirement]]", *requirement_lines(name, members)]
    return "\n".join(lines) + "\n"


def requirement_lines(name: str, members: list[dict[str, str]]) -> Iterable[str]:
    first = members[0]
    if any(shared_by(row) != shared_by(first) for row in members):
        sys.exit(
            f"{first['profile']} {first['cloud']} {name}: rows differ in need, in what they concern, or are retired"
        )
    _, notes = GROUPS.get(group_of(first), ("", {}))
    note = notes.get(first["cloud"]) or "; ".join(dict.fromkeys(part for row in members for part in note_parts(row)))
    need, concerns, retired = shared_by(first)
    yield f"name = {text_of(name)}"
    yield f"cloud = {text_of(first['cloud'])}"
    yield f"need = {text_of(need)}"
    if concerns != EGRESS:
        yield f"concerns = {text_of(concerns)}"
    yield f"protocol = {text_of(first['protocol'])}"
    yield f"ports = {text_of(first['port'])}"
    yield f"purpose = {text_of(reworded(first['purpose']))}"
    if note:
        yield f"note = {text_of(note)}"
    yield f"as_of = {text_of(min(dates_of(members)))}"
    if retired:
        yield "retired = true"
    if (first["profile"], name) in TELLING:
        yield "telling = true"
    yield "endpoints = ["
    for row in sorted(members, key=lambda row: KINDS.index(row["kind"])):
        yield f"  {{ kind = {text_of(row['kind'])}, value = {text_of(row['value'])} }},"
    yield "]"


def name_of(members: list[dict[str, str]]) -> str:
    """What a requirement is called: the name of its group, one of NAMES, or its endpoint."""
    first = members[0]
    name, _ = GROUPS.get(group_of(first), (NAMES.get((first["profile"], first["value"], first["port"])), {}))
    return name or first["value"]


def shared_by(row: dict[str, str]) -> tuple[str, str, bool]:
    """What all rows of a requirement share: need, what it concerns, whether it is retired."""
    concerns = next((word for words, word in CONCERNS if re.fullmatch(words, row["condition"])), EGRESS)
    return row["requirement"], concerns, bool(re.search(r"OUTDATED|RETIRED|obsolete", row["condition"]))


def dates_of(rows: list[dict[str, str]]) -> list[str]:
    """The dates of rows; ``unknown`` where none has one."""
    return [row["as_of"] for row in rows if row["as_of"] != UNKNOWN_DATE] or [UNKNOWN_DATE]


def group_of(row: dict[str, str]) -> str:
    """The group of alternatives that a row belongs to, without its cloud; empty where it stands alone."""
    if written := re.search(r"one-of:([a-z0-9-]+)", row["condition"]):
        return re.sub(rf"-({'|'.join(CLOUDS)})$", "", written[1])
    joined = JOINED.get(row["profile"], ())
    return next((group for column, words, group in joined if re.fullmatch(words, row[column])), "")


def note_parts(row: dict[str, str]) -> list[str]:
    condition = re.sub(r"(OUTDATED|RETIRED)( name)?:? ?", "", reworded(row["condition"]))
    parts = (part.strip() for part in condition.split(";"))
    return [part for part in parts if part and not part.startswith("one-of:")]


def reworded(text: str) -> str:
    for old, new in REWORDED:
        text = text.replace(old, new)
    return text


def sources_of(rows: list[dict[str, str]]) -> list[str]:
    found: dict[str, None] = {}
    for row in rows:
        text = re.sub(PRIVATE_SOURCE, "", row["source"])
        parts = [part.strip() for part in text.split(";") if part.strip()] or [SOURCE_OF_THE_REST]
        found.update(dict.fromkeys(parts))
    return list(found)


def text_of(text: str) -> str:
    """A TOML string; TOML's escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["tags", "profiles"])
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    build = {"tags": build_tags, "profiles": build_profiles}[arguments.what]
    for file in arguments.files:
        for target in build(file):
            print(f"{target.relative_to(DATA)}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
