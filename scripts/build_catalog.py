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
from collections.abc import Iterable
from pathlib import Path

from flowlens.catalog.profiles import KINDS, read_profile
from flowlens.catalog.tags import CLOUDS, PUBLISHED_CLOUDS, UNKNOWN_DATE, load_tags

DATA = Path(__file__).parents[1] / "flowlens" / "catalog" / "data"

TITLES = {
    "aks-core": "Azure Kubernetes Service, every cluster",
    "azure-monitor-agent": "Azure Monitor agent",
    "entra-id": "Sign-in with Microsoft Entra ID",
    "rhui": "Red Hat Update Infrastructure (RHUI)",
    "windows-kms": "Windows activation (KMS)",
}

# Rows that are alternatives beside those that the CSV groups: names of listed addresses, and parts of one address list.
JOINED = {
    "windows-kms": (
        (r"(az)?kms\.core\.(usgovcloudapi\.net|chinacloudapi\.cn)|azkms\.core\.windows\.net", "kms"),
    ),
    "rhui": (
        (r"rhui4-1\.microsoft\.com", "rhui4"),
        (r"rhui-[123]\.microsoft\.com", "rhui3"),
        (r"13\.91\.47\.76|40\.85\.190\.91|52\.187\.75\.218|52\.174\.163\.213|52\.237\.203\.198", "rhui3"),
        (r"13\.72\.186\.193|13\.72\.14\.155|52\.244\.249\.194", "rhui usgov"),
    ),
    "entra-id": ((r"[0-9a-f:.]+/[0-9]+", "id 56"),),
}  # fmt: skip

# Requirements that only workloads of that kind try, so that an attempt shows the profile to apply.
TELLING = {
    ("aks-core", "Node to control plane tunnel (TCP 9000)"),
    ("aks-core", "Node to control plane tunnel (UDP 1194)"),
    ("aks-core", "API server address"),
    ("azure-monitor-agent", "AzureMonitor"),
    ("entra-id", "AzureActiveDirectory"),
    ("rhui", "RHUI 4 package updates"),
    ("windows-kms", "KMS activation"),
    ("windows-kms", "KMS server before 2022"),
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
}

# Words of the CSV that only make sense beside its other sources, and what the profile says.
REWORDED = (
    ("Azure Firewall only; seed says 443, current sample uses http 80 and https 443; contains the FQDNs of this page",
     "Azure Firewall only; http 80 and https 443; contains the names of this profile"),
    ("seed 001 rule; the AKS page", "a third party's rule; the AKS page"),
    ("the page writes *", "the page allows any destination"),
    ("Linux node time sync (seed variant)", "Linux node time sync (a third party's rule)"),
    ("RHUI 3 names from the seed; replaced", "replaced"),
    ("M365 endpoint id 97; the portal page points to 56, 59 and 97 where the seed says 56, 59 and 125",
     "M365 endpoint id 97; only with Microsoft accounts"),
)  # fmt: skip
# Sources that nobody else can look up.
PRIVATE_SOURCE = r"seed [0-9]{3}_[0-9a-f]+\.txt|stored text, "
SOURCE_OF_THE_REST = "a third party's article on egress to Azure platform services (2023-03)"


def build_tags(published: Path) -> Iterable[Path]:
    """The package's file of one cloud's service tags, from the published JSON file of that cloud."""
    name = next((name for name in PUBLISHED_CLOUDS if f"_{name}_" in published.name), "")
    tags = load_tags(PUBLISHED_CLOUDS.get(name, "global"), published)
    if tags.date == UNKNOWN_DATE:
        sys.exit(f"{published.name}: expected a date in the file's name")
    target = DATA / f"service_tags_{tags.cloud}.parquet"
    metadata = {"cloud": tags.cloud, "date": tags.date}
    tags.table.write_parquet(target, compression="zstd", compression_level=22, metadata=metadata)
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
        key = (row["cloud"], group_of(row) or f"{row['kind']} {row['value']}", row["protocol"], row["port"])
        requirements.setdefault(key, []).append(row)
    lines = [
        "# Made by scripts/build_catalog.py; a profile of your own has the same form.",
        f"title = {text_of(title)}",
        f"as_of = {text_of(max(row['as_of'] for row in rows))}",
        "sources = [",
        *(f"  {text_of(source)}," for source in sources_of(rows)),
        "]",
    ]
    for members in requirements.values():
        lines += ["", "[[requirement]]", *requirement_lines(members)]
    return "\n".join(lines) + "\n"


def requirement_lines(members: list[dict[str, str]]) -> Iterable[str]:
    first = members[0]
    for same in ("requirement", "retired"):
        if len({str(is_retired(row)) if same == "retired" else row[same] for row in members}) > 1:
            sys.exit(f"{first['profile']} {first['cloud']} {group_of(first)}: rows differ in {same}")
    name, notes = GROUPS.get(group_of(first), (NAMES.get((first["profile"], first["value"], first["port"])), {}))
    note = notes.get(first["cloud"]) or "; ".join(dict.fromkeys(part for row in members for part in note_parts(row)))
    yield f"name = {text_of(name or first['value'])}"
    yield f"cloud = {text_of(first['cloud'])}"
    yield f"need = {text_of(first['requirement'])}"
    yield f"protocol = {text_of(first['protocol'])}"
    yield f"ports = {text_of(first['port'])}"
    yield f"purpose = {text_of(reworded(first['purpose']))}"
    if note:
        yield f"note = {text_of(note)}"
    yield f"as_of = {text_of(min(row['as_of'] for row in members))}"
    if is_retired(first):
        yield "retired = true"
    if (first["profile"], name or first["value"]) in TELLING:
        yield "telling = true"
    yield "endpoints = ["
    for row in sorted(members, key=lambda row: KINDS.index(row["kind"])):
        yield f"  {{ kind = {text_of(row['kind'])}, value = {text_of(row['value'])} }},"
    yield "]"


def group_of(row: dict[str, str]) -> str:
    """The group of alternatives that a row belongs to, without its cloud; empty where it stands alone."""
    if written := re.search(r"one-of:([a-z0-9-]+)", row["condition"]):
        return re.sub(rf"-({'|'.join(CLOUDS)})$", "", written[1])
    return next((group for value, group in JOINED.get(row["profile"], ()) if re.fullmatch(value, row["value"])), "")


def note_parts(row: dict[str, str]) -> list[str]:
    condition = re.sub(r"(OUTDATED|RETIRED)( name)?:? ?", "", reworded(row["condition"]))
    parts = (part.strip() for part in condition.split(";"))
    return [part for part in parts if part and not part.startswith("one-of:")]


def is_retired(row: dict[str, str]) -> bool:
    return bool(re.search(r"OUTDATED|RETIRED|obsolete", row["condition"]))


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
