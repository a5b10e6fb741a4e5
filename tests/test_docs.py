"""The documents say what is so: their commands run, their words are the program's, their capture is current."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import nbformat
import pytest
import typer

import flowlens as fl
from flowlens import schema
from flowlens.analyses.destinations import read_expected
from flowlens.cli import app, main
from flowlens.gates import GATES
from flowlens.inventory import FIELDS
from flowlens.sources.refusals import REFUSALS
from tests.how_to_logs import LOGS

TOP = Path(__file__).resolve().parents[1]
DOCS = TOP / "docs"
README, CONCEPTS, SAMPLES = TOP / "README.md", DOCS / "concepts.md", TOP / "sample_logs" / "README.md"
NETWORK, PROGRAMS, TROUBLE = DOCS / "your-network.md", DOCS / "programs.md", DOCS / "troubleshooting.md"
HOW_TOS = sorted((DOCS / "how-to").glob("*.md"))
PAGES = sorted([*TOP.glob("*.md"), *DOCS.glob("**/*.md"), *TOP.glob("deploy/**/*.md"), SAMPLES])
NOTEBOOKS = sorted((TOP / "notebooks").glob("*.ipynb"))
# What each page must tell whoever is in that situation, worked out from what happened (tests/how_to_logs.py).
ANSWERS = {
    "encryption-switched-on": ("vm-batch  vm-db   Unencrypted  NX_FALLBACK", "All 3 pairs that can be encrypted are"),
    "private-subnets": (
        "snet-win  default  AzureCloud.southcentralus  TCP 1688  Lost",
        "Nothing that was reached would be lost",
    ),
    "aks-cannot-pull": (
        "mcr.microsoft.com",
        "3 answered without data",
        "[ok]  Required endpoints",
        "--fqdn-tags AzureKubernetesService",
    ),
    "unexpected-egress": (
        "vm-app    203.0.113.77  TCP 8443  38.0 MB",
        "NIC-hours: 744 read.",
        "203.0.113.77: no service tag",
    ),
    "rule-can-go": ("vm-old    Outbound   203.0.113.40  TCP 8443", "Not observable: AllowMigration"),
    "missing-hours": ("VNET-APP  vm-web   03:00Z  missing", "1 silent, 1 missing"),
    "every-morning": (
        "nothing is wrong; sections prod",
        "vm-app    203.0.113.77  TCP 8443",
        "Unexpected destinations: 1 new since the baseline",
    ),
}


class Command(NamedTuple):
    line: str
    exit_code: int


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[Command]:
    """Every command after a prompt; ``echo $?`` below it tells its exit code, else it is 0."""
    found: list[Command] = []
    for block in blocks(path, "console"):
        lines = block.splitlines()
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if line == "$ echo $?":
                found[-1] = found[-1]._replace(exit_code=int(following))
            elif line.startswith("$ "):
                found.append(Command(line.removeprefix("$ "), 0))
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample logs, as a clone has them."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(TOP / "sample_logs", folder / "sample_logs")
    return folder


@pytest.mark.slow
# A document's commands build on each other, so one test runs them in order.
@pytest.mark.parametrize("path", [README, SAMPLES], ids=["readme", "samples"])
def test_commands_of_a_document_run(
    path: Path, clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone)
    for command in commands(path):
        program, *arguments = shlex.split(command.line)
        assert program == "flowlens"
        assert main(arguments) == command.exit_code, command.line
        shown = capfd.readouterr()
        assert "error:" not in shown.err, command.line
        assert shown.out or shown.err, command.line


def test_documents_show_commands() -> None:
    assert len(commands(README)) > 10
    assert len(commands(SAMPLES)) > 5
    assert any(command.exit_code == 1 for command in commands(README))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["capture_readme", "build_reference"])
def test_what_a_script_writes_is_current(name: str) -> None:
    script = TOP / "scripts" / f"{name}.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def capturing() -> ModuleType:
    """scripts/capture_docs.py, which runs the commands of the how-to pages."""
    spec = importlib.util.spec_from_file_location("capture_docs", TOP / "scripts" / "capture_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_how_to_has_logs_and_answers() -> None:
    assert {path.stem for path in HOW_TOS} == set(LOGS) == set(ANSWERS)


@pytest.mark.parametrize("path", HOW_TOS, ids=lambda path: path.stem)
def test_how_to_shows_what_its_commands_print(path: Path, capturing: ModuleType) -> None:
    text = path.read_text(encoding="utf-8")
    assert capturing.captured(path) == text
    printed = "".join(blocks(path, "console"))
    assert [answer for answer in ANSWERS[path.stem] if answer not in printed] == []


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_commands_that_are_not_run_have_options_that_exist(path: Path) -> None:
    lines = re.findall(r"^```\w*\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    commands = typer.main.get_command(app)
    for line in "".join(lines).replace("\\\n", " ").splitlines():
        if line.startswith("flowlens ") and "[OPTIONS]" not in line:
            # Parsed as it would be typed, without running it.
            context = commands.make_context("flowlens", shlex.split(line, comments=True)[1:], resilient_parsing=False)
            name, command, arguments = commands.resolve_command(context, [*context._protected_args, *context.args])
            command.make_context(name, arguments, parent=context)


@pytest.mark.parametrize("name", fl.__all__)
def test_every_public_name_is_mentioned(name: str) -> None:
    assert re.search(rf"[`.]{name}\b", PROGRAMS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [README, PROGRAMS], ids=["readme", "programs"])
def test_python_in_a_document_runs(path: Path, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = blocks(path, "python")
    monkeypatch.chdir(clone)
    exec(compile(program, path.name, "exec"), {})


def test_config_in_the_documents_is_read(tmp_path: Path) -> None:
    (text,) = blocks(NETWORK, "toml")
    path = tmp_path / "flowlens.toml"
    path.write_text(text, encoding="utf-8")
    config = fl.read_config(path)
    assert config.placeholders == {"region": "japaneast"}
    assert config.networks.names == (("10.10.1.0/24", "snet-web"),)
    (entry,) = read_expected(path)
    assert (entry.service_tag, entry.ports, entry.protocol) == ("AzureMonitor", (443,), schema.TCP)


def test_resource_graph_query_projects_what_an_inventory_takes() -> None:
    (query,) = blocks(NETWORK, "kusto")
    projected = query.partition("| project ")[2]
    # A name before an equals sign, at the start or after a comma; kind is a word of the language and needs brackets.
    assert tuple(re.findall(r"(?:^|,\s+)(?:\[')?(\w+)(?:'\])? = ", projected)) == FIELDS
    assert "['kind'] = " in projected


def test_documents_name_every_gate_and_kind() -> None:
    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert [gate for gate in GATES if f"`{gate}`" not in commands] == []
    network = NETWORK.read_text(encoding="utf-8")
    assert [kind for kind in schema.ADDRESS_KINDS if f"`{kind}`" not in network] == []


def test_documents_name_the_parts_of_the_json_document(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["coverage", str(clone / "sample_logs"), "--format", "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    text = PROGRAMS.read_text(encoding="utf-8")
    assert [part for part in document if f"`{part}`" not in text] == []
    assert [word for word in schema.VERDICTS if f"`{word}`" not in text] == []


def test_troubleshooting_has_a_line_for_every_refusal() -> None:
    assert set(re.findall(r"\[FL-[A-Z]\d+\]", TROUBLE.read_text(encoding="utf-8"))) == {f"[{key}]" for key in REFUSALS}


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("status", schema.PAIR_STATUSES),
        ("eligibility", schema.ELIGIBILITIES),
        ("status", schema.EGRESS_STATUSES),
        ("match", schema.MATCHES),
        ("what becomes of it", schema.READINESS_STATUSES),
        ("path", schema.PATHS),
        ("dependence", schema.DEPENDENCY_STATUSES),
        ("state", schema.COVERAGE_STATES),
    ],
)
def test_concepts_explain_every_status_word(heading: str, words: tuple[str, ...]) -> None:
    tables = re.findall(
        rf"^\| {heading} \| \w+ \|\n\|---\|---\|\n((?:\|.*\|\n)+)", CONCEPTS.read_text("utf-8"), re.MULTILINE
    )
    assert sorted(words) in [sorted(re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)) for table in tables]


def test_concepts_name_every_rule_kind() -> None:
    text = CONCEPTS.read_text(encoding="utf-8")
    assert [kind for kind in schema.RULE_KINDS if kind not in text] == []


def anchors(path: Path) -> set[str]:
    """What the headings of a page are linked by: small letters, dashes for blanks, no other signs."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def text_of(path: Path) -> str:
    """The text of a page, or of a notebook's cells of text."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, _, heading in re.findall(r"\]\(([^)#\s]*)(#([^)]*))?\)", text_of(path)):
        if not target.startswith("https://"):
            page = path.parent / target if target else path
            assert page.exists(), target
            assert not heading or heading in anchors(page), f"{target}#{heading}"


def test_every_page_is_linked_from_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", index)}
    assert [page.name for page in DOCS.glob("**/*.md") if page != DOCS / "README.md" and page not in linked] == []


def test_changelog_tells_of_this_version() -> None:
    versions = re.findall(r"^## \[([^]]+)\]", (TOP / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[:2] == ["Unreleased", fl.__version__]
