"""The command of the queries: `flowlens query`."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flowlens.catalogue_cli import told_lines
from flowlens.errors import ConfigError, near_matches
from flowlens.options import DONE, ERROR, ROWS_SHOWN, AccountUrl, Auth, CaFile, Cloud, Timeout, option
from flowlens.outputs.saying import say

if TYPE_CHECKING:
    from flowlens.queries import Query

_run_option = functools.partial(option, "Running it")


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
    workspace: Annotated[
        list[str] | None, _run_option("GUID", "Run it in this workspace; repeatable.", "--workspace")
    ] = None,
    resource_id: Annotated[
        list[str] | None,
        _run_option("ID", "Run it in the context of this Azure resource; repeatable.", "--resource-id"),
    ] = None,
    start: Annotated[str | None, _run_option("TIME", "From this time on: ISO 8601 with zone, or 24h, 7d.")] = None,
    end: Annotated[str | None, _run_option("TIME", "Up to, not including, this time.")] = None,
    window: Annotated[str | None, _run_option("WORD", "today, yesterday, last-week, a month or a day.")] = None,
    tz: Annotated[str | None, _run_option("ZONE", "Zone of what yesterday means. Default UTC.")] = None,
    format: Annotated[str | None, _run_option("FORMAT", "table, json, csv or parquet.")] = None,  # noqa: A002
    output: Annotated[str | None, _run_option("FILE", "Write here.", "--output", "-o")] = None,
    limit: Annotated[int, _run_option("N", "Rows on the terminal.", **ROWS_SHOWN)] = 20,
    fail_on: Annotated[
        list[str] | None, _run_option("GATE", "Exit with 1 when this holds, e.g. 'rows > 0'; repeatable.")
    ] = None,
    memory_limit: Annotated[
        str | None, _run_option("SIZE", "What a run may take, e.g. 800MB: less is then asked for at a time.")
    ] = None,
    auth: Auth = "default",
    cloud: Cloud = None,
    account_url: AccountUrl = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """A query for Log Analytics, with its parameters set, ready to paste into the portal; with --workspace its result.

    Example: flowlens query denied_egress --profile windows-kms --set start=2026-06-15T00:00Z
    """
    from flowlens.queries import bind, find_query, query_names
    from flowlens.query_run_cli import Asked, run, values_of
    from flowlens.sources.accounts import Access

    if listed:
        told_lines((line, "") for one in map(find_query, query_names()) for line in _described(one))
        return
    if name is None and not check:
        raise ConfigError("query", "expected the name of a query", hint=near_matches("", query_names()))
    if (workspace or resource_id) and name is not None and not check:
        places = (*(workspace or ()), *(resource_id or ()))
        asked = Asked(places, start, end, window, tz, tuple(fail_on or ()), memory_limit)
        run(
            name,
            settings or (),
            profiles or (),
            asked,
            Access(auth, cloud, account_url, ca_file, timeout),
            format,
            output,
            limit,
        )
    if start or end or window or fail_on or format or output or memory_limit:
        raise ConfigError("query", "expected --workspace beside these options", hint="--set start=... sets a parameter")
    chosen = [find_query(one) for one in ([name] if name is not None else query_names())]
    texts = [bind(one, **values_of(one, settings or (), profiles or ())) for one in chosen]
    if not check:
        _write(texts[0])
        return
    raise typer.Exit(
        ERROR if [one for one, text in zip(chosen, texts, strict=True) if not _passes(one, text)] else DONE
    )


def _write(text: str) -> None:
    """The query on stdout as it is, on a terminal too: folded lines would be another query when pasted."""
    encoding = sys.stdout.encoding or "utf-8"
    from flowlens.outputs.delivery import standard_output

    with standard_output():
        # What the console cannot show stands in a literal, where the escape means the same.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _described(query: Query) -> list[str]:
    return [
        f"{query.name}: {query.purpose}",
        *(f"    {one.name} ({one.type}) = {one.default}" for one in query.parameters),
    ]


def _passes(query: Query, text: str) -> bool:
    from flowlens.query_check import check_query

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
