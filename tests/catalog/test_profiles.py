import csv
import re
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest

from flowlens.catalog import Endpoint, load_profile, profile_names
from flowlens.catalog.placeholders import PLACEHOLDER, PLACEHOLDERS, key_of
from flowlens.errors import CatalogError

ROWS = Path(__file__).parents[1] / "data" / "required_endpoints.csv"
PROFILES = profile_names()

# Facts that a profile holds otherwise than they were published, with the reason; none is dropped.
CORRECTED = {
    ("sql-mi", "global", "recommended", "egress", "service-tag", "AzureCloud", "tcp", "443"): (
        "safe-to-block",
        "the owner may remove the optional rule, so that a denial is a choice (service-aided subnet configuration)",
    ),
}

OWN = """
title = "My own"
as_of = 2026-01-15
sources = ["the wiki"]

[[requirement]]
name = "Licence server"
cloud = "global"
need = "required"
protocol = "tcp"
ports = "443,8000-8010"
purpose = "Licences"
note = "only on Mondays"
as_of = "2026-01"
endpoints = [
  { kind = "ip", value = "203.0.113.7" },
  { kind = "cidr", value = "2001:db8::/32" },
  { kind = "fqdn", value = "licences.example.com" },
]
"""


@pytest.fixture
def own(tmp_path):
    """Writes a profile of the user's own and gives its path."""

    def write(text=OWN):
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def rows():
    with ROWS.open(newline="") as file:
        return list(csv.DictReader(file))


def requirement(profile, cloud, name):
    (found,) = [r for r in load_profile(profile).requirements if (r.cloud, r.name) == (cloud, name)]
    return found


def fact(row):
    return (*(row[c] for c in ("profile", "cloud", "need", "concerns", "kind", "value", "protocol", "ports")),)


def corrected(of):
    need, _ = CORRECTED.get(of, (of[2], ""))
    return (*of[:2], need, *of[3:])


def dated(rows):
    """The dates of rows; unknown only where none has one."""
    return [row["as_of"] for row in rows if row["as_of"] != "unknown"] or ["unknown"]


def test_the_profiles_of_the_package():
    assert len(PROFILES) == 38
    assert {row["profile"] for row in rows()} == set(PROFILES)
    for name in PROFILES:
        profile = load_profile(name)
        assert profile.name == name and profile.title and profile.sources
        assert profile.as_of == max(dated([row for row in rows() if row["profile"] == name]))


def test_all_facts_are_there():
    assert len(rows()) == 1131
    assert set(CORRECTED) <= {fact(row) for row in rows()}


@pytest.mark.parametrize("name", PROFILES)
def test_every_published_endpoint_is_in_its_profile(name):
    published = defaultdict(list)
    for row in rows():
        if row["profile"] == name:
            published[corrected(fact(row))].append(row)
    held = [
        ((name, r.cloud, r.need, r.concerns, e.kind, e.value, r.protocol, r.ports), r)
        for r in load_profile(name).requirements
        for e in r.endpoints
    ]
    # As often as it is published: one value can be a fact of two routes.
    assert sorted(key for key, _ in held) == sorted(key for key, found in published.items() for _ in found)
    groups = defaultdict(set)
    oldest = defaultdict(list)
    for key, found in held:
        assert {row["retired"] == "yes" for row in published[key]} == {found.retired}
        oldest[found] += published[key]
        groups[found.cloud, published[key][0]["one_of"]].add(found)
    assert all(len(members) == 1 for (_, group), members in groups.items() if group)
    for found, members in oldest.items():
        assert found.as_of == min(dated(members))


KMS = {
    "global": {"20.118.99.224", "40.83.235.53", "azkms.core.windows.net"},
    "usgov": {"23.97.0.13", "52.126.105.2", "kms.core.usgovcloudapi.net", "azkms.core.usgovcloudapi.net"},
    "china": {
        "159.27.28.100", "163.228.64.161", "42.159.7.249", "azkms.core.chinacloudapi.cn", "kms.core.chinacloudapi.cn"
    },
}  # fmt: skip


@pytest.mark.parametrize("cloud", KMS)
def test_kms_is_one_requirement_in_each_cloud(cloud):
    kms = requirement("windows-kms", cloud, "KMS activation")
    assert {endpoint.value for endpoint in kms.endpoints} == KMS[cloud]
    assert (kms.need, kms.protocol, kms.port_ranges, kms.retired) == ("required", "tcp", ((1688, 1688),), False)


