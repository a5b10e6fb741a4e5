"""Histories: commits, polls, faults, kills and restarts in any order, and that the lake then equals one read of everything.

``python -m tests.lake.histories SEED`` plays one and says what it did.
"""

from __future__ import annotations

import datetime as dt
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flowlens.errors import SourceError
from flowlens.lake.syncing import Sync
from flowlens.sources.delta import Lake, open_lake
from flowlens.sources.lake_places import LakePlace
from tests.lake.block_store import Block, MemoryBlob, MemoryStore, Row, minute, new_blob

START = dt.datetime(2026, 6, 14, 22, tzinfo=dt.UTC)
_KILL_AT = ("append_ledger", "append_flows", "replace_flows")


class Killed(BaseException):
    """The process ends here."""


class KilledLake:
    """A lake whose sync is killed before or after a given number of commits, which ``left`` counts."""

    def __init__(self, lake: Lake, left: list[int]) -> None:
        self._lake = lake
        self._left = left

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._lake, name)
        if name not in _KILL_AT:
            return found

        def commit(*arguments: Any, **named: Any) -> None:
            self._count()
            found(*arguments, **named)
            self._count()

        return commit

    def _count(self) -> None:
        self._left[0] -= 1
        if self._left[0] < 0:
            raise Killed


@dataclass
class History:
    """One history. ``actions`` says what was done, in order."""

    seed: int
    folder: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    now: dt.datetime = START
    actions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.sync: Sync | None = None
        self.other: Sync | None = None
        self.left = [1 << 30]
        self._depth = 0

    def play(self, length: int) -> None:
        """Do some things, then let all hours pass and poll in peace."""
        choices: list[tuple[int, Callable[[], None]]] = [
            (8, self.commit),
            (3, self.create),
            (6, self.poll),
            (2, self.poll_with_faults),
            (2, self.poll_with_commits),
            (2, self.poll_beside_another),
            (2, self.poll_and_be_killed),
            (1, self.restart),
            (2, self.pass_time),
            (1, self.recreate),
            (1, self.amend),
            (1, self.touch),
            (1, self.rewrite),
        ]
        weights = [weight for weight, _ in choices]
        self.create()
        for _ in range(length):
            (action,) = self.random.choices([each for _, each in choices], weights)
            self.actions.append(action.__name__)
            action()
        self.now += dt.timedelta(hours=2)
        self.store.step = lambda _request, _name: None
        for _ in range(2):
            polled = self._sync().poll()
        assert not polled.read, f"a second poll read {polled.read} blobs again: {self.actions}"

    # What a writer does

    def create(self) -> None:
        hour = self.now.replace(minute=0)
        blob = new_blob(self.random.randrange(1, 4), hour)
        if blob.name not in self.store.blobs:
            self.store.put(blob)

    def commit(self) -> None:
        if blob := self._some():
            blocks: list[Block] = []
            for _ in range(self.random.choice((1, 1, 1, 2, 3))):
                tuples = self.random.choice((0, 1, 2, 5))
                # The comma depends on what was put before.
                trial = MemoryBlob(blob.name, blob.hour, "", [*blob.blocks[:-1], *blocks, blob.blocks[-1]])
                blocks.append(minute(trial, tuples, rejected=self.random.choice((0, 0, 0, 1))))
            blob.commit(blocks)

    def recreate(self) -> None:
        if blob := self._some():
            again = new_blob(1, blob.hour)
            again.name = blob.name
            self.store.put(again)
            if self.random.random() < 0.5:
                again.commit([minute(again, 2)])

    def amend(self) -> None:
        """Another record in the place of an earlier one, or of the last; the blob keeps its time of creation."""
        if (blob := self._some()) and len(blob.blocks) > 2:
            at = self.random.randrange(1, len(blob.blocks) - 1)
            trial = MemoryBlob(blob.name, blob.hour, "", [*blob.blocks[:at], blob.blocks[-1]])
            blob.blocks[at] = minute(trial, self.random.choice((0, 1, 3)))
            blob.touch()

    def touch(self) -> None:
        if blob := self._some():
            blob.touch()

    def rewrite(self) -> None:
        """The same bytes in one piece, or as other blocks: nothing tells any more what stood there before."""
        if blob := self._some():
            blob.told = self.random.random() < 0.5
            for block in blob.blocks:
                block.id = f"{block.id}'"
            blob.touch()

    def pass_time(self) -> None:
        self.now += dt.timedelta(minutes=self.random.choice((1, 20, 50, 80)))

    def _some(self) -> MemoryBlob | None:
        return self.random.choice(list(self.store.blobs.values())) if self.store.blobs else None

    # What a reader does

    def poll(self) -> None:
        self._sync().poll()

    def restart(self) -> None:
        self._drop()

    def poll_with_faults(self) -> None:
        def refuse(request: str, name: str) -> None:
            if self.random.random() < 0.1:
                raise SourceError(name, "503 ServerBusy", hint="")

        self._poll_with(refuse)

    def poll_with_commits(self) -> None:
        """Commits fall between any two requests."""

        def grow(_request: str, _name: str) -> None:
            if self.random.random() < 0.15:
                self.random.choice((self.commit, self.commit, self.amend, self.recreate))()

        self._poll_with(grow)

    def poll_beside_another(self) -> None:
        """Another sync of the same lake polls between any two requests of this one."""

        def beside(_request: str, _name: str) -> None:
            if not self._depth and self.random.random() < 0.2:
                self._depth = 1
                try:
                    self.other = self.other or self._new()
                    self.other.poll()
                finally:
                    self._depth = 0

        self._poll_with(beside)

    def poll_and_be_killed(self) -> None:
        self.left[0] = self.random.randrange(7)
        try:
            self._sync().poll()
        except Killed:
            self._drop()
        self.left[0] = 1 << 30

    def _poll_with(self, step: Callable[[str, str], None]) -> None:
        self.store.step = step
        try:
            self._sync().poll()
        except SourceError:
            pass
        finally:
            self.store.step = lambda _request, _name: None

    def _sync(self) -> Sync:
        self.sync = self.sync or self._new()
        return self.sync

    def _new(self) -> Sync:
        place = LakePlace(str(self.folder), self.folder)
        return Sync(
            [self.store], lambda: open_lake(place, create=True), clock=lambda: self.now, batch_bytes=4000, readers=1
        )

    def _drop(self) -> None:
        for sync in (self.sync, self.other):
            if sync is not None:
                sync.close()
        self.sync = self.other = None

    # What must hold

    def check(self) -> None:
        """The lake holds the rows of the blobs that are there, each once, and its ledger adds up to their bytes."""
        lake = open_lake(LakePlace(str(self.folder), self.folder))
        expected = Counter(row for blob in self.store.blobs.values() for row in blob.expected())
        assert rows_of(lake) == expected, f"seed {self.seed}: {self.actions}"
        ledger = current_ledger(lake)
        for blob in self.store.blobs.values():
            mine = ledger.filter(pl.col("name") == blob.name)
            found = mine.select(pl.col("record_bytes", "framing_bytes", "rejected", "rows").sum()).row(0, named=True)
            where = f"seed {self.seed}, {blob.name}: {self.actions}"
            assert found["record_bytes"] + found["framing_bytes"] == len(blob.data), where
            assert (found["rejected"], found["rows"]) == (blob.rejected(), len(blob.expected())), where
        self._drop()


def rows_of(lake: Lake) -> Counter[Row]:
    """(destination, source port, block) of each row with how often it is there."""
    return Counter(lake.scan_flows().select("dst_ip", "src_port", "block").collect().iter_rows())


def current_ledger(lake: Lake) -> pl.DataFrame:
    """What of the ledger counts, a row for each blob."""
    from flowlens.lake.ledger import blob_ledgers

    return pl.concat(blob_ledgers(lake))


def play(seed: int, folder: Path, length: int | None = None) -> History:
    """A history of random length, played and checked."""
    history = History(seed, folder)
    history.play(length or history.random.choice((4, 8, 14)))
    history.check()
    return history


def main() -> None:
    """Play one history and say what it did."""
    folder = Path(tempfile.mkdtemp(prefix="flowlens-history-"))
    try:
        print(play(int(sys.argv[1]), folder / "lake").actions)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
