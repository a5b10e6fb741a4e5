"""Run the commands of docs/how-to on the logs that each page is about, and write what they print below them.

    python scripts/capture_docs.py           # runs and writes
    python scripts/capture_docs.py --check   # runs and says whether the pages show what the commands print

A block of `console` holds commands after a prompt. All commands of a page run in one folder, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from tests.flow_logs import Ran, run  # noqa: E402
from tests.how_to_logs import LOGS  # noqa: E402

PAGES = TOP / "docs" / "how-to"
WIDTH = 100
CONSOLE = re.compile(r"(^```console\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^<!-- (\S+) -->\n```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {"NO_COLOR": "1", "FLOWLENS_CONFIG": "", "FLOWLENS_DATA": "none"}


def ran(line: str) -> Ran:
    """One command, in the working folder."""
    program, *arguments = shlex.split(line)
    if program != "flowlens":
        raise SystemExit(f"expected flowlens, found {line}")
    return run(*arguments, columns=WIDTH, env=ENVIRONMENT)


def shown(block: str) -> Iterator[str]:
    """The lines of a block with what each command prints now; `echo $?` prints the exit code of the one before."""
    code = 0
    for line in block.splitlines():
        if line == "$ echo $?":
            yield from (line, str(code))
        elif line.startswith("$ "):
            yield line
            done = ran(line.removeprefix("$ "))
            code = done.code
            if code not in (0, 1):
                raise SystemExit(f"{line}\nended with {code}: {done.err}")
            yield from (one.rstrip() for one in (done.out.strip() + "\n" + done.err.strip()).strip().splitlines())


def captured(page: Path) -> str:
    """The page with the output of its commands as it is now. A TOML block below a comment with a name is that file."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        LOGS[page.stem](folder)
        for file, content in FILE.findall(text):
            (folder / file).write_text(content, encoding="utf-8")
        with contextlib.chdir(folder):
            return CONSOLE.sub(lambda found: found[1] + "".join(f"{one}\n" for one in shown(found[2])) + found[3], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("page", nargs="*", help="only these, by name")
    given = parser.parse_args()
    stale = []
    for page in (PAGES / f"{name}.md" for name in given.page or LOGS):
        made = captured(page)
        if made != page.read_text(encoding="utf-8"):
            stale.append(page.stem)
            if not given.check:
                page.write_text(made, encoding="utf-8", newline="\n")
    if given.check and stale:
        print(f"stale: {', '.join(stale)}; run python scripts/capture_docs.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
