"""The page as a reader meets it: in a browser, from disk, without network."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import flowlens as fl
from flowlens.acceptance import Acceptance
from flowlens.findings import QUESTIONS, Baseline, accepted_of
from flowlens.outputs.html_tables import PAPER
from flowlens.outputs.terminal import TITLES
from tests.browser.browsing import DESKTOP, PHONE, Shown, lay_out, showing, violations
from tests.flow_logs import SAMPLE

CHANGE = dt.datetime(2026, 6, 15, 11, tzinfo=dt.UTC)
TODAY = dt.date(2026, 6, 16)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> fl.Report:
    """Everything that a page may show: a change, a baseline, names of owners, accepted findings and what there is to note."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "owners.csv").write_text("prefix,owner,country\n203.0.113.0/24,Example Ltd,NL\n", encoding="utf-8")
    scan = fl.scan(SAMPLE, inventory_file=SAMPLE / "inventory.csv", changed_at=CHANGE)
    made = fl.report(scan, baseline=Baseline(destinations=()), owners=[folder / "owners.csv"])
    # What somebody took upon himself, an entry that is over, and one of something that is not there.
    taken, over = (next(f.id for f in made.findings if f.subject.startswith(text)) for text in ("KMS", "203.0.113.77"))
    entries = (
        Acceptance(taken, "moves in October", "net-team", TODAY + dt.timedelta(days=9)),
        Acceptance(over, "was a test", "app-team", TODAY - dt.timedelta(days=1)),
        Acceptance("0" * 16, "long gone", "app-team", TODAY),
    )
    findings, notes = accepted_of(made.findings, entries, TODAY)
    return replace(made, findings=findings, notes=(*made.notes, *notes))


