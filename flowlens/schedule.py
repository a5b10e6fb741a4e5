"""The config of a scheduled report: every key checked, every mistake told with its place, before any log is read."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flowlens.acceptance import Acceptance, read_acceptances
from flowlens.analyses import ANALYSES
from flowlens.analyses.destinations import read_expected
from flowlens.analyses.needs import AUTO, Asked
from flowlens.budget import parse_size
from flowlens.catalog import Owners, load_profile, load_tags, read_names, read_owners
from flowlens.catalog.placeholders import chosen_settings
from flowlens.config import Config, read_config
from flowlens.errors import ConfigError, FlowlensError, near_matches
from flowlens.evidence import Window
from flowlens.findings import Baseline
from flowlens.gates import GATE_QUESTIONS, GATES, Gate, parse_gate
from flowlens.inventory import read_inventory
from flowlens.outputs import OUTPUTS, SUFFIXES
from flowlens.outputs.delivery import TABLE
from flowlens.outputs.places import Place, place_of
from flowlens.outputs.tables import BY_TABLE, read_baseline
from flowlens.outputs.webhooks import KINDS, Webhook, webhook_of
from flowlens.scope import Scope
from flowlens.sources.accounts import (
    CONNECTION_STRING_VARIABLE,
    KEY_VARIABLE,
    SAS_VARIABLE,
    Access,
    Location,
    checked_ca_file,
    is_remote,
    parse_location,
)
from flowlens.sources.workspace import Workspace, is_workspace, parse_workspace
from flowlens.toml_files import read_toml
from flowlens.windows import parse_window

QUESTIONS = {
    "encryption": "encryption_status",
    "egress": "denied_egress",
    "destinations": "unexpected_destinations",
    "rules": "rule_usage",
    "coverage": "coverage",
}
"""What a config calls a question, as the command line does, and its table."""
JOINED = (TABLE, "json", "markdown", "ocsf")
"""Formats in which one file can hold several sections."""
_SECRETS = {"key": KEY_VARIABLE, "sas": SAS_VARIABLE, "connection-string": CONNECTION_STRING_VARIABLE}
"""Where each way to sign in that needs a secret finds it."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("window", "section")
_Value = TypeVar("_Value")
_Given = ParamSpec("_Given")


@dataclass(frozen=True, slots=True)
class Source:
    """A section of the report: addresses that are read together, and as whom. Sections are never added up."""

    name: str
    addresses: tuple[str, ...]
    access: Access
    kind: str


@dataclass(frozen=True, slots=True)
class Written:
    """A file or blob to write, or with ``folder`` one for each table: where, in which format, and whether only what is new."""

    key: str
    place: Place
    folder: bool
    face: str
    only_new: bool


@dataclass(frozen=True, slots=True)
class Posted:
    """A message to send: to which webhook, with how many findings, and whether only of what is new."""

    key: str
    webhook: Webhook
    top: int
    only_new: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """A scheduled report as its config describes it, checked; holds no secret."""

    path: Path
    title: str
    window: str | None
    start: str | None
    end: str | None
    zone: ZoneInfo | None
    sources: tuple[Source, ...]
    questions: tuple[str, ...]
    required: Asked
    expected: Path | None
    owners: Owners
    acceptances: tuple[Acceptance, ...]
    accept: Path | None
    inventory: Path | None
    config: Config
    scope: Scope | None
    baseline: Baseline | None
    history: Place | None
    only_new: bool
    outputs: tuple[Written | Posted, ...]
    gates: tuple[Gate, ...]
    memory_limit: int | None

    def window_of(self, word: str | None, now: dt.datetime) -> Window:
        """The window of a run at ``now``; ``word`` stands in place of the config's. Raises ConfigError for a wrong word."""
        chosen = (None, None, word) if word else (self.start, self.end, self.window)
        start, end = parse_window(*chosen, zone=self.zone, now=now)
        return Window(start, end or now)


