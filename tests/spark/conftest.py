"""A cluster and a blob server, one of each for all tests of Spark; started when a test first asks for them."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from flowlens.sources.accounts import Access
from tests.faults.azurite import ACCOUNT, KEY, Azurite
from tests.faults.azurite import running as azurite_running
from tests.faults.day import upload
from tests.spark.cluster import Cluster
from tests.spark.cluster import running as cluster_running

# `make spark` runs the long forms too.
collect_ignore = (
    [] if os.environ.get("SPARK_LONG") else ["test_attempts.py", "test_command_line.py", "test_failures.py"]
)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Stored:
    """A container with the blobs of a folder, and what reads it."""

    server: Azurite
    name: str

    @property
    def url(self) -> str:
        """What flowlens is given."""
        return f"{self.server.account_url}/{self.name}"

    @property
    def access(self) -> Access:
        """The account's key, which the environment holds."""
        return Access(auth="key", account_url=self.server.account_url, timeout=5)

    @property
    def options(self) -> tuple[str, ...]:
        """The same for the command line."""
        return "--auth", "key", "--account-url", self.server.account_url, "--timeout", "5"


Put = Callable[[Path], Stored]
"""What the fixture ``stored`` gives."""


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """A blob server over plain http."""
    with azurite_running() as server:
        yield server


def lake_variables(server: Azurite) -> dict[str, str]:
    """Where a lake in the server's account is, and its key, as variables of the environment."""
    return {
        "FLOWLENS_LAKE_KEY": KEY,
        "FLOWLENS_LAKE_ENDPOINT": server.account_url,
        "FLOWLENS_LAKE_ACCOUNT": ACCOUNT,
    }


@pytest.fixture(scope="session")
def cluster(azurite: Azurite) -> Iterator[Cluster]:
    """One master and two workers, whose executors find the account's key in their environment, and that of the lakes."""
    with cluster_running(environment={"AZURE_STORAGE_KEY": KEY, **lake_variables(azurite)}) as running:
        yield running


@pytest.fixture
def stored(azurite: Azurite, tmp_path: Path) -> Put:
    """Puts the container of a folder into the server; gives its folder on disk the same name."""

    def put(container: Path) -> Stored:
        name = f"insights-logs-flowlogflowevent-{next(_numbers)}"
        upload(container, azurite.container(name))
        (tmp_path / name).symlink_to(container)
        return Stored(azurite, name)

    return put


@pytest.fixture(autouse=True, scope="module")
def own_environment() -> Iterator[None]:
    """Nothing of the machine's own configuration reaches a test."""
    foreign = ("AZURE_", "SPARK_", "PYSPARK_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "FLOWLENS_LAKE_")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith(foreign)]:
            patch.delenv(name)
        patch.setenv("AZURE_STORAGE_KEY", KEY)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        yield


@pytest.fixture(scope="module")
def spark(cluster: Cluster, own_environment: None) -> Iterator[SparkSession]:
    """One session for the tests of a module; a process has one at a time."""
    with session_on(cluster) as session:
        yield session


@contextmanager
def session_on(cluster: Cluster, **more: str) -> Iterator[SparkSession]:
    """A session as a notebook has one; names of settings with dots as ``__``."""
    builder = SparkSession.builder.master(cluster.master).appName("tests")
    for name, value in cluster.configuration(**more).items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()
