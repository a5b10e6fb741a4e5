"""The command line through its one entrance: what each command writes where, and with which exit code it leaves."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
import typer

import flowlens as fl
from flowlens import cli, schema
from flowlens.analyses import ANALYSES
from flowlens.gates import GATES
from flowlens.sources.dns import Server
from tests.dns_server import Zone, serving
from tests.flow_logs import CONTAINER, HOUR, SAMPLE, SUBSCRIPTION, TOP, flow_tuple, record, run, write_blob

BLOBS = SAMPLE / CONTAINER
ANSI = "\x1b["


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hours of one NIC; in each, one flow that was answered, and in the second one that was denied."""
    folder = tmp_path_factory.mktemp("small")
    for n in range(3):
        hour = HOUR + n * dt.timedelta(hours=1)
        tuples = [flow_tuple("10.0.0.4", "203.0.113.7", 443, src_port=40000 + n, hour=hour)]
        records = [record(tuples, hour=hour)]
        if n == 1:
            denied = [flow_tuple("10.0.0.4", "20.118.99.224", 1688, "D", hour=hour)]
            records.append(record(denied, rule="UserRule_DenyKms", hour=hour))
        write_blob(folder, *records, hour=hour)
    return folder


def fails(*arguments: str | Path, code: int, words: str = "", hint: str = "") -> str:
    """The one line that the run leaves with, known to hold these words, and the hint in a line of its own."""
    ran = run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    told = ran.err.splitlines()
    assert told[0].startswith("error: ") and words in told[0]
    assert (told[1:] == []) if not hint else (len(told) == 2 and hint in told[1])
    return told[0]


