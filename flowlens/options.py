"""What commands share: exit codes, and the options of windows, scope, results, reading, storage accounts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from flowlens.errors import ConfigError, near_matches

DONE, GATE_FIRED, WRONG_USAGE, ERROR, INCOMPLETE = range(5)
"""Exit codes: done; a gate fired; wrong usage; error; something selected was unread or rejected, or nothing selected."""

ROWS_SHOWN = {"min": 1, "callback": lambda rows: min(rows, 10**9)}
"""How many rows may be asked for: no table has more, and polars counts no further than 2**64."""
_ENGINES = ("local", "spark")

Sources = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders or globs of flow logs, a lake, https://ACCOUNT.blob.core.windows.net/CONTAINER or "
        "workspace:GUID.",
        metavar="SOURCE",
    ),
]


def option(panel: str, metavar: str | None, text: str, *names: str, **more: Any) -> Any:
    """A typer option in the help panel ``panel``."""
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **more)


window_option = functools.partial(option, "Window: which flows, by their own time")
_scope = functools.partial(option, "Scope: which part of the network")
_network = functools.partial(option, "Your network")
_result = functools.partial(option, "Result")
_reading = functools.partial(option, "Reading")
_storage = functools.partial(option, "Storage account or workspace")

Auth = Annotated[
    str,
    _storage("WAY", "Who reads: default, cli, managed-identity, environment, key, sas or connection-string.", "--auth"),
]
Cloud = Annotated[
    str | None, _storage("CLOUD", "The cloud: global, usgov or china. Default: by the address.", "--cloud")
]
AccountUrl = Annotated[str | None, _storage("URL", "An endpoint of your own that may be read.", "--account-url")]
CaFile = Annotated[Path | None, _storage("FILE", "PEM file with the certificates to trust instead.", "--ca-file")]
Timeout = Annotated[float, _storage("SECONDS", "How long a server may stay silent.", "--timeout")]


_question = functools.partial(option, "Question")
ChangedAt = Annotated[
    str | None, _question("TIME", "Show before and after this time too, e.g. 2026-06-15T11:00Z.", "--changed-at")
]
ProfileNames = Annotated[
    list[str] | None,
    _question("PROFILE", "Name (flowlens profiles list) or file; repeatable. Default auto.", "--profile"),
]
Placeholders = Annotated[
    list[str] | None,
    _question("NAME=VALUE", "What a profile leaves open, e.g. location=japaneast; repeatable.", "--set"),
]
NamesFile = Annotated[
    Path | None,
    _question("FILE", "Addresses of names: CSV of flowlens resolve, or a DNS or firewall log export.", "--names"),
]
Expect = Annotated[Path | None, _question("FILE", "TOML list of expected destinations.", "--expect")]
OwnersFiles = Annotated[
    list[Path] | None,
    _question("FILE", "Whose an address is: CSV with prefix, owner and country, or .mmdb; repeatable.", "--owners"),
]
BaselineOption = Annotated[
    str | None, _question("FILE", "An earlier report's JSON, or an earlier source.", "--baseline")
]
Accept = Annotated[
    Path | None,
    _question("FILE", "TOML list of accepted findings: id, reason, owner and expires.", "--accept"),
]
OnlyNew = Annotated[
    bool, _question(None, "Only what is new since --baseline; gates then count just that.", "--only-new")
]
Learn = Annotated[
    Path | None,
    _question("FILE", "Draft here the list for --expect, of what was seen beside what is expected already.", "--learn"),
]
Depends = Annotated[
    str | None,
    _question("RULE", "Which flows this rule decided; optional stands for those of SQL Managed Instance.", "--depends"),
]
WhatIf = Annotated[
    str | None,
    _question("CHANGE", "private-subnet: what each subnet would lose without default outbound access.", "--what-if"),
]
FixWay = Annotated[
    str | None,
    _question("WAY", "nsg, firewall or route: a bash script of az commands for what fails, to stdout or -o.", "--fix"),
]
Outbound = Annotated[
    list[str] | None,
    _question(
        "SUBNET=WAY",
        "How a subnet goes out: nat, lb, pip, firewall or default; repeatable. Else by flowlens.toml or the inventory.",
        "--outbound",
    ),
]
_cluster = functools.partial(option, "Cluster")
Engine = Annotated[str, _cluster("ENGINE", "What reads: local, or spark.", "--engine")]
Master = Annotated[
    str | None, _cluster("URL", "Spark's master: spark://HOST:7077, yarn, k8s://... or local[2].", "--master")
]
Scratch = Annotated[
    str | None,
    _cluster("FOLDER", "Where executors leave what they read; all of them and this machine share it.", "--scratch"),
]
DriverRows = Annotated[
    int | None,
    _cluster(
        "N",
        "From so many conversations on the cluster answers the questions too. Default: 20 million.",
        "--driver-rows",
        min=0,
    ),
]
CatalogueCloud = Annotated[str, typer.Option(metavar="CLOUD", help="global, usgov or china.")]


@dataclass(frozen=True)
class Common:
    """Options that every command over a source takes."""

    start: Annotated[
        str | None, window_option("TIME", "From this time on: ISO 8601 with zone, or 24h, 7d before now.")
    ] = None
    end: Annotated[str | None, window_option("TIME", "Up to, not including, this time.")] = None
    window: Annotated[
        str | None,
        window_option("WORD", "today, yesterday, last-week, last-month, a month 2026-06 or a day 2026-06-15."),
    ] = None
    tz: Annotated[
        str | None, window_option("ZONE", "Zone of the times shown and of what yesterday means. Default UTC.")
    ] = None
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
        str | None,
        _result(
            "FORMAT", "table, html, json, markdown, ocsf, csv or parquet. Default: by the suffix of -o, else table."
        ),
    ] = None
    output: Annotated[
        str | None, _result("FILE", "Write here; FOLDER/ for several tables as CSV or Parquet.", "--output", "-o")
    ] = None
    static: Annotated[bool, _result(None, "HTML without any script, for mail.", "--static")] = False
    limit: Annotated[int, _result("N", "Rows of each table on the terminal.", **ROWS_SHOWN)] = 20
    fail_on: Annotated[
        list[str] | None, _result("GATE", "Exit with 1 when this holds, e.g. 'unencrypted > 0'; repeatable.")
    ] = None
    threads: Annotated[int | None, _reading("N", "Threads that decode. Default: one per core.", min=1)] = None
    memory_limit: Annotated[
        str | None,
        _reading("SIZE", "What a run may take, e.g. 800MB: fewer threads then decode and less is read ahead."),
    ] = None
    strict: Annotated[bool, _reading(None, "Decode with the reference decoder only.", "--strict")] = False
    auth: Auth = "default"
    cloud: Cloud = None
    account_url: AccountUrl = None
    ca_file: CaFile = None
    timeout: Timeout = 30.0


def with_common(command: Callable[..., None]) -> Callable[..., None]:
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


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Spark cluster that reads, and the folder that its executors share with this machine."""

    master: str
    scratch: str | None
    driver_rows: int | None = None


def cluster_of(engine: str, master: str | None, scratch: str | None, driver_rows: int | None = None) -> Cluster | None:
    """What the options on engines say; None where this process reads. Raises ConfigError where they do not go together."""
    if engine not in _ENGINES:
        raise ConfigError(f"--engine {engine:.40}", "is not an engine", hint=near_matches(engine, _ENGINES))
    given_for_spark = (("--master", master), ("--scratch", scratch), ("--driver-rows", driver_rows))
    if engine == "local":
        if given := [name for name, value in given_for_spark if value is not None]:
            raise ConfigError(given[0], "is for Spark", hint="add --engine spark")
        return None
    if master is None:
        raise ConfigError("--engine spark", "expected --master URL", hint="e.g. spark://HOST:7077, yarn or local[2]")
    return Cluster(master, scratch, driver_rows)
