"""Write docs/reference/ from the code and the profiles.

python scripts/build_reference.py           # writes
python scripts/build_reference.py --check   # says whether what stands there is what the code says
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import typer

from flowlens import cli, options, schema
from flowlens.catalog.profiles import NEEDS, Profile, load_profile, profile_names
from flowlens.catalog.tags import CLOUDS
from flowlens.gates import GATES, QUERY_GATES, WHAT_IF_GATES
from flowlens.sources.refusals import REFUSALS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
WRITTEN = "<!-- Written by scripts/build_reference.py. -->"
SHARED_BY = 4
"""An option that so many commands take is told once."""
EXIT_CODES = {
    options.DONE: "done",
    options.GATE_FIRED: "a gate of `--fail-on` fired; `compare`: the sides differ",
    options.WRONG_USAGE: "wrong usage: an option, a file of yours, a name",
    options.ERROR: "an error; nothing that was printed is an answer",
    options.INCOMPLETE: "something that was asked for could not be read or was rejected, or there was nothing to read",
    130: "interrupted",
    143: "terminated",
}
AREAS = {
    "S": ("Storage accounts", "Reading blobs, and signing in to anything."),
    "W": ("Workspaces", "Asking a Log Analytics workspace."),
    "A": ("Azure Resource Manager", "Asking for service tags."),
    "C": ("Clusters", "Reading on Spark."),
}
WORDS: Mapping[str, tuple[Sequence[str], str]] = {
    "encryption_status": (schema.PAIR_STATUSES, "encryption"),
    "eligibility": (schema.ELIGIBILITIES, "encryption"),
    "status of denied_egress": (schema.EGRESS_STATUSES, "required-endpoints"),
    "match": (schema.MATCHES, "required-endpoints"),
    "status of private_subnet_readiness": (schema.READINESS_STATUSES, "private-subnets"),
    "path": (schema.PATHS, "private-subnets"),
    "rule_kind": (schema.RULE_KINDS, "rules"),
    "status of rule_dependencies": (schema.DEPENDENCY_STATUSES, "rules"),
    "state of coverage": (schema.COVERAGE_STATES, "coverage"),
    "kind of an address": (schema.ADDRESS_KINDS, "who-an-address-is"),
    "verdict": (schema.VERDICTS, "coverage"),
}
"""Each closed set of words, and the heading of docs/concepts.md that explains it."""


def cell(text: object) -> str:
    """A text that stands in one cell of a table, whatever it holds."""
    line = " ".join(str(text).split())
    return re.sub(r"([|\\<>*_])", r"\\\1", line)


def code(text: str) -> str:
    """A text in the type of code, in one cell of a table."""
    return f"`{' '.join(text.split()).replace('|', chr(92) + '|')}`"


def anchor(heading: str) -> str:
    """What a heading is linked by: small letters, dashes for blanks, no other signs."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(headings)} |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def all_commands() -> dict[str, Any]:
    """Every command by its full name, those of groups after their group's name."""
    found = {}
    for name, one in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(one, "commands", None)
        found.update({f"{name} {more}": command for more, command in inner.items()} if inner else {name: one})
    return dict(sorted(found.items()))


def taken(command: Any) -> list[Any]:
    """The options of a command, without --help."""
    return [one for one in command.params if one.opts[0].startswith("-") and one.name != "help"]


Told = tuple[str, str, str, Any]
"""What makes two options of two commands the same: panel, name, meaning, default."""


def identity(one: Any) -> Told:
    """What makes an option of one command the same as one of another."""
    return one.rich_help_panel, one.opts[0], one.help, one.default


def option_row(one: Any) -> tuple[str, str]:
    """Names and meaning of an option."""
    names = ", ".join(code(name) for name in sorted(one.opts, key=len, reverse=True))
    shown = f" {code(one.metavar)}" if one.metavar else ""
    default = (
        f" Default {one.default}."
        if isinstance(one.default, int | float | str) and one.default not in (False, "default")
        else ""
    )
    return names + shown, cell(f"{one.help}{default}")


