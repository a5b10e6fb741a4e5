"""``python -m tests.scenario SEED``: invent a network, run flowlens on its logs, and compare every answer with the truth."""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import polars as pl

import flowlens as fl
from flowlens.analyses.attempts import attempts_of
from flowlens.analyses.destinations import destinations
from flowlens.analyses.encryption import _status, judged
from tests import truth as truths

Difference = str
Addresses = set[tuple[str, str]]
"""(vnet, address) each."""
Attempts = dict[tuple, str]
"""Status by vnet, source, destination and port."""
SUMS = (
    "flow_tuples",
    "flows_started",
    "flows_denied",
    "packets_sent",
    "bytes_sent",
    "packets_received",
    "bytes_received",
)
NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)


def differences(seed: int, folder: Path, *, write: bool = True, **overrides: bool | int | None) -> list[Difference]:
    """Where flowlens disagrees with the truth of a seed; empty where it agrees on everything.

    ``write=False`` takes the blobs that are in ``folder`` already.
    """
    truth = truths.generate(seed, **overrides)
    if write:
        truth.write_blobs(folder)
    scan = fl.scan(folder, start=truth.start, end=truth.end, threads=1, now=NOW)
    known, attempts = _known(scan), _attempts_by_address(scan)
    return [
        *_ledger(truth, scan, folder),
        *_counted(truth, scan, known),
        *_egress(truth, attempts, known),
        *_encryption(truth, scan, known),
        *_destinations(truth, scan, known),
        *_denied_at_destination(truth, attempts, known),
        *_coverage(truth, scan),
    ]


def traffic_analytics_differences(seed: int, folder: Path) -> list[Difference]:
    """Where the Traffic Analytics rows of a seed lead to other answers than the truth, but for what these rows don't keep.

    They keep no source port, so that a destination with an ephemeral port stays one, and no tuples, so that a reply that is
    small in each flow is not always small in the interval.
    """
    truth = truths.generate(seed, window=False)
    path = folder / "rows.json"
    truth.write_traffic_analytics(path)
    scan = fl.scan(path, threads=1, now=NOW)
    known = _known(scan)
    found = [
        *_encryption(truth, scan, known),
        *_destinations(truth, scan, known, ephemeral=True),
        *_egress(truth, _attempts_by_address(scan), known),
    ]
    small = "expected Answered without data, found Reached"
    rejected = [f"rejected {reject}" for reject in scan.ledger.rejects]
    return [*(line for line in found if not line.endswith(small)), *rejected]


def _compare(what: str, expected: dict, found: dict) -> Iterable[Difference]:
    for key in sorted(expected.keys() | found.keys(), key=str):
        if expected.get(key) != found.get(key):
            yield f"{what} {key}: expected {expected.get(key)}, found {found.get(key)}"


def _ledger(truth: truths.Truth, scan: fl.Scan, folder: Path) -> Iterable[Difference]:
    ledger = scan.ledger
    # A window that leaves out neither a blob nor a tuple is a scan of everything.
    whole = not ledger.outside_window and ledger.blobs == sum(1 for _ in folder.rglob("PT1H.json"))
    everything = scan if whole else fl.scan(folder, threads=1, now=NOW)
    conversations = everything.conversations.collect()
    totals = truth.expected.totals
    found = {name: conversations[name].sum() for name in totals if name in conversations.columns}
    yield from _compare("total", {n: v for n, v in totals.items() if n in found}, found)
    yield from _compare(
        "ledger",
        {
            "rows": truth.expected.tuples_in_window,
            "rejected": 0,
            "restarted": truth.expected.restarted,
            "balanced": True,
        },
        {
            "rows": ledger.rows,
            "rejected": ledger.rejected + ledger.rejected_records,
            "restarted": conversations["flows_restarted"].sum(),
            "balanced": ledger.balanced and everything.ledger.balanced,
        },
    )


def _known(scan: fl.Scan) -> Addresses:
    """(vnet, address) whose owner flowlens learned from these logs."""
    table = scan.inventory.filter(pl.col("mac_address").is_not_null())
    return {(vnet, address) for vnet, address in table.select("vnet", "address").iter_rows() if "/" in vnet}


def _counted(truth: truths.Truth, scan: fl.Scan, known: Addresses) -> Iterable[Difference]:
    expected: dict[tuple, list[int]] = defaultdict(lambda: [0] * len(SUMS))
    loose = set()
    for row in truth.expected.counted:
        key = (
            row.src_vnet if (row.src_vnet, row.src_ip) in known else None,
            row.src_ip,
            row.dst_vnet if (row.dst_vnet, row.dst_ip) in known else None,
            row.dst_ip,
            row.dst_port,
            row.protocol,
        )
        if row.ambiguous:
            loose.add((row.src_ip, row.dst_ip))
        for n, name in enumerate(SUMS):
            expected[key][n] += getattr(row, name) or 0
    rows = (
        scan.evidence.views.filter(pl.col("counted"))
        .group_by(
            pl.when(pl.col("src_nic").is_not_null()).then("src_vnet").alias("src_vnet"),
            "src_ip",
            pl.when(pl.col("dst_nic").is_not_null()).then("dst_vnet").alias("dst_vnet"),
            "dst_ip",
            "dst_port",
            "protocol",
        )
        .agg(pl.col(name).sum() for name in SUMS)
        .collect()
    )
    # A NIC of which only its own flow log is left is a scope of its own; the truth knows its VNet all the same.
    found = {
        tuple(None if str(cell).startswith("nic:") else cell for cell in row[:6]): list(row[6:])
        for row in rows.iter_rows()
    }
    # Who owns a source of which no tuple in the window tells is beyond any reader of these logs.
    logged = {address for nic in truth.topology.nics if nic.logged for address in nic.addresses}
    unlearned = logged - {address for _, address in known}
    yield from (
        line
        for line in _compare(
            "counted", dict(expected), {k: v for k, v in found.items() if k[1] not in unlearned or k in expected}
        )
        if not any(repr(src) in line and repr(dst) in line for src, dst in loose)
    )


