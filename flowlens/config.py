"""flowlens.toml: the user's own networks, names, placeholders and expected destinations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowlens.errors import ConfigError, near_matches
from flowlens.inventory import Networks
from flowlens.prefixes import normal
from flowlens.schema import OUTBOUND_METHODS
from flowlens.toml_files import read_toml

CLOUDS = ("global", "usgov", "china")
VARIABLE = "FLOWLENS_CONFIG"
FILE = "flowlens.toml"
SECTIONS = {"cloud", "networks", "placeholders", "expected", "outbound", "service_endpoints"}
"""What flowlens.toml may hold."""
_NETWORKS = {"internal", "names"}


@dataclass(frozen=True, slots=True)
class Config:
    """What flowlens.toml says; ``path`` is None where there is none."""

    path: Path | None = None
    cloud: str = "global"
    networks: Networks = field(default_factory=Networks)
    placeholders: Mapping[str, str | list[str]] = field(default_factory=dict)
    has_expected: bool = False
    outbound: Mapping[str, str] = field(default_factory=dict)
    service_endpoints: Mapping[str, list[str]] = field(default_factory=dict)


def read_config(path: str | Path | None = None) -> Config:
    """The config of ``path``, else of the file that FLOWLENS_CONFIG names, else of flowlens.toml in the working folder.

    Raises ConfigError for a file that cannot be read and for any unknown word in it, with near matches.

    >>> read_config().cloud
    'global'
    """
    named = path or os.environ.get(VARIABLE)
    file = Path(named) if named else Path(FILE)
    if not named and not file.is_file():
        return Config()
    return _config(file, read_toml(file))


def _config(file: Path, content: Mapping[str, object]) -> Config:
    _only_known(str(file), content, SECTIONS)
    cloud = content.get("cloud", "global")
    if cloud not in CLOUDS:
        raise ConfigError(str(file), f"unknown cloud {cloud!r:.40}", hint=near_matches(str(cloud), CLOUDS))
    networks = _table(file, content, "networks")
    _only_known(f"{file}: [networks]", networks, _NETWORKS)
    internal = networks.get("internal", [])
    names = networks.get("names", {})
    if not isinstance(internal, list) or not isinstance(names, dict):
        raise ConfigError(str(file), "expected networks.internal as a list and networks.names as a table")
    placeholders = _table(file, content, "placeholders")
    for name, value in placeholders.items():
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise ConfigError(f"{file}: [placeholders]", f"expected text or a list of texts for {name}")
    outbound = _table(file, content, "outbound")
    for subnet, method in outbound.items():
        if not isinstance(method, str) or method.lower() not in OUTBOUND_METHODS:
            where = f"{file}: [outbound] {subnet!r:.60}"
            raise ConfigError(where, f"unknown method {method!r:.40}", hint=near_matches(str(method), OUTBOUND_METHODS))
    services = _table(file, content, "service_endpoints")
    for subnet, listed in services.items():
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise ConfigError(f"{file}: [service_endpoints]", f"expected a list of texts for {subnet!r:.60}")
    return Config(
        path=file,
        cloud=str(cloud),
        networks=Networks(
            internal=tuple(normal(str(prefix), where=str(file)) for prefix in internal),
            names=tuple((normal(str(prefix), where=str(file)), str(name)) for prefix, name in names.items()),
        ),
        placeholders={name: value for name, value in placeholders.items() if isinstance(value, (str, list))},
        has_expected="expected" in content,
        outbound={subnet: method.lower() for subnet, method in outbound.items() if isinstance(method, str)},
        service_endpoints={subnet: listed for subnet, listed in services.items() if isinstance(listed, list)},
    )


def _table(file: Path, content: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(str(file), f"expected [{name}] to be a table")
    return table


def _only_known(where: str, table: Mapping[str, object], known: set[str]) -> None:
    for word in table:
        if word not in known:
            raise ConfigError(where, f"unknown key {word!r:.40}", hint=near_matches(word, known))
