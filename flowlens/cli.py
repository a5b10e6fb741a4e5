"""The command line: build arguments, call one public function, hand the result to an output.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 a gate fired; 2 wrong usage; 3 error; 4 something
selected was unread or rejected, or nothing was selected; 130 and 143 for signals. 1 beats 4.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import json
import signal
import sys
from collections.abc import Callable, Sequence
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
from flowlens.catalog import load_profile, load_tags, profile_names
from flowlens.config import CLOUDS, read_config
from flowlens.doctor import describe as doctor_lines
from flowlens.errors import CatalogError, ConfigError, FlowlensError, near_matches
from flowlens.evidence import Ledger, Scan
from flowlens.flow_search import FlowFilter
from flowlens.outputs import OUTPUTS, SUFFIXES, terminal
from flowlens.outputs.progress import progress_on
from flowlens.outputs.tables import atomic, csv_bytes, json_bytes, parquet_bytes, write_tables
from flowlens.reporting import Baseline, Gate, Report, parse_gate
from flowlens.scanning import scan
from flowlens.scope import Scope
from flowlens.windows import parse_time, parse_window

DONE, GATE_FIRED, WRONG_USAGE, ERROR, INCOMPLETE = range(5)
_FORMATS = ("table", *OUTPUTS)

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

Sources = Annotated[list[str], typer.Argument(help="Files, folders or globs of flow logs.", metavar="SOURCE...")]


@dataclass(frozen=True)
class Common:
    """Options that every command over a source takes."""

    start: Annotated[str | None, typer.Option(help="From this time on: ISO 8601 with zone, or 24h, 7d before now.")] = (
        None
    )
    end: Annotated[str | None, typer.Option(help="Up to, not including, this time.")] = None
    window: Annotated[
        str | None, typer.Option(help="today, yesterday, last-week, last-month, 2026-06 or 2026-06-15.")
    ] = None
    tz: Annotated[str | None, typer.Option(help="Time zone for display and for what yesterday means; default UTC.")] = (
        None
    )
    subscription: Annotated[list[str] | None, typer.Option(help="Only this subscription; repeatable.")] = None
    resource_group: Annotated[list[str] | None, typer.Option(help="Only this resource group; repeatable.")] = None
    vnet: Annotated[list[str] | None, typer.Option(help="Only this VNet; repeatable.")] = None
    subnet: Annotated[list[str] | None, typer.Option(help="Only this subnet; repeatable.")] = None
    nic: Annotated[list[str] | None, typer.Option(help="Only this NIC (MAC address or workload); repeatable.")] = None
    config: Annotated[
        Path | None, typer.Option(help="flowlens.toml; else FLOWLENS_CONFIG, else the working folder's.")
    ] = None
    inventory: Annotated[Path | None, typer.Option(help="CSV or JSON that names addresses and NICs.")] = None
    format: Annotated[
        str | None, typer.Option(help="table, json, csv or parquet; default by -o's suffix, else table.")
    ] = None
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File, or FOLDER/ for several tables.")] = None
    fail_on: Annotated[
        list[str] | None, typer.Option(help="Exit 1 when this holds, e.g. 'unencrypted > 0'; repeatable.")
    ] = None
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that decode; default one per core.")] = None
    strict: Annotated[bool, typer.Option("--strict", help="Decode with the reference decoder only.")] = False
    limit: Annotated[int, typer.Option(min=1, help="Rows of a table on the terminal.")] = 20


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


def _format(common: Common) -> str:
    """The format asked for by option or suffix; a conflict of the two is wrong usage."""
    suffix = common.output.suffix.lower() if common.output is not None else ""
    inferred = SUFFIXES.get(suffix)
    wanted = common.format or inferred or "table"
    if wanted not in _FORMATS:
        raise ConfigError(f"--format {wanted}", "is not a format", hint=near_matches(wanted, _FORMATS))
    if common.format and inferred and inferred != common.format:
        raise ConfigError(f"-o {common.output}", f"asks for {inferred}, --format for {common.format}")
    return wanted


def _scan(sources: Sequence[str], common: Common, changed_at: str | None = None) -> tuple[Scan, ZoneInfo | None]:
    zone = _zone(common)
    now = dt.datetime.now(dt.UTC)
    start, end = parse_window(common.start, common.end, common.window, zone=zone, now=now)
    settings = read_config(common.config)
    scope = Scope(
        tuple(common.subscription or ()),
        tuple(common.resource_group or ()),
        tuple(common.vnet or ()),
        tuple(common.subnet or ()),
        tuple(common.nic or ()),
    )
    result = scan(
        *sources,
        start=start,
        end=end,
        changed_at=parse_time(changed_at, now=now, name="--changed-at") if changed_at else None,
        inventory_file=common.inventory,
        networks=settings.networks,
        scope=scope or None,
        threads=common.threads,
        strict=common.strict,
        progress=progress_on(sys.stderr),
    )
    result.settings["config"] = str(settings.path) if settings.path else None
    return result, zone


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
    face = _format(common)
    settings = read_config(common.config)
    cloud = cloud or settings.cloud
    if cloud not in CLOUDS:
        raise ConfigError(f"--cloud {cloud}", "is not a cloud", hint=near_matches(cloud, CLOUDS))
    for name in profiles or ():
        if name != "auto":
            load_profile(name)
    result, zone = _scan(sources, common, changed_at)
    report = reporting.report(
        result,
        questions=questions,
        profiles=list(profiles) if profiles else "auto",
        cloud=cloud,
        placeholders=settings.placeholders,
        expected=expect or (settings.path if settings.has_expected else None),
        baseline=_baseline(baseline, common) if baseline else None,
    )
    _write(report, common, face, zone)
    raise typer.Exit(_exit_code(report, gates))


def _exit_code(report: Report, gates: Sequence[Gate]) -> int:
    fired = [str(gate) for gate in gates if gate.fires(report)]
    if fired:
        _say(f"--fail-on: {'; '.join(fired)}")
        return GATE_FIRED
    if not report.ledger.blobs or not report.ledger.complete:
        _say("nothing was selected" if not report.ledger.blobs else "not everything that was selected could be used")
        return INCOMPLETE
    return DONE


def _baseline(text: str, common: Common) -> Scan | Baseline:
    """An earlier report's JSON, or an earlier source to scan."""
    path = Path(text)
    if path.is_file() and path.suffix.lower() == ".json":
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"--baseline {text}", f"cannot be read: {error}") from error
        if isinstance(found, dict) and "schema_version" in found:
            if found["schema_version"] != reporting.SCHEMA_VERSION:
                raise ConfigError(f"--baseline {text}", f"has schema version {found['schema_version']!r:.20}")
            return Baseline(
                findings=tuple(found.get("findings", ())),
                destinations=tuple(found.get("tables", {}).get("unexpected_destinations", ())),
            )
    settings = read_config(common.config)
    return scan(text, inventory_file=common.inventory, networks=settings.networks, threads=common.threads)


