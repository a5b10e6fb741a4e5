"""Hypothesis strategies for flow logs: whole ones, malformed ones, and the ways to write the same JSON differently."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st


def examples(number: int) -> settings:
    """So many examples where each is expensive; `make fuzz` tries as many times more as of any other test.

    A plain ``settings(max_examples=...)`` would hold there too.
    """
    return settings(max_examples=max(1, number * settings().max_examples // 100))


# Small pools, so that five-tuples and time stamps repeat as they do in a record.
TIMES = ("1663146003599", "1663146003606", "1663146003", "1733976005817")
ADDRESSES = ("10.0.0.6", "192.0.2.180", "2001:db8::7", "2001:DB8:0:0::7", "::ffff:192.0.2.180", "fe80::1%eth0")
PORTS = ("443", "50557", "0", "65535", "", "00443")
COUNTERS = ("0,0,0,0", ",,,", "3,767,2,1580", "0,5,0,0", "7,,0,12", "281474976710655,1,1,1")
# What one reader takes for a number, an address or a code and another does not, and what ends a string, a row or a cell.
NASTY = (
    *(
        "",
        " ",
        " 443",
        "443 ",
        "\t443",
        "+443",
        "-443",
        "-0",
        "0x1F",
        "0X1f",
        "1e3",
        "1.0",
        "nan",
        "NaN",
        "NULL",
        "null",
    ),
    *("٣", "\ufeff1663146003599", "1" * 30, "0" * 30 + "7", "281474976710656", str(2**63), str(2**64), "65536", "256"),
    *("999999999999", "1420070399999", "4133980800000", "99999999999", "100000000000", "1663146003599000"),
    *("10.0.0.256", "010.0.0.1", "10.0.0.1/32", "::1%", "[::1]", "1.2.3", "fe80::1%a-b"),
    *(
        "X",
        "x",
        "NX_FALLBACK",
        "NX_NEW",
        "nx",
        "unspecified",
        "A",
        "B",
        "C",
        "D",
        "E",
        "Q",
        "b",
        "I",
        "i",
        "T",
        "U",
        "BB",
    ),
    *(
        'q"q',
        "a\\b",
        "a\nb",
        "a\rb",
        "\0",
        "\x1b[31m",
        "\x7f",
        "\ud800",
        "\u202e",
        "é",
        "[",
        "]",
        "{",
        "}",
        '","',
        '"],["',
    ),
    *("1,1", ",", "6,O,E,NX"),
)
NASTY_JSON: tuple[Any, ...] = (None, True, 5, 1.5, 10**40, "text", [], {}, [[]], {"a": {"b": []}}, ["1,2"], "")


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """The parts of a flow tuple with commas between them."""
    return st.tuples(*parts).map(",".join)


def _one(*choices: str) -> st.SearchStrategy[str]:
    return st.sampled_from(choices)


_head = (_one(*TIMES), _one(*ADDRESSES), _one(*ADDRESSES), _one(*PORTS), _one(*PORTS))
_state = _one("B", "E", "E", "C", "D")
vnet_tuples = joined(
    *_head, _one("6", "17", "1"), _one("I", "O"), _state, _one("NX", "X", "NX_LOCAL_DST"), _one(*COUNTERS)
)
odd_vnet_tuples = st.one_of(
    joined(*_head, _one("6"), _one("I", "O"), _one("B", "D"), _one("NX")),
    joined(*_head, _one("6"), _one("I", "O"), _state, _one("X"), _one("3,767,2,1580,", ",,,,")),
    joined(
        *_head, _one("6"), _one("I", "Z"), _one("B", "E", "Q", "A", "b"), _one("NX_NEW", "nx", "B", ""), _one(*COUNTERS)
    ),
)
nsg_tuples = st.one_of(
    joined(*_head, _one("T", "U"), _one("I", "O"), _one("A", "D")),
    joined(*_head, _one("T", "U", "6"), _one("I", "O"), _one("A", "D"), _one("B", "C", "E", ""), _one(*COUNTERS)),
)


@st.composite
def malformed_tuples(draw: st.DrawFn) -> str:
    """A flow tuple of any kind with one field replaced, dropped or doubled."""
    fields = draw(st.one_of(vnet_tuples, odd_vnet_tuples, nsg_tuples)).split(",")
    at = draw(st.integers(0, len(fields) - 1))
    fields[at : at + 1] = draw(st.sampled_from(([], [fields[at]] * 2, *([text] for text in NASTY))))
    return ",".join(fields)


any_tuples = st.one_of(vnet_tuples, vnet_tuples, vnet_tuples, odd_vnet_tuples, nsg_tuples, malformed_tuples())
names = st.one_of(st.sampled_from(("DefaultRule_DenyAllInBound", "UserRule_a", "unspecified", "")), st.text(max_size=6))
mac_addresses = st.sampled_from(("0022485D8CF8", "00-22-48-5d-8c-f8", "00:22:48:5D:8C:F8", "not a mac", "", "002248"))
record_times = st.sampled_from(
    (
        "2022-09-14T09:00:52.5625085Z",
        "2022-09-14T09:00:52Z",
        "2022-09-14T11:00:52.1+02:00",
        "yesterday",
        "2022-13-01T00:00:00Z",
    )
)


def vnet_records(tuples: st.SearchStrategy[Any] = any_tuples) -> st.SearchStrategy[dict[str, Any]]:
    """Records of a VNet flow log around ``tuples``."""
    group = st.fixed_dictionaries({"rule": names, "flowTuples": st.lists(tuples, max_size=5)})
    flow = st.fixed_dictionaries({"aclID": names, "flowGroups": st.lists(group, max_size=2)})
    return st.fixed_dictionaries(
        {"time": record_times, "flowRecords": st.fixed_dictionaries({"flows": st.lists(flow, max_size=2)})},
        optional={
            "macAddress": mac_addresses,
            "flowLogResourceID": names,
            "resourceId": names,
            "targetResourceID": names,
            "flowLogVersion": st.just(4),
            "category": st.just("FlowLogFlowEvent"),
        },
    )


def nsg_records(tuples: st.SearchStrategy[Any] = any_tuples) -> st.SearchStrategy[dict[str, Any]]:
    """Records of an NSG flow log around ``tuples``."""
    group = st.fixed_dictionaries({"mac": mac_addresses, "flowTuples": st.lists(tuples, max_size=4)})
    flow = st.fixed_dictionaries({"rule": names, "flows": st.lists(group, max_size=2)})
    properties = st.fixed_dictionaries({"Version": st.just(2), "flows": st.lists(flow, max_size=2)})
    return st.fixed_dictionaries(
        {"time": record_times, "category": st.just("NetworkSecurityGroupFlowEvent"), "properties": properties},
        optional={"resourceId": names, "macAddress": mac_addresses},
    )


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


@st.composite
def malformed_records(draw: st.DrawFn) -> dict[str, Any]:
    """A record in which one value, at any depth, is something else, is gone, or has an unknown neighbour."""
    record = draw(st.one_of(vnet_records(), nsg_records()))
    container, key = draw(st.sampled_from(_places(record)))
    change = draw(st.sampled_from(("replace", "replace", "remove", "add")))
    if change == "remove":
        del container[key]
    elif change == "add" and isinstance(container, dict):
        container[draw(st.sampled_from(("mac", "rule", "properties", "records", "new")))] = draw(
            st.sampled_from(NASTY_JSON)
        )
    else:
        container[key] = draw(st.sampled_from(NASTY_JSON))
    return record


records = st.one_of(vnet_records(vnet_tuples), vnet_records(), vnet_records(), nsg_records(), malformed_records())


def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The same JSON value with the keys of every object in another order."""
    if isinstance(value, dict):
        return {key: shuffled(draw, value[key]) for key in draw(st.permutations(list(value)))}
    return [shuffled(draw, item) for item in value] if isinstance(value, list) else value