class _Table:
    """A table of the config: takes values out by key, notes what is wrong, and at last which keys nobody asked for."""

    def __init__(self, where: str, values: object, errors: list[ConfigError], *, separator: str = ".") -> None:
        self._where, self._separator, self._errors = where, separator, errors
        self._known: list[str] = []
        self._values: Mapping[str, object] = values if isinstance(values, dict) else {}
        if not isinstance(values, dict):
            errors.append(ConfigError(where, f"expected a table, found {values!r:.40}"))

    def wrong(self, key: str, problem: str, hint: str = "") -> None:
        """Note what is wrong with a key."""
        self._errors.append(ConfigError(self.at(key), problem, hint=hint))

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self._where}{self._separator}{key}"

    def _take(self, key: str, fits: Callable[[Any], bool], what: str) -> Any:
        self._known.append(key)
        value = self._values.get(key)
        if value is not None and not fits(value):
            self.wrong(key, f"expected {what}, found {value!r:.40}")
            return None
        return value

    def text(self, key: str) -> str | None:
        found: str | None = self._take(key, lambda value: isinstance(value, str) and bool(value.strip()), "a text")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """One text or a list of them."""
        is_list = self._take(
            key,
            lambda value: (
                isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
            ),
            "a text or a list of texts",
        )
        return (is_list,) if isinstance(is_list, str) else tuple(is_list or ())

    def flag(self, key: str, default: bool) -> bool:
        found = self._take(key, lambda value: isinstance(value, bool), "true or false")
        return default if found is None else bool(found)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        found = self._take(
            key,
            lambda value: type(value) in (int, float) and low <= value <= high,
            f"a number from {low:g} to {high:g}",
        )
        return default if found is None else float(found)

    def table(self, key: str) -> _Table:
        self._known.append(key)
        return _Table(self.at(key), self._values.get(key, {}), self._errors)

    def has(self, key: str) -> bool:
        """Whether the key holds anything."""
        return bool(self._values.get(key))

    def is_table(self, key: str) -> bool:
        """Whether the key holds a table."""
        return isinstance(self._values.get(key), dict)

    def tables(self, key: str) -> list[_Table]:
        """The tables of ``[[key]]``."""
        found = self._take(key, lambda value: isinstance(value, list), f"[[{key}]] entries") or []
        return [_Table(f"{self.at(key)}[{n}]", each, self._errors) for n, each in enumerate(found, 1)]

    def all_texts(self) -> dict[str, str | list[str]]:
        """Every key with its text or list of texts."""
        names = list(self._values)
        found = {name: self.texts(name) for name in names}
        return {
            name: values[0] if isinstance(self._values[name], str) else list(values) for name, values in found.items()
        }

    def tried(
        self, key: str, make: Callable[_Given, _Value], *args: _Given.args, **named: _Given.kwargs
    ) -> _Value | None:
        """What ``make`` gives; its error is one of this key."""
        try:
            return make(*args, **named)
        except FlowlensError as error:
            self.wrong(key, f"{error.where}: {error.problem}" if error.where else error.problem, error.hint)
            return None

    def finish(self) -> None:
        """Note each key that is none."""
        for key in self._values:
            if key not in self._known:
                self.wrong(key, "is no key here", near_matches(key, self._known))


def read_schedule(path: Path) -> tuple[Schedule | None, list[ConfigError]]:
    """The scheduled report that a TOML file describes, or None, and all that is wrong in it; no log is read.

    Paths in it are relative to its folder. Every file that it names is read, every profile, gate, format and address is
    checked, and every environment variable that it relies on has to be there.
    """
    errors: list[ConfigError] = []
    try:
        content = read_toml(path)
    except ConfigError as error:
        return None, [error]
    top = _Table(str(path), content, errors, separator=": ")
    found = _schedule(path, top, errors)
    top.finish()
    return (None if errors else found), errors


