"""What came of attempts whose tuples leave little to go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flowlens as fl
from flowlens import schema
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


@pytest.mark.parametrize(
    ("protocol", "address", "words"),
    [
        ("udp", "203.0.113.9", "not every packet asks for an answer"),
        ("udp", "10.9.9.9", "not every packet asks for an answer"),
        ("tcp", "10.9.9.9", "NIC is known at this private address"),
        ("tcp", "10.0.2.4", None),
        ("tcp", "203.0.113.9", None),
    ],
)
def test_silence_is_told_with_what_it_may_mean(tmp_path: Path, protocol: str, address: str, words: str | None) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'title = "Mine"\nas_of = "2026-06-01"\nsources = ["us"]\n[[requirement]]\nname = "server"\ncloud = "global"\n'
        f'need = "required"\nprotocol = "{protocol}"\nports = "9000"\npurpose = "mine"\nas_of = "2026-06-01"\n'
        f'endpoints = [{{ kind = "ip", value = "{address}" }}]\n',
        encoding="utf-8",
    )
    sent = flow("10.0.1.4", address, 9000, protocol=schema.PROTOCOL_NUMBER[protocol], counters=(4, 400, 0, 0))
    write_blob(tmp_path / "logs", MACS[1], [sent])
    write_blob(tmp_path / "logs", MACS[2], [flow("10.0.2.4", "203.0.113.7", 443)])
    table = fl.denied_egress(fl.scan(tmp_path / "logs", now=LATER, threads=1), profiles=[str(profile)]).collect()
    (row,) = table.filter(status="Unanswered").to_dicts()
    told = row["note"] or ""
    assert words in told if words else "silence" not in told


def test_a_small_answer_on_another_port_outlives_a_denial(tmp_path: Path) -> None:
    address, port = SERVERS["windows-kms"]
    begun = [flow("10.0.1.4", address, port, state="D", minute=2), flow("10.0.1.4", address, port, state="B")]
    write_blob(tmp_path, MACS[1], [*begun, flow("10.0.1.4", address, port, minute=6, counters=SMALL)])
    assert row_of(tmp_path, "windows-kms")["status"] == "Recovered"
