"""flowlens.toml: which file counts, what it may say, and that a wrong word is an error with a hint."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.config import CLOUDS, FILE, VARIABLE, Config, read_config
from flowlens.errors import ConfigError
from flowlens.inventory import Networks

FULL = """
cloud = "usgov"

[networks]
internal = ["203.0.113.7/24", "2001:DB8::/32"]
[networks.names]
"10.1.0.9/16" = "hub"
"10.1.2.0/24" = "hub-apps"

[placeholders]
region = "japaneast"
clusters = ["a", "b"]

[expected]
anything = true
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """A working folder of the test's own, and no variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def written(folder, text, name="own.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder, text):
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(path) in caught.value.where
    return caught.value


def test_without_a_file_there_are_defaults():
    assert read_config() == Config(path=None, cloud="global", networks=Networks(), placeholders={}, has_expected=False)


def test_everything_that_a_file_says_is_taken_in_canonical_text(tmp_path):
    path = written(tmp_path, FULL)
    assert read_config(path) == Config(
        path=path,
        cloud="usgov",
        networks=Networks(
            internal=("203.0.113.0/24", "2001:db8::/32"), names=(("10.1.0.0/16", "hub"), ("10.1.2.0/24", "hub-apps"))
        ),
        placeholders={"region": "japaneast", "clusters": ["a", "b"]},
        has_expected=True,
    )


def test_networks_place_and_name_addresses(tmp_path):
    networks = read_config(written(tmp_path, FULL)).networks
    addresses = pl.Series(["203.0.113.200", "203.0.114.1", "2001:db8::1", "10.1.2.3", "10.1.3.3", "10.2.0.1"])
    assert networks.places(addresses).to_list() == ["internal", "external", *["internal"] * 4]
    assert networks.subnets(addresses).to_list()[3:] == ["hub-apps", "hub", "10.2.0.0/24"]


def test_an_option_beats_the_variable_and_that_the_working_folder(tmp_path, monkeypatch):
    own, variable = (written(tmp_path, f'cloud = "{cloud}"', f"{cloud}.toml") for cloud in ("china", "usgov"))
    default = written(tmp_path, 'cloud = "global"', FILE)
    assert read_config().path.resolve() == default
    monkeypatch.setenv(VARIABLE, str(variable))
    assert read_config().cloud == "usgov"
    assert read_config(own).cloud == read_config(str(own)).cloud == "china"


def test_a_file_that_was_named_must_be_there(tmp_path, monkeypatch):
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_config(missing)
    monkeypatch.setenv(VARIABLE, "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config()


@pytest.mark.parametrize(
    "text",
    ["cloud = ", "cloud = 'a'\ncloud = 'b'", "[networks", "x = " + "[" * 100_000, "cloud = 'a\x00'"],
    ids=["cut", "twice", "bracket", "deep", "nul"],
)
def test_what_is_no_toml_is_refused(tmp_path, text):
    assert "cannot be read" in refused(tmp_path, text).problem


def test_what_is_no_utf8_is_refused(tmp_path):
    path = tmp_path / "own.toml"
    path.write_bytes("cloud = 'é'".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("clowd = 'global'", "unknown key 'clowd'", "did you mean cloud?"),
        ("[network]", "unknown key 'network'", "did you mean networks?"),
        ("[networks]\nintern = []", "unknown key 'intern'", "did you mean internal?"),
        ("[networks]\nzzz = []", "unknown key 'zzz'", "known: internal, names"),
        ("cloud = 'us-gov'", "unknown cloud 'us-gov'", "did you mean usgov?"),
        ("cloud = 5", "unknown cloud 5", f"known: {', '.join(sorted(CLOUDS))}"),
        ("cloud = ['global']", "unknown cloud ['global']", "did you mean global?"),
    ],
)
def test_an_unknown_word_is_told_what_was_meant(tmp_path, text, problem, hint):
    error = refused(tmp_path, text)
    assert (error.problem, error.hint) == (problem, hint)


@pytest.mark.parametrize(
    "text",
    [
        "networks = 3",
        "placeholders = []",
        "[networks]\ninternal = '10.0.0.0/8'",
        "[networks]\ninternal = {}",
        "[networks]\nnames = ['a']",
        "[networks]\ninternal = [10]",
        "[networks]\ninternal = ['10.0.0.0/33']",
        "[networks]\ninternal = ['10.0.0']",
        "[networks]\ninternal = ['fe80::1%eth0/64']",
        "[networks.names]\n'office' = '10.0.0.0/8'",
        "[placeholders]\nregion = 5",
        "[placeholders]\nregion = ['a', 5]",
        "[placeholders.region]\na = 'b'",
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path, text):
    assert "expected" in refused(tmp_path, text).problem


@given(
    st.recursive(
        st.sampled_from(["1", "'10.0.0.0/8'", "true", "1.5", "2026-06-15", "''"]),
        lambda v: st.lists(v, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    ),
    st.sampled_from(
        [
            "cloud",
            "networks",
            "networks.internal",
            "networks.names",
            "networks.names.'10.0.0.0/8'",
            "placeholders",
            "placeholders.region",
        ]
    ),
)
def test_any_value_anywhere_is_taken_or_refused(tmp_path_factory, value, key):
    path = written(tmp_path_factory.getbasetemp(), f"{key} = {value}", "any.toml")
    try:
        found = read_config(path)
    except ConfigError:
        return
    assert isinstance(found.cloud, str) and found.cloud in CLOUDS