def _write(report: Report, common: Common, face: str, zone: ZoneInfo | None) -> None:
    several = common.output is not None and (str(common.output).endswith(("/", "\\")) or common.output.is_dir())
    if face == "table":
        if common.output is None:
            terminal.render(report, terminal.Page(sys.stdout, zone=zone), limit=common.limit)
            return
        with atomic(common.output) as file, open(file.fileno(), "w", encoding="utf-8", closefd=False) as text:
            terminal.render(report, terminal.Page(text, width=120, zone=zone))
    elif several and face != "json":
        assert common.output is not None
        for path in write_tables(report, common.output, face):
            _say(f"wrote {path}")
    elif common.output is not None:
        content = OUTPUTS[face](report)
        with atomic(common.output) as file:
            file.write(content)
        _say(f"wrote {common.output}")
    else:
        _to_stdout(OUTPUTS[face](report), face)


def _to_stdout(content: bytes, face: str) -> None:
    if face == "parquet" and sys.stdout.isatty():
        raise ConfigError("--format parquet", "is not for a terminal", hint="use -o FILE or a pipe")
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    """One line to stderr."""
    terminal.Page(sys.stderr).line(text)


ChangedAt = Annotated[str | None, typer.Option(help="Show before and after this time, e.g. 2026-06-15T11:00Z.")]
ProfileNames = Annotated[
    list[str] | None, typer.Option("--profile", help="Profile name or file; repeatable. Default auto.")
]
Cloud = Annotated[str | None, typer.Option(help="global, usgov or china.")]
Expect = Annotated[Path | None, typer.Option(help="TOML list of expected destinations.")]
BaselineOption = Annotated[
    str | None, typer.Option("--baseline", help="An earlier report's JSON, or an earlier source.")
]


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


@app.command()
@_with_common
def flows(
    sources: Sources,
    common: Common,
    src: Annotated[list[str] | None, typer.Option(help="Source address or prefix; repeatable.")] = None,
    dst: Annotated[list[str] | None, typer.Option(help="Destination address or prefix; repeatable.")] = None,
    port: Annotated[list[int] | None, typer.Option(help="Destination port; repeatable.")] = None,
    protocol: Annotated[str | None, typer.Option(help="tcp, udp, icmp or an IANA number.")] = None,
    rule: Annotated[str | None, typer.Option(help="Rule that decided, with or without UserRule_.")] = None,
    state: Annotated[str | None, typer.Option(help="Begin, Continuing, End or Deny.")] = None,
) -> None:
    """The flow tuples behind a row: the evidence.

    Example: flowlens flows sample_logs --dst 20.118.99.224 --port 1688
    """
    face = _format(common)
    wanted = FlowFilter(tuple(src or ()), tuple(dst or ()), tuple(port or ()), protocol, rule, state)
    chosen = wanted.expression()
    result, zone = _scan(sources, common)
    found = wanted.within(result.flows.filter(chosen)).collect()
    found = found.sort(found.columns, nulls_last=True)
    encode: dict[str, Callable[[pl.DataFrame], bytes]] = {
        "json": lambda table: json_bytes(
            {
                "schema_version": reporting.SCHEMA_VERSION,
                "settings": result.settings,
                "tables": {"flows": table.to_dicts()},
            }
        ),
        "csv": csv_bytes,
        "parquet": parquet_bytes,
    }
    if face == "table":
        page = terminal.Page(sys.stdout, zone=zone)
        page.table("flows", found, limit=common.limit)
        page.line(f"{found.height} flow tuple(s)")
    elif common.output is not None:
        with atomic(common.output) as file:
            file.write(encode[face](found))
        _say(f"wrote {common.output}")
    else:
        _to_stdout(encode[face](found), face)


