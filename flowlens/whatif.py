"""What would change: reports on one rule taken away and on subnets made private, in the form of every other report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from flowlens import reporting, schema
from flowlens.analyses.needs import Asked
from flowlens.analyses.private_subnet import (
    AT_RISK,
    LOST,
    UNSURE,
    by_subnet,
    known_method,
    known_service_endpoint,
    methods_by_subnet,
    private_subnet_readiness,
)
from flowlens.analyses.rules import rule_dependencies
from flowlens.catalog import Names, read_names
from flowlens.catalog.placeholders import Settings
from flowlens.config import read_config
from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import Scan
from flowlens.inventory import read_outbound
from flowlens.options import Common
from flowlens.reporting import Report
from flowlens.verdicts import FINDINGS, NOT_DETERMINED, OK, Verdict, incomplete

PRIVATE_SUBNET = "private-subnet"
WHAT_IFS = (PRIVATE_SUBNET,)
DEPENDS, NOT_OBSERVABLE = schema.DEPENDENCY_STATUSES
_WHEN = (
    "API versions released after 2026-03-31 make the subnets of new virtual networks private; existing ones do not change "
    "(Microsoft Learn, Default outbound access in Azure, 2025-12-03)"
)
# Gates on findings belong to the questions that have some.
_OTHERS_METRICS = ("findings", "new_findings")


def asked(
    change: str | None,
    common: Common,
    required: Asked,
    *,
    outbound: Sequence[str] | None = None,
    changed_at: str | None = None,
) -> Callable[[Scan], Report] | None:
    """What answers ``--what-if CHANGE`` with the other options of its command line; None without a change.

    Raises ConfigError for an unknown change and for options that do not go with it, before anything but the user's own files
    is read.
    """
    if change is None:
        return None
    if change not in WHAT_IFS:
        raise ConfigError(f"--what-if {change!r:.40}", "is no change", hint=near_matches(change, WHAT_IFS))
    if changed_at is not None:
        raise ConfigError("--changed-at", "has no meaning with --what-if", hint="choose a part with --start and --end")
    settings = read_config(common.config)
    for names in settings.service_endpoints.values():
        for name in names:
            known_service_endpoint(name)
    return functools.partial(
        readiness_report,
        outbound=parse_outbound(outbound or ()),
        known=known_outbound(common),
        service_endpoints=settings.service_endpoints,
        **required._asdict(),
    )


def dependencies_report(scan: Scan, rule: str) -> Report:
    """A Report on the flows that one rule decided, or on why nothing is known of it.

    >>> import flowlens as fl
    >>> dependencies_report(fl.scan("sample_logs"), "optional").verdicts["rule_dependencies"].status
    'not_determined'
    """
    asked = rule_dependencies(scan, rule)
    # Read here, not inside a collect: polars would hear of no Ctrl-C until all is read.
    _ = scan.evidence
    table = asked.collect()
    return _report(scan, "rule_dependencies", table, _dependencies_verdict(table, rule), depends=rule)


def parse_outbound(texts: Sequence[str]) -> dict[str, str]:
    """What ``--outbound SUBNET=METHOD`` says, by subnet.

    Raises ConfigError for any other form, an unknown method and a subnet that is there twice.

    >>> parse_outbound(["snet-app=nat"])
    {'snet-app': 'nat'}
    """
    found: dict[str, str] = {}
    for text in texts:
        subnet, equals, method = text.rpartition("=")
        if not equals or not subnet.strip():
            raise ConfigError(f"--outbound {text!r:.60}", "expected SUBNET=METHOD, such as snet-app=nat")
        if subnet.strip() in found:
            raise ConfigError(f"--outbound {text!r:.60}", "is there twice")
        found[subnet.strip()] = known_method(method.strip())
    return found


def known_outbound(common: Common) -> tuple[Mapping[str, str], ...]:
    """How subnets go out by the inventory file and by the config, the stronger last; both may name subnets of other logs."""
    inventory = read_outbound(common.inventory) if common.inventory else {}
    return inventory, read_config(common.config).outbound


def readiness_report(
    scan: Scan,
    *,
    outbound: Mapping[str, str] | None = None,
    known: Sequence[Mapping[str, str]] = (),
    service_endpoints: Mapping[str, Sequence[str]] | None = None,
    profiles: Sequence[str] | str = "auto",
    cloud: str = "global",
    placeholders: Settings | None = None,
    names: Names | str | Path | None = None,
) -> Report:
    """A Report on what each subnet would lose if it were private.

    ``outbound`` must name subnets of these logs; ``known`` are mappings of the same form that may name others too, the first
    being the weakest, as are ``service_endpoints``.

    >>> import flowlens as fl
    >>> report = readiness_report(fl.scan("sample_logs"), outbound={"10.10.1.0/24": "default"})
    >>> report.verdicts["private_subnet_readiness"].status, report.metrics["lost"]
    ('findings', 2)
    """
    known_names = read_names(names) if isinstance(names, (str, Path)) else names
    inventory = scan.evidence.inventory
    methods = methods_by_subnet(inventory, outbound, known)
    services = by_subnet(inventory, service_endpoints or {}, strict=False)
    table = private_subnet_readiness(
        scan,
        outbound={"/".join(subnet): method for subnet, method in methods.items()},
        service_endpoints={"/".join(subnet): names for subnet, names in services.items()},
        profiles=profiles,
        cloud=cloud,
        placeholders=placeholders,
        names=known_names,
    ).collect()
    settings = {"what_if": PRIVATE_SUBNET, "outbound": {"/".join(subnet): m for subnet, m in sorted(methods.items())}}
    report = _report(scan, "private_subnet_readiness", table, Verdict(OK, ""), **settings)
    gaps = incomplete(report.coverage, report.ledger)
    return replace(
        report,
        settings={
            **report.settings,
            "profiles": profiles,
            "cloud": cloud,
            "placeholders": dict(placeholders or {}),
            "names": known_names.describe() if known_names else None,
        },
        verdicts={"private_subnet_readiness": _readiness_verdict(table, gaps)},
        metrics={
            **report.metrics,
            **{
                metric: table.filter(pl.col("status") == s).height
                for metric, s in (("lost", LOST), ("at_risk", AT_RISK))
            },
        },
    )


def _readiness_verdict(table: pl.DataFrame, gaps: bool) -> Verdict:
    tail = f"What was not tried in the window is not listed. {_WHEN}."
    if table.filter(pl.col("destination").is_not_null()).is_empty():
        return Verdict(NOT_DETERMINED, f"Not determined: no flow of a subnet was read. {tail}")
    parts = []
    for status, words in (
        (LOST, "would be lost"),
        (
            AT_RISK,
            "would be lost unless the subnet has an explicit outbound method (say which: --outbound SUBNET=METHOD)",
        ),
        (UNSURE, "cannot be told"),
    ):
        rows = table.filter(pl.col("status") == status)
        if rows.height:
            parts.append(f"{rows.height} in {rows.select('vnet', 'subnet').n_unique()} subnet(s) {words}")
    told = f"Of the destinations {'; '.join(parts)}." if parts else "Nothing that was reached would be lost."
    if table["status"].is_in([LOST, AT_RISK]).any():
        return Verdict(FINDINGS, f"{told} {tail}")
    if parts:
        return Verdict(NOT_DETERMINED, f"{told} {tail}")
    if gaps:
        return Verdict(NOT_DETERMINED, f"{told} But the evidence has gaps, so this is no pass. {tail}")
    return Verdict(OK, f"{told} {tail}")


def _report(scan: Scan, name: str, table: pl.DataFrame, verdict: Verdict, **settings: object) -> Report:
    """The evidence as in every report, with one table and its verdict."""
    bare = reporting.report(scan, questions=[])
    return replace(
        bare,
        settings={**bare.settings, **settings},
        verdicts={name: verdict},
        tables={name: table},
        metrics={metric: value for metric, value in bare.metrics.items() if metric not in _OTHERS_METRICS},
    )


def _dependencies_verdict(table: pl.DataFrame, rule: str) -> Verdict:
    found = table.filter(pl.col("status") == DEPENDS)
    if found.is_empty():
        return Verdict(NOT_DETERMINED, f"{NOT_OBSERVABLE}: {rule}. {table['note'][0]}")
    by_status = dict(found.group_by("flow_status").agg(pl.col("flows").sum()).iter_rows())
    told = ", ".join(f"{by_status[status]} {status.lower()}" for status in sorted(by_status))
    workloads = found.select("vnet", "workload").n_unique()
    notes = " ".join(dict.fromkeys(found["note"]))
    return Verdict(FINDINGS, f"{rule} decided flows of {workloads} workload(s): {told}. {notes}")
