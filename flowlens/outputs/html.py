"""One page that holds everything: the verdicts first, then pictures, tables and what to do, then the evidence.

It asks nothing of the network and runs one script of its own, known to the browser by its hash, or none (``static``). Every text
goes through one escaper: jinja2's, after characters that could hide or turn text were written out.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, BinaryIO
from zoneinfo import ZoneInfo

import polars as pl
from markupsafe import Markup

from flowlens import schema
from flowlens.analyses.tables import told_apart
from flowlens.findings import QUESTIONS
from flowlens.outputs import html_charts, html_tables
from flowlens.outputs.content import (
    TITLES,
    advice,
    coverage_lines,
    evidence,
    evidence_lines,
    ranked,
    share,
    stem,
    with_bare_addresses,
)
from flowlens.outputs.html_charts import Figure
from flowlens.outputs.html_tables import Cell, Table, tone_of
from flowlens.outputs.page import Row
from flowlens.outputs.text import clean, counted
from flowlens.reporting import Report
from flowlens.verdicts import FINDINGS, OK, incomplete

if TYPE_CHECKING:
    import jinja2

_DATA = files("flowlens.outputs") / "html_data"
_UNITS = {
    "encryption_status": "pairs not fully encrypted",
    "denied_egress": "required endpoints fail",
    "unexpected_destinations": "destinations nobody expected",
}
_LOOKS = {OK: ("good", "ok"), FINDINGS: ("bad", "findings")}
_UNDETERMINED = ("warn", "not determined")
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Section:
    """What a page says of one question; ``advice`` is whom each piece concerns, and the piece."""

    id: str
    title: str
    figures: tuple[Figure, ...]
    grids: tuple[Table, ...]
    advice: tuple[tuple[str, str], ...]
    table: Table


@dataclass(frozen=True, slots=True)
class Card:
    """A verdict: its tone and word, how many, of what, what changed, and the sentence."""

    question: str
    title: str
    tone: str
    word: str
    number: str
    unit: str
    change: str
    text: str


def write_html(report: Report, file: BinaryIO, *, static: bool = False) -> None:
    """Write the report as one HTML file; ``static`` has no script and shorter tables, for mail.

    Raises ConfigError where the extra that draws is not installed.
    """
    html_charts.require()
    limit = html_tables.STATIC_ROWS if static else html_tables.ROWS
    zone = _zone(report)
    clock = functools.partial(_clock, zone)
    names = sorted(report.tables, key=lambda name: list(TITLES).index(stem(name)[0]))
    style, script = _asset("style.css"), "" if static else _asset("script.js")
    policy = [_POLICY, f"style-src '{_hash(style)}'", *([f"script-src '{_hash(script)}'"] if script else [])]
    page = _environment().get_template("page.html")
    text = page.render(
        policy="; ".join(policy),
        style=Markup(style),  # noqa: S704 - the package's own files
        script=Markup(script),  # noqa: S704
        title=_title(report, clock),
        sources=_listed(report.settings.get("sources")),
        cards=_cards(report),
        findings=_findings(report, clock, limit) if report.findings else None,
        sections=[_section(report, name, clock, zone, limit) for name in names],
        evidence=evidence(report),
        gaps=coverage_lines(report)[0],
        incomplete=incomplete(report.coverage, report.ledger),
        settings=_settings(report),
        looks=html_tables.LOOKS,
        marks=html_tables.MARKS,
    )
    file.write(text.encode())


def notebook(report: Report) -> str:
    """Verdicts and findings as a piece of HTML for a notebook's cell, with styles that touch nothing else."""
    clock = functools.partial(_clock, _zone(report))
    return (
        _environment()
        .get_template("notebook.html")
        .render(
            style=Markup(_asset("notebook.css")),  # noqa: S704
            title=_title(report, clock),
            cards=_cards(report),
            findings=_findings(report, clock, 20) if report.findings else None,
            tables=[(TITLES[stem(name)[0]], name, table.height) for name, table in report.tables.items()],
            evidence=evidence_lines(report.ledger)[0],
            marks=html_tables.MARKS,
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    # Here, since no other face needs it and every command would wait for it.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: object) -> object:
    """What every ``{{ }}`` goes through before it is escaped."""
    return value if isinstance(value, Markup) else clean(value)


def _asset(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _zone(report: Report) -> ZoneInfo | None:
    name = report.settings.get("timezone")
    return ZoneInfo(name) if isinstance(name, str) else None


def _clock(zone: ZoneInfo | None, time: object) -> str:
    if not isinstance(time, dt.datetime):
        return ""
    local = time.astimezone(zone or dt.UTC)
    return local.strftime("%Y-%m-%d %H:%M") + ("Z" if zone is None else local.strftime("%z"))


def _title(report: Report, clock: Callable[[object], str]) -> str:
    start, end = clock(report.window.start), clock(report.window.end)
    return f"{start} to {end}" if start and end else "no flow log was read"


def _findings(report: Report, clock: Callable[[object], str], limit: int) -> Table:
    return html_tables.finding_table(report.findings, clock, compared=_has_baseline(report), limit=limit)


def _has_baseline(report: Report) -> bool:
    return bool(report.settings.get("baseline")) or any(finding.state != "new" for finding in report.findings)


def _cards(report: Report) -> list[Card]:
    cards = []
    for name in QUESTIONS:
        if (verdict := report.verdicts.get(name)) is None:
            continue
        tone, word = _LOOKS.get(verdict.status, _UNDETERMINED)
        states = [finding.state for finding in report.findings if finding.question == name]
        change = ", ".join(f"{states.count(state):,} {state}" for state in ("new", "ongoing", "resolved"))
        cards.append(
            Card(
                question=name,
                title=TITLES[name],
                tone=tone,
                word=word,
                number="–" if verdict.number is None else f"{verdict.number:,}",
                unit=_UNITS[name] if verdict.number is not None else "nothing was judged",
                change=f"Findings since the baseline: {change}"
                if _has_baseline(report)
                else "No baseline to compare with",
                text=_sentence(verdict.text.removeprefix("Not determined: ")),
            )
        )
    return cards


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value or "")


def _section(report: Report, name: str, clock: Callable[[object], str], zone: ZoneInfo | None, limit: int) -> Section:
    question, part = stem(name)
    rows = report.tables[name]
    title = f"{TITLES[question]} {part}".strip()
    # Pictures are of the whole window; of a part of it there is the table.
    figures, grids = _drawn(report, question, clock, zone, limit) if name == question else ((), ())
    acting = f"{name}_after" not in report.tables and not name.endswith("_before")
    told = advice(question, with_bare_addresses(ranked(question, rows))) if acting else ()
    return Section(
        id=name,
        title=title,
        figures=tuple(figure for figure in figures if figure is not None),
        grids=tuple(grid for grid in grids if grid.rows),
        advice=tuple(told),
        table=html_tables.result_table(name, question, rows, html_tables.CAPTIONS[question], clock, limit=limit),
    )


def _drawn(
    report: Report, question: str, clock: Callable[[object], str], zone: ZoneInfo | None, limit: int
) -> tuple[Iterable[Figure | None], Iterable[Table]]:
    """The pictures and grids of a question, as far as the report has what they are drawn of."""
    charts = report.charts
    if question == "encryption_status" and "encryption_by_hour" in charts:
        hours, turns = charts["encryption_by_hour"].collect(), charts["encryption_turns"].collect()
        changed = report.settings.get("changed_at")
        at = changed if isinstance(changed, dt.datetime) else None
        by_hour = html_tables.hour_table(hours, clock, limit=limit)
        vnets = _matrix("encryption_vnets", "VNet", charts["encryption_vnets"].collect())
        subnets = _matrix("encryption_matrix", "subnet", charts["encryption_matrix"].collect())
        return (html_charts.encryption_share(hours, turns, at, zone),), (by_hour, vnets, subnets)
    if question == "denied_egress" and "egress_grid" in charts:
        return (), (_requirements(charts["egress_grid"].collect()),)
    if question == "unexpected_destinations" and "destination_groups" in charts:
        groups, places = charts["destination_groups"].collect(), charts["destination_countries"].collect()
        tables = (html_tables.group_table(groups, limit=limit), html_tables.country_table(places, limit=limit))
        return (html_charts.destination_tiles(groups),), tables
    if question == "coverage" and "coverage_runs" in charts:
        counts = {state: int(str(report.coverage[state.replace(" ", "_")])) for state in schema.COVERAGE_STATES}
        nics = report.tables["coverage"].select("flow_log_id", "target_resource_id", "mac_address").n_unique()
        return (html_charts.coverage_map(charts["coverage_runs"].collect(), nics, counts, zone),), ()
    return (), ()


def _matrix(name: str, kind: str, cells: pl.DataFrame) -> Table:
    """Subnets or VNets that open flows by those that take them."""

    def cell(row: Row) -> Cell:
        status = str(row["encryption_status"])
        if status != "Mixed":
            return Cell(status, tone=tone_of(status))
        # Drops are no share of bytes, and worse than any.
        drops = f", {counted(int(str(row['dropped'])), 'pair')} dropped" if row["dropped"] else ""
        return Cell(f"Mixed {share(row)}{drops}", tone=tone_of("Dropped" if drops else status))

    return html_tables.grid(
        name,
        f"Encryption by {kind}: from the rows to the columns, with the share of bytes where it is mixed",
        "from \\ to",
        cells,
        lambda row: str(row["source"]),
        lambda row: str(row["target"]),
        cell,
    )


def _requirements(rows: pl.DataFrame) -> Table:
    """Required endpoints by workloads."""
    rows = with_bare_addresses(rows)
    # A name may stand for workloads of several VNets.
    twice = rows.group_by("workload").agg(pl.col("vnet").n_unique()).filter(pl.col("vnet") > 1)["workload"].to_list()
    vnets = told_apart(rows["vnet"].drop_nulls().unique())

    def workload(row: Row) -> str:
        of = vnets.get(str(row["vnet"]), "unknown")
        return f"{of}/{row['workload']}" if row["workload"] in twice else str(row["workload"])

    return html_tables.grid(
        "egress_grid",
        "Required endpoints by workload: worst status, those that fail first",
        "endpoint",
        rows,
        lambda row: f"{row['endpoint']}, {row['protocol']} {row['port']} ({row['profile']})",
        workload,
        lambda row: Cell(str(row["status"]), tone=tone_of(row["status"])),
    )


def _settings(report: Report) -> list[tuple[str, str]]:
    dates = {"endpoint lists of": report.catalogue.get("date"), "service tags of": report.catalogue.get("tags_date")}
    return [
        (name.replace("_", " "), ("yes" if value else "no") if isinstance(value, bool) else _listed(value))
        for name, value in {**report.settings, **dates}.items()
        if isinstance(value, bool) or value
    ]
