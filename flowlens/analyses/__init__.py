"""The questions: each takes a Scan and gives a LazyFrame with the columns of its contract, sorted by a total order.

No analysis reads or writes anything; each is a function of the evidence alone.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from flowlens.analyses.coverage import coverage
from flowlens.analyses.destinations import unexpected_destinations
from flowlens.analyses.egress import denied_egress
from flowlens.analyses.encryption import encryption_status
from flowlens.analyses.private_subnet import private_subnet_readiness
from flowlens.analyses.rules import rule_dependencies, rule_usage

__all__ = [
    "ANALYSES",
    "coverage",
    "denied_egress",
    "encryption_status",
    "private_subnet_readiness",
    "rule_dependencies",
    "rule_usage",
    "unexpected_destinations",
]

ANALYSES: dict[str, Callable[..., pl.LazyFrame]] = {
    "encryption_status": encryption_status,
    "denied_egress": denied_egress,
    "unexpected_destinations": unexpected_destinations,
    "rule_usage": rule_usage,
    "coverage": coverage,
}