def _schedule(path: Path, top: _Table, errors: list[ConfigError]) -> Schedule:
    folder = path.parent
    window, start, end = top.text("window"), top.text("start"), top.text("end")
    if not (window or start or end):
        window = "yesterday"
    zone = _zone(top)
    now = dt.datetime.now(dt.UTC)
    top.tried("window", parse_window, start, end, window, zone=zone, now=now)
    inventory = _file(top, "inventory", folder, read_inventory)
    config = _own_config(top, folder)
    cloud = config.cloud
    expected = _file(top, "expected", folder, partial(_known_tags, cloud=cloud))
    if expected is None and config.has_expected:
        expected = config.path
    accept = _file(top, "accept", folder, read_acceptances)
    names = _file(top, "names", folder, read_names)
    required = _required(top, folder, config, names)
    questions = _questions(top)
    sources = _sources(top, folder)
    logs = [place for source in sources for place in _places(source)]
    only_new = top.flag("only_new", False)
    history = _history(top, folder, logs)
    baseline = _file(top, "baseline", folder, read_baseline)
    before = read_baseline(baseline) if baseline and not errors else None
    if baseline and history is not None:
        top.wrong("baseline", "stands beside history, in which the previous report is found", "keep one of them")
    if baseline and before is None and not errors:
        top.wrong("baseline", "is no report", "write it with --format json")
    if only_new and not (baseline or history is not None):
        top.wrong("only_new", "needs something to compare with", "add history or baseline")
    scope = _scope(top)
    limit = top.text("memory_limit")
    return Schedule(
        path=path,
        title=top.text("title") or "Flow log report",
        window=window,
        start=start,
        end=end,
        zone=zone,
        sources=sources,
        questions=questions,
        required=required,
        expected=expected,
        owners=top.tried("owners", read_owners, [folder / name for name in top.texts("owners")]) or Owners(()),
        acceptances=read_acceptances(accept) if accept and not errors else (),
        accept=accept,
        inventory=inventory,
        config=config,
        scope=scope,
        baseline=before,
        history=history,
        only_new=only_new,
        outputs=_outputs(top, folder, logs, len(sources), only_new, questions),
        gates=_gates(top, questions),
        memory_limit=top.tried("memory_limit", parse_size, limit) if limit else None,
    )


def _zone(top: _Table) -> ZoneInfo | None:
    name = top.text("timezone")
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        top.wrong("timezone", f"{name!r:.40} is no time zone", "write an IANA name such as Asia/Tokyo")
        return None


def _file(top: _Table, key: str, folder: Path, read: Callable[[Path], object]) -> Path | None:
    """The file that a key names, known to be readable as what it should be."""
    name = top.text(key)
    if name is None:
        return None
    file = folder / name
    if not file.is_file():
        top.wrong(key, f"{file} is not there")
        return None
    top.tried(key, read, file)
    return file


def _known_tags(file: Path, cloud: str) -> None:
    for entry in read_expected(file):
        if entry.service_tag:
            load_tags(cloud).prefixes(entry.service_tag)


def _own_config(top: _Table, folder: Path) -> Config:
    """flowlens.toml as named, else the one beside the report's config; never one that happens to be in the working folder."""
    named = _file(top, "config", folder, read_config)
    beside = folder / "flowlens.toml"
    chosen = named or (beside if beside.is_file() else None)
    return (top.tried("config", read_config, chosen) if chosen else None) or Config()


def _required(top: _Table, folder: Path, config: Config, names: Path | None) -> Asked:
    profiles = [
        # A profile of one's own is a file, and paths are relative to this folder.
        str(folder / name) if name.endswith(".toml") else name
        for name in top.texts("profiles")
    ]
    loaded = [found for name in profiles if name != AUTO and (found := top.tried("profiles", load_profile, name))]
    given = top.table("placeholders").all_texts()
    settings = top.tried("placeholders", chosen_settings, (), {**config.placeholders, **given}, loaded)
    known = top.tried("names", read_names, names) if names else None
    return Asked(profiles or AUTO, config.cloud, settings or {}, known)


