"""Spark sessions: what is checked before one is started, and what Spark's own errors mean in one line."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flowlens.errors import FlowlensError, LedgerError
from flowlens.sources.refusals import declared

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_MASTER = re.compile(r"local(\[[^\]]+\])?|spark://[^/\s]+|yarn|k8s://\S+")
_LOCAL = re.compile(r"local(?:\[(?:\d+|\*)(?:\s*,\s*(\d+))?\])?")
_CONNECT_SECONDS = 5.0
_EXECUTOR_SECONDS = 60.0
_MOMENT = 0.2
_POLL_SECONDS = 0.5
_SAID_BYTES = 1 << 16
_TRIES = 4
"""How often Spark tries a task unless it is told otherwise (spark.task.maxFailures, Spark configuration, read 2026)."""
_RAISED = re.compile(r"^(?:flowlens\.errors\.)?(\w+Error): (.+?): (.+)\n(?:\s+hint: (.+))?", re.MULTILINE)
_OWN_IDS = re.compile(r"FL-[A-Z]\d\d")
_LACKING = re.compile(
    r"(?:ModuleNotFoundError|ImportError): .+|\[?PYTHON_VERSION_MISMATCH\]?.+|Cannot run program .+|\[?PACKAGE_NOT_INSTALLED\]?.+"
)
_NETWORK = {"FL-S11", "FL-S16", "FL-S17", "FL-S20", "FL-S21", "FL-S22", "FL-S23", "FL-S24"}


def check_master(master: str) -> None:
    """Whether a session for ``master`` can be started: raises ConfigError or SourceError where not, before Java is started.

    >>> check_master("sparc://host:7077")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    flowlens.errors.ConfigError: --master sparc://host:7077: FL-C02 is not the address of a Spark master
      hint: ...
    """
    where = f"--master {master:.200}"
    if not _MASTER.fullmatch(master):
        raise declared("FL-C02", where, "is not the address of a Spark master")
    if find_spec("pyspark") is None or find_spec("pandas") is None:
        raise declared("FL-C01", "--engine spark")
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if found is None:
        raise declared("FL-C03", "--engine spark", f"in JAVA_HOME ({home})" if home else "on the PATH")
    if master.startswith("spark://"):
        places = master.removeprefix("spark://").split(",")
        if not any(map(_answers, places)):
            raise declared("FL-C02", where, "does not answer")


def _answers(place: str) -> bool:
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False


@contextmanager
def session(master: str) -> Iterator[SparkSession]:
    """A session of its own on ``master``, ended with the block; raises FlowlensError where there is none to be had."""
    check_master(master)
    from pyspark.sql import SparkSession

    if is_here(master):
        # Spark's own choice is whatever python3 is on the PATH.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # Spark sets a handler of its own, after which a signal would no longer end the run as everywhere else.
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    builder = SparkSession.builder.master(master).appName("flowlens")
    with _said_to_file() as said, spark_errors(f"--master {master}", said):
        spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    # What talks to Java logs the traceback of an interrupt, to the root logger.
    silent = logging.NullHandler()
    logging.getLogger().addHandler(silent)
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if master.startswith("spark://"):
            _wait_for_executor(spark, master)
        yield spark
    finally:
        # After an interrupt the gateway to Java may be gone; what is left ends with this process.
        with suppress(*_errors()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spark.stop()
        logging.getLogger().removeHandler(silent)


@contextmanager
def _said_to_file() -> Iterator[Callable[[], str]]:
    """What Java says on stderr goes to a file that is gone with it, so that a person sees this program's lines alone.

    Gives what was said so far. Java is started in the block and keeps the file for all its life.
    """
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.pread(file.fileno(), _SAID_BYTES, 0).decode(errors="replace")
        finally:
            os.dup2(before, 2)
            os.close(before)


def _wait_for_executor(spark: SparkSession, master: str) -> None:
    """Standalone clusters let a job wait for ever where no worker has room."""
    tracker = spark.sparkContext._jsc.sc().statusTracker()
    deadline = time.monotonic() + _EXECUTOR_SECONDS
    while len(tracker.getExecutorInfos()) < 2:
        if time.monotonic() > deadline:
            raise declared("FL-C04", f"--master {master}", f"{_EXECUTOR_SECONDS:g}")
        time.sleep(_MOMENT)


def tries_of(spark: SparkSession) -> int:
    """How often this session's cluster tries a task before the job fails."""
    if local := _LOCAL.fullmatch(str(spark.conf.get("spark.master", ""))):
        return int(local[1] or 1)
    return int(str(spark.conf.get("spark.task.maxFailures", str(_TRIES))))


