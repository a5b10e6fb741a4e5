"""A limit of memory: how it is shared, and that a run keeps below it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.generate import BLOBS, Order, generate
from bench.storage import run as analyzed
from bench.storage import serving
from flowlens.budget import (
    BASE,
    FEW_ROWS,
    LEAST_AHEAD,
    LONGEST_ROWS,
    MB,
    MOST_AHEAD,
    PER_ROW_MADE,
    PER_THREAD,
    QUERIES,
    QUERY_ROWS,
    READY,
    ROOMY,
    WAITING,
    for_queries,
    parse_size,
    peak,
    shared,
)
from flowlens.cli import DONE, WRONG_USAGE
from flowlens.errors import ConfigError
from tests.flow_logs import SAMPLE, run

TOP = Path(__file__).parents[1]
CONF = "_RJEM_MALLOC_CONF"
LEAST = BASE + PER_THREAD + LEAST_AHEAD


@given(limit=st.integers(LEAST, 10**11), threads=st.integers(1, 64))
def test_what_is_shared_stays_below_the_limit_and_is_no_less_than_needed(limit: int, threads: int) -> None:
    budget = shared(limit, threads)
    waiting = WAITING if limit >= ROOMY else 0
    assert BASE + waiting + budget.threads * (PER_THREAD + budget.ahead) <= limit
    assert 1 <= budget.threads <= threads
    assert LEAST_AHEAD <= budget.ahead <= MOST_AHEAD


@given(low=st.integers(LEAST, 10**10), more=st.integers(0, 10**10), threads=st.integers(1, 64))
def test_more_memory_never_gives_less(low: int, more: int, threads: int) -> None:
    # Another thread is worth more than a process that reads, and that more than what lies ready.
    less, greater = (shared(limit, threads) for limit in (low, low + more))
    assert (less.threads, less.apart, less.ahead) <= (greater.threads, greater.apart, greater.ahead)


@given(limit=st.integers(LEAST, 10**11))
def test_answers_of_a_workspace_stay_below_the_limit(limit: int) -> None:
    queries = for_queries(limit)
    waiting = WAITING if limit >= ROOMY else 0
    assert BASE + waiting + queries.concurrent * (queries.bytes or 0) + queries.rows * PER_ROW_MADE <= limit
    assert 1 <= queries.concurrent <= QUERIES
    assert queries.concurrent == 1 or queries.rows >= FEW_ROWS
    assert 1000 < queries.rows <= QUERY_ROWS
    assert queries.bytes == queries.rows * LONGEST_ROWS


def test_without_a_limit_answers_are_planned_for_what_the_service_gives() -> None:
    assert for_queries(None) == (QUERIES, QUERY_ROWS, None)


@pytest.mark.parametrize("threads", [1, 2, 16, 64])
def test_without_a_limit_all_threads_decode_and_what_lies_ready_is_bounded(threads: int) -> None:
    budget = shared(None, threads)
    assert budget.threads == threads and threads * budget.ahead <= READY


@pytest.mark.parametrize(
    ("text", "size"), [("800MB", 800 * MB), ("1.5 GB", 1500 * MB), ("1gib", 1 << 30), ("512M", 512 * MB)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "800", "-1GB", "800 KB", "MB", "1e3MB", "nan GB"])
def test_other_sizes_are_wrong_usage(text: str) -> None:
    with pytest.raises(ConfigError, match="size with its unit"):
        parse_size(text)


def test_a_limit_too_low_to_work_with_is_refused_in_one_line() -> None:
    ran = run("coverage", SAMPLE, "--memory-limit", "100MB")
    lines = ran.err.splitlines()
    assert (ran.code, len(lines), ran.stdout) == (WRONG_USAGE, 2, b"")
    assert "too low" in lines[0] and f"{LEAST // MB}MB" in lines[1]


def test_a_run_with_a_limit_says_what_it_used() -> None:
    ran = run("coverage", SAMPLE, "--memory-limit", f"{LEAST // MB}MB", "--threads", "8", "--format", "json")
    assert ran.code == DONE, ran.err
    settings = ran.document["settings"]
    assert (settings["threads"], settings["memory_limit"]) == (1, LEAST)


def test_a_run_that_took_more_than_its_limit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {}
    for taken in (LEAST, LEAST + 1):
        monkeypatch.setattr("flowlens.asking.peak", lambda taken=taken: taken)
        said[taken] = run("coverage", SAMPLE, "--memory-limit", f"{LEAST // MB}MB", "--format", "json").err
    assert "more than --memory-limit" not in said[LEAST]
    assert "more than --memory-limit" in said[LEAST + 1]


@pytest.mark.skipif("sys.platform != 'linux'", reason="only there are the allocators told")
@pytest.mark.parametrize(
    ("inherited", "arguments", "decay"),
    [
        ({}, (), "dirty_decay_ms:50"),
        ({}, ("--memory-limit", "800MB"), "dirty_decay_ms:0"),
        ({}, ("--memory-limit=800MB",), "dirty_decay_ms:0"),
        ({}, ("--memory-limit=999MB",), "dirty_decay_ms:0"),
        ({}, ("--memory-limit", "1GB"), "dirty_decay_ms:50"),
        ({}, ("--memory-limit", "plenty"), "dirty_decay_ms:0"),
        ({}, ("--memory-limit",), "dirty_decay_ms:0"),
        # What polars leaves in the environment of whoever has loaded it, as these tests have.
        ({CONF: "dirty_decay_ms:500,muzzy_decay_ms:1000"}, ("--memory-limit=800MB",), "dirty_decay_ms:0"),
        ({CONF: "dirty_decay_ms:7"}, ("--memory-limit=800MB",), "dirty_decay_ms:7"),
    ],
)
def test_what_is_freed_is_given_back_at_once_under_a_tight_limit_unless_the_user_says_otherwise(
    inherited: dict[str, str], arguments: tuple[str, ...], decay: str
) -> None:
    program = f"""
