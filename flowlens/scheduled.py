"""One run of a scheduled report: read each section, compare it with the run before, put it where it belongs.

The same window again replaces what was written, and is compared with the same earlier report as the first time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO
from zoneinfo import ZoneInfo

from flowlens.analyses.needs import left_unfilled
from flowlens.errors import ConfigError, FlowlensError
from flowlens.evidence import Scan, Window
from flowlens.findings import Baseline
from flowlens.options import DONE, ERROR, GATE_FIRED, INCOMPLETE
from flowlens.outputs import OUTPUTS, terminal
from flowlens.outputs.delivery import TABLE
from flowlens.outputs.page import Page
from flowlens.outputs.places import Place, names, read, write
from flowlens.outputs.tables import BY_TABLE, baseline_of, write_json
from flowlens.outputs.webhooks import body, message_of, post
from flowlens.reporting import SCHEMA_VERSION, Report, new_part, report
from flowlens.scanning import scan
from flowlens.schedule import Posted, Schedule, Source, Written
from flowlens.selecting import Progress

_WIDTH = 120
_SENT = "_sent"
"""The folder of the history that tells which messages were sent; no section can have this name."""


@dataclass(frozen=True, slots=True)
class Section:
    """What became of one source: its report, and the part of it that is new where there was an earlier one."""

    name: str
    whole: Report
    compared: bool

    def told(self, only_new: bool) -> Report:
        """The report, or the part of it that is new."""
        return new_part(self.whole) if only_new and self.compared else self.whole


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave: its sections, what could not be read, the gates that fired, what was done and what was not."""

    name: str
    sections: tuple[Section, ...]
    unread: tuple[FlowlensError, ...]
    fired: tuple[str, ...]
    done: tuple[str, ...]
    undone: tuple[FlowlensError, ...]

    @property
    def code(self) -> int:
        """The exit code of the contract; what was not read or delivered is an error whatever the gates say."""
        if self.unread or self.undone:
            return ERROR
        if self.fired:
            return GATE_FIRED
        ledgers = [section.whole.ledger for section in self.sections]
        return DONE if all(ledger.blobs and ledger.complete for ledger in ledgers) else INCOMPLETE