def cores_of(spark: SparkSession) -> int:
    """About how many tasks run at once; where the session does not tell, as over Spark Connect, a guess."""
    context = getattr(spark, "sparkContext", None)
    return int(context.defaultParallelism) if context is not None else 16


def is_here(master: str) -> bool:
    """Whether all executors run on this machine, so that its folders and its Python serve all of them.

    >>> is_here("local[2]"), is_here("spark://127.0.0.1:7077"), is_here("spark://10.0.0.4:7077"), is_here("yarn")
    (True, True, False, False)
    """
    hosts = {place.rpartition(":")[0] for place in master.removeprefix("spark://").split(",")}
    return bool(_LOCAL.fullmatch(master)) or hosts <= {"127.0.0.1", "localhost", "[::1]"}


def _errors() -> tuple[type[BaseException], ...]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    return PySparkException, Py4JError, OSError


@contextmanager
def spark_errors(where: str, said: Callable[[], str] = str) -> Iterator[None]:
    """Whatever Spark raises in the block as an error of flowlens; ``where`` names the cluster, ``said`` gives what Java wrote."""
    try:
        yield
    except FlowlensError:
        raise
    except _errors() as error:
        raise told(f"{error}\n{said()}", where) from None


def told(text: str, where: str) -> FlowlensError:
    """The error behind what Spark printed, which is mostly the traceback of an executor."""
    if "JAVA_GATEWAY_EXITED" in text or "UnsupportedClassVersionError" in text:
        return declared("FL-C03", where, "that can start Spark")
    raised = [each for each in _RAISED.findall(text) if each[0] == "LedgerError" or _OWN_IDS.match(each[2])]
    if raised:
        kind, place, problem, hint = raised[-1]
        return LedgerError(place, problem, hint=hint) if kind == "LedgerError" else on_executor(place, problem, hint)
    if lacking := _LACKING.search(text):
        return declared("FL-C05", where, lacking[0])
    if ended := re.search(r"(?:Application has been killed\. )?Reason: .+", text):
        return declared("FL-C11", where, ended[0])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return declared("FL-C11", where, next((line for line in lines if "Exception" in line or "Error" in line), text))


def on_executor(place: str, problem: str, hint: str) -> FlowlensError:
    """The error of an account that the driver could list and no executor could read."""
    code = problem.partition(" ")[0]
    return declared("FL-C06" if code in _NETWORK else "FL-C07", place, problem, step=hint)


@contextmanager
def followed(
    spark: SparkSession, progress: Callable[[int, int, int], None] | None, tasks: int, blobs: int, size: int
) -> Iterator[None]:
    """Progress is told while the block runs its job, by the tasks that are done; the job ends with the block, however that ends."""
    context: Any = getattr(spark, "sparkContext", None)
    if context is None:
        yield
        return
    group = f"flowlens-{uuid4().hex}"
    context.setJobGroup(group, "flowlens reads flow logs", interruptOnCancel=True)
    over = threading.Event()

    def follow() -> None:
        tracker = context.statusTracker()
        while not over.wait(_POLL_SECONDS):
            stages = [
                tracker.getStageInfo(stage)
                for job in tracker.getJobIdsForGroup(group)
                for stage in tracker.getJobInfo(job).stageIds
            ]
            done = sum(stage.numCompletedTasks for stage in stages if stage is not None)
            assert progress is not None
            progress(blobs * done // tasks, size * done // tasks, size)

    thread = threading.Thread(target=follow, daemon=True, name="flowlens-progress") if progress else None
    try:
        if thread:
            thread.start()
        yield
        if progress:
            progress(blobs, size, size)
    except BaseException:
        context.cancelJobGroup(group)
        raise
    finally:
        over.set()
        if thread:
            thread.join()
