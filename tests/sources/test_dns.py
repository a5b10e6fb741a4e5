"""Names are resolved against a real server on loopback, however it behaves."""

from __future__ import annotations

import datetime as dt
import time

import dns.message
import dns.name
import dns.rcode
import dns.resolver
import pytest

from flowlens.catalog import read_names
from flowlens.errors import ConfigError, SourceError
from flowlens.outputs.tables import write_csv
from flowlens.sources.dns import COLUMNS, Server, parse_server, resolve_names, system_servers
from tests.dns_server import Zone, serving

NOW = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
MANY = [f"203.0.113.{n}" for n in range(1, 100)]
RECORDS = {
    "a.example.com": [("A", "203.0.113.7"), ("A", "203.0.113.8"), ("AAAA", "2001:db8::7")],
    "alias.example.com": [("CNAME", "b.cdn.example.net")],
    "b.cdn.example.net": [("CNAME", "c.cdn.example.net")],
    "c.cdn.example.net": [("A", "203.0.113.9")],
    "six.example.com": [("AAAA", "2001:db8::6")],
    "private.example.com": [("A", "10.0.0.5")],
    "empty.example.com": [],
    "many.example.com": [("A", one) for one in MANY],
    "loop.example.com": [("CNAME", "pool.example.com")],
    "pool.example.com": [("CNAME", "loop.example.com")],
    "self.example.com": [("CNAME", "self.example.com")],
    **{f"n{n}.long.example.com": [("CNAME", f"n{n + 1}.long.example.com")] for n in range(40)},
}


def resolved(names, zone=None, **options):
    with serving(zone or Zone(RECORDS)) as server:
        return resolve_names(names, [Server(*server)], **{"timeout": 5.0, "now": NOW, **options})


def addresses(resolution):
    found = {}
    for one in resolution.found:
        found.setdefault(one.name, []).append(one.address)
    return found


def test_addresses_of_both_families():
    found = resolved(["a.example.com", "six.example.com", "private.example.com"])
    assert addresses(found) == {
        "a.example.com": ["2001:db8::7", "203.0.113.7", "203.0.113.8"],
        "six.example.com": ["2001:db8::6"],
        "private.example.com": ["10.0.0.5"],
    }
    assert found.gaps == ()
    assert {one.seen for one in found.found} == {NOW}


@pytest.mark.parametrize("follow", [True, False], ids=["whole chains", "one alias at a time"])
def test_aliases_are_followed_to_their_end(follow):
    zone = Zone(RECORDS, follow=follow)
    (one,) = resolved(["Alias.Example.com."], zone).found
    assert (one.name, one.address, one.canonical_name) == ("alias.example.com", "203.0.113.9", "c.cdn.example.net")
    assert (("b.cdn.example.net", "A", "udp") in zone.asked) != follow


def test_an_answer_too_long_for_udp_is_asked_for_again_over_tcp():
    zone = Zone(RECORDS)
    assert addresses(resolved(["many.example.com"], zone)) == {"many.example.com": sorted(MANY)}
    assert [kind for _, kind, transport in zone.asked if transport == "tcp"] == ["A"]


def test_each_name_is_asked_for_once():
    zone = Zone(RECORDS)
    resolved(["a.example.com", "A.example.com", "a.example.com."], zone)
    assert sorted(zone.asked) == [("a.example.com", "A", "udp"), ("a.example.com", "AAAA", "udp")]


def test_what_a_server_says_is_not_there_is_answered():
    found = resolved(["gone.example.com", "empty.example.com", "bad..example.com", "x" * 70 + ".example.com"])
    assert found.found == ()
    assert [(gap.name[:16], gap.answered) for gap in found.gaps] == [
        ("gone.example.com", True), ("empty.example.co", True), ("bad..example.com", True), ("x" * 16, True)
    ]  # fmt: skip
    assert [gap.reason.split(":")[0] for gap in found.gaps] == [
        "there is no such name",
        "has no A or AAAA record",
        "is no name that DNS can hold",
        "is no name that DNS can hold",
    ]


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("name", ["loop.example.com", "self.example.com"])
def test_a_loop_of_aliases_is_a_gap(name, follow):
    (gap,) = resolved([name], Zone(RECORDS, follow=follow)).gaps
    assert "loop of aliases" in gap.reason and not gap.answered


def test_a_chain_without_end_is_a_gap():
    (gap,) = resolved(["n0.long.example.com"], Zone(RECORDS, follow=False)).gaps
    assert "more than 16 aliases" in gap.reason
    (gap,) = resolved(["n0.long.example.com"]).gaps
    assert "loop of aliases" in gap.reason


def wrong_id(query, response):
    response.id = query.id ^ 1
    return response.to_wire()


def wrong_question(query, response):
    response.question[0].name = dns.name.from_text("elsewhere.example.com.")
    return response.to_wire()


def failing(query, response):
    response.answer.clear()
    response.set_rcode(dns.rcode.SERVFAIL)
    return response.to_wire()


def an_echo(query, response):
    return query.to_wire()


def garbage(query, response):
    return query.id.to_bytes(2) + b"\xff" * 30


def cut(query, response):
    return response.to_wire()[:-3]