def commands() -> Iterator[str]:
    """Every command with its options, and what a run ends with."""
    found = all_commands()
    every = [one for command in found.values() for one in taken(command)]
    count = Counter(map(identity, every))
    common = {identity(one): one for one in every if count[identity(one)] >= SHARED_BY and one.rich_help_panel}
    shared: dict[str, list[Told]] = {}
    for told in common:
        shared.setdefault(told[0], []).append(told)
    yield "# Commands and options"
    yield ""
    yield "`flowlens COMMAND --help` shows the same with examples. Every option that most commands take is told once, [below](#options-that-many-commands-take)."
    yield ""
    for name, command in found.items():
        yield f"## flowlens {name}"
        yield ""
        about, _, example = (command.help or "").partition("\n\nExample: ")
        yield " ".join(about.split())
        yield ""
        arguments = [one for one in command.params if not one.opts[0].startswith("-")]
        parts = [f"{one.metavar}{'…' if one.nargs != 1 else ''}" for one in arguments]
        yield "```"
        yield " ".join(["flowlens", name, *parts, "[OPTIONS]"])
        yield "```"
        yield ""
        if example:
            yield f"For example `{' '.join(example.split())}`."
            yield ""
        rows = [option_row(one) for one in taken(command) if identity(one) not in common]
        if rows:
            yield from table(("option", "meaning"), rows)
        own = set(map(identity, taken(command)))
        also = [f"[{panel}](#{anchor(panel)})" for panel, many in shared.items() if own.issuperset(many)]
        also += [code(one[1]) for many in shared.values() if not own.issuperset(many) for one in many if one in own]
        if also:
            yield f"Also: {', '.join(also)}."
            yield ""
    yield "## Options that many commands take"
    yield ""
    for panel, many in shared.items():
        yield f"### {panel}"
        yield ""
        yield from table(("option", "meaning"), (option_row(common[told]) for told in many))
    yield "## Gates"
    yield ""
    yield "`--fail-on 'NAME > 0'` ends a run with 1 where it holds; `>=`, `==`, `<` and `<=` compare as well, and a bare name means `> 0`."
    yield ""
    yield from table(
        ("gate", "of"),
        [
            *((code(name), "a report") for name in GATES),
            *((code(name), "`egress --what-if`") for name in WHAT_IF_GATES),
            *((code(name), "`query --workspace`") for name in QUERY_GATES),
        ],
    )
    yield "## Exit codes"
    yield ""
    yield from table(("code", "means"), ((str(number), text) for number, text in EXIT_CODES.items()))
    yield "1 stands before 4: a gate that fired says more than a blob that was not read."
    yield ""


def kind(field: pa.Field) -> str:
    return str(field.type).replace("timestamp[us, tz=UTC]", "timestamp (UTC)")


def tables() -> Iterator[str]:
    """Every table with its columns, and the closed sets of words."""
    yield "# Tables, columns and words"
    yield ""
    yield "Times are UTC. Where null may stand, it means *unknown* or *none*, never 0. Result tables are sorted by a total order, so that the same evidence gives the same file."
    yield ""
    for name, arrow in schema.TABLES.items():
        yield f"## {name}"
        yield ""
        rows = (
            (
                code(f.name),
                kind(f),
                "yes" if f.metadata[b"null"] == b"True" else "",
                words_linked(f.metadata[b"description"].decode()),
            )
            for f in arrow
        )
        yield from table(("column", "type", "null", "meaning"), rows)
    yield "## Words"
    yield ""
    yield "What each means stands in [concepts](../concepts.md)."
    yield ""
    rows = (
        (f"[{cell(name)}](../concepts.md#{anchor})", ", ".join(cell(word) for word in words))
        for name, (words, anchor) in WORDS.items()
    )
    yield from table(("set", "words"), rows)
    yield "## Encryption codes"
    yield ""
    yield "As logged, from harmless to worst; Traffic Analytics writes the wording in `FlowEncryption`."
    yield ""
    rows = ((code(key), status, wording, cell(advice)) for key, status, wording, advice in schema.ENCRYPTION_CODES)
    yield from table(("code", "status", "in Traffic Analytics", "what to do"), rows)


