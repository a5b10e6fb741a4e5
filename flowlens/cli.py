"""The command line: build arguments, call one public function, hand the result to an output.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 a gate fired; 2 wrong usage; 3 error; 4 something
selected was unread or rejected, or nothing was selected; 130 and 143 for signals. 1 beats 4.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import typer

import flowlens
from flowlens import reporting
from flowlens.analyses import ANALYSES
from flowlens.analyses.destinations import read_expected
from flowlens.catalog import Profile, load_profile, load_tags, profile_names
from flowlens.config import CLOUDS, read_config
from flowlens.doctor import describe as doctor_lines
from flowlens.errors import CatalogError, ConfigError, FlowlensError, near_matches
from flowlens.evidence import Ledger, Scan
from flowlens.flow_search import FlowFilter, find_flows
from flowlens.outputs import OUTPUTS, terminal
from flowlens.outputs.delivery import Target, deliver, say, standard_output, target_of
from flowlens.outputs.page import Page
from flowlens.outputs.progress import progress_on
from flowlens.outputs.tables import (
    BY_TABLE,
    atomic,
    flows_document,
    json_bytes,
    parquet_bytes,
    read_baseline,
)
from flowlens.reporting import Baseline, Gate, Report, parse_gate
from flowlens.scanning import scan
from flowlens.scope import Scope
from flowlens.windows import parse_time, parse_window

DONE, GATE_FIRED, WRONG_USAGE, ERROR, INCOMPLETE = range(5)
INTERRUPTED = 130

app = typer.Typer(
    name="flowlens",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Answers three questions from Azure virtual network flow logs: is VM traffic encrypted, which required "
    "endpoints fail, and what do workloads talk to that nobody expected?",
)
profiles_app = typer.Typer(no_args_is_help=True, help="The endpoints that Azure services need.")
tags_app = typer.Typer(no_args_is_help=True, help="Azure service tags; works offline.")
app.add_typer(profiles_app, name="profiles")
app.add_typer(tags_app, name="tags")

Sources = Annotated[list[str], typer.Argument(help="Files, folders or globs of flow logs.", metavar="SOURCE")]


def _option(panel: str, metavar: str | None, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **more)


_window = functools.partial(_option, "Window: which flows, by their own time")
_scope = functools.partial(_option, "Scope: which part of the network")
_network = functools.partial(_option, "Your network")
_result = functools.partial(_option, "Result")
_reading = functools.partial(_option, "Reading")


@dataclass(frozen=True)
class Common:
    """Options that every command over a source takes."""

    start: Annotated[str | None, _window("TIME", "From this time on: ISO 8601 with zone, or 24h, 7d before now.")] = (
        None
    )
    end: Annotated[str | None, _window("TIME", "Up to, not including, this time.")] = None
    window: Annotated[
        str | None, _window("WORD", "today, yesterday, last-week, last-month, a month 2026-06 or a day 2026-06-15.")
    ] = None
    tz: Annotated[str | None, _window("ZONE", "Zone of the times shown and of what yesterday means. Default UTC.")] = (
        None
    )
    subscription: Annotated[list[str] | None, _scope("ID", "Only this subscription; repeatable.")] = None
    resource_group: Annotated[list[str] | None, _scope("NAME", "Only this resource group; repeatable.")] = None
    vnet: Annotated[list[str] | None, _scope("NAME", "Only this VNet; repeatable.")] = None
    subnet: Annotated[list[str] | None, _scope("NAME", "Only this subnet; repeatable.")] = None
    nic: Annotated[list[str] | None, _scope("MAC", "Only this NIC, by MAC address or workload; repeatable.")] = None
    config: Annotated[
        Path | None, _network("FILE", "flowlens.toml; else FLOWLENS_CONFIG, else the one in this folder.")
    ] = None
    inventory: Annotated[Path | None, _network("FILE", "CSV or JSON that names addresses and NICs.")] = None
    format: Annotated[
        str | None, _result("FORMAT", "table, json, csv or parquet. Default: by the suffix of -o, else table.")
    ] = None
    output: Annotated[
        str | None, _result("FILE", "Write here; FOLDER/ for several tables as CSV or Parquet.", "--output", "-o")
    ] = None
    limit: Annotated[int, _result("N", "Rows of each table on the terminal.", min=1)] = 20
    fail_on: Annotated[
        list[str] | None, _result("GATE", "Exit with 1 when this holds, e.g. 'unencrypted > 0'; repeatable.")
    ] = None
    threads: Annotated[int | None, _reading("N", "Threads that decode. Default: one per core.", min=1)] = None
    strict: Annotated[bool, _reading(None, "Decode with the reference decoder only.", "--strict")] = False


def _with_common(command: Callable[..., None]) -> Callable[..., None]:
    """The command with Common's options added to its own and handed over as ``common``."""
    own = inspect.signature(command, eval_str=True).parameters
    hints = inspect.get_annotations(Common, eval_str=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Common)
    ]
    kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in own.items() if n != "common"]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        common = Common(**{f.name: given.pop(f.name) for f in fields(Common)})
        command(common=common, **given)

    parameters = [*kept, *shared]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _zone(common: Common) -> ZoneInfo | None:
    try:
        return ZoneInfo(common.tz) if common.tz else None
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(
            f"--tz {common.tz}", "is no time zone", hint="write an IANA name such as Asia/Tokyo"
        ) from error


