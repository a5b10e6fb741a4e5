"""How complete was the evidence?"""

from __future__ import annotations

import polars as pl

from flowlens.analyses.tables import result
from flowlens.evidence import Scan


def coverage(scan: Scan) -> pl.LazyFrame:
    """Each hour of each NIC of each flow log: read, partly read, empty, silent, open, missing or failed.

    A silent hour had no blob and nobody logged a flow with the NIC in it; a missing one had no blob although somebody did, or
    the whole flow log has a gap there.

    >>> import flowlens as fl
    >>> sorted(fl.coverage(fl.scan("sample_logs")).collect()["state"].unique())
    ['missing', 'read', 'silent']
    """
    return result("coverage", scan.evidence.coverage.lazy)
