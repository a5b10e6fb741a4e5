"""Countries that rows of Traffic Analytics tell: of which address, in either table, up to the answer."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from flowlens.formats.countries import countries_of
from flowlens.formats.traffic_analytics import convert_rows
from tests.flow_logs import SAMPLE, run

ROW = {
    "FlowIntervalStartTime": "2026-06-15T09:00:00Z",
    "FlowIntervalEndTime": "2026-06-15T10:00:00Z",
    "FlowDirection": "Outbound",
    "FlowStatus": "Allowed",
    "L4Protocol": "TCP",
    "DestPort": "443",
    "SrcIp": "10.0.0.4",
    "DestIp": "",
    "SrcPublicIps": "",
    "DestPublicIps": "",
    "Country": "nl",
}
ENTRY = "|1|1|2|2|100|100"


def told(**changes: str) -> list[tuple[Any, ...]]:
    return sorted(convert_rows(pl.DataFrame([{**ROW, **changes}]), where="rows").countries.rows())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # All addresses of a list are in the one country of their row.
        ({"DestPublicIps": f"203.0.113.7{ENTRY} 203.0.113.8{ENTRY}"}, ["203.0.113.7", "203.0.113.8"]),
        (
            {"FlowDirection": "Inbound", "SrcIp": "", "DestIp": "10.0.0.4", "SrcPublicIps": f"203.0.113.9{ENTRY}"},
            ["203.0.113.9"],
        ),
        # A malicious peer stands alone, at the far end.
        ({"DestIp": "203.0.113.10", "FlowType": "MaliciousFlow"}, ["203.0.113.10"]),
        (
            {"FlowDirection": "Inbound", "SrcIp": "203.0.113.11", "DestIp": "10.0.0.4", "FlowType": "MaliciousFlow"},
            ["203.0.113.11"],
        ),
    ],
)
def test_it_is_that_of_the_public_address(changes: dict[str, str], expected: list[str]) -> None:
    assert told(**changes) == [(address, "NL") for address in expected]


@pytest.mark.parametrize("country", ["", "Netherlands", "<script>", "n1"])
def test_what_is_no_country_is_none(country: str) -> None:
    assert told(DestIp="203.0.113.10", Country=country) == []


def test_the_older_table_tells_it_too() -> None:
    row = {key: value for key, value in ROW.items() if key != "Country"}
    found = convert_rows(pl.DataFrame([{**row, "DestIp": "203.0.113.10", "Country_s": "de"}]), where="rows")
    assert found.countries.rows() == [("203.0.113.10", "DE")]


def test_without_the_column_there_is_none() -> None:
    assert (
        convert_rows(pl.DataFrame([{**ROW, "DestIp": "203.0.113.10"}]).drop("Country"), where="r").countries.height == 0
    )
    empty = pl.DataFrame(schema=dict.fromkeys(("src_ip", "dst_ip", "direction", "unpacked", "Country"), pl.String))
    assert countries_of(empty).columns == ["address", "country"]


def test_the_answer_has_it_and_a_file_of_the_users_stands_before_it(tmp_path: Any) -> None:
    source = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
    owners = tmp_path / "owners.csv"
    owners.write_text("prefix,country\n198.51.100.0/24,JP\n")
    rows = run("destinations", source, "--format", "json", "--owners", owners).document["tables"][
        "unexpected_destinations"
    ]
    found = {row["dst_ip"]: row["country"] for row in rows}
    # The sample's rows say zz of everything that is neither Azure's nor private.
    assert (found["203.0.113.77"], found["198.51.100.23"], found["20.60.172.11"]) == ("ZZ", "JP", None)
