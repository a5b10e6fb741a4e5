"""Memory follows neither the size of a blob nor the number of its rows; ``make memory`` measures a gigabyte."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cardinality import scanned
from bench.generate import Order, generate
from bench.memory import BARS, analyzed

MB = 1e6


@pytest.mark.slow
@pytest.mark.skipif("sys.platform != 'linux'", reason="peaks are told by Linux")
def test_three_times_the_bytes_take_the_same_memory_and_every_sum_is_exact(tmp_path: Path) -> None:
    peaks = []
    for megabytes in (12, 36):
        folder = tmp_path / str(megabytes)
        generate(folder, Order(megabytes=megabytes, keys=10_000))
        run, wrong, _ = analyzed(folder)
        assert wrong == []
        peaks.append(run.memory)
    assert peaks[1] - peaks[0] < 24 * MB
    assert peaks[1] < BARS[100_000] * MB


@pytest.mark.slow
def test_a_wrong_sum_is_told(tmp_path: Path) -> None:
    generate(tmp_path, Order(megabytes=1, keys=100))
    expected = tmp_path / "expected.json"
    expected.write_text(expected.read_text().replace('"tuples": ', '"tuples": 1'))
    _, (told,), _ = analyzed(tmp_path)
    assert told.startswith("flow tuples: ")


@pytest.mark.slow
@pytest.mark.skipif("sys.platform != 'linux'", reason="peaks are told by Linux")
def test_a_scan_with_many_conversations_keeps_to_its_limit(tmp_path: Path) -> None:
    found = scanned(0.3, "450MB", tmp_path)
    assert found.wrong == []
    assert found.listed == 100_000 and found.destinations > 110_000
    assert found.run.memory < 450 * MB
