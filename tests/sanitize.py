"""``python -m tests.sanitize KERNEL SEEDS``: the kernel in the folder KERNEL, built with sanitizers, over the corpus and its mutations.

What a sanitizer finds ends the process with a report. Nothing but the kernel is loaded, so that all time goes to it; that its
answers are right is for tests/test_kernel.py.
"""

from __future__ import annotations

import array
import random
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

TOP = Path(__file__).parents[1]
CORPUS = sorted([*(TOP / "tests" / "data").rglob("*.*"), *(TOP / "sample_logs").rglob("*.json")])
PIECES = (
    b'"',
    b"\\",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"::",
    b"\0",
    b"\xff",
    b"null",
    b"9" * 20,
    b'","',
    b'"flowTuples":[',
)


def loaded(folder: str) -> tuple[Any, Any]:
    """The classes Reader and Rollup of the kernel in a folder."""
    for name in ("flowlens", "flowlens.kernel"):
        # Packages of nothing but the folder, since those of flowlens load much else.
        package = ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package
    reader, rollup = (import_module(f"flowlens.kernel.{name}") for name in ("reader", "rollup"))
    return reader.Reader, rollup.Rollup


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes cut, doubled, replaced or put in."""
    text = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at, length = rng.randrange(len(text) + 1), rng.choice((1, 2, 7, 100))
        kind = rng.randrange(5)
        if kind == 0:
            del text[at : at + length]
        elif kind == 1:
            text[at:at] = text[at : at + length]
        elif kind == 2:
            text[at : at + 1] = rng.choice(PIECES)
        elif kind == 3:
            text[at:at] = rng.choice(PIECES)
        else:
            del text[at:]
    return bytes(text)


def exercised(reader: Any, rollup: Any, data: bytes) -> int:
    """Every record that the kernel takes, and all that it gives of them."""
    rows = at = 0
    while (at := data.find(b"{", at)) >= 0:
        records, _, _, end, _ = reader.read(data, at, 2**20)
        at = end if records else at + 1
    reader.word_list(0), reader.encryption_counts(0), reader.rows_inside(0, reader.record_count, 0, 2**62)
    times = array.array("q", [moment if word is None else -1 for moment, word, *_ in reader.record_list(0)])
    contexts = reader.context_list(array.array("q", [1_663_146_003_000_000, 1_663_147_000_000_000]))
    rollup.add(reader, array.array("i", range(len(contexts))), 0, 2**62)
    if reader.row_count:
        reader.columns(bytearray, 0, reader.row_count, times, -1), reader.address_texts(bytearray)
    rows += reader.row_count
    if rollup.count > 20_000:
        rollup.columns(bytearray), rollup.address_texts(bytearray)
        rollup.clear()
    reader.clear()
    return rows


def main() -> None:
    """Whole files first, then so many mutations of each."""
    (reader_type, rollup_type), seeds = loaded(sys.argv[1]), int(sys.argv[2])
    reader = reader_type(1_420_070_400_000_000, 4_133_980_800_000_000, 2**16, 2**8, 2**48, 2**25)
    rollup = rollup_type(2**16, 1024, 32768, 500)
    texts = [path.read_bytes()[: 2**18] for path in CORPUS if path.is_file()]
    rows = sum(exercised(reader, rollup, text) for text in texts)
    assert rows, "the corpus holds flow logs"
    for seed in range(seeds):
        rng = random.Random(seed)
        for text in texts:
            start = rng.randrange(max(1, len(text) - 8_000))
            rows += exercised(reader, rollup, mutated(rng, text[start : start + 8_000] if seed % 2 else text[:8_000]))
    print(f"{len(texts)} files, {seeds} mutations of each, {rows} rows: nothing found")


if __name__ == "__main__":
    main()
