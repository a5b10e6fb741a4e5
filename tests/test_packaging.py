"""The wheel: what is in it, and that it works where only it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TOP = Path(__file__).parents[1]
PACKED = {"flowlens": TOP / "flowlens", "flowlens/kql": TOP / "kql"}


NOT_SHIPPED = (".pyx", ".pxd", ".so", ".pyd")
"""The kernel's source, and what an installation for development made of it."""


def shipped_files() -> set[str]:
    """What the pure wheel must hold: every file of the two packed folders, by its place in the wheel."""
    return {
        f"{place}/{path.relative_to(folder).as_posix()}"
        for place, folder in PACKED.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in NOT_SHIPPED
    }


def built(folder: Path, begun: Path | None = None, **environment: str) -> Path:
    """A wheel built offline in ``folder`` from a copy, so that the source tree stays as it is.

    ``begun`` is such a copy in which a build came as far as the C of the kernel, which is then not made again.
    """
    source, made = folder / "source", folder / "made"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    for name in ("flowlens", "kql"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))
    if begun is not None:
        for made_c in begun.glob("build/temp*"):
            shutil.copytree(made_c, source / "build" / made_c.name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", made, source, **environment)
    (wheel,) = made.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that runs anywhere."""
    return built(tmp_path_factory.mktemp("pure"), FLOWLENS_PURE="1")


@pytest.fixture(scope="module")
def uncompiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What is built of the whole source where there is no compiler, and the source with the kernel in C beside it."""
    folder = tmp_path_factory.mktemp("uncompiled")
    return built(folder, CC=str(folder / "no-compiler")), folder / "source"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", target, wheel)
    return target


def pip(command: str, *arguments: object, **environment: str) -> None:
    # Run by this interpreter, whose folders hold the build tools; never by way of an index.
    line = [sys.executable, "-m", "pip", command, "--quiet", "--no-index", "--disable-pip-version-check"]
    env = {**os.environ, **environment}
    done = subprocess.run([*line, *map(str, arguments)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """The output of ``python ...`` in ``folder``, with ``installed`` before everything else."""
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_folder_is_listed() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(TOP).as_posix().replace("/", ".") for path in TOP.glob("flowlens/**/*.py")}
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(folders | {"flowlens.kql"})


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        inside = {name for name in packed.namelist() if ".dist-info/" not in name}
        licences = [name for name in packed.namelist() if name.endswith("/LICENSE")]
    assert inside == shipped_files()
    assert licences


def test_the_pure_wheel_runs_anywhere(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_of_this_platform_holds_the_kernel(uncompiled: tuple[Path, Path], tmp_path: Path) -> None:
    # Without optimization, since only building is at stake.
    wheel = built(tmp_path, uncompiled[1], CFLAGS="-O0")
    assert not wheel.name.endswith("-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        inside = {name for name in packed.namelist() if ".dist-info/" not in name}
    modules = {path.stem for path in (TOP / "flowlens" / "kernel").glob("*.pyx")}
    assert "reader" in modules
    assert {name.partition(".")[0] for name in inside - shipped_files()} == {
        f"flowlens/kernel/{name}" for name in modules
    }
    place = tmp_path / "installed"
    pip("install", "--no-deps", "--target", place, wheel)
    program = "import flowlens.kernel.reader as reader; from flowlens.kernel import engine; print(reader.__file__, engine(), sep='|')"
    where, engine = run(place, tmp_path, "-c", program).strip().split("|")
    assert Path(where).is_relative_to(place)
    assert engine == "compiled kernel"


def test_without_a_compiler_the_wheel_is_built_without_the_kernel(uncompiled: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(uncompiled[0]) as packed:
        assert {name for name in packed.namelist() if ".dist-info/" not in name} == shipped_files()


@pytest.mark.parametrize("kind", ["flowlens/kql/*.kql", "flowlens/catalog/**/*.toml", "flowlens/catalog/**/*tags*"])
def test_there_is_data_of_each_kind(kind: str) -> None:
    pattern = kind.removeprefix("flowlens/kql/") if "kql" in kind else kind
    assert list((TOP / "kql" if "kql" in kind else TOP).glob(pattern))
    assert "flowlens/py.typed" in shipped_files()


def test_installed_wheel_shows_a_profile(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "-c", "import flowlens; print(flowlens.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    assert "1688" in run(installed, tmp_path, "-m", "flowlens", "profiles", "show", "windows-kms")


def test_installed_wheel_names_an_address(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    # Both streams: the date stands beside the answer.
    program = (
        "import sys; sys.stderr = sys.stdout; from flowlens.cli import main; main(['tags', 'lookup', '20.118.99.224'])"
    )
    shown = run(installed, empty, "-c", program)
    assert shown.startswith(
        "20.118.99.224: AzureCloud.southcentralus, AzureCloud\nglobal, service tags of 2026-06-26\n"
    )
    assert list(empty.iterdir()) == []


def test_installed_wheel_analyzes_a_folder(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(TOP / "sample_logs", tmp_path / "logs")
    shown = run(installed, tmp_path, "-m", "flowlens", "analyze", "logs", "--format", "json")
    assert '"schema_version"' in shown


def test_installed_wheel_finds_its_queries(installed: Path, tmp_path: Path) -> None:
    program = "from importlib.resources import files; print(*(f.name for f in (files('flowlens') / 'kql').iterdir()))"
    assert set(run(installed, tmp_path, "-c", program).split()) >= {path.name for path in TOP.glob("kql/*.kql")}
