"""Flow log blobs of any size whose sums are known: ``python -m bench.generate FOLDER --kind big --megabytes 250``.

Seeded, standard library only. Flow tuples are put together from pieces made once (time, addresses, source port, rest), so that
writing is about as fast as the disk, and every sum is a difference of two prefix sums. A blob is one NIC's hour in
the container layout; its conversations are met in a cycle, half of all tuples in the first fiftieth of them, as busy peers are.

Kinds: ``big`` is a blob of a busy NIC, ``small`` are the hours of quiet ones in many short groups, ``hour`` is one hour of many NICs
of very different size, ``ragged`` has tuples of nine fields, without counters, among the others, ``pretty`` is printed with indents, ``nsg``
is the format before, ``ipv6`` has 19 IPv6 addresses to each IPv4 one, in ``steady`` long flows are met every minute, some sixty times,
and in ``scan`` no address is met twice.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

KINDS = ("big", "small", "hour", "ragged", "pretty", "nsg", "ipv6", "steady", "scan")
START = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
EXPECTED = "expected.json"
BLOBS = "blobs"
"""The folder beside EXPECTED that a program is pointed at."""

_SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
_POOL = 1 << 13
_HOT_SHARE = 50
"""One conversation of this many is busy; busy ones get half of all tuples."""
_IPV6_EVERY = 20
_SCRAMBLE = 2_654_435_761  # odd, so that multiplying by it visits every number below a power of two once
_TUPLES = {kind: 72 if kind == "small" else 400 for kind in KINDS}
"""Tuples of a record: 32 KB in a large blob; small ones come in many short groups."""
_TUPLE_BYTES = 80
_SHORT = 0.02
_STEADY = 60
"""Tuples of a conversation where flows are long."""
_UNEVEN = 1.5
"""How far the sizes of an hour's blobs lie apart: the largest of a thousand is some ten thousand times the smallest."""
_SCANNED = 2**27
_SWEPT = 2**22
"""Where a scan's next blob goes on, so that a few million conversations of each are others than those of all before."""
COUNTERS = ("packets_sent", "bytes_sent", "packets_received", "bytes_received")


class Rule(NamedTuple):
    """A rule and the traffic that it decides; ``weight`` is its share of tuples, ``keys`` of conversations, in percent."""

    acl: str
    name: str
    weight: int
    keys: int
    direction: str
    allowed: bool
    internal: bool
    protocol: int
    ports: tuple[int, ...]
    encryption: str


_SCAN = {"UserRule_AllowWebOutBound": 40, "DefaultRule_DenyAllInBound": 60}
"""Shares of a scan: one NIC scans the Internet and is scanned from there."""
RULES = (
    Rule("nsg-app", "UserRule_AllowWebOutBound", 40, 45, "O", True, False, 6, (443, 80), "NX"),
    Rule("nsg-app", "DefaultRule_AllowVnetOutBound", 20, 15, "O", True, True, 6, (1433, 5432, 6379, 443), "X"),
    Rule("nsg-app", "UserRule_AllowHttpsInBound", 20, 20, "I", True, False, 6, (443,), "NX"),
    Rule("nsg-app", "DefaultRule_DenyAllInBound", 10, 15, "I", False, False, 6, (22, 23, 3389, 8080), "NX"),
    Rule("nsg-subnet", "UserRule_DenyMailOutBound", 5, 4, "O", False, False, 6, (25, 587), "NX"),
    Rule("nsg-subnet", "DefaultRule_AllowVnetInBound", 5, 1, "I", True, True, 17, (53, 514), "NX"),
)


@dataclass(frozen=True)
class Order:
    """What to generate: ``megabytes`` (10^6) in ``blobs`` blobs with about ``keys`` conversations in all.

    Without ``keys`` there are 100,000, or as many as the kind wants; a scan has a conversation for each tuple in any case.
    """

    kind: str = "big"
    megabytes: float = 60.0
    blobs: int = 1
    keys: int | None = None
    seed: int = 1

    def conversations(self) -> int:
        """About how many conversations there are in all."""
        steady = int(self.megabytes * 1e6 / _TUPLE_BYTES / _STEADY)
        return self.keys or (steady if self.kind == "steady" else 100_000)


@dataclass
class Expected:
    """What a program must find in the blobs: exact sums, by rule too."""

    order: Order
    bytes: int = 0
    blobs: int = 0
    records: int = 0
    tuples: int = 0
    keys: int = 0
    """Distinct conversations as CONVERSATIONS counts them, blob by blob."""
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("flows_started", "flows_denied", *COUNTERS), 0))
    rule_tuples: dict[str, int] = field(default_factory=lambda: {rule.name: 0 for rule in RULES})
    rule_bytes: dict[str, int] = field(default_factory=lambda: {rule.name: 0 for rule in RULES})