import os, sys
from flowlens.__main__ import main
sys.argv = ["flowlens", "coverage", "nowhere", *sys.argv[1:]]
try:
    main()
except SystemExit:
    print([word for word in os.environ["{CONF}"].split(",") if word.startswith("dirty")][-1])
"""
    own = {name: value for name, value in os.environ.items() if name != CONF} | inherited
    command = [sys.executable, "-c", program, *arguments]
    said = subprocess.run(command, cwd=TOP, env=own, capture_output=True, text=True, check=True).stdout
    assert said.split() == [decay]


@pytest.mark.skipif("sys.platform != 'linux'", reason="peaks are told by Linux")
def test_the_peak_is_that_of_the_process() -> None:
    program = "from flowlens.budget import peak; before = peak(); held = bytearray(80_000_000); print(peak() - before)"
    said = subprocess.run([sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, check=True).stdout
    assert 60 * MB < int(said) < 100 * MB
    assert peak() is not None


@pytest.mark.slow
@pytest.mark.skipif("sys.platform != 'linux'", reason="peaks are told by Linux")
def test_a_run_over_an_account_keeps_below_its_limit_however_many_threads_were_asked_for(tmp_path: Path) -> None:
    generate(tmp_path, Order(megabytes=24, blobs=6, keys=10_000))
    (container,) = (tmp_path / BLOBS).iterdir()
    limit = f"{LEAST // MB}MB"
    with serving(container) as served:
        access = ("--auth", "key", "--account-url", served.url.rpartition("/")[0])
        measured, answer = analyzed("analyze", served.url, tmp_path, *access, "--threads", "8", "--memory-limit", limit)
    assert measured.memory < LEAST
    assert answer["ledger"]["blobs"] == 6 and answer["ledger"]["complete"]
