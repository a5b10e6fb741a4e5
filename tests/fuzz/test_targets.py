"""The fuzz targets on their seeds and on some changes of them; `make fuzz-bytes` runs them for hours."""

from __future__ import annotations

import gc
import random
import warnings

import pytest

from tests.fuzz.targets import TARGETS, run, seeds

CHANGES = 60


def changed(data: bytes, chance: random.Random) -> bytes:
    """``data`` with some bytes replaced, cut out, doubled or put elsewhere."""
    work = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(work) + 1)
        end = min(len(work), at + chance.choice((1, 2, 7, 40)))
        kind = chance.randrange(4)
        if kind == 0 and at < len(work):
            work[at] = chance.randrange(256)
        elif kind == 1:
            del work[at:end]
        elif kind == 2:
            work[at:at] = work[at:end]
        else:
            work[at:at] = chance.choice((b'"', b"{", b"]", b"\\", b",", b"\x00", b"\xff", b"9" * 30, b"\xef\xbb\xbf"))
    return bytes(work)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_hostile_bytes_end_in_a_result_or_in_an_error_of_our_own(target: str) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    begun = seeds(target)
    taken = [run(target, data) for data in begun]
    assert any(taken), "no seed is valid"
    with warnings.catch_warnings():
        # Connections that a server ended in mid-course are left to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(CHANGES):
            run(target, changed(chance.choice(begun), chance))
        gc.collect()