@st.composite
def serialised(draw: st.DrawFn, contents: list[dict[str, Any]], *, shuffle: bool = True) -> bytes:
    """The records as a blob: any wrapper, blanks, indent, key order and escaping."""
    wrapper = draw(st.sampled_from(("records", "records", "records", "keys around", "list", "lines", "concatenated")))
    if shuffle and draw(st.booleans()):
        contents = [shuffled(draw, record) for record in contents]
    indent = None if wrapper == "lines" else draw(st.sampled_from((None, None, 0, 1, "\t")))
    separators = draw(st.sampled_from(((",", ":"), (", ", ": "), (" ,", " :"), (",\r\n ", ":\t"))))
    # A lone surrogate can be written escaped only.
    ascii_only = draw(st.booleans()) or "\\ud800" in repr(contents)

    def text(value: Any) -> str:
        return json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only)

    if wrapper == "records":
        blob = text({"records": contents})
    elif wrapper == "keys around":
        blob = text({"version": 1, "of": {"records": 5}, "records": contents, "after": [{"x": "]}"}]})
    elif wrapper == "list":
        blob = text(contents)
    else:
        blob = ("\n" if wrapper == "lines" else draw(st.sampled_from(("", ",", "\r\n")))).join(map(text, contents))
    return draw(st.sampled_from((b"", b"", b"\xef\xbb\xbf"))) + blob.encode()


@st.composite
def blobs(draw: st.DrawFn) -> bytes:
    """A flow log of any shape with anything in it."""
    return draw(serialised(draw(st.lists(records, max_size=5))))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A flow log of which bytes are lost, changed or doubled, in one to three places."""
    blob = draw(blobs())
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(st.integers(0, len(blob)), st.integers(0, len(blob)))))
        end = min(end, start + draw(st.sampled_from((0, 1, 1, 2, 40, 10_000))))
        blob = (
            blob[:start]
            + draw(st.sampled_from((b"", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"\xff", b'{"time":')))
            + blob[end:]
        )
    return blob


@st.composite
def chunked(draw: st.DrawFn, blob: bytes) -> list[bytes]:
    """The bytes of a blob cut anywhere, empty chunks included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(blob)), max_size=8)))
    return [blob[start:end] for start, end in zip([0, *cuts], [*cuts, len(blob)], strict=True)]
