"""What the profiles of a workload explain of its destinations, and what they do not."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

import flowlens as fl
from flowlens.analyses.destinations import Expected, read_expected
from flowlens.catalog import load_tags
from flowlens.errors import ConfigError
from tests.make_logs import LATER, MACS, flow, vnet_log, write_blob

PARTNER = "203.0.113.7"
EXPECTED = [Expected("203.0.113.0/24", None, (), None, "partner")]
# Of Microsoft's published ranges: an address of Storage, and one of AzureCloud that is in no service's tag.
STORAGE, SOMEBODYS_VM = "20.60.1.1", "20.78.100.20"
# The agent's published needs are the tags AzureMonitor and Storage; only the first tells that the agent is there.
AGENT = "azure-monitor-agent"


def monitor() -> str:
    """The first address of the service tag AzureMonitor."""
    prefixes = load_tags("global").prefixes("AzureMonitor")
    return next(str(ipaddress.ip_network(prefix)[0]) for prefix in prefixes if ":" not in prefix)


def unexpected(folder: Path, **options: object) -> list[tuple[str, str]]:
    """Source and destination of all that nobody expected and no profile explains."""
    report = fl.report(
        fl.scan(folder, now=LATER, threads=1),
        questions=["unexpected_destinations"],
        expected=EXPECTED,
        **options,  # type: ignore[arg-type]
    )
    rows = report.tables["unexpected_destinations"].iter_rows(named=True)
    return [(row["workload"].partition(" ")[0], row["dst_ip"]) for row in rows]


def with_an_agent(folder: Path, *, vnet: str = "vnet-a") -> Path:
    """One NIC speaks as the Azure Monitor agent does and to Storage, another in ``vnet`` to Storage alone."""
    write_blob(folder, MACS[1], [flow("10.0.1.4", monitor(), 443), flow("10.0.1.4", STORAGE, 443)])
    write_blob(folder, MACS[2], [flow("10.0.1.5", STORAGE, 443), flow("10.0.1.5", PARTNER, 443)], log=vnet_log(vnet))
    return folder


@pytest.mark.parametrize("vnet", ["vnet-a", "vnet-b"])
def test_a_profile_explains_what_its_own_workload_does(tmp_path: Path, vnet: str) -> None:
    assert unexpected(with_an_agent(tmp_path, vnet=vnet)) == [("10.0.1.5", STORAGE)]


def test_workloads_of_one_address_in_two_networks_are_two(tmp_path: Path) -> None:
    write_blob(tmp_path, MACS[1], [flow("10.0.1.4", monitor(), 443), flow("10.0.1.4", STORAGE, 443)])
    write_blob(tmp_path, MACS[2], [flow("10.0.1.4", STORAGE, 443)], log=vnet_log("vnet-b"))
    assert unexpected(tmp_path) == [("10.0.1.4", STORAGE)]


def test_a_profile_that_is_asked_for_explains_what_every_workload_does(tmp_path: Path) -> None:
    assert unexpected(with_an_agent(tmp_path), profiles=[AGENT]) == []


# Ubuntu's repositories are names that only AzureCloud could stand for, which holds every VM of every tenant; the agent's blob
# names are surely stood for by Storage.
@pytest.mark.parametrize(
    ("profile", "address", "left"),
    [("ubuntu-repos", SOMEBODYS_VM, True), ("ubuntu-repos", STORAGE, True), ("log-analytics-agent", STORAGE, False)],
)
def test_a_tag_that_is_only_plausible_explains_nothing(tmp_path: Path, profile: str, address: str, left: bool) -> None:
    write_blob(tmp_path, MACS[1], [flow("10.0.1.4", address, 443)])
    assert unexpected(tmp_path, profiles=[profile]) == ([("10.0.1.4", address)] if left else [])


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ('[[expcted]]\nprefix = "8.8.8.0/24"\n', "list.toml", "did you mean expected?"),
        ("", "list.toml", ""),
        ('[[expected]]\nprefix = "8.8.8.0/24"\n[[expected]]\nprefix = "8.8.8.300/24"\n', "list.toml: entry 2", ""),
    ],
)
def test_a_list_of_expected_destinations_that_is_none_is_refused(
    tmp_path: Path, text: str, where: str, hint: str
) -> None:
    path = tmp_path / "list.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_expected(path)
    assert raised.value.where.endswith(where) and raised.value.hint == hint


def test_an_empty_list_expects_nothing(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text("expected = []\n", encoding="utf-8")
    assert read_expected(path) == ()
