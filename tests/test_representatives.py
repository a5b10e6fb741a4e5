"""The attempts that stand for all lead to the status, the address and the sums that all of them lead to."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.analyses.judgement import (
    ANSWERED,
    EXACT,
    NOTHING,
    PORT_ONLY,
    TAG,
    Attempt,
    Length,
    Need,
    Totals,
    judge,
)
from flowlens.analyses.needs import OTHER_NAME
from flowlens.analyses.representatives import REQUIREMENT, added, representatives, totals_of
from flowlens.catalog import Endpoint, Expansion, Requirement
from flowlens.catalog.expansion import Reach
from flowlens.schema import EGRESS_PROBLEMS, EGRESS_STATUSES, MATCHES
from tests.strategies import examples

REQUIRED = Requirement("A", "global", "required", "tcp", "9000", "B", "2026", (Endpoint("ip", "20.0.0.1"),))
NEED = Need("mine", REQUIRED, Expansion((Reach("address", "20.0.0.1", ("20.0.0.1/32",)),)))
LENGTH = Length(dt.timedelta(days=8), 1, 1)
T = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
TIMES = st.none() | st.integers(0, 3).map(lambda minutes: T + dt.timedelta(minutes=minutes))
# What can come of attempts at one address; the others are said of a requirement alone.
STATUSES = [status for status in EGRESS_STATUSES if status not in ("Service reached", "Not seen", "Not observable")]
ADDRESSES = [f"20.0.0.{n}" for n in range(9)]

# What came of an address and port is one thing, however many endpoints it meets.
OUTCOMES = st.fixed_dictionaries(
    {
        "status": st.sampled_from(STATUSES),
        "attempts": st.integers(1, 3),
        "acl_rule": st.sampled_from(["x", "y", None]),
        "acl_id": st.just("nsg"),
        "acl_kind": st.sampled_from(["user", "admin"]),
        "last_answered": TIMES,
        "last_denied": TIMES,
        "first_failure": TIMES,
        "last_failure": TIMES,
        "unseen": st.booleans(),
    }
)
ROWS = st.dictionaries(
    st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([443, 9000, None])),
    st.tuples(
        OUTCOMES,
        st.lists(
            st.tuples(
                st.sampled_from(MATCHES), st.sampled_from(["e1", "e2"]), st.sampled_from(["high", "low", OTHER_NAME])
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda label: label[:2],
        ),
        st.integers(0, 1),
    ),
    max_size=12,
)
KINDS = {
    "vnet": pl.String,
    "subnet": pl.String,
    "workload": pl.String,
    "requirement": pl.Int64,
    "dst_ip": pl.String,
    "dst_port": pl.Int32,
    "protocol": pl.Int16,
    "match": pl.String,
    "endpoint": pl.String,
    "confidence": pl.String,
    "status": pl.String,
    "attempts": pl.Int64,
    "acl_rule": pl.String,
    "acl_id": pl.String,
    "acl_kind": pl.String,
    "last_answered": pl.Datetime("us", "UTC"),
    "last_denied": pl.Datetime("us", "UTC"),
    "first_failure": pl.Datetime("us", "UTC"),
    "last_failure": pl.Datetime("us", "UTC"),
    "unseen": pl.Boolean,
}


def matched(rows):
    table = [
        {
            "vnet": "v",
            "subnet": None,
            "workload": "w",
            "requirement": requirement,
            "dst_ip": address,
            "dst_port": port,
            "protocol": 6,
            "match": match,
            "endpoint": endpoint,
            "confidence": confidence if match == "approximate tag" else "",
            **outcome,
        }
        for (address, port), (outcome, labels, requirement) in rows.items()
        for match, endpoint, confidence in labels
    ]
    frame = pl.DataFrame(table, schema=KINDS)
    return frame.sort(*REQUIREMENT, "dst_ip", "dst_port", "match", "endpoint", nulls_last=True)


def attempts(frame, requirement):
    rows = frame.filter(requirement=requirement).iter_rows(named=True)
    return [Attempt(**{name: row[name] for name in Attempt.__slots__}) for row in rows]


def summed(all_of_them):
    """The totals, counted over plain records."""
    once = {(a.dst_ip, a.dst_port, a.protocol): a for a in all_of_them}
    answered = [a.last_answered for a in all_of_them if a.status in ANSWERED and a.last_answered]
    began = [a.first_failure for a in all_of_them if a.first_failure]
    failures = [a.last_failure for a in all_of_them if a.last_failure]
    failed = {a.dst_ip for a in all_of_them if a.match in EXACT and a.status in EGRESS_PROBLEMS}
    return Totals(
        sum(a.attempts for a in once.values()),
        max(answered, default=None),
        min(began, default=None),
        max(failures, default=None),
        len(failed),
    )


def totals(frames, requirement):
    rows = added([totals_of(frame) for frame in frames]).filter(requirement=requirement).iter_rows(named=True)
    return next((Totals(*(row[name] for name in Totals._fields)) for row in rows), NOTHING)


@pytest.mark.slow
@examples(80)
@given(ROWS)
def test_representatives_lead_to_the_same_judgement(rows):
    everything = matched(rows)
    # By destination, as evidence comes in parts.
    parts = [everything.filter(pl.col("dst_ip").is_in(half)) for half in (ADDRESSES[:4], ADDRESSES[4:])]
    few = representatives(pl.concat([representatives(part) for part in parts]))
    for requirement in (0, 1):
        whole = attempts(everything, requirement)
        assert totals(parts, requirement) == summed(whole)
        expected = judge(NEED, whole, summed(whole), True, LENGTH)
        assert judge(NEED, attempts(few, requirement), totals(parts, requirement), True, LENGTH) == expected
    assert few.height <= everything.height


def test_of_very_many_attempts_few_are_left():
    outcome = {"status": "Reached", "attempts": 1, "acl_rule": None, "acl_id": None}
    times = {"last_answered": T, "last_denied": None, "first_failure": None, "last_failure": None, "unseen": False}
    labels = [(TAG, "e1", ""), (PORT_ONLY, "e2", "")]
    rows = {(f"20.1.{n // 256}.{n % 256}", 443): ({**outcome, **times}, labels, 0) for n in range(5000)}
    assert representatives(matched(rows)).height <= 8
