"""Whatever stands in a log, a page and a notebook show it and do nothing else; proven in the browser."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from flowlens.outputs.html_tables import COLUMNS, ROWS
from flowlens.outputs.text import clean
from tests.browser.browsing import Shown, showing
from tests.payloads import PAYLOADS
from tests.reports import BYTES, hostile

WATCH = "window.hits = []; window.pwned = n => window.hits.push(n);"
LOOK = """() => {
  const every = [...document.querySelectorAll('*')];
  const attributes = every.flatMap(e => [...e.attributes].map(a => [a.name, a.value]));
  return {
    tags: [...new Set(every.map(e => e.localName))],
    names: [...new Set(attributes.map(([name]) => name))],
    links: attributes.filter(([name]) => name === 'href').map(([, value]) => value),
    scripts: document.scripts.length, styles: document.querySelectorAll('style').length, hits: window.hits,
  };
}"""
# What the page's own templates, its script and its pictures are made of.
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "script",
        "body",
        "a",
        "header",
        "p",
        "h1",
        "h2",
        "h3",
        "nav",
        "ul",
        "li",
    ),
    *(
        "main",
        "section",
        "article",
        "span",
        "strong",
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
    ),
    *("figure", "figcaption", "svg", "g", "path", "line", "rect", "text", "dl", "dt", "dd", "footer", "code"),
    *("details", "summary", "label", "input", "select", "option", "button", "output"),
}
NAMES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "href", "id", "role", "tabindex", "scope", "type"),
    *(
        "data-v",
        "data-total",
        "data-paper",
        "aria-label",
        "aria-labelledby",
        "aria-hidden",
        "aria-live",
        "aria-sort",
        "autocomplete",
    ),
    *(
        "hidden",
        "value",
        "width",
        "height",
        "viewBox",
        "d",
        "transform",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "fill",
        "stroke",
    ),
    *("stroke-width", "stroke-dasharray", "stroke-miterlimit", "fill-opacity", "opacity", "text-anchor", "font-size"),
    *("font-weight", "dominant-baseline"),
}
PARTS = [PAYLOADS[:ROWS], PAYLOADS[ROWS:]]


def nothing_is_active(shown: Shown, *, scripts: int, styles: int = 1) -> None:
    found = shown.page.evaluate(LOOK)
    assert set(found["tags"]) <= TAGS
    assert set(found["names"]) <= NAMES
    assert all(link.startswith("#") for link in found["links"])
    assert (found["scripts"], found["styles"], found["hits"]) == (scripts, styles, [])
    assert shown.quiet, (shown.requests, shown.told)


def test_there_are_enough_payloads() -> None:
    assert len(set(PAYLOADS)) >= 500
    assert all(PARTS)


@pytest.mark.slow
@pytest.mark.parametrize("texts", PARTS, ids=["first", "rest"])
def test_a_page_shows_them_and_does_nothing(browser: Browser, tmp_path: Path, texts: Sequence[str]) -> None:
    report = hostile(texts)
    report.write(tmp_path / "report.html")
    with showing(browser, tmp_path / "report.html", script=WATCH) as shown:
        nothing_is_active(shown, scripts=1)
        for name in report.tables:
            cells = shown.page.eval_on_selector_all(
                f"#{name} tbody tr",
                "rows => rows.map(row => [...row.cells].map(cell => [cell.textContent, cell.dataset.v]))",
            )
            heads = shown.page.eval_on_selector_all(f"#{name} thead th", "heads => heads.map(head => head.textContent)")
            assert len(cells) == report.tables[name].height
            for place, heading in enumerate(heads):
                column = next(c for c in COLUMNS[name] if c.heading == heading)
                values = report.tables[name][column.name]
                if column.kind in ("text", "name", "sentence"):
                    assert sorted(row[place][0] for row in cells) == sorted(map(clean, values)), heading
                elif column.kind == "bytes":
                    assert {row[place][1] for row in cells} == {str(BYTES)}
                elif column.kind in ("count", "number"):
                    assert {row[place][1] for row in cells} == {"7"}
        # The pointer goes over everything that is to be seen, and every kind of control is used on every table.
        shown.page.evaluate(
            "for (const e of document.querySelectorAll('button, svg *, td')) e.dispatchEvent(new Event('mouseover'))"
        )
        shown.page.evaluate(
            "document.querySelectorAll('thead th:first-child button').forEach(button => button.click())"
        )
        nothing_is_active(shown, scripts=1)
        with shown.page.expect_download() as saved:
            shown.page.locator(".tablebox:has(#rule_usage) button", has_text="Save as CSV").click()
        rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text(encoding="utf-8"), newline="")))
        assert len(rows) == len(texts)
        assert not [cell for row in rows for cell in row.values() if cell[:1] in "=+-@\t\r＝＋－＠" and cell]
        assert {row["bytes"] for row in rows} == {str(BYTES)}


def test_a_page_for_mail_and_a_notebook_do_nothing_either(browser: Browser, tmp_path: Path) -> None:
    report = hostile(PAYLOADS[:ROWS])
    report.write(tmp_path / "mail.html", static=True)
    with showing(browser, tmp_path / "mail.html", script=WATCH) as shown:
        nothing_is_active(shown, scripts=0)
    # A notebook has no policy that would stop a script.
    (tmp_path / "cell.html").write_text(f"<!doctype html><meta charset=utf-8><title>x</title>{report._repr_html_()}")
    with showing(browser, tmp_path / "cell.html", script=WATCH) as shown:
        nothing_is_active(shown, scripts=0)


def test_the_check_finds_what_is_active(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "open.html"
    path.write_text("<!doctype html><style></style><p id='a'><img src=x onerror=pwned(1)>")
    with showing(browser, path, script=WATCH) as shown:
        shown.page.wait_for_function("window.hits.length")
        with pytest.raises(AssertionError):
            nothing_is_active(shown, scripts=0)
