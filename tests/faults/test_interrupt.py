"""Ctrl-C and termination while a storage account is read: the right exit code, soon, and nothing half-written."""

from __future__ import annotations

import os
import random
import signal
import socket
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
PLACES = ("sign-in", "folders", "pages", "reading")
BOTH = (signal.SIGINT, signal.SIGTERM)
CASES = [
    (place, number) for place in PLACES for number in BOTH if LONG or place == "reading" or number == signal.SIGTERM
]


@pytest.mark.slow
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
                took = time.monotonic() - began
            finally:
                process.kill()
                process.wait()
        assert took < SECONDS, f"turn {turn}"
        assert process.returncode == 128 + number, err
        assert not out and b"Traceback" not in err, err
        assert list(folder.iterdir()) == [], f"turn {turn}: left behind"


def test_a_signal_ends_a_wait_for_a_name_server_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        silent = ("--timeout", "30", "--server", f"127.0.0.1:{server.getsockname()[1]}")
        process = subprocess.Popen(
            [sys.executable, "-m", "flowlens", "resolve", "windows-kms", "-o", str(tmp_path / "names.csv"), *silent],
            cwd=TOP,
            stderr=subprocess.PIPE,
        )
        try:
            server.recv(512)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            _, err = process.communicate(timeout=60)
            took = time.monotonic() - began
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, err.decode()) == (128 + signal.SIGTERM, "stopped\n")
    assert took < SECONDS
    assert not list(tmp_path.iterdir())


@contextmanager
def _silent_at(
    place: str, stored: Stored, rng: random.Random, reached: threading.Event
) -> Iterator[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Source, options and variables of a run that a server keeps waiting at ``place``; ``reached`` is set when it does."""
    first = rng.randrange(4)

    def plan(request: Request) -> Fault | None:
        waits = {
            "folders": request.is_list and request.number >= first,
            # These are asked for by threads of their own, two hours at once.
            "pages": request.is_list and "delimiter" not in request.query,
            "reading": request.is_read,
        }
        if not waits[place]:
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
