"""Imports point down only, and every module is short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flowlens"
MODULES = sorted(PACKAGE.rglob("*.py"))
KERNEL = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])
LINES = 600

# A module or package imports from lower layers and, inside one package, from its siblings.
LAYERS = {
    "errors": 0,
    "budget": 1,
    "schema": 1,
    "toml_files": 1,
    "acceptance": 2,
    "evidence": 2,
    "kernel": 2,
    "not_kept": 2,
    "options": 2,
    "pieces": 2,
    "prefixes": 2,
    "catalog": 3,
    "conversations": 3,
    "formats": 3,
    "inventory": 3,
    "nic_hours": 3,
    "gathering": 4,
    "restarts": 3,
    "scope": 3,
    "signals": 3,
    "windows": 3,
    "config": 4,
    "queries": 3,
    "query_check": 3,
    "sources": 4,
    "views": 4,
    "doctor": 7,
    "lake": 5,
    "selecting": 6,
    "workspace_rows": 5,
    "flow_streams": 7,
    "units": 8,
    "scanning": 9,
    "spark_sessions": 5,
    "spark_tasks": 9,
    "distributed": 10,
    "spark_lake": 10,
    "spark_views": 9,
    "analyses": 7,
    "findings": 7,
    "comparing": 8,
    "flow_search": 8,
    "query_values": 8,
    "verdicts": 8,
    "reporting": 9,
    "gates": 10,
    "query_running": 10,
    "whatif": 10,
    "__init__": 11,
    "outputs": 11,
    "catalogue_cli": 12,
    "compare_cli": 12,
    "lake_cli": 12,
    "mending": 12,
    "query_run_cli": 14,
    "learning": 12,
    "schedule": 12,
    "scheduled": 13,
    "report_cli": 14,
    "query_cli": 15,
    "asking": 13,
    "cli": 16,
    "__main__": 17,
}


def imported(source: str, module: str) -> Iterator[str]:
    """The parts of flowlens that ``source`` imports, anywhere in it; ``module`` is its dotted name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if base == "flowlens" else base for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "flowlens":
                yield rest.partition(".")[0] or "__init__"


def wrong_imports(source: str, module: str) -> list[str]:
    part = module.split(".")[1]
    return [
        f"{module} imports {name}"
        for name in imported(source, module)
        if name != part and LAYERS.get(name, len(LAYERS)) >= LAYERS[part]
    ]


def dotted(path: Path) -> str:
    """``flowlens.formats.vnet`` for its file, ``flowlens.formats.__init__`` for a package's own."""
    return ".".join(("flowlens", *path.relative_to(PACKAGE).with_suffix("").parts))


def test_the_package_is_where_this_test_looks() -> None:
    assert PACKAGE / "errors.py" in MODULES
    assert PACKAGE / "kernel" / "words.pyx" in KERNEL


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_down(path: Path) -> None:
    assert dotted(path).split(".")[1] in LAYERS, "a new module needs its line in LAYERS"
    assert wrong_imports(path.read_text(encoding="utf-8"), dotted(path)) == []


@pytest.mark.parametrize("path", [*MODULES, *KERNEL], ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LINES


@pytest.mark.parametrize(
    ("source", "module", "wrong"),
    [
        ("from flowlens.schema import FLOWS", "flowlens.formats.vnet", []),
        ("from flowlens import schema", "flowlens.formats.vnet", []),
        ("from ..schema import FLOWS", "flowlens.formats.vnet", []),
        ("from . import strict", "flowlens.formats.vnet", []),
        ("from .strict import decode", "flowlens.formats.__init__", []),
        ("import polars.flowlens", "flowlens.schema", []),
        ("from flowlens.inventory import learn", "flowlens.formats.vnet", ["inventory"]),
        ("from ..scanning import scan", "flowlens.formats.vnet", ["scanning"]),
        ("from .. import scanning", "flowlens.formats.vnet", ["scanning"]),
        ("from .evidence import Scan", "flowlens.schema", ["evidence"]),
        ("def f():\n    import flowlens.cli", "flowlens.reporting", ["cli"]),
        ("import flowlens", "flowlens.outputs.html", ["__init__"]),
        ("from flowlens import no_such_module", "flowlens.cli", ["no_such_module"]),
    ],
)
def test_the_check_tells_up_from_down(source: str, module: str, wrong: list[str]) -> None:
    assert wrong_imports(source, module) == [f"{module} imports {name}" for name in wrong]
