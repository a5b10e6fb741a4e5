"""Configs of scheduled reports: what is wrong is told in a line each, with its key, before any log is read."""

from __future__ import annotations

import datetime as dt
import json
import tomllib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import flowlens as fl
from flowlens.evidence import Window
from flowlens.schedule import QUESTIONS, Written, read_schedule
from flowlens.scheduled import run_scheduled, window_name
from tests.flow_logs import TOP, run
from tests.make_logs import LATER, MACS, flow, write_blob

SOURCE = '[[source]]\naddress = "https://contoso.blob.core.windows.net/logs"\n'
OUTPUT = '[[output]]\nfile = "report.md"\n'
WEB, KMS = "10.0.1.4", "20.118.99.224"


def config(folder: Path, text: str) -> Path:
    path = folder / "report.toml"
    path.write_text(text, encoding="utf-8")
    return path


def errors(folder: Path, text: str) -> list[str]:
    """What is told of the config, without its path."""
    path = config(folder, text)
    schedule, found = read_schedule(path)
    assert (schedule is None) is bool(found)
    told = run("report", path, "--check")
    assert told.code == (2 if found else 0)
    assert told.err.count("\n") == max(1, len(found))
    return [f"{str(error.where).removeprefix(f'{path}: ')}: {error.problem} {error.hint}".strip() for error in found]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "window = 'yestreday'\n" + SOURCE + OUTPUT,
            "window: --window 'yestreday': is no window did you mean yesterday?",
        ),
        ("timezone = 'Asia/Tokio'\n" + SOURCE + OUTPUT, "timezone: 'Asia/Tokio' is no time zone"),
        ("tilte = 'x'\n" + SOURCE + OUTPUT, "tilte: is no key here did you mean title?"),
        ("title = 5\n" + SOURCE + OUTPUT, "title: expected a text, found 5"),
        ("questions = ['egres']\n" + SOURCE + OUTPUT, "questions: 'egres' is no question did you mean egress"),
        ("profiles = 'windows-kmz'\n" + SOURCE + OUTPUT, "profiles: profiles: unknown profile 'windows-kmz'"),
        (
            "fail_on = ['unencryptd']\n" + SOURCE + OUTPUT,
            "fail_on: --fail-on 'unencryptd': is no gate did you mean unencrypted?",
        ),
        ("fail_on = ['lost > 0']\n" + SOURCE + OUTPUT, "fail_on: lost is no metric of a report"),
        (
            "questions = 'egress'\nfail_on = 'unencrypted > 0'\n" + SOURCE + OUTPUT,
            "fail_on: unencrypted belongs to a question that is not asked add encryption_status to questions",
        ),
        ("expected = 'no.toml'\n" + SOURCE + OUTPUT, "no.toml is not there"),
        ("only_new = true\n" + SOURCE + OUTPUT, "only_new: needs something to compare with add history or baseline"),
        ("memory_limit = 'much'\n" + SOURCE + OUTPUT, "memory_limit: "),
        ("[scope]\nvent = 'x'\n" + SOURCE + OUTPUT, "scope.vent: is no key here did you mean vnets?"),
        ("[placeholders]\nlocatoin = 'x'\n" + SOURCE + OUTPUT, "placeholders: "),
        (OUTPUT, "source: is missing: nothing to read"),
        (SOURCE, "output: is missing: nothing would be written"),
        ("[source]\naddress = 'x'\n" + OUTPUT, "source: expected [[source]] entries"),
        ("[[source]]\nadress = 'x'\n" + OUTPUT, "source[1].adress: is no key here did you mean address?"),
        (SOURCE + "auth = 'cly'\n" + OUTPUT, "source[1].auth: --auth cly: is not a way to sign in did you mean cli?"),
        (SOURCE + "auth = 'key'\n" + OUTPUT, "source[1].auth: AZURE_STORAGE_KEY is not set, which holds the key"),
        (SOURCE + SOURCE + OUTPUT, "source[2].name: 'storage' is taken by another source"),
        (SOURCE + "name = '../x'\n" + OUTPUT, "source[1].name: '../x' is no name"),
        (
            "[[source]]\naddress = 'https://contoso.blob.core.windows.net/logs?sig=s&se=1'\n" + OUTPUT,
            "source[1].address: carries a token",
        ),
        (
            "[[source]]\naddress = ['https://contoso.blob.core.windows.net/logs', 'workspace:11111111-2222-3333-4444-555555555555']\n"
            + OUTPUT,
            "source[1].address: holds a workspace beside blobs: both describe the same traffic",
        ),
        (SOURCE + "[[output]]\nfile = 'x.pdf'\n", "output[1].format: is missing, and the name does not tell it"),
        (
            SOURCE + "[[output]]\nfile = 'x.md'\nformat = 'json'\n",
            "output[1].format: is json, and the name ends in .md",
        ),
        (
            SOURCE + "[[output]]\nfile = 'x'\nformat = 'jsn'\n",
            "output[1].format: 'jsn' is no format did you mean json?",
        ),
        (SOURCE + "[[output]]\nfile = 'x.csv'\n", "output[1].file: csv holds one table a file"),
        (
            SOURCE + "[[output]]\nfile = '{windw}.md'\n",
            "output[1].file: {windw} stands for nothing did you mean window?",
        ),
        (
            SOURCE + "[[output]]\nfile = 'x.md'\nblob = 'y.md'\n",
            "output[1].file: expected one of file, blob and webhook",
        ),
        (
            SOURCE + "[[output]]\nwebhook = 'team'\nurl_variable = 'X'\n",
            "output[1].webhook: 'team' is no kind of webhook did you mean teams?",
        ),
        (SOURCE + "[[output]]\nwebhook = 'slack'\n", "output[1].url_variable: is missing"),
        (
            SOURCE + "[[output]]\nwebhook = 'slack'\nurl_variable = 'NO_SUCH'\n",
            "output[1].url_variable: NO_SUCH is not set",
        ),
        (
            SOURCE + "[[output]]\nwebhook = 'slack'\nurl_variable = 'PLAIN'\n",
            "output[1].url_variable: PLAIN holds no https address",
        ),
        (
            SOURCE + "[[output]]\nblob = 'https://contoso.blob.core.windows.net/reports/x.md'\n",
            "output[1].blob: lies in the account contoso, which holds the logs",
        ),
        (
            SOURCE + "[[output]]\nblob = 'https://contoso-secondary.blob.core.windows.net/reports/x.md'\n",
            "which holds the logs and is only read",
        ),
        (
            SOURCE
            + "[[output]]\nblob = 'https://other.blob.core.windows.net/reports/x.md'\nauth = 'sas'\nsecret_variable = 'NO_SUCH'\n",
            "output[1].blob: NO_SUCH is not set, which holds its sas",
        ),
        (
            SOURCE
            + "[[output]]\nblob = 'https://other.blob.core.windows.net/reports/x.md?sig=s&se=1'\nformat = 'markdown'\n",
            "output[1].blob: carries a token",
        ),
        (
            "history = 'logs/h'\n[[source]]\naddress = 'logs'\n" + OUTPUT,
            "where the logs are write outside of what is read",
        ),
        ("[[source]]\naddress = 'logs'\n[[output]]\nfile = 'logs/{window}.md'\n", "output[1].file: lies in"),
        ("history = 'h'\nbaseline = 'last.json'\n" + SOURCE + OUTPUT, "baseline: stands beside history"),
        ("baseline = 'log.json'\n" + SOURCE + OUTPUT, "baseline: is no report"),
        ("x = ", "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    monkeypatch.setenv("PLAIN", "http://203.0.113.1/secret-path")
    monkeypatch.delenv("AZURE_STORAGE_KEY", raising=False)
    (tmp_path / "logs").mkdir()
    (tmp_path / "last.json").write_text(json.dumps({"schema_version": 1, "findings": []}))
    (tmp_path / "log.json").write_text("{}")
    found = errors(tmp_path, text)
    # A key that is misspelt is also one that is missing.
    assert len(found) == 1 or ("is no key here" in told and len(found) == 2), found
    assert any(told in each for each in found), found
    assert "secret-path" not in str(found)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    found = errors(tmp_path, "tilte = 1\nwindow = 'x'\n[[source]]\n[[output]]\n")
    assert [each.partition(":")[0] for each in found] == [
        *("window", "source[1].address", "output[1].file"),
        "tilte",
    ]


def test_a_whole_config_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAMS_URL", "https://example.invalid/secret-path")
    monkeypatch.setenv("REPORTS_SAS", "sv=1&sig=secret")
    text = """
        title = "Morning"
        window = "last-month"
        timezone = "Asia/Tokyo"
        questions = ["egress", "destinations", "coverage"]
        profiles = ["windows-kms"]
        history = "history"
        only_new = true
        fail_on = ["denied_required > 0", "new_destinations > 10", "incomplete"]
        memory_limit = "800MB"
        [placeholders]
        location = "japaneast"
        [scope]
        vnets = ["vnet-a"]
        [[source]]
        name = "accounts"
        address = ["https://one.blob.core.windows.net/logs", "https://two.blob.core.windows.net/logs"]
        auth = "managed-identity"
        [[source]]
        address = "workspace:11111111-2222-3333-4444-555555555555"
        [[output]]
        file = "reports/{window}-{section}/"
        format = "parquet"
        only_new = false
        [[output]]
        blob = "https://reports.blob.core.windows.net/reports/{window}.md"
        auth = "sas"
        secret_variable = "REPORTS_SAS"
        [[output]]
        webhook = "teams"
        url_variable = "TEAMS_URL"
        top = 3
    """
    path = config(tmp_path, text)
    schedule, found = read_schedule(path)
    assert found == [] and schedule is not None
    assert [(source.name, source.kind, len(source.addresses)) for source in schedule.sources] == [
        ("accounts", "storage", 2),
        ("workspace", "workspace", 1),
    ]
    assert schedule.questions == ("denied_egress", "unexpected_destinations", "coverage")
    assert [str(gate) for gate in schedule.gates] == ["denied_required > 0", "new_destinations > 10", "incomplete > 0"]
    assert [output.only_new for output in schedule.outputs] == [False, True, True]
    assert schedule.required.placeholders == {"location": "japaneast"}
    now = dt.datetime(2026, 7, 4, tzinfo=dt.UTC)
    window = schedule.window_of(None, now)
    # June in Tokyo begins at 15:00 of the day before in UTC.
    assert (window.start, window.end) == (
        dt.datetime(2026, 5, 31, 15, tzinfo=dt.UTC),
        dt.datetime(2026, 6, 30, 15, tzinfo=dt.UTC),
    )
    assert window_name(window, schedule.zone) == "2026-06"
    shown = repr(schedule) + run("report", path, "--check").err
    assert "secret" not in shown.replace("secret_variable", "")


def test_every_question_has_its_word() -> None:
    assert sorted(QUESTIONS.values()) == sorted(fl.analyses.ANALYSES)


@pytest.mark.parametrize(
    ("start", "end", "zone", "name"),
    [
        ("2026-06-15T00:00Z", "2026-06-16T00:00Z", None, "2026-06-15"),
        ("2026-06-14T15:00Z", "2026-06-15T15:00Z", "Asia/Tokyo", "2026-06-15"),
        # A day of 23 hours.
        ("2026-03-28T23:00Z", "2026-03-29T22:00Z", "Europe/Berlin", "2026-03-29"),
        ("2026-06-08T00:00Z", "2026-06-15T00:00Z", None, "2026-06-08_2026-06-14"),
        ("2026-05-01T00:00Z", "2026-06-01T00:00Z", None, "2026-05"),
        ("2025-12-01T00:00Z", "2026-01-01T00:00Z", None, "2025-12"),
        ("2026-05-01T00:00Z", "2026-07-01T00:00Z", None, "2026-05-01_2026-06-30"),
        ("2026-06-15T09:00Z", "2026-06-15T10:30Z", None, "2026-06-15T090000Z_2026-06-15T103000Z"),
    ],
)
def test_a_window_has_a_name_for_files(start: str, end: str, zone: str | None, name: str) -> None:
    window = Window(dt.datetime.fromisoformat(start), dt.datetime.fromisoformat(end))
    assert window_name(window, ZoneInfo(zone) if zone else None) == name


# ---- runs on files


def local(folder: Path, more: str = "") -> Path:
    return config(
        folder,
        f'{more}\nprofiles = "windows-kms"\n[[source]]\naddress = "logs"\n[[output]]\nfile = "out/report.json"\n',
    )


def test_a_run_on_files_writes_beside_its_config_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blob(tmp_path / "here" / "logs", MACS[1], [flow(WEB, KMS, 1688, state="D")], rule="UserRule_Deny")
    monkeypatch.chdir(tmp_path)
    ran = run("report", local(tmp_path / "here", "start = '2026-06-15T09:00Z'\nend = '2026-06-15T10:00Z'"))
    assert ran.code == 0, ran.err
    document = json.loads((tmp_path / "here" / "out" / "report.json").read_bytes())
    assert document["window"] == {"start": "2026-06-15T09:00:00Z", "end": "2026-06-15T10:00:00Z"}
    assert [finding["state"] for finding in document["findings"]] == ["new"]
    assert "[findings] Required endpoints: 1 required endpoint(s) fail" in ran.err
    assert ran.out == ""


def test_nothing_selected_is_incomplete(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    assert run("report", local(tmp_path), "--window", "2026-06-15").code == 4


def test_a_source_that_is_not_there_is_an_error_and_a_wrong_word_is_usage(tmp_path: Path) -> None:
    ran = run("report", local(tmp_path), "--window", "2026-06-15")
    assert (ran.code, "error: files: " in ran.err) == (3, True)
    assert run("report", local(tmp_path), "--window", "yestreday").code == 2
    assert run("report", tmp_path / "none.toml").code == 2


def test_only_new_needs_no_baseline_on_the_first_day(tmp_path: Path) -> None:
    for hour, address in ((9, "192.0.2.1"), (10, "192.0.2.2")):
        tuples = [
            flow(WEB, "192.0.2.1", 443, minute=60 * (hour - 9) + 5),
            flow(WEB, address, 443, minute=60 * (hour - 9) + 6),
        ]
        write_blob(tmp_path / "logs", MACS[1], tuples, hour=hour)
    path = local(tmp_path, "history = 'history'\nonly_new = true\nfail_on = 'new_destinations > 0'\n")
    told = []
    for hour in (9, 10, 10):
        text = path.read_text().replace(
            "history = ", f"start = '2026-06-15T{hour:02}:00Z'\nend = '2026-06-15T{hour + 1:02}:00Z'\nhistory = ", 1
        )
        (tmp_path / "run.toml").write_text(text)
        schedule, found = read_schedule(tmp_path / "run.toml")
        assert schedule is not None, found
        outcome = run_scheduled(schedule, now=LATER)
        document = json.loads((tmp_path / "out" / "report.json").read_bytes())
        rows = [row["dst_ip"] for row in document["tables"]["unexpected_destinations"]]
        told.append((outcome.code, rows, bool(document["settings"].get("only_new"))))
    assert told == [(1, ["192.0.2.1"], False), (1, ["192.0.2.2"], True), (1, ["192.0.2.2"], True)]
    # What is kept for tomorrow is the whole, whatever the outputs show.
    names = sorted(path.name for path in (tmp_path / "history" / "files").iterdir())
    assert names == ["2026-06-15T090000Z_2026-06-15T100000Z.json", "2026-06-15T100000Z_2026-06-15T110000Z.json"]
    kept = json.loads((tmp_path / "history" / "files" / names[1]).read_bytes())
    assert len(kept["tables"]["unexpected_destinations"]) == 2


def test_a_damaged_history_is_said_and_stops_nothing(tmp_path: Path) -> None:
    write_blob(tmp_path / "logs", MACS[1], [flow(WEB, KMS, 1688)])
    (tmp_path / "history" / "files").mkdir(parents=True)
    (tmp_path / "history" / "files" / "2026-06-14.json").write_text("{")
    ran = run("report", local(tmp_path, "history = 'history'\n"), "--window", "2026-06-15")
    assert "There is nothing to compare with. files/2026-06-14.json: cannot be read" in ran.err
    assert (tmp_path / "history" / "files" / "2026-06-15.json").exists()


def test_the_example_in_the_docs_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (TOP / "docs" / "scheduled-reports.md").read_text("utf-8").split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(text)["source"]
    (tmp_path / "sample_logs").symlink_to(TOP / "sample_logs")
    monkeypatch.setenv("TEAMS_WEBHOOK", "https://example.invalid/x")
    schedule, found = read_schedule(config(tmp_path, text))
    assert found == [] and schedule is not None
    assert any(isinstance(output, Written) for output in schedule.outputs)
