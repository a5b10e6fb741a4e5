"""Hints that name what is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import is_unicode, near_matches


def test_a_long_list_of_words_is_cut_and_counted() -> None:
    known = [f"00005E{n:06}" for n in range(500)]
    assert near_matches("nope", known).endswith("00005E000039 and 460 more")
    assert near_matches("nope", known[:40]) == f"known: {', '.join(known[:40])}"
    assert near_matches("00005E00007", known).startswith("did you mean ")


@given(st.text())
def test_unicode_is_what_can_be_written(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        assert not is_unicode(text)
    else:
        assert is_unicode(text)
