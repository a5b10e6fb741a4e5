"""The terminal: the answer first, then the rows behind it, then how complete the evidence was.

Everything fits the width it is given: a table whose addresses would be cut is written as a list instead. Status is
always a word; colour only repeats it.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TextIO
from zoneinfo import ZoneInfo

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowlens import schema
from flowlens.evidence import Ledger
from flowlens.outputs.text import clean, size
from flowlens.reporting import FINDINGS, OK, Report, Verdict

TITLES = {
    "encryption_status": "Encryption between VMs",
    "denied_egress": "Required endpoints",
    "unexpected_destinations": "Unexpected destinations",
    "rule_usage": "Rules",
    "coverage": "Coverage",
    "flows": "Flow tuples",
}
_PART = {"_before": "before the change", "_after": "after the change"}
_MARK = {OK: ("ok", "green"), FINDINGS: ("findings", "red")}
_COLOURS = {
    **dict.fromkeys(("Encrypted", "Reached", "Service reached", "Recovered", "read"), "green"),
    **dict.fromkeys(("Unencrypted", "Dropped", "Denied", "Denied at destination", "Unanswered", "failed"), "red"),
    **dict.fromkeys(("Mixed", "Partly denied", "Answered without data", "missing", "partly read"), "yellow"),
}
_NARROW = 72
_MIN_TEXT = 10


class Shown(NamedTuple):
    """One column of a terminal table: heading, how a row fills it, whether it must stay on one line."""

    heading: str
    cell: Callable[[Mapping[str, object]], str]
    whole: bool = False
    right: bool = False


def _text(name: str) -> Callable[[Mapping[str, object]], str]:
    return lambda row: "" if row[name] is None else clean(row[name])


def _last_part(name: str) -> Callable[[Mapping[str, object]], str]:
    return lambda row: clean(str(row[name] or "").rsplit("/", 1)[-1])


def _bytes(name: str) -> Callable[[Mapping[str, object]], str]:
    return lambda row: size(row[name])  # type: ignore[arg-type]


def _share(row: Mapping[str, object]) -> str:
    encrypted, clear = row["bytes_encrypted"], row["bytes_unencrypted"]
    if not isinstance(encrypted, int) or not isinstance(clear, int) or not encrypted + clear:
        return "-"
    return f"{100 * encrypted / (encrypted + clear):.0f} %"


def _service(row: Mapping[str, object]) -> str:
    return clean(row["protocol"]) + (f" {row['dst_port']}" if row["dst_port"] is not None else "")


def _columns(name: str, clock: Callable[[object], str]) -> tuple[Shown, ...]:
    """What the terminal shows of a table; everything else is in JSON, CSV and Parquet."""
    return {
        "encryption_status": (
            Shown("from", _text("src_workload")),
            Shown("to", _text("dst_workload")),
            Shown("status", _text("encryption_status")),
            Shown("worst code", _text("encryption_code"), whole=True),
            Shown("eligibility", _text("eligibility")),
            Shown("encrypted", _share, right=True),
            Shown("last clear", lambda r: clock(r["last_unencrypted"])),
            Shown("first encrypted", lambda r: clock(r["first_encrypted"])),
        ),
        "denied_egress": (
            Shown("workload", _text("workload")),
            Shown("endpoint", _text("endpoint")),
            Shown("port", lambda r: f"{r['protocol']} {r['port']}"),
            Shown("status", _text("status")),
            Shown("address", _text("dst_ip"), whole=True),
            Shown("by rule", _text("acl_rule")),
            Shown("match", _text("match")),
            Shown("tries", _text("attempts"), right=True),
        ),
        "unexpected_destinations": (
            Shown("workload", _text("workload")),
            Shown("destination", _text("dst_ip"), whole=True),
            Shown("port", _service, whole=True),
            Shown("service tag", _text("service_tag")),
            Shown("sent", _bytes("bytes_sent"), right=True),
            Shown("received", _bytes("bytes_received"), right=True),
            Shown("flows", _text("flows"), right=True),
            Shown("last seen", lambda r: clock(r["last_seen"])),
        ),
        "rule_usage": (
            Shown("rule", _text("acl_rule")),
            Shown("of", _last_part("acl_id")),
            Shown("kind", _text("rule_kind")),
            Shown("direction", _text("direction")),
            Shown("allowed", _text("flows_allowed"), right=True),
            Shown("denied", _text("flows_denied"), right=True),
            Shown("bytes", _bytes("bytes"), right=True),
            Shown("NICs", _text("workloads"), right=True),
        ),
        "coverage": (
            Shown("flow log", _last_part("flow_log_id")),
            Shown("NIC", lambda r: clean(r["workload"] or r["mac_address"] or "")),
            Shown("hour", lambda r: clock(r["hour"]), whole=True),
            Shown("state", _text("state")),
            Shown("tuples", _text("tuples"), right=True),
            Shown("rejected", _text("rejected"), right=True),
        ),
        "flows": (
            Shown("time", lambda r: clock(r["time"])),
            Shown("source", _text("src_ip"), whole=True),
            Shown("port", _text("src_port"), right=True),
            Shown("destination", _text("dst_ip"), whole=True),
            Shown("port", _text("dst_port"), right=True),
            Shown("proto", lambda r: schema.PROTOCOL_NAME.get(r["protocol"], str(r["protocol"]))),  # type: ignore[call-overload]
            Shown("state", _text("flow_state")),
            Shown("code", _text("encryption_code")),
            Shown("sent", _bytes("bytes_sent"), right=True),
            Shown("received", _bytes("bytes_received"), right=True),
            Shown("rule", _text("acl_rule")),
        ),
    }[name]


def console(out: TextIO, *, width: int | None = None) -> Console:
    """A console on ``out`` that keeps to its width and encoding and honours NO_COLOR."""
    return Console(file=out, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


class Page:
    """What is written to one console; lines that its encoding cannot hold are written with escapes."""

    def __init__(self, out: TextIO, *, width: int | None = None, zone: ZoneInfo | None = None) -> None:
        self._out = out
        self._real = console(out, width=width)
        self._width = self._real.width
        self._zone = zone
        self._plain = not (getattr(out, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf8")

    def clock(self, time: object) -> str:
        """A time for people: minutes, in the zone asked for, else UTC."""
        if not isinstance(time, dt.datetime):
            return ""
        local = time.astimezone(self._zone or dt.UTC)
        return local.strftime("%Y-%m-%d %H:%M") + ("Z" if self._zone is None else local.strftime("%z"))

    def write(self, content: object) -> None:
        """Put one renderable on the console."""
        if not self._plain:
            self._real.print(content)
            return
        # An old console's code page: rendered apart, then encoded with escapes for what it lacks.
        buffer = io.StringIO()
        Console(file=buffer, width=self._width, highlight=False, markup=False, emoji=False).print(content)
        encoding = self._out.encoding or "ascii"
        self._out.write(buffer.getvalue().encode(encoding, "backslashreplace").decode(encoding))

    def line(self, text: str = "", style: str = "") -> None:
        """One paragraph, folded at the width."""
        self.write(Text(text, style=style, overflow="fold"))

    def table(self, name: str, rows: pl.DataFrame, *, limit: int | None = None) -> None:
        """The rows as a table, or as a list where a table would have to cut something."""
        columns = _columns(name, self.clock)
        shown = [
            [column.cell(row) for column in columns] for row in rows.head(limit or rows.height).iter_rows(named=True)
        ]
        keep = [n for n in range(len(columns)) if any(cells[n] for cells in shown)]
        columns = tuple(columns[n] for n in keep)
        shown = [[cells[n] for n in keep] for cells in shown]
        if self._fits(columns, shown):
            self.write(self._grid(columns, shown))
        else:
            self._list(columns, shown)
        if limit is not None and rows.height > limit:
            self.line(
                f"  … and {rows.height - limit} more; --format csv or json has them all".replace(
                    "…", "..." if self._plain else "…"
                ),
                "dim",
            )

    def _fits(self, columns: Iterable[Shown], shown: list[list[str]]) -> bool:
        need = 2
        for n, column in enumerate(columns):
            words = [column.heading, *(cells[n] for cells in shown)]
            whole = max(len(word) for word in words)
            folded = max((len(part) for word in words for part in word.split(" ")), default=0)
            need += 2 + (whole if column.whole or column.right else max(min(whole, _MIN_TEXT), folded))
        return self._width >= _NARROW and need <= self._width

    def _grid(self, columns: Iterable[Shown], shown: list[list[str]]) -> Table:
        grid = Table(box=box.ASCII2 if self._plain else box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for column in columns:
            grid.add_column(
                column.heading,
                no_wrap=column.whole or column.right,
                justify="right" if column.right else "left",
                overflow="fold",
            )
        for cells in shown:
            grid.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in cells))
        return grid

    def _list(self, columns: tuple[Shown, ...], shown: list[list[str]]) -> None:
        for cells in shown:
            for n, (column, cell) in enumerate(zip(columns, cells, strict=True)):
                if cell:
                    lead = "- " if n == 0 else "  "
                    self.write(Text(f"{lead}{column.heading}: ").append(cell, style=_COLOURS.get(cell, "")))
        self.line()


def render(report: Report, page: Page, *, limit: int | None = None) -> None:
    """Write the report: verdicts first, then each table, then the evidence."""
    page.line(f"Window  {page.clock(report.window.start) or '-'}  to  {page.clock(report.window.end) or '-'}")
    for name, verdict in report.verdicts.items():
        _verdict(page, TITLES[name], verdict)
    for name, table in report.tables.items():
        _section(page, name, table, limit, alone=len(report.tables) == 1)
    _evidence(page, report)


def _verdict(page: Page, title: str, verdict: Verdict) -> None:
    word, colour = _MARK.get(verdict.status, ("not determined", "yellow"))
    line = Text(f"[{word}] ", style=f"bold {colour}")
    line.append(f"{title}: ", style="bold").append(clean(verdict.text))
    page.write(line)


def _section(page: Page, name: str, table: pl.DataFrame, limit: int | None, *, alone: bool) -> None:
    stem, part = name, ""
    for suffix, words in _PART.items():
        if name.endswith(suffix):
            stem, part = name.removesuffix(suffix), f", {words}"
    rows, note = (table, "") if alone else _worth_showing(stem, table)
    page.line()
    page.line(f"{TITLES[stem]}{part}", "bold")
    if rows.is_empty():
        page.line(f"  {note or 'no rows'}", "dim")
        return
    page.table(stem, _ranked(stem, rows), limit=limit)
    if note:
        page.line(f"  {note}", "dim")
    _advice(page, stem, rows)


def _worth_showing(name: str, table: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """The rows that a first look needs, and a sentence on the rest."""
    if name == "encryption_status":
        rows = table.filter(pl.col("eligibility") == "eligible")
        rest = table.filter(pl.col("eligibility") != "eligible").group_by("eligibility").len().sort("eligibility")
        told = ", ".join(f"{n} {kind}" for kind, n in rest.iter_rows())
        return (
            rows,
            f"Beside them, pairs that VNet encryption does not cover or nobody can judge: {told}." if told else "",
        )
    if name == "denied_egress":
        quiet = ["Not seen", "Cannot tell", "Not observable"]
        rows = table.filter(~pl.col("status").is_in(quiet))
        rest = table.filter(pl.col("status").is_in(quiet)).group_by("status").len().sort("status")
        told = ", ".join(f"{n} {status.lower()}" for status, n in rest.iter_rows())
        return rows, f"Beside them: {told} (flowlens egress shows them)." if told else ""
    if name == "rule_usage":
        rows = table.filter(pl.col("flows_denied") > 0)
        return rows, f"{table.height - rows.height} rule(s) that only allowed are left out (flowlens rules shows them)."
    if name == "coverage":
        rows = table.filter(pl.col("state") != "read")
        return rows, f"{table.height - rows.height} of {table.height} NIC-hours were read."
    return table, ""


def _ranked(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows in the order in which a person wants to read them."""
    if name == "denied_egress":
        order = {status: n for n, status in enumerate(schema.EGRESS_STATUSES)}
        return rows.sort(
            pl.col("status").replace_strict(order, default=99), "workload", "endpoint", maintain_order=True
        )
    if name == "unexpected_destinations":
        known = pl.col("service_tag").is_not_null()
        return rows.sort(known, pl.col("bytes_sent").fill_null(0) * -1, "dst_ip", maintain_order=True)
    if name == "encryption_status":
        order = {status: n for n, status in enumerate(("Dropped", "Unencrypted", "Mixed", "Unknown", "Encrypted"))}
        first = pl.col("eligibility") != "eligible"
        return rows.sort(first, pl.col("encryption_status").replace_strict(order, default=9), maintain_order=True)
    if name == "rule_usage":
        return rows.sort(pl.col("flows_denied") * -1, "acl_rule", maintain_order=True)
    return rows