def words_linked(meaning: str) -> str:
    """The meaning of a column; a set of words is told by where it stands, not by its name in the code."""
    return re.sub(r"\b[A-Z]+(?:_[A-Z]+)+\b", "[these words](#words)", cell(meaning).replace(r"\_", "_"))


def profiles() -> Iterator[str]:
    """Every profile with its requirements."""
    found = [load_profile(name) for name in profile_names()]
    yield "# Profiles: what services need to reach"
    yield ""
    yield "Facts published by Microsoft and others, each with its source and date; `flowlens profiles show NAME` prints one, with notes. A TOML file of the same form is a profile of your own."
    yield ""
    per_cloud = [(p, [sum(r.cloud == cloud for r in p.requirements) for cloud in CLOUDS]) for p in found]
    rows = (
        (f"[{p.name}](#{p.name})", cell(p.title), p.as_of, *(str(n or "") for n in counts)) for p, counts in per_cloud
    )
    yield from table(("profile", "title", "as of", *CLOUDS), rows)
    yield f"A need is {', '.join(NEEDS[:-1])} or {NEEDS[-1]}; *retired* explains traffic and is never missed. Only egress is judged: what concerns ingress, routes or rules is there to look up."
    yield ""
    for profile in found:
        yield from profile_section(profile)


def profile_section(profile: Profile) -> Iterator[str]:
    """The requirements of one profile; those that are the same in several clouds stand in one row."""
    yield f"## {profile.name}"
    yield ""
    yield f"{cell(profile.title)}, as of {profile.as_of}."
    yield ""
    yield "Sources: " + "; ".join(code(source) for source in profile.sources)
    yield ""
    rows: dict[tuple[str, ...], list[str]] = {}
    for one in profile.requirements:
        need = "retired" if one.retired else one.need
        need = need if one.concerns == "egress" else f"{need}, {one.concerns}"
        endpoints = ", ".join(code(endpoint.value) for endpoint in one.endpoints)
        rows.setdefault((cell(one.name), cell(f"{one.protocol.upper()} {one.ports}"), need, endpoints), []).append(
            one.cloud
        )
    yield from table(
        ("requirement", "port", "need", "endpoints", "clouds"),
        ((*row, ", ".join(clouds)) for row, clouds in rows.items()),
    )


def errors() -> Iterator[str]:
    """Every error that has an id."""
    yield "# Errors by id"
    yield ""
    yield "What a storage account, a workspace, Azure Resource Manager, a Spark cluster or the way to them refused. In braces stands what is told of the case at hand. How to find the cause: [troubleshooting](../troubleshooting.md)."
    yield ""
    for letter, (title, about) in AREAS.items():
        yield f"## {title}"
        yield ""
        yield about
        yield ""
        for key, refusal in REFUSALS.items():
            if key.startswith(f"FL-{letter}"):
                yield f"### {key}"
                yield ""
                yield f"{cell(refusal.problem)}"
                yield ""
                yield f"**Next:** {cell(refusal.hint)}"
                yield ""
    assert {key[3] for key in REFUSALS} == set(AREAS)


PAGES = {"commands.md": commands, "tables.md": tables, "profiles.md": profiles, "errors.md": errors}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale = []
    for name, build in PAGES.items():
        path, made = FOLDER / name, "\n".join([WRITTEN, "", *build()]).rstrip("\n") + "\n"
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made, encoding="utf-8", newline="\n")
        elif not path.exists() or path.read_text(encoding="utf-8") != made:
            stale.append(f"docs/reference/{name}")
    if stale:
        print(f"stale: {', '.join(stale)}; run python scripts/build_reference.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