# ---- the program's own list of commands


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command with its path."""
    group = group or typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
EXIT_CODE_OF_EXAMPLE = {"analyze": 1, "coverage": 1}
"""The examples of --fail-on show a gate that fires."""


def example(name: str) -> str:
    (found,) = re.findall(r"^Example: (flowlens .*)$", COMMANDS[name].help, re.MULTILINE)
    return found


def test_the_contracts_commands_are_there() -> None:
    assert {"analyze", "encryption", "egress", "destinations", "rules", "coverage", "flows", "convert"} <= set(COMMANDS)
    assert {"doctor", "profiles list", "profiles show", "tags show", "tags lookup"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is(name: str) -> None:
    command = COMMANDS[name]
    first = command.help.split("\n")[0]
    assert first[0].isupper() and first[-1] in ".?"
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help and parameter.help.endswith("."), parameter.name


def published_tags(cloud: str, path: Path, **more: str) -> None:
    """The tags of the package in the form in which they are published, with ``more`` tags of one prefix each."""
    tags = fl.load_tags(cloud)
    prefixes = {name: list(tags.prefixes(name)) for name in tags.names} | {name: [one] for name, one in more.items()}
    values = [{"name": n, "properties": {"addressPrefixes": p, "networkFeatures": None}} for n, p in prefixes.items()]
    title = {"global": "Public", "china": "China"}[cloud]
    path.write_text(json.dumps({"cloud": title, "values": values}), encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWLENS_DATA", str(tmp_path / "own"))
    (tmp_path / "sample_logs").symlink_to(SAMPLE)
    if name == "report":
        guide = (TOP / "docs" / "scheduled-reports.md").read_text("utf-8")
        (tmp_path / "report.toml").write_text(guide.split("```toml\n")[1].split("```")[0], encoding="utf-8")
        monkeypatch.setenv("TEAMS_WEBHOOK", "https://example.invalid/hook")
    if name == "tags update":
        published_tags("global", tmp_path / "ServiceTags_Public_20260720.json")
    if name.startswith("lake "):
        assert run("sync", "sample_logs", "lake").code == 0
    program, *arguments = shlex.split(example(name))
    assert program == "flowlens" and " ".join(arguments).startswith(name)
    # A server that knows no name: gaps, told in a line each, and no list.
    with serving(Zone({})) as (address, port):
        monkeypatch.setattr("flowlens.sources.dns.system_servers", lambda: [Server(address, port)])
        ran = run(*arguments)
    assert (ran.code, "error" in ran.err) == (EXIT_CODE_OF_EXAMPLE.get(name, 0), False)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_mentions_every_command(name: str) -> None:
    assert f"flowlens {name}" in (TOP / "README.md").read_text(encoding="utf-8")


def test_the_help_is_as_it_was_reviewed(golden: Callable[[str, str], None]) -> None:
    program = (
        "import sys\nfrom flowlens.cli import main\n"
        "for words in sys.argv[1:]:\n"
        "    print('$ flowlens', words, flush=True)\n"
        "    assert main(words.split()) == 0\n"
    )
    every = ["--help", "profiles --help", "tags --help", *(f"{name} --help" for name in COMMANDS)]
    # Colour and width come from the environment, so it is made from nothing.
    env = {"COLUMNS": "100", "PYTHONIOENCODING": "utf-8", "PATH": os.environ["PATH"]}
    shown = subprocess.run(
        [sys.executable, "-c", program, *every], env=env, cwd=TOP, capture_output=True, encoding="utf-8", check=True
    )
    assert shown.stderr == ""
    golden("cli_help.txt", "".join(f"{line.rstrip()}\n" for line in shown.stdout.splitlines()))


def test_no_command_shows_the_commands_and_is_wrong_usage() -> None:
    ran = run()
    assert (ran.code, ran.err) == (2, "")
    assert all(name.split(" ")[0] in ran.out for name in COMMANDS)


def test_version() -> None:
    assert run("--version").out == f"flowlens {fl.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["analyse", "x"], "analyze"),
        (["encription", "x"], "encryption"),
        (["profiles", "shwo", "x"], "show"),
        (["analyze", "x", "--fromat", "json"], "--format"),
        (["flows", "x", "--prot", "443"], "--port"),
        (["analyze", "x", "--format", "jsno"], "json"),
        (["analyze", "x", "-o", "out.jsn"], ".json"),
        (["analyze", "x", "--profile", "windows-kmz"], "windows-kms"),
        (["profiles", "show", "aks-cor"], "aks-core"),
        (["analyze", "x", "--fail-on", "unencripted > 0"], "unencrypted"),
        (["analyze", "x", "--cloud", "usgv"], "usgov"),
        (["analyze", "x", "--window", "yesteday"], "yesterday"),
        (["flows", "x", "--state", "denny"], "Deny"),
        (["flows", "x", "--protocol", "tpc"], "tcp"),
        (["tags", "show", "AzureMonitr"], "AzureMonitor"),
        (["tags", "show", "--cloud", "chna"], "china"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_typo_gets_the_nearest_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and near in ran.err
    assert "hint: known" not in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze"],
        ["analyze", "x", "--threads", "0"],
        ["analyze", "x", "--threads", "two"],
        ["analyze", "x", "--limit", "0"],
        ["lake", "status", "\udcff"],
        ["rules", "x", "--depends", "\udcff"],
        ["analyze", "x", "--tz", "Nowhere/Land"],
        ["analyze", "x", "--start", "2026-06-15T09:00"],
        ["analyze", "x", "--start", "soon"],
        ["analyze", "x", "--start", "2026-06-16T00:00Z", "--end", "2026-06-15T00:00Z"],
        ["analyze", "x", "--window", "2026-13"],
        ["analyze", "x", "--window", "yesterday", "--start", "24h"],
        ["encryption", "x", "--changed-at", "noon"],
        ["encryption", "x", "--config", "missing.toml"],
        ["encryption", "x", "--inventory", "missing.csv"],
        ["destinations", "x", "--expect", "missing.toml"],
        ["destinations", "x", "--profile", "aks-core"],
        ["flows", "x", "--port", "http"],
        ["flows", "x", "--src", "10.0.0.0/40"],
        ["flows", "x", "--fail-on", "findings"],
        ["convert", "x"],
        ["convert", "x", "-o", "flows.csv"],
        ["convert", "x", "-o", "flows/"],
        ["tags", "lookup", "10.0.0.0/8"],
        ["tags", "lookup", "10.0.0.256"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and ran.err.count("\n") <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


# ---- what was selected


@pytest.mark.parametrize("name", ["analyze", "encryption", "egress", "destinations", "rules", "coverage", "flows"])
def test_a_source_that_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "logs").mkdir()
    fails(name, tmp_path / "lgos", code=3, words="no such file or folder", hint="logs")
    fails(name, tmp_path / "logs" / "*.json", code=3, words="no file or folder matches this glob", hint="empty")


def test_an_empty_folder_gives_no_verdict(tmp_path: Path) -> None:
    ran = run("analyze", tmp_path, "--format", "json")
    assert (ran.code, ran.err) == (4, "nothing was selected\n")
    assert [v["status"] for v in ran.document["verdicts"].values()] == ["not_determined"] * 3
    shown = run("analyze", tmp_path)
    assert shown.code == 4
    assert shown.out.count("[not determined]") == 3
    assert "0 findings" not in shown.out and "[ok]" not in shown.out
    assert "No flow log was read." in shown.out


def test_a_folder_without_flow_logs_says_what_it_passed_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    ran = run("coverage", tmp_path)
    assert ran.code == 4
    assert "notes.txt" in ran.out


@pytest.mark.parametrize("face", ["table", "json", "csv"])
def test_a_file_given_twice_is_read_once_and_said(small: Path, face: str) -> None:
    path = min(small.rglob("PT1H.json"))
    ran = run("rules", path, path, small, "--format", face)
    assert ran.code == 0
    assert "given twice" in ran.out + ran.err
    document = run("rules", path, path, small, "--format", "json").document
    assert (document["ledger"]["blobs"], document["ledger"]["tuples"]) == (3, 4)


def test_a_glob_is_expanded_without_a_shell(small: Path) -> None:
    document = run("rules", f"{small}/**/h=1*/**/PT1H.json", "--format", "json").document
    assert document["ledger"]["blobs"] == 2


# ---- formats and files


def documents_equal_but_for_settings(one: bytes, other: bytes) -> bool:
    first, second = json.loads(one), json.loads(other)
    return {**first, "settings": 0} == {**second, "settings": 0}


def test_json_has_the_keys_of_the_contract(small: Path) -> None:
    ran = run("analyze", small, "--format", "json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.document
    assert list(document) == [
        *("schema_version", "window", "settings", "catalogue"),
        *("ledger", "coverage", "verdicts", "notes", "findings", "tables"),
    ]
    assert document["window"] == {"start": "2026-06-15T09:00:00Z", "end": "2026-06-15T12:00:00Z"}
    assert {"date", "tags_date"} <= set(document["catalogue"])
    named = ("sources", "blobs", "records", "tuples", "rejected", "outside_window", "bytes", "complete", "rejects")
    assert set(named) <= set(document["ledger"])
    assert set(document["verdicts"]) == {"encryption_status", "denied_egress", "unexpected_destinations"}
    assert list(document["tables"]) == list(ANALYSES)
    for name, rows in document["tables"].items():
        for row in rows:
            assert list(row) == schema.RESULTS[name].names
    keys = ["id", "question", "severity", "workload", "subject", "rule", "state", "first_seen", "last_seen", "evidence"]
    keys.append("accepted")
    assert document["findings"]
    assert all(list(finding) == keys for finding in document["findings"])


@pytest.mark.parametrize("name", ["json", "csv", "parquet", "txt"])
def test_the_suffix_of_o_is_the_format(small: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "new folder" / f"rules.{name}"
    ran = run("rules", small, "-o", path)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines()[0] == f"wrote {path}"
    rows = pl.DataFrame(run("rules", small, "--format", "json").document["tables"]["rule_usage"])
    read: dict[str, Callable[[], pl.DataFrame]] = {
        "json": lambda: pl.DataFrame(json.loads(path.read_text("utf-8"))["tables"]["rule_usage"]),
        "csv": lambda: pl.DataFrame(list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))),
        "parquet": lambda: pl.read_parquet(path),
    }
    if name == "txt":
        assert "DenyKms" in path.read_text("utf-8") and ANSI not in path.read_text("utf-8")
    else:
        assert read[name]()["acl_rule"].to_list() == rows["acl_rule"].to_list()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_parquet_and_csv_on_a_pipe_hold_the_table_alone(small: Path) -> None:
    table = pl.read_parquet(io.BytesIO(run("rules", small, "--format", "parquet").stdout))
    assert table.schema == schema.polars_schema(schema.RESULTS["rule_usage"])
    ran = run("rules", small, "--format", "csv")
    assert ran.out.splitlines()[0] == ",".join(table.columns)
    assert len(ran.out.splitlines()) == table.height + 1
    assert "4 flow tuples" in ran.err


@pytest.mark.parametrize("face", ["csv", "parquet"])
def test_several_tables_go_to_a_folder(small: Path, tmp_path: Path, face: str) -> None:
    fails("analyze", small, "--format", face, code=2, words="5 tables", hint="FOLDER/")
    fails("analyze", small, "-o", tmp_path / f"all.{face}", code=2, words="5 tables", hint="FOLDER/")
    fails(
        "encryption",
        small,
        "--changed-at",
        f"{HOUR:%Y-%m-%dT%H}:30Z",
        "--format",
        face,
        code=2,
        words="3 tables",
        hint="-o",
    )
    ran = run("analyze", small, "--format", face, "-o", f"{tmp_path}/new/")
    assert ran.code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(f"{name}.{face}" for name in ANALYSES)
    (tmp_path / "old").mkdir()
    assert run("rules", small, "--format", face, "-o", tmp_path / "old").code == 0
    assert [path.name for path in (tmp_path / "old").iterdir()] == [f"rule_usage.{face}"]


def test_where_format_and_file_disagree(small: Path, tmp_path: Path) -> None:
    fails("rules", small, "-o", tmp_path / "x.csv", "--format", "json", code=2, words="asks for csv")
    fails("rules", small, "-o", f"{tmp_path}/", "--format", "json", code=2, words="is a folder", hint="name a file")
    fails("rules", small, "-o", f"{tmp_path}/new/", code=2, words="is a folder", hint="name a file")
    fails("rules", small, "-o", tmp_path / "x.xlsx", code=2, words="names no format", hint=".json")
    assert run("rules", small, "-o", tmp_path / "x.data", "--format", "csv").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.data"]


def test_flows_write_where_they_are_told(small: Path, tmp_path: Path) -> None:
    for name in ("flows.txt", "flows.json", "flows.csv", "flows.parquet"):
        ran = run("flows", small, "-o", tmp_path / name)
        assert (ran.code, ran.out) == (0, "")
        assert b"203.0.113.7" in (tmp_path / name).read_bytes() or name.endswith("parquet")
    assert pl.read_parquet(tmp_path / "flows.parquet").height == 4


# ---- writing that fails


def test_an_existing_file_stays_until_the_new_one_is_whole(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old", encoding="utf-8")
    fails("analyze", small, "-o", path, "--format", "csv", code=2, words="asks for json")
    assert path.read_text("utf-8") == "old"
    assert run("analyze", small, "-o", path).code == 0
    assert json.loads(path.read_text("utf-8"))["schema_version"] == 1
    assert list(tmp_path.iterdir()) == [path]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["report.json", "report.txt"])
def test_a_full_disk(small: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old", encoding="utf-8")
    with file_size_limit(64):
        fails("analyze", small, "-o", path, code=3, words="cannot be written")
    assert path.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arguments", [("flows", "-o"), ("convert", "-o")])
def test_a_full_disk_under_the_flows(small: Path, tmp_path: Path, arguments: tuple[str, str]) -> None:
    command, option = arguments
    with file_size_limit(64):
        fails(command, small, option, tmp_path / "flows.parquet", code=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("analyze", "--format", "csv"), ("convert",)])
def test_a_place_where_nothing_can_be_written(small: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    # A file stands where a folder is needed: no user, root among them, can write below it.
    (tmp_path / "file").write_text("x", encoding="utf-8")
    command, *options = arguments
    output = f"{tmp_path}/file/out/" if options else tmp_path / "file" / "flows.parquet"
    fails(command, small, *options, "-o", output, code=3, words="cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


WITHOUT_OVERRIDE = """
import ctypes, sys
from flowlens.cli import main
# Root may write anywhere by CAP_DAC_OVERRIDE (bit 1 of the effective set), so the run gives it up.
system, head, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert system.capget(head, sets) == 0
sets[0] &= ~2
assert system.capset(head, sets) == 0
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_folder_that_may_only_be_read(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_OVERRIDE, "rules", str(small), "-o", str(folder / "rules.csv")],
        capture_output=True,
        text=True,
        cwd=TOP,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.count("\n") == 1 and "cannot be written: Permission denied" in ran.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", [["analyze", str(BLOBS)], ["tags", "show"], ["--help"]], ids=" ".join)