def run_scheduled(
    schedule: Schedule,
    *,
    window: str | None = None,
    now: dt.datetime | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """What a run of the schedule gave. ``window`` is a word in place of the config's; ``now`` is what *yesterday* counts from.

    A section that cannot be read and an output that cannot be written keep no other from being tried.

    Raises ConfigError for a wrong word.
    """
    moment = now or dt.datetime.now(dt.UTC)
    chosen = schedule.window_of(window, moment)
    name = window_name(chosen, schedule.zone)
    sections: list[Section] = []
    unread: list[FlowlensError] = []
    for source in schedule.sources:
        try:
            sections.append(_section(schedule, source, chosen, name, moment, progress))
        except FlowlensError as error:
            unread.append(type(error)(f"{source.name}: {error.where}", error.problem, hint=error.hint))
    fired = tuple(_fired(schedule, sections))
    done: list[str] = []
    undone: list[FlowlensError] = []
    for deliver in _deliveries(schedule, sections, name, unread, fired):
        try:
            done += deliver()
        except FlowlensError as error:
            undone.append(error)
    return Outcome(name, tuple(sections), tuple(unread), fired, tuple(done), tuple(undone))


def window_name(window: Window, zone: ZoneInfo | None) -> str:
    """What files of a window are called: its day, its month, its days, or its ends in UTC.

    >>> day = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
    >>> window_name(Window(day, day + dt.timedelta(days=1)), None)
    '2026-06-15'
    """
    start, end = (edge.astimezone(zone or dt.UTC) if edge else None for edge in (window.start, window.end))
    if start is None or end is None or any(edge.time() != dt.time() for edge in (start, end)):
        return "_".join(f"{edge:%Y-%m-%dT%H%M%SZ}" if edge else "open" for edge in (window.start, window.end))
    last = end.date() - dt.timedelta(days=1)
    if last == start.date():
        return f"{last:%Y-%m-%d}"
    if start.day == 1 and end.day == 1 and (start.year, start.month) == (last.year, last.month):
        return f"{start:%Y-%m}"
    return f"{start:%Y-%m-%d}_{last:%Y-%m-%d}"


def _section(
    schedule: Schedule, source: Source, window: Window, name: str, now: dt.datetime, progress: Progress | None
) -> Section:
    read_logs = scan(
        *source.addresses,
        start=window.start,
        end=window.end,
        inventory_file=schedule.inventory,
        networks=schedule.config.networks,
        scope=schedule.scope,
        memory_limit=schedule.memory_limit,
        progress=progress,
        access=source.access,
        now=now,
    )
    earlier, told, notes = _earlier(schedule, source, name)
    _settle(read_logs, schedule, source, told)
    made = report(
        read_logs,
        questions=schedule.questions,
        expected=schedule.expected,
        owners=schedule.owners,
        baseline=earlier,
        accept=schedule.acceptances,
        **schedule.required._asdict(),
    )
    egress = made.tables.get("denied_egress")
    missing = left_unfilled(egress, schedule.required) if egress is not None else []
    if missing:
        notes.append(f"Not tested, since [placeholders] sets no value: {', '.join(f'<{each}>' for each in missing)}.")
    return Section(source.name, replace(made, notes=(*notes, *made.notes)), earlier is not None)


def _settle(read_logs: Scan, schedule: Schedule, source: Source, baseline: str | None) -> None:
    """Put into the settings what the report was made with."""
    several = len(schedule.sources) > 1
    read_logs.settings.update(
        title=f"{schedule.title}: {source.name}" if several else schedule.title,
        report=schedule.path.name,
        config=str(schedule.config.path) if schedule.config.path else None,
        expected=str(schedule.expected) if schedule.expected else None,
        accept=str(schedule.accept) if schedule.accept else None,
        baseline=baseline,
    )


def _earlier(schedule: Schedule, source: Source, name: str) -> tuple[Baseline | None, str | None, list[str]]:
    """The report to compare with, where it stands, and a note where there is none that can be compared."""
    if schedule.baseline is not None:
        return schedule.baseline, "baseline", []
    if schedule.history is None:
        return None, None, []
    try:
        found = [each for each in names(schedule.history, source.name) if each.endswith(".json")]
        before = [each for each in found if each < f"{name}.json"]
        if not before:
            return None, None, [f"There is no earlier report in {schedule.history}: everything counts as new."]
        file = f"{source.name}/{before[-1]}"
        earlier = baseline_of(read(schedule.history, file) or b"", file)
        if earlier is None:
            raise ConfigError(file, "is no report")
        if earlier.destinations is None and "unexpected_destinations" in schedule.questions:
            raise ConfigError(file, "lists no destinations")
    except FlowlensError as error:
        # Today's answer is worth having without a comparison too.
        return None, None, [f"There is nothing to compare with. {error.where}: {error.problem}."]
    return earlier, file, []


def _fired(schedule: Schedule, sections: list[Section]) -> Iterator[str]:
    for section in sections:
        told = section.told(schedule.only_new)
        for gate in schedule.gates:
            if gate.fires(told):
                yield f"{gate} ({section.name})" if len(schedule.sources) > 1 else str(gate)


def _deliveries(
    schedule: Schedule, sections: list[Section], name: str, unread: list[FlowlensError], fired: tuple[str, ...]
) -> Iterator[Callable[[], list[str]]]:
    """What is to be done, each for itself: the history first, since the next run needs it most."""
    if schedule.history is not None:
        for section in sections:
            yield partial(_keep, schedule.history, section, name)
    for output in schedule.outputs:
        if isinstance(output, Posted):
            yield partial(_post, output, schedule, sections, name, unread, fired)
        elif sections:
            yield partial(_write, output, sections, name, schedule.zone)


def _keep(history: Place, section: Section, name: str) -> list[str]:
    return [f"wrote {write(history, f'{section.name}/{name}.json', partial(write_json, section.whole))}"]


def _write(output: Written, sections: list[Section], name: str, zone: ZoneInfo | None) -> list[str]:
    apart = "{section}" in str(output.place)
    groups = [[section] for section in sections] if apart else [sections]
    written: list[str] = []
    for group in groups:
        place = output.place.filled({"window": name, "section": group[0].name})
        reports = {section.name: section.told(output.only_new) for section in group}
        if output.folder:
            for table, rows in reports[group[0].name].tables.items():
                written.append(write(place, f"{table}.{output.face}", partial(BY_TABLE[output.face], rows)))
        else:
            written.append(write(place, "", partial(_fill, output.face, reports, zone)))
    return [f"wrote {each}" for each in written]


def _fill(face: str, reports: Mapping[str, Report], zone: ZoneInfo | None, file: BinaryIO) -> None:
    """Write one or several sections into a file of that format."""
    if face == "json" and len(reports) > 1:
        file.write(f'{{"schema_version": {SCHEMA_VERSION}, "sections": {{'.encode("ascii"))
        for number, (name, each) in enumerate(reports.items()):
            file.write(f"{',' if number else ''}\n{json.dumps(name)}: ".encode("ascii"))
            write_json(each, file)
        file.write(b"}}\n")
        return
    for number, (name, each) in enumerate(reports.items()):
        if number and face in (TABLE, "markdown"):
            file.write(b"\n\n")
        if face == TABLE:
            text = io.StringIO()
            if len(reports) > 1:
                text.write(f"== {name}\n\n")
            terminal.render(each, Page(text, width=_WIDTH, zone=zone))
            file.write(text.getvalue().encode())
        else:
            OUTPUTS[face](each, file)


def _post(
    output: Posted,
    schedule: Schedule,
    sections: list[Section],
    name: str,
    unread: list[FlowlensError],
    fired: tuple[str, ...],
) -> list[str]:
    """Send the message, unless the history says that this very one was sent for the window already."""
    message = message_of(
        schedule.title,
        name,
        {section.name: section.told(output.only_new) for section in sections},
        failures=[f"{error.where}: {error.problem}" for error in unread],
        fired=fired,
        top=output.top,
    )
    data = body(output.webhook, message)
    mark = hashlib.sha256(data).hexdigest().encode()
    sent = f"{_SENT}/{name}.{output.webhook.kind}-{output.webhook.variable}"
    before = _sent_before(schedule, sent)
    if before == mark:
        return [f"{output.webhook}: the same message was sent for {name} already"]
    if before is not None:
        data = body(output.webhook, replace(message, headline=f"{message.headline}, again: it has changed"))
    post(output.webhook, data)
    if schedule.history is not None:
        write(schedule.history, sent, lambda file: _put(file, mark))
    return [f"sent to {output.webhook}"]


def _sent_before(schedule: Schedule, sent: str) -> bytes | None:
    """The mark of the message that was sent; a message goes out also where the history cannot tell."""
    try:
        return read(schedule.history, sent) if schedule.history is not None else None
    except FlowlensError:
        return None


def _put(file: BinaryIO, data: bytes) -> None:
    file.write(data)
