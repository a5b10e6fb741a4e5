"""The bench on a handful of records: every way gives what the generator knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.generate import BLOBS, Expected, Order, generate
from bench.peers import PEERS
from flowlens.kernel import VARIABLE


@pytest.fixture(scope="module", params=["big", "small"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    """Blobs of a kind and what they hold."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder / BLOBS, generate(folder, Order(kind=request.param, megabytes=0.2, blobs=2, keys=200))


@pytest.mark.parametrize("name", PEERS)
def test_every_way_gives_the_same(made: tuple[Path, Expected], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, expected = made
    monkeypatch.setenv(VARIABLE, "")
    assert PEERS[name](str(folder)) == (expected.tuples, expected.sums["bytes_sent"])
