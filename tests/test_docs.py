"""The documents say what is so: their commands run, their words are the program's, their capture is current."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import flowlens as fl
from flowlens import schema
from flowlens.analyses.destinations import read_expected
from flowlens.cli import main
from flowlens.gates import GATES
from flowlens.inventory import FIELDS

TOP = Path(__file__).resolve().parents[1]
README, CONCEPTS, SAMPLES = TOP / "README.md", TOP / "docs" / "concepts.md", TOP / "sample_logs" / "README.md"


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


def test_capture_in_the_readme_is_current() -> None:
    script = TOP / "scripts" / "capture_readme.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", fl.__all__)
def test_readme_mentions_every_public_name(name: str) -> None:
    assert re.search(rf"[`.]{name}\b", README.read_text(encoding="utf-8"))


def test_python_in_the_readme_runs(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = blocks(README, "python")
    monkeypatch.chdir(clone)
    exec(compile(program, "README.md", "exec"), {})


def test_config_in_the_readme_is_read(tmp_path: Path) -> None:
    (text,) = blocks(README, "toml")
    path = tmp_path / "flowlens.toml"
    path.write_text(text, encoding="utf-8")
    config = fl.read_config(path)
    assert config.placeholders == {"region": "japaneast"}
    assert config.networks.names == (("10.10.1.0/24", "snet-web"),)
    (entry,) = read_expected(path)
    assert (entry.service_tag, entry.ports, entry.protocol) == ("AzureMonitor", (443,), schema.TCP)


def test_resource_graph_query_projects_what_an_inventory_takes() -> None:
    (query,) = blocks(README, "kusto")
    projected = query.partition("| project ")[2]
    # A name before an equals sign, at the start or after a comma; kind is a word of the language and needs brackets.
    assert tuple(re.findall(r"(?:^|,\s+)(?:\[')?(\w+)(?:'\])? = ", projected)) == FIELDS
    assert "['kind'] = " in projected


def test_readme_names_every_gate_and_kind() -> None:
    text = README.read_text(encoding="utf-8")
    assert [gate for gate in GATES if gate not in text] == []
    assert [kind for kind in schema.ADDRESS_KINDS if f"`{kind}`" not in text] == []


def test_readme_names_the_parts_of_the_json_document(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["coverage", str(clone / "sample_logs"), "--format", "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    text = README.read_text(encoding="utf-8")
    assert [part for part in document if f"`{part}`" not in text] == []
    assert [word for word in schema.VERDICTS if f"`{word}`" not in text] == []


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


@pytest.mark.parametrize(
    "path", sorted([*TOP.glob("*.md"), *TOP.glob("docs/*.md"), SAMPLES]), ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


def test_changelog_tells_of_this_version() -> None:
    versions = re.findall(r"^## \[([^]]+)\]", (TOP / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[:2] == ["Unreleased", fl.__version__]