@app.command()
@_with_common
def convert(sources: Sources, common: Common) -> None:
    """Flow tuples as one Parquet file with the columns of FLOWS.

    Example: flowlens convert sample_logs -o flows.parquet
    """
    if common.output is None or _format(common) != "parquet":
        raise ConfigError("convert", "expected -o FILE.parquet")
    result, _ = _scan(sources, common)
    with atomic(common.output) as file:
        ledger = result.write_flows(file)
    for line in terminal.evidence_lines(ledger):
        _say(line)
    raise typer.Exit(_ledger_code(ledger))


def _ledger_code(ledger: Ledger) -> int:
    return DONE if ledger.blobs and ledger.complete else INCOMPLETE


@app.command()
def doctor(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files or folders to look at.", metavar="[SOURCE]...")
    ] = None,
) -> None:
    """Which engine is in use, what can be read, and how much there is; reads no flow.

    Example: flowlens doctor sample_logs
    """
    page = terminal.Page(sys.stdout)
    for line in doctor_lines(sources or []):
        page.line(line)


@profiles_app.command("list")
def profiles_list() -> None:
    """All profiles with their clouds, requirements and dates.

    Example: flowlens profiles list
    """
    page = terminal.Page(sys.stdout)
    for name in profile_names():
        profile = load_profile(name)
        counts = ", ".join(
            f"{sum(r.cloud == cloud for r in profile.requirements)} {cloud}"
            for cloud in CLOUDS
            if any(r.cloud == cloud for r in profile.requirements)
        )
        page.line(f"{name}: {profile.title} ({counts}; as of {profile.as_of})")


@profiles_app.command("show")
def profiles_show(
    name: Annotated[str, typer.Argument(help="Profile name or file.")],
    cloud: Annotated[str, typer.Option(help="global, usgov or china.")] = "global",
) -> None:
    """One profile's requirements with their endpoints.

    Example: flowlens profiles show windows-kms
    """
    if cloud not in CLOUDS:
        raise ConfigError(f"--cloud {cloud}", "is not a cloud", hint=near_matches(cloud, CLOUDS))
    profile = load_profile(name)
    page = terminal.Page(sys.stdout)
    page.line(f"{profile.name}: {profile.title}", "bold")
    for source in profile.sources:
        page.line(f"  source: {source}")
    for requirement in (r for r in profile.requirements if r.cloud == cloud):
        need = "retired" if requirement.retired else requirement.need
        page.line(
            f"{requirement.name}  [{need}]  {requirement.protocol.upper()} {requirement.ports}  as of {requirement.as_of}"
        )
        page.line("  " + ", ".join(f"{e.value} ({e.kind})" for e in requirement.endpoints))
        if requirement.note:
            page.line(f"  {requirement.note}", "dim")


@tags_app.command("show")
def tags_show(
    name: Annotated[str | None, typer.Argument(help="Tag; without one, the names of all tags.")] = None,
    cloud: Annotated[str, typer.Option(help="global, usgov or china.")] = "global",
) -> None:
    """The prefixes of a service tag, or the names of all tags.

    Example: flowlens tags show AzureMonitor
    """
    tags = load_tags(cloud)
    sys.stdout.write("".join(f"{line}\n" for line in (tags.prefixes(name) if name else tags.names)))
    _say(f"{cloud}, service tags of {tags.date}")


@tags_app.command("lookup")
def tags_lookup(
    addresses: Annotated[list[str], typer.Argument(help="Addresses.", metavar="IP...")],
    cloud: Annotated[str, typer.Option(help="global, usgov or china.")] = "global",
) -> None:
    """The service tags that hold an address, the most specific first.

    Example: flowlens tags lookup 20.118.99.224
    """
    tags = load_tags(cloud)
    page = terminal.Page(sys.stdout)
    for row in tags.identify(pl.Series(addresses, dtype=pl.String)).iter_rows(named=True):
        page.line(f"{row['address']}: {', '.join(row['service_tags'] or ()) or 'no service tag'}")
    page.line(f"service tags of {tags.date}")


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
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args=arguments, standalone_mode=False, windows_expand_args=False)
        return code if isinstance(code, int) else DONE
    except (ConfigError, CatalogError) as error:
        _say(f"error: {error}")
        return WRONG_USAGE
    except FlowlensError as error:
        _say(f"error: {error}")
        return ERROR
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except typer.TyperException as error:
        _say(f"error: {error.format_message()}")
        return WRONG_USAGE
