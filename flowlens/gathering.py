"""What the blobs of a run gave, summed as they come, so that a million of them take little memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from flowlens import nic_hours
from flowlens.evidence import Ledger, total

_HOURS_AT_ONCE = 10_000


@dataclass(slots=True)
class BlobResult:
    """What one blob gave; ``hours`` are rows of nic_hours.READ."""

    ledger: Ledger
    failed: bool = False
    hours: list[tuple[object, ...]] = field(default_factory=list)
    inventory: list[pl.DataFrame] = field(default_factory=list)
    countries: list[pl.DataFrame] = field(default_factory=list)
    hops: set[str] = field(default_factory=set)
    restarted_ends: list[pl.DataFrame] = field(default_factory=list)


class Gathered:
    """What all blobs gave, summed as they come: what is kept of each is its NIC-hours, at some 50 bytes."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.inventory: list[pl.DataFrame] = []
        self.countries: list[pl.DataFrame] = []
        self.hops: set[str] = set()
        self.restarted_ends: list[pl.DataFrame] = []
        self._frames: list[pl.DataFrame] = []
        self._rows: list[tuple[object, ...]] = []

    def take(self, results: Sequence[BlobResult]) -> None:
        """Add what some blobs gave."""
        self.ledger += total(result.ledger for result in results)
        for result in results:
            self.inventory += result.inventory
            self.countries += result.countries
            self.hops |= result.hops
            self.restarted_ends += result.restarted_ends
            self._rows += result.hours
        if len(self._rows) >= _HOURS_AT_ONCE:
            self._pack()

    def _pack(self) -> None:
        frame = pl.DataFrame(self._rows, schema=nic_hours.READ, orient="row")
        self._frames.append(frame.cast({pl.String: pl.Categorical}))
        self._rows = []

    def hours(self) -> pl.DataFrame:
        """The NIC-hours of all, with the schema nic_hours.READ."""
        self._pack()
        # Texts of categories are views of one copy of each.
        return pl.concat(self._frames).cast({pl.Categorical: pl.String})
