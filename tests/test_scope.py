"""Scope: which NICs, and which flows and NIC-hours with them, a question is about."""

import polars as pl
import pytest

import flowlens as fl
from flowlens.errors import ConfigError
from flowlens.scope import Scope
from tests.make_logs import LATER, MACS, flow, nic_log, subnet_log, vnet_log, write_blob

WEB, APP, FAR, LONE = MACS[1:5]
SUBSCRIPTION = "s/rg"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two NICs of vnet-a that talk to each other, one of vnet-b, one known by its own flow log alone."""
    folder = tmp_path_factory.mktemp("logs")
    both = ("10.0.1.4", "10.0.2.4", 443)
    write_blob(folder, WEB, [flow(*both), flow("10.0.1.4", "203.0.113.7", 443)], log=subnet_log("vnet-a", "Web"))
    write_blob(folder, APP, [flow(*both, "I"), flow("10.0.2.4", "203.0.113.8", 443)], log=subnet_log("vnet-a", "App"))
    write_blob(folder, FAR, [flow("10.0.1.4", "203.0.113.9", 443)], log=vnet_log("vnet-b"))
    write_blob(folder, LONE, [flow("172.16.0.4", "203.0.113.10", 443)], log=nic_log("nic-Lone"))
    return folder


def scan(folder, **words):
    return fl.scan(folder, threads=1, now=LATER, scope=Scope(**words))


def nics(folder, **words):
    found = scan(folder, **words)
    assert found.settings["scope"] == {name: list(given) for name, given in words.items()}
    return set(found.coverage["mac_address"])


def test_an_empty_scope_is_everything(logs):
    assert not Scope()
    assert Scope().describe() == {}
    everything = scan(logs)
    assert everything.settings["scope"] is None
    assert set(everything.coverage["mac_address"]) == {WEB, APP, FAR, LONE}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"subscriptions": ("S",)}, {WEB, APP, FAR}),
        ({"resource_groups": ("RG",)}, {WEB, APP, FAR}),
        ({"vnets": ("VNet-A",)}, {WEB, APP}),
        ({"vnets": ("s/rg/vnet-b",)}, {FAR}),
        ({"vnets": ("vnet-a", "vnet-b")}, {WEB, APP, FAR}),
        ({"subnets": ("WEB",)}, {WEB}),
        ({"subnets": ("10.0.1.0/24",)}, {FAR}),
        ({"nics": (APP.lower(),)}, {APP}),
        ({"nics": ("00-00-5e-00-53-02",)}, {APP}),
        ({"nics": ("00:00:5E:00:53:02", "NIC-LONE")}, {APP, LONE}),
        ({"vnets": ("vnet-a",), "subnets": ("app",)}, {APP}),
    ],
)
def test_words_select_nics_whatever_their_case(logs, words, expected):
    assert nics(logs, **words) == expected


def test_a_flow_is_in_scope_where_either_end_or_its_logger_is(logs):
    views = scan(logs, subnets=("web",)).evidence.views.collect()
    # What vm-app logged of the flow from web belongs to it; what app did elsewhere does not.
    assert set(views.select("mac_address", "dst_ip").iter_rows()) == {
        (WEB, "10.0.2.4"),
        (WEB, "203.0.113.7"),
        (APP, "10.0.2.4"),
    }
    counted = views.filter("counted")
    assert sorted(counted["dst_ip"]) == ["10.0.2.4", "203.0.113.7"]


def test_a_narrower_scope_changes_neither_inventory_nor_which_row_counts(logs):
    all_of_it, part = scan(logs), scan(logs, subnets=("app",))
    assert part.inventory.equals(all_of_it.inventory)
    assert part.ledger == all_of_it.ledger
    rows = part.evidence.views.filter(pl.col("dst_ip") == "10.0.2.4").sort("direction").collect()
    assert rows.select("direction", "counted").rows() == [("Inbound", False), ("Outbound", True)]


def test_the_same_range_of_another_vnet_is_not_in_scope(logs):
    rows = scan(logs, vnets=("vnet-b",)).evidence.views.collect()
    assert rows.select("src_ip", "dst_ip").rows() == [("10.0.1.4", "203.0.113.9")]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ({"vnets": ("vnet-c",)}, "vnet-a"),
        ({"nics": ("nic-lome",)}, "did you mean nic-lone?"),
        ({"subnets": ("zzz",)}, "known: "),
        ({"subscriptions": ("x",)}, "s"),
        ({"resource_groups": ("rgg",)}, "did you mean rg?"),
        # The second word is looked for inside what the first one left.
        ({"vnets": ("vnet-b",), "subnets": ("web",)}, "known: 10.0.1.0/24"),
    ],
)
def test_a_word_that_names_nothing_is_an_error_with_near_matches(logs, words, hint):
    with pytest.raises(ConfigError, match="names nothing in these logs") as caught:
        scan(logs, **words).evidence  # noqa: B018
    *_, (name, given) = words.items()
    assert caught.value.where == f"--{name.removesuffix('s').replace('_', '-')} {given[0]}"
    assert hint in caught.value.hint


def test_a_nic_whose_blobs_are_all_empty_can_be_in_scope(logs, tmp_path):
    write_blob(tmp_path, WEB, [flow("10.0.1.4", "203.0.113.7", 443)])
    write_blob(tmp_path, APP)
    assert nics(tmp_path, nics=(APP,)) == {APP}
    assert nics(tmp_path, vnets=("vnet-a",)) == {WEB, APP}