def _scan(
    sources: Sequence[str], common: Common, scope: Scope | None, changed_at: str | None = None
) -> tuple[Scan, ZoneInfo | None]:
    zone = _zone(common)
    now = dt.datetime.now(dt.UTC)
    start, end = parse_window(common.start, common.end, common.window, zone=zone, now=now)
    settings = read_config(common.config)
    result = scan(
        *sources,
        start=start,
        end=end,
        changed_at=parse_time(changed_at, now=now, name="--changed-at") if changed_at else None,
        inventory_file=common.inventory,
        networks=settings.networks,
        scope=scope,
        threads=common.threads,
        strict=common.strict,
        progress=progress_on(sys.stderr),
    )
    result.settings["config"] = str(settings.path) if settings.path else None
    return result, zone


def _scope_of(common: Common) -> Scope | None:
    scope = Scope(
        tuple(common.subscription or ()),
        tuple(common.resource_group or ()),
        tuple(common.vnet or ()),
        tuple(common.subnet or ()),
        tuple(common.nic or ()),
    )
    return scope or None


def _report(
    sources: Sequence[str],
    common: Common,
    questions: Sequence[str],
    *,
    changed_at: str | None = None,
    profiles: Sequence[str] | None = None,
    cloud: str | None = None,
    expect: Path | None = None,
    baseline: str | None = None,
) -> NoReturn:
    """Scan, judge, write, and leave with the exit code of the contract."""
    gates = [parse_gate(text) for text in common.fail_on or ()]
    target = target_of(common.format, common.output, tables=len(questions) + 2 * (changed_at is not None))
    settings = read_config(common.config)
    cloud = _known_cloud(cloud or settings.cloud)
    for name in profiles or ():
        if name != "auto":
            load_profile(name)
    expected = expect or (settings.path if settings.has_expected else None)
    if expected is not None:
        read_expected(expected)
    earlier = _baseline(baseline, common) if baseline else None
    result, zone = _scan(sources, common, _scope_of(common), changed_at)
    result.settings["expected"] = str(expected) if expected else None
    result.settings["baseline"] = baseline
    report = reporting.report(
        result,
        questions=questions,
        profiles=list(profiles) if profiles else "auto",
        cloud=cloud,
        placeholders=settings.placeholders,
        expected=expected,
        baseline=earlier,
    )
    for gate in gates:
        if gate.metric not in report.metrics:
            raise ConfigError(
                f"--fail-on {gate.metric}", "belongs to another question", hint="flowlens analyze asks all"
            )
    deliver(
        target,
        render=lambda page, limit: terminal.render(report, page, limit=limit),
        encode=lambda: OUTPUTS[target.face](report),
        tables=report.tables,
        limit=common.limit,
        zone=zone,
    )
    _told_apart(target, report.ledger)
    raise typer.Exit(_exit_code(report, gates))


