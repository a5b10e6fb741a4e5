"""What Microsoft's own language service says of a query: the same checks as in the portal's editor, offline.

The service is JavaScript and runs inside this process, in an interpreter that can reach neither files nor the network.
"""

from __future__ import annotations

import csv
import functools
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowlens.errors import ConfigError

DATA = Path(__file__).parent / "query_data"

_SERVICE = "language_service.js.gz"
_PROGRAM = """
const language = Kusto.Language, symbols = language.Symbols;
var known;
function know(tables) {
  const described = Object.entries(JSON.parse(tables)).map(([name, columns]) => symbols.TableSymbol.From(
    "(" + Object.entries(columns).map(([column, type]) => `${column}: ${type}`).join(", ") + ")").WithName(name));
  known = language.GlobalState.Default.WithDatabase(new symbols.DatabaseSymbol.ctor("workspace", described));
}
function check(text) {
  const code = language.KustoCode.ParseAndAnalyze(text, known), told = code.GetDiagnostics();
  const diagnostics = [], columns = [], result = code.ResultType;
  for (let i = 0; i < told.Count; i++) {
    const one = told.getItem(i);
    diagnostics.push([one.Code, one.Severity, one.Message, one.Start, one.Length]);
  }
  if (result && result.Columns) for (let i = 0; i < result.Columns.Count; i++) {
    const column = result.Columns.getItem(i);
    columns.push([column.Name, column.Type.Name]);
  }
  return JSON.stringify([diagnostics, columns]);
}
"""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One complaint: ``line`` and ``column`` count from 1, ``found`` is the text that it is about."""

    line: int
    column: int
    code: str
    severity: str
    message: str
    found: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.severity.lower()} {self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What the language service says of a query: its complaints, and name and type of the columns of its result."""

    diagnostics: tuple[Diagnostic, ...]
    columns: tuple[tuple[str, str], ...]


def check_query(text: str) -> Checked:
    """The diagnostics and result columns of a query over the tables of ``tables()``.

    Takes a second or two the first time. Raises ConfigError where the interpreter is not installed (extra ``kql``).

    >>> check_query("NTANetAnalytics | project SrcIpp").diagnostics[0].code
    'KS142'
    """
    told, columns = json.loads(_service()("check", text))
    # The service counts UTF-16 units.
    units = text.encode("utf-16-le")
    diagnostics = []
    for code, severity, message, start, length in told:
        before = units[: 2 * start].decode("utf-16-le", "replace")
        found = units[2 * start : 2 * (start + length)].decode("utf-16-le", "replace")
        at = len(before) - before.rfind("\n")
        diagnostics.append(Diagnostic(before.count("\n") + 1, at, code, severity, message, found))
    return Checked(tuple(diagnostics), tuple((name, kind) for name, kind in columns))


def tables() -> dict[str, dict[str, str]]:
    """The tables that queries can read, with name and type of their columns (Azure Monitor table reference, 2026-07).

    >>> tables()["NTANetAnalytics"]["DestPort"]
    'int'
    """
    found = {}
    for path in sorted(DATA.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.stem] = {row["column"]: row["type"] for row in csv.DictReader(file)}
    return found


@functools.cache
def _service() -> Any:
    """What calls a function of the service by name, with a text, and gives the text that it returns."""
    try:
        import quickjs
    except ImportError as error:
        raise ConfigError(
            "--check", "needs the language service's interpreter", hint="pip install 'flowlens[kql]'"
        ) from error
    context = quickjs.Context()
    context.eval(gzip.decompress((DATA / _SERVICE).read_bytes()).decode("utf-8"))
    context.eval(_PROGRAM)

    def call(name: str, text: str) -> str:
        return str(context.get(name)(text))

    call("know", json.dumps(tables()))
    return call
