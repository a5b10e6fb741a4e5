"""A day of flow logs of many NICs, made from a seed: talk inside the network, egress, denials, and some blobs that are wrong."""

from __future__ import annotations

import gzip
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from azure.storage.blob import ContainerClient

from tests.make_logs import Log, flow, subnet_log, vnet_log, write_blob

PUBLIC = ("20.118.99.224", "40.83.235.53", "52.142.4.99", "203.0.113.9", "198.51.100.77", "2001:db8::5")
RULES = {
    "O": ("DefaultRule_AllowVnetOutBound", "DefaultRule_AllowInternetOutBound"),
    "I": ("DefaultRule_AllowVnetInBound", "UserRule_allow-https"),
}


def write_day(folder: Path, seed: int, *, nics: int, hours: int) -> int:
    """Write the blobs of ``nics`` NICs in that many hours below ``folder``; the number of blobs.

    One hour of one NIC is missing; one blob is gzip, one is cut off and one holds a tuple that is none, so that rejects are
    compared too.
    """
    rng = random.Random(seed)
    paths = []
    for hour in range(hours):
        for nic in range(nics):
            if (hour, nic) == (hours // 2, nics // 2):
                continue
            log = _log_of(nic)
            path = write_blob(
                folder, _mac(nic), _tuples(rng, nic, nics, hour), log=log, hour=hour, rule=RULES["O"][nic % 2]
            )
            paths.append(path)
    compressed, cut, wrong = rng.sample(paths, 3)
    compressed.write_bytes(gzip.compress(compressed.read_bytes()))
    cut.write_bytes(cut.read_bytes()[:-40])
    wrong.write_bytes(wrong.read_bytes().replace(b",443,6,", b",443,6,6,", 1).replace(b",O,", b",Q,", 1))
    return len(paths)


def upload(folder: Path, container: ContainerClient, *, workers: int = 8) -> int:
    """Put every file below ``folder`` into the container under its path; the number of files."""
    paths = [path for path in folder.rglob("*") if path.is_file()]

    def put(path: Path) -> None:
        container.upload_blob(path.relative_to(folder).as_posix(), path.read_bytes())

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(put, paths))
    return len(paths)


def _mac(nic: int) -> str:
    return f"00005E0054{nic:02X}"


def _log_of(nic: int) -> Log:
    return subnet_log("vnet-b", "front") if nic % 5 == 4 else vnet_log("vnet-a")


def _address(nic: int) -> str:
    return f"10.{1 + nic % 5 // 4}.{nic // 10}.{10 + nic}"


def _tuples(rng: random.Random, nic: int, nics: int, hour: int) -> list[str]:
    rows = []
    base = (hour - 9) * 60
    for number in range(rng.randrange(0, 16)):
        minute = base + rng.random() * 60
        peer = _address(rng.randrange(nics)) if rng.random() < 0.6 else rng.choice(PUBLIC)
        state = rng.choice("BCEED")
        counters = tuple(rng.randrange(1, 9_000) for _ in range(4))
        port = rng.choice((443, 1433, 1688, 53))
        ends = (_address(nic), peer, "O") if rng.random() < 0.7 else (peer, _address(nic), "I")
        code = rng.choice(("X", "NX", "NX_HW_NOT_SUPPORTED"))
        rows.append(
            flow(
                ends[0],
                ends[1],
                port,
                ends[2],
                state,
                minute=minute,
                src_port=40_000 + number,
                code=code,
                counters=counters,  # type: ignore[arg-type]
            )
        )
    return rows
