"""Growth equivalence: however blobs grow and polls, faults, kills and restarts fall, the lake equals one read of everything.

Some fixed ones are played here, a thousand by `make histories`, ten thousand by `make lake`. A failure names its seed, which
``python -m tests.lake.histories SEED`` plays again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.lake.histories import play

AT_ONCE = 25
HISTORIES = 10_000 if os.environ.get("LAKE_LONG") else int(os.environ.get("HISTORIES", "25"))
FIRST = int(os.environ.get("LAKE_SEED", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FIRST, FIRST + HISTORIES, AT_ONCE))
def test_a_lake_equals_one_read_of_everything(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        play(seed, tmp_path / "lake")
        shutil.rmtree(tmp_path / "lake")
