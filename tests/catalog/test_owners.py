"""Whose an address is: lists and databases as their makers write them, and what is none of them."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet

import flowlens as fl
from flowlens.catalog.owners import Owners, read_owners
from flowlens.outputs.text import clean
from tests.flow_logs import SAMPLE, run
from tests.payloads import PAYLOADS

OUTSIDE = "203.0.113.77"
TAGGED = "20.60.172.11"


def database(path: Path, records: Mapping[str, object], kind: str = "GeoLite2-ASN", version: int = 6) -> Path:
    """A file in the MaxMind DB format, as another program writes it."""
    writer = MMDBWriter(version, database_type=kind, ipv4_compatible=version == 6)
    for prefix, record in records.items():
        writer.insert_network(IPSet([prefix]), record)
    writer.to_db_file(str(path))
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def told(owners: Owners, *addresses: str, azure: bool = False) -> list[tuple[object, ...]]:
    return owners.identify(pl.Series(addresses), azure=pl.Series([azure] * len(addresses))).rows()


@pytest.mark.parametrize(
    "header",
    ["prefix,owner,country", "network,as_name,country_code", "cidr,autonomous_system_organization,country_iso_code"],
)
def test_a_list_in_the_words_of_whoever_wrote_it(tmp_path: Path, header: str) -> None:
    text = f"\ufeff{header},note\n203.0.113.0/24, Example Ltd ,NL,x\n203.0.113.64/26,Inner Ltd,,\n2001:db8::/32,,DE,\n"
    owners = read_owners([written(tmp_path / "list.csv", text)])
    assert told(owners, "203.0.113.1", OUTSIDE, "2001:db8::7", "198.51.100.1") == [
        ("Example Ltd", "NL"),
        ("Inner Ltd", None),
        (None, "DE"),
        (None, None),
    ]
    assert owners.describe() == "list.csv, 3 prefix(es)"


# As each maker documents the records of its files.
RECORDS = [
    (
        "GeoLite2-ASN",
        {"autonomous_system_number": 64500, "autonomous_system_organization": "Example"},
        ("Example", None),
    ),
    ("GeoLite2-Country", {"country": {"iso_code": "NL", "names": {"en": "Netherlands"}}}, (None, "NL")),
    ("GeoLite2-Country", {"registered_country": {"iso_code": "DE"}}, (None, "DE")),
    ("ipinfo lite", {"as_name": "Example", "country": "Netherlands", "country_code": "NL"}, ("Example", "NL")),
]


@pytest.mark.parametrize(("kind", "record", "expected"), RECORDS)
def test_databases_of_several_makers(
    tmp_path: Path, kind: str, record: Mapping[str, object], expected: tuple[str | None, str | None]
) -> None:
    path = database(tmp_path / "of.mmdb", {"203.0.113.0/24": record, "2001:db8::/32": record}, kind)
    owners = read_owners([path])
    assert told(owners, OUTSIDE, "2001:db8::1", "198.51.100.1") == [expected, expected, (None, None)]
    assert owners.describe() == f"of.mmdb, {kind} of {dt.datetime.now(dt.UTC):%Y-%m-%d}"


def test_an_older_database_knows_the_older_addresses_alone(tmp_path: Path) -> None:
    owners = read_owners([database(tmp_path / "v4.mmdb", {"203.0.113.0/24": {"as_name": "Example"}}, version=4)])
    assert told(owners, OUTSIDE, "2001:db8::1") == [("Example", None), (None, None)]


def test_the_first_file_that_tells_counts_and_azure_is_known_better(tmp_path: Path) -> None:
    partners = written(tmp_path / "partners.csv", f"prefix,owner\n{OUTSIDE},Partner\n{TAGGED},Our backups\n")
    world = database(
        tmp_path / "world.mmdb",
        {"203.0.113.0/24": {"as_name": "Carrier", "country_code": "NL"}, "20.0.0.0/8": {"as_name": "Microsoft"}},
    )
    owners = read_owners([partners, world])
    assert told(owners, OUTSIDE, "203.0.113.1") == [("Partner", "NL"), ("Carrier", "NL")]
    assert told(owners, TAGGED, "20.1.2.3", azure=True) == [("Our backups", None), (None, None)]
    assert told(read_owners([world, partners]), OUTSIDE) == [("Carrier", "NL")]


prefixes = st.tuples(st.integers(0, 2**32 - 1), st.integers(4, 32)).map(
    lambda pair: str(ipaddress.ip_network(pair, strict=False))
)


@pytest.mark.slow
@given(
    st.dictionaries(prefixes, st.text("ab", min_size=1, max_size=3), max_size=8),
    st.lists(st.ip_addresses(v=4), max_size=9),
)
def test_a_list_gives_the_owner_of_the_longest_prefix(
    tmp_path_factory: pytest.TempPathFactory, known: dict[str, str], addresses: list[ipaddress.IPv4Address]
) -> None:
    path = tmp_path_factory.mktemp("owners") / "list.csv"
    owners = read_owners([written(path, "prefix,owner\n" + "".join(f"{p},{o}\n" for p, o in known.items()))])
    asked = list(dict.fromkeys([*addresses, *(ipaddress.ip_network(prefix)[0] for prefix in known)]))
    expected = []
    for address in asked:
        holding = [network for network in map(ipaddress.ip_network, known) if address in network]
        longest = max(holding, key=lambda network: network.prefixlen, default=None)
        expected.append((known[str(longest)] if longest else None, None))
    found = told(owners, *map(str, asked)) if asked else []
    assert found == expected


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv", b"network,owner\nexample.com,Example\n", "row 1: expected a prefix"),
        ("a.csv", b"network,owners\n203.0.113.0/24,x\n", "expected a column owner or country"),
        ("a.csv", b"owner\nExample\n", "expected a column prefix"),
        ("a.csv", b"", "expected a column prefix"),
        ("a.csv", b"\xff\xfe", "cannot be read as a list of owners"),
        ("a.csv", b'prefix,owner\n203.0.113.0/24,"' + b"x" * 140_000 + b'"\n', "cannot be read as a list of owners"),
        ("a.mmdb", b"", "cannot be read as a database of owners"),
        ("a.mmdb", b"prefix,owner\n", "cannot be read as a database of owners"),
    ],
)
def test_what_is_no_list_of_owners_is_told(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(fl.ConfigError) as error:
        read_owners([tmp_path / name])
    assert problem in error.value.problem or problem in str(error.value)
    with pytest.raises(fl.ConfigError):
        read_owners([tmp_path / f"no-such-{name}"])


def test_a_database_of_something_else_or_broken_is_told(tmp_path: Path) -> None:
    cities = database(tmp_path / "weather.mmdb", {"203.0.113.0/24": {"sunshine": 7}})
    with pytest.raises(fl.ConfigError, match="tell neither owner nor country"):
        read_owners([cities])
    whole = database(tmp_path / "asn.mmdb", {"203.0.113.0/24": {"as_name": "Example"}}).read_bytes()
    for cut in range(0, len(whole), 7):
        broken = tmp_path / "broken.mmdb"
        broken.write_bytes(whole[:cut] + bytes([whole[cut] ^ 0xFF]) + whole[cut + 1 :])
        try:
            rows = told(read_owners([broken]), OUTSIDE)
        except fl.ConfigError:
            continue
        assert len(rows) == 1


def test_destinations_are_named_from_the_command_line_on(tmp_path: Path) -> None:
    world = database(tmp_path / "world.mmdb", {"203.0.113.0/24": {"as_name": "Example Ltd", "country_code": "NL"}})
    partners = written(tmp_path / "partners.csv", "prefix,owner,country\n198.51.100.0/24,Partner,JP\n")
    ran = run(
        *("destinations", SAMPLE, "--expect", SAMPLE / "expected.toml", "--format", "json"),
        *("--owners", partners, "--owners", world),
    )
    rows = {row["dst_ip"]: (row["owner"], row["country"]) for row in ran.document["tables"]["unexpected_destinations"]}
    assert rows == {OUTSIDE: ("Example Ltd", "NL"), "198.51.100.23": ("Partner", "JP")}
    assert {finding["evidence"]["owner"] for finding in ran.document["findings"]} == {"Example Ltd", "Partner"}
    assert ran.document["settings"]["owners"].startswith("partners.csv, 1 prefix(es); world.mmdb, GeoLite2-ASN of ")
    shown = run("destinations", SAMPLE, "--expect", SAMPLE / "expected.toml", "--owners", partners).out
    assert "Partner" in shown and "JP" in shown
    wrong = run("destinations", SAMPLE, "--owners", tmp_path / "none.csv")
    assert (wrong.code, "none.csv: cannot be read" in wrong.err) == (2, True)


def test_names_of_owners_are_text_wherever_they_show(tmp_path: Path) -> None:
    texts = [text for text in PAYLOADS if text.strip()][:200]
    quoted = [text.replace('"', '""') for text in texts]
    rows = "".join(f'198.51.{n // 200}.{n % 200},"{text}"\n' for n, text in enumerate(quoted))
    path = tmp_path / "list.csv"
    path.write_text(f"prefix,owner\n{rows}", encoding="utf-8", newline="")
    found = told(read_owners([path]), *(f"198.51.{n // 200}.{n % 200}" for n in range(len(texts))))
    assert [clean(owner) for owner, _ in found] == [clean(text.strip()) for text in texts]


def test_a_report_without_owners_is_no_baseline_of_what_is_gone(tmp_path: Path) -> None:
    earlier, partners = (
        tmp_path / "earlier.json",
        written(tmp_path / "partners.csv", f"prefix,owner\n{OUTSIDE},Partner\n"),
    )
    # From a time on at which no hour is missing.
    asked = ("destinations", SAMPLE, "--expect", SAMPLE / "expected.toml", "--start", "2026-06-15T13:00Z")
    run(*asked, "-o", earlier)
    ran = run(*asked, "--owners", partners, "--baseline", earlier, "--format", "json").document
    # The one that is known by its owner now is new by name, and nothing is called resolved.
    assert sorted(finding["state"] for finding in ran["findings"]) == ["new", "ongoing"]
    assert any("made with other owners" in note for note in ran["notes"])