def test_rhui_is_one_requirement_that_wants_all_addresses_open():
    rhui = requirement("rhui", "global", "RHUI 4 package updates")
    assert [endpoint.value for endpoint in rhui.endpoints if endpoint.kind == "ip"] == [
        "52.136.197.163", "20.225.226.182", "52.142.4.99", "20.248.180.252", "20.24.186.80"
    ]  # fmt: skip
    assert Endpoint("fqdn", "rhui4-1.microsoft.com") in rhui.endpoints
    assert "all five addresses should be open" in rhui.note


def test_retired_requirements_are_the_former_servers():
    names = ("rhui", "windows-kms", "entra-id", "aks-core")
    retired = {e.value for name in names for r in load_profile(name).requirements if r.retired for e in r.endpoints}
    assert retired == {
        "kms.core.windows.net", "23.102.135.246", "rhui-1.microsoft.com", "rhui-2.microsoft.com",
        "rhui-3.microsoft.com", "13.91.47.76", "40.85.190.91", "52.187.75.218", "52.174.163.213", "52.237.203.198",
        "13.72.186.193", "13.72.14.155", "52.244.249.194",
    }  # fmt: skip
    assert all(r.retired for r in load_profile("log-analytics-agent").requirements)


def test_addresses_of_one_name_are_one_requirement():
    for profile, name, count in (
        ("office365-exchange", "Exchange Online (id 1)", 30),
        ("office365-teams", "Teams media (id 11)", 3),
        ("machine-configuration", "Storage account of the machine's region", 51),
        ("defender-endpoint", "Static ranges, US data location", 4),
    ):
        assert len(requirement(profile, "global", name).endpoints) == count


def test_what_is_no_egress_says_so():
    concerns = defaultdict(set)
    for name in PROFILES:
        for r in load_profile(name).requirements:
            concerns[r.concerns].add(name)
    assert concerns["ingress"] == concerns["route"] == {"sql-mi"}
    assert concerns["rule"] == {"azure-platform", "windows-kms"}


def test_placeholders_of_the_package_are_the_documented_ones():
    used = {
        key_of(name)
        for profile in map(load_profile, PROFILES)
        for r in profile.requirements
        for e in r.endpoints
        for name in PLACEHOLDER.findall(e.value)
    }
    assert used == {key_of(name) for name in PLACEHOLDERS}


def test_texts_are_fit_to_be_read():
    for name in PROFILES:
        profile = load_profile(name)
        texts = [
            profile.title,
            *profile.sources,
            *(t for r in profile.requirements for t in (r.name, r.purpose, r.note)),
        ]
        for text in texts:
            assert not re.search(r"(?i)one-of:|OUTDATED|\bRETIRED:|\bseed|\bstored (copy|text)|\.txt\b", text), text


def test_a_profile_of_the_users_own(own):
    for given in (own(), str(own())):
        profile = load_profile(given)
        (licence,) = profile.requirements
        assert (profile.name, profile.as_of, profile.sources) == ("mine", "2026-01-15", ("the wiki",))
        assert licence.port_ranges == ((443, 443), (8000, 8010))
        assert (licence.as_of, licence.note, licence.retired) == ("2026-01", "only on Mondays", False)
        assert licence.endpoints[1] == Endpoint("cidr", "2001:db8::/32")


def test_any_port_is_every_port(own):
    (licence,) = load_profile(own(OWN.replace("443,8000-8010", "any"))).requirements
    assert licence.port_ranges == ((0, 65535),)


def test_a_shipped_profile_is_also_readable_by_path(own):
    folder = resources.files("flowlens.catalog") / "data" / "profiles"
    for name in PROFILES:
        with resources.as_file(folder / f"{name}.toml") as path:
            assert load_profile(path) == load_profile(name)


def test_an_unknown_profile_is_refused_with_the_nearest_names():
    with pytest.raises(CatalogError, match="unknown profile 'windows-kmz'") as error:
        load_profile("windows-kmz")
    assert error.value.hint.startswith("did you mean windows-kms")


