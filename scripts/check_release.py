"""Is what a release would publish fit for it? Standard library only, since it runs before anything is installed.

``python scripts/check_release.py version`` compares the tag in GITHUB_REF_NAME, if that is one, with the version of the package and the
changelog. ``... wheel FILE ENGINE`` installs a wheel or sdist into a new environment outside the clone, as a user would, and has it
analyze the samples by ENGINE (compiled or portable). ``... installed ENGINE`` does the latter with the Python that runs it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
_SAMPLES = "sample_logs"


def version() -> None:
    """Raises SystemExit where tag, package and changelog do not agree."""
    packed = str(tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    written = re.search(
        r'^__version__ = "(.*)"$', (TOP / "flowlens" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    if written is None or written[1] != packed:
        raise SystemExit(f"flowlens.__version__ is not the {packed} of pyproject.toml")
    tag = os.environ.get("GITHUB_REF_NAME", "")
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        return
    if tag != f"v{packed}":
        raise SystemExit(f"the tag is {tag}, the version {packed}")
    if f"## [{packed}]" not in (TOP / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise SystemExit(f"CHANGELOG.md has no section for {packed}")


def wheel(file: Path, engine: str) -> None:
    """Raises SystemExit where the file cannot be installed or does not work where only it is."""
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = Path(place) / ("Scripts" if os.name == "nt" else "bin") / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", TOP / "constraints.txt", file.resolve()]
        _run(*install, folder=Path(place))
        sys.stdout.write(_run(python, Path(__file__).resolve(), "installed", engine, folder=Path(place)))


def installed(engine: str) -> None:
    """Raises SystemExit where the flowlens of this Python is that of the clone, has another engine, or cannot analyze the samples."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(TOP / _SAMPLES, folder / _SAMPLES)
        where = _run(sys.executable, "-c", "import flowlens; print(flowlens.__file__)", folder=folder).strip()
        if Path(where).is_relative_to(TOP / "flowlens"):
            raise SystemExit(f"that is the clone, not an installation: {where}")
        told = _run(sys.executable, "-m", "flowlens", "doctor", folder=folder)
        if f"engine: {engine}" not in told:
            raise SystemExit(f"expected the {engine} engine, found:\n{told}")
        report = json.loads(
            _run(sys.executable, "-m", "flowlens", "analyze", _SAMPLES, "--format", "json", folder=folder)
        )
        expected = json.loads((TOP / _SAMPLES / "expected.json").read_text(encoding="utf-8"))
        if report["ledger"]["tuples"] != expected["totals"]["tuples"] or not report["ledger"]["complete"]:
            raise SystemExit(f"the samples were not read as they should be: {report['ledger']}")
    sys.stdout.write(f"{where}: {engine}, {report['ledger']['tuples']} flow tuples\n")


def _run(*command: object, folder: Path) -> str:
    """The output of a command; raises SystemExit with what it said where it fails."""
    # Not what a clone or a caller would put in the way.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FLOWLENS_ENGINE")}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["version"]:
            version()
        case ["wheel", file, engine]:
            wheel(Path(file), engine)
        case ["installed", engine]:
            installed(engine)
        case _:
            raise SystemExit(__doc__)
