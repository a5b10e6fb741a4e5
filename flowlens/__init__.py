"""flowlens reads Azure virtual network flow logs and answers what nothing else answers.

Is the traffic between my VMs encrypted? Which endpoints that Azure services need are denied, unanswered or never tried,
and by whose rule? What do my workloads talk to that nobody expected? And how complete was the evidence?

>>> import flowlens as fl
>>> scan = fl.scan("sample_logs")
>>> fl.report(scan).verdicts["encryption_status"].status
'findings'
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowlens.analyses import (
        denied_egress,
        encryption_status,
        private_subnet_readiness,
        rule_dependencies,
        rule_usage,
        unexpected_destinations,
    )
    from flowlens.analyses.coverage import coverage
    from flowlens.catalog import load_profile, load_tags, profile_names
    from flowlens.config import read_config
    from flowlens.distributed import spark_scan
    from flowlens.errors import CatalogError, ConfigError, FlowlensError, FormatError, LedgerError, SourceError
    from flowlens.evidence import Ledger, Reject, Scan, Window
    from flowlens.findings import Baseline, Finding
    from flowlens.inventory import Networks, read_inventory
    from flowlens.query_running import run_query
    from flowlens.reporting import Report, report
    from flowlens.scanning import scan
    from flowlens.scope import Scope
    from flowlens.sources.accounts import Access
    from flowlens.spark_lake import spark_sync
    from flowlens.verdicts import Verdict

__version__ = "0.1.0"

__all__ = [
    "Access",
    "Baseline",
    "CatalogError",
    "ConfigError",
    "Finding",
    "FlowlensError",
    "FormatError",
    "Ledger",
    "LedgerError",
    "Networks",
    "Reject",
    "Report",
    "Scan",
    "Scope",
    "SourceError",
    "Verdict",
    "Window",
    "coverage",
    "denied_egress",
    "encryption_status",
    "load_profile",
    "load_tags",
    "private_subnet_readiness",
    "profile_names",
    "read_config",
    "read_inventory",
    "report",
    "rule_dependencies",
    "rule_usage",
    "run_query",
    "scan",
    "spark_scan",
    "spark_sync",
    "unexpected_destinations",
]

# Loaded when they are asked for, so that the command line can set up memory before polars is there, and `import flowlens`
# takes milliseconds.
_HOMES = {
    "analyses": (
        *("coverage", "denied_egress", "encryption_status", "private_subnet_readiness"),
        *("rule_dependencies", "rule_usage", "unexpected_destinations"),
    ),
    "catalog": ("load_profile", "load_tags", "profile_names"),
    "config": ("read_config",),
    "distributed": ("spark_scan",),
    "errors": ("CatalogError", "ConfigError", "FlowlensError", "FormatError", "LedgerError", "SourceError"),
    "evidence": ("Ledger", "Reject", "Scan", "Window"),
    "findings": ("Baseline", "Finding"),
    "inventory": ("Networks", "read_inventory"),
    "query_running": ("run_query",),
    "reporting": ("Report", "report"),
    "scanning": ("scan",),
    "scope": ("Scope",),
    "spark_lake": ("spark_sync",),
    "sources.accounts": ("Access",),
    "verdicts": ("Verdict",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"flowlens.{module}"), name)
            return value
    raise AttributeError(f"module 'flowlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
