"""The schedules of deploy/: each is what its program takes, runs a command that exists, and holds no secret."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from flowlens.cli import app
from flowlens.schedule import read_schedule
from tests.arm import SUBSCRIPTION, Template
from tests.flow_logs import run

TOP = Path(__file__).resolve().parents[1]
DEPLOY = TOP / "deploy"
WORKFLOWS = [DEPLOY / "github" / "flowlens-report.yml", *sorted((TOP / ".github" / "workflows").glob("*.yml"))]
SERVICE, TIMER = DEPLOY / "systemd" / "flowlens-report.service", DEPLOY / "systemd" / "flowlens-report.timer"
ACCOUNTS = f"{SUBSCRIPTION}/resourceGroups/rg-logs/providers/Microsoft.Storage/storageAccounts"
ELSEWHERE = "/subscriptions/99999999-9999-9999-9999-999999999999/resourceGroups/rg-monitor/providers"
GIVEN = {
    "environmentId": f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.App/managedEnvironments/env",
    "image": "registry.azurecr.io/flowlens:0.1.0",
    "logsAccountId": f"{ACCOUNTS}/logs",
    "reportsAccountId": f"{ACCOUNTS}/reports",
    "config": 'title = "x"',
}
# Built-in roles: https://learn.microsoft.com/azure/role-based-access-control/built-in-roles
ROLES = {
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "73c42c96-874c-492b-b04d-ab87d138a893": "Log Analytics Reader",
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
}


def job(**given: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The job that the template makes, and which role its identity gets on what."""
    template = Template(json.loads((DEPLOY / "container-apps" / "job.json").read_bytes()), {**GIVEN, **given})
    made = template.resources()
    assert template.unused() == set()
    (found,) = (one for one in made if one["type"] == "Microsoft.App/jobs")
    roles = {}
    for one in made:
        if one["type"] == "Microsoft.Authorization/roleAssignments":
            place = "/".join(one["deployedTo"].values())
            roles[f"{place}/{one['scope']}"] = ROLES[one["properties"]["roleDefinitionId"].rpartition("/")[2]]
            assert one["properties"]["principalType"] == "ServicePrincipal"
    return found, roles


def is_a_command(line: str) -> bool:
    """Whether the program takes these arguments; nothing is run."""
    commands = typer.main.get_command(app)
    context = commands.make_context("flowlens", shlex.split(line), resilient_parsing=False)
    name, command, arguments = commands.resolve_command(context, [*context._protected_args, *context.args])
    return bool(command.make_context(name, arguments, parent=context))


def test_the_report_that_all_schedules_run_is_right() -> None:
    ran = run("report", DEPLOY / "report.toml", "--check")
    assert (ran.code, "nothing is wrong" in ran.err) == (0, True), ran.err


def test_what_is_switched_off_in_the_report_is_right_too(tmp_path: Path) -> None:
    text = (DEPLOY / "report.toml").read_text(encoding="utf-8")
    switched = re.sub(r'^# (\[\[|\w+ = ")', r"\1", text, flags=re.MULTILINE)
    assert switched.count("[[source]]") == 2 and 'webhook = "teams"' in switched
    (tmp_path / "report.toml").write_text(switched, encoding="utf-8")
    for name in ("expected.toml", "inventory.csv"):
        shutil.copy(TOP / "sample_logs" / name, tmp_path)
    (tmp_path / "accepted.toml").write_text("", encoding="utf-8")
    (tmp_path / "partners.csv").write_text("prefix,owner\n192.0.2.0/24,Example\n", encoding="utf-8")
    ran = run("report", tmp_path / "report.toml", "--check", env={"FLOWLENS_WEBHOOK": "https://example.org/hook"})
    assert (ran.code, ran.err.count("error")) == (0, 0), ran.err


def test_cron_runs_the_report() -> None:
    lines = [
        line for line in (DEPLOY / "cron" / "flowlens").read_text("utf-8").splitlines() if not line.startswith("#")
    ]
    (entry,) = (line for line in lines if not re.match(r"\w+=", line))
    *times, user, command = entry.split(maxsplit=6)
    assert all(re.fullmatch(r"\*|\d+", field) for field in times)
    assert 0 <= int(times[0]) < 60 and 0 <= int(times[1]) < 24
    assert user == "flowlens"
    # A percent sign would be a new line to cron.
    assert "%" not in command
    assert is_a_command(re.search(r"/bin/flowlens (.*?) 2>&1", command)[1])


