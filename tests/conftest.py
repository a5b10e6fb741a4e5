"""Options and fixtures that all tests share."""

from __future__ import annotations

import os

# Before anything imports Polars: workers that share the cores gain nothing from more threads and lose to their switching.
# What more threads could change, test_invariance asks in a process of its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("POLARS_MAX_THREADS", "1")

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# In the background of a script SIGINT is ignored, and every program that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where the environment forbids it, each program that a test starts compiles all of flowlens again, and each run all tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

GOLDEN = Path(__file__).parent / "golden"

# One server over TLS serves both. Marks with xdist_group are of no effect: xdist 3.8 writes them where pytest 9 no longer looks.
OVER_TLS = ("tests/faults/test_secrets.py", "tests/faults/test_sign_in.py")
# One cluster serves all.
ON_SPARK = "tests/spark/"
ONE_BY_ONE = ("tests/faults/", "tests/test_scenarios.py", "tests/lake/test_growth.py")

# A failure prints the blob that repeats it. No deadline: two workers share two cores with whatever else runs.
settings.register_profile("flowlens", deadline=None, derandomize=False, print_blob=True)
# What CI says of a change must not depend on the day's luck: always the same examples there. `make fuzz` looks for others.
settings.register_profile("ci", parent=settings.get_profile("flowlens"), derandomize=True, database=None)
settings.register_profile("fuzz", parent=settings.get_profile("flowlens"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "flowlens"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files in tests/golden")
    parser.addoption("--no-skips", action="store_true", help="fail the run if any test was skipped")


class _Scheduling(LoadScopeScheduling):
    """Tests of a file on one worker, so that what they share is made once; the scenarios fill both workers up in the end."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in OVER_TLS:
            return "storage over TLS"
        if file.startswith(ON_SPARK):
            return "a cluster"
        return nodeid if file.startswith(ONE_BY_ONE) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Scheduling:
    return _Scheduling(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", ()) if reporter else ()
    if skipped and session.config.getoption("--no-skips") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.section("skipped tests fail this run", red=True)


@pytest.fixture(scope="session", autouse=True)
def no_data_of_the_users_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What somebody who runs the tests has put into flowlens' data folder is not what they are about."""
    os.environ["FLOWLENS_DATA"] = str(tmp_path_factory.mktemp("data") / "none")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)``: ``text`` is what the reviewed file ``tests/golden/name`` holds.

    ``pytest --update-golden`` writes the file instead; the difference is then read before it is committed.
    """

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        assert text == path.read_text(encoding="utf-8"), f"differs from {name}; see pytest --update-golden"

    return check
