"""A real browser that reaches nothing but the file it shows, and the checks of accessibility that run inside the page.

The browser is the system's chromium, or what the environment variable CHROMIUM names. The checks are axe-core, as
package-lock.json pins it, installed on first use beside this file into a folder that git ignores.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.faults.azurite import npm

HERE = Path(__file__).parent
CACHE = HERE / ".axe_cache"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Without a sandbox, which root has not; and without the calls home that a fresh profile makes.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
ROWS = 12
DESKTOP, PHONE = (1280, 800), (390, 844)


def chromium() -> str:
    """The browser's program; raises RuntimeError, with what to do, where there is none."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError(
            "tests/browser needs chromium: as root, make browser installs it; else set CHROMIUM to a program"
        )
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """One browser, ended with the block."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield started
        finally:
            started.close()


@dataclass
class Shown:
    """A page that is open, and what it did that a still file does not: requests, messages, errors, dialogues."""

    page: Page
    path: Path
    requests: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        """Whether nothing was asked for but the file itself, and nothing was said."""
        return self.requests == [self.path.as_uri()] and self.told == []


@contextmanager
def showing(
    browser: Browser,
    path: Path,
    *,
    size: tuple[int, int] = DESKTOP,
    theme: str = "light",
    script: str = "",
) -> Iterator[Shown]:
    """The file in a context of its own, without network; ``script`` runs before anything of the page."""
    context = browser.new_context(
        offline=True,
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,  # type: ignore[arg-type]
        accept_downloads=True,
    )
    try:
        if script:
            context.add_init_script(script)
        page = context.new_page()
        shown = Shown(page, path)
        page.on("request", lambda request: shown.requests.append(request.url))
        page.on("console", lambda message: shown.told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: shown.told.append(str(error)))
        page.on("popup", lambda popup: shown.told.append(f"popup {popup.url}"))

        def refuse(dialog: Any) -> None:
            shown.told.append(f"dialog {dialog.message}")
            dialog.dismiss()

        page.on("dialog", refuse)
        page.goto(path.as_uri())
        yield shown
    finally:
        context.close()


def lay_out(page: Page) -> None:
    """Have all of the page laid out: what waits for coming into view would not be looked at, nor be in a picture."""
    page.evaluate(
        "for (const section of document.querySelectorAll('section')) section.style.contentVisibility = 'visible';"
    )


def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.2 AA, a line for each.

    Rows of a table are alike, so that the first of each table stand for all: it looks at every cell for long.
    """
    page.evaluate(
        "rows => { for (const body of document.querySelectorAll('tbody')) [...body.rows].slice(rows).forEach(row => row.remove());"
        " for (const folded of document.querySelectorAll('details')) folded.open = true; }",
        ROWS,
    )
    lay_out(page)
    page.evaluate(axe())
    found = page.evaluate(f"axe.run(document, {{runOnly: {list(WCAG)}, resultTypes: ['violations']}})")
    assert found["testEngine"]["name"] == "axe-core" and found["passes"], "the checks did not run"
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def axe() -> str:
    """The program of axe-core, installed now if the lock file says other than what is there."""
    program = CACHE / "node_modules" / "axe-core" / "axe.min.js"
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    done = CACHE / "installed"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as guard:
        # Several workers of one test run come here at once.
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text() == wanted and program.exists()):
            done.unlink(missing_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, CACHE)
            line = [*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            ran = subprocess.run(line, cwd=CACHE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if ran.returncode:
                raise RuntimeError(f"npm ci could not install axe-core: {ran.stderr or ran.stdout}")
            done.write_text(wanted)
    return program.read_text(encoding="utf-8")
