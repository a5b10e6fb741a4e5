import ipaddress
import os
import random

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowlens.errors import ConfigError
from flowlens.prefixes import (
    INTERNAL_PREFIXES,
    PLATFORM_PREFIXES,
    PrefixTable,
    ip_keys,
    normal,
    subnet_of,
    within,
)

# A few bits set in narrow places make prefixes nest and addresses hit them; uniform ones hardly ever meet.
CLUSTERED4 = st.integers(0, 255).map(lambda low: 0x14266200 + low) | st.integers(0, 2**32 - 1)
CLUSTERED6 = st.integers(0, 255).map(lambda low: (0x20010DB8 << 96) + low) | st.integers(0, 2**128 - 1)
EDGES4 = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
EDGES6 = st.sampled_from([0, 1, 2**127 - 1, 2**127, 2**128 - 2, 2**128 - 1])
ADDRESSES = (CLUSTERED4 | EDGES4).map(ipaddress.IPv4Address) | (CLUSTERED6 | EDGES6).map(ipaddress.IPv6Address)


@st.composite
def prefix_texts(draw):
    """Prefixes of either family, host bits left as they fall."""
    address = draw(ADDRESSES)
    return f"{address}/{draw(st.integers(0, address.max_prefixlen))}"


def oracle(pairs, address):
    """Labels of all prefixes that hold the address, most specific first, labels of one prefix in the order given."""
    holding = [
        (-network.prefixlen, row, label)
        for row, (text, label) in enumerate(pairs)
        if (network := ipaddress.ip_network(text, strict=False)).version == address.version and address in network
    ]
    return tuple(dict.fromkeys(label for _, _, label in sorted(holding, key=lambda held: held[:2])))


def members(table, addresses):
    found = table.sets(pl.Series(addresses, dtype=pl.String)).to_list()
    return [() if number is None else table.members[number] for number in found]


@pytest.mark.slow
@given(
    pairs=st.lists(st.tuples(prefix_texts(), st.sampled_from("abcdef")), max_size=25),
    addresses=st.lists(ADDRESSES, max_size=10),
)
@example(pairs=[("0.0.0.0/0", "a"), ("::/0", "b")], addresses=[])
@example(pairs=[("255.255.255.255/32", "a"), ("255.0.0.0/8", "b"), ("0.0.0.0/32", "a")], addresses=[])
def test_lookups_agree_with_ipaddress(pairs, addresses):
    # Both ends of each prefix and their neighbours are where a flattening goes wrong.
    for text, _ in pairs:
        network = ipaddress.ip_network(text, strict=False)
        kind, ends = type(network.network_address), (int(network[0]), int(network[-1]))
        addresses = [
            *addresses,
            *(kind(n) for e in ends for n in (e - 1, e, e + 1) if 0 <= n < 1 << kind(0).max_prefixlen),
        ]
    table = PrefixTable.build(pairs)
    expected = [oracle(pairs, address) for address in addresses]
    assert members(table, [str(address) for address in addresses]) == expected
    longest = table.longest(pl.Series([str(address) for address in addresses], dtype=pl.String))
    assert longest.to_list() == [labels[0] if labels else None for labels in expected]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "kind"), [(32, ipaddress.IPv4Address), (128, ipaddress.IPv6Address)])
def test_thousands_of_nested_prefixes_agree_with_ipaddress(bits, kind):
    chance = random.Random(bits)
    roots = [chance.getrandbits(bits) for _ in range(40)]
    pairs = []
    for number in range(4000):
        keep = chance.randrange(bits + 1)
        address = (chance.choice(roots) >> (bits - keep) << (bits - keep)) | chance.getrandbits(bits - keep or 1)
        pairs.append((f"{kind(address & (2**bits - 1))}/{chance.randrange(bits + 1)}", number))
    looked_up = [kind(chance.choice(roots) ^ chance.getrandbits(chance.randrange(bits))) for _ in range(300)]
    networks = [(ipaddress.ip_network(text, strict=False), label) for text, label in pairs]
    expected = []
    for address in looked_up:
        holding = [(-n.prefixlen, label) for n, label in networks if address in n]
        expected.append(tuple(label for _, label in sorted(holding)))
    assert members(PrefixTable.build(pairs), [str(address) for address in looked_up]) == expected
    assert any(len(labels) > 10 for labels in expected)


# `make matching` takes the long form.
NESTED = 100_000 if os.environ.get("MATCHING_LONG") else 10_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ipaddress.IPv4Address, ipaddress.IPv6Address])
@pytest.mark.parametrize("seed", [1, 2] if os.environ.get("MATCHING_LONG") else [1])
def test_very_many_nested_prefixes_agree_with_ipaddress(kind, seed):
    bits = kind(0).max_prefixlen
    chance = random.Random(seed)
    roots = [chance.getrandbits(bits) for _ in range(400)]

    def near():
        """An address that shares some leading bits with a root, so that prefixes nest."""
        return kind(chance.choice(roots) ^ chance.getrandbits(chance.randrange(bits + 1)))

    pairs = [(f"{near()}/{chance.randrange(bits + 1)}", chance.randrange(50)) for _ in range(NESTED)]
    held = {}
    for text, label in pairs:
        held.setdefault(ipaddress.ip_network(text, strict=False), {})[label] = None
    looked_up = [near() for _ in range(1000)]
    expected = [
        tuple(
            dict.fromkeys(
                label
                for length in range(bits, -1, -1)
                for label in held.get(ipaddress.ip_network((address, length), strict=False), ())
            )
        )
        for address in looked_up
    ]
    table = PrefixTable.build(pairs)
    texts = [str(address) for address in looked_up]
    assert members(table, texts) == expected
    assert table.longest(pl.Series(texts)).to_list() == [labels[0] if labels else None for labels in expected]
    assert sum(len(labels) > 5 for labels in expected) > 100


