"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

GOLDEN = Path(__file__).parent / "golden"

# A failure prints the blob that repeats it. No deadline: two workers share two cores with whatever else runs.
settings.register_profile("flowlens", deadline=None, derandomize=False, print_blob=True)
# A fresh clone has no examples to start from and keeps none.
settings.register_profile("ci", parent=settings.get_profile("flowlens"), database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "flowlens"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files in tests/golden")
    parser.addoption("--no-skips", action="store_true", help="fail the run if any test was skipped")


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
