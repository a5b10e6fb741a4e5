"""A page of a container's list, and the list of a blob's blocks: what stands in the service's XML.

Taken in as it comes, since the page of a client library takes half a millisecond of CPU and some kilobytes for each name, and its
list of blocks fails in ways of its own where an answer is something else.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

_LARGEST = 50_000 * 4_000 << 20
"""Bytes of the largest block blob there can be (Microsoft's page "Scalability and performance targets for Blob storage", read 2026)."""


class Listed(NamedTuple):
    """A blob of a page; ``kind``, ``tier`` and ``created`` as the service writes them, empty where it says nothing.

    ``is_current`` is false for snapshots, former versions and deleted blobs, which a list holds only where asked for.
    """

    name: str
    size: int
    etag: str
    kind: str
    tier: str
    is_current: bool
    created: str = ""


class Page(NamedTuple):
    """Blobs in the order of their names, and where the next page begins; empty where there is none."""

    blobs: list[Listed]
    following: str


def parse_page(pieces: Iterable[bytes]) -> Page:
    """The page in an answer's body. Raises ParseError for anything that is not a whole page.

    >>> head, tail = b"<EnumerationResults><Blobs><Blob><Name>a</Name>", b"</Blob></Blobs><NextMarker/></EnumerationResults>"
    >>> parse_page([head, b"<Properties><Content-Length>2</Content-Length><Etag>0x8D</Etag></Properties>", tail])
    Page(blobs=[Listed(name='a', size=2, etag='0x8D', kind='', tier='', is_current=True, created='')], following='')
    """
    blobs: list[Listed] = []
    following = last = ""
    for element in _ended(pieces):
        last = element.tag
        if element.tag == "Blob":
            blobs.append(_listed(element))
            # The parser keeps what it has built.
            element.clear()
        elif element.tag == "NextMarker":
            following = element.text or ""
    if last != "EnumerationResults":
        raise ParseError(f"expected a list of blobs, found <{last}>")
    return Page(blobs, following)


def parse_blocks(pieces: Iterable[bytes]) -> tuple[tuple[str, int], ...]:
    """Id and size of each committed block in an answer's body. Raises ParseError for anything that is not a whole list.

    >>> head, tail = b"<BlockList><CommittedBlocks>", b"</CommittedBlocks></BlockList>"
    >>> parse_blocks([head, b"<Block><Name>QQ==</Name><Size>12</Size></Block>", tail])
    (('A', 12),)
    """
    blocks: list[tuple[str, int]] = []
    committed: tuple[tuple[str, int], ...] = ()
    last = ""
    for element in _ended(pieces):
        last = element.tag
        if element.tag == "Block":
            name, size = element.findtext("Name"), element.findtext("Size", "")
            if not name or not _is_length(size):
                raise ParseError("a block without name or size")
            blocks.append((_block_id(name), int(size)))
            element.clear()
        elif element.tag == "UncommittedBlocks":
            blocks.clear()
        elif element.tag == "CommittedBlocks":
            committed = tuple(blocks)
            blocks.clear()
    if last != "BlockList":
        raise ParseError(f"expected a list of blocks, found <{last}>")
    return committed


def _block_id(name: str) -> str:
    # As the client library gives it: lakes know blocks by it.
    try:
        return base64.b64decode(name).decode("utf-8")
    except ValueError:
        return name


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19 and int(text) <= _LARGEST


def _ended(pieces: Iterable[bytes]) -> Iterator[Element]:
    """Each element once its end was met."""
    parser: Any = XMLPullParser(("end",))
    for piece in pieces:
        parser.feed(piece)
        yield from (element for _, element in parser.read_events())
    parser.close()
    yield from (element for _, element in parser.read_events())


def _listed(blob: Element) -> Listed:
    name = blob.find("Name")
    facts = blob.find("Properties")
    size = "" if facts is None else facts.findtext("Content-Length", "")
    if name is None or facts is None or not _is_length(size):
        raise ParseError("a blob without name or length")
    text = name.text or ""
    return Listed(
        # So a name is written that XML can't hold.
        unquote(text) if name.get("Encoded") == "true" else text,
        int(size),
        facts.findtext("Etag", ""),
        facts.findtext("BlobType", ""),
        facts.findtext("AccessTier", ""),
        blob.find("Snapshot") is None
        and blob.findtext("Deleted") != "true"
        and blob.findtext("IsCurrentVersion") != "false",
        facts.findtext("Creation-Time", ""),
    )
