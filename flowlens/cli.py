"""The command line: build arguments, call one public function, hand the result to an output.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 a gate fired; 2 wrong usage; 3 error; 4 something
selected was unread or rejected, or nothing was selected; 130 and 143 for signals. 1 beats 4.

A command imports what it runs with where it runs: help, version and shell completion load none of it.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, BinaryIO

import typer

import flowlens
from flowlens import catalogue_cli, compare_cli, lake_cli, query_cli, report_cli
from flowlens.catalogue_cli import told_lines
from flowlens.errors import CatalogError, ConfigError, FlowlensError
from flowlens.options import (
    DONE,
    ERROR,
    GATE_FIRED,
    INCOMPLETE,
    WRONG_USAGE,
    Accept,
    AccountUrl,
    Auth,
    BaselineOption,
    CaFile,
    ChangedAt,
    Cloud,
    Common,
    Depends,
    DriverRows,
    Engine,
    Expect,
    FixWay,
    Learn,
    Master,
    NamesFile,
    OnlyNew,
    Outbound,
    OwnersFiles,
    Placeholders,
    ProfileNames,
    Scratch,
    Sources,
    Timeout,
    WhatIf,
    cluster_of,
    option,
    window_option,
    with_common,
)
from flowlens.outputs.saying import discard_output, say
from flowlens.signals import Interrupts

__all__ = ["DONE", "ERROR", "GATE_FIRED", "INCOMPLETE", "WRONG_USAGE", "app", "main"]

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
app.command()(lake_cli.sync)
app.add_typer(lake_cli.lake_app, name="lake")
app.command("compare")(compare_cli.compare_sources)
app.command("report")(report_cli.scheduled_report)


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
    owners: OwnersFiles = None,
    baseline: BaselineOption = None,
    only_new: OnlyNew = False,
    accept: Accept = None,
    engine: Engine = "local",
    master: Master = None,
    scratch: Scratch = None,
    driver_rows: DriverRows = None,
) -> None:
    """All questions at once, with findings, verdicts and how complete the evidence was.

    With --engine spark the executors of a cluster read and decode; the answers are the same.

    Example: flowlens analyze sample_logs --fail-on 'unencrypted > 0'
    """
    from flowlens.analyses import ANALYSES
    from flowlens.asking import answer, required_of

    answer(
        sources,
        common,
        list(ANALYSES),
        changed_at=changed_at,
        required=required_of(common, profile, placeholders, names),
        expect=expect,
        owners=owners,
        baseline=baseline,
        accept=accept,
        only_new=only_new,
        cluster=cluster_of(engine, master, scratch, driver_rows),
    )


@app.command()
@with_common
def encryption(sources: Sources, common: Common, changed_at: ChangedAt = None, accept: Accept = None) -> None:
    """Is the traffic between my VMs encrypted, and where not, why not?

    Example: flowlens encryption sample_logs --changed-at 2026-06-15T11:00Z
    """
    from flowlens.asking import answer

    answer(sources, common, ["encryption_status"], changed_at=changed_at, accept=accept)


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
    accept: Accept = None,
) -> None:
    """Which endpoints that Azure services need are denied, unanswered or never tried, and by whose rule?

    Example: flowlens egress sample_logs --profile windows-kms
    """
    from flowlens.asking import answer, required_of
    from flowlens.mending import ask_or_mend

    required = required_of(common, profile, placeholders, names)
    ask, mend = ask_or_mend(what_if, fix, common, required, outbound=outbound, changed_at=changed_at)
    if accept is not None and (ask or mend):
        raise ConfigError("--accept", "does not go with --what-if or --fix, which judge no finding")
    answer(
        sources,
        common,
        ["denied_egress"],
        changed_at=changed_at,
        required=required,
        accept=accept,
        ask=ask,
        mend=mend,
    )


@app.command()
@with_common
def destinations(
    sources: Sources,
    common: Common,
    expect: Expect = None,
    owners: OwnersFiles = None,
    baseline: BaselineOption = None,
    only_new: OnlyNew = False,
    accept: Accept = None,
    learn: Learn = None,
) -> None:
    """What do my workloads talk to that nobody expected?

    --learn drafts the list that --expect takes.

    Example: flowlens destinations sample_logs --expect sample_logs/expected.toml
    """
    from flowlens.asking import answer
    from flowlens.learning import learner

    if learn is not None and only_new:
        raise ConfigError("--learn", "does not go with --only-new: a list of what is new expects nothing else")
    answer(
        sources,
        common,
        ["unexpected_destinations"],
        expect=expect,
        owners=owners,
        baseline=baseline,
        accept=accept,
        only_new=only_new,
        then=learner(learn) if learn is not None else None,
    )


@app.command()
@with_common
def rules(sources: Sources, common: Common, depends: Depends = None) -> None:
    """Which rules decided, and for how much traffic?

    Example: flowlens rules sample_logs --format csv
    """
    from flowlens.asking import answer
    from flowlens.whatif import dependencies_report

    ask = functools.partial(dependencies_report, rule=depends) if depends is not None else None
    answer(sources, common, ["rule_usage"], ask=ask)


@app.command()
@with_common
def coverage(sources: Sources, common: Common) -> None:
    """Which hours of which NIC were there to read?

    Example: flowlens coverage sample_logs --fail-on incomplete
    """
    from flowlens.asking import answer

    answer(sources, common, ["coverage"])


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
    from flowlens.asking import check_static, ledger_code, scan_of, scope_of, told_apart, told_memory
    from flowlens.flow_search import FlowFilter, find_flows
    from flowlens.outputs import terminal
    from flowlens.outputs.delivery import deliver, target_of
    from flowlens.outputs.tables import BY_TABLE, write_flows_json

    _no_gates(common)
    target = target_of(common.format, common.output)
    check_static(common, target)
    wanted = FlowFilter(tuple(src or ()), tuple(dst or ()), tuple(port or ()), protocol, rule, state)
    wanted.expression()
    scope = scope_of(common)
    result, zone = scan_of(sources, common, scope)
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
    told_apart(target, ledger)
    told_memory(common.memory_limit)
    raise typer.Exit(ledger_code(ledger))


@app.command()
@with_common
def convert(sources: Sources, common: Common) -> None:
    """Flow tuples as one Parquet file with the columns of FLOWS.

    Example: flowlens convert sample_logs -o flows.parquet
    """
    from flowlens.asking import check_static, ledger_code, scan_of, scope_of, told_apart, told_memory
    from flowlens.flow_search import FlowFilter, find_flows
    from flowlens.outputs.delivery import target_of
    from flowlens.outputs.tables import atomic, write_parquet

    _no_gates(common)
    target = target_of(common.format, common.output)
    check_static(common, target)
    if target.path is None or target.folder or target.face != "parquet":
        raise ConfigError("convert", "expected -o FILE.parquet")
    scope = scope_of(common)
    result, _ = scan_of(sources, common, scope)
    with atomic(target.path) as file:
        if scope is None:
            ledger = result.write_flows(file)
        else:
            found, ledger = find_flows(result, FlowFilter(), scope)
            write_parquet(found, file)
    told_apart(target, ledger)
    told_memory(common.memory_limit)
    say(f"wrote {target.path}")
    raise typer.Exit(ledger_code(ledger))


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
    from flowlens.doctor import describe
    from flowlens.evidence import Window
    from flowlens.sources.accounts import Access
    from flowlens.windows import parse_window

    first, last = parse_window(start, end, None, zone=None, now=dt.datetime.now(dt.UTC))
    window = Window(first, last) if first or last else None
    access = Access(auth, cloud, account_url, ca_file, timeout)
    found = True

    def told() -> Iterator[str]:
        nonlocal found
        found = yield from describe(sources or [], access, window)

    told_lines((line, "") for line in told())
    if not found:
        say("nothing was selected")
        raise typer.Exit(INCOMPLETE)


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


@functools.cache
def _command() -> Callable[..., object]:
    """The commands as click has them, made once: a process may run several."""
    return typer.main.get_command(app)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = _command()(args=arguments, prog_name="flowlens", standalone_mode=False, windows_expand_args=False)
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
