"""Drafted lists of expected destinations: read back, they expect what was seen and nothing beyond."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import flowlens as fl
from flowlens.analyses.destinations import read_expected
from flowlens.learning import draft
from tests.flow_logs import CONTAINER, SAMPLE, run
from tests.make_logs import LATER, MACS, flow, write_blob
from tests.payloads import PAYLOADS

WEB = "10.0.1.4"


def drafted(folder: Path, tuples: list[str]) -> tuple[fl.Report, Path]:
    write_blob(folder / "logs", MACS[1], tuples)
    report = fl.report(fl.scan(folder / "logs", now=LATER), questions=["unexpected_destinations"])
    path = folder / "expected.toml"
    path.write_text(draft(report), encoding="utf-8")
    return report, path


def entries(path: Path) -> list[tuple[str | None, str | None, tuple[int, ...], int | None]]:
    return [(each.prefix, each.service_tag, each.ports, each.protocol) for each in read_expected(path)]


def test_what_was_learned_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    ran = run("destinations", SAMPLE / CONTAINER, "--learn", path)
    assert (ran.code, "wrote" in ran.err) == (0, True)
    again = run("destinations", SAMPLE / CONTAINER, "--expect", path, "--format", "json").document
    assert again["tables"]["unexpected_destinations"] == []
    assert again["verdicts"]["unexpected_destinations"]["text"].startswith("Every destination was expected.")
    more = tmp_path / "more.toml"
    assert run("destinations", SAMPLE / CONTAINER, "--expect", path, "--learn", more).code == 0
    assert read_expected(more) == ()


def test_a_service_is_its_tag_and_a_crowd_of_addresses_their_prefix(tmp_path: Path) -> None:
    storage = [flow(WEB, f"20.60.172.{n}", 443) for n in (11, 12)]
    crowd = [flow(WEB, f"192.0.2.{n}", 25) for n in (1, 2, 3)]
    few = [flow(WEB, f"198.51.100.{n}", 443) for n in (7, 8)]
    azure = [flow(WEB, "20.78.100.20", port) for port in (443, 8443)]
    _, path = drafted(tmp_path, [*storage, *crowd, *few, *azure])
    assert sorted(entries(path), key=str) == sorted(
        [
            (None, "Storage.JapanEast", (443,), 6),
            ("192.0.2.0/24", None, (25,), 6),
            ("198.51.100.7", None, (443,), 6),
            ("198.51.100.8", None, (443,), 6),
            # Only known to be Azure's: the tag would expect every VM that anybody rents there.
            ("20.78.100.20", None, (443, 8443), 6),
        ],
        key=str,
    )
    assert "AzureCloud.japaneast" in path.read_text()


@pytest.mark.parametrize(("protocol", "read"), [("icmp", 1), ("udp", 17), (47, 47)])
def test_protocols_without_a_name_are_numbers(tmp_path: Path, protocol: str | int, read: int) -> None:
    path = tmp_path / "expected.toml"
    value = f'"{protocol}"' if isinstance(protocol, str) else protocol
    path.write_text(f'[[expected]]\nprefix = "192.0.2.1"\nprotocol = {value}\n')
    assert entries(path) == [("192.0.2.1", None, (), read)]


@pytest.mark.parametrize("protocol", [-1, 256, "true", '"gopher"'])
def test_what_is_no_protocol_is_refused(tmp_path: Path, protocol: object) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(f'[[expected]]\nprefix = "192.0.2.1"\nprotocol = {protocol}\n')
    with pytest.raises(fl.ConfigError, match="unknown protocol"):
        read_expected(path)


def test_a_list_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text("mine")
    ran = run("destinations", tmp_path / "no-such-logs", "--learn", path)
    assert (ran.code, "is there already" in ran.err) == (2, True)
    assert path.read_text() == "mine"


def test_what_is_new_is_no_list(tmp_path: Path) -> None:
    ran = run("destinations", tmp_path, "--learn", tmp_path / "x.toml", "--only-new", "--baseline", tmp_path / "y.json")
    assert (ran.code, "--learn: does not go with --only-new" in ran.err) == (2, True)


def test_nothing_to_expect_is_a_list_too(tmp_path: Path) -> None:
    _, path = drafted(tmp_path, [flow(WEB, "10.0.2.4", 443)])
    assert read_expected(path) == ()


def test_names_cannot_write_into_the_list(tmp_path: Path) -> None:
    report, path = drafted(tmp_path, [flow(WEB, f"198.51.{n // 200}.{n % 200 + 1}", 443) for n in range(len(PAYLOADS))])
    table = report.tables["unexpected_destinations"]
    names = pl.Series("workload", PAYLOADS[: table.height])
    hostile = {"unexpected_destinations": table.with_columns(names, owner=names)}
    told = draft(fl.Report(**{**{n: getattr(report, n) for n in report.__slots__}, "tables": hostile}))
    path.write_text(told, encoding="utf-8")
    # Each address apart, since each has an owner of its own, and not one entry more.
    assert {entry[0] for entry in entries(path)} == set(table["dst_ip"])