LIES = {
    wrong_id: "another question",
    wrong_question: "another question",
    failing: "failed: SERVFAIL",
    an_echo: "another question",
    garbage: "could not be asked",
    cut: "could not be asked",
}


@pytest.mark.parametrize(("lie", "reason"), LIES.items(), ids=[lie.__name__ for lie in LIES])
def test_a_server_that_fails_or_lies_is_a_gap_and_nothing_of_it_is_used(lie, reason):
    zone = Zone(RECORDS, {"a.example.com": lie})
    found = resolved(["a.example.com", "six.example.com"], zone)
    assert addresses(found) == {"six.example.com": ["2001:db8::6"]}
    (gap,) = found.gaps
    assert gap.name == "a.example.com" and not gap.answered
    assert reason in gap.reason and gap.reason.isprintable() and "127.0.0.1" in gap.reason


def test_a_server_that_stalls_is_a_gap_within_its_time():
    zone = Zone(RECORDS, {"a.example.com": lambda query, response: None})
    began = time.monotonic()
    found = resolved(["a.example.com", "six.example.com"], zone, timeout=0.2)
    assert time.monotonic() - began < 3
    assert addresses(found) == {"six.example.com": ["2001:db8::6"]}
    assert "gave no answer in 0.2 s" in found.gaps[0].reason


def test_the_time_limit_holds_for_all_names_together():
    zone = Zone({}, {f"n{n}.example.com": lambda query, response: None for n in range(200)})
    began = time.monotonic()
    found = resolved([f"n{n}.example.com" for n in range(200)], zone, timeout=0.3, time_limit=0.5)
    assert time.monotonic() - began < 5
    assert len(found.gaps) == 200
    assert any("time limit" in gap.reason for gap in found.gaps) and any(
        "no answer" in gap.reason for gap in found.gaps
    )


def test_addresses_of_one_kind_are_kept_where_the_other_kind_fails():
    def only_a(query, response):
        return failing(query, response) if query.question[0].rdtype == 28 else response.to_wire()

    found = resolved(["a.example.com"], Zone(RECORDS, {"a.example.com": only_a}))
    assert addresses(found) == {"a.example.com": ["203.0.113.7", "203.0.113.8"]}


def test_the_next_server_is_asked_where_the_first_is_silent():
    mute = Zone(RECORDS, {"a.example.com": lambda query, response: None})
    with serving(mute) as first, serving(Zone(RECORDS)) as second:
        found = resolve_names(["a.example.com"], [Server(*first), Server(*second)], timeout=0.2, now=NOW)
    assert {one.resolver for one in found.found} == {f"127.0.0.1 port {second[1]}"}


def test_nobody_at_the_address_is_a_gap():
    with serving(Zone({})) as server:
        pass
    (gap,) = resolve_names(["a.example.com"], [Server(*server)], timeout=0.3).gaps
    assert not gap.answered and gap.reason.isprintable()


def test_what_is_written_is_read_as_names(tmp_path):
    found = resolved(["a.example.com", "alias.example.com"])
    path = tmp_path / "names.csv"
    with path.open("wb") as file:
        write_csv(found.table(), file)
    assert path.read_text("utf-8").splitlines()[0] == ",".join(COLUMNS)
    names = read_names(path)
    assert names.of("a*.example.com") == addresses(found)
    assert {one.first_seen for known in names.addresses.values() for one in known} == {NOW}
    assert "127.0.0.1" in path.read_text("utf-8")


def test_the_servers_of_this_machine(monkeypatch, tmp_path):
    written = tmp_path / "resolv.conf"
    written.write_text("nameserver 10.0.0.4\nnameserver 2001:db8::1\n")
    real = dns.resolver.Resolver
    monkeypatch.setattr(dns.resolver, "Resolver", lambda configure: real(str(written)))
    assert system_servers() == [Server("10.0.0.4"), Server("2001:db8::1")]


@pytest.mark.parametrize("content", [None, "", "nameserver https://dns.example.com/query\n"])
def test_a_machine_without_a_server_says_what_to_do(monkeypatch, tmp_path, content):
    written = tmp_path / "resolv.conf"
    if content is not None:
        written.write_text(content)
    real = dns.resolver.Resolver
    monkeypatch.setattr(dns.resolver, "Resolver", lambda configure: real(str(written)))
    with pytest.raises(SourceError, match="names no DNS server") as error:
        system_servers()
    assert "--server" in error.value.hint


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("10.0.0.4", Server("10.0.0.4", 53)),
        ("10.0.0.4:5353", Server("10.0.0.4", 5353)),
        ("2001:DB8::1", Server("2001:db8::1", 53)),
        ("[2001:db8::1]", Server("2001:db8::1", 53)),
        ("[2001:db8::1]:54", Server("2001:db8::1", 54)),
    ],
)
def test_servers(text, server):
    assert parse_server(text) == server


@pytest.mark.parametrize(
    "text", ["", "dns.example.com", "10.0.0.4:0", "10.0.0.4:70000", "10.0.0.256", "[10.0.0.4", "::1%eth0", "\x1b"]
)
def test_what_is_no_server(text):
    with pytest.raises(ConfigError, match="is no address of a DNS server") as error:
        parse_server(text)
    assert error.value.where.isprintable()
