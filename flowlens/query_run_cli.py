"""What `flowlens query` does with a workspace: run the query, write its rows, hold them against gates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, NoReturn
from zoneinfo import ZoneInfo

import typer

from flowlens.asking import told_memory
from flowlens.budget import parse_size
from flowlens.errors import ConfigError, near_matches
from flowlens.gates import parse_gate
from flowlens.options import DONE, GATE_FIRED, INCOMPLETE
from flowlens.outputs.content import evidence_lines
from flowlens.outputs.delivery import deliver, target_of
from flowlens.outputs.query_result import render_query, write_query
from flowlens.outputs.saying import say
from flowlens.outputs.tables import BY_TABLE
from flowlens.queries import Query, Value, find_query, parse_value
from flowlens.query_running import run_query
from flowlens.query_values import ENDPOINTS, required_endpoints
from flowlens.sources.accounts import Access
from flowlens.windows import parse_window


class Asked(NamedTuple):
    """Of whom and over which window a query is asked, and when it fails the run."""

    workspaces: tuple[str, ...]
    start: str | None
    end: str | None
    window: str | None
    tz: str | None
    gates: tuple[str, ...]
    memory_limit: str | None = None


def values_of(query: Query, settings: Sequence[str], profiles: Sequence[str]) -> dict[str, Value]:
    """What the options set, each parameter once; raises ConfigError where they don't fit the query."""
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


def run(
    name: str,
    settings: Sequence[str],
    profiles: Sequence[str],
    asked: Asked,
    access: Access,
    face: str | None,
    output: str | None,
    limit: int,
) -> NoReturn:
    """Run the query, write its result, and leave with the exit code of the contract."""
    gates = [parse_gate(text) for text in asked.gates]
    target = target_of(face, output)
    values = values_of(find_query(name), settings, profiles)
    for word in ("start", "end"):
        if word in values:
            raise ConfigError(f"--set {word}", "is the window of a run", hint=f"write --{word} TIME")
    now = dt.datetime.now(dt.UTC)
    zone = _zone(asked.tz)
    start, end = parse_window(asked.start, asked.end, asked.window, zone=zone, now=now)
    most = parse_size(asked.memory_limit) if asked.memory_limit is not None else None
    result = run_query(
        name, workspace=asked.workspaces, start=start, end=end, access=access, memory_limit=most, now=now, **values
    )
    if start is None and end is None and result.window.start and result.window.end:
        low, high = result.window.start.isoformat(), result.window.end.isoformat()
        say(f"window: {low} to {high}, the default for a workspace; choose another with --start, --end or --window")
    for gate in gates:
        if gate.metric not in result.metrics:
            known = near_matches(gate.metric, result.metrics)
            raise ConfigError(f"--fail-on {gate.metric}", f"is no metric of {result.query}", hint=known)

    def write(file: BinaryIO) -> None:
        if target.face in BY_TABLE:
            BY_TABLE[target.face](result.rows, file)
        else:
            write_query(result, file)

    deliver(
        target,
        render=lambda page, most: render_query(result, page, limit=most),
        write=write,
        tables={result.query: result.rows},
        limit=limit,
        zone=zone,
    )
    if target.face in BY_TABLE:
        for line in evidence_lines(result.ledger):
            say(line)
    told_memory(asked.memory_limit)
    fired = [str(gate) for gate in gates if gate.fires(result)]
    if fired:
        say(f"--fail-on: {'; '.join(fired)}")
        raise typer.Exit(GATE_FIRED)
    raise typer.Exit(DONE if result.ledger.complete else INCOMPLETE)


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError) as error:
        raise ConfigError(f"--tz {name}", "is no time zone", hint="write an IANA name such as Asia/Tokyo") from error
