"""No file names a host that packages come from, or a place on one machine."""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
# Folders that git ignores; every other folder is the project's.
MADE = re.compile(r"\.venv|\.git|build|dist|__pycache__|\.ipynb_checkpoints|\.hypothesis|.*_cache|.*\.egg-info")
# What the benchmarks have generated: gigabytes, and as little the project's.
BENCHMARKED = TOP / "bench" / "data"
# In pieces, so that this file does not hold what it looks for.
PACKAGE_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted"),
        ("registry", "npmjs"),
        ("registry", "yarnpkg"),
        ("deb", "debian"),
        ("conda", "anaconda"),
        ("static", "crates"),
        ("proxy", "golang"),
    )
)
FORBIDDEN = re.compile(
    "|".join(
        (
            *map(re.escape, PACKAGE_HOSTS),
            r"(?<![\w.~$}/-])/(?:" + "|".join(("work", "root", "home", "Users")) + r")/\w",
            r"\b[A-Za-z]:\\Users\\\w",
        )
    )
)


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the project with its content."""
    for folder, folders, names in os.walk(TOP):
        folders[:] = [name for name in folders if not MADE.fullmatch(name) and Path(folder, name) != BENCHMARKED]
        for name in names:
            # In a worktree of git it is a file, which says where the repository stands.
            if name == ".git":
                continue
            data = (Path(folder) / name).read_bytes()
            if b"\0" not in data and not name.endswith((".pyc", ".gz")):
                yield (Path(folder) / name).relative_to(TOP).as_posix(), data.decode("utf-8", "replace")


def test_no_text_names_a_package_host_or_a_place_on_a_machine() -> None:
    read = dict(texts())
    assert {"pyproject.toml", "Makefile", ".ci/run", "constraints.txt", "tests/test_tracked_text.py"} <= set(read)
    assert [(name, found[0]) for name, text in read.items() for found in FORBIDDEN.finditer(text)] == []


@pytest.mark.parametrize(
    "text", ["https://" + PACKAGE_HOSTS[0], "see /" + "home/me/x", "C:\\" + "Users\\me", '"/' + 'work/a"']
)
def test_the_check_finds_what_it_looks_for(text: str) -> None:
    assert FORBIDDEN.search(text)


@pytest.mark.parametrize("text", ["logs/work/a", "~/home/x", "https://example.org/home/x", "a/root/b", "/workspaces"])
def test_the_check_leaves_other_paths_alone(text: str) -> None:
    assert not FORBIDDEN.search(text)


def test_constraints_hold_names_and_versions_only() -> None:
    lines = (TOP / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    assert lines == sorted(lines, key=str.lower)


def test_constraints_cover_what_the_project_asks_for() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[>=\[]", line, maxsplit=1)[0].lower() for line in asked} - {"flowlens"}
    held = {line.partition("==")[0].lower() for line in (TOP / "constraints.txt").read_text("utf-8").splitlines()}
    assert names - held == set()
