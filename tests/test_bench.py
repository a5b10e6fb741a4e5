"""The bench on a handful of records: every way gives what the generator knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import compared, main, prepared
from bench.generate import BLOBS, KINDS, Expected, Order, generate
from bench.peers import PEERS
from bench.stages import STAGES
from flowlens.kernel import VARIABLE


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    """Blobs of a kind and what they hold."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder / BLOBS, generate(folder, Order(kind=request.param, megabytes=0.2, blobs=2, keys=200))


@pytest.mark.parametrize("name", PEERS)
def test_every_way_gives_the_same(made: tuple[Path, Expected], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, expected = made
    monkeypatch.setenv(VARIABLE, "")
    assert PEERS[name](str(folder)) == (expected.tuples, expected.sums["bytes_sent"])


@pytest.mark.slow
def test_the_tables_hold_every_way_stage_and_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--kinds", "small", "--megabytes", "0.1", "--rounds", "1", "--threads", "1", "2"]
    only = ["--only", "flowlens-decode", "flowlens-scan", "polars-decode"]
    assert main([*asked, *only, "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "bench.md").read_text() == text
    found = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["way"]: row for row in found["small-0.1"]["ratios"]}
    assert list(rows) == ["flowlens-decode", "flowlens-scan", "polars-decode", "flowlens-scan@2", "polars-decode@2"]
    assert rows["polars-decode"]["beside_polars"] == 1 and all(row["memory"] > 0 for row in rows.values())
    assert tuple(found["small-0.1"]["stages"]) == STAGES
    for told in (*rows, *STAGES, "flowlens --help", "flowlens analyze of one blob"):
        assert f"| {told} |" in text


@pytest.mark.slow
def test_other_sums_than_the_generators_end_the_bench(tmp_path: Path) -> None:
    folder = prepared("small", 0.02, tmp_path)
    told = folder / "expected.json"
    told.write_text(told.read_text().replace('"tuples": ', '"tuples": 1'))
    with pytest.raises(SystemExit, match="flowlens-decode gives"):
        compared(["flowlens-decode"], folder, folder, [1], 1)
