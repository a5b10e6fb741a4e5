"""What a question asks of each workload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flowlens import schema
from flowlens.catalog import Expansion, Names, Requirement
from flowlens.catalog.placeholders import Settings

ADDRESS, NAME, TAG, APPROXIMATE_TAG, PORT_ONLY = schema.MATCHES
EXACT = (ADDRESS, NAME)
SURE = ("high", "medium")
"""Confidence from which a service tag stands for a name."""
OTHER_NAME = "another name"
"""In place of a confidence: the address is known to stand for another name, so its failure says little of this one."""


class Asked(NamedTuple):
    """The endpoints that are asked for and what is known of them, as denied_egress takes it."""

    profiles: Sequence[str] | str
    cloud: str
    placeholders: Settings
    names: Names | None


class Need(NamedTuple):
    """A requirement with the profile it stands in and the prefixes behind it."""

    profile: str
    requirement: Requirement
    expansion: Expansion