def _told_apart(target: Target, ledger: Ledger) -> None:
    """How complete the evidence was, on stderr where the format has no place for it."""
    if target.face in BY_TABLE:
        for line in terminal.evidence_lines(ledger):
            say(line)


def _known_cloud(cloud: str) -> str:
    if cloud not in CLOUDS:
        raise ConfigError(f"--cloud {cloud}", "is not a cloud", hint=near_matches(cloud, CLOUDS))
    return cloud


def _exit_code(report: Report, gates: Sequence[Gate]) -> int:
    fired = [str(gate) for gate in gates if gate.fires(report)]
    if fired:
        say(f"--fail-on: {'; '.join(fired)}")
        return GATE_FIRED
    return _ledger_code(report.ledger)


def _ledger_code(ledger: Ledger) -> int:
    if ledger.blobs and ledger.complete:
        return DONE
    say("not everything that was selected could be used" if ledger.blobs else "nothing was selected")
    return INCOMPLETE


def _baseline(text: str, common: Common) -> Scan | Baseline:
    """An earlier report's JSON, or an earlier source to scan."""
    earlier = read_baseline(Path(text))
    if earlier is not None:
        return earlier
    settings = read_config(common.config)
    return scan(text, inventory_file=common.inventory, networks=settings.networks, threads=common.threads)


def _lines(lines: Iterable[tuple[str, str]]) -> None:
    """Lines with their styles on stdout."""
    with standard_output():
        page = Page(sys.stdout)
        for line, style in lines:
            page.line(line, style)


def _complain(error: FlowlensError) -> None:
    say(f"error: {error.where}: {error.problem}" if error.where else f"error: {error.problem}")
    if error.hint:
        say(f"  hint: {error.hint}")


_question = functools.partial(_option, "Question")
ChangedAt = Annotated[
    str | None, _question("TIME", "Show before and after this time too, e.g. 2026-06-15T11:00Z.", "--changed-at")
]
ProfileNames = Annotated[
    list[str] | None,
    _question("PROFILE", "Name (flowlens profiles list) or file; repeatable. Default auto.", "--profile"),
]
Cloud = Annotated[str | None, _question("CLOUD", "global, usgov or china.", "--cloud")]
Expect = Annotated[Path | None, _question("FILE", "TOML list of expected destinations.", "--expect")]
BaselineOption = Annotated[
    str | None, _question("FILE", "An earlier report's JSON, or an earlier source.", "--baseline")
]
CatalogueCloud = Annotated[str, typer.Option(metavar="CLOUD", help="global, usgov or china.")]


@app.command()
@_with_common
def analyze(
    sources: Sources,
    common: Common,
    changed_at: ChangedAt = None,
    profile: ProfileNames = None,
    cloud: Cloud = None,
    expect: Expect = None,
    baseline: BaselineOption = None,
) -> None:
    """All questions at once, with findings, verdicts and how complete the evidence was.

    Example: flowlens analyze sample_logs --fail-on 'unencrypted > 0'
    """
    _report(
        sources,
        common,
        list(ANALYSES),
        changed_at=changed_at,
        profiles=profile,
        cloud=cloud,
        expect=expect,
        baseline=baseline,
    )


@app.command()
@_with_common
def encryption(sources: Sources, common: Common, changed_at: ChangedAt = None) -> None:
    """Is the traffic between my VMs encrypted, and where not, why not?

    Example: flowlens encryption sample_logs --changed-at 2026-06-15T11:00Z
    """
    _report(sources, common, ["encryption_status"], changed_at=changed_at)


