"""A storage account whose answers are made of the bytes given: what they hold is listed, and read in the two ways there are."""

from __future__ import annotations

import datetime as dt
import threading
from functools import cache

from flowlens.evidence import Window, total
from flowlens.formats import decode_flow_log
from flowlens.lake.growth import check, facts_of, read_blob, rows_of
from flowlens.lake.ledger import Cursor, blob_id
from flowlens.sources import ranges, storage
from flowlens.sources.accounts import Access, Account, connect, parse_location
from flowlens.sources.ranges import Reader
from flowlens.sources.stores import Container
from tests.faults.writer import DAY, HEAD, TAIL, blob_name, record
from tests.fuzz.answering import PARTED, address, answer_with, response
from tests.make_logs import MACS, vnet_log

_HOUR = DAY.replace(hour=9)
_LOG = vnet_log()
_BLOB = blob_name(_LOG, MACS[0], _HOUR)
_FOLDER = _BLOB.partition("m=00")[0]


@cache
def _account() -> Account:
    for module in (ranges, storage):
        for name in ("_FIRST_WAIT", "_LONGEST_WAIT"):
            setattr(module, name, 0.0)
    base = address()
    access = Access(account_url=base, timeout=5)
    return connect(parse_location(f"{base}/contoso/logs/{_FOLDER}?sp=rl&sr=c&se=2999-01-01&sig=x", access), access)


def account(data: bytes) -> None:
    """Each blob that is listed is read as `sync` does (where the first byte is even) or as a scan does, and adds up."""
    growing, data = not data[:1] or data[0] % 2 == 0, data[1:]
    answer_with(data)
    end = _HOUR + dt.timedelta(hours=1)
    window, now = Window(_HOUR, end), end if growing else end + dt.timedelta(days=1)
    if growing:
        _sync(window, now)
    else:
        _scan(window, now)


def _sync(window: Window, now: dt.datetime) -> None:
    store = Container(_account())
    try:
        for blob in store.listing(window, now).blobs:
            cursor = Cursor(blob_id(*blob.key, blob.created, 0), blob.created, 0, blob.hour)
            reading = read_blob(store, blob, cursor, batch_bytes=1 << 20, stopped=threading.Event())
            check(reading)
            assert rows_of([reading]).num_rows == reading.rows
            assert len(facts_of([reading])) == len(reading.units) + (reading.error is not None)
    finally:
        store.close()


def _scan(window: Window, now: dt.datetime) -> None:
    blobs = storage.list_blobs(_account(), window, now=now).blobs
    reader = Reader(blobs, threads=1)
    try:
        for index, blob in enumerate(blobs):
            batches = list(decode_flow_log(reader.chunks(index), where=blob.name))
            ledger = total(batch.ledger for batch in batches)
            assert ledger.balanced
            assert ledger.bytes == reader.version(index)[1]
    finally:
        reader.close()


def account_seeds() -> list[bytes]:
    """Inputs to begin with: a blob in one piece, in blocks, and one that another version replaces while it is read."""
    body = HEAD + b",".join(record(_LOG, MACS[0], _HOUR, minute, 2) for minute in range(2)) + TAIL
    first = body.index(b'},{"time"') + 1
    blocks = (("QQ==", len(HEAD)), ("Qg==", first - len(HEAD)), ("Qw==", len(body) - len(TAIL) - first), ("Wg==", 2))
    grown = _range(body, body, "0x2")
    shorter = HEAD + body[len(HEAD) : first] + TAIL
    shorter_blocks = (*blocks[:2], blocks[-1])
    listed, changed = [_folders(), _page(len(body))], response(412, b"", 'ETag: "0x2"')
    return [
        b"1" + PARTED.join([*listed, _range(body, body, "0x1")]),
        b"0" + PARTED.join([*listed, _blocks(blocks, "0x2"), grown]),
        b"0" + PARTED.join([*listed, _blocks(shorter_blocks, "0x1"), changed, _blocks(blocks, "0x2"), grown]),
        b"1" + PARTED.join([*listed, changed, _blocks(blocks, "0x2"), grown]),
        b"0" + PARTED.join([_folders(), _page(len(shorter)), response(503, b"", "Retry-After: 0"), _blocks((), "0x1")]),
    ]


def _xml(text: str, *headers: str) -> bytes:
    body = f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()
    return response(200, body, "Content-Type: application/xml", *headers)


def _folders() -> bytes:
    year = _FOLDER.partition("m=")[0]
    prefix = f"<Blobs><BlobPrefix><Name>{year}</Name></BlobPrefix></Blobs><NextMarker />"
    return _xml(f'<EnumerationResults ServiceEndpoint="x" ContainerName="logs">{prefix}</EnumerationResults>')


def _page(size: int) -> bytes:
    facts = f"<Content-Length>{size}</Content-Length><Etag>0x1</Etag><BlobType>BlockBlob</BlobType>"
    blob = f"<Blob><Name>{_BLOB}</Name><Properties>{facts}</Properties></Blob>"
    return _xml(f"<EnumerationResults><Blobs>{blob}</Blobs><NextMarker/></EnumerationResults>")


def _blocks(blocks: tuple[tuple[str, int], ...], etag: str) -> bytes:
    each = "".join(f"<Block><Name>{name}</Name><Size>{size}</Size></Block>" for name, size in blocks)
    size = sum(size for _, size in blocks)
    text = f"<BlockList><CommittedBlocks>{each}</CommittedBlocks></BlockList>"
    return _xml(text, f'ETag: "{etag}"', f"x-ms-blob-content-length: {size}")


def _range(part: bytes, whole: bytes, etag: str) -> bytes:
    return response(206, part, f'ETag: "{etag}"', f"Content-Range: bytes 0-{len(part) - 1}/{len(whole)}")
