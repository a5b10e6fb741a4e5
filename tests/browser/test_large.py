"""Thirty days of five hundred NICs: the page stays small, opens at once and counts what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import flowlens as fl
from flowlens.analyses.charts import MATRIX_DRAWN
from flowlens.outputs.html_tables import COLUMNS, ROWS
from tests.browser.browsing import showing
from tests.reports import large


@pytest.fixture(scope="module")
def report() -> fl.Report:
    return large()


@pytest.fixture(scope="module")
def page_file(report: fl.Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "report.html"
    report.write(path)
    return path


@pytest.fixture(scope="module")
def page(browser: Browser, page_file: Path) -> Iterator[Page]:
    with showing(browser, page_file) as shown:
        yield shown.page
        assert shown.quiet


@pytest.mark.slow
def test_the_file_is_small(page_file: Path, report: fl.Report) -> None:
    assert report.tables["coverage"].height == 500 * 30 * 24
    assert page_file.stat().st_size < 5_000_000


def test_it_opens_in_less_than_two_seconds_of_work(browser: Browser, page_file: Path) -> None:
    context = browser.new_context(offline=True)
    try:
        page = context.new_page()
        session = context.new_cdp_session(page)
        # What the page's thread worked: how busy the machine is with others makes no difference.
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(page_file.as_uri())
        page.screenshot()
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        assert 0 < metrics["TaskDuration"] < 2
    finally:
        context.close()


def test_what_is_cut_off_is_added_up(page: Page, report: fl.Report) -> None:
    for name, table in report.tables.items():
        assert table.height > ROWS
        shown = page.eval_on_selector_all(
            f"#{name} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.dataset.v))"
        )
        heads = page.eval_on_selector_all(f"#{name} thead th", "heads => heads.map(head => head.textContent)")
        others = page.eval_on_selector_all(
            f"#{name} tfoot tr > *", "cells => cells.map(cell => [cell.textContent, cell.dataset.v])"
        )
        assert len(shown) == ROWS
        assert others[0][0] == f"{table.height - ROWS:,} others"
        summed = [c for c in COLUMNS[name] if c.kind in ("bytes", "count") and c.heading in heads]
        assert summed
        for column in summed:
            place = heads.index(column.heading)
            if table[column.name].count():
                total = sum(int(row[place]) for row in shown if row[place]) + int(others[place][1])
                assert total == table[column.name].sum(), column.name
        told = page.locator(f".tablebox:has(#{name}) .note:not(.paper)").text_content() or ""
        assert f"{ROWS:,} of {table.height:,} rows" in told
        assert "--format csv -o FOLDER/" in told


def test_grids_say_what_they_leave_out(page: Page) -> None:
    assert "Left out of this grid" in (page.locator(".tablebox:has(#egress_grid) .note").text_content() or "")


def test_a_matrix_adds_up_its_others(page: Page, report: fl.Report) -> None:
    heads = page.eval_on_selector_all("#encryption_matrix thead th", "heads => heads.map(head => head.textContent)")
    rows = page.eval_on_selector_all("#encryption_matrix tbody th", "heads => heads.map(head => head.textContent)")
    pairs = report.tables["encryption_status"]
    assert (len(rows), len(heads) - 1) == MATRIX_DRAWN
    assert rows[-1] == f"{pairs['src_subnet'].n_unique() - len(rows) + 1} others"
    assert heads[-1] == f"{pairs['dst_subnet'].n_unique() - len(heads) + 2} others"


def test_the_heat_map_draws_those_with_most_gaps(page: Page) -> None:
    assert "the 30 NICs with most gaps, of 500" in (page.locator("#coverage-map figcaption").text_content() or "")
