"""flowlens against the truth: invented networks, every answer compared; 40 of them here, 200 in `make truth`.

``python -m tests.scenario SEED`` plays any other.
"""

import os
from pathlib import Path

import pytest

from tests.scenario import differences, traffic_analytics_differences

SEEDS = range(int(os.environ.get("SCENARIOS", "40")))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_is_the_truth(seed: int, tmp_path: Path) -> None:
    assert differences(seed, tmp_path) == []


@pytest.mark.parametrize("seed", range(25))
def test_traffic_analytics_rows_lead_to_the_same_answers(seed: int, tmp_path: Path) -> None:
    assert traffic_analytics_differences(seed, tmp_path) == []


def test_a_wrong_answer_is_seen(tmp_path: Path) -> None:
    # A blob removed behind the truth's back must show as a difference, or the comparison compares nothing.
    assert differences(3, tmp_path) == []
    victim = max(tmp_path.rglob("PT1H.json"), key=lambda path: path.stat().st_size)
    victim.unlink()
    assert differences(3, tmp_path, write=False) != []
