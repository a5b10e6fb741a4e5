"""Ctrl-C and termination while a storage account is read: the right exit code, soon, and nothing half-written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import LONG, Stored, options
from tests.faults.loopback import Handler, serving
from tests.faults.proxies import Broken, Fault, Request, fault_proxy
from tests.faults.writer import DAY, GrowingBlob
from tests.make_logs import MACS

TOP = Path(__file__).parents[2]
WINDOW = ("--start", "2026-06-15T09:00Z", "--end", "2026-06-15T10:00Z")
TIMES = 25 if LONG else 1
SECONDS = 10
PLACES = ("sign-in", "listing", "reading")
BOTH = (signal.SIGINT, signal.SIGTERM)
CASES = [
    (place, number) for place in PLACES for number in BOTH if LONG or place == "reading" or number == signal.SIGTERM
]


@pytest.mark.parametrize(("place", "number"), CASES)
def test_a_signal_ends_a_run_soon_and_leaves_nothing(stored: Stored, tmp_path: Path, place: str, number: int) -> None:
    for mac in MACS:
        GrowingBlob(stored.client, mac=mac, hour=DAY.replace(hour=9)).create(2)
    for turn in range(TIMES):
        rng = random.Random(f"{number} {place} {turn}")
        reached = threading.Event()
        folder = tmp_path / f"{turn}"
        folder.mkdir()
        with _silent_at(place, stored, rng, reached) as (url, arguments, environment):
            process = subprocess.Popen(
                [sys.executable, "-m", "flowlens", "analyze", url, *arguments, *WINDOW, "-o", "report.json"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(TOP), "TMPDIR": str(folder), **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            try:
                assert reached.wait(60), f"turn {turn}: the run never came there"
                time.sleep(rng.random() / 5)
                process.send_signal(number)
                began = time.monotonic()
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
                process.wait()
        assert time.monotonic() - began < SECONDS
        assert process.returncode == 128 + number, err
        assert not out and b"Traceback" not in err, err
        assert list(folder.iterdir()) == [], f"turn {turn}: left behind"


@contextmanager
def _silent_at(
    place: str, stored: Stored, rng: random.Random, reached: threading.Event
) -> Iterator[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Source, options and variables of a run that a server keeps waiting at ``place``; ``reached`` is set when it does."""
    first = rng.randrange(4)

    def plan(request: Request) -> Fault | None:
        waits = request.is_read if place == "reading" else request.is_list and request.number >= first
        if not waits:
            return None
        reached.set()
        return Broken("stall", rng.choice((0, 30)))

    class Silent(Handler):
        def respond(self) -> None:
            reached.set()
            self.connection.recv(1)

    if place == "sign-in":
        with serving(Silent) as port:
            variables = {"IDENTITY_ENDPOINT": f"http://127.0.0.1:{port}/msi/token", "IDENTITY_HEADER": "x"}
            url = stored.url.replace("http:", "https:")
            yield url, ("--account-url", url.rpartition("/")[0]), variables
    else:
        with fault_proxy(stored.server.host, plan) as proxy:
            url = stored.through(proxy.host)
            yield url, options(url, 30), {}
