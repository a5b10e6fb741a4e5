"""From a report on required endpoints to the script that mends what fails."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from flowlens.analyses.egress import needs_of
from flowlens.analyses.fix_commands import fixes
from flowlens.analyses.needs import Asked
from flowlens.analyses.private_subnet import methods_by_subnet, regions_of
from flowlens.analyses.rules import rule_usage
from flowlens.catalog import Names
from flowlens.catalog.placeholders import Settings
from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import Scan
from flowlens.options import Common
from flowlens.outputs.script import script
from flowlens.outputs.text import utc
from flowlens.reporting import Report
from flowlens.schema import FIX_WAYS
from flowlens.whatif import asked, known_outbound, parse_outbound

Ask = Callable[[Scan], Report]
Mend = Callable[[Scan, Report, BinaryIO], None]


def ask_or_mend(
    what_if: str | None,
    way: str | None,
    common: Common,
    required: Asked,
    *,
    outbound: Sequence[str] | None = None,
    changed_at: str | None = None,
) -> tuple[Ask | None, Mend | None]:
    """What answers ``--what-if`` in place of the question, and what writes ``--fix`` in place of the report.

    Raises ConfigError for unknown words and options that do not go together, before anything but the user's own files is
    read.
    """
    if what_if is not None and way is not None:
        raise ConfigError("--fix", "does not go with --what-if")
    if outbound and what_if is None and way != "route":
        raise ConfigError("--outbound", "belongs to --what-if or --fix route", hint="add --what-if private-subnet")
    ask = asked(what_if, common, required, outbound=outbound, changed_at=changed_at)
    if way is None:
        return ask, None
    mend = functools.partial(
        fix_script,
        way=known_way(way),
        outbound=parse_outbound(outbound or ()),
        known=known_outbound(common),
        profiles=required.profiles,
        cloud=required.cloud,
        placeholders=required.placeholders,
        names=required.names,
    )

    def write(scan: Scan, report: Report, file: BinaryIO) -> None:
        file.write(mend(scan, report).encode("ascii"))

    return None, write


def known_way(way: str) -> str:
    """The way to mend, checked; raises ConfigError for an unknown one, with near matches.

    >>> known_way("nsg")
    'nsg'
    """
    if way not in FIX_WAYS:
        raise ConfigError(f"--fix {way!r:.40}", "is no way to mend", hint=near_matches(way, FIX_WAYS))
    return way


def fix_script(
    scan: Scan,
    report: Report,
    way: str,
    *,
    profiles: Sequence[str] | str = "auto",
    cloud: str = "global",
    placeholders: Settings | None = None,
    names: Names | str | Path | None = None,
    outbound: Mapping[str, str] | None = None,
    known: Sequence[Mapping[str, str]] = (),
) -> str:
    """A bash script of Azure CLI commands for what fails in the report: NSG rules, firewall rules or outbound routes.

    ``outbound`` must name subnets of these logs, ``known`` may name others too; the last word on a subnet counts. After a
    change only what fails since counts.

    >>> import flowlens as fl
    >>> scan = fl.scan("sample_logs")
    >>> told = fix_script(scan, fl.report(scan, questions=["denied_egress"]), "nsg")
    >>> "--destination-address-prefixes AzurePlatformLKM" in told
    True
    """
    inventory = scan.evidence.inventory
    regions = regions_of(scan.evidence, placeholders or {}).drop_nulls()
    rules = rule_usage(scan).select("acl_id", "acl_rule", "rule_kind").collect()
    found = fixes(
        report.tables.get("denied_egress_after", report.tables["denied_egress"]),
        needs_of(scan, profiles=profiles, cloud=cloud, placeholders=placeholders, names=names),
        known_way(way),
        inventory=inventory,
        outbound=methods_by_subnet(inventory, outbound, known),
        kinds={(acl, rule): kind for acl, rule, kind in rules.iter_rows()},
        regions=dict(regions.select("vnet", "region").iter_rows()),
    )
    about = [
        f"Made by flowlens from flow logs of {utc(report.window.start)} to {utc(report.window.end)}.",
        "Read it before you run it with bash. Set the variables first; what they are is not in a flow log.",
    ]
    return script(found, about=about if found else [*about, "No required endpoint fails: there is nothing to mend."])
