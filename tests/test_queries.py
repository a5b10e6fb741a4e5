"""Queries are found by name, bound to typed literals, and checked by Microsoft's language service."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.errors import ConfigError
from flowlens.queries import TYPES, Parameter, bind, decode, encode, find_query, parse_query, parse_value, query_names
from flowlens.query_check import check_query, tables
from flowlens.query_values import UNTESTABLE, required_endpoints
from tests.flow_logs import run

TEXT = """// Title: T
// Purpose: p.
// Table: NTANetAnalytics
// Parameters: start (datetime), name (string), own (dynamic), n (int)
// Columns: SrcIp
//
let start = ago(1d);
let name = "x";
let own = dynamic([]);
let n = 1;
NTANetAnalytics | where TimeGenerated > start and SrcVm == name and array_length(own) == n
| project SrcIp
"""
TOKYO = dt.timezone(dt.timedelta(hours=9))
START = dt.datetime(2026, 6, 15, 9, tzinfo=TOKYO)


def query():
    return parse_query("t", TEXT)


def changed_lines(text: str) -> dict[int, str]:
    return {
        n: line for n, (line, old) in enumerate(zip(text.split("\n"), TEXT.split("\n"), strict=True)) if line != old
    }


def test_binding_replaces_the_line_of_the_parameter_and_nothing_else() -> None:
    assert changed_lines(bind(query(), start=START)) == {6: "let start = datetime(2026-06-15T00:00:00.000000Z);"}
    assert bind(query()) == TEXT


@pytest.mark.parametrize("name", ['"; drop', "\\1\\g<0>", "let n = 1;", "x\nlet n = 2;\ny", "//", "日本\0"])
def test_no_text_becomes_anything_but_a_text(name: str) -> None:
    bound = bind(query(), name=name)
    (line,) = changed_lines(bound).values()
    assert decode(line.removeprefix("let name = ").removesuffix(";")) == name
    # Another value bound afterwards finds its own line.
    again = bind(parse_query("t", bound), n=7)
    assert re.findall(r"^let n = .*$", again, re.MULTILINE) == ["let n = int(7);"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"start": dt.datetime(2026, 6, 15)}, "a time with its zone"),  # noqa: DTZ001
        ({"start": "ago(1d)"}, "a time with its zone"),
        ({"start": "2026-06-15T00:00:00Z"}, "a time with its zone"),
        ({"n": "1; drop"}, "a whole number"),
        ({"n": True}, "a whole number"),
        ({"n": 2**31}, "a whole number"),
        ({"n": 1.5}, "a whole number"),
        ({"name": 5}, "text"),
        ({"own": "10.0.0.0/8"}, "a list"),
        ({"own": [None]}, "a whole number"),
        ({"stat": START}, "has no parameter 'stat'"),
        ({"Start": START}, "has no parameter 'Start'"),
    ],
)
def test_what_is_no_value_of_its_type_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        bind(query(), **values)  # type: ignore[arg-type]


def test_an_unknown_name_has_near_matches() -> None:
    with pytest.raises(ConfigError, match="did you mean start") as caught:
        bind(query(), strat=START)
    assert caught.value.where == "query t"
    with pytest.raises(ConfigError, match="did you mean denied_egress"):
        find_query("denied-egres")
    with pytest.raises(ConfigError, match="is not a query"):
        find_query("../kql/coverage")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("// Table: NTANetAnalytics\n", ""), "expected the headings"),
        (("let n = 1;\n", ""), "found 0"),
        (("let n = 1;", "let n = 1;\nlet n = 1;"), "found 2"),
        (("n (int)", "n (guid)"), "of guid"),
    ],
)
def test_a_query_of_another_form_is_refused(change: tuple[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_query("t", TEXT.replace(*change))


scalars = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
values = {
    "string": st.text(st.characters(exclude_categories=["Cs"])),
    "datetime": st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.timezones()),  # noqa: DTZ001
    "timespan": st.timedeltas(dt.timedelta(days=-10_000), dt.timedelta(days=10_000)),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "dynamic": st.lists(scalars).map(tuple),
}


@pytest.mark.parametrize("kind", TYPES)
@given(data=st.data())
def test_what_is_encoded_decodes_to_itself(kind: str, data: st.DataObject) -> None:
    value = data.draw(values[kind])
    literal = encode(value, kind)
    assert literal.isprintable()
    # Twice a year two times in a zone look the same; in UTC they do not.
    expected = value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value
    assert decode(literal) == expected
    assert encode(decode(literal), kind) == literal


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_only_what_encode_writes_is_decoded(text: str) -> None:
    try:
        value = decode(text)
    except ConfigError:
        return
    assert text in {encode(value, kind) for kind in TYPES if _is_of(value, kind)}


def _is_of(value: object, kind: str) -> bool:
    try:
        encode(value, kind)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(
    "literal",
    [
        '"a',
        '"a" ',
        "'a'",
        '@"a"',
        '"\\x41"',
        '"\\u0041"',
        "int(1) ",
        "long(01)",
        "real(nan)",
        "datetime(2026-13-01)",
        "5",
        "time(60m)",
        "time(1.5h)",
        "dynamic([1,2])",
        'dynamic({"a": 1})',
        "dynamic([1, ])",
        "ago(1d)",
        "",
        "datetime(now)",
    ],
)
def test_other_literals_are_not_decoded(literal: str) -> None:
    with pytest.raises(ConfigError, match="expected one that flowlens writes"):
        decode(literal)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("datetime", "2026-06-15T09:00+09:00", START),
        ("timespan", "90m", dt.timedelta(minutes=90)),
        ("long", "4", 4),
        ("real", "0.5", 0.5),
        ("string", " a b ", " a b "),
        ("dynamic", "10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
        ("dynamic", '["a,b", 5]', ("a,b", 5)),
    ],
)
def test_what_a_person_writes_is_read_by_type(kind: str, text: str, value: object) -> None:
    assert parse_value(Parameter("p", kind, ""), text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("datetime", "2026-06-15"),
        ("datetime", "now()"),
        ("timespan", "1 fortnight"),
        ("long", "1;"),
        ("dynamic", "[{}]"),
        ("dynamic", "[1"),
        ("real", "x"),
        ("timespan", "99999999999999999d"),
    ],
)
def test_what_cannot_be_read_is_refused(kind: str, text: str) -> None:
    with pytest.raises(ConfigError, match="expected a"):
        parse_value(Parameter("p", kind, ""), text)


@pytest.mark.parametrize("name", query_names())
def test_every_query_passes_the_language_service(name: str) -> None:
    asked = find_query(name)
    checked = check_query(asked.text)
    assert checked.diagnostics == ()
    assert tuple(column for column, _ in checked.columns) == asked.columns


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conversations", "unexpected_destinations"])
def test_a_query_passes_with_its_parameters_bound(name: str) -> None:
    examples = {"datetime": START, "timespan": dt.timedelta(hours=1), "long": 3, "dynamic": ["203.0.113.0/24|443|TCP"]}
    asked = find_query(name)
    bound = bind(asked, **{parameter.name: examples[parameter.type] for parameter in asked.parameters})  # type: ignore[arg-type]
    assert check_query(bound).diagnostics == ()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("| project SrcIp", "| project SrcIpp", "KS142"),
        ("NTANetAnalytics |", "NTANetAnalytic |", "KS204"),
        ("SrcVm == name", "SrcVm = = name", "KS106"),
        ("array_length(own)", "array_length(own, 1)", "KS119"),
    ],
)
def test_a_broken_query_fails_where_it_is_broken(old: str, new: str, code: str) -> None:
    broken = TEXT.replace(old, new)
    (first, *_) = check_query(broken).diagnostics
    assert first.code == code
    line = broken.split("\n")[first.line - 1]
    assert line[first.column - 1 :].startswith(first.found)


@pytest.mark.slow
def test_a_misspelt_column_of_a_shipped_query_is_seen() -> None:
    text = find_query("coverage").text
    broken = text.replace("FlowLogResourceId", "FlowLogResourceID")
    assert broken != text and check_query(broken).diagnostics != ()


def test_characters_of_two_units_do_not_move_the_place() -> None:
    (found,) = check_query('print a = "😀", b = nothing').diagnostics
    assert (found.line, found.column, found.found) == (1, 20, "nothing")


def test_tables_are_described() -> None:
    assert set(tables()) == {"NTANetAnalytics", "NTAIpDetails", "AzureNetworkAnalytics_CL"}
    kinds = {kind for columns in tables().values() for kind in columns.values()}
    assert kinds == {"string", "long", "int", "real", "bool", "datetime"}


def test_required_endpoints_of_profiles() -> None:
    kms = "windows-kms|global|KMS activation|required|TCP|1688"
    entries = required_endpoints(["windows-kms"])
    assert entries[:2] == (f"{kms}|address|20.118.99.224/32", f"{kms}|address|40.83.235.53/32")
    # A name that no address is known of: silence cannot tell.
    assert f"windows-kms|global|kms.core.windows.net|retired|TCP|1688|{UNTESTABLE}|" in entries
    assert all(entry.count("|") == 7 for entry in required_endpoints(["aks-core", "azure-monitor-agent"]))


def test_the_command_prints_a_query_that_can_be_pasted() -> None:
    ran = run("query", "rule-usage", "--set", "start=2026-06-15T09:00+09:00", "--set", "late=2h", columns=40)
    assert (ran.code, ran.err) == (0, "")
    wanted = bind(find_query("rule_usage"), start=START, late=dt.timedelta(hours=2))
    assert ran.out == wanted


def test_the_command_lists_and_checks() -> None:
    listed = run("query", "--list", columns=200)
    assert all(f"{name}: " in listed.out for name in query_names())
    assert "    late (timespan) = 1d" in listed.out
    checked = run("query", "rule_usage", "--check")
    assert (checked.code, checked.out) == (0, "rule_usage.kql: no diagnostics, 10 columns\n")


def test_the_command_fills_in_a_profile() -> None:
    ran = run("query", "denied_egress", "--profile", "windows-kms")
    assert ran.code == 0
    assert f"let endpoints = {encode(required_endpoints(['windows-kms']), 'dynamic')};\n" in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("query", "expected the name of a query"),
        ("query coverag", "is not a query"),
        ("query coverage --set start=2026-06-15", "expected a time with its zone"),
        ("query coverage --set strat=2026-06-15T00:00Z", "has no parameter strat"),
        ("query coverage --set start", "expected NAME=VALUE"),
        ("query coverage --set late=1h --set late=2h", "is given twice"),
        ("query coverage --profile windows-kms", "asks for no endpoints"),
        ("query denied_egress --profile windows-kms --set endpoints=a", "sets the same parameter"),
        ("query denied_egress --profile windows-kmz", "windows-kms"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_to_do(arguments: str, words: str) -> None:
    ran = run(*arguments.split())
    assert ran.code in (2, 3) and ran.out == ""
    assert words in ran.err and ran.err.startswith("error: ")