def test_standard_output_on_a_full_disk(command: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "flowlens", *command], stdout=full, stderr=subprocess.PIPE, check=False, cwd=TOP
        )
    assert ran.returncode == 3
    assert ran.stderr.decode().count("\n") == 1 and "No space left on device" in ran.stderr.decode()


def test_more_rows_than_can_be_counted_are_all_rows() -> None:
    asked = ["rules", str(BLOBS), "--threads", "9" * 23, "--limit"]
    assert run(*asked, "9" * 23).out == run(*asked, "1000").out != run(*asked, "1").out


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["flows", str(BLOBS), "--limit", "2000"], ["flows", str(BLOBS), "--format", "csv"]], ids=" ".join
)
def test_a_reader_that_leaves_early(command: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "flowlens", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=TOP
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()
        assert process.wait() == 0
    assert "error" not in told and "Traceback" not in told and "Exception" not in told


@pytest.mark.slow
def test_what_nobody_reads_changes_no_exit_code(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "flowlens", "analyze", str(tmp_path), "-o", str(tmp_path / "report.json")],
        stderr=subprocess.PIPE,
        cwd=TOP,
    ) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait() == 4
    assert (tmp_path / "report.json").is_file()


def test_an_interrupt_while_the_libraries_load_is_one_line() -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'flowlens.cli': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from flowlens.__main__ import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=False, stderr=subprocess.PIPE, cwd=TOP)
    assert (ran.returncode, ran.stderr.decode()) == (130, "stopped\n")