def test_an_address_beside_a_narrow_prefix_falls_to_the_wide_one_around_it():
    table = PrefixTable.build([("20.0.0.0/8", "wide"), ("20.38.98.0/24", "narrow")])
    assert table.longest(pl.Series(["20.38.99.1"])).to_list() == ["wide"]


def test_families_never_meet():
    table = PrefixTable.build([("::/0", "six"), ("10.0.0.0/8", "four")])
    assert table.longest(pl.Series(["20.1.1.1", "10.1.1.1", "::ffff:10.1.1.1"])).to_list() == [None, "four", "six"]


def test_an_empty_table_knows_nothing():
    table = PrefixTable.build([])
    assert table.longest(pl.Series(["10.0.0.1", "::1"])).to_list() == [None, None]
    assert table.members == ()


@given(
    st.lists(
        ADDRESSES.map(str) | st.text(max_size=20) | st.from_regex(r"[0-9a-f:.%/]{0,16}", fullmatch=True) | st.none()
    )
)
@example(
    ["01.2.3.4", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.4 ", "1.2.3.4\n", "١.2.3.4", "", ":", "::\0", "fe80::1%eth0"]
)
def test_keys_are_those_of_ipaddress(texts):
    def key(text, kind):
        try:
            return kind(text).packed
        except ValueError:
            return None

    keys = ip_keys(pl.Series(texts, dtype=pl.String))
    assert [None if k is None else k.to_bytes(4) for k in keys["ipv4"].to_list()] == [
        key(text, ipaddress.IPv4Address) for text in texts
    ]
    # A zone is not part of an address in a log; ipaddress takes one.
    assert keys["ipv6"].to_list() == [
        None if text is None or "%" in text else key(text, ipaddress.IPv6Address) for text in texts
    ]


@given(st.lists(ADDRESSES, min_size=1))
def test_subnets_are_those_of_ipaddress(addresses):
    expected = [str(ipaddress.ip_network((a, 24 if a.version == 4 else 64), strict=False)) for a in addresses]
    assert subnet_of(pl.Series([str(a) for a in addresses])).to_list() == expected


def test_text_that_is_no_address_has_no_subnet():
    assert subnet_of(pl.Series(["no", None, "10.0.0.1"])).to_list() == [None, None, "10.0.0.0/24"]


@given(prefix_texts())
def test_a_normal_prefix_is_that_of_ipaddress(text):
    assert normal(text) == str(ipaddress.ip_network(text, strict=False))


WRONG = [
    "", "/", "x", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/08", "10.0.0/8", "10.0.0.0/8/8", " 10.0.0.0/8",
    "10.0.0.0/8\n", "10.0.0.0/255.0.0.0", "::/129", "fe80::%1/64", "10.0.0.0/٨", "::/99999999999999999999", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_text_that_is_no_prefix_is_refused_by_name(text):
    with pytest.raises(ConfigError, match="expected a prefix") as many:
        PrefixTable.build([("10.0.0.0/8", "a"), (text, "b")], where="here.toml")
    with pytest.raises(ConfigError, match="expected a prefix") as one:
        normal(text, where="here.toml")
    assert str(many.value) == str(one.value)
    assert str(one.value).startswith("here.toml: ") and repr(text) in str(one.value)
    assert "\n" not in str(one.value)


INTERNAL = [
    "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "169.254.1.1",
    "127.0.0.1", "0.0.0.0", "224.0.0.251", "239.255.255.250", "255.255.255.255", "fd00::1", "fc00::1", "fe80::1",
    "::1", "::", "ff02::1",
]  # fmt: skip
EXTERNAL = [
    "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "100.63.255.255", "100.128.0.0",
    "168.63.129.16", "20.118.99.224", "223.255.255.255", "2603:1006:2000::1", "fe00::1", "::2",
]  # fmt: skip


def test_internal_space_is_what_never_reaches_the_internet():
    assert within(pl.Series(INTERNAL), INTERNAL_PREFIXES).to_list() == [True] * len(INTERNAL)
    assert within(pl.Series(EXTERNAL), INTERNAL_PREFIXES).to_list() == [False] * len(EXTERNAL)
    assert within(pl.Series(["", None]), INTERNAL_PREFIXES).to_list() == [None, None]


def test_platform_addresses_are_two():
    found = within(pl.Series(["168.63.129.16", "169.254.169.254", "168.63.129.17", "10.0.0.1"]), PLATFORM_PREFIXES)
    assert found.to_list() == [True, True, False, False]
