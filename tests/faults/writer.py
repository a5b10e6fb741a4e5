"""Flow log blobs written as Azure writes them: a block per minute, put before the two bytes that close the list.

Time is the caller's: a blob grows as fast as `GrowingBlob.commit` is called. Every record holds flow tuples that no other
record holds, so that a row that is torn, lost or doubled shows.
"""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from azure.storage.blob import BlobBlock, ContainerClient

from tests.make_logs import NSG, Log, vnet_log

CONTAINER = "insights-logs-flowlogflowevent"
HEAD = b'{"records":['
TAIL = b"]}"
DAY = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)


def blob_name(log: Log, mac: str, hour: dt.datetime) -> str:
    """The blob of a flow log, NIC and hour inside its container."""
    return f"flowLogResourceID=/S_NW/NW_{log.name}/{hour:y=%Y/m=%m/d=%d/h=%H/m=00}/macAddress={mac}/PT1H.json"


def end_of(minute: int, number: int) -> tuple[str, int]:
    """Destination and source port of a minute's tuple ``number``; no other tuple has both."""
    return f"198.18.{minute}.{number % 250 + 1}", 1024 + number


def record(log: Log, mac: str, hour: dt.datetime, minute: int, tuples: int) -> bytes:
    """One minute's record with ``tuples`` flow tuples, no two alike."""
    time = hour + dt.timedelta(minutes=minute)
    ms = int(time.timestamp() * 1000)
    ends = [end_of(minute, n) for n in range(tuples)]
    rows = [
        f"{ms},10.1.0.4,{dst},{port},443,6,O,E,NX,{n + 1},{100 * (n + 1)},{n + 1},{900 + n}"
        for n, (dst, port) in enumerate(ends)
    ]
    flows = [{"aclID": NSG, "flowGroups": [{"rule": "DefaultRule_AllowInternetOutBound", "flowTuples": rows}]}]
    document = {
        "time": f"{time + dt.timedelta(seconds=58):%Y-%m-%dT%H:%M:%S}.0000000Z",
        "flowLogGUID": "00000000-0000-0000-0000-000000000001",
        "macAddress": mac,
        "category": "FlowLogFlowEvent",
        "flowLogResourceID": log.id,
        "targetResourceID": log.target,
        "flowLogVersion": 4,
        "operationName": "FlowLogFlowEvent",
        "flowRecords": {"flows": flows},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def plain_blob(log: Log, mac: str, hour: dt.datetime, minutes: int, tuples: int) -> bytes:
    """The whole blob of ``minutes`` records, as bytes; what `GrowingBlob` holds after as many commits."""
    return HEAD + b",".join(record(log, mac, hour, minute, tuples) for minute in range(minutes)) + TAIL


def expected_rows(minutes: Iterable[int], tuples: int) -> Counter[tuple[str, int]]:
    """(destination, source port) of every flow tuple in the records of those minutes, each once."""
    return Counter(end_of(minute, n) for minute in minutes for n in range(tuples))


@dataclass
class GrowingBlob:
    """A blob that grows by one block with each `commit`: opener of 12 bytes, one block a minute, the 2-byte tail.

    ``committed`` counts the records that a reader can see.
    """

    container: ContainerClient
    log: Log = field(default_factory=vnet_log)
    mac: str = "00005E005301"
    hour: dt.datetime = DAY + dt.timedelta(hours=9)
    tuples: int = 3
    committed: int = 0
    blocks: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def name(self) -> str:
        """Its name in the container."""
        return blob_name(self.log, self.mac, self.hour)

    def create(self, minutes: int = 0) -> GrowingBlob:
        """Itself, as a new blob with that many records already committed."""
        self.committed, self.blocks = 0, [self._stage(HEAD), self._stage(TAIL)]
        self.commit(minutes)
        return self

    def commit(self, minutes: int = 1) -> None:
        """Put the next ``minutes`` records before the tail and commit once; their ETag changes even where there are none."""
        for _ in range(minutes):
            comma = b"," if self.committed else b""
            block = self._stage(comma + record(self.log, self.mac, self.hour, self.committed, self.tuples))
            self.blocks.insert(-1, block)
            self.committed += 1
        self._put(self.blocks)

    def stage_only(self) -> None:
        """Put a block there without committing it; no reader may see it."""
        self._stage(b",{uncommitted")

    def replace_with(self, minutes: range) -> None:
        """Delete the blob and write another of the same name, which holds the records of ``minutes``."""
        self.container.delete_blob(self.name)
        bodies = [record(self.log, self.mac, self.hour, minute, self.tuples) for minute in minutes]
        blocks = [self._stage((b"," if n else b"") + body) for n, body in enumerate(bodies)]
        self.blocks = [self._stage(HEAD), *blocks, self._stage(TAIL)]
        self.committed = minutes.stop
        self._put(self.blocks)

    def amend(self, minute: int) -> None:
        """Put the record of ``minute`` in the place of the first one, and commit; all other blocks stay."""
        self.blocks[1] = self._stage(record(self.log, self.mac, self.hour, minute, self.tuples))
        self._put(self.blocks)

    def rewrite(self) -> None:
        """Write the same records again in one piece, which leaves no blocks and another ETag."""
        data = plain_blob(self.log, self.mac, self.hour, self.committed, self.tuples)
        self.container.upload_blob(self.name, data, overwrite=True)

    def _stage(self, data: bytes) -> str:
        block = base64.b64encode(f"{next(self._numbers):032}".encode()).decode()
        self.container.get_blob_client(self.name).stage_block(block, data)
        return block

    def _put(self, blocks: Iterable[str]) -> None:
        self.container.get_blob_client(self.name).commit_block_list([BlobBlock(each) for each in blocks])
