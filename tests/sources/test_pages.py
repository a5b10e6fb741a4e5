"""Pages of a list, as the storage service writes them."""

from __future__ import annotations

from types import SimpleNamespace
from xml.etree.ElementTree import ParseError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.sources.pages import Listed, Page, parse_blocks, parse_page

# As the page "List Blobs" of the REST API of storage services (read 2026) shows it, with a name that XML can't hold.
PAGE = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ServiceEndpoint="https://contoso.blob.core.windows.net/" ContainerName="logs">
  <Prefix>flow</Prefix><Marker /><MaxResults>5000</MaxResults>
  <Blobs>
    <Blob>
      <Name>flow/a&amp;b%20.json</Name>
      <Properties>
        <Creation-Time>Wed, 17 Jun 2026 09:00:12 GMT</Creation-Time>
        <Last-Modified>Wed, 17 Jun 2026 10:00:12 GMT</Last-Modified>
        <Etag>0x8DEADBEEF012345</Etag><Content-Length>1234</Content-Length><Content-Type>application/octet-stream</Content-Type>
        <Content-MD5 /><BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier><LeaseStatus>unlocked</LeaseStatus>
      </Properties>
      <OrMetadata />
    </Blob>
    <BlobPrefix><Name>flow/folder/</Name></BlobPrefix>
    <Blob><Name Encoded="true">flow/%EF%BF%BE%41.json</Name><Snapshot>2026-06-17T10:00:12.1Z</Snapshot>
      <Properties><Etag>0x1</Etag><Content-Length>0</Content-Length><BlobType>AppendBlob</BlobType></Properties></Blob>
    <Blob><Name>x</Name><Deleted>true</Deleted><Properties><Content-Length>0</Content-Length></Properties></Blob>
    <Blob><Name>x</Name><VersionId>1</VersionId><IsCurrentVersion>true</IsCurrentVersion>
      <Properties><Content-Length>0</Content-Length></Properties></Blob>
  </Blobs>
  <NextMarker>2!72!MDAw</NextMarker>
</EnumerationResults>""".encode()
BLOBS = [
    Listed(
        "flow/a&b%20.json",
        1234,
        "0x8DEADBEEF012345",
        "BlockBlob",
        "Hot",
        is_current=True,
        created="Wed, 17 Jun 2026 09:00:12 GMT",
    ),
    Listed("flow/\ufffeA.json", 0, "0x1", "AppendBlob", "", is_current=False),
    Listed("x", 0, "", "", "", is_current=False),
    Listed("x", 0, "", "", "", is_current=True),
]


@given(st.lists(st.integers(0, len(PAGE)), max_size=8).map(sorted))
def test_a_page_is_read_however_it_is_cut_in_pieces(cuts: list[int]) -> None:
    pieces = [PAGE[start:end] for start, end in zip([0, *cuts], [*cuts, len(PAGE)], strict=True)]
    assert parse_page(pieces) == Page(BLOBS, "2!72!MDAw")


@pytest.mark.parametrize("end", [*range(0, len(PAGE), 37), len(PAGE) - 1])
def test_half_a_page_is_never_fewer_blobs(end: int) -> None:
    with pytest.raises(ParseError):
        parse_page([PAGE[:end]])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Sign in</body></html>",
        b"not xml",
        PAGE.replace(b"<Content-Length>1234<", b"<Content-Length>-1<"),
        PAGE.replace(b"<Content-Length>1234<", b"<Content-Length>99999999999999999999<"),
        PAGE.replace(b"<Content-Length>1234<", b"<Content-Length><"),
        PAGE.replace(b"<Name>x</Name>", b""),
        PAGE.replace(b"%20", b"\x01"),
        PAGE + b"<more/>",
    ],
)
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        parse_page([body])


# As the page "Get Block List" of the REST API of storage services (read 2026) shows it; the last name is no text in base64.
BLOCKS = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<BlockList>
  <CommittedBlocks>
    <Block><Name>QmxvY2sx</Name><Size>12</Size></Block>
    <Block><Name>w6Q=</Name><Size>104857600</Size></Block>
    <Block><Name>MDA=MDA</Name><Size>0</Size></Block>
    <Block><Name>/////w==</Name><Size>2</Size></Block>
  </CommittedBlocks>
  <UncommittedBlocks />
</BlockList>""".encode()


def test_blocks_are_named_as_the_client_library_names_them() -> None:
    from azure.storage.blob import BlobBlock

    def named(name: str) -> str:
        return str(BlobBlock._from_generated(SimpleNamespace(name=name, size=0)).id)

    expected = tuple(
        (named(name), size) for name, size in (("QmxvY2sx", 12), ("w6Q=", 104_857_600), ("MDA=MDA", 0), ("/////w==", 2))
    )
    assert parse_blocks([BLOCKS]) == expected
    assert expected[0] == ("Block1", 12) and expected[3] == ("/////w==", 2)


def test_blocks_that_are_not_committed_are_none() -> None:
    committed, other = (f"<Block><Name>{name}</Name><Size>2</Size></Block>" for name in ("QQ==", "Qg=="))
    parts = [f"<CommittedBlocks>{committed}</CommittedBlocks>", f"<UncommittedBlocks>{other}</UncommittedBlocks>"]
    for order in (parts, parts[::-1]):
        assert parse_blocks([f"<BlockList>{''.join(order)}</BlockList>".encode()]) == (("A", 2),)


def test_a_blob_in_one_piece_has_no_blocks() -> None:
    assert parse_blocks([b"<BlockList><CommittedBlocks /></BlockList>"]) == ()


@pytest.mark.parametrize("end", [*range(0, len(BLOCKS), 23), len(BLOCKS) - 1])
def test_half_a_list_is_never_fewer_blocks(end: int) -> None:
    with pytest.raises(ParseError):
        parse_blocks([BLOCKS[:end]])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        PAGE,
        BLOCKS.replace(b"<Size>12<", b"<Size>-12<"),
        BLOCKS.replace(b"<Size>12</Size>", b""),
        BLOCKS.replace(b"<Name>w6Q=</Name>", b"<Name />"),
    ],
)
def test_what_is_no_list_of_blocks_is_an_error(body: bytes) -> None:
    with pytest.raises(ParseError):
        parse_blocks([body])