@pytest.mark.parametrize(("code", "told"), [(0, ""), (1, "a finding\n"), (3, "an error\n")])
def test_cron_mails_what_needs_somebody(code: int, told: str, tmp_path: Path) -> None:
    text = (DEPLOY / "cron" / "flowlens").read_text(encoding="utf-8")
    script = re.search(r"sh -c '(.*)'$", text, re.MULTILINE)[1]
    program = tmp_path / "flowlens"
    program.write_text(f"#!/bin/sh\necho {told.strip() or 'fine'} >&2\nexit {code}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    line = script.replace("/opt/flowlens/bin/flowlens", str(program))
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, told, "")


def test_units_of_systemd_are_right(tmp_path: Path) -> None:
    text = SERVICE.read_text(encoding="utf-8")
    program = re.search(r"^ExecStart=(\S+) (.*)$", text, re.MULTILINE)
    assert program[1] == "/opt/flowlens/bin/flowlens" and is_a_command(program[2])
    keys = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert (keys["Type"], keys["SuccessExitStatus"], keys["ProtectSystem"]) == ("oneshot", "1", "strict")
    assert "Persistent=true" in TIMER.read_text(encoding="utf-8")
    if shutil.which("systemd-analyze"):
        (tmp_path / SERVICE.name).write_text(text.replace(program[1], sys.executable), encoding="utf-8")
        shutil.copy(TIMER, tmp_path)
        units = [str(tmp_path / path.name) for path in (SERVICE, TIMER)]
        done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
        told = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "flowlens-report" in line]
        assert (done.returncode, told) == (0, [])


def test_workflows_are_what_github_takes() -> None:
    line = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_pin_what_they_use_and_ask_for_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = YAML(typ="safe").load(text)
    assert all(value in ("read", None) for value in (workflow["permissions"] or {"": None}).values())
    used = re.findall(r"uses: (.*)$", text, re.MULTILINE)
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []
    for one in workflow["jobs"].values():
        assert one["timeout-minutes"] <= 90
        for step in one["steps"]:
            # Values of others come in by the environment, never as a part of the script.
            assert "${{" not in step.get("run", "")
            for command in re.findall(r"^\s*flowlens (.*)$", step.get("run", ""), re.MULTILINE):
                assert is_a_command(command.replace('"$WINDOW"', "2026-06-15"))


def test_the_report_of_github_signs_in_without_a_secret() -> None:
    workflow = YAML(typ="safe").load((DEPLOY / "github" / "flowlens-report.yml").read_text(encoding="utf-8"))
    (report,) = workflow["jobs"].values()
    assert report["permissions"] == {"contents": "read", "id-token": "write"}
    (login,) = (step for step in report["steps"] if step.get("uses", "").startswith("azure/login@"))
    assert set(login["with"]) == {"client-id", "tenant-id", "subscription-id"}


def test_the_job_runs_the_report_with_an_identity_of_its_own() -> None:
    found, _ = job()
    identity = (
        f"{SUBSCRIPTION}/resourceGroups/rg-flowlens/providers/Microsoft.ManagedIdentity/userAssignedIdentities/flowlens"
    )
    assert found["identity"] == {"type": "UserAssigned", "userAssignedIdentities": {identity: {}}}
    (container,) = found["properties"]["template"]["containers"]
    assert is_a_command(" ".join(container["args"]))
    assert container["env"] == [{"name": "AZURE_CLIENT_ID", "value": identity}]
    assert found["properties"]["configuration"]["secrets"] == [{"name": "report-toml", "value": GIVEN["config"]}]
    (volume,) = found["properties"]["template"]["volumes"]
    (mount,) = container["volumeMounts"]
    folder, file = mount["mountPath"], volume["secrets"][0]["path"]
    assert (volume["name"], f"{folder}/{file}") == (mount["volumeName"], container["args"][-1])
    assert container["resources"] == {"cpu": 1.0, "memory": "2Gi"}
    assert found["properties"]["configuration"]["scheduleTriggerConfig"]["cronExpression"] == "30 3 * * *"


