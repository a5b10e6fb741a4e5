import polars as pl
import pytest

from flowlens import schema
from flowlens.catalog import Endpoint, Requirement, expand, load_profile, load_tags, profile_names
from flowlens.catalog.expansion import CONFIDENCES, approximation, approximations
from flowlens.catalog.tags import CLOUDS
from flowlens.errors import CatalogError, ConfigError
from flowlens.prefixes import PrefixTable

EVERYWHERE = [("0.0.0.0/0", "port only"), ("::/0", "port only")]


def requirement(*endpoints, cloud="global"):
    return Requirement(
        name="A",
        cloud=cloud,
        need="required",
        protocol="tcp",
        ports="443",
        purpose="B",
        as_of="2026-01-15",
        endpoints=tuple(Endpoint(kind, value) for kind, value in endpoints),
    )


def expanded(kind, value, *, cloud="global", **settings):
    return expand(requirement((kind, value), cloud=cloud), load_tags(cloud), settings)


def named(profile, name, cloud="global"):
    (found,) = [r for r in load_profile(profile).requirements if (r.name, r.cloud) == (name, cloud)]
    return found


def test_listed_addresses_match_by_address():
    found = expand(named("windows-kms", "KMS activation"), load_tags())
    assert found.prefixes == (
        ("20.118.99.224/32", "address", "20.118.99.224"),
        ("40.83.235.53/32", "address", "40.83.235.53"),
    )
    # The name stands beside its addresses, so nothing is left untested.
    assert found.untestable == () and found.confidence == {}


def test_prefixes_of_both_families_match_by_address():
    found = expand(requirement(("cidr", "20.190.128.0/18"), ("ip", "2001:db8::1")), load_tags())
    assert found.prefixes == (
        ("20.190.128.0/18", "address", "20.190.128.0/18"),
        ("2001:db8::1/128", "address", "2001:db8::1"),
    )


@pytest.mark.parametrize("value", ["0.0.0.0/0", "::/0"])
def test_any_address_is_a_match_by_port_alone_in_both_families(value):
    assert expanded("cidr", value).prefixes == tuple((*held, value) for held in EVERYWHERE)


def test_a_service_tag_gives_its_prefixes():
    found = expanded("service-tag", "azuremonitor")
    assert [prefix for prefix, _, _ in found.prefixes] == list(load_tags().prefixes("AzureMonitor"))
    assert {held[1:] for held in found.prefixes} == {("service tag", "azuremonitor")}


@pytest.mark.parametrize("region", ["francecentral", "France Central", "FRANCECENTRAL", "centralfrance"])
@pytest.mark.parametrize("setting", ["region", "Region", "<Region>", "location"])
def test_a_region_is_filled_in_by_any_spelling(region, setting):
    found = expanded("service-tag", "AzureCloud.<Region>", **{setting: region})
    assert [prefix for prefix, _, _ in found.prefixes] == list(load_tags().prefixes("AzureCloud.centralfrance"))
    assert found.untestable == ()


def test_the_api_server_names_of_a_cluster_stand_in_the_regions_azurecloud():
    value = "*.hcp.<location>.azmk8s.io"
    found = expanded("fqdn-wildcard", value, region="West Europe")
    assert [prefix for prefix, _, _ in found.prefixes] == list(load_tags().prefixes("AzureCloud.westeurope"))
    assert {held[1:] for held in found.prefixes} == {("approximate tag", "*.hcp.westeurope.azmk8s.io")}
    assert found.confidence == {"*.hcp.westeurope.azmk8s.io": "medium"}
    assert expanded("fqdn-wildcard", value).untestable == (f"{value}: no value is set for <location>",)
    # A name that holds its region needs no setting, and is not overruled by one.
    written = expanded("fqdn-wildcard", "*.hcp.westus.azmk8s.io", region="westeurope")
    assert [prefix for prefix, _, _ in written.prefixes] == list(load_tags().prefixes("AzureCloud.westus"))


def test_a_list_fills_a_placeholder_with_several_values():
    found = expanded("ip", "<CustomDNSIP>", customdnsip=["10.0.0.4", "10.0.0.5"])
    assert found.prefixes == (("10.0.0.4/32", "address", "10.0.0.4"), ("10.0.0.5/32", "address", "10.0.0.5"))
    two = expanded("service-tag", "Storage.<Region>", region=["westus", "eastus"])
    assert {endpoint for _, _, endpoint in two.prefixes} == {"Storage.westus", "Storage.eastus"}


def test_a_tag_stands_for_a_name_whatever_its_unset_placeholders():
    found = expanded("fqdn-wildcard", "<workspace-id>.ods.opinsights.azure.com")
    assert [prefix for prefix, _, _ in found.prefixes] == list(load_tags().prefixes("AzureMonitor"))
    assert found.untestable == ()


@pytest.mark.parametrize(
    ("kind", "value", "cloud", "reason"),
    [
        ("service-tag", "AzureCloud.<Region>", "global", "no value is set for <Region>"),
        ("cidr", "<RegionCIDRs>", "global", "no value is set for <RegionCIDRs>"),
        ("fqdn-tag", "AzureKubernetesService", "global", "an FQDN tag of Azure Firewall"),
        ("service-tag", "AzurePlatformLKM", "global", "a service tag for NSG rules alone"),
        ("service-tag", "Storrage", "usgov", "no such service tag in the usgov file of 2026-07-20"),
        ("fqdn", "ocsp.digicert.com", "global", "no service tag stands for this name"),
        ("fqdn", "www.example.com", "global", "no service tag is known to stand for this name"),
        ("fqdn", "mcr.microsoft.com", "usgov", "served from the global cloud"),
        ("fqdn-wildcard", "a.smartscreen*.microsoft.com", "china", "AzureFrontDoor.MicrosoftSecurity: no such"),
    ],
)
def test_what_can_not_be_tested_says_why(kind, value, cloud, reason):
    found = expanded(kind, value, cloud=cloud)
    assert found.prefixes == () and found.confidence == {}
    (said,) = found.untestable
    assert said.startswith(f"{value}: ") and reason in said


