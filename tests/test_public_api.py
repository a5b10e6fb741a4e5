"""`import flowlens`: sorted, complete, documented, and light."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import flowlens

TOP = Path(__file__).parents[1]
PUBLIC = sorted(getattr(flowlens, "__all__", ()))
HEAVY = ("azure", "deltalake", "polars", "pyarrow", "rich", "typer")


def test_all_is_sorted_and_without_repeats() -> None:
    assert list(flowlens.__all__) == sorted(set(flowlens.__all__))


def test_all_is_complete() -> None:
    tree = ast.parse((TOP / "flowlens" / "__init__.py").read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(homes) == set(flowlens.__all__)
    for name, home in homes.items():
        assert getattr(flowlens, name) is getattr(importlib.import_module(str(home)), name)
    assert set(flowlens.__all__) <= set(dir(flowlens))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = flowlens.no_such_name


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented_with_an_example(name: str) -> None:
    value = getattr(flowlens, name)
    if inspect.isroutine(value) or inspect.isclass(value):
        text = inspect.getdoc(value) or ""
        assert text.split("\n", 1)[0].endswith("."), "the first line is a sentence that says what comes back"
        assert ">>>" in text


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_hides_no_module(name: str) -> None:
    assert name not in {path.stem for path in (TOP / "flowlens").iterdir()}


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isroutine(getattr(flowlens, name))])
def test_public_function_stands_in_the_documents(name: str) -> None:
    assert name in (TOP / "docs" / "programs.md").read_text(encoding="utf-8")


def test_importing_flowlens_loads_nothing_heavy() -> None:
    program = f"import sys, flowlens; print([m for m in sys.modules if m.partition('.')[0] in {HEAVY}])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
