"""Accepted findings: what somebody has looked at and takes for some time, with a reason and a name."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path

from flowlens.errors import ConfigError, near_matches
from flowlens.toml_files import read_toml

_ID = re.compile(r"[0-9a-f]{16}")
_FIELDS = ("id", "reason", "owner", "expires")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """That a finding is accepted: why, by whom, and the last day (UTC) on which that holds.

    >>> Acceptance("0123456789abcdef", "until the move", "net-team", dt.date(2026, 12, 31)).holds(dt.date(2027, 1, 1))
    False
    """

    id: str
    reason: str
    owner: str
    expires: dt.date

    def holds(self, today: dt.date) -> bool:
        """Whether it still holds on that day."""
        return today <= self.expires


def read_acceptances(path: str | Path) -> tuple[Acceptance, ...]:
    """The entries of a TOML file with ``[[accept]]`` tables of ``id``, ``reason``, ``owner`` and ``expires``.

    Raises ConfigError naming the entry that is wrong: a field that is missing, unknown or empty, an id that is none or stands
    there twice, an expiry that is no date.
    """
    content = read_toml(Path(path), " as a list of accepted findings")
    for word in content:
        if word != "accept":
            raise ConfigError(str(path), f"unknown section {word!r:.40}", hint=near_matches(word, ["accept"]))
    entries = content.get("accept", [])
    if not isinstance(entries, list):
        raise ConfigError(str(path), "expected [[accept]] entries", hint="write two brackets on each side")
    read: dict[str, Acceptance] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: entry {number}"
        acceptance = _acceptance(where, entry)
        if acceptance.id in read:
            raise ConfigError(where, f"{acceptance.id} is accepted twice")
        read[acceptance.id] = acceptance
    return tuple(read.values())


def _acceptance(where: str, entry: object) -> Acceptance:
    if not isinstance(entry, dict):
        raise ConfigError(where, f"expected a table, found {entry!r:.60}")
    for word in entry:
        if word not in _FIELDS:
            raise ConfigError(where, f"unknown key {word!r:.40}", hint=near_matches(word, _FIELDS))
    texts = []
    for name in ("id", "reason", "owner"):
        value = entry.get(name)
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(where, f"expected {name} as a text", hint="an accepted finding has a reason and an owner")
        texts.append(value.strip())
    if not _ID.fullmatch(texts[0]):
        raise ConfigError(
            where, f"{texts[0]!r:.40} is no id of a finding", hint="copy it from --format json or markdown"
        )
    expires = entry.get("expires")
    if not isinstance(expires, dt.date) or isinstance(expires, dt.datetime):
        raise ConfigError(
            where, f"expected expires as a date, found {expires!r:.40}", hint="write expires = 2026-12-31"
        )
    return Acceptance(texts[0], texts[1], texts[2], expires)
