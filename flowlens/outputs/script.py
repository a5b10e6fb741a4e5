"""Commands as a script for bash, in ASCII: every argument goes through one encoder, all else is a comment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from flowlens.analyses.fix_commands import Command, Fix, Unset, Word
from flowlens.outputs.text import clean

_MEANING = re.compile(r"[A-Za-z0-9 ,.()/*-]+")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def script(fixes: Sequence[Fix], *, about: Sequence[str] = ()) -> str:
    """The fixes as a script: what to know and to fill in first, then each problem with its commands.

    It runs nothing before all variables are set. ``about`` are sentences for its head.

    >>> print(script([Fix("vm-a: KMS is denied", (), (Command(("az", "version")),))]).splitlines()[-1])
    az version
    """
    unset = {
        word.variable: word
        for fix in fixes
        for c in fix.commands
        if not c.instead
        for word in c.words
        if isinstance(word, Unset)
    }
    lines = ["#!/usr/bin/env bash", *(comment(text) for text in about), "set -eu"]
    lines += [_check(word) for word in unset.values()]
    for number, fix in enumerate(fixes, 1):
        lines += ["", comment(f"{number}. {fix.problem}"), *(comment(f"   {warning}") for warning in fix.warnings)]
        lines += [_line(command) for command in fix.commands]
        if not fix.commands:
            lines.append(comment("   No command: this is not mended here."))
    return "\n".join(lines) + "\n"


def _check(word: Unset) -> str:
    """What ends the script where a variable has no value."""
    line = f': "${{{_checked(word.variable, _VARIABLE)}:?{_checked(word.meaning, _MEANING)}}}"'
    return f"{line}  {comment(word.about)}" if word.about else line


def _line(command: Command) -> str:
    line = " ".join(map(argument, command.words))
    return comment(f"   Instead: {line}") if command.instead else line


def argument(word: Word) -> str:
    """One argument, quoted so that a shell takes it as it is; a variable where only the user knows it.

    >>> argument("Tcp"), argument("x'; rm -rf /"), argument(Unset("PRIORITY_1", "a free number"))
    ('Tcp', '\\'x\\'"\\'"\\'; rm -rf /\\'', '"$PRIORITY_1"')
    """
    if isinstance(word, Unset):
        return f'"${_checked(word.variable, _VARIABLE)}"'
    if not (word.isascii() and word.isprintable()):
        raise ValueError(f"an argument is printable ASCII, found {word!r}")
    return shlex.quote(word)


def comment(text: str) -> str:
    """The text as one line of comment, whatever it holds.

    >>> comment("a\\nrm -rf /")
    '# a\\\\nrm -rf /'
    """
    return f"# {clean(text)}".encode("ascii", "backslashreplace").decode("ascii")


def _checked(text: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(text):
        raise ValueError(f"{text!r} has no place in a script")
    return text
