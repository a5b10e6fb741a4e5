"""What a question asks of each workload."""

from __future__ import annotations

from typing import NamedTuple

from flowlens.catalog import Expansion, Requirement

SURE = ("high", "medium")
"""Confidence from which a service tag stands for a name."""


class Need(NamedTuple):
    """A requirement with the profile it stands in and the prefixes behind it."""

    profile: str
    requirement: Requirement
    expansion: Expansion
