"""Files in TOML: the config, schedules, profiles, lists of what is expected or accepted."""

from __future__ import annotations

import tomllib
from pathlib import Path

from flowlens.errors import ConfigError


def read_toml(path: Path, what: str = "") -> dict[str, object]:
    """The content of a file; raises ConfigError where it cannot be read, ``what`` being behind these words.

    >>> read_toml(Path("sample_logs/inventory.csv"), " as a list")
    Traceback (most recent call last):
    flowlens.errors.ConfigError: sample_logs/inventory.csv: cannot be read as a list: Expected '=' after a key ...
    """
    try:
        return parse_toml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), f"cannot be read{what}: {error}") from error


def parse_toml(data: bytes) -> dict[str, object]:
    """The content of a file's bytes; raises ValueError for whatever is no TOML, or can't be shown in an error.

    >>> parse_toml(b'cloud = "china"')
    {'cloud': 'china'}
    """
    try:
        content = tomllib.loads(data.decode("utf-8"))
        # Python reads hexadecimal numbers of any length, which it then refuses to write.
        repr(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return content