def _advice(page: Page, name: str, rows: pl.DataFrame) -> None:
    """What to do, each sentence once."""
    if name == "encryption_status":
        bad = rows.filter(pl.col("encryption_status") != "Encrypted", pl.col("eligibility") == "eligible")
        said = {f"{row['encryption_code']}: {row['advice']}": None for row in bad.iter_rows(named=True)}
    elif name == "denied_egress":
        bad = rows.filter(pl.col("fix").is_not_null())
        said = {f"{row['endpoint']}, {row['status'].lower()}: {row['fix']}": None for row in bad.iter_rows(named=True)}
    else:
        return
    for sentence in said:
        page.line(f"  > {clean(sentence)}")


def _evidence(page: Page, report: Report) -> None:
    page.line()
    page.line("Evidence", "bold")
    for line in evidence_lines(report.ledger):
        page.line(f"  {line}")
    summary = report.coverage
    states = ", ".join(
        f"{summary[state.replace(' ', '_')]} {state}"
        for state in schema.COVERAGE_STATES
        if summary[state.replace(" ", "_")]
    )
    page.line(f"  NIC-hours: {states or 'none'}. A silent hour had no traffic to log; a missing one should be there.")
    page.line(
        f"  Bytes observed {size(int(str(summary['observed_bytes'])))}, counted once {size(int(str(summary['counted_bytes'])))}. "
        f"Service tags of {report.catalogue['tags_date']}{' (older than 30 days)' if report.catalogue['stale'] else ''}."
    )


