"""Writes what `flowlens analyze sample_logs` prints into README.md.

python scripts/capture_readme.py            writes it
python scripts/capture_readme.py --check    exit code 1 if README.md shows something else
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
README = TOP / "README.md"
COMMAND = ("flowlens", "analyze", "sample_logs")
WIDTH = 110
"""Columns of the terminal: what a page of code shows without scrolling."""
BLOCK = re.compile(
    r"(<!-- Written by scripts/capture_readme\.py\. -->\n```console\n).*?"
    r"(```\n<!-- End of what scripts/capture_readme\.py writes\. -->)",
    re.DOTALL,
)


def captured() -> str:
    """The command and what it prints on a terminal of WIDTH columns, without colours.

    Raises CalledProcessError if it fails.
    """
    known = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLENS_")}
    env = {**known, "COLUMNS": str(WIDTH), "NO_COLOR": "1", "PYTHONUTF8": "1"}
    line = [sys.executable, "-m", *COMMAND]
    done = subprocess.run(line, cwd=TOP, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    text = "\n".join(row.rstrip() for row in done.stdout.decode("utf-8").splitlines())
    return f"$ {' '.join(COMMAND)}\n{text.strip()}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    shown = captured()
    after = BLOCK.sub(lambda block: f"{block[1]}{shown}{block[2]}", before)
    if shown not in after:
        print("README.md has no place for the capture", file=sys.stderr)
        return 1
    if not check:
        README.write_text(after, encoding="utf-8", newline="\n")
    elif after != before:
        print("README.md is stale: run python scripts/capture_readme.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
