"""The queries of kql/: found by name, bound to values.

A query runs as it is when pasted into the portal. Its parameters are ``let NAME = literal;`` lines, and binding replaces
exactly these lines by literals that one encoder writes, so that no value can become anything but a value.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowlens.errors import ConfigError, is_unicode, near_matches

Value = str | dt.datetime | dt.timedelta | int | float | Sequence[str | int | float]
"""What a parameter can be: text, a time with zone, a length of time, a number, or a list."""

TYPES = ("string", "datetime", "timespan", "int", "long", "real", "dynamic")
HEADINGS = ("Title", "Purpose", "Table", "Parameters", "Columns")
SUFFIX = ".kql"

# Installed, the folder stands inside the package; in a source tree, also one installed as editable, beside it.
_FOLDERS = (Path(__file__).parent / "kql", Path(__file__).parents[1] / "kql")
_HEADING = re.compile(r"^// (\w+): (.*)$", re.MULTILINE)
_PARAMETER = re.compile(r"(\w+) \((\w+)\)")
_SORTING = re.compile(r"^\| sort by ((?:\w+ asc(?:, )?)+)$", re.MULTILINE)
_INTEGERS = {"int": 2**31, "long": 2**63}
# The units of the language, largest first, in microseconds: https://learn.microsoft.com/kusto/query/scalar-data-types/timespan
_UNITS = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "microsecond": 1}
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}
_LONG = {written: meant for meant, written in _SHORT.items()}
_QUOTED = r'"(?:[^"\\\x00-\x1f]|\\[nrt"\\]|\\u[0-9a-f]{4})*"'
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|.)")
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_ITEM = re.compile(rf"({_QUOTED}|{_NUMBER})(?:, |$)")
_MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query: its name, its type (one of TYPES) and the expression that stands for it unbound."""

    name: str
    type: str
    default: str


@dataclass(frozen=True, slots=True)
class Query:
    """A query of kql/: what its header says, and its text, which runs as it is.

    ``columns`` are those of its result, in order; ``table`` is the one that it reads; ``order`` are the columns by which its rows
    are told apart and sorted, empty where they come in any order.
    """

    name: str
    text: str
    title: str
    purpose: str
    table: str
    parameters: tuple[Parameter, ...]
    columns: tuple[str, ...]
    order: tuple[str, ...] = ()


def query_names() -> tuple[str, ...]:
    """The names of all queries, sorted.

    >>> "encryption_status" in query_names()
    True
    """
    return tuple(sorted(path.stem for path in _folder().glob("*" + SUFFIX)))


def find_query(name: str) -> Query:
    """The query of this name; words may be joined by dashes. Raises ConfigError, with near matches, where there is none.

    >>> find_query("encryption-status").columns[:2]
    ('vnet', 'src_workload')
    """
    names = query_names()
    stem = name.replace("-", "_").lower()
    if stem not in names:
        raise ConfigError(f"query {name}", "is not a query", hint=near_matches(name, names))
    return parse_query(stem, (_folder() / (stem + SUFFIX)).read_text(encoding="utf-8"))


def parse_query(name: str, text: str) -> Query:
    """The query that ``text`` is, by the headings of its first lines.

    Raises ConfigError where a heading is missing, a type is unknown or a parameter has not exactly one ``let`` line.
    """
    headings = dict(_HEADING.findall(text)[: len(HEADINGS)])
    if tuple(headings) != HEADINGS:
        raise ConfigError(f"query {name}", f"expected the headings {', '.join(HEADINGS)}, found {', '.join(headings)}")
    parameters = []
    for parameter, kind in _PARAMETER.findall(headings["Parameters"]):
        lines = _line_of(parameter).findall(text)
        if kind not in TYPES or len(lines) != 1:
            problem = f"expected one line let {parameter} = ...; of a known type, found {len(lines)} of {kind}"
            raise ConfigError(f"query {name}", problem)
        parameters.append(Parameter(parameter, kind, lines[0]))
    columns = tuple(headings["Columns"].split(", "))
    sorting = _SORTING.search(text)
    words = sorting[1].replace(" asc", "").split(", ") if sorting else []
    return Query(
        name,
        text,
        headings["Title"],
        headings["Purpose"],
        headings["Table"],
        tuple(parameters),
        columns,
        tuple(word for word in words if word in columns),
    )


