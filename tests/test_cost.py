"""What doctor says that a run costs is what the run then costs: operations and bytes of a server that counts them."""

from __future__ import annotations

import pytest

from bench.cost import compared, fitted
from bench.generate import Order

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list:
    """Small blobs, and one of several ranges."""
    orders = [Order("small", 0.3, 6, 200), Order("big", 9, 1, 2_000)]
    return [compared(order, tmp_path_factory.mktemp(order.kind)) for order in orders]


def test_operations_and_bytes_are_as_they_were_told(runs: list) -> None:
    assert [one.run[1:] for one in runs] == [one.estimate[1:] for one in runs]
    assert [one.run.reads for one in runs] == [6, 3]


def test_the_bench_tells_constants_that_fit(runs: list) -> None:
    made = [
        one._replace(cpu=2 + one.size / 1e6 / 40 + one.blobs / 100)
        for one in (*runs, runs[0]._replace(blobs=100), runs[1]._replace(size=10**8))
    ]
    assert fitted(made) == pytest.approx((2, 40, 100))


def test_the_time_told_is_of_the_order_of_the_cpu_time_taken(runs: list) -> None:
    # Generous, since a machine that is busy takes some times the CPU too.
    for one in runs:
        assert one.estimate.seconds / 10 < one.cpu < one.estimate.seconds * 10
