"""What is said where no session of Spark can be had: one line and a next step, before any Java starts."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from flowlens.cli import WRONG_USAGE
from flowlens.errors import LedgerError
from flowlens.spark_sessions import told, tries_of
from tests.flow_logs import SAMPLE, run

SPARK = ("--engine", "spark", "--master")


def refused(*options: str) -> str:
    """The one line and its hint that analyze ends with."""
    ran = run("analyze", SAMPLE, *options)
    assert (ran.code, ran.stdout) == (WRONG_USAGE, b"")
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 2 and "\n  hint: " in ran.err
    return ran.err


@pytest.mark.parametrize("master", ["127.0.0.1:7077", "sparc://h:7077", "", "spark://", "local[2] x"])
def test_a_master_that_is_none(master: str) -> None:
    assert "FL-C02 is not the address of a Spark master" in refused(*SPARK, master)


def test_a_master_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert f"--master spark://127.0.0.1:{port}: FL-C02 does not answer" in refused(*SPARK, f"spark://127.0.0.1:{port}")
    assert "FL-C02 does not answer" in refused(*SPARK, "spark://127.0.0.1:port")


def test_a_machine_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert "FL-C03 found no Java on the PATH" in refused(*SPARK, "local[2]")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert f"FL-C03 found no Java in JAVA_HOME ({tmp_path})" in refused(*SPARK, "local[2]")


@pytest.mark.parametrize("lacking", ["pyspark", "pandas"])
def test_an_installation_without_the_extra(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, lacking, None)
    said = refused(*SPARK, "local[2]")
    assert "FL-C01" in said and "pip install 'flowlens[spark]'" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--engine", "sparkle"), "did you mean spark?"),
        (("--engine", "spark"), "expected --master URL"),
        (("--master", "local[2]"), "add --engine spark"),
        (("--scratch", "/mnt/shared"), "add --engine spark"),
    ],
)
def test_options_that_do_not_go_together(options: tuple[str, ...], words: str) -> None:
    assert words in refused(*options)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("[JAVA_GATEWAY_EXITED] Java gateway process exited before sending its port number.", "FL-C03", "start Spark"),
        (
            "...\nModuleNotFoundError: No module named 'flowlens'\n\tat org.apache",
            "FL-C05",
            "No module named 'flowlens'",
        ),
        ("ImportError: flowlens 1.0 on an executor, 2.0 on the driver", "FL-C05", "2.0 on the driver"),
        ('java.io.IOException: Cannot run program "python9": error=2', "FL-C05", "python9"),
        (
            "Traceback\nflowlens.errors.SourceError: a/c: FL-S17 h does not answer\n  hint: check it\n\tat x",
            "FL-C06",
            "FL-S17",
        ),
        ("flowlens.errors.ConfigError: https://a/c: FL-S03 X is not set\n  hint: set it\n", "FL-C07", "set it"),
        (
            "WARN\nERROR Application has been killed. Reason: All masters are unresponsive! Giving up.\n",
            "FL-C11",
            "Reason",
        ),
        ("o.a.s.SparkException: Job aborted due to stage failure: out of memory\n\tat b", "FL-C11", "out of memory"),
        ("", "FL-C11", "the job failed"),
    ],
)
def test_what_spark_prints_becomes_one_line(text: str, code: str, words: str) -> None:
    error = told(text, "spark://h:1")
    assert error.problem.startswith(code) and words in f"{error.problem} {error.hint}"
    assert "\n" not in error.problem and "\tat" not in error.problem


def test_a_ledger_that_does_not_add_up_stays_what_it_is() -> None:
    error = told(
        "x\nflowlens.errors.LedgerError: PT1H.json: expected 3 tuples, found 2\n  hint: report it\n", "spark://h:1"
    )
    assert isinstance(error, LedgerError)
    assert (error.where, error.problem, error.hint) == ("PT1H.json", "expected 3 tuples, found 2", "report it")


@pytest.mark.parametrize(
    ("configuration", "tries"),
    [
        ({"spark.master": "local[2]"}, 1),
        ({"spark.master": "local[*, 3]"}, 3),
        ({"spark.master": "spark://h:1"}, 4),
        ({"spark.master": "yarn", "spark.task.maxFailures": "9"}, 9),
    ],
)
def test_how_often_a_task_is_tried(configuration: dict[str, str], tries: int) -> None:
    class Session:
        conf = configuration

    assert tries_of(Session()) == tries  # type: ignore[arg-type]
