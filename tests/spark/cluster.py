"""A real standalone cluster of Spark on loopback: a master and workers, each a Java process of its own.

``python -m tests.spark.cluster`` starts one by hand until its standard input ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyspark

SPARK_HOME = Path(pyspark.__file__).parent
START_SECONDS = 120
# Short-lived processes: compiling well, a collector with threads of its own and verifying classes cost more than they give.
SPARING = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
_FOREIGN = ("AZURE_", "SPARK_", "PYSPARK_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "POLARS_")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster; ``workers`` are the processes of the workers, ``folder`` holds their files."""

    master: str
    workers: tuple[subprocess.Popen[bytes], ...]
    folder: Path

    def configuration(self, **more: str) -> dict[str, str]:
        """What an application needs to say to run here sparingly, names with dots as ``__``."""
        own = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.cores.max": str(len(self.workers)),
            "spark.executor.memory": "600m",
            "spark.sql.shuffle.partitions": "2",
            # What the first session of a process says stays so for those that follow, unless they say otherwise.
            "spark.executorEnv.HTTP_PROXY": "",
            "spark.task.maxFailures": "4",
            "spark.sql.codegen.wholeStage": "false",
            "spark.driver.extraJavaOptions": SPARING,
            "spark.executor.extraJavaOptions": SPARING,
        }
        return own | {name.replace("__", "."): value for name, value in more.items()}

    def write_defaults(self, folder: Path, **more: str) -> Path:
        """The same as the file that SPARK_CONF_DIR names; the folder."""
        folder.mkdir(exist_ok=True)
        lines = [f"{name} {value}" for name, value in self.configuration(**more).items()]
        (folder / "spark-defaults.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    def executors_of(self, worker: subprocess.Popen[bytes]) -> list[int]:
        """The process ids of the executors of a worker, which are its children."""
        return _children(worker.pid)


@contextmanager
def running(workers: int = 2, *, environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster that has just been started and is ended with the block; ``environment`` is that of its executors."""
    folder = Path(tempfile.mkdtemp(prefix="flowlens-spark-"))
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith(_FOREIGN)}
    own |= {"SPARK_HOME": str(SPARK_HOME), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(folder)}
    # Else workers look for a build of Spark's sources to find it out.
    (core,) = SPARK_HOME.glob("jars/spark-core_*.jar")
    own["SPARK_SCALA_VERSION"] = core.name.split("_")[1].partition("-")[0]
    started: list[subprocess.Popen[bytes]] = []
    try:
        at = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
        log = folder / "master.log"
        started.append(_java("master.Master", at, own, log))
        master = _said(started[0], log, r"Starting Spark master at (spark://127\.0\.0\.1:\d+)")
        logs = []
        for number in range(workers):
            room = ("--cores", "1", "--memory", "700m", "--work-dir", str(folder / f"worker-{number}"))
            logs.append(folder / f"worker-{number}.log")
            started.append(_java("worker.Worker", (*at, *room, master), own | dict(environment or {}), logs[-1]))
        for process, log in zip(started[1:], logs, strict=True):
            _said(process, log, r"(Successfully registered with master)")
        yield Cluster(master, tuple(started[1:]), folder)
    finally:
        for process in reversed(started):
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def java() -> str:
    """The Java to run; a machine without one fails the test that asks (``make programs`` installs it)."""
    found = shutil.which("java", path=os.environ.get("FLOWLENS_JAVA_PATH") or "/usr/bin:/usr/local/bin:/bin")
    found = found or shutil.which("java")
    assert found, "no java on this machine: run `make programs`"
    return found


def _java(name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    # Ends with this process, however that ends.
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        java(),
        *SPARING.split(),
        "-Xmx160m",
        "-cp",
        f"{SPARK_HOME}/jars/*",
        f"org.apache.spark.deploy.{name}",
    ]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment},
            start_new_session=True,
        )


def _said(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """What the first group of ``pattern`` matches in what the process writes."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(pattern, log.read_text(errors="replace")):
            return found[1]
        assert process.poll() is None, log.read_text(errors="replace")
        time.sleep(0.05)
    raise AssertionError(f"not in time: {pattern}\n{log.read_text(errors='replace')}")


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    others = [p.read_text(encoding="ascii") for p in Path(f"/proc/{pid}/task").glob("*/children")]
    return sorted({int(each) for part in (text, *others) for each in part.split()})


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started, which are in its session."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


if __name__ == "__main__":
    with running() as cluster:
        print(cluster.master, flush=True)
        sys.stdin.read()