def test_the_job_has_the_files_that_its_config_names(tmp_path: Path) -> None:
    texts = {
        "expected": '[[expected]]\nprefix = "192.0.2.0/24"\n',
        "accepted": "",
        "inventory": "address,workload\n10.0.0.4,vm\n",
    }
    found, _ = job(**texts, filesStorage="flowlens")
    template, secrets = found["properties"]["template"], found["properties"]["configuration"]["secrets"]
    volumes = {volume["name"]: volume for volume in template["volumes"]}
    mounts = {mount["volumeName"]: mount["mountPath"] for mount in template["containers"][0]["volumeMounts"]}
    assert mounts == {"config": "/etc/flowlens", "files": "/mnt/flowlens"}
    assert volumes["files"] == {"name": "files", "storageType": "AzureFile", "storageName": "flowlens"}
    known = {secret["name"]: secret["value"] for secret in secrets}
    placed = {one["path"]: known.pop(one["secretRef"]) for one in volumes["config"]["secrets"]}
    assert known == {}
    # What is mounted is what the config takes.
    for name, text in placed.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "report.toml").write_text(
        'expected = "expected.toml"\ninventory = "inventory.csv"\n[[source]]\naddress = "."\n[[output]]\nfile = "../out/x.md"\n'
    )
    assert set(placed) == {"report.toml", "expected.toml", "inventory.csv"}
    schedule, errors = read_schedule(tmp_path / "report.toml")
    assert (errors, schedule is not None) == ([], True)


def test_the_job_may_read_the_logs_and_write_reports_elsewhere() -> None:
    _, roles = job()
    account = f"{SUBSCRIPTION.rpartition('/')[2]}/rg-logs/Microsoft.Storage/storageAccounts"
    assert roles == {
        f"{account}/logs/blobServices/default/containers/insights-logs-flowlogflowevent": "Storage Blob Data Reader",
        f"{account}/reports/blobServices/default/containers/flowlens": "Storage Blob Data Contributor",
    }


def test_the_job_may_ask_a_workspace_and_pull_from_a_registry_in_another_subscription() -> None:
    workspace = f"{ELSEWHERE}/Microsoft.OperationalInsights/workspaces/w"
    registry = f"{ELSEWHERE}/Microsoft.ContainerRegistry/registries/registry"
    found, roles = job(
        logsAccountId="", workspaceId=workspace, registryId=registry, webhook="https://example.org/secret"
    )
    elsewhere = "99999999-9999-9999-9999-999999999999/rg-monitor"
    assert roles[f"{elsewhere}/Microsoft.OperationalInsights/workspaces/w"] == "Log Analytics Reader"
    assert roles[f"{elsewhere}/Microsoft.ContainerRegistry/registries/registry"] == "AcrPull"
    assert "Storage Blob Data Reader" not in roles.values()
    (pulled,) = found["properties"]["configuration"]["registries"]
    assert pulled["server"] == "registry.azurecr.io"
    shown = json.dumps({**found["properties"], "configuration": {}})
    assert "FLOWLENS_WEBHOOK" in shown and "example.org/secret" not in shown


def test_the_job_waits_for_what_it_needs() -> None:
    document = json.loads((DEPLOY / "container-apps" / "job.json").read_bytes())
    names = {resource["name"] for resource in document["resources"]}
    waits = [one for resource in document["resources"] for one in resource.get("dependsOn", [])]
    assert waits
    for one in waits:
        assert (
            one in names
            or one == "[resourceId('Microsoft.ManagedIdentity/userAssignedIdentities', parameters('name'))]"
        )


def test_the_image_installs_the_wheel_and_runs_as_nobody_in_particular() -> None:
    text = (DEPLOY / "container" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    kinds = [kind for kind, _ in steps]
    assert set(kinds) <= {"FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    bases = {rest.split()[0] for kind, rest in steps if kind == "FROM"}
    (base,) = bases
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    last = dict(steps)
    assert last["USER"] == "10001" and kinds.index("ENTRYPOINT") > len(kinds) - 1 - kinds[::-1].index("USER")
    arguments = [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])]
    assert arguments[0] == "flowlens" and is_a_command(" ".join(arguments[1:]))
    # What is copied from the folder of the build is let through by .dockerignore, and is what the packaging makes.
    copied = [rest.split()[0] for kind, rest in steps if kind == "COPY" and not rest.startswith("--from")]
    let_through = [line[1:] for line in (TOP / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    assert [Path(name).suffix for name in copied] == [Path(name).suffix for name in let_through]
    assert (TOP / "constraints.txt").exists()


def test_nothing_in_deploy_looks_like_a_secret() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            found = re.findall(
                r"(?i)(AccountKey=|SharedAccessSignature|[?&]sig=|client-secret|password\s*=)", path.read_text("utf-8")
            )
            assert (path.name, found) == (path.name, [])