# ---- terminals


@contextlib.contextmanager
def terminal() -> Iterator[tuple[io.TextIOWrapper, Callable[[], str]]]:
    """A text stream on a pseudo-terminal, and what was written to it."""
    leader, follower = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # Reading ends with an error once the other side is closed.
        with contextlib.suppress(OSError):
            while part := os.read(leader, 65536):
                shown.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    stream = open(follower, "w", encoding="utf-8")  # noqa: SIM115

    def content() -> str:
        stream.close()
        reader.join(10)
        return shown.decode().replace("\r\n", "\n")

    try:
        yield stream, content
    finally:
        stream.close()
        reader.join(10)
        os.close(leader)


def on_a_terminal(*arguments: str | Path, **env: str) -> tuple[int, str]:
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **env}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        if name not in env:
            environment.pop(name, None)
    with terminal() as (stream, content), mock.patch.dict(os.environ, environment, clear=True):
        with contextlib.redirect_stdout(stream):
            code = cli.main([str(argument) for argument in arguments])
        return code, content()


def test_colour_is_for_terminals_alone(small: Path) -> None:
    code, coloured = on_a_terminal("egress", small)
    assert code == 0 and ANSI in coloured
    code, bare = on_a_terminal("egress", small, NO_COLOR="1")
    assert code == 0 and "\x1b" not in bare
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == bare
    assert run("egress", small).out == bare


