"""The command line: build arguments, call one public function, hand the result to an output.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 a gate fired; 2 wrong usage; 3 error; 4 something
selected was unread or rejected, or nothing was selected; 130 and 143 for signals. 1 beats 4.
"""

from __future__ import annotations

import datetime as dt
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import typer

import flowlens
from flowlens import catalogue_cli, compare_cli, query_cli, reporting
from flowlens.analyses import ANALYSES
from flowlens.analyses.destinations import read_expected
from flowlens.analyses.egress import AUTO
from flowlens.analyses.needs import Asked
from flowlens.budget import MB, parse_size, peak
from flowlens.catalog import load_profile, load_tags, read_names
from flowlens.catalog.placeholders import chosen_settings, left_open
from flowlens.catalog.profiles import EGRESS
from flowlens.catalogue_cli import known_cloud, told_lines
from flowlens.config import read_config
from flowlens.doctor import describe as doctor_lines
from flowlens.errors import CatalogError, ConfigError, FlowlensError
from flowlens.evidence import Ledger, Scan, Window
from flowlens.findings import Baseline
from flowlens.flow_search import FlowFilter, find_flows
from flowlens.gates import Gate, parse_gate
from flowlens.mending import Ask, Mend, ask_or_mend
from flowlens.options import (
    DONE,
    ERROR,
    GATE_FIRED,
    INCOMPLETE,
    WRONG_USAGE,
    AccountUrl,
    Auth,
    BaselineOption,
    CaFile,
    ChangedAt,
    Cloud,
    Common,
    Depends,
    Expect,
    FixWay,
    NamesFile,
    Outbound,
    Placeholders,
    ProfileNames,
    Sources,
    Timeout,
    WhatIf,
    option,
    window_option,
    with_common,
)
from flowlens.outputs import OUTPUTS, terminal
from flowlens.outputs.delivery import SCRIPT, Target, deliver, discard_output, say, script_target, target_of
from flowlens.outputs.progress import progress_on
from flowlens.outputs.tables import (
    BY_TABLE,
    atomic,
    read_baseline,
    write_flows_json,
    write_parquet,
)
from flowlens.reporting import Report
from flowlens.scanning import scan
from flowlens.scope import Scope
from flowlens.signals import Interrupts
from flowlens.sources.accounts import Access, is_remote
from flowlens.sources.workspace import is_workspace
from flowlens.whatif import dependencies_report
from flowlens.windows import parse_time, parse_window

app = typer.Typer(
    name="flowlens",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Answers three questions from Azure virtual network flow logs: is VM traffic encrypted, which required "
    "endpoints fail, and what do workloads talk to that nobody expected?",
)
app.add_typer(catalogue_cli.profiles_app, name="profiles")
app.add_typer(catalogue_cli.tags_app, name="tags")
app.command()(catalogue_cli.resolve)
app.command()(query_cli.query)
app.command("compare")(compare_cli.compare_sources)


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
        memory_limit=_memory_limit(common),
        strict=common.strict,
        progress=progress_on(sys.stderr),
        access=_access_of(common),
        now=now,
    )
    if result.settings.get("default_window"):
        first, last = (edge.isoformat() if edge else "" for edge in (result.window.start, result.window.end))
        say(
            f"window: {first} to {last}, the default for what is not on disk; choose another with --start, --end or --window"
        )
    result.settings["config"] = str(settings.path) if settings.path else None
    return result, zone


def _memory_limit(common: Common) -> int | None:
    return parse_size(common.memory_limit) if common.memory_limit is not None else None


def _access_of(common: Common) -> Access:
    configured = read_config(common.config).cloud
    cloud = common.cloud or (configured if configured != "global" else None)
    return Access(common.auth, cloud, common.account_url, common.ca_file, common.timeout)


def _scope_of(common: Common) -> Scope | None:
    scope = Scope(
        tuple(common.subscription or ()),
        tuple(common.resource_group or ()),
        tuple(common.vnet or ()),
        tuple(common.subnet or ()),
        tuple(common.nic or ()),
    )
    return scope or None


def _required(
    common: Common,
    profiles: Sequence[str] | None = None,
    placeholders: Sequence[str] | None = None,
    names: Path | None = None,
) -> Asked:
    """What the options on required endpoints say, checked."""
    settings = read_config(common.config)
    cloud = known_cloud(common.cloud or settings.cloud)
    loaded = [load_profile(name) for name in profiles or () if name != AUTO]
    filling = chosen_settings(placeholders or (), settings.placeholders, loaded)
    known = read_names(names) if names else None
    if known is not None:
        say(f"{names}: {known.describe()}")
    return Asked(list(profiles) if profiles else AUTO, cloud, filling, known)


