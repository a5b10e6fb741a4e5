import contextlib
import datetime as dt
import fnmatch
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.catalog import Endpoint, Names, Requirement, expand, load_profile, load_tags, read_names
from flowlens.catalog.expansion import names_of
from flowlens.catalog.names import Resolved, parse_names
from flowlens.errors import CatalogError, FlowlensError

T9 = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
T10 = dt.datetime(2026, 6, 15, 10, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def parsed(text):
    return parse_names(text.encode() if isinstance(text, str) else json.dumps(text).encode(), where="names")


def test_a_list_of_names():
    names = parsed(
        "name,address,first_seen,last_seen\n"
        "Registry.Example.com.,203.0.113.7,2026-06-15T09:00:00Z,2026-06-15T10:00:00Z\n"
        "registry.example.com,2001:DB8::7,,\n"
        "registry.example.com,203.0.113.7,2026-06-15T11:00:00+02:00,2026-06-15T11:30:00+02:00\n"
    )
    assert names.addresses == {
        "registry.example.com": (Resolved("2001:db8::7"), Resolved("203.0.113.7", T9, T10)),
    }
    assert names.unresolved == frozenset() and names.skipped == 0


@pytest.mark.parametrize(
    "header", ["name,address", "Name,Address,First Seen,Last Seen", "\ufeffname,address,notes", "address,name"]
)
def test_headers_in_any_spelling_and_order(header):
    cells = {"name": "a.example.com", "address": "203.0.113.7"}
    row = ",".join(cells.get(column.strip("\ufeff").lower(), "") for column in header.split(","))
    assert parsed(f"# resolved by 10.0.0.4\n{header}\n{row}\n").of("a.example.com") == {
        "a.example.com": ["203.0.113.7"]
    }


ANSWERS = [
    # DNSQueryLogs of a DNS security policy, as the portal, a query and a storage account hold them.
    ('TimeGenerated [UTC],QueryName,QueryType,Answer\n"6/15/2026, 9:00:00.000 AM",a.example.com.,A,'
    '"[{""Type"":""CNAME"",""Class"":""IN"",""RData"":""b.example.net.""},{""Type"":""A"",""RData"":""203.0.113.7""}]"\n'),
    [{"TimeGenerated": "2026-06-15T09:00:00.0000000Z", "QueryName": "a.example.com.", "Answer": [{"RData": "203.0.113.7"}]}],
    {"records": [{"time": "2026-06-15T09:00:00Z", "properties": {"QueryName": "A.example.com", "Answer": ["203.0.113.7"]}}]},
    {"tables": [{"columns": [{"name": "QueryName"}, {"name": "Answer"}, {"name": "TimeGenerated"}],
                 "rows": [["a.example.com.", '["203.0.113.7"]', "2026-06-15T09:00:00Z"]]}]},
    # Windows DNS servers, and the form of Microsoft Sentinel.
    'TimeGenerated,Name,QueryType,IPAddresses\n2026-06-15T09:00:00Z,a.example.com,A,"203.0.113.7"\n',
    'TimeGenerated,DnsQuery,DnsResponseName\n2026-06-15T09:00:00Z,a.example.com,"b.example.net; 203.0.113.7"\n',
    # One object per line.
    ('{"time": "2026-06-15T09:00:00Z", "properties": {"QueryName": "a.example.com.", "Answer": "[\'203.0.113.7\']"}}\n'
    '{"time": "2026-06-15T09:00:00Z", "properties": {"QueryName": "a.example.com.", "Answer": "203.0.113.7"}}\n'),
]  # fmt: skip


@pytest.mark.parametrize("text", ANSWERS)
def test_dns_logs_that_hold_answers(text):
    names = parsed(text)
    assert names.addresses == {"a.example.com": (Resolved("203.0.113.7", T9, T9),)}


ASKED = [
    "TimeGenerated,Fqdn,DestinationPort,Action\n2026-06-15T09:00:00Z,a.example.com,443,Deny\n",
    "TimeGenerated,QueryName,QueryType,ResponseCode\n2026-06-15T09:00:00Z,a.example.com.,A,NOERROR\n",
    'Category,msg_s\nAzureFirewallApplicationRule,"HTTPS request from 10.0.0.4:55555 to a.example.com:443. Action: Deny. No rule matched"\n',
    [{"msg_s": "DNS Request: 10.0.0.4:55555 - 6831 A IN a.example.com. udp 45 false 512 NOERROR qr,rd,ra 99 0.01s"}],
    {"records": [{"category": "AzureFirewallApplicationRule", "properties": {"msg": "HTTP request from 10.0.0.4:5 to a.example.com:80. Action: Allow"}}]},
]  # fmt: skip


@pytest.mark.parametrize("text", ASKED)
def test_firewall_logs_name_what_was_asked_for_and_no_address(text):
    names = parsed(text)
    assert names.addresses == {} and names.unresolved == {"a.example.com"}
    assert names.asked("*.example.com") == ["a.example.com"]
    assert "1 name(s) without an address" in names.describe()


def test_rows_of_a_log_that_hold_no_name_are_counted():
    rows = [
        {"msg_s": "TCP request from 10.0.0.4:5 to 203.0.113.7:443. Action: Deny"},
        {"msg_s": "something else"},
        {"msg_s": None},
        {"msg_s": "HTTPS request from 10.0.0.4:5 to a.example.com:443. Action: Deny"},
    ]
    names = parsed(rows)
    assert names.unresolved == {"a.example.com"} and names.skipped == 3
    assert "3 row(s) without a name" in names.describe()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a column of names, found none"),
        ("a,b\n1,2\n", "expected a column of names, found none"),
        ("adress,nam\n1,2\n", "expected a column of names, found none"),
        ("name,address\na.example.com,x\n", "row 2: expected an address, found 'x'"),
        ("name,address\na.example.com,\n", "row 2: expected an address, found ''"),
        ("name,address\na.example.com,10.0.0.1%eth0\n", "row 2: expected an address"),
        ("name,address\n,10.0.0.1\n", "row 2: expected a name, found 'None'"),
        ("name,address\n10.0.0.2,10.0.0.1\n", "row 2: expected a name"),
        ("name,address\na.example.com,10.0.0.1,3\n", "row 2 has more cells"),
        ("name,address,first_seen\na.example.com,10.0.0.1,yesterday\n", "row 2: expected a time"),
        ("name,address,first_seen,last_seen\na.b,10.0.0.1,2026-06-16T09:00Z,2026-06-15T09:00Z\n", "after it was last seen"),
        ('name,address\n"a.example.com,10.0.0.1\n', "expected names as CSV or JSON"),
        ("[1]", "row 1: expected an object, found '1'"),
        ("{", "expected names as CSV or JSON"),
        ('{"tables": [{}]}', "expected a table with columns and rows"),
        ('{"tables": [{"columns": [{"name": "name"}], "rows": [[1, 2]]}]}', "expected a row of 1 cells"),
        ("[" * 100_000, "expected names as CSV or JSON"),
        ('[{"name": "a.example.com", "address": 5}]', "row 1: expected an address, found '5'"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_names_is_refused_with_its_row(text, problem):
    with pytest.raises(CatalogError) as error:
        parsed(text)
    assert error.value.where == "names" and problem in error.value.problem
    assert error.value.problem.isprintable() and len(error.value.problem) < 300


def test_files_that_can_not_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv", "a\0b"):
        with pytest.raises(CatalogError, match="can't read the names"):
            read_names(path)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\0")
    with pytest.raises(CatalogError, match="expected names as CSV or JSON"):
        read_names(binary)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_names_or_refused(data):
    with contextlib.suppress(FlowlensError):
        assert isinstance(parse_names(data, where="names"), Names)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                column: st.one_of(st.none(), st.integers(), st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3))
                for column in ("name", "address", "QueryName", "Answer", "msg", "TimeGenerated", "first_seen", "properties")
            },
        ),
        max_size=4,
    )
)  # fmt: skip
def test_any_rows_are_names_or_refused(rows):
    try:
        names = parsed(rows)
    except FlowlensError:
        return
    assert set(names.addresses).isdisjoint(names.unresolved)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.example.com", ["a.example.com"]),
        ("A.EXAMPLE.COM", ["a.example.com"]),
        ("*.example.com", ["a.example.com", "b.japaneast.example.com"]),
        ("*.<location>.example.com", ["b.japaneast.example.com"]),
        ("<x>.example.com", ["a.example.com"]),
        ("*", ["a.example.com", "b.japaneast.example.com"]),
        ("example.com", []),
        ("*.example.co", []),
        ("a*", ["a.example.com"]),
    ],
)
def test_patterns(pattern, found):
    names = Names({name: (Resolved("203.0.113.7"),) for name in ("a.example.com", "b.japaneast.example.com")})
    assert list(names.of(pattern)) == found