@app.command()
@_with_common
def egress(
    sources: Sources, common: Common, changed_at: ChangedAt = None, profile: ProfileNames = None, cloud: Cloud = None
) -> None:
    """Which endpoints that Azure services need are denied, unanswered or never tried, and by whose rule?

    Example: flowlens egress sample_logs --profile windows-kms
    """
    _report(sources, common, ["denied_egress"], changed_at=changed_at, profiles=profile, cloud=cloud)


@app.command()
@_with_common
def destinations(
    sources: Sources, common: Common, cloud: Cloud = None, expect: Expect = None, baseline: BaselineOption = None
) -> None:
    """What do my workloads talk to that nobody expected?

    Example: flowlens destinations sample_logs --expect sample_logs/expected.toml
    """
    _report(sources, common, ["unexpected_destinations"], cloud=cloud, expect=expect, baseline=baseline)


@app.command()
@_with_common
def rules(sources: Sources, common: Common) -> None:
    """Which rules decided, and for how much traffic?

    Example: flowlens rules sample_logs --format csv
    """
    _report(sources, common, ["rule_usage"])


@app.command()
@_with_common
def coverage(sources: Sources, common: Common) -> None:
    """Which hours of which NIC were there to read?

    Example: flowlens coverage sample_logs --fail-on incomplete
    """
    _report(sources, common, ["coverage"])


_filter = functools.partial(_option, "Filter: all of these must hold")


@app.command()
@_with_common
def flows(
    sources: Sources,
    common: Common,
    src: Annotated[list[str] | None, _filter("PREFIX", "Source address or prefix; repeatable.")] = None,
    dst: Annotated[list[str] | None, _filter("PREFIX", "Destination address or prefix; repeatable.")] = None,
    port: Annotated[list[int] | None, _filter("PORT", "Destination port; repeatable.")] = None,
    protocol: Annotated[str | None, _filter("PROTOCOL", "tcp, udp, icmp or an IANA number.")] = None,
    rule: Annotated[str | None, _filter("NAME", "Rule that decided, with or without UserRule_.")] = None,
    state: Annotated[str | None, _filter("STATE", "Begin, Continuing, End or Deny.")] = None,
) -> None:
    """The flow tuples behind a row: the evidence.

    Example: flowlens flows sample_logs --dst 20.118.99.224 --port 1688
    """
    _no_gates(common)
    target = target_of(common.format, common.output)
    wanted = FlowFilter(tuple(src or ()), tuple(dst or ()), tuple(port or ()), protocol, rule, state)
    wanted.expression()
    scope = _scope_of(common)
    result, zone = _scan(sources, common, scope)
    found, ledger = find_flows(result, wanted, scope)

    def encode() -> bytes:
        if target.face in BY_TABLE:
            return BY_TABLE[target.face](found)
        return json_bytes(flows_document(found, ledger, result.settings))

    deliver(
        target,
        render=lambda page, limit: terminal.render_flows(found, ledger, page, limit=limit),
        encode=encode,
        tables={"flows": found},
        limit=common.limit,
        zone=zone,
    )
    _told_apart(target, ledger)
    raise typer.Exit(_ledger_code(ledger))


@app.command()
@_with_common
def convert(sources: Sources, common: Common) -> None:
    """Flow tuples as one Parquet file with the columns of FLOWS.

    Example: flowlens convert sample_logs -o flows.parquet
    """
    _no_gates(common)
    target = target_of(common.format, common.output)
    if target.path is None or target.folder or target.face != "parquet":
        raise ConfigError("convert", "expected -o FILE.parquet")
    scope = _scope_of(common)
    result, _ = _scan(sources, common, scope)
    with atomic(target.path) as file:
        if scope is None:
            ledger = result.write_flows(file)
        else:
            found, ledger = find_flows(result, FlowFilter(), scope)
            file.write(parquet_bytes(found))
    _told_apart(target, ledger)
    say(f"wrote {target.path}")
    raise typer.Exit(_ledger_code(ledger))


