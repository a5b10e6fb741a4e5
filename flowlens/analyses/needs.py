"""What a question asks of each workload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from flowlens import schema
from flowlens.catalog import Expansion, Names, Requirement, load_profile
from flowlens.catalog.placeholders import Settings, left_open
from flowlens.catalog.profiles import EGRESS

ADDRESS, NAME, TAG, APPROXIMATE_TAG, PORT_ONLY = schema.MATCHES
EXACT = (ADDRESS, NAME)
AUTO = "auto"
"""In place of profiles: those whose own endpoints a workload tried."""
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


def left_unfilled(table: pl.DataFrame, asked: Asked) -> list[str]:
    """The placeholders that nobody filled of the profiles in a table of denied_egress: what they stand in was not tested."""
    named = [load_profile(name) for name in asked.profiles if name != AUTO] if asked.profiles != AUTO else []
    by_name = {profile.name: profile for profile in named}
    judged = [by_name.get(name) or load_profile(name) for name in table["profile"].unique().sort()]
    of_cloud = [r for p in judged for r in p.requirements if (r.cloud, r.concerns) == (asked.cloud, EGRESS)]
    return list(left_open(of_cloud, asked.placeholders))
