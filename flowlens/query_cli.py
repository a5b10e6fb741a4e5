"""The command of the queries: `flowlens query`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from flowlens.catalogue_cli import told_lines
from flowlens.errors import ConfigError, near_matches
from flowlens.options import DONE, ERROR
from flowlens.outputs.delivery import say, standard_output
from flowlens.queries import Query, Value, bind, find_query, parse_value, query_names
from flowlens.query_check import check_query
from flowlens.query_values import ENDPOINTS, required_endpoints


def query(
    name: Annotated[str | None, typer.Argument(help="Name of a query; see --list.", metavar="NAME")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A parameter of the query, e.g. start=2026-06-15T00:00Z; repeatable."
        ),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option("--profile", metavar="PROFILE", help="For denied_egress: what this profile needs; repeatable."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Type-check with Microsoft's language service; without NAME all queries.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="All queries with their parameters.")] = False,
) -> None:
    """A query for Log Analytics, with its parameters set, ready to paste into the portal.

    Example: flowlens query denied_egress --set start=2026-06-15T00:00Z --set end=2026-06-16T00:00Z
    """
    if listed:
        told_lines((line, "") for one in map(find_query, query_names()) for line in _described(one))
        return
    if name is None and not check:
        raise ConfigError("query", "expected the name of a query", hint=near_matches("", query_names()))
    chosen = [find_query(one) for one in ([name] if name is not None else query_names())]
    texts = [bind(one, **_values(one, settings or (), profiles or ())) for one in chosen]
    if not check:
        _write(texts[0])
        return
    raise typer.Exit(
        ERROR if [one for one, text in zip(chosen, texts, strict=True) if not _passes(one, text)] else DONE
    )


def _values(query: Query, settings: Sequence[str], profiles: Sequence[str]) -> dict[str, Value]:
    """What the options set, each parameter once."""
    values = parse_settings(query, settings)
    if not profiles:
        return values
    if ENDPOINTS not in {parameter.name for parameter in query.parameters}:
        raise ConfigError(
            f"--profile {profiles[0]}", f"{query.name} asks for no endpoints", hint="see flowlens query --list"
        )
    if ENDPOINTS in values:
        raise ConfigError(f"--profile {profiles[0]}", f"--set {ENDPOINTS}=... sets the same parameter")
    return {**values, ENDPOINTS: required_endpoints(profiles)}


def parse_settings(query: Query, settings: Sequence[str]) -> dict[str, Value]:
    """Name and value of each NAME=VALUE. Raises ConfigError for a form, name or value that is wrong, with near matches."""
    known = {parameter.name: parameter for parameter in query.parameters}
    found = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting:.60}", "expected NAME=VALUE", hint=f"known: {', '.join(known)}")
        if name not in known:
            raise ConfigError(
                f"--set {setting:.60}", f"{query.name} has no parameter {name:.60}", hint=near_matches(name, known)
            )
        if name in found:
            raise ConfigError(f"--set {setting:.60}", "is given twice")
        found[name] = parse_value(known[name], text)
    return found


def _write(text: str) -> None:
    """The query on stdout as it is, on a terminal too: folded lines would be another query when pasted."""
    encoding = sys.stdout.encoding or "utf-8"
    with standard_output():
        # What the console cannot show stands in a literal, where the escape means the same.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _described(query: Query) -> list[str]:
    return [
        f"{query.name}: {query.purpose}",
        *(f"    {one.name} ({one.type}) = {one.default}" for one in query.parameters),
    ]


def _passes(query: Query, text: str) -> bool:
    checked = check_query(text)
    for diagnostic in checked.diagnostics:
        say(f"{query.name}.kql: {diagnostic}")
    names = tuple(name for name, _ in checked.columns)
    if not checked.diagnostics and names != query.columns:
        say(f"{query.name}.kql: its header promises {', '.join(query.columns)}, its result has {', '.join(names)}")
        return False
    if not checked.diagnostics:
        told_lines([(f"{query.name}.kql: no diagnostics, {len(names)} columns", "")])
    return not checked.diagnostics