def evidence_lines(ledger: Ledger) -> list[str]:
    """The ledger in sentences."""
    lines = [
        (
            f"{ledger.blobs} blob(s), {ledger.records:,} records, {ledger.tuples:,} flow tuples: {ledger.rows:,} read, "
            f"{ledger.outside_window:,} outside the window, {ledger.rejected:,} rejected."
        )
    ]
    if ledger.rejected_records or ledger.unread:
        lines.append(
            f"{ledger.rejected_records:,} record(s) could not be decoded, {ledger.unread} source(s) not read to the end."
        )
    if ledger.unknown_codes:
        codes = ", ".join(f"{clean(code)} x{n}" for code, n in sorted(ledger.unknown_codes.items())[:5])
        lines.append(f"Codes that no documentation names, kept as they are: {codes}.")
    if ledger.restarted_bytes_in_doubt:
        lines.append(
            f"{size(ledger.restarted_bytes_in_doubt)} may be counted twice: flows re-created in place kept their counters."
        )
    lines += [f"{clean(r.blob)} at byte {r.offset:,}: {clean(r.reason)}" for r in ledger.rejects[:5]]
    if len(ledger.rejects) > 5:
        lines.append(f"and {len(ledger.rejects) - 5} more rejects in the JSON output.")
    return lines + [clean(note) for note in ledger.notes]
