"""Which prefixes hold an address: disjoint ranges and longest-prefix match for IPv4 and IPv6.

Nested prefixes are flattened once into disjoint ranges that cover the whole address space, so a look-up is one binary
search. (Looking for the nearest prefix start alone is wrong for nested prefixes: with 20.0.0.0/8 and 20.38.98.0/24 it
puts 20.38.99.1 into the /24.) The two families stay apart: ``::/0`` holds no IPv4 address, and an IPv4-mapped IPv6
address is an IPv6 address, as in Python's ``ipaddress``.

All functions take a series of address texts and answer row by row; give them *distinct* addresses, since a log has
few of these. Text that is no address has no prefix and is never an error.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import polars as pl

from flowlens.errors import ConfigError

Label = TypeVar("Label", bound=str | int)

INTERNAL_PREFIXES = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "0.0.0.0/8",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "fc00::/7",
    "fe80::/10",
    "::1/128",
    "::/128",
    "ff00::/8",
)
"""Space that is not the internet: private (RFC 1918), shared (RFC 6598), link-local, unique-local (RFC 4193), loopback
and unspecified (RFC 6890). Multicast and broadcast belong here too: an Azure virtual network carries neither, so such a
packet reaches nobody outside and can't be egress. 169.254.169.254 lies inside; ask PLATFORM_PREFIXES first."""

PLATFORM_PREFIXES = ("168.63.129.16/32", "169.254.169.254/32")
"""The platform's virtual address (DNS, DHCP, health probes) and instance metadata. They are in no service tag of the
published files, and exempt from NSG rules that name no AzurePlatform tag (Azure documentation,
network-security-groups-overview, 2025-07)."""

# The first is 0 to 255 without leading zeros, as ipaddress has it; [0-9] since \d would admit other scripts' digits.
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"^{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}$"
# What inet_pton may be asked about: no zone (%), no NUL, nothing outside ASCII.
_IPV6 = r"^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$"
_LENGTH = r"^(?:0|[1-9][0-9]{0,2})$"
_BITS: dict[pl.DataType, int] = {pl.UInt32(): 32, pl.UInt128(): 128}


def ip_keys(addresses: pl.Series) -> pl.DataFrame:
    """Sortable keys of addresses: columns ``ipv4`` (UInt32) and ``ipv6`` (16 bytes), row by row.

    The column of the other family is null; both are null for null and for text that is no address.

    >>> ip_keys(pl.Series(["10.0.0.1", "::1", "10.0.0.256"]))["ipv4"].to_list()
    [167772161, None, None]
    """
    text = pl.col("address")
    octets = (pl.col("octets").struct.field(f"field_{i}").cast(pl.UInt32, strict=False) for i in range(4))
    keys = (
        addresses.cast(pl.String)
        .alias("address")
        .to_frame()
        .select(
            octets=pl.when(text.str.contains(_IPV4)).then(text).str.split_exact(".", 3),
            candidate=pl.when(text.str.contains(_IPV6)).then(text),
        )
        .select(
            "candidate",
            ipv4=pl.sum_horizontal((octet * 256 ** (3 - i) for i, octet in enumerate(octets)), ignore_nulls=False).cast(
                pl.UInt32
            ),
        )
    )
    candidates = keys["candidate"]
    if candidates.null_count() == len(candidates):
        ipv6 = pl.repeat(None, len(candidates), dtype=pl.Binary, eager=True)
    else:
        packed = [None if candidate is None else _packed(candidate) for candidate in candidates.to_list()]
        ipv6 = pl.Series(packed, dtype=pl.Binary)
    return keys.select("ipv4", ipv6.alias("ipv6"))