def _report(
    sources: Sequence[str],
    common: Common,
    questions: Sequence[str],
    *,
    changed_at: str | None = None,
    required: Asked | None = None,
    expect: Path | None = None,
    baseline: str | None = None,
    ask: Ask | None = None,
    mend: Mend | None = None,
) -> NoReturn:
    """Scan, judge, write, and leave with the exit code of the contract.

    ``ask`` judges in place of the questions; ``mend`` writes a script in place of the report.
    """
    gates = [parse_gate(text) for text in common.fail_on or ()]
    if mend:
        target = script_target(common.format, common.output)
    else:
        tables = len(questions) + 2 * (changed_at is not None)
        target = target_of(common.format, common.output, tables=tables, report=True)
    _check_static(common, target)
    settings = read_config(common.config)
    required = required or _required(common)
    expected = expect or (settings.path if settings.has_expected else None)
    if expected is not None:
        # An unknown tag is told before the source is read, which may take hours.
        for entry in read_expected(expected):
            if entry.service_tag:
                load_tags(required.cloud).prefixes(entry.service_tag)
    earlier = _baseline(baseline, common) if baseline else None
    result, zone = _scan(sources, common, _scope_of(common), changed_at)
    result.settings["timezone"] = common.tz
    result.settings["expected"] = str(expected) if expected else None
    # An address may carry a token.
    result.settings["baseline"] = baseline.partition("?")[0] if baseline and is_remote(baseline) else baseline
    report = (
        ask(result)
        if ask
        else reporting.report(result, questions=questions, expected=expected, baseline=earlier, **required._asdict())
    )
    for gate in gates:
        if gate.metric not in report.metrics:
            raise ConfigError(
                f"--fail-on {gate.metric}", "belongs to another question", hint="flowlens analyze asks all"
            )
    how = {"static": True} if common.static else {}
    deliver(
        target,
        render=lambda page, limit: terminal.render(report, page, limit=limit),
        write=lambda file: mend(result, report, file) if mend else OUTPUTS[target.face](report, file, **how),
        tables=report.tables,
        limit=common.limit,
        zone=zone,
    )
    _told_apart(target, report.ledger)
    _told_memory(common)
    if "denied_egress" in report.tables:
        _tell_what_is_open(report.tables["denied_egress"], required)
    raise typer.Exit(_exit_code(report, gates))


def _check_static(common: Common, target: Target) -> None:
    if common.static and target.face != "html":
        raise ConfigError("--static", "is a kind of HTML", hint="use it with --format html or -o FILE.html")


def _told_apart(target: Target, ledger: Ledger) -> None:
    """How complete the evidence was, on stderr where the format has no place for it."""
    if target.face in (*BY_TABLE, SCRIPT):
        for line in terminal.evidence_lines(ledger):
            say(line)


def _told_memory(common: Common) -> None:
    """Whether the run stayed below its limit; what the answer itself holds, no limit bounds."""
    limit, taken = _memory_limit(common), peak()
    if limit is not None and taken is not None and taken > limit:
        say(f"the run took {taken / MB:.0f} MB, more than --memory-limit {common.memory_limit}: narrow window or scope")


def _tell_what_is_open(table: pl.DataFrame, required: Asked) -> None:
    """Which placeholders of the profiles that were judged nobody filled, on stderr: what they stand in was not tested."""
    asked = [load_profile(name) for name in required.profiles if name != AUTO] if required.profiles != AUTO else []
    by_name = {profile.name: profile for profile in asked}
    judged = [by_name.get(name) or load_profile(name) for name in table["profile"].unique().sort()]
    of_cloud = [r for p in judged for r in p.requirements if (r.cloud, r.concerns) == (required.cloud, EGRESS)]
    if missing := left_open(of_cloud, required.placeholders):
        say(f"not tested, since no value is set: {', '.join(f'<{name}>' for name in missing)} (--set NAME=VALUE)")


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
    earlier = None if is_remote(text) or is_workspace(text) else read_baseline(Path(text))
    if earlier is not None:
        return earlier
    settings = read_config(common.config)
    return scan(
        text,
        inventory_file=common.inventory,
        networks=settings.networks,
        threads=common.threads,
        memory_limit=_memory_limit(common),
        access=_access_of(common),
    )


def _complain(error: FlowlensError) -> None:
    say(f"error: {error.where}: {error.problem}" if error.where else f"error: {error.problem}")
    if error.hint:
        say(f"  hint: {error.hint}")


@app.command()
@with_common
def analyze(
    sources: Sources,
    common: Common,
    changed_at: ChangedAt = None,
    profile: ProfileNames = None,
    placeholders: Placeholders = None,
    names: NamesFile = None,
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
        required=_required(common, profile, placeholders, names),
        expect=expect,
        baseline=baseline,
    )


@app.command()
@with_common
def encryption(sources: Sources, common: Common, changed_at: ChangedAt = None) -> None:
    """Is the traffic between my VMs encrypted, and where not, why not?

    Example: flowlens encryption sample_logs --changed-at 2026-06-15T11:00Z
    """
    _report(sources, common, ["encryption_status"], changed_at=changed_at)