def bind(query: Query, **values: Value) -> str:
    """The query's text with the given parameters set; the others keep the defaults of the text.

    Raises ConfigError for a name that is no parameter, with near matches, and for a value that is not of its type: a time
    without a zone, a text where a number is expected, a raw fragment of a query.

    >>> start = dt.datetime(2026, 6, 15, tzinfo=dt.timezone.utc)
    >>> "let start = datetime(2026-06-15T00:00:00.000000Z);" in bind(find_query("encryption_status"), start=start)
    True
    """
    known = {parameter.name: parameter.type for parameter in query.parameters}
    text = query.text
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"query {query.name}", f"has no parameter {name!r:.60}", hint=near_matches(name, known))
        try:
            literal = encode(value, known[name])
        except ConfigError as error:
            raise ConfigError(f"query {query.name}: {name}", error.problem, hint=error.hint) from error
        # By a function, since the replacement must not be read as a pattern.
        text = _line_of(name).sub(lambda _, name=name, literal=literal: f"let {name} = {literal};", text)  # type: ignore[misc]
    return text


def part_of(query: Query, text: str, parts: int, part: int) -> str:
    """``text``, which is ``query`` with its parameters set, giving of its rows one of ``parts`` parts, the first being 0.

    What a row holds does not depend on the parts: the query runs over the whole window, and its rows are divided by a hash of the
    columns by which they are told apart. Raises ValueError for a query without such columns.

    >>> part_of(find_query("rule_usage"), "T | take 1", 4, 3).splitlines()[-1]
    '| project-away result_key, result_digest, result_digits, result_number'
    """
    if not query.order:
        raise ValueError(f"the rows of {query.name} have no order")
    key = ', "|", '.join(f"tostring({column})" for column in query.order)
    return (
        f"let result_parts = {encode(parts, 'long')};\nlet result_part = {encode(part, 'long')};\n"
        f"{text.rstrip().removesuffix(';')}\n"
        f"| extend result_key = strcat({key})\n"
        "| extend result_digest = hash_md5(result_key)\n"
        "| extend result_digits = substring(result_digest, 0, 8)\n"
        '| extend result_number = strcat("0x", result_digits)\n'
        "| where tolong(result_number) % result_parts == result_part\n"
        "| project-away result_key, result_digest, result_digits, result_number\n"
    )


def encode(value: object, type: str) -> str:  # noqa: A002 - the word of the language
    """The literal of ``value`` as a ``type`` (one of TYPES), on one line, in printable characters.

    A datetime must have a zone and is written in UTC; a timedelta in the largest unit that divides it; a list holds text and
    numbers. Raises ConfigError where the value is not of the type, or is a text with half a surrogate pair, which is no
    Unicode.

    >>> print(encode('a"b', "string"), encode(dt.timedelta(minutes=90), "timespan"), encode(["a", 5], "dynamic"))
    "a\\"b" time(90m) dynamic(["a", 5])
    """
    if type not in _ENCODERS:
        raise ConfigError(f"type {type!r:.40}", "is no type of a parameter", hint=near_matches(type, TYPES))
    return _ENCODERS[type](value, type)


def decode(literal: str) -> Value:
    """The value of a literal that ``encode`` wrote. Raises ConfigError for any other text.

    >>> decode('"a\\\\u0000"'), decode("time(90m)"), decode("long(-5)")
    ('a\\x00', datetime.timedelta(seconds=5400), -5)
    """
    kind, _, rest = literal.partition("(")
    kind = "string" if literal.startswith('"') else "timespan" if kind == "time" else kind
    try:
        value = _DECODERS[kind](literal if kind == "string" else rest.removesuffix(")"))
        if encode(value, kind) == literal:
            return value
    except (KeyError, TypeError, ValueError, OverflowError, ConfigError):
        pass
    raise ConfigError("literal", f"expected one that flowlens writes, found {literal!r:.80}")


def parse_value(parameter: Parameter, text: str) -> Value:
    """The value that a person wrote for a parameter: ISO 8601 with zone, ``30m`` or ``7d``, a number, words or a JSON list.

    Raises ConfigError saying what is expected.

    >>> parse_value(Parameter("late", "timespan", "1d"), "90m"), parse_value(Parameter("own", "dynamic", ""), "10.0.0.0/8, ::1")
    (datetime.timedelta(seconds=5400), ('10.0.0.0/8', '::1'))
    """
    where, text = f"--set {parameter.name}={text:.60}", text if parameter.type == "string" else text.strip()
    try:
        return _READERS[parameter.type](text)
    except (ValueError, OverflowError) as error:
        raise ConfigError(where, f"expected {_WRITTEN[parameter.type]}") from error


def _folder() -> Path:
    return next(folder for folder in _FOLDERS if folder.is_dir())


def _line_of(name: str) -> re.Pattern[str]:
    return re.compile(rf"^let {re.escape(name)} = ([^\n]+);$", re.MULTILINE)


