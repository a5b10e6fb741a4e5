"""What came of attempts whose tuples leave little to go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flowlens as fl
from tests.make_logs import LATER, MACS, at, flow, write_blob

SMALL = (5, 500, 4, 420)
# Published addresses: of the activation server (TCP 1688), of Red Hat's update servers (TCP 443), of the platform (TCP 80).
SERVERS = {
    "windows-kms": ("20.118.99.224", 1688),
    "rhui": ("20.225.226.182", 443),
    "azure-platform": ("168.63.129.16", 80),
}


def row_of(folder: Path, profile: str) -> dict[str, Any]:
    """The row of the profile's server, which the scan met exactly."""
    table = fl.denied_egress(fl.scan(folder, now=LATER, threads=1), profiles=[profile]).collect()
    rows = [row for row in table.to_dicts() if row["dst_ip"] == SERVERS[profile][0]]
    return min(rows, key=lambda row: (row["match"] != "address", row["endpoint"]))


@pytest.mark.parametrize(
    ("profile", "status", "failed"),
    [("windows-kms", "Reached", None), ("azure-platform", "Reached", None), ("rhui", "Answered without data", at(6))],
)
def test_a_small_answer_says_something_only_where_tls_is_spoken(
    tmp_path: Path, profile: str, status: str, failed: object
) -> None:
    address, port = SERVERS[profile]
    begun = flow("10.0.1.4", address, port, state="B")
    write_blob(tmp_path, MACS[1], [begun, flow("10.0.1.4", address, port, minute=6, counters=SMALL)])
    row = row_of(tmp_path, profile)
    assert (row["status"], row["last_failure"]) == (status, failed)
    assert row["last_success"] == (None if failed else at(6))


def test_a_small_answer_on_another_port_outlives_a_denial(tmp_path: Path) -> None:
    address, port = SERVERS["windows-kms"]
    begun = [flow("10.0.1.4", address, port, state="D", minute=2), flow("10.0.1.4", address, port, state="B")]
    write_blob(tmp_path, MACS[1], [*begun, flow("10.0.1.4", address, port, minute=6, counters=SMALL)])
    assert row_of(tmp_path, "windows-kms")["status"] == "Recovered"