@app.command()
@with_common
def egress(
    sources: Sources,
    common: Common,
    changed_at: ChangedAt = None,
    profile: ProfileNames = None,
    placeholders: Placeholders = None,
    names: NamesFile = None,
    what_if: WhatIf = None,
    outbound: Outbound = None,
    fix: FixWay = None,
) -> None:
    """Which endpoints that Azure services need are denied, unanswered or never tried, and by whose rule?

    Example: flowlens egress sample_logs --profile windows-kms
    """
    required = _required(common, profile, placeholders, names)
    ask, mend = ask_or_mend(what_if, fix, common, required, outbound=outbound, changed_at=changed_at)
    _report(sources, common, ["denied_egress"], changed_at=changed_at, required=required, ask=ask, mend=mend)


@app.command()
@with_common
def destinations(sources: Sources, common: Common, expect: Expect = None, baseline: BaselineOption = None) -> None:
    """What do my workloads talk to that nobody expected?

    Example: flowlens destinations sample_logs --expect sample_logs/expected.toml
    """
    _report(sources, common, ["unexpected_destinations"], expect=expect, baseline=baseline)


@app.command()
@with_common
def rules(sources: Sources, common: Common, depends: Depends = None) -> None:
    """Which rules decided, and for how much traffic?

    Example: flowlens rules sample_logs --format csv
    """
    ask = functools.partial(dependencies_report, rule=depends) if depends is not None else None
    _report(sources, common, ["rule_usage"], ask=ask)


@app.command()
@with_common
def coverage(sources: Sources, common: Common) -> None:
    """Which hours of which NIC were there to read?

    Example: flowlens coverage sample_logs --fail-on incomplete
    """
    _report(sources, common, ["coverage"])


_filter = functools.partial(option, "Filter: all of these must hold")


@app.command()
@with_common
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
    _check_static(common, target)
    wanted = FlowFilter(tuple(src or ()), tuple(dst or ()), tuple(port or ()), protocol, rule, state)
    wanted.expression()
    scope = _scope_of(common)
    result, zone = _scan(sources, common, scope)
    found, ledger = find_flows(result, wanted, scope)

    def write(file: BinaryIO) -> None:
        if target.face in BY_TABLE:
            BY_TABLE[target.face](found, file)
        else:
            write_flows_json(found, ledger, result.settings, file, window=result.window)

    deliver(
        target,
        render=lambda page, limit: terminal.render_flows(found, ledger, page, limit=limit),
        write=write,
        tables={"flows": found},
        limit=common.limit,
        zone=zone,
    )
    _told_apart(target, ledger)
    _told_memory(common)
    raise typer.Exit(_ledger_code(ledger))


@app.command()
@with_common
def convert(sources: Sources, common: Common) -> None:
    """Flow tuples as one Parquet file with the columns of FLOWS.

    Example: flowlens convert sample_logs -o flows.parquet
    """
    _no_gates(common)
    target = target_of(common.format, common.output)
    _check_static(common, target)
    if target.path is None or target.folder or target.face != "parquet":
        raise ConfigError("convert", "expected -o FILE.parquet")
    scope = _scope_of(common)
    result, _ = _scan(sources, common, scope)
    with atomic(target.path) as file:
        if scope is None:
            ledger = result.write_flows(file)
        else:
            found, ledger = find_flows(result, FlowFilter(), scope)
            write_parquet(found, file)
    _told_apart(target, ledger)
    _told_memory(common)
    say(f"wrote {target.path}")
    raise typer.Exit(_ledger_code(ledger))


def _no_gates(common: Common) -> None:
    """Flow tuples answer no question that could fire a gate."""
    if common.fail_on:
        raise ConfigError("--fail-on", "has no meaning for flow tuples", hint="use it with a question, e.g. analyze")


@app.command()
def doctor(
    sources: Annotated[list[str] | None, typer.Argument(help="What to look at.", metavar="SOURCE")] = None,
    start: Annotated[str | None, window_option("TIME", "From this time on; for storage accounts.", "--start")] = None,
    end: Annotated[str | None, window_option("TIME", "Up to, not including, this time.", "--end")] = None,
    auth: Auth = "default",
    cloud: Cloud = None,
    account_url: AccountUrl = None,
    ca_file: CaFile = None,
    timeout: Timeout = 30.0,
) -> None:
    """Which engine and identity are in use, what can be read, and what a run would cost; reads no flow.

    Example: flowlens doctor sample_logs
    """
    first, last = parse_window(start, end, None, zone=None, now=dt.datetime.now(dt.UTC))
    window = Window(first, last) if first or last else None
    access = Access(auth, cloud, account_url, ca_file, timeout)
    told_lines((line, "") for line in doctor_lines(sources or [], access, window))


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


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of one run of the command line; errors become one line on stderr.

    >>> main(["profiles", "show", "no-such-profile"])
    2
    """
    with Interrupts() as interrupts:
        try:
            code = _run(arguments)
        except BaseException:
            # Whatever a library made of the interrupt on its way up, the signal is why.
            if interrupts.number is None:
                raise
        if interrupts.number is None:
            return code
        say("stopped")
        return 128 + interrupts.number


def _run(arguments: Sequence[str] | None) -> int:
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
    except OSError as error:
        # What no function expects: a full disk under the temporary files, a help text that cannot be written.
        say(f"error: {error.filename or 'system'}: {error.strerror or error}")
        discard_output()
        return ERROR
