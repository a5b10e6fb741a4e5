"""Every notebook runs offline from a fresh kernel, and is stored without outputs."""

from __future__ import annotations

import warnings
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# What each one reads, and what its outputs must tell of the sample logs (sample_logs/README.md).
READS = {"log_analytics": "../sample_logs/traffic_analytics"}
TELLS = {
    "quickstart": ("203.0.113.77", "DenyKms", "NX_FALLBACK"),
    "encryption_rollout": ("10.10.8.4", "NX_FALLBACK", "4 encrypted only since a change", "missing"),
    "aks_egress_lockdown": ("DenyInternet443", "MicrosoftContainerRegistry", "20.78.100.20"),
    "unexpected_destinations": ("203.0.113.77", "198.51.100.23", "41304235", "2 destination(s) nobody expected"),
    "log_analytics": ("203.0.113.77", "rg-app/vm-win2", "the same failures from both: True"),
}


def test_every_notebook_has_facts_to_tell() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(TELLS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert [cell for cell in cells if cell.cell_type == "code" and (cell.outputs or cell.execution_count)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_code_cell_is_the_one_line_to_edit(path: Path) -> None:
    first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert first.source == f'SOURCE = "{READS.get(path.stem, "../sample_logs")}"'


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_a_fresh_kernel(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with warnings.catch_warnings():
        # The Jupyter client itself warns of its own event loop; what the notebook warns of shows in its cells.
        warnings.simplefilter("ignore")
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    # Neither a traceback nor a warning.
    assert [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"] == []
    shown = "".join(str(output) for output in outputs)
    assert [words for words in TELLS[path.stem] if words not in shown] == []
    # Tables show themselves: every data frame that is displayed comes as HTML too.
    tables = [one for one in outputs if "shape: (" in str(one) or "┌" in str(one)]
    assert tables and all("text/html" in one.data for one in tables)