class _Tails:
    """A cycle of tuple endings (state, encryption, counters) and the prefix sums of what stands in them."""

    def __init__(self, rng: random.Random, rule: Rule, kind: str) -> None:
        nsg = kind == "nsg"
        letter = "A," if rule.allowed else "D,"
        texts: list[bytes] = []
        numbers: list[tuple[int, ...]] = []
        for _ in range(_POOL):
            state = rng.choices("BCE", (34, 32, 34))[0] if rule.allowed else "D"
            counters = _counters(rng) if state in "CE" else None
            short = kind == "ragged" and rng.random() < _SHORT
            if nsg:
                text = f"{letter}{state if rule.allowed else 'B'}" + (
                    "," + ",".join(map(str, counters)) if counters else ",,,,"
                )
            elif counters is None:
                text = f"{state},{rule.encryption}" + ("" if short else ",0,0,0,0")
            else:
                text = f"{state},{rule.encryption},%d,%d,%d,%d" % counters
            texts.append(text.encode())
            numbers.append((state == "B", state == "D", *(counters or (0, 0, 0, 0))))
        self.texts = texts * 2
        self.sums = [
            list(itertools.accumulate(column * 2, initial=0)) for column in map(list, zip(*numbers, strict=True))
        ]

    def take(self, at: int, count: int) -> tuple[list[bytes], list[int]]:
        """``count`` endings from ``at`` on, and the sums of their numbers."""
        return self.texts[at : at + count], [sums[at + count] - sums[at] for sums in self.sums]


