"""What a command that asks a question does: scan, judge, write, and leave with the exit code of the contract."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from flowlens import reporting
from flowlens.acceptance import read_acceptances
from flowlens.analyses.destinations import read_expected
from flowlens.analyses.needs import AUTO, Asked, left_unfilled
from flowlens.budget import MB, parse_size, peak
from flowlens.catalog import load_profile, load_tags, read_names, read_owners
from flowlens.catalog.placeholders import chosen_settings
from flowlens.catalogue_cli import known_cloud
from flowlens.config import read_config
from flowlens.errors import ConfigError
from flowlens.evidence import Ledger, Scan
from flowlens.findings import Baseline
from flowlens.gates import Gate, parse_gate
from flowlens.mending import Ask, Mend
from flowlens.options import DONE, GATE_FIRED, INCOMPLETE, Cluster, Common
from flowlens.outputs import OUTPUTS, terminal
from flowlens.outputs.content import evidence_lines
from flowlens.outputs.delivery import SCRIPT, Target, deliver, script_target, target_of
from flowlens.outputs.progress import progress_on
from flowlens.outputs.saying import say
from flowlens.outputs.tables import BY_TABLE, read_baseline
from flowlens.reporting import Report
from flowlens.scanning import scan
from flowlens.scope import Scope
from flowlens.sources.accounts import Access, is_remote
from flowlens.sources.workspace import is_workspace
from flowlens.windows import parse_time, parse_window

_WITHOUT_EVIDENCE = (*BY_TABLE, "ocsf")
"""Formats that have no place for how complete the evidence was."""


def zone_of(common: Common) -> ZoneInfo | None:
    """The zone of ``--tz``; raises ConfigError where it is none."""
    try:
        return ZoneInfo(common.tz) if common.tz else None
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"--tz {common.tz}", "is no time zone", hint="write an IANA name such as Asia/Tokyo"
        ) from error


def scan_of(
    sources: Sequence[str],
    common: Common,
    scope: Scope | None,
    changed_at: str | None = None,
    cluster: Cluster | None = None,
) -> tuple[Scan, ZoneInfo | None]:
    """What the options ask to scan, and the zone to show times in; a default window is announced."""
    zone = zone_of(common)
    run = None
    if cluster is not None:
        from flowlens.distributed import DRIVER_ROWS, run_on

        rows = DRIVER_ROWS if cluster.driver_rows is None else cluster.driver_rows
        run = run_on(cluster.master, cluster.scratch, rows)
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
        run=run,
    )
    if cluster is not None:
        result.settings["engine"] = f"spark on {cluster.master}"
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


def scope_of(common: Common) -> Scope | None:
    """The scope of the options; None where they name none."""
    scope = Scope(
        tuple(common.subscription or ()),
        tuple(common.resource_group or ()),
        tuple(common.vnet or ()),
        tuple(common.subnet or ()),
        tuple(common.nic or ()),
    )
    return scope or None


def required_of(
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


def answer(
    sources: Sequence[str],
    common: Common,
    questions: Sequence[str],
    *,
    changed_at: str | None = None,
    required: Asked | None = None,
    expect: Path | None = None,
    owners: Sequence[Path] | None = None,
    baseline: str | None = None,
    accept: Path | None = None,
    only_new: bool = False,
    ask: Ask | None = None,
    mend: Mend | None = None,
    then: Callable[[Report], None] | None = None,
    cluster: Cluster | None = None,
) -> NoReturn:
    """Scan, judge, write, and leave with the exit code of the contract.

    ``ask`` judges in place of the questions; ``mend`` writes a script in place of the report; ``then`` does more with it. ``cluster`` reads in the place
    of this process.
    """
    if only_new and baseline is None:
        raise ConfigError("--only-new", "needs something to compare with", hint="add --baseline with an earlier report")
    acceptances = read_acceptances(accept) if accept is not None else ()
    gates = [parse_gate(text) for text in common.fail_on or ()]
    if mend:
        target = script_target(common.format, common.output)
    else:
        count = len(questions) + 2 * (changed_at is not None)
        target = target_of(common.format, common.output, tables=count, report=True)
    check_static(common, target)
    settings = read_config(common.config)
    required = required or required_of(common)
    expected = expect or (settings.path if settings.has_expected else None)
    if expected is not None:
        # An unknown tag is told before the source is read, which may take hours.
        for entry in read_expected(expected):
            if entry.service_tag:
                load_tags(required.cloud).prefixes(entry.service_tag)
    whose = read_owners(owners or ())
    earlier = _baseline(baseline, common) if baseline else None
    result, zone = scan_of(sources, common, scope_of(common), changed_at, cluster)
    result.settings["timezone"] = common.tz
    result.settings["expected"] = str(expected) if expected else None
    # An address may carry a token.
    result.settings["baseline"] = baseline.partition("?")[0] if baseline and is_remote(baseline) else baseline
    result.settings["accept"] = str(accept) if accept else None
    if ask:
        report = ask(result)
    else:
        report = reporting.report(
            result,
            questions=questions,
            expected=expected,
            owners=whose,
            baseline=earlier,
            accept=acceptances,
            only_new=only_new,
            **required._asdict(),
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
    told_apart(target, report.ledger)
    if target.face in _WITHOUT_EVIDENCE:
        for note in report.notes:
            say(note)
    told_memory(common.memory_limit)
    if then:
        then(report)
    if "denied_egress" in report.tables:
        missing = left_unfilled(report.tables["denied_egress"], required)
        if missing:
            say(f"not tested, since no value is set: {', '.join(f'<{name}>' for name in missing)} (--set NAME=VALUE)")
    raise typer.Exit(_exit_code(report, gates))


def check_static(common: Common, target: Target) -> None:
    """Raises ConfigError for --static with another format than the one that has two kinds."""
    if common.static and target.face != "html":
        raise ConfigError("--static", "is a kind of HTML", hint="use it with --format html or -o FILE.html")


def told_apart(target: Target, ledger: Ledger) -> None:
    """How complete the evidence was, on stderr where the format has no place for it."""
    if target.face in (*_WITHOUT_EVIDENCE, SCRIPT):
        for line in evidence_lines(ledger):
            say(line)


def told_memory(limit: str | None) -> None:
    """Whether the run stayed below its limit; what the answer itself holds, no limit bounds."""
    taken = peak()
    if limit is not None and taken is not None and taken > parse_size(limit):
        say(f"the run took {taken / MB:.0f} MB, more than --memory-limit {limit}: narrow window or scope")


def _exit_code(report: Report, gates: Sequence[Gate]) -> int:
    fired = [str(gate) for gate in gates if gate.fires(report)]
    if fired:
        say(f"--fail-on: {'; '.join(fired)}")
        return GATE_FIRED
    return ledger_code(report.ledger)


def ledger_code(ledger: Ledger) -> int:
    """The exit code that the ledger asks for, said on stderr where it is not 0."""
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
