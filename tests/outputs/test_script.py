"""Scripts for bash: whatever a name holds, it stays one argument or one line of comment."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowlens.analyses.fix_commands import Command, Fix, Unset
from flowlens.outputs.script import argument, comment, script

HOSTILE = (
    "x'; rm -rf / #",
    "$(touch owned)",
    "`touch owned`",
    '"; touch owned; "',
    "a\ntouch owned\n",
    "a\r\ntouch owned",
    "\x1b[2J\u202egpj.sh",
    "${PRIORITY_1}",
    "\\",
    "\\\ntouch owned",
    "!!",
    "-x",
    "",
    "日本",
)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126))


@given(st.lists(printable, min_size=1, max_size=4))
def test_arguments_read_back_as_they_were(words: list[str]) -> None:
    assert shlex.split(" ".join(map(argument, words))) == words


def test_bash_takes_arguments_as_they_were() -> None:
    words = [word for word in HOSTILE if word.isascii() and word.isprintable()] + [chr(n) for n in range(32, 127)]
    line = " ".join(map(argument, words))
    told = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    assert told.stdout.split("\0")[:-1] == words


@pytest.mark.parametrize("word", [w for w in HOSTILE if not (w.isascii() and w.isprintable())] + ["\x00", "\x7f"])
def test_what_no_name_holds_is_no_argument(word: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        argument(word)


@given(st.text())
def test_a_comment_is_one_line_of_printable_ascii(text: str) -> None:
    line = comment(text)
    assert line.startswith("# ")
    assert line.isascii() and line.isprintable()


@pytest.mark.parametrize(("variable", "meaning"), [("a", "x"), ("A;B", "x"), ("A", "x}"), ("A", 'x"'), ("A", "$(x)")])
def test_a_variable_and_its_meaning_are_plain_words(variable: str, meaning: str) -> None:
    with pytest.raises(ValueError, match="no place in a script"):
        script([Fix("p", (), (Command((Unset(variable, meaning),)),))])


def run(folder: Path, text: str, **variables: str) -> tuple[int, list[list[str]], str]:
    """The script's exit code, the commands that it ran, and what it said."""
    (folder / "fix.sh").write_text(text, encoding="ascii")
    az = folder / "az"
    az.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" >> "$LOG"; printf "\\n" >> "$LOG"\n', encoding="ascii")
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    log = folder / "log"
    log.write_bytes(b"")
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log), **variables}
    ran = subprocess.run(["bash", "fix.sh"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    calls = [line.split("\0")[:-1] for line in log.read_text("utf-8").splitlines()]
    return ran.returncode, calls, ran.stderr


FIXES = [
    Fix(
        "first",
        ("a warning",),
        (Command(("az", "one", "--name", "a b", "--priority", Unset("PRIORITY_1", "a number"))),),
    ),
    Fix(
        "second", (), (Command(("az", "two")), Command(("az", "three", Unset("OTHER", "not asked for")), instead=True))
    ),
    Fix("third", ("no way",)),
]


def test_nothing_runs_before_every_variable_is_set(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, script(FIXES))
    assert (code != 0, calls) == (True, [])
    assert "PRIORITY_1: a number" in said


def test_what_runs_is_what_was_meant(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, script(FIXES), PRIORITY_1="2; touch owned")
    assert (code, said) == (0, "")
    assert calls == [["one", "--name", "a b", "--priority", "2; touch owned"], ["two"]]
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_said_in_a_script_is_run(tmp_path: Path, text: str) -> None:
    about = Unset("A", "a number", text)
    made = script([Fix(text, (text,), (Command(("az", about)), Command(("az", "x"), instead=True)))], about=[text])
    assert made.isascii()
    code, calls, said = run(tmp_path, made, A="1")
    assert (code, calls, said) == (0, [["1"]], "")
    assert {path.name for path in tmp_path.iterdir()} == {"fix.sh", "az", "log"}


def test_what_has_no_command_says_so() -> None:
    lines = script([Fix("third", ("no way",))]).splitlines()
    assert lines[-3:] == ["# 1. third", "#    no way", "#    No command: this is not mended here."]