# What is changed in OWN, and what the error says of it.
WRONG = [
    ('title = "My own"', "", "expected title, found none"),
    ('title = "My own"', "title = 3", "expected title as one line of text, found '3'"),
    ('title = "My own"', 'titel = "My own"', "unknown key 'titel'"),
    ('["the wiki"]', "[]", "expected a list of sources"),
    ('["the wiki"]', "[1]", "expected sources as one line"),
    ("as_of = 2026-01-15", "as_of = 2026-01-15T00:00:00Z", "expected as_of such as"),
    ("as_of = 2026-01-15", 'as_of = "yesterday"', "expected as_of such as"),
    ('name = "Licence server"', "", "requirement 1: expected name, found none"),
    ('name = "Licence server"', 'name = "a\\u001b[31m"', "requirement 1: expected name as one line"),
    ('name = "Licence server"', 'name = "a\\nb"', "requirement 1: expected name as one line"),
    ('cloud = "global"', 'cloud = "mars"', "requirement 1 ('Licence server'): expected cloud global, usgov, china"),
    ('need = "required"', 'need = "must"', "expected need required, conditional, recommended, safe-to-block"),
    ('need = "required"', 'need = "required"\nconcerns = "inbound"', "expected concerns egress, ingress, route, rule"),
    ('need = "required"', 'need = "required"\nretired = "no"', "expected retired true or false, found 'no'"),
    ('protocol = "tcp"', 'protocol = "sctp"', "expected protocol"),
    ('protocol = "tcp"', 'protocol = "icmp"', "expected ports any, since icmp has none"),
    ("443,8000-8010", "0", "expected ports such as"),
    ("443,8000-8010", "65536", "expected ports such as"),
    ("443,8000-8010", "8010-8000", "expected ports such as"),
    ("443,8000-8010", "443, 80", "expected ports such as"),
    ("443,8000-8010", "https", "expected ports such as"),
    ('"443,8000-8010"', "443", "expected ports as one line of text, found '443'"),
    ('kind = "ip"', 'kind = "host"', "requirement 1 ('Licence server'), endpoints: expected kind ip, cidr"),
    ('kind = "ip"', 'type = "ip"', "endpoints: unknown key 'type'"),
    ("203.0.113.7", "203.0.113.256", "expected an address in canonical text"),
    ("203.0.113.7", "203.0.113.7/32", "expected an address in canonical text"),
    ("2001:db8::/32", "2001:DB8::/32", "expected a prefix without host bits"),
    ("2001:db8::/32", "2001:db8::1/32", "expected a prefix without host bits"),
    ("2001:db8::/32", "2001:db8::", "expected a prefix without host bits"),
    ("licences.example.com", "*.example.com", "expected a name without * or <placeholder>"),
    ("licences.example.com", "https://example.com", "expected a name without"),
    ("licences.example.com", "203.0.113.7", "expected a name without"),
    ('"fqdn", value = "licences.example.com"', '"fqdn-wildcard", value = "a.example.com"', "expected a name with *"),
    ('"fqdn", value = "licences.example.com"', '"service-tag", value = "Azure Monitor"', "expected a service tag"),
    ('"fqdn", value = "licences.example.com"', '"fqdn-tag", value = "Windows Update"', "expected an FQDN tag"),
    ('"fqdn", value = "licences.example.com"', '"ip", value = "203.0.113.7"', "'203.0.113.7' is there twice"),
    ("[[requirement]]", "[requirement]", "expected a list of requirement"),
    ("[[requirement]]", "[[requirements]]", "unknown key 'requirements'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "problem"), WRONG)
def test_a_wrong_entry_is_refused_by_name(own, old, new, problem):
    assert OWN.count(old) == 1
    path = own(OWN.replace(old, new))
    with pytest.raises(CatalogError) as error:
        load_profile(path)
    assert error.value.where == str(path)
    assert problem in error.value.problem
    assert error.value.problem.isprintable()


def test_two_requirements_of_one_name_are_refused(own):
    again = OWN[OWN.index("[[requirement]]") :]
    with pytest.raises(CatalogError, match="requirement 2: 'LICENCE SERVER' is there twice for global"):
        load_profile(own(OWN + again.replace("Licence server", "LICENCE SERVER")))
    assert len(load_profile(own(OWN + again.replace('"global"', '"usgov"'))).requirements) == 2


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"title = ", b"\0", b"<html>", b"a = " + b"[" * 100_000, b"x = 1", b"", b"a=" + b"9" * 10_000]
)
def test_what_is_no_profile_is_refused(own, data):
    with pytest.raises(CatalogError) as error:
        load_profile(own(data))
    assert len(str(error.value)) < 500


def test_files_that_can_not_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.toml", str(tmp_path / "none.toml"), "a\0b.toml"):
        with pytest.raises(CatalogError, match="can't read the profile"):
            load_profile(path)
