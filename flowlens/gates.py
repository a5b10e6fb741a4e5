"""When a report fails a run: the gates of ``--fail-on``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flowlens.errors import ConfigError, near_matches

_GATE = re.compile(r"^\s*([a-z_]+)\s*(?:(>=|<=|==|>|<)\s*(\d{1,18})\s*)?$")
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
}
GATES = (
    "findings",
    "new_findings",
    "rejected",
    "incomplete",
    "unencrypted",
    "denied_required",
    "unanswered",
    "unexpected_destinations",
    "new_destinations",
)
"""Metrics of a report that a gate may name; a metric is there when its question was asked."""
GATE_QUESTIONS = {
    "unencrypted": "encryption_status",
    "denied_required": "denied_egress",
    "unanswered": "denied_egress",
    "unexpected_destinations": "unexpected_destinations",
    "new_destinations": "unexpected_destinations",
}
"""The table that a metric is counted in; those of any report are counted whatever was asked."""
WHAT_IF_GATES = ("lost", "at_risk")
"""Metrics of a report on a change that is only thought of."""
QUERY_GATES = ("rows",)
"""Metrics of a query's result alone."""


class Measured(Protocol):
    """What a gate is held against: a report, or the result of a query."""

    @property
    def metrics(self) -> Mapping[str, int]:
        """A number by each metric's name."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition of ``--fail-on``: a metric, a comparison and a whole number.

    >>> Gate("unencrypted", ">", 0)
    Gate(metric='unencrypted', compare='>', limit=0)
    """

    metric: str
    compare: str
    limit: int

    def fires(self, report: Measured) -> bool:
        """Whether the report meets the condition; a metric of a question that was not asked never does."""
        value = report.metrics.get(self.metric)
        return value is not None and _COMPARE[self.compare](value, self.limit)

    def __str__(self) -> str:
        return f"{self.metric} {self.compare} {self.limit}"


def parse_gate(text: str) -> Gate:
    """The gate of a text such as ``unencrypted > 0``; a bare name means ``> 0``.

    Raises ConfigError, with near matches, where the text is none.

    >>> str(parse_gate("incomplete"))
    'incomplete > 0'
    """
    found = _GATE.match(text)
    known = (*GATES, *WHAT_IF_GATES, *QUERY_GATES)
    if found is None or found[1] not in known:
        near = near_matches(found[1] if found else text, known)
        raise ConfigError(f"--fail-on {text!r:.60}", "is no gate", hint=near)
    return Gate(found[1], found[2] or ">", int(found[3] or 0))
