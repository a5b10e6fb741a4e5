"""``python -m bench.matching``: what it costs to say whose a million addresses are, beside decoding the logs that hold them.

Every address is the destination of one flow: its Begin and its End, two flow tuples. Matching finds the service tags of
all addresses and the requirements of all profiles that they meet. Figures are CPU seconds of all threads in one process,
the least of the rounds; the exit code is 1 where matching costs more than decoding.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from bench.generate import START
from flowlens.analyses.egress import _matcher, _needs
from flowlens.catalog import load_profile, load_tags, profile_names
from flowlens.formats import decode_flow_log

HERE = Path(__file__).parent
_TUPLES = 400
_IPV6_EVERY = 20
_KNOWN_EVERY = 2
SETTINGS = {"region": "westeurope"}


def addresses(count: int, seed: int = 1) -> list[str]:
    """Distinct public addresses: half of them in prefixes of service tags, as in logs of Azure, one of twenty IPv6."""
    chance = random.Random(seed)
    tags = load_tags()
    prefixes = [p for name in tags.names for p in tags.prefixes(name)]
    found: dict[str, None] = {}
    while len(found) < count:
        number = len(found)
        if number % _IPV6_EVERY == 0:
            found[str(ipaddress.IPv6Address((0x2603_1000 << 96) + chance.getrandbits(90)))] = None
        elif number % _KNOWN_EVERY:
            base, _, length = chance.choice(prefixes).partition("/")
            if ":" not in base:
                first = int(ipaddress.IPv4Address(base))
                found[str(ipaddress.IPv4Address(first + chance.getrandbits(32 - int(length))))] = None
        else:
            found[str(ipaddress.IPv4Address(0x0B00_0000 + chance.randrange(0x9F00_0000)))] = None
    return list(found)


def blob(destinations: list[str]) -> bytes:
    """A flow log in which each destination has one answered flow."""
    began = int(START.timestamp() * 1000)
    records = []
    for first in range(0, len(destinations), _TUPLES // 2):
        tuples = []
        for number, address in enumerate(destinations[first : first + _TUPLES // 2], start=first):
            head = f"10.10.1.{number % 200 + 4},{address},{32768 + number % 28000},443,6,O"
            tuples += [
                f"{began + number},{head},B,NX,0,0,0,0",
                f"{began + number},{head},E,NX,12,1830,10,{4000 + number}",
            ]
        flows = [{"aclID": "nsg-app", "flowGroups": [{"rule": "UserRule_AllowWebOutBound", "flowTuples": tuples}]}]
        records.append({
            "time": "2026-03-02T00:59:00Z", "flowLogVersion": 4, "macAddress": "00005E005301", "category": "FlowLogFlowEvent",
            "flowLogResourceID": "/SUBSCRIPTIONS/0/FLOWLOGS/A", "targetResourceID": "/subscriptions/0/virtualNetworks/a",
            "operationName": "FlowLogFlowEvent", "flowRecords": {"flows": flows},
        })  # fmt: skip
    return json.dumps({"records": records}).encode()


def decode(data: bytes) -> int:
    """Flow tuples of the blob, decoded."""
    chunks = (data[at : at + 2**22] for at in range(0, len(data), 2**22))
    return sum(decoded.flows.num_rows for decoded in decode_flow_log(chunks, where="bench"))


def matcher(destinations: list[str]) -> Callable[[], int]:
    """What matches all destinations; tags and profiles are loaded before, as once in a run."""
    tags = load_tags()
    tags.identify(pl.Series(destinations[:1]))
    meet = _matcher(_needs([load_profile(name) for name in profile_names()], "global", SETTINGS, tags, None))
    attempts = pl.DataFrame({"dst_ip": destinations}).with_columns(
        vnet=pl.lit("v"), subnet=pl.lit("s"), workload=pl.lit("w"), dst_port=pl.lit(443, pl.Int32),
        protocol=pl.lit(6, pl.Int16), dst_place=pl.lit("external"),
    )  # fmt: skip

    def match() -> int:
        named = tags.identify(attempts["dst_ip"])
        return named.height + meet(attempts).height

    return match


def cpu(work: Callable[[], int], rounds: int) -> tuple[float, int]:
    """The least CPU seconds of a piece of work, and what it gave."""
    least, result = float("inf"), 0
    for _ in range(rounds):
        began = time.process_time()
        result = work()
        least = min(least, time.process_time() - began)
    return least, result


def main() -> int:
    """Measure both, print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.matching", description=__doc__)
    parser.add_argument("--addresses", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    destinations = addresses(given.addresses)
    data = blob(destinations)
    decoding, rows = cpu(lambda: decode(data), given.rounds)
    matching, matched = cpu(matcher(destinations), given.rounds)
    sys.stdout.write(
        f"decoding {rows} flow tuples ({len(data) / 1e6:.0f} MB): {decoding:.2f} s of CPU\n"
        f"matching {len(destinations)} addresses, {matched} answers: {matching:.2f} s of CPU\n"
        f"matching / decoding: {matching / decoding:.2f}\n"
    )
    return int(matching > decoding)


if __name__ == "__main__":
    sys.exit(main())