def _no_gates(common: Common) -> None:
    """Flow tuples answer no question that could fire a gate."""
    if common.fail_on:
        raise ConfigError("--fail-on", "has no meaning for flow tuples", hint="use it with a question, e.g. analyze")


@app.command()
def doctor(
    sources: Annotated[list[str] | None, typer.Argument(help="Files or folders to look at.", metavar="SOURCE")] = None,
) -> None:
    """Which engine is in use, what can be read, and how much there is; reads no flow.

    Example: flowlens doctor sample_logs
    """
    _lines((line, "") for line in doctor_lines(sources or []))


@profiles_app.command("list")
def profiles_list() -> None:
    """All profiles with their clouds, requirements and dates.

    Example: flowlens profiles list
    """
    _lines((_summary(load_profile(name)), "") for name in profile_names())


def _summary(profile: Profile) -> str:
    counts = {cloud: sum(r.cloud == cloud for r in profile.requirements) for cloud in CLOUDS}
    told = ", ".join(f"{n} {cloud}" for cloud, n in counts.items() if n)
    return f"{profile.name}: {profile.title} ({told}; as of {profile.as_of})"


@profiles_app.command("show")
def profiles_show(
    name: Annotated[str, typer.Argument(help="Profile name or file.", metavar="PROFILE")],
    cloud: CatalogueCloud = "global",
) -> None:
    """One profile's requirements with their endpoints.

    Example: flowlens profiles show windows-kms
    """
    _lines(_profile_lines(load_profile(name), _known_cloud(cloud)))


def _profile_lines(profile: Profile, cloud: str) -> Iterator[tuple[str, str]]:
    yield f"{profile.name}: {profile.title}", "bold"
    for source in profile.sources:
        yield f"  source: {source}", ""
    for requirement in (r for r in profile.requirements if r.cloud == cloud):
        need = "retired" if requirement.retired else requirement.need
        where = f"{requirement.protocol.upper()} {requirement.ports}"
        yield f"{requirement.name}  [{need}]  {where}  as of {requirement.as_of}", ""
        yield "  " + ", ".join(f"{e.value} ({e.kind})" for e in requirement.endpoints), ""
        if requirement.note:
            yield f"  {requirement.note}", "dim"


@tags_app.command("show")
def tags_show(
    name: Annotated[str | None, typer.Argument(help="Tag; without one, the names of all tags.", metavar="TAG")] = None,
    cloud: CatalogueCloud = "global",
) -> None:
    """The prefixes of a service tag, or the names of all tags.

    Example: flowlens tags show AzureMonitor
    """
    tags = load_tags(_known_cloud(cloud))
    _lines((line, "") for line in (tags.prefixes(name) if name else tags.names))
    say(f"{cloud}, service tags of {tags.date}")


@tags_app.command("lookup")
def tags_lookup(
    addresses: Annotated[list[str], typer.Argument(help="Addresses.", metavar="IP")],
    cloud: CatalogueCloud = "global",
) -> None:
    """The service tags that hold an address, the most specific first.

    Example: flowlens tags lookup 20.118.99.224
    """
    tags = load_tags(_known_cloud(cloud))
    rows = tags.identify(pl.Series(addresses, dtype=pl.String)).iter_rows(named=True)
    _lines((f"{row['address']}: {', '.join(row['service_tags'] or ()) or 'no service tag'}", "") for row in rows)
    say(f"{cloud}, service tags of {tags.date}")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"flowlens {flowlens.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Root options."""


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one run of the command line; errors become one line on stderr.

    >>> main(["profiles", "show", "no-such-profile"])
    2
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args=arguments, prog_name="flowlens", standalone_mode=False, windows_expand_args=False)
        return code if isinstance(code, int) else DONE
    except (ConfigError, CatalogError) as error:
        _complain(error)
        return WRONG_USAGE
    except FlowlensError as error:
        _complain(error)
        return ERROR
    except typer.TyperException as error:
        # Without arguments the help says it all.
        if message := error.format_message():
            say(f"error: {message}")
        return WRONG_USAGE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