@pytest.fixture(scope="module")
def page_file(report: fl.Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.write(path)
    return path


@pytest.fixture(scope="module")
def shown(browser: Browser, page_file: Path) -> Iterator[Shown]:
    with showing(browser, page_file) as opened:
        yield opened


@pytest.fixture
def page(shown: Shown) -> Page:
    """The page as it was when it was opened."""
    shown.page.goto(shown.path.as_uri())
    shown.requests[1:] = []
    return shown.page


def tables(page: Page) -> list[str]:
    return [str(table.get_attribute("id")) for table in page.query_selector_all("table")]


def visible_rows(page: Page, table: str, *, values: bool = True) -> list[list[str]]:
    """The cells that a filter left, by what they are sorted by or by what they show."""
    return page.evaluate(  # type: ignore[no-any-return]
        "([name, values]) => [...document.getElementById(name).tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => [...row.cells].map(cell => values && cell.dataset.v || cell.textContent))",
        [table, values],
    )


@pytest.mark.slow
def test_it_is_small_and_asks_for_nothing(page_file: Path, page: Page, shown: Shown) -> None:
    assert page_file.stat().st_size < 2_000_000
    page.mouse.wheel(0, 20_000)
    page.wait_for_load_state("networkidle")
    assert shown.quiet, (shown.requests, shown.told)


def test_the_verdicts_stand_on_the_first_screen(page: Page, report: fl.Report) -> None:
    for name in QUESTIONS:
        card = page.locator(f"#v-{name}")
        box = card.bounding_box()
        assert box is not None
        assert box["x"] >= 0 and box["x"] + box["width"] <= DESKTOP[0]
        assert box["y"] >= 0 and box["y"] + box["height"] <= DESKTOP[1]
        told, verdict = card.inner_text(), report.verdicts[name]
        assert TITLES[name] in told
        assert verdict.text.removeprefix("Not determined: ")[1:] in told
        assert verdict.status.replace("_", " ") in told
        assert verdict.number is None or str(verdict.number) in told.split()
        assert "since the baseline" in told


def test_accepted_findings_stay_and_say_why(page: Page) -> None:
    heads = page.eval_on_selector_all("#findings thead th", "heads => heads.map(head => head.textContent)")
    rows = [dict(zip(heads, row, strict=True)) for row in visible_rows(page, "findings", values=False)]
    accepted = [row for row in rows if row["accepted"]]
    assert [row["accepted"] for row in accepted] == ["moves in October (net-team, until 2026-06-25)"]
    assert accepted[0]["subject"].startswith("KMS activation")
    # Behind all of its state that nobody took.
    same = [row["accepted"] for row in rows if row["state"] == accepted[0]["state"]]
    assert same == sorted(same)
    page.locator(".tablebox:has(#findings) input").fill("net-team")
    assert len(visible_rows(page, "findings")) == 1


def test_notes_stand_beside_the_evidence(page: Page, report: fl.Report) -> None:
    told = page.locator("#s-evidence").text_content() or ""
    assert len(report.notes) >= 2
    assert all(note in told for note in report.notes)
    assert "counts again: it was accepted by app-team until 2026-06-15 (was a test)" in told
    assert f"No finding here has the id {'0' * 16}" in told


def test_destinations_are_named_by_owner_and_country(page: Page) -> None:
    heads = page.eval_on_selector_all(
        "#unexpected_destinations thead th", "heads => heads.map(head => head.textContent)"
    )
    rows = [dict(zip(heads, row, strict=True)) for row in visible_rows(page, "unexpected_destinations", values=False)]
    assert {(row["owner"], row["country"]) for row in rows if row["destination"] == "203.0.113.77"} == {
        ("Example Ltd", "NL")
    }
    assert "Example Ltd (NL)" in (page.locator("#destination-tiles svg:visible").text_content() or "")
    assert {row[0] for row in visible_rows(page, "destination_countries")} == {"NL", "not told"}
    assert ("Example Ltd", "NL") in {
        (row[0], row[3]) for row in visible_rows(page, "destination_groups", values=False)
    } | {(row[0], row[2]) for row in visible_rows(page, "destination_groups", values=False)}


def test_every_question_has_its_section_and_the_way_there(page: Page) -> None:
    targets = page.eval_on_selector_all("nav a", "links => links.map(link => link.hash)")
    assert len(targets) > 6
    assert all(page.query_selector(target) for target in targets)
    names = page.eval_on_selector_all("a", "links => links.map(link => link.getAttribute('href'))")
    assert all(name.startswith("#") for name in names)


def test_every_chart_draws(page: Page) -> None:
    figures = page.query_selector_all("figure")
    assert [figure.get_attribute("id") for figure in figures] == [
        "encryption-share",
        "destination-tiles",
        "coverage-map",
    ]
    for figure in figures:
        (drawn,) = [svg for svg in figure.query_selector_all("svg") if svg.is_visible()]
        box = drawn.bounding_box()
        assert box is not None and box["width"] > 900 and box["height"] > 100
        # Shapes that have a place and a colour that the page knows.
        fills = drawn.evaluate(
            "svg => [...svg.querySelectorAll('path')].filter(path => path.getBoundingClientRect().width > 1)"
            ".map(path => getComputedStyle(path).fill)"
        )
        assert {fill for fill in fills if fill != "none"} - {"rgb(0, 0, 0)"}
        assert drawn.query_selector("text")
        assert figure.query_selector("figcaption").text_content()  # type: ignore[union-attr]


FILTER = """([name, word]) => {
  const table = document.getElementById(name), box = table.closest('.tablebox'), input = box.querySelector('input');
  const shown = () => [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.textContent.toLowerCase());
  const ask = text => { input.value = text; input.dispatchEvent(new Event('input')); return shown(); };
  const kept = ask(word);
  return [kept, box.querySelector('output').textContent, ask('no such word'), ask('')];
}"""
SORT = """name => {
  const table = document.getElementById(name), cell = n => row => row.cells[n].dataset.v ?? row.cells[n].textContent;
  return [...table.querySelectorAll('thead button')].map((button, n) => {
    const column = () => { button.click(); return [...table.tBodies[0].rows].map(cell(n)); };
    const head = button.parentElement;
    return [head.classList.contains('n'), column(), head.ariaSort, column(), head.ariaSort];
  });
}"""


def test_every_table_filters(page: Page) -> None:
    names = tables(page)
    assert len(names) > 6
    for name in names:
        before = visible_rows(page, name)
        texts = ["".join(row).lower() for row in visible_rows(page, name, values=False)]
        word = next(cell for row in reversed(before) for cell in row if len(cell) > 2 and cell in "".join(row)).lower()
        kept, told, none, after = page.evaluate(FILTER, [name, word])
        assert none == []
        assert after == texts
        assert kept == [text for text in texts if word in text]
        assert f"{len(kept):,} of" in told


def test_a_status_can_be_chosen(page: Page) -> None:
    box = page.locator(".tablebox:has(#denied_egress)")
    box.locator("select").select_option("Unanswered")
    assert len(visible_rows(page, "denied_egress")) == 1


def test_every_table_sorts_both_ways_by_every_column(page: Page) -> None:
    for name in tables(page):
        columns = page.evaluate(SORT, name)
        assert columns, name
        for numeric, up, first, down, second in columns:
            assert (first, second) == ("ascending", "descending")
            assert sorted(up) == sorted(down)
            filled = [cell for cell in up if cell]
            assert up[: len(filled)] == filled and all(down[: len(filled)]), "what is empty comes last"
            if numeric:
                assert [float(cell) for cell in filled] == sorted(map(float, filled))
                assert [float(cell) for cell in down if cell] == sorted(map(float, filled), reverse=True)


def test_the_keyboard_reaches_and_works_everything(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    # By the way to a section, which takes the reader past what stands before it.
    while page.evaluate("document.activeElement.hash") != "#s-denied_egress":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('nav') !== null")
    page.keyboard.press("Enter")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        tag, there = page.evaluate(
            "(e => [e.tagName, e.closest('#denied_egress thead') !== null])(document.activeElement)"
        )
        reached.add(tag)
        if there:
            break
    assert {"INPUT", "SELECT", "BUTTON", "DIV"} <= reached
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.ariaSort") == "ascending"


def test_a_table_is_saved_as_it_is_shown(page: Page, report: fl.Report) -> None:
    box = page.locator(".tablebox:has(#rule_usage)")
    box.locator("input").fill("nsg-win2")
    with page.expect_download() as saved:
        box.locator("button", has_text="Save as CSV").click()
    rows = list(csv.DictReader(io.StringIO(saved.value.path().read_text(encoding="utf-8"))))
    wanted = {
        (
            row["acl_rule"],
            row["direction"],
            str(row["flows_allowed"]),
            "" if row["bytes"] is None else str(row["bytes"]),
        )
        for row in report.tables["rule_usage"].iter_rows(named=True)
        if str(row["acl_id"]).endswith("nsg-win2")
    }
    assert wanted and {(row["rule"], row["direction"], row["allowed"], row["bytes"]) for row in rows} == wanted
    assert saved.value.suggested_filename == f"rule_usage-{len(rows)}-of-{report.tables['rule_usage'].height}.csv"


@pytest.mark.parametrize(("size", "theme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_it_is_accessible(browser: Browser, page_file: Path, size: tuple[int, int], theme: str) -> None:
    with showing(browser, page_file, size=size, theme=theme) as shown:
        assert violations(shown.page) == []
        assert shown.quiet
        dark = shown.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(247, 247, 245)"
        assert dark == (theme == "dark")


def test_the_checks_of_accessibility_find_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "wrong.html"
    path.write_text("<!doctype html><title>x</title><img src='data:,'><p style='color:#ccc;background:#fff'>pale")
    with showing(browser, path) as shown:
        found = violations(shown.page)
    assert {line.partition(":")[0] for line in found} >= {"image-alt", "html-has-lang", "color-contrast"}


def test_no_status_is_told_by_colour_alone(page: Page) -> None:
    marks = page.eval_on_selector_all(
        ".s", "cells => cells.map(cell => [cell.className, cell.textContent.trim()]).filter(([, text]) => text)"
    )
    assert len(marks) > 100
    assert all(len(text) > 2 and text[0] in "✓✕!·" for _, text in marks)
    # Each mark belongs to one tone.
    assert len({(name, text[0]) for name, text in marks}) == len({text[0] for _, text in marks})


def test_a_phone_scrolls_only_tables_sideways(browser: Browser, page_file: Path) -> None:
    with showing(browser, page_file, size=PHONE) as shown:
        lay_out(shown.page)
        wide = shown.page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')"
            " && !e.classList.contains('skip') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
        drawn = shown.page.locator("figure svg:visible")
        assert drawn.count() == 3
        assert all(drawn.nth(n).bounding_box()["width"] <= PHONE[0] for n in range(3))  # type: ignore[index]


def test_it_prints(page: Page, report: fl.Report) -> None:
    name, height = "denied_egress", report.tables["denied_egress"].height
    assert height > PAPER
    printed = page.locator(f"#{name} tbody tr:not(.late)")
    page.emulate_media(media="print")
    try:
        assert not page.locator(".tools:visible").count()
        clipped = page.eval_on_selector_all(
            ".scroll", "boxes => boxes.filter(box => getComputedStyle(box).overflowY !== 'visible').length"
        )
        assert clipped == 0
        # What nobody reads on paper is left out, and said.
        assert page.locator(f"#{name} tbody tr:visible").count() == printed.count() == PAPER
        said = page.locator(f".tablebox:has(#{name}) .paper:visible").text_content() or ""
        assert f"{PAPER} rows" in said and f"{height:,}" in said
        assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    finally:
        page.emulate_media(media="screen")
    # Whoever filters prints what is left, wherever in the table it stands.
    box = page.locator(f".tablebox:has(#{name})")
    box.locator("select").select_option("Reached")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    reached = visible_rows(page, name)
    assert 0 < len(reached) == page.locator(f"#{name} tbody tr:not(.late):not([hidden])").count()


def test_without_a_script_it_is_whole(browser: Browser, report: fl.Report, tmp_path: Path) -> None:
    report.write(tmp_path / "mail.html", static=True)
    with showing(browser, tmp_path / "mail.html") as shown:
        page = shown.page
        assert page.locator("script").count() == page.locator(".tools").count() == 0
        assert page.locator("figure svg:visible").count() == 3
        assert len(tables(page)) > 6
        assert shown.quiet