def test_parquet_is_refused_on_a_terminal(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = on_a_terminal("rules", small, "--format", "parquet")
    assert (code, shown) == (2, "")
    assert "--format parquet: is not for a terminal" in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_alone(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowlens.outputs.progress._AFTER", 0.0)
    monkeypatch.setattr("flowlens.outputs.progress._EVERY", 0.0)
    with terminal() as (stream, content), contextlib.redirect_stderr(stream):
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")):
            assert cli.main(["rules", str(BLOBS), "--threads", "1"]) == 0
        shown = content()
    assert "MB/s" in shown
    assert shown.rsplit("\x1b[K", 1)[1] == "", "the line is taken away in the end"
    assert run("rules", small).err == ""


# ---- windows and scope


def told(*arguments: str | Path) -> dict[str, Any]:
    ran = run(*arguments, "--format", "json")
    assert ran.code == 0, ran.err
    return ran.document


@pytest.mark.parametrize(
    ("options", "rows", "window"),
    [
        ((), 4, ("2026-06-15T09:00:00Z", "2026-06-15T12:00:00Z")),
        (("--start", "2026-06-15T10:00Z"), 3, ("2026-06-15T10:00:00Z", "2026-06-15T12:00:00Z")),
        (("--end", "2026-06-15T10:00Z"), 1, ("2026-06-15T09:00:00Z", "2026-06-15T10:00:00Z")),
        (
            ("--start", "2026-06-15T19:00+09:00", "--end", "2026-06-15T20:00+09:00"),
            2,
            ("2026-06-15T10:00:00Z", "2026-06-15T11:00:00Z"),
        ),
        (("--window", "2026-06-15"), 4, ("2026-06-15T00:00:00Z", "2026-06-16T00:00:00Z")),
        (("--window", "2026-06"), 4, ("2026-06-01T00:00:00Z", "2026-07-01T00:00:00Z")),
        (("--window", "2026-06-15", "--tz", "Asia/Tokyo"), 4, ("2026-06-14T15:00:00Z", "2026-06-15T15:00:00Z")),
        (
            ("--start", "2026-06-15T09:01Z", "--end", "2026-06-15T10:01Z"),
            1,
            ("2026-06-15T09:01:00Z", "2026-06-15T10:01:00Z"),
        ),
    ],
    ids=str,
)
def test_windows(small: Path, options: tuple[str, ...], rows: int, window: tuple[str, str]) -> None:
    document = told("rules", small, *options)
    ledger = document["ledger"]
    assert (ledger["rows"], ledger["tuples"] - ledger["outside_window"]) == (rows, rows)
    assert tuple(document["window"].values()) == window
    shown = run("flows", small, *options, "--format", "csv")
    assert len(shown.out.splitlines()) == rows + 1


def test_yesterday_is_a_day_of_the_zone_given(tmp_path: Path) -> None:
    zone = dt.timezone(dt.timedelta(hours=9))
    midnight = dt.datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=1)
    for hour in (midnight - dt.timedelta(hours=1), midnight, midnight + dt.timedelta(hours=23)):
        time = hour.astimezone(dt.UTC)
        write_blob(tmp_path, record([flow_tuple("10.0.0.4", "203.0.113.7", 443, hour=time)], hour=time), hour=time)
    assert told("rules", tmp_path, "--window", "yesterday", "--tz", "Asia/Tokyo")["ledger"]["rows"] == 2


def test_times_are_shown_in_the_zone_given(small: Path) -> None:
    shown = run("rules", small, "--tz", "Asia/Tokyo").out
    assert shown.startswith("From 2026-06-15 18:00+0900 to 21:00+0900.")
    assert "18:01+0900" in run("flows", small, "--tz", "Asia/Tokyo").out


def test_a_window_without_flows_selects_nothing_that_counts(small: Path) -> None:
    ran = run("analyze", small, "--window", "2026-05", "--format", "json")
    assert {v["status"] for v in ran.document["verdicts"].values()} == {"not_determined"}
    assert ran.code == 4


SCOPES = [
    (("--vnet", "VNET-DATA"), {"00005E005309", "00005E00530A"}),
    (("--resource-group", "rg-data"), {"00005E005309", "00005E00530A"}),
    (("--nic", "00-00-5e-00-53-04"), {"00005E005304"}),
    (("--nic", "00005E005304", "--nic", "00005e005305"), {"00005E005304", "00005E005305"}),
    (("--subnet", "10.10.3.0/24"), {"00005E005305", "00005E005306"}),
]


@pytest.fixture(scope="module")
def every_flow() -> pl.DataFrame:
    return pl.DataFrame(told("flows", BLOBS)["tables"]["flows"])


@pytest.mark.parametrize(("options", "macs"), SCOPES, ids=[" ".join(options) for options, _ in SCOPES])
def test_scope(every_flow: pl.DataFrame, options: tuple[str, ...], macs: set[str]) -> None:
    covered = {row["mac_address"] for row in told("coverage", BLOBS, *options)["tables"]["coverage"]}
    assert covered == macs
    flows = told("flows", BLOBS, *options)["tables"]["flows"]
    logged = pl.col("mac_address").is_in(list(macs))
    own = every_flow.filter(logged)
    theirs = {*own.filter(pl.col("direction") == "Outbound")["src_ip"]}
    theirs |= {*own.filter(pl.col("direction") == "Inbound")["dst_ip"]}
    # Private ranges of the two VNets of the sample do not meet, so an address is an identity here.
    ends = pl.any_horizontal(pl.col("src_ip", "dst_ip").is_in(list(theirs)))
    assert 0 < len(flows) == every_flow.filter(logged | ends).height < every_flow.height


def test_a_scope_that_names_nothing(small: Path) -> None:
    fails("analyze", small, "--vnet", "vnet-b", code=2, words="names nothing in these logs", hint="vnet-a")
    fails("flows", small, "--nic", "00005E005309", code=2, words="names nothing in these logs", hint="5e0053")


def test_convert_keeps_to_the_scope(tmp_path: Path) -> None:
    path = tmp_path / "flows.parquet"
    assert run("convert", BLOBS, "--vnet", "vnet-data", "-o", path).code == 0
    expected = told("flows", BLOBS, "--vnet", "vnet-data")["tables"]["flows"]
    assert pl.read_parquet(path).height == len(expected) > 0


# ---- the questions


@pytest.mark.slow
def test_before_and_after_a_change() -> None:
    change = "2026-06-15T11:00Z"
    document = told("encryption", BLOBS, "--changed-at", change)
    assert list(document["tables"]) == ["encryption_status", "encryption_status_before", "encryption_status_after"]
    assert document["settings"]["changed_at"] == "2026-06-15T11:00:00Z"
    before = told("encryption", BLOBS, "--end", change)["tables"]["encryption_status"]
    after = told("encryption", BLOBS, "--start", change)["tables"]["encryption_status"]
    pair = ("src_workload", "dst_workload", "encryption_status", "bytes_encrypted", "bytes_unencrypted")

    def eligible(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [tuple(row[name] for name in pair) for row in rows if row["eligibility"] == "eligible"]

    assert eligible(document["tables"]["encryption_status_before"]) == eligible(before)
    assert eligible(document["tables"]["encryption_status_after"]) == eligible(after)
    egress = told("egress", BLOBS, "--changed-at", change, "--profile", "windows-kms")
    assert list(egress["tables"]) == ["denied_egress", "denied_egress_before", "denied_egress_after"]
    shown = run("encryption", BLOBS, "--changed-at", change).out
    assert "before the change" in shown and "after the change" in shown


def test_convert_gives_the_scans_flows_in_the_contracts_columns(tmp_path: Path) -> None:
    path = tmp_path / "flows.parquet"
    ran = run("convert", BLOBS, "-o", path)
    assert (ran.code, ran.out) == (0, "")
    assert "1,752 read" in ran.err and f"wrote {path}" in ran.err
    written = pl.read_parquet(path)
    assert written.schema == schema.polars_schema(schema.FLOWS)
    assert written.equals(fl.scan(BLOBS).flows.collect())


def test_convert_of_traffic_analytics_says_that_it_keeps_none(tmp_path: Path) -> None:
    export = SAMPLE / "traffic_analytics" / "ntanetanalytics.json"
    fails("convert", export, "-o", tmp_path / "x.parquet", code=3, words="keeps no flow tuples", hint="blobs")
    fails("flows", export, code=3, words="keeps no flow tuples", hint="blobs")
    assert list(tmp_path.iterdir()) == []


def test_blobs_and_an_export_are_not_added_up() -> None:
    fails(
        "rules",
        BLOBS,
        SAMPLE / "traffic_analytics" / "ntanetanalytics.json",
        code=3,
        words="cannot be added",
        hint="one",
    )


def test_profiles_and_tags() -> None:
    listed = run("profiles", "list").out.splitlines()
    assert [line.split()[0] for line in listed[3:]] == fl.profile_names()
    for name, shown in zip(fl.profile_names(), listed[3:], strict=True):
        profile = fl.load_profile(name)
        counts = [sum(r.cloud == cloud for r in profile.requirements) for cloud in ("global", "usgov", "china")]
        assert shown.split()[1:5] == [*(str(count or "-") for count in counts), profile.as_of]
        assert shown.endswith(profile.title)
    shown = run("profiles", "show", "windows-kms").out
    assert "AzurePlatformLKM" in shown and "\n  source: " in shown
    china = run("profiles", "show", "windows-kms", "--cloud", "china").out
    assert "AzurePlatformLKM" not in china
    names = run("tags", "show").out.split()
    assert "AzureMonitor" in names and names == list(fl.load_tags().names)
    assert run("tags", "show", "AzureMonitor").out.split() == list(fl.load_tags().prefixes("AzureMonitor"))
    looked_up = run("tags", "lookup", "20.118.99.224", "10.0.0.4")
    assert looked_up.out.splitlines()[1] == "10.0.0.4: no service tag"
    assert "AzureCloud" in looked_up.out.splitlines()[0]
    assert fl.load_tags().date in looked_up.err


def test_tags_are_replaced_by_a_newer_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWLENS_DATA", str(tmp_path / "own"))
    day = dt.datetime.now(dt.UTC).date()
    file = tmp_path / f"ServiceTags_China_{day:%Y%m%d}.json"
    before = fl.load_tags("china")
    published_tags("china", file, Brand="203.0.113.0/24")
    document = file.read_text("utf-8")
    file.write_text(document[:-1], encoding="utf-8")
    fails("tags", "update", "--file", file, code=2, words="expected a service-tag file", hint="download it anew")
    assert not (tmp_path / "own").exists()
    file.write_text(document, encoding="utf-8")
    told = run("tags", "update", "--file", file)
    assert told.code == 0 and f"of {day} in the place of {len(before.names)} of {before.date}" in told.err
    for options, words, hint in (
        ((), "expected one of --file and --subscription", ""),
        (("--file", file, "--subscription", SUBSCRIPTION), "expected one of --file and --subscription", ""),
        (("--file", file, "--cloud", "china"), "belongs to --subscription", ""),
        (("--subscription", "mine"), "is not the id of a subscription", "az account show"),
        (("--subscription", SUBSCRIPTION, "--location", "../x"), "is not the name of a location", "westeurope"),
        (("--subscription", SUBSCRIPTION, "--cloud", "chna"), "is not a cloud", "china"),
        (("--subscription", SUBSCRIPTION, "--auth", "key"), "is for storage only", "managed-identity"),
        (("--subscription", SUBSCRIPTION, "--management-url", "http://localhost"), "expected https://HOST[:PORT]", ""),
        (("--subscription", SUBSCRIPTION, "--management-url", "https://a/b?c"), "expected https://HOST[:PORT]", ""),
        (("--subscription", SUBSCRIPTION, "--management-url", "https://[x"), "expected https://HOST[:PORT]", ""),
        (
            ("--subscription", SUBSCRIPTION, "--management-url", "https://user:secret@a"),
            "expected https://HOST[:PORT]",
            "",
        ),
    ):
        fails("tags", "update", *options, code=2, words=words, hint=hint)
    looked_up = run("tags", "lookup", "203.0.113.7", "--cloud", "china")
    assert looked_up.out == "203.0.113.7: Brand\n" and looked_up.err == f"china, service tags of {day}\n"


def test_old_tags_are_warned_of() -> None:
    told = run("tags", "lookup", "20.118.99.224").err
    assert ("warning: older than 30 days" in told) == fl.load_tags().stale()


def test_what_a_profile_leaves_open_is_set_by_name(small: Path, tmp_path: Path) -> None:
    def tunnel(*settings: str) -> str:
        rows = told("egress", small, "--profile", "azure-sql", *settings)["tables"]["denied_egress"]
        return str(next(row["note"] for row in rows if row["endpoint"] == "Sql.<region> (TCP 1433)"))

    assert "Not tested: Sql.<region>: no value is set for <region>." in tunnel()
    assert "not tested" not in tunnel("--set", "location=japaneast").lower()
    config = tmp_path / "own.toml"
    config.write_text('[placeholders]\nregion = "atlantis"\n', encoding="utf-8")
    assert "Sql.atlantis" in tunnel("--config", str(config))
    assert "not tested" not in tunnel("--config", str(config), "--set", "Region=Japan East").lower()
    open_line = "not tested, since no value is set: <region>, <server> (--set NAME=VALUE)"
    assert open_line in run("egress", small, "--profile", "azure-sql").err.splitlines()
    assert "<server>" not in run("egress", small, "--profile", "azure-sql", "--set", "server=a").err
    filled = run("egress", small, "--profile", "azure-sql", "--set", "server=a", "--config", config)
    assert "not tested" not in filled.err
    fails("egress", small, "--set", "locaton=x", code=2, words="is in no profile", hint="location")
    fails("analyze", small, "--set", "location", code=2, words="expected NAME=VALUE", hint="--set")


ZONE = Zone(
    {
        "azkms.core.windows.net": [("CNAME", "shared.example.net")],
        "shared.example.net": [("A", "20.118.99.224"), ("A", "40.83.235.53")],
        "login.microsoftonline.com": [("A", "20.190.128.1")],
        "db1.database.windows.net": [("A", "10.0.0.9")],
    },
    {"login.microsoftonline.com": lambda query, response: query.to_wire()},
)


def test_names_are_resolved_and_then_matched(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    with serving(ZONE) as (address, port):
        server = ("--server", f"{address}:{port}", "-o", file)
        told = run("resolve", "windows-kms", "azure-sql", "--set", "server=db1", *server)
    assert (told.code, told.out) == (4, "")
    lines = told.err.splitlines()
    assert "kms.core.windows.net: there is no such name" in lines
    assert sum("login.microsoftonline.com" in line and "another question" in line for line in lines) == 1
    assert lines[-1] == f"wrote {file}: 3 address(es) of 2 name(s); 2 name(s) without an address, 0 pattern(s)"
    blobs = tmp_path / "blobs"
    day = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=3)
    tuples = [
        flow_tuple("10.0.0.4", "10.0.0.9", 1433, "D", hour=day),
        flow_tuple("10.0.0.4", "10.0.0.8", 1433, hour=day),
    ]
    write_blob(blobs, record(tuples, rule="UserRule_DenySql", hour=day), hour=day)
    asked = ("egress", blobs, "--profile", "azure-sql", "--set", "server=db1", "--names", file)
    rows = told_rows(*asked)
    (row,) = [row for row in rows if row["endpoint"] == "<server>.database.windows.net"]
    assert (row["status"], row["match"], row["dst_ip"], row["acl_rule"]) == ("Denied", "name", "10.0.0.9", "DenySql")
    shown = run(*asked)
    assert f"{file}: 3 address(es) of 2 name(s)" in shown.err
    fails(*asked[:-1], tmp_path / "none.csv", code=2, words="can't read the names", hint="")


def test_an_empty_answer_does_not_take_the_place_of_a_list(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    file.write_text("name,address\nkms.core.windows.net,10.0.0.9\n", encoding="utf-8")
    before = file.read_bytes()
    told = run("resolve", "windows-kms", "--server", "127.0.0.1:9", "--timeout", "0.2", "-o", file)
    assert told.code == 4 and file.read_bytes() == before
    assert told.err.splitlines()[-1].startswith(f"no address was found, so {file} was not written")


def test_the_cloud_of_the_config_counts_for_names_too(tmp_path: Path) -> None:
    config, file = tmp_path / "flowlens.toml", tmp_path / "names.csv"
    config.write_text('cloud = "china"\n', encoding="utf-8")
    nobody = ("resolve", "windows-kms", "--server", "127.0.0.1:9", "--timeout", "0.2", "-o", file, "--config", config)
    assert "kms.core.chinacloudapi.cn" in run(*nobody).err
    assert "kms.core.windows.net" in run(*nobody, "--cloud", "global").err


def told_rows(*arguments: str | Path) -> list[dict[str, Any]]:
    return told(*arguments)["tables"]["denied_egress"]


def test_names_that_a_firewall_saw_stand_in_for_patterns(tmp_path: Path) -> None:
    log, file = tmp_path / "firewall.csv", tmp_path / "names.csv"
    log.write_text("TimeGenerated,Fqdn\n2026-06-15T09:00:00Z,db1.database.windows.net\n", encoding="utf-8")
    with serving(ZONE) as (address, port):
        server = ("--server", f"{address}:{port}", "-o", file)
        told = run("resolve", "azure-sql", "--names", log, *server)
        assert "db1.database.windows.net,10.0.0.9," in file.read_text("utf-8")
        without = run("resolve", "azure-sql", *server)
    assert "<server>.database.windows.net: is a pattern" in without.err and "is a pattern" not in told.err
    assert without.err.splitlines()[-1].endswith("1 pattern(s)")


def test_what_is_no_egress_is_shown_and_not_judged(small: Path) -> None:
    shown = run("profiles", "show", "sql-mi").out
    assert "[required, ingress]" in shown and "[recommended, route]" in shown and "to set: region, " in shown
    rows = told("egress", small, "--profile", "sql-mi")["tables"]["denied_egress"]
    names = {row["endpoint"] for row in rows}
    assert "NSG rule mi-internal-out" in names and not names & {"NSG rule mi-internal-in", "Routes mi-*-internet"}
    assert "No source was read for china" in run("profiles", "show", "sql-mi", "--cloud", "china").out


def test_a_profile_of_the_users_own(small: Path, tmp_path: Path) -> None:
    name = next(path for path in (TOP / "flowlens" / "catalog").rglob("windows-kms.toml"))
    path = tmp_path / "mine.toml"
    path.write_text(name.read_text("utf-8").replace('"windows-kms"', '"mine"'), encoding="utf-8")
    assert run("profiles", "show", path).code == 0
    rows = told("analyze", small, "--profile", path)["tables"]["denied_egress"]
    assert "Denied" in {row["status"] for row in rows} and {row["profile"] for row in rows} == {"mine"}


def test_doctor_reads_no_flow(tmp_path: Path) -> None:
    for n in range(3):
        hour = HOUR + n * dt.timedelta(hours=1)
        write_blob(tmp_path, hour=hour).write_bytes(b"x" * 1_000_000)
    shown = run("doctor", tmp_path).out
    assert "3 file(s), 3.0 MB, 1 flow log(s), 1 NIC(s)" in shown
    assert "hours 2026-06-15T09:00:00+00:00 to 2026-06-15T11:00:00+00:00" in shown
    assert fl.load_tags().date in run("doctor").out
    rows = SAMPLE / "traffic_analytics"
    assert f"{SAMPLE}: 98 file(s)" in run("doctor", SAMPLE).out
    assert (
        "1 file(s) beside the blobs were not read, since they are Traffic Analytics rows" in run("doctor", SAMPLE).out
    )
    assert f"{rows}: 1 file(s) of Traffic Analytics rows" in run("doctor", rows).out
    gone = run("doctor", tmp_path / "gone")
    assert gone.code == 3
    assert gone.err.splitlines()[0].endswith("gone: no such file or folder")


def test_doctor_says_what_it_looked_for_where_nothing_would_be_read(tmp_path: Path, small: Path) -> None:
    (tmp_path / "notes.txt").touch()
    empty = run("doctor", tmp_path)
    assert (empty.code, empty.err) == (4, "nothing was selected\n")
    assert "nothing to read: looked for files that end in .json, .jsonl, .ndjson, .csv, or one of these" in empty.out
    early = run("doctor", small, "--end", "2026-06-01T00:00:00Z")
    assert (early.code, early.err) == (4, "nothing was selected\n")
    assert "of hours in the window and the ones beside it" in early.out
    # One source that holds something is enough, and nobody asked for anything to be found where no source is named.
    assert (run("doctor", tmp_path, small).code, run("doctor").code) == (0, 0)


# ---- gates


def test_a_gate_sets_the_exit_code_and_the_report_is_written_all_the_same() -> None:
    for gate, code in (("unencrypted > 5", 1), (" incomplete ", 1), ("unencrypted>6", 0)):
        ran = run("encryption", BLOBS, "--format", "json", "--fail-on", gate)
        assert (ran.code, ran.err == "") == (code, code == 0)
        assert ran.document["verdicts"]["encryption_status"]["text"].startswith("6 of 10 pairs")


@pytest.mark.parametrize(
    "gate", ["", "unencrypted > x", "unencrypted > -1", "unencrypted => 1", "unencrypted > 0 > 1", "1 > 0", "a b"]
)
def test_a_gate_that_is_none(small: Path, gate: str) -> None:
    fails("analyze", small, "--fail-on", gate, code=2, words="is no gate", hint="n")


def test_every_gate_can_be_asked_of_analyze(small: Path) -> None:
    ran = run("analyze", small, *(word for gate in GATES for word in ("--fail-on", f"{gate} >= 0")))
    assert (ran.code, ran.err) == (1, f"--fail-on: {'; '.join(f'{gate} >= 0' for gate in GATES)}\n")


def test_a_gate_of_another_question_is_wrong_usage(small: Path) -> None:
    fails("rules", small, "--fail-on", "unencrypted", code=2, words="another question", hint="analyze")
    fails("encryption", small, "--fail-on", "denied_required", code=2, words="another question", hint="analyze")


def test_a_gate_beats_what_could_not_be_used(small: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    assert run("analyze", small, tmp_path / "bad.json").code == 4
    assert run("analyze", small, tmp_path / "bad.json", "--fail-on", "rejected").code == 1
    assert run("analyze", small, tmp_path / "bad.json", "--fail-on", "rejected > 1").code == 4


def test_several_gates_are_told_together(small: Path) -> None:
    ran = run("egress", small, "--fail-on", "denied_required", "--fail-on", "findings", "--fail-on", "rejected")
    assert (ran.code, ran.err) == (1, "--fail-on: denied_required > 0; findings > 0\n")


# ---- an earlier report


def test_a_baseline_by_file(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    assert run("analyze", small, "-o", path).code == 0
    again = told("analyze", small, "--baseline", path)
    assert {finding["state"] for finding in again["findings"] if finding["question"] == "denied_egress"} == {"ongoing"}
    assert again["verdicts"]["unexpected_destinations"]["status"] != "not_determined"
    assert not any(row["is_new"] for row in again["tables"]["unexpected_destinations"])
    assert again["settings"]["baseline"] == str(path)
    assert "0 new" in run("analyze", small, "--baseline", path).out
    assert run("analyze", small, "--baseline", path, "--fail-on", "new_findings").code == 0


def test_a_baseline_by_source(small: Path, tmp_path: Path) -> None:
    write_blob(tmp_path, record([flow_tuple("10.0.0.4", "203.0.113.7", 443)]))
    rows = told("destinations", small, "--baseline", tmp_path)["tables"]["unexpected_destinations"]
    assert [(row["dst_ip"], row["is_new"]) for row in rows] == [("203.0.113.7", False)]
    fails("destinations", small, "--baseline", tmp_path / "gone", code=3, words="no such file", hint="insights-logs")


# ---- configuration


def test_which_config_is_used(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert told("rules", small)["settings"]["config"] is None
    (tmp_path / "flowlens.toml").write_text('cloud = "china"\n', encoding="utf-8")
    (tmp_path / "other.toml").write_text('cloud = "usgov"\n', encoding="utf-8")
    assert told("egress", small)["settings"]["config"] == "flowlens.toml"
    assert told("egress", small)["settings"]["cloud"] == "china"
    monkeypatch.setenv("FLOWLENS_CONFIG", str(tmp_path / "other.toml"))
    assert told("egress", small)["settings"]["cloud"] == "usgov"
    assert told("egress", small, "--config", "flowlens.toml", "--cloud", "global")["settings"]["cloud"] == "global"
    (tmp_path / "flowlens.toml").write_text("clod = 1\n", encoding="utf-8")
    fails("rules", small, "--config", "flowlens.toml", code=2, words="unknown key 'clod'", hint="cloud")


def test_an_expected_list_gives_a_verdict(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text('[[expected]]\nprefix = "203.0.113.0/24"\nports = [443]\n', encoding="utf-8")
    document = told("destinations", small, "--expect", path)
    assert (
        document["verdicts"]["unexpected_destinations"]["status"],
        document["tables"]["unexpected_destinations"],
    ) == ("ok", [])
    assert document["settings"]["expected"] == str(path)


# ---- signals


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough hours of large blobs that a run takes many seconds, and one blob too large for one second."""
    folder = tmp_path_factory.mktemp("large")
    one = [
        flow_tuple(
            f"10.0.{n >> 8 & 255}.{n & 255}",
            f"203.0.{n >> 6 & 255}.{n & 63}",
            443,
            src_port=1024 + n % 60000,
            minute=n % 59,
        )
        for n in range(20_000)
    ]
    text = json.dumps(record(one))
    many = write_blob(folder)
    many.write_text('{"records":[' + ",".join([text] * 12) + "]}", encoding="utf-8")
    for n in range(1, 24):
        path = write_blob(folder, hour=HOUR + n * dt.timedelta(hours=1))
        path.unlink()
        path.hardlink_to(many)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", ["analyze", "convert"])
def test_a_signal_ends_a_run_soon_and_leaves_nothing(
    large: Path, tmp_path: Path, command: str, number: signal.Signals, code: int
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    out.mkdir()
    name = {"analyze": "report.json", "convert": "flows.parquet"}[command]
    # A job that a shell starts in the background ignores Ctrl-C; the run here stands for one in front.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from flowlens.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, command, str(large), "-o", str(out / name)],
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
        cwd=TOP,
    ) as process:
        at_work = scratch if command == "analyze" else out
        while process.poll() is None and not any(at_work.iterdir()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert process.poll() is None, "the logs are too small for this test"
        process.send_signal(number)
        try:
            _, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, told.decode()) == (code, "stopped\n")
    assert list(out.iterdir()) == []
    assert list(scratch.iterdir()) == []