def test_an_unknown_region_is_untestable_and_not_everywhere():
    found = expanded("service-tag", "AzureCloud.<Region>", region="atlantis")
    assert found.prefixes == ()
    assert found.untestable == ("AzureCloud.atlantis: no such service tag in the global file of 2026-06-26",)


def test_alternatives_that_can_not_be_tested_are_named_beside_those_that_can():
    tunnel = named("aks-core", "Node to control plane tunnel (TCP 9000)")
    without = expand(tunnel, load_tags())
    assert [held[:2] for held in without.prefixes] == EVERYWHERE
    assert len(without.untestable) == 3
    filled = expand(tunnel, load_tags(), {"Region": "westeurope", "apiserverpublicip": "20.1.2.3"})
    assert {match for _, match, _ in filled.prefixes} == {"service tag", "address", "port only"}
    assert filled.untestable == ("<RegionCIDRs>: no value is set for <RegionCIDRs>",)


def test_a_name_beside_an_unset_address_stays_untestable():
    found = expand(requirement(("ip", "<APIServerPublicIP>"), ("fqdn", "www.example.com")), load_tags())
    assert len(found.untestable) == 2


def test_any_address_does_not_test_a_name():
    assert len(expand(named("aks-core", "Node time sync"), load_tags()).untestable) == 1


@pytest.mark.parametrize(
    "value", ["not an address", "20.1.2.3/33", "", ["20.1.2.3", ""], [], 3, ["20.1.2.3", 3], "<x>"]
)
def test_a_setting_that_is_no_address_is_refused(value):
    with pytest.raises(ConfigError) as error:
        expanded("ip", "<APIServerPublicIP>", APIServerPublicIP=value)
    assert error.value.where == "settings" and error.value.problem.isprintable()


def test_tags_of_another_cloud_are_refused():
    with pytest.raises(CatalogError, match="is a requirement of usgov, the tags are of global"):
        expand(requirement(("ip", "20.1.2.3"), cloud="usgov"), load_tags("global"))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_requirement_is_testable_or_says_why(cloud):
    settings = {"region": {"global": "westeurope", "usgov": "usgovvirginia", "china": "chinaeast2"}[cloud]}
    tables = set()
    for name in profile_names():
        for each in load_profile(name).requirements:
            if each.cloud != cloud:
                continue
            found = expand(each, load_tags(cloud), settings)
            assert found.prefixes or found.untestable
            assert {match for _, match, _ in found.prefixes} <= set(schema.MATCHES)
            approximate = {endpoint for _, match, endpoint in found.prefixes if match == "approximate tag"}
            assert set(found.confidence) == approximate
            assert set(found.confidence.values()) <= {"high", "medium", "low"}
            tables.add(tuple((prefix, match) for prefix, match, _ in found.prefixes))
    # Many requirements are met by the same service tags.
    for prefixes in tables:
        PrefixTable.build(prefixes)


def test_sign_in_ranges_lie_in_the_tag_that_stands_for_the_names():
    """High confidence in the names of endpoint id 56 rests on this."""
    ranges = expand(named("entra-id", "Sign-in address ranges (Microsoft 365 id 56)"), load_tags())
    addresses = pl.Series([prefix.split("/")[0] for prefix, _, _ in ranges.prefixes])
    assert approximation("login.microsoftonline.com").tags == ("AzureActiveDirectory",)
    for tags in load_tags().identify(addresses)["service_tags"].to_list():
        assert "AzureActiveDirectory" in tags


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("LOGIN.microsoftonline.com", ("AzureActiveDirectory",)),
        ("westeurope.login.microsoftonline.us", ("AzureActiveDirectory",)),
        ("*.msauth.net", ("AzureFrontDoor.Frontend", "AzureFrontDoor.FirstParty")),
        ("management.chinacloudapi.cn", ("AzureResourceManager",)),
        ("westeurope.data.mcr.microsoft.com", ("MicrosoftContainerRegistry", "AzureFrontDoor.FirstParty")),
        ("<dce>.<location>.ingest.monitor.azure.us", ("AzureMonitor",)),
        ("umsa*.blob.core.windows.net", ("Storage",)),
        ("x.dl.delivery.mp.microsoft.com", ("AzureFrontDoor.FirstParty",)),
        ("x.delivery.mp.microsoft.com", ("AzureUpdateDelivery",)),
        ("azkms.core.windows.net", ()),
        ("azure.archive.ubuntu.com", ("AzureCloud",)),
        ("archive.ubuntu.com", ()),
    ],
)
def test_names_and_the_tags_that_stand_for_them(name, tags):
    assert approximation(name).tags == tags


def test_names_that_only_look_alike_are_not_known():
    assert approximation("login.microsoftonline.com.example.org") is None
    assert approximation("xlogin.windows.net") is None
    assert approximation("mcr-microsoft.com") is None


def test_the_table_of_approximations_holds_together():
    for known in approximations():
        assert approximation(known.pattern) is known, f"{known.pattern} is hidden by an earlier pattern"
        assert known.confidence in CONFIDENCES and known.basis and set(known.clouds) <= set(CLOUDS)
        assert bool(known.tags) == (known.confidence != "none")
        for tag in known.tags:
            plain = tag.replace("<location>", "westeurope").replace("<Region>", "westeurope")
            assert load_tags("global").find(plain), tag
