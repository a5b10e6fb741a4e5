"""The errors flowlens raises, one tree.

```
FlowlensError
├── FormatError    bytes are not what the format says       .where .problem
├── SourceError    a file, account or workspace said no     .where .problem .hint
├── ConfigError    flowlens.toml, an option or a list       .where .problem .hint
├── CatalogError   a profile or service-tag file is wrong   .where .problem .hint
└── LedgerError    what was read does not add up            .where .problem .hint
```

A message says where, what was expected and what was found; the hint says what to do next and stands on a
line of its own. Libraries raise these; only the command line prints them and picks an exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_WORDS_SHOWN = 40


class FlowlensError(Exception):
    """Base of every error that flowlens raises on purpose.

    >>> str(FlowlensError("a.json", "expected a record, found a list", hint="pass a flow log"))
    'a.json: expected a record, found a list\\n  hint: pass a flow log'
    """

    def __init__(self, where: str, problem: str, *, hint: str = "") -> None:
        self.where = where
        self.problem = problem
        self.hint = hint
        super().__init__(where, problem, hint)

    def __str__(self) -> str:
        head = f"{self.where}: {self.problem}" if self.where else self.problem
        return f"{head}\n  hint: {self.hint}" if self.hint else head


class FormatError(FlowlensError):
    """Bytes are not what the format says: a whole source is unreadable, not just one tuple.

    >>> FormatError("PT1H.json.gz", "the gzip stream is cut off").problem
    'the gzip stream is cut off'
    """


class SourceError(FlowlensError):
    """A file, a storage account or a workspace could not be read.

    >>> SourceError("logs", "no such file or folder", hint="did you mean log?").hint
    'did you mean log?'
    """


class ConfigError(FlowlensError):
    """flowlens.toml, an option, or a list given by the user is wrong.

    >>> str(ConfigError("--tz Tokio", "is no time zone"))
    '--tz Tokio: is no time zone'
    """


class CatalogError(FlowlensError):
    """An endpoint profile or a service-tag file is wrong or unknown.

    >>> isinstance(CatalogError("profiles", "unknown profile 'x'"), FlowlensError)
    True
    """


class LedgerError(FlowlensError):
    """What became of a blob's tuples or bytes does not add up: an error of flowlens itself, which ends the run.

    >>> LedgerError("PT1H.json", "expected 3 tuples, found 2").where
    'PT1H.json'
    """


def is_unicode(text: str) -> bool:
    """Whether no half of a surrogate pair is in ``text``, as JSON and the name of a file may hold one and no table can.

    >>> is_unicode("fühler"), is_unicode("\\udcff")
    (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)


def near_matches(name: str, known: Iterable[str]) -> str:
    """A hint naming the known words nearest to ``name``, or the first of them where none is near.

    >>> near_matches("windows-kmz", ["aks-core", "windows-kms"])
    'did you mean windows-kms?'
    >>> near_matches("zzz", ["b", "a"])
    'known: a, b'
    """
    words = sorted(known)
    lower = {word.lower(): word for word in words}
    close = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(lower[word] for word in close)}?"
    more = f" and {len(words) - _WORDS_SHOWN} more" if len(words) > _WORDS_SHOWN else ""
    return f"known: {', '.join(words[:_WORDS_SHOWN])}{more}" if words else ""
