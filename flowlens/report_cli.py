"""`flowlens report`: a scheduled report, as its config describes it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowlens.options import DONE, WRONG_USAGE
from flowlens.outputs.saying import say

if TYPE_CHECKING:
    from flowlens.errors import FlowlensError
    from flowlens.schedule import Schedule
    from flowlens.scheduled import Outcome


def scheduled_report(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file: sources, window, outputs, gates.")],
    check: Annotated[
        bool, typer.Option("--check", help="Check keys, files, addresses and variables; read and write nothing.")
    ] = False,
    window: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="In place of the config's window, e.g. 2026-06-15 to make a day anew."),
    ] = None,
) -> None:
    """A scheduled report: several sources and outputs, compared with the run before, with gates.

    Example: flowlens report report.toml --check
    """
    from flowlens.outputs.progress import progress_on
    from flowlens.schedule import read_schedule
    from flowlens.scheduled import run_scheduled

    schedule, errors = read_schedule(config)
    for error in errors:
        _tell(error)
    if schedule is None:
        raise typer.Exit(WRONG_USAGE)
    if check:
        say(_summary(schedule))
        raise typer.Exit(DONE)
    outcome = run_scheduled(schedule, window=window, progress=progress_on(sys.stderr))
    _tell_outcome(schedule, outcome)
    raise typer.Exit(outcome.code)


def _tell(error: FlowlensError) -> None:
    """An error on one line."""
    hint = f" ({error.hint})" if error.hint else ""
    say(f"error: {error.where}: {error.problem}{hint}" if error.where else f"error: {error.problem}{hint}")


def _summary(schedule: Schedule) -> str:
    sections = ", ".join(source.name for source in schedule.sources)
    outputs = ", ".join(str(getattr(output, "place", getattr(output, "webhook", ""))) for output in schedule.outputs)
    gates = f"; gates {', '.join(map(str, schedule.gates))}" if schedule.gates else ""
    return f"{schedule.path}: nothing is wrong; sections {sections}; outputs {outputs}{gates}"


def _tell_outcome(schedule: Schedule, outcome: Outcome) -> None:
    from flowlens.outputs.content import TITLES

    say(f"window: {outcome.name}")
    for section in outcome.sections:
        name = f"{section.name}: " if len(schedule.sources) > 1 else ""
        for question, verdict in section.told(schedule.only_new).verdicts.items():
            say(f"{name}[{verdict.status.replace('_', ' ')}] {TITLES[question]}: {verdict.text}")
        for note in section.whole.notes:
            say(f"{name}{note}")
    for line in outcome.done:
        say(line)
    if outcome.fired:
        say(f"fail_on: {'; '.join(outcome.fired)}")
    for error in (*outcome.unread, *outcome.undone):
        _tell(error)
