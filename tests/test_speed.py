"""The kernel stays several times as fast as the portable way: CPU seconds of both, in turn, in this process, on the same bytes.

Ratios only, the least of several rounds each, and bounds far below what is measured on a quiet machine (bench/RESULTS.md), so that a busy
machine does not fail them and a lost fast path does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.generate import BLOBS, Order, generate
from bench.peers import PEERS
from flowlens.kernel import VARIABLE

ROUNDS = 5


@pytest.fixture(scope="module", params=["big", "small", "steady"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp(request.param)
    generate(place, Order(request.param, 4, 14 if request.param == "small" else 1, 2_000))
    return str(place / BLOBS)


def ratio(fast: Callable[[], object], slow: Callable[[], object]) -> float:
    """How many times as long the slow one takes, by the least CPU seconds of rounds in turn."""
    least = [float("inf")] * 2
    for _ in range(ROUNDS):
        for number, work in enumerate((fast, slow)):
            began = time.process_time()
            work()
            least[number] = min(least[number], time.process_time() - began)
    return least[1] / least[0]


@pytest.mark.parametrize(("way", "bound"), [("decode", 1.5), ("rollup", 2)])
def test_the_kernel_is_some_times_as_fast_as_the_portable_way(
    folder: str, way: str, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by(engine: str) -> Callable[[], object]:
        def work() -> object:
            monkeypatch.setenv(VARIABLE, engine)
            return PEERS[f"flowlens-{way}"](folder)

        return work

    assert ratio(by("compiled"), by("portable")) > bound


@pytest.mark.slow
def test_twice_the_bytes_take_no_more_than_twice_the_time_and_some(tmp_path: Path) -> None:
    folders = []
    for megabytes in (4, 8):
        place = tmp_path / str(megabytes)
        generate(place, Order("big", megabytes, 1, 2_000))
        folders.append(str(place / BLOBS))
    once, twice = (lambda at=at: PEERS["flowlens-rollup"](at) for at in folders)
    assert ratio(once, twice) < 4