def _questions(top: _Table) -> tuple[str, ...]:
    asked = top.texts("questions")
    known = {**QUESTIONS, **{name: name for name in ANALYSES}}
    for name in asked:
        if name not in known:
            top.wrong("questions", f"{name!r:.40} is no question", near_matches(name, QUESTIONS))
    wanted = {known[name] for name in asked if name in known} or set(ANALYSES)
    return tuple(name for name in ANALYSES if name in wanted)


def _access(table: _Table, folder: Path) -> Access:
    auth, cloud, url = table.text("auth") or "default", table.text("cloud"), table.text("account_url")
    ca_file = _file(table, "ca_file", folder, checked_ca_file)
    timeout = table.number("timeout", 30.0, 1, 3600)
    return table.tried("auth", Access, auth, cloud, url, ca_file, timeout) or Access()


def _sources(top: _Table, folder: Path) -> tuple[Source, ...]:
    tables = top.tables("source")
    if not top.has("source"):
        top.wrong("source", "is missing: nothing to read", "add [[source]] with address = ...")
    found: list[Source] = []
    for table in tables:
        access = _access(table, folder)
        addresses = table.texts("address")
        kinds = {_kind(address) for address in addresses}
        kind = min(kinds, default="storage")
        if not addresses:
            table.wrong("address", "is missing", "a container, workspace:GUID, a folder or a file")
        elif "workspace" in kinds and len(kinds) > 1:
            table.wrong(
                "address", "holds a workspace beside blobs: both describe the same traffic", "make two [[source]] of it"
            )
        name = table.text("name") or kind
        if not _NAME.fullmatch(name):
            table.wrong("name", f"{name!r:.40} is no name", "use a-z, 0-9 and -")
        elif name in {source.name for source in found}:
            table.wrong("name", f"{name!r} is taken by another source", "give each its own name")
        variable = _SECRETS.get(access.auth)
        if variable and kind != "files" and not os.environ.get(variable, "").strip():
            table.wrong("auth", f"{variable} is not set, which holds the {access.auth}")
        placed = tuple(table.tried("address", _address, address, access, folder) or "" for address in addresses)
        table.finish()
        found.append(Source(name, placed, access, kind))
    return tuple(found)


def _kind(address: str) -> str:
    return "workspace" if is_workspace(address) else "storage" if is_remote(address) else "files"


def _address(address: str, access: Access, folder: Path) -> str:
    if is_workspace(address):
        return str(parse_workspace(address, access))
    if is_remote(address):
        if parse_location(address, access).sas:
            raise ConfigError("", "carries a token, and a config holds no secrets", hint="set AZURE_STORAGE_SAS_TOKEN")
        return address
    return str(folder / address)


def _places(source: Source) -> list[Location | Workspace | Path]:
    """Where the logs of a source are."""
    found: list[Location | Workspace | Path] = []
    for address in filter(None, source.addresses):
        if _kind(address) == "storage":
            found.append(parse_location(address, source.access))
        elif _kind(address) == "files":
            found.append(Path(address))
    return found


def _scope(top: _Table) -> Scope | None:
    table = top.table("scope")
    scope = Scope(**{name: table.texts(name) for name in Scope.__slots__})
    table.finish()
    return scope or None


def _history(top: _Table, folder: Path, logs: Sequence[object]) -> Place | None:
    """``history = FOLDER``, or a table with ``blob`` and the credential for it."""
    if top.is_table("history"):
        table = top.table("history")
        place = _place(table, "blob", folder, logs)
        table.finish()
        return place
    name = top.text("history")
    return top.tried("history", place_of, str(folder / name), None, None, logs) if name else None


def _place(table: _Table, key: str, folder: Path, logs: Sequence[object]) -> Place | None:
    address, secret = table.text(key), table.text("secret_variable")
    access = _access(table, folder)
    if address is None:
        table.wrong(key, "is missing", "https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME")
        return None
    return table.tried(key, place_of, address, access, secret, logs)


