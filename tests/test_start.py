"""What a start of the program loads: no more than it needs, since loading libraries takes longer than all else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SAMPLE = TOP / "sample_logs"
SHELL = {"typer", "rich"}
OF_RUNS = {"polars", "pyarrow", "msgspec", "numpy"}
OF_SOME_RUNS = {
    # Alone as long to load as all of a small run.
    "pandas",
    *("azure", "requests", "urllib3", "msal", "cryptography", "dns", "deltalake", "pyspark", "duckdb", "maxminddb"),
    *("altair", "vl_convert", "jinja2", "quickjs"),
}
LISTED = """
import atexit, json, sys
named = lambda: sorted({name.partition(".")[0] for name in sys.modules})
atexit.register(lambda file=sys.argv[1]: open(file, "w").write(json.dumps(named())))
"""
COMMAND = f"{LISTED}sys.argv = ['flowlens', *sys.argv[2:]]\nfrom flowlens.__main__ import main; main()"
COMPLETION = {"_FLOWLENS_COMPLETE": "complete_bash", "COMP_CWORD": "1"}


def loaded(tmp_path: Path, program: str, *arguments: str, environment: Mapping[str, str] | None = None) -> set[str]:
    """The top-level modules that a process has loaded by its end."""
    file = tmp_path / "modules.json"
    command = [sys.executable, "-c", program, str(file), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, cwd=TOP, env={**os.environ, **(environment or {})})
    assert done.returncode == 0, done.stderr.decode()
    return set(json.loads(file.read_text()))


def test_the_package_itself_loads_no_library(tmp_path: Path) -> None:
    found = loaded(tmp_path, f"{LISTED}import flowlens; flowlens.__version__, dir(flowlens)")
    assert "flowlens" in found
    assert found & (SHELL | OF_RUNS | OF_SOME_RUNS) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["analyze", "--help"], ["lake", "vacuum", "--help"], ["--version"]])
def test_help_and_version_load_nothing_that_runs_take(tmp_path: Path, arguments: list[str]) -> None:
    found = loaded(tmp_path, COMMAND, *arguments)
    assert "typer" in found
    assert found & (OF_RUNS | OF_SOME_RUNS) == set()


@pytest.mark.parametrize("words", ["flowlens ", "flowlens analyze --memory"])
def test_completion_loads_nothing_that_runs_take(tmp_path: Path, words: str) -> None:
    environment = {**COMPLETION, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    found = loaded(tmp_path, COMMAND, environment=environment)
    assert "typer" in found
    assert found & (OF_RUNS | OF_SOME_RUNS) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("command", "file"), [("analyze", "report.json"), ("convert", "flows.parquet")])
def test_one_blob_loads_what_one_blob_needs(tmp_path: Path, command: str, file: str) -> None:
    blob = next(iter(sorted(SAMPLE.rglob("PT1H.json"))))
    found = loaded(tmp_path, COMMAND, command, str(blob), "-o", str(tmp_path / file))
    assert {"polars", "pyarrow"} <= found
    assert found & OF_SOME_RUNS == set()
