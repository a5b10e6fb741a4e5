"""Gates: texts of ``--fail-on`` against the metrics of a report."""

from __future__ import annotations

import contextlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowlens as fl
from flowlens.errors import ConfigError
from flowlens.gates import GATES, WHAT_IF_GATES, parse_gate
from tests.flow_logs import CONTAINER, SAMPLE
from tests.make_logs import LATER


@cache
def sample_report() -> fl.Report:
    return fl.report(fl.scan(SAMPLE / CONTAINER, now=LATER), expected=SAMPLE / "expected.toml")


@pytest.mark.parametrize(
    ("gate", "fires"),
    [
        ("unencrypted > 0", True),
        ("unencrypted>5", True),
        (" unencrypted ", True),
        ("unencrypted >= 6", True),
        ("unencrypted > 6", False),
        ("unencrypted == 6", True),
        ("unencrypted < 7", True),
        ("unencrypted <= 5", False),
        ("incomplete", True),
        ("denied_required >= 4", True),
        ("unanswered", True),
        ("unanswered > 1", False),
        ("rejected", False),
        ("unexpected_destinations >= 2", True),
        ("new_findings > 1000", False),
    ],
)
def test_gates_on_the_sample(gate: str, fires: bool) -> None:
    assert parse_gate(gate).fires(sample_report()) is fires


@pytest.mark.parametrize("metric", GATES)
def test_every_gate_has_its_number_in_a_whole_report(metric: str) -> None:
    value = sample_report().metrics[metric]
    assert parse_gate(f"{metric} == {value}").fires(sample_report())
    assert not parse_gate(f"{metric} > {value}").fires(sample_report())


def test_a_gate_of_a_question_that_was_not_asked_never_fires() -> None:
    report = fl.report(fl.scan(SAMPLE / CONTAINER, now=LATER), questions=["coverage"])
    assert not parse_gate("unencrypted >= 0").fires(report)
    assert parse_gate("incomplete").fires(report)


@given(st.sampled_from(GATES), st.sampled_from([">", ">=", "==", "<", "<="]), st.integers(0, 10**9))
def test_a_gate_reads_back_what_it_shows(metric: str, compare: str, limit: int) -> None:
    gate = parse_gate(f"{metric} {compare} {limit}")
    assert (gate.metric, gate.compare, gate.limit) == (metric, compare, limit)
    assert parse_gate(str(gate)) == gate


@given(st.text() | st.from_regex(r"\s*[a-z_]{0,12}\s*[<>=!]{0,2}\s*-?[0-9.]{0,4}"))
def test_any_text_is_a_gate_or_a_config_error(text: str) -> None:
    gate = None
    with contextlib.suppress(ConfigError):
        gate = parse_gate(text)
    assert gate is None or (gate.metric in text and gate.metric in (*GATES, *WHAT_IF_GATES))
