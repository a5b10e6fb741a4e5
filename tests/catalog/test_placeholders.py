import pytest
from hypothesis import given as having
from hypothesis import strategies as st

from flowlens.catalog import Endpoint, Profile, Requirement
from flowlens.catalog.placeholders import check_settings, configured_settings, filled, given, key_of, parse_settings
from flowlens.errors import ConfigError


@pytest.mark.parametrize(
    "name", ["region", "Region", "<REGION>", "location", "primaryRegion", "cluster-region-name", "Cluster_Region_Name"]
)
def test_a_region_is_one_placeholder_however_pages_spell_it(name):
    assert key_of(name) == "region"
    check_settings({name: "japaneast"})


@pytest.mark.parametrize("name", ["region-pair", "REGION_PAIR", "secondaryRegion", "geo-paired"])
def test_so_is_its_pair(name):
    assert key_of(name) == key_of("region-pair") != key_of("region")


def test_a_workspace_and_its_id_are_two():
    assert key_of("workspace-id") != key_of("workspace")


@pytest.mark.parametrize(
    ("name", "near"), [("locaton", "location"), ("regon", "region"), ("APIServerIP", "APIServerPublicIP")]
)
def test_an_unknown_placeholder_is_refused_with_the_nearest_names(name, near):
    with pytest.raises(ConfigError, match="is in no profile") as error:
        check_settings({"region": "japaneast", name: "x"})
    assert near in error.value.hint


def own(value):
    endpoints = (Endpoint("fqdn-wildcard", value),)
    requirement = Requirement("A", "global", "required", "tcp", "443", "B", "2026", endpoints)
    return Profile("mine", "Mine", "2026", ("the wiki",), (requirement,))


def test_placeholders_of_a_profile_of_the_users_own_are_known():
    with pytest.raises(ConfigError):
        check_settings({"site": "tokyo"})
    check_settings({"Site": "tokyo"}, [own("licences.<site>.example.com")])


def test_a_config_may_hold_settings_of_other_profiles_and_no_misspelling():
    config = {"region": "japaneast", "Site": "tokyo"}
    assert configured_settings(config) == {"region": "japaneast"}
    assert configured_settings(config, [own("licences.<site>.example.com")]) == config
    with pytest.raises(ConfigError, match="'locaton'") as error:
        configured_settings({"locaton": "japaneast"})
    assert error.value.hint.startswith("did you mean location")


def test_settings_of_the_command_line():
    assert parse_settings([]) == {}
    assert parse_settings(["a=1", "b= 2 ", "a=3", "c=d=e"]) == {"a": ["1", "3"], "b": "2", "c": "d=e"}


@pytest.mark.parametrize("text", ["", "region", "=japaneast", "region=", " = ", "\x1b[31m"])
def test_a_setting_without_name_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="expected NAME=VALUE") as error:
        parse_settings([text])
    assert str(error.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("value", ["", " ", [], ["a", ""], 3, ["a", 3], "<x>", "a*", "a\nb"])
def test_a_value_that_is_no_text_is_refused(value):
    with pytest.raises(ConfigError, match="expected text or a list of texts"):
        given({"region": value})


@having(st.lists(st.sampled_from(["eastus", "westus", "japaneast"]), min_size=1, max_size=3, unique=True))
def test_each_combination_is_there_once(regions):
    two = list(
        filled("<region>.<Region-Pair>.<region>.<other>", given({"location": regions, "geo-paired": ["a", "b"]}))
    )
    assert two == [f"{region}.{pair}.{region}.<other>" for region in regions for pair in ("a", "b")]
