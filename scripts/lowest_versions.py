"""Print the lowest versions that pyproject.toml allows of the libraries whose age clusters decide, as pip takes them.

python scripts/lowest_versions.py
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
# Polars is two packages of the same version, of which the second is the compiled one.
PACKAGES = {"polars": ("polars", "polars-runtime-32"), "pyarrow": ("pyarrow",)}


def main() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lowest = dict(
        found.groups() for text in project["dependencies"] if (found := re.match(r"([\w-]+)>=([\d.]+)", text))
    )
    print(" ".join(f"{package}=={lowest[name]}" for name, packages in PACKAGES.items() for package in packages))


if __name__ == "__main__":
    main()
