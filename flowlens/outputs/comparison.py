"""A comparison of two sources: on the terminal and as a JSON document."""

from __future__ import annotations

from functools import partial
from typing import BinaryIO

from flowlens import schema
from flowlens.comparing import NOT_COMPARED, REASONS, SUMS, VERDICTS, Comparison
from flowlens.outputs.content import evidence_lines
from flowlens.outputs.page import Clock, Page, Row, Shown
from flowlens.outputs.tables import ledger_document, write_document
from flowlens.outputs.text import counted
from flowlens.reporting import SCHEMA_VERSION

_STYLE = {VERDICTS[0]: "bold green", VERDICTS[1]: "bold red", VERDICTS[2]: "bold yellow"}
_HEADINGS = {
    "conversations": "conversations",
    "flows_started": "flows begun",
    "flows_denied": "flows denied",
    "packets_sent": "packets sent",
    "bytes_sent": "bytes sent",
    "packets_received": "packets received",
    "bytes_received": "bytes received",
}


def render_comparison(found: Comparison, page: Page, *, limit: int | None = None) -> None:
    """Write the verdict, both sides' sums, what explains differences, and those that nothing explains."""
    page.line(f"From {page.clock(found.window.start)} to {page.clock(found.window.end)}, by whole intervals.")
    page.line()
    page.marked([(f"[{found.verdict}]", _STYLE[found.verdict], "", found.text)])
    page.line()
    for letter, side in zip("AB", found.sides, strict=True):
        page.line(f"{letter}: {side.name}", "bold")
        page.line(", ".join(f"{side.totals[name]:,} {words}" for name, words in _HEADINGS.items()), indent=2)
    page.line()
    for name, count in found.explained.items():
        page.line(f"{counted(count, 'difference')} explained by the {name}", "bold")
        page.line(REASONS[name], indent=2)
    page.line(f"Not compared, since rows do not keep it: {', '.join(NOT_COMPARED)}.", "dim")
    unexplained = found.differences.filter(found.differences["reason"].is_null())
    if unexplained.height:
        page.line()
        page.table(counted(unexplained.height, "difference"), unexplained, partial(_columns), limit=limit)
    page.line()
    page.line("Evidence", "bold")
    for side in found.sides:
        for line in evidence_lines(side.ledger):
            page.line(line, indent=2)


def _columns(_clock: Clock) -> list[Shown]:
    def text(name: str) -> Shown:
        return Shown(name.replace("_", " "), lambda row: "" if row.get(name) is None else str(row[name]))

    def port(row: Row) -> str:
        protocol = schema.PROTOCOL_NAME.get(int(str(row["protocol"])), str(row["protocol"]))
        return protocol if row["dst_port"] is None else f"{protocol} {row['dst_port']}"

    def both(name: str, heading: str, minor: int) -> Shown:
        def cell(row: Row) -> str:
            left, right = row[f"{name}_a"], row[f"{name}_b"]
            return "" if left == right else f"{left:,} / {right:,}"

        return Shown(heading, cell, right=True, minor=minor)

    return [
        text("difference"),
        Shown("from", lambda row: str(row["src_ip"]), whole=True),
        Shown("to", lambda row: str(row["dst_ip"]), whole=True),
        Shown("port", port, whole=True),
        Shown("by rule", lambda row: str(row["acl_rule"] or ""), name=True, minor=1),
        Shown("NIC", lambda row: str(row["mac_address"] or ""), whole=True, minor=2),
        *(both(name, f"{_HEADINGS[name]} A / B", 3 + n) for n, name in enumerate(SUMS)),
    ]


def write_comparison(found: Comparison, file: BinaryIO) -> None:
    """Write the comparison as a JSON document; ``differences`` holds those that are explained too."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "window": {"start": found.window.start, "end": found.window.end},
        "verdict": {"status": found.verdict, "text": found.text},
        "sides": [
            {"source": side.name, "totals": dict(side.totals), "ledger": ledger_document(side.ledger)}
            for side in found.sides
        ],
        "compared": list(found.compared),
        "equal": found.equal,
        "explained": dict(found.explained),
        "reasons": dict(REASONS),
        "not_compared": list(NOT_COMPARED),
    }
    write_document(head, {"differences": found.differences}, file)
