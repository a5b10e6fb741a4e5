"""Whatever text is bound, the parsed query holds exactly that literal and nothing else.

The parser is Microsoft's own. LITERALS_LONG=1 takes a million texts.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import os
import random
from collections.abc import Callable, Iterator

import pytest
import quickjs

from flowlens.errors import ConfigError
from flowlens.queries import decode, encode
from flowlens.query_check import DATA

COUNT = 1_000_000 if os.environ.get("LITERALS_LONG") else 3_000
BATCH = 500
# Texts that end literals, lines and queries elsewhere, and characters that readers and parsers trip over.
HOSTILE = (
    *(
        '"',
        "'",
        "\\",
        '\\"',
        "\\'",
        "\\\\",
        '""',
        "''",
        "```",
        "~~~",
        '@"',
        "@'",
        'h"',
        "\\u0022",
        "\\x22",
        "\\42",
        "\\N",
    ),
    *(
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\0",
        "\v",
        "\f",
        "\b",
        "\x1b[2J",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\ufffe",
    ),
    *(
        "//",
        "/*",
        "*/",
        ";",
        "|",
        "--",
        "#",
        "${x}",
        "{0}",
        "%s",
        "$1",
        "\\1",
        "\\g<0>",
        "let start = now();",
        "]",
        ")",
        "}",
    ),
    *(
        '" | take 0 //',
        '"; drop table T; //',
        "'); .drop table T",
        '")]) | union *',
        "\u202e",
        "\u200b",
        "\u0301",
        "\u00a0",
    ),
    *(
        "日本語",
        "ß",
        "İ",
        "😀",
        "👩‍👩‍👧",
        "\U0001d573",
        "\U000e0001",
        "\U0010ffff",
        "\uffff",
        "\ue000",
        "\x80",
        "ﬀ",
        "ａ",
        " ",
        "a",
        "0",
    ),
)
# All strings of the parsed query in order, how many names and complaints it has, and how many statements.
PROGRAM = """
const language = Kusto.Language;
function parsed(text) {
  const code = language.KustoCode.Parse(text), strings = [], kinds = {};
  const visit = (node) => {
    if (!node) return;
    if (node.ChildCount === 1 && typeof node.LiteralValue === "string") { strings.push(node.LiteralValue); return; }
    const kind = String(node.Kind);
    kinds[kind] = (kinds[kind] || 0) + 1;
    for (let i = 0; i < node.ChildCount; i++) if (node.GetChild(i) && node.GetChild(i).GetChild) visit(node.GetChild(i));
  };
  visit(code.Syntax);
  return JSON.stringify([strings, code.GetDiagnostics().Count, kinds]);
}
"""

Parse = Callable[[str], tuple[list[str], int, dict[str, int]]]


@pytest.fixture(scope="module")
def parse() -> Parse:
    context = quickjs.Context()
    context.eval(gzip.decompress((DATA / "language_service.js.gz").read_bytes()).decode("utf-8"))
    context.eval(PROGRAM)

    @functools.lru_cache(maxsize=4)
    def parsed(text: str) -> tuple[list[str], int, dict[str, int]]:
        return tuple(json.loads(context.get("parsed")(text)))

    return parsed


def texts(count: int) -> Iterator[str]:
    """Hostile pieces put together, and characters from all over Unicode; the same ones in every run."""
    rng = random.Random(20260615)
    yield from ("", *HOSTILE)
    for _ in range(count - len(HOSTILE) - 1):
        parts = []
        for _ in range(rng.randrange(1, 6)):
            if rng.random() < 0.7:
                parts.append(rng.choice(HOSTILE))
            else:
                # Half a surrogate pair is no character.
                number = rng.randrange(0x110000 - 0x800)
                parts.append(chr(number if number < 0xD800 else number + 0x800))
        yield "".join(parts)


def batches(values: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(itertools.islice(values, BATCH)):
        yield batch


def query_of(literals: list[str], form: str) -> str:
    """One statement with all literals in it."""
    if form == "dynamic":
        return f"print dynamic({literals[0][len('dynamic(') : -1]})"
    return "print " + ", ".join(literals)


@pytest.mark.slow
def test_a_text_is_that_literal_and_nothing_else(parse: Parse) -> None:
    seen = 0
    for batch in batches(texts(COUNT)):
        literals = [encode(value, "string") for value in batch]
        assert all(literal.isprintable() for literal in literals)
        assert [decode(literal) for literal in literals] == batch
        plain = parse(query_of([encode("a", "string")] * len(batch), "string"))
        found, complaints, kinds = parse(query_of(literals, "string"))
        assert found == batch
        assert (complaints, kinds) == plain[1:]
        seen += len(batch)
    assert seen == COUNT


def test_a_list_is_these_literals_and_nothing_else(parse: Parse) -> None:
    for batch in batches(texts(min(COUNT, 20_000))):
        literal = encode(batch, "dynamic")
        assert literal.isprintable() and decode(literal) == tuple(batch)
        plain = parse(query_of([encode(["a"] * len(batch), "dynamic")], "dynamic"))
        found, complaints, kinds = parse(query_of([literal], "dynamic"))
        assert found == batch
        assert (complaints, kinds) == plain[1:]


def test_the_check_sees_what_breaks_out(parse: Parse) -> None:
    plain = parse('print "a"')
    for broken in ('print "a" | take 0', 'print "a\nb"', 'print "a"; print "b"', 'print "\\q"'):
        assert parse(broken)[1:] != plain[1:]


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\udc00\ud800"])
def test_half_a_surrogate_pair_is_no_text(text: str) -> None:
    with pytest.raises(ConfigError, match="half a surrogate pair"):
        encode(text, "string")
    with pytest.raises(ConfigError, match="half a surrogate pair"):
        encode([text], "dynamic")
