"""Text made safe: against Unicode's own categories, and read back."""

from __future__ import annotations

import datetime as dt
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.outputs.text import clean, counted, is_formula, listed, size, utc

ANY = st.text(st.characters(exclude_categories=())) | st.text(
    "\x00\x1b\x7f\x85\x9b\u202e\u2028\ud800\ue000\U000e0001a規e\u0301"
)


@given(ANY)
def test_nothing_that_steers_or_hides_is_left(text: str) -> None:
    shown = clean(text)
    categories = {unicodedata.category(c) for c in shown}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown.encode("utf-8")


@given(ANY)
def test_the_original_can_be_read_back(text: str) -> None:
    # A backslash of the text stands for itself, so the way back is tried on texts without one.
    text = text.replace("\\", "/")
    assert clean(text).encode("raw_unicode_escape").decode("unicode_escape") == text


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert clean(text) == text
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "＝1", "＋1", "－1", "＠a", "﹢1"])
def test_formulas(text: str) -> None:
    assert is_formula(text)


@pytest.mark.parametrize("text", ["", "10.0.0.4", "a=1", "UserRule_x", "'=1", "規則"])
def test_no_formulas(text: str) -> None:
    assert not is_formula(text)


@given(
    st.datetimes(
        timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=9)), dt.timezone(dt.timedelta(hours=-5))])
    )
)
def test_times_read_back(time: dt.datetime) -> None:
    if dt.datetime(2, 1, 1, tzinfo=dt.UTC) < time < dt.datetime(9998, 1, 1, tzinfo=dt.UTC):
        assert utc(time).endswith("Z") and utc(time).count("Z") == 1
        assert dt.datetime.fromisoformat(utc(time)) == time


def test_no_time_is_empty() -> None:
    assert utc(None) == ""


@given(st.integers(0, 10**18))
def test_sizes_are_near_and_short(count: int) -> None:
    number, unit = size(count).split(" ")
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit]
    assert abs(float(number) * factor - count) <= factor * (0 if unit == "B" else 0.051)
    assert unit == "TB" or float(number) <= 1000


@given(st.lists(st.text("abc", min_size=1), max_size=9))
def test_lists_name_three_and_count_the_rest(names: list[str]) -> None:
    shown = listed(names)
    assert shown.startswith(", ".join(names[:3]))
    assert shown[len(", ".join(names[:3])) :] == (f" and {len(names) - 3} more" if len(names) > 3 else "")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1234567, "1,234,567 files")]
)
def test_numbers_with_their_word(number: int, text: str) -> None:
    assert counted(number, "file") == text