def _counters(rng: random.Random) -> tuple[int, int, int, int]:
    sent = 1 + int(rng.expovariate(0.08))
    received = sent + rng.randrange(-sent // 2, sent + 1)
    return sent, sent * rng.randrange(60, 900), received, received * rng.randrange(80, 1400)


class _Cycle:
    """A list met round and round."""

    def __init__(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        self.items = items
        self.at = 0
        self.met = 0

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """The next ``count`` items, from the start again behind the last."""
        if not self.items:
            return []
        taken = list(self.items[self.at : self.at + count])
        while len(taken) < count:
            taken += self.items[: count - len(taken)]
        self.at = (self.at + count) % len(self.items)
        self.met = min(self.met + count, len(self.items))
        return taken


class _Sweep:
    """Conversations of which none is met twice, made as they are taken: an address and a port after the other."""

    def __init__(self, rule: Rule, own: int, first: int) -> None:
        self.rule = rule
        self.first = first
        self.own = f"10.{own >> 14 & 63}.{own >> 6 & 255}.{4 + (own & 63)}"
        self.ports = [f",{port},{rule.protocol},{rule.direction},".encode() for port in rule.ports]
        self.met = 0

    def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """The next ``count`` conversations."""
        taken = []
        for number in range(self.first + self.met, self.first + self.met + count):
            at, place = divmod(number, len(self.ports))
            host = at * _SCRAMBLE % _SCANNED
            peer = f"{64 + (host >> 24)}.{host >> 16 & 255}.{host >> 8 & 255}.{host & 255}"
            ends = f"{self.own},{peer}," if self.rule.direction == "O" else f"{peer},{self.own},"
            taken.append((ends.encode(), self.ports[place]))
        self.met += count
        return taken


def _address(number: int, internal: bool, kind: str) -> str:
    """A peer's address, different for each number: every twentieth is IPv6, or all but every twentieth."""
    if (number % _IPV6_EVERY == _IPV6_EVERY - 1) != (kind == "ipv6"):
        return f"{'fd00' if internal else '2001:db8'}::1{number >> 12 & 0xFFF:03x}:1{number & 0xFFF:03x}"
    host = number * _SCRAMBLE % 2**23
    first = 10 if internal else 20 + 25 * (number % 2)
    return f"{first}.{128 + (host >> 16)}.{host >> 8 & 255}.{host & 255}"


def _conversations(rule: Rule, count: int, first: int, own: int, kind: str) -> list[tuple[bytes, bytes]]:
    """What stands before and behind the source port, for ``count`` conversations of the NIC numbered ``own``."""
    found = []
    protocol = {6: "T", 17: "U"}[rule.protocol] if kind == "nsg" else str(rule.protocol)
    for index in range(count):
        number = first + index // len(rule.ports)
        peer = _address(number, rule.internal, kind)
        mine = f"fd01::{own + 4:x}" if ":" in peer else f"10.{own >> 14 & 63}.{own >> 6 & 255}.{4 + (own & 63)}"
        ends = (mine, peer) if rule.direction == "O" else (peer, mine)
        port = rule.ports[index % len(rule.ports)]
        found.append((f"{ends[0]},{ends[1]},".encode(), f",{port},{protocol},{rule.direction},".encode()))
    return found


class _Pools:
    """Pieces that all blobs share."""

    def __init__(self, order: Order) -> None:
        rng = random.Random(order.seed)
        self.rng = rng
        self.tails = [_Tails(rng, rule, order.kind) for rule in RULES]
        ports = rng.sample(range(32_768, 60_999), 1 << 14)
        self.ports = [b"%d" % port for port in ports * 3]
        self.offsets = sorted(rng.choices(range(60_000), k=1 << 12))


def _resource(kind: str, name: str) -> str:
    return f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/rg-bench/providers/Microsoft.Network/{kind}/{name}"


def _skeleton(order: Order, mac: str, sizes: Sequence[int]) -> bytes:
    """A record with a mark at its time and in each list of tuples, laid out as the kind wants."""
    wanted = [(rule, f"@{number}@") for number, rule in enumerate(RULES) if sizes[number]]
    record: dict[str, object] = {"time": "@time@"}
    if order.kind == "nsg":
        flows = [{"rule": rule.name, "flows": [{"mac": mac, "flowTuples": [mark]}]} for rule, mark in wanted]
        record |= {
            "systemId": "00000000-0000-0000-0000-000000000002",
            "macAddress": mac,
            "category": "NetworkSecurityGroupFlowEvent",
            "resourceId": _resource("networkSecurityGroups", "nsg-app").upper(),
            "operationName": "NetworkSecurityGroupFlowEvents",
            "properties": {"Version": 2, "flows": flows},
        }
    else:
        flows = [
            {
                "aclID": _resource("networkSecurityGroups", acl),
                "flowGroups": [{"rule": rule.name, "flowTuples": [mark]} for rule, mark in members],
            }
            for acl, members in itertools.groupby(wanted, lambda pair: pair[0].acl)
        ]
        record |= {
            "flowLogGUID": "00000000-0000-0000-0000-00000000f001",
            "macAddress": mac,
            "category": "FlowLogFlowEvent",
            "flowLogResourceID": _resource("networkWatchers", "NetworkWatcher_japaneast/flowLogs/bench").upper(),
            "targetResourceID": _resource("virtualNetworks", "vnet-bench"),
            "flowLogVersion": 4,
            "operationName": "FlowLogFlowEvent",
            "flowRecords": {"flows": flows},
        }
    text = json.dumps(record, indent=2) if order.kind == "pretty" else json.dumps(record, separators=(",", ":"))
    return text.encode()


def _sizes(order: Order) -> list[int]:
    """Tuples of each rule in a record."""
    shares = [_SCAN.get(rule.name, 0) if order.kind == "scan" else rule.weight for rule in RULES]
    return [_TUPLES[order.kind] * share // 100 for share in shares]


def _nic_and_hour(order: Order, number: int) -> tuple[int, int]:
    """Whose blob is the one with this number, and of which hour of the day."""
    return (number, 0) if order.kind == "hour" else divmod(number, 24)


def _path(order: Order, mac: str, hour: dt.datetime) -> str:
    nsg = order.kind == "nsg"
    container = f"insights-logs-{'networksecuritygroupflowevent' if nsg else 'flowlogflowevent'}"
    root = (
        f"resourceId={_resource('networkSecurityGroups', 'nsg-app').upper()}"
        if nsg
        else f"flowLogResourceID=/{_SUBSCRIPTION}_NETWORKWATCHERRG/NETWORKWATCHER_JAPANEAST_BENCH"
    )
    return f"{container}/{root}/{hour:y=%Y/m=%m/d=%d/h=%H/m=00}/macAddress={mac}/PT1H.json"


class _Writer:
    """Records of one blob after the other."""

    def __init__(self, order: Order, expected: Expected) -> None:
        self.order = order
        self.expected = expected
        self.pools = _Pools(order)
        self.separator = b'",\n            "' if order.kind == "pretty" else b'","'

    def blob(self, number: int, size: int) -> Iterator[bytes]:
        """The bytes of blob ``number`` in pieces, ``size`` or a record more."""
        order = self.order
        nic, hour_number = _nic_and_hour(order, number)
        hour = START + dt.timedelta(hours=hour_number)
        mac = f"00224{nic:07X}"
        pairs = self._met(number, nic)
        sizes = _sizes(order)
        skeleton = _skeleton(order, mac, sizes)
        marks = [b"@%d@" % place for place in range(len(RULES))]
        yield b'{"records":['
        written, records = 14, 0
        expected_records = max(1, size // (sum(sizes) * _TUPLE_BYTES))
        while written < size:
            minute = min(59, records * 60 // expected_records)
            moment = hour + dt.timedelta(minutes=minute)
            text = skeleton.replace(
                b"@time@", f"{moment + dt.timedelta(minutes=1):%Y-%m-%dT%H:%M:03.6278181Z}".encode()
            )
            parts: list[bytes] = [b","] if records else []
            for place, mark in enumerate(marks):
                if sizes[place]:
                    before, mark_found, text = text.partition(mark)
                    assert mark_found
                    parts += [before, self._group(place, sizes[place], pairs[place], moment)]
            parts.append(text)
            record = b"".join(parts)
            written += len(record)
            records += 1
            yield record
        yield b"]}"
        expected = self.expected
        expected.bytes += written
        expected.blobs += 1
        expected.records += records
        expected.keys += sum(cycle.met for pair in pairs for cycle in pair)

    def _met(self, number: int, nic: int) -> list[tuple[_Cycle | _Sweep, ...]]:
        """For each rule what a blob's tuples are taken from in equal shares: the busy conversations and the others."""
        order = self.order
        if order.kind == "scan":
            return [(_Sweep(rule, nic, number * _SWEPT),) for rule in RULES]
        keys = max(len(RULES) * 2, order.conversations() // order.blobs)
        pairs: list[tuple[_Cycle | _Sweep, ...]] = []
        for place, rule in enumerate(RULES):
            count = max(2, keys * rule.keys // 100)
            found = _conversations(rule, count, (number * 8 + place) * 100_003, nic, order.kind)
            busy = max(1, len(found) // _HOT_SHARE)
            pairs.append((_Cycle(found[:busy]), _Cycle(found[busy:])))
        return pairs

    def _group(self, place: int, count: int, cycles: tuple[_Cycle | _Sweep, ...], moment: dt.datetime) -> bytes:
        """The tuples of one rule in one record, quotes between them but not around them."""
        rng, pools, expected, rule = self.pools.rng, self.pools, self.expected, RULES[place]
        seconds = int(moment.timestamp())
        start = rng.randrange(len(pools.offsets) - count)
        offsets = pools.offsets[start : start + count]
        if self.order.kind == "nsg":
            times = [b"%d," % (seconds + offset // 1000) for offset in offsets]
        else:
            times = [b"%d," % (seconds * 1000 + offset) for offset in offsets]
        met = cycles[0].take(count // len(cycles))
        if len(cycles) > 1:
            met += cycles[1].take(count - len(met))
        at = rng.randrange(1 << 14)
        tails, sums = pools.tails[place].take(rng.randrange(_POOL), count)
        parts: list[bytes] = [b""] * (6 * count)
        parts[0::6] = [self.separator] * count
        parts[1::6] = times
        parts[2::6] = [pair[0] for pair in met]
        parts[3::6] = pools.ports[at : at + count]
        parts[4::6] = [pair[1] for pair in met]
        parts[5::6] = tails
        expected.tuples += count
        for name, value in zip(expected.sums, sums, strict=True):
            expected.sums[name] += value
        expected.rule_tuples[rule.name] += count
        expected.rule_bytes[rule.name] += sums[3] + sums[5]
        return b"".join(parts[1:])


def generate(folder: Path, order: Order) -> Expected:
    """Write the blobs of ``order`` below ``folder/blobs`` and what they hold to ``folder/expected.json``.

    What is there from the same order is used again.
    """
    found = folder / EXPECTED
    if found.is_file():
        told = json.loads(found.read_text())
        if told["order"] == asdict(order):
            return Expected(**{**told, "order": order})
    expected = Expected(order)
    writer = _Writer(order, expected)
    # Small blobs have sizes from a third of the mean to almost double of it, as hours of busy and quiet NICs have.
    rng = random.Random(order.seed)
    weights = [1.0] * order.blobs
    if order.blobs > 1:
        weights = [rng.lognormvariate(0, _UNEVEN) if order.kind == "hour" else rng.uniform(0.35, 1.65) for _ in weights]
    scale = order.megabytes * 1e6 / sum(weights)
    for number, weight in enumerate(weights):
        nic, hour_number = _nic_and_hour(order, number)
        path = folder / BLOBS / _path(order, f"00224{nic:07X}", START + dt.timedelta(hours=hour_number))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=1 << 20) as file:
            file.writelines(writer.blob(number, int(weight * scale)))
    found.write_text(json.dumps(asdict(expected), indent=1) + "\n")
    return expected


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.generate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="big")
    parser.add_argument("--megabytes", type=float, default=Order.megabytes)
    parser.add_argument("--blobs", type=int, default=1)
    parser.add_argument("--keys", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    order = Order(given.kind, given.megabytes, given.blobs, given.keys, given.seed)
    json.dump(asdict(generate(given.folder, order)), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