LABELS = st.lists(st.sampled_from(["a", "b", "com", "ab", "x-1"]), min_size=1, max_size=5).map(".".join)


@given(st.lists(LABELS, max_size=8), LABELS, st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_patterns_agree_with_fnmatch(known, base, first, last, resolved):
    pattern = base[:first] + "*" + base[max(first, last) :]
    names = Names({name: (Resolved("203.0.113.7"),) for name in known}) if resolved else Names({}, frozenset(known))
    assert names.asked(pattern) == sorted(name for name in set(known) if fnmatch.fnmatchcase(name, pattern))


def test_only_what_was_seen_near_the_flows_counts():
    known = {
        "before.example.com": (Resolved("203.0.113.1", T9 - 3 * DAY, T9 - 2 * DAY),),
        "near.example.com": (Resolved("203.0.113.2", T9 - 3 * DAY, T9 - DAY),),
        "after.example.com": (Resolved("203.0.113.3", T10 + 2 * DAY, T10 + 2 * DAY),),
        "around.example.com": (Resolved("203.0.113.4", T9 - 9 * DAY, T10 + 9 * DAY),),
        "always.example.com": (Resolved("203.0.113.5"),),
        "moved.example.com": (Resolved("203.0.113.6", T9 - 9 * DAY, T9 - 8 * DAY), Resolved("203.0.113.7", T9, None)),
    }
    names = Names(known).during(T9, T10)
    assert (
        names.of("*")
        == {
            "near.example.com": ["203.0.113.2"],
            "around.example.com": ["203.0.113.4"],
            "always.example.com": ["203.0.113.5"],
            "moved.example.com": ["203.0.113.7"],
        }
        | {}
    )
    assert names.outdated == {"before.example.com": T9 - 2 * DAY, "after.example.com": T10 + 2 * DAY}
    assert Names(known).during(None, None).outdated == {}


def named(*endpoints):
    return Requirement("A", "global", "required", "tcp", "443", "B", "2026", tuple(Endpoint(*e) for e in endpoints))


def test_a_name_matches_its_addresses_exactly_and_its_service_by_tag_beside():
    names = Names({"mcr.microsoft.com": (Resolved("150.171.69.10"), Resolved("2603:1061:1::10"))})
    found = expand(named(("fqdn", "mcr.microsoft.com")), load_tags(), names=names)
    assert found.prefixes[:2] == (
        ("150.171.69.10/32", "name", "mcr.microsoft.com"),
        ("2603:1061:1::10/128", "name", "mcr.microsoft.com"),
    )
    assert {match for _, match, _ in found.prefixes} == {"name", "approximate tag"}
    assert found.untestable == ()


def test_all_names_that_fit_a_pattern_are_alternatives():
    names = Names({"x.contoso.example": (Resolved("203.0.113.7"),), "y.contoso.example": (Resolved("203.0.113.8"),)})
    found = expand(named(("fqdn-wildcard", "*.contoso.example")), load_tags(), names=names)
    assert [prefix for prefix, _, _ in found.prefixes] == ["203.0.113.7/32", "203.0.113.8/32"]
    assert {endpoint for _, _, endpoint in found.prefixes} == {"*.contoso.example"}


def test_a_name_without_a_fitting_address_says_why():
    names = Names({}, frozenset({"a.contoso.example"}), 0, {"b.contoso.example": T9})
    (asked,) = expand(named(("fqdn", "a.contoso.example")), load_tags(), names=names).untestable
    assert asked.endswith("asked for in the names given, but without an address")
    (old,) = expand(named(("fqdn", "b.contoso.example")), load_tags(), names=names).untestable
    assert old.endswith("its addresses are known for 2026-06-15 and not for the time of these logs")


def test_names_of_two_sources():
    one = Names({"a.example": (Resolved("203.0.113.1"),)}, frozenset({"b.example", "c.example"}), 1, {"d.example": T9})
    two = Names({"b.example": (Resolved("203.0.113.2"),), "d.example": (Resolved("203.0.113.3"),)}, frozenset(), 2)
    both = one.beside(two)
    assert both.of("*") == {"a.example": ["203.0.113.1"], "b.example": ["203.0.113.2"], "d.example": ["203.0.113.3"]}
    assert (both.unresolved, both.skipped, both.outdated) == ({"c.example"}, 3, {})


def test_many_names_of_one_tag_stand_once_for_the_surest_of_them():
    found = expand(
        named(
            ("fqdn-wildcard", "*.ingestion.msftcloudes.com"),
            ("fqdn", "dc.services.visualstudio.com"),
            ("fqdn-wildcard", "*.monitoring.azure.com"),
        ),
        load_tags(),
    )
    assert [prefix for prefix, _, _ in found.prefixes] == list(load_tags().prefixes("AzureMonitor"))
    assert {value for _, _, value in found.prefixes} == {"dc.services.visualstudio.com"}
    assert found.confidence == {"dc.services.visualstudio.com": "high"} and found.untestable == ()


def test_names_to_resolve():
    profile = load_profile("azure-monitor-agent")
    wanted, patterns = names_of([profile], "global", {"location": "Japan East"})
    assert "japaneast.handler.control.monitor.azure.com" in wanted and "management.azure.com" in wanted
    assert "<workspace-id>.ods.opinsights.azure.com" in patterns
    seen = Names({}, frozenset({"0123.ods.opinsights.azure.com", "other.example.com"}))
    wanted, patterns = names_of([profile], "global", {"location": "Japan East"}, seen)
    assert "0123.ods.opinsights.azure.com" in wanted and "other.example.com" not in wanted
    assert "<workspace-id>.ods.opinsights.azure.com" not in patterns
    assert names_of([load_profile("sql-mi")], "global", {}) == ([], [])