def _wrong(kind: str, value: object) -> ConfigError:
    return ConfigError("", f"expected {_WRITTEN[kind]}, found {value!r:.80}")


def _quoted(text: str) -> str:
    """In double quotes, with everything escaped that could end the literal, break the line or hide from the eye."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _unquoted(literal: str) -> str:
    def meant(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else _LONG[found[0]]

    # Escapes stand for UTF-16 units, of which an astral character takes two.
    return _ESCAPE.sub(meant, literal[1:-1]).encode("utf-16", "surrogatepass").decode("utf-16")


def _items(inside: str) -> tuple[str | int | float, ...]:
    """The items of a dynamic list."""
    items: list[str | int | float] = []
    rest = inside.removeprefix("[").removesuffix("]")
    while rest:
        found = _ITEM.match(rest)
        if found is None:
            raise ValueError("no list")
        items.append(_unquoted(found[1]) if found[1].startswith('"') else json.loads(found[1]))
        rest = rest[found.end() :]
    return tuple(items)


def _string(value: object, kind: str) -> str:
    if not isinstance(value, str):
        raise _wrong(kind, value)
    if not is_unicode(value):
        raise ConfigError("", f"expected text, found half a surrogate pair in {value!r:.80}")
    return _quoted(value)


def _datetime(value: object, kind: str) -> str:
    if not isinstance(value, dt.datetime) or value.utcoffset() is None:
        raise _wrong(kind, value)
    try:
        utc = value.astimezone(dt.UTC).replace(tzinfo=None)
    except OverflowError as error:
        raise _wrong(kind, value) from error
    return f"datetime({utc.isoformat(timespec='microseconds')}Z)"


def _timespan(value: object, kind: str) -> str:
    if not isinstance(value, dt.timedelta):
        raise _wrong(kind, value)
    micros = value // _MICROSECOND
    unit, size = next((unit, size) for unit, size in _UNITS.items() if micros % size == 0)
    return f"time({micros // size}{unit})"


def _integer(value: object, kind: str) -> str:
    limit = _INTEGERS[kind]
    if not isinstance(value, int) or isinstance(value, bool) or not -limit <= value < limit:
        raise _wrong(kind, value)
    return f"{kind}({value})"


def _real(value: object, kind: str) -> str:
    if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
        raise _wrong(kind, value)
    return f"real({float(value)!r})"


def _dynamic(value: object, kind: str) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(kind, value)

    def item(one: object) -> str:
        if isinstance(one, str):
            return _string(one, "string")
        return _real(one, "real")[5:-1] if isinstance(one, float) else _integer(one, "long")[5:-1]

    return f"dynamic([{', '.join(map(item, value))}])"


_ENCODERS: Mapping[str, Callable[[object, str], str]] = {
    "string": _string,
    "datetime": _datetime,
    "timespan": _timespan,
    "int": _integer,
    "long": _integer,
    "real": _real,
    "dynamic": _dynamic,
}
_WRITTEN = {
    "string": "text",
    "datetime": "a time with its zone, such as 2026-06-15T00:00:00Z",
    "timespan": "a length of time, such as 30m, 1h or 7d",
    "int": "a whole number below 2^31",
    "long": "a whole number below 2^63",
    "real": "a finite number",
    "dynamic": "a list of texts and numbers",
}


def _time_of(text: str) -> dt.datetime:
    time = dt.datetime.fromisoformat(text)
    if time.utcoffset() is None:
        raise ValueError("no zone")
    return time


def _length_of(text: str) -> dt.timedelta:
    found = re.fullmatch(r"(-?\d+)([a-z]+)", text)
    if found is None or found[2] not in _UNITS:
        raise ValueError("no length of time")
    return int(found[1]) * _UNITS[found[2]] * _MICROSECOND


def _list_of(text: str) -> tuple[str | int | float, ...]:
    if not text.startswith("["):
        return tuple(word.strip() for word in text.split(",") if word.strip())
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in found):
        raise ValueError("no list of texts and numbers")
    return tuple(found)


_READERS: Mapping[str, Callable[[str], Value]] = {
    "string": str,
    "datetime": _time_of,
    "timespan": _length_of,
    "int": int,
    "long": int,
    "real": float,
    "dynamic": _list_of,
}
_DECODERS: Mapping[str, Callable[[str], Value]] = {
    "string": lambda literal: _unquoted(literal) if re.fullmatch(_QUOTED, literal) else "",
    "datetime": dt.datetime.fromisoformat,
    "timespan": _length_of,
    "int": int,
    "long": int,
    "real": float,
    "dynamic": _items,
}