def _outputs(
    top: _Table, folder: Path, logs: Sequence[object], sections: int, only_new: bool, questions: Sequence[str]
) -> tuple[Written | Posted, ...]:
    tables = top.tables("output")
    if not top.has("output"):
        top.wrong("output", "is missing: nothing would be written", "add [[output]] with file, blob or webhook")
    found: list[Written | Posted] = []
    for number, table in enumerate(tables, 1):
        ways = {way: table.text(way) for way in ("file", "blob", "webhook")}
        given = [way for way, value in ways.items() if value]
        new = table.flag("only_new", only_new)
        if len(given) != 1:
            table.wrong("file", "expected one of file, blob and webhook")
        elif ways["webhook"]:
            posted = _posted(table, folder, ways["webhook"], f"output-{number}", new)
            found += [posted] if posted else []
        else:
            address = str(ways[given[0]])
            face = _face(table, address, sections, questions, given[0])
            place = (
                _place(table, "blob", folder, logs)
                if given == ["blob"]
                else table.tried("file", place_of, str(folder / address), None, None, logs)
            )
            if face and place:
                found.append(Written(f"output-{number}", place, address.endswith("/"), face, new))
        table.finish()
    return tuple(found)


def _face(table: _Table, address: str, sections: int, questions: Sequence[str], key: str) -> str | None:
    """The format of an output, which its name must be fit for."""
    face = table.text("format")
    known = (TABLE, *OUTPUTS)
    folder = address.endswith("/")
    suffix = Path(address).suffix.lower()
    inferred = None if folder else SUFFIXES.get(suffix)
    for field in _FIELD.findall(address):
        if field not in _FIELDS:
            table.wrong(key, f"{{{field}}} stands for nothing", near_matches(field, _FIELDS))
    if face is not None and face not in known:
        table.wrong("format", f"{face!r:.40} is no format", near_matches(face, known))
        return None
    if face and inferred and face != inferred:
        table.wrong("format", f"is {face}, and the name ends in {suffix}")
    elif not (face or inferred):
        table.wrong("format", "is missing, and the name does not tell it", near_matches(suffix, SUFFIXES))
    face = face or inferred
    if face in BY_TABLE and not folder and len(questions) > 1:
        table.wrong(key, f"{face} holds one table a file", "end the name with / for a folder")
    if folder and face and face not in BY_TABLE:
        table.wrong(key, f"is a folder, and {face} is one file")
    if sections > 1 and face and face not in JOINED and "{section}" not in address:
        table.wrong(key, f"{face} holds one section a file", "put {section} into the name")
    return face


def _posted(table: _Table, folder: Path, kind: str, key: str, only_new: bool) -> Posted | None:
    variable, top = table.text("url_variable"), int(table.number("top", 5, 0, 20))
    ca_file = _file(table, "ca_file", folder, checked_ca_file)
    if kind not in KINDS:
        table.wrong("webhook", f"{kind!r:.40} is no kind of webhook", near_matches(kind, KINDS))
        return None
    if variable is None:
        table.wrong("url_variable", "is missing", "name the environment variable that holds the webhook's address")
        return None
    webhook = table.tried("url_variable", webhook_of, kind, variable, os.environ.get(variable), ca_file)
    return Posted(key, webhook, top, only_new) if webhook else None


def _gates(top: _Table, questions: Iterable[str]) -> tuple[Gate, ...]:
    found = []
    for text in top.texts("fail_on"):
        gate = top.tried("fail_on", parse_gate, text)
        if gate is None:
            continue
        asked = GATE_QUESTIONS.get(gate.metric)
        if gate.metric not in GATES:
            top.wrong("fail_on", f"{gate.metric} is no metric of a report", near_matches(gate.metric, GATES))
        elif asked is not None and asked not in questions:
            top.wrong("fail_on", f"{gate.metric} belongs to a question that is not asked", f"add {asked} to questions")
        else:
            found.append(gate)
    return tuple(found)
