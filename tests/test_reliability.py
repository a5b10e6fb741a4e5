"""Every known failure of comparable systems has its test here, or a reason in writing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COUNTS = {"A": 16, "B": 7, "C": 8, "D": 12, "E": 5, "F": 9, "G": 11, "H": 8, "I": 12, "J": 8}
GROUPS = tomllib.loads((HERE / "reliability.toml").read_text(encoding="utf-8"))
FAILURES = {number: entry for group in GROUPS.values() for number, entry in group.items()}


def test_none_of_the_96_is_left_out() -> None:
    assert list(FAILURES) == [f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)]
    assert len(FAILURES) == 96


@pytest.mark.parametrize("number", FAILURES)
def test_each_names_tests_that_are_there_or_a_reason(number: str) -> None:
    entry = FAILURES[number]
    assert set(entry) <= {"title", "tests", "reason", "elsewhere"} and entry["title"]
    assert entry.get("tests") or entry.get("reason") or entry.get("elsewhere")
    for name in entry.get("tests", ()):
        file, _, function = name.partition("::")
        text = (HERE / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {function or 'test_'}", text, re.MULTILINE), name


def test_raw_blobs_never_reach_arrows_json_reader() -> None:
    """It has crashed on a key of its own making and on objects longer than a block."""
    sources = [path.read_text(encoding="utf-8") for path in (HERE.parent / "flowlens").rglob("*.py")]
    assert not [text for text in sources if re.search(r"pyarrow(\.| import )json|from pyarrow.*\bjson\b", text)]
