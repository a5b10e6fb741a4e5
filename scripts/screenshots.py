"""Pictures of the page on sample_logs: desktop and phone, light and dark, and as printed.

`make screenshots` writes them to build/screenshots and the first screen to docs/report.png, which the README shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP))

import flowlens as fl  # noqa: E402
from tests.browser.browsing import DESKTOP, PHONE, browser, lay_out, showing  # noqa: E402

MADE = TOP / "build" / "screenshots"


def main() -> None:
    """Write the page and its pictures."""
    MADE.mkdir(parents=True, exist_ok=True)
    page = MADE / "report.html"
    logs = TOP / "sample_logs"
    scan = fl.scan(logs, inventory_file=logs / "inventory.csv")
    # As a reader of the README would have it: by a relative name.
    scan.settings["sources"] = ["sample_logs"]
    fl.report(scan, expected=logs / "expected.toml").write(page)
    with browser() as started:
        for device, size in (("desktop", DESKTOP), ("phone", PHONE)):
            for theme in ("light", "dark"):
                with showing(started, page, size=size, theme=theme) as shown:
                    if (device, theme) == ("desktop", "light"):
                        shown.page.screenshot(path=TOP / "docs" / "report.png")
                        shown.page.pdf(path=MADE / "report.pdf", prefer_css_page_size=True)
                    lay_out(shown.page)
                    shown.page.screenshot(path=MADE / f"{device}-{theme}.png", full_page=True)
    print(f"wrote {MADE.relative_to(TOP)}/ and docs/report.png")


if __name__ == "__main__":
    main()