def _egress(truth: truths.Truth, attempts: Attempts, known: Addresses) -> Iterable[Difference]:
    expected = {
        (e.src_vnet, e.src_ip, e.dst_ip, e.dst_port): "Cannot tell" if e.status == "hop only" else e.status
        for e in truth.expected.egress
        if (e.src_vnet, e.src_ip) in known
    }
    wanted = {(dst, port) for _, _, dst, port in expected}
    found = {key: status for key, status in attempts.items() if key[2:] in wanted and (key[0], key[1]) in known}
    for key, status in list(expected.items()):
        if status == "Cannot tell" and found.get(key) in ("Denied", "Cannot tell", "Unanswered"):
            expected[key] = found[key]
    yield from _compare("egress", expected, found)


def _attempts_by_address(scan: fl.Scan) -> Attempts:
    views = scan.evidence.views.with_columns(src_workload=pl.col("src_ip"))
    return {
        (row["vnet"], row["workload"], row["dst_ip"], row["dst_port"]): row["status"]
        for row in attempts_of(views).iter_rows(named=True)
    }


def _encryption(truth: truths.Truth, scan: fl.Scan, known: Addresses) -> Iterable[Difference]:
    uncertain = {tuple(pair) for pair in truth.expected.encryption_uncertain}
    expected = {
        (p.src_vnet, p.src_ip, p.dst_vnet, p.dst_ip): p.status
        for p in truth.expected.encryption
        if not p.ambiguous and (p.src_vnet, p.src_ip, p.dst_vnet, p.dst_ip) not in uncertain
    }
    skipped = uncertain | {
        (p.src_vnet, p.src_ip, p.dst_vnet, p.dst_ip) for p in truth.expected.encryption if p.ambiguous
    }
    kinds = [pl.col("kind").eq(k).any().alias(f"any_{k}") for k in ("Encrypted", "Unencrypted", "Dropped", "Unknown")]
    rows = (
        judged(scan.evidence.views)
        .filter(pl.col("src_nic").is_not_null(), pl.col("dst_nic").is_not_null())
        .group_by("src_vnet", "src_ip", "dst_vnet", "dst_ip")
        .agg(kinds)
        .with_columns(status=_status())
        .collect()
    )
    found = {(r["src_vnet"], r["src_ip"], r["dst_vnet"], r["dst_ip"]): r["status"] for r in rows.iter_rows(named=True)}
    yield from _compare(
        "encryption",
        {k: v for k, v in expected.items() if {k[:2], k[2:]} <= known},
        {k: v for k, v in found.items() if k not in skipped and {k[:2], k[2:]} <= known},
    )


def _destinations(
    truth: truths.Truth, scan: fl.Scan, known: Addresses, *, ephemeral: bool = False
) -> Iterable[Difference]:
    """``ephemeral``: the source keeps no source port, so its rows name ephemeral ports where the truth names none."""
    expected = {
        (d.src_vnet, d.src_ip): set(d.destinations)
        for d in truth.expected.destinations
        if (d.src_vnet, d.src_ip) in known
    }
    rows = destinations(scan.evidence.views.with_columns(src_workload=pl.col("src_ip")))
    found: dict[tuple, set] = defaultdict(set)
    for row in rows.iter_rows(named=True):
        if (row["vnet"], row["workload"]) in known:
            high = ephemeral and row["dst_port"] is not None and row["dst_port"] >= 32768
            found[row["vnet"], row["workload"]].add((row["dst_ip"], None if high else row["dst_port"], row["protocol"]))
    yield from _compare("destinations", {k: v for k, v in expected.items() if v}, dict(found))


def _denied_at_destination(truth: truths.Truth, attempts: Attempts, known: Addresses) -> Iterable[Difference]:
    expected = {
        (d.src_vnet, d.src_ip, d.dst_ip, d.dst_port): "Denied at destination"
        for d in truth.expected.denied_at_destination
        if not d.ambiguous and {(d.src_vnet, d.src_ip), (d.dst_vnet, d.dst_ip)} <= known
    }
    yield from _compare("denied at destination", expected, {k: attempts.get(k) for k in expected})


def _coverage(truth: truths.Truth, scan: fl.Scan) -> Iterable[Difference]:
    expected = {
        (c.flow_log_id.lower(), c.target_resource_id.lower(), c.mac_address, c.hour): c.state
        for c in truth.expected.coverage
    }
    found = {
        (
            r["flow_log_id"].lower(),
            str(r["target_resource_id"]).lower(),
            r["mac_address"],
            int(r["hour"].timestamp() * 1000),
        ): ("read" if r["state"] == "empty" else r["state"])
        for r in scan.coverage.iter_rows(named=True)
    }
    yield from _compare("coverage", expected, found)


def main() -> int:
    """Print the differences of one or several seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.scenario", description=__doc__)
    parser.add_argument("seeds", nargs="+", help="seeds or ranges such as 0-199")
    given = parser.parse_args()
    seeds = [
        seed
        for text in given.seeds
        for low, _, high in [text.partition("-")]
        for seed in range(int(low), int(high or low) + 1)
    ]
    wrong = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            found = differences(seed, Path(folder))
        wrong += bool(found)
        for line in found:
            sys.stdout.write(f"seed {seed}: {line}\n")
    sys.stdout.write(f"{len(seeds)} seeds, {wrong} differ\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