def subnet_of(addresses: pl.Series) -> pl.Series:
    """The /24 or /64 that holds each address, as text; null for null and for text that is no address.

    Stands in for a subnet's name where none is known.

    >>> subnet_of(pl.Series(["10.1.2.3", "2001:db8::1:2:3:4", "x"])).to_list()
    ['10.1.2.0/24', '2001:db8::/64', None]
    """
    keys = ip_keys(addresses)
    ipv4 = pl.col("ipv4")
    octets = [(ipv4 // 256**power % 256).cast(pl.String) for power in (3, 2, 1)]
    ipv6 = [None if key is None else _slash64(key) for key in keys["ipv6"].to_list()]
    return keys.select(
        pl.coalesce(pl.concat_str([*octets, pl.lit("0/24")], separator="."), pl.Series(ipv6, dtype=pl.String))
    ).to_series()


def within(addresses: pl.Series, prefixes: Iterable[str]) -> pl.Series:
    """Whether any prefix holds each address; null for null and for text that is no address.

    Raises ConfigError for text that is no prefix.

    >>> within(pl.Series(["10.1.2.3", "20.1.2.3", "x"]), INTERNAL_PREFIXES).to_list()
    [True, False, None]
    """
    keys = ip_keys(addresses)
    known = keys.select(pl.col("ipv4").is_not_null() | pl.col("ipv6").is_not_null()).to_series()
    found = PrefixTable.build((prefix, 0) for prefix in prefixes).sets(addresses).is_not_null()
    return pl.select(pl.when(known).then(found)).to_series()


@functools.lru_cache(maxsize=4096)
def is_internal(prefix: str) -> bool:
    """Whether all of a valid prefix, or an address, is in INTERNAL_PREFIXES.

    >>> is_internal("10.1.0.0/16"), is_internal("8.8.8.8")
    (True, False)
    """
    network = ipaddress.ip_network(prefix)
    # ipaddress calls more private than what is internal here, such as ranges for benchmarks and documentation.
    known = (ipaddress.ip_network(internal) for internal in INTERNAL_PREFIXES)
    return any(network.version == one.version and network.subnet_of(one) for one in known)  # type: ignore[arg-type]


def normal(prefix: str, *, where: str = "") -> str:
    """The prefix in canonical text, host bits masked; an address stands for itself alone.

    Raises ConfigError, naming ``where``, for text that is no prefix.

    >>> normal("10.1.2.3/8"), normal("2001:DB8::1")
    ('10.0.0.0/8', '2001:db8::1/128')
    """
    address, slash, length = prefix.partition("/")
    try:
        if "%" in address or (slash and not re.fullmatch(_LENGTH, length)):
            raise ValueError("a zone, or a length that is no number")
        return str(ipaddress.ip_network(prefix, strict=False))
    except ValueError as error:
        raise _no_prefix(prefix, where) from error


@dataclass(frozen=True, slots=True, eq=False)
class PrefixTable(Generic[Label]):
    """Disjoint ranges of the address space, each with the labels of all prefixes that hold it.

    Build it with ``PrefixTable.build``, or ``PrefixTable.of`` from series. ``members[i]`` are the labels of set ``i``, most specific prefix first, labels
    of one prefix in the order given; a label that holds an address through several prefixes stands where its most
    specific one does.

    >>> table = PrefixTable.build([("20.0.0.0/8", "wide"), ("20.38.98.0/24", "narrow")])
    >>> found = pl.Series(["20.38.98.7", "20.38.99.1", "21.0.0.1"])
    >>> table.longest(found).to_list()
    ['narrow', 'wide', None]
    >>> [None if i is None else table.members[i] for i in table.sets(found).to_list()]
    [('narrow', 'wide'), ('wide',), None]
    """

    members: tuple[tuple[Label, ...], ...]
    _dtype: pl.DataType
    _ipv4: pl.DataFrame
    _ipv6: pl.DataFrame

    @classmethod
    def build(cls, pairs: Iterable[tuple[str, Label]], *, where: str = "") -> PrefixTable[Label]:
        """The table of ``(prefix, label)`` pairs; host bits are masked, an address stands for itself alone.

        Raises ConfigError, naming ``where`` and the text, where a prefix is none.
        """
        prefixes, labels = [], []
        for prefix, label in pairs:
            # Some texts that Python holds can't even be put into a series.
            if not (isinstance(prefix, str) and prefix.isascii()):
                raise _no_prefix(prefix, where)
            prefixes.append(prefix)
            labels.append(label)
        kind = pl.Int64 if labels and isinstance(labels[0], int) else pl.String
        return cls.of(pl.Series(prefixes, dtype=pl.String), pl.Series(labels, dtype=kind), where=where)

    @classmethod
    def of(cls, prefixes: pl.Series, labels: pl.Series, *, where: str = "") -> PrefixTable[Label]:
        """The table of two series, row by row: prefixes and their labels. Raises what ``build`` raises.

        >>> PrefixTable.of(pl.Series(["10.0.0.0/8"]), pl.Series(["ten"])).longest(pl.Series(["10.1.2.3"])).to_list()
        ['ten']
        """
        known = labels.unique(maintain_order=True)
        numbered = pl.DataFrame({"label": known}).with_row_index("number")
        number = pl.DataFrame({"label": labels}).join(numbered, on="label", how="left", maintain_order="left")["number"]
        parsed = _parse(prefixes, where).with_columns(label=number)
        sets: dict[tuple[int, ...], int] = {}
        ipv4, ipv6 = (
            _ranges(parsed.drop_nulls(family).select(first=family, length="length", label="label"), sets)
            for family in ("ipv4", "ipv6")
        )
        names: list[Label] = known.to_list()
        return cls(tuple(tuple(names[n] for n in members) for members in sets), labels.dtype, ipv4, ipv6)

    def sets(self, addresses: pl.Series) -> pl.Series:
        """The index into ``members`` for each address; null where no prefix holds it."""
        keys = ip_keys(addresses)
        ipv4, ipv6 = _at(self._ipv4, keys["ipv4"]), _at(self._ipv6, _number(keys["ipv6"]))
        return pl.select(pl.coalesce(ipv4, ipv6)).to_series()

    def longest(self, addresses: pl.Series) -> pl.Series:
        """The label of the most specific prefix that holds each address; null where none does."""
        first = pl.Series([members[0] for members in self.members], dtype=self._dtype)
        return first.gather(self.sets(addresses))


def _packed(text: str) -> bytes | None:
    try:
        return socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return None


def _slash64(key: bytes) -> str:
    return f"{socket.inet_ntop(socket.AF_INET6, key[:8] + bytes(8))}/64"


def _no_prefix(text: object, where: str) -> ConfigError:
    return ConfigError(where, f"expected a prefix such as 10.0.0.0/8 or 2001:db8::/32, found {str(text)[:80]!r}")


def _parse(texts: pl.Series, where: str) -> pl.DataFrame:
    """Columns ``ipv4`` (UInt32), ``ipv6`` (UInt128) and ``length`` of prefix texts, row by row."""
    split = texts.alias("text").str.splitn("/", 2).struct.unnest()
    keys, written = ip_keys(split["field_0"]), split["field_1"]
    bits = pl.when(pl.col("ipv4").is_not_null()).then(32).when(pl.col("ipv6").is_not_null()).then(128)
    number = pl.when(written.str.contains(_LENGTH)).then(written.cast(pl.Int32, strict=False))
    frame = keys.select(
        "ipv4", _number(keys["ipv6"]), bits=bits, length=pl.when(written.is_null()).then(bits).otherwise(number)
    )
    bad = frame.select((pl.col("length") > pl.col("bits")).fill_null(True)).to_series().arg_true()
    if len(bad):
        raise _no_prefix(texts[bad[0]], where)
    return frame.drop("bits")


def _number(keys: pl.Series) -> pl.Series:
    """Keys of IPv6 as numbers, which sort as the keys do."""
    return keys.bin.reinterpret(dtype=pl.UInt128, endianness="big")


def _ranges(prefixes: pl.DataFrame, sets: dict[tuple[int, ...], int]) -> pl.DataFrame:
    """Starts of disjoint ranges from 0 on with the set of each; sets met for the first time are added to ``sets``.

    ``prefixes`` has an address of each (``first``), its length and its label.
    """
    kind = prefixes.schema["first"]
    # By length: how many addresses follow the first of a prefix.
    hosts = pl.Series([(1 << bits) - 1 for bits in range(_BITS[kind], -1, -1)], dtype=kind)
    behind = hosts.gather(prefixes["length"])
    first = prefixes["first"] - (prefixes["first"] & behind)
    # A wider prefix comes before those inside it.
    held = (
        pl.DataFrame({"first": first, "last": first + behind, "label": prefixes["label"]})
        .group_by("first", "last", maintain_order=True)
        .agg("label")
        .sort("first", "last", descending=[False, True])
    )
    # The set of the range that begins at an address, in order; of ranges with the same start the last one counts, the others are empty.
    found: dict[int, int | None] = {0: None}
    # The prefixes around the current one, outermost first: the address behind each, and its set.
    around: list[tuple[int, int | None]] = [(2 << _BITS[kind], None)]
    members = list(sets)
    known: dict[tuple[int | None, tuple[int, ...]], int] = {}
    for start, last, labels in held.iter_rows():
        while around[-1][0] <= start:
            end, _ = around.pop()
            found[end] = around[-1][1]
        outer = around[-1][1]
        key = outer, tuple(labels)
        if key not in known:
            inside = tuple(dict.fromkeys((*labels, *(members[outer] if outer is not None else ()))))
            known[key] = sets.setdefault(inside, len(sets))
            if known[key] == len(members):
                members.append(inside)
        around.append((last + 1, known[key]))
        found[start] = known[key]
    while len(around) > 1:
        end, _ = around.pop()
        found[end] = around[-1][1]
    # Behind a prefix that ends with the address space begins a range that no key can hold.
    found.pop(1 << _BITS[kind], None)
    return pl.DataFrame(
        {"start": pl.Series(list(found), dtype=kind), "set": pl.Series(list(found.values()), dtype=pl.UInt32)}
    )


def _at(ranges: pl.DataFrame, keys: pl.Series) -> pl.Series:
    """The set of the range each key lies in; null for null keys."""
    if keys.null_count() == len(keys):
        return pl.repeat(None, len(keys), dtype=pl.UInt32, eager=True)
    # Ranges begin at 0, so every key has one that starts at or before it.
    index = ranges["start"].search_sorted(keys, side="right").cast(pl.Int64) - 1
    index = pl.select(pl.when(keys.is_not_null()).then(index)).to_series()
    return ranges["set"].gather(index)
