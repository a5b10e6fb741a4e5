"""What profiles leave open, such as the region of the workloads, and the user's values for it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from flowlens.errors import ConfigError, near_matches

if TYPE_CHECKING:
    from flowlens.catalog.profiles import Profile, Requirement

Settings = Mapping[str, str | list[str]]
"""Values by placeholder: a text, or a list where several will do."""

PLACEHOLDER = re.compile(r"<([A-Za-z][A-Za-z0-9_-]{0,60})>")

PLACEHOLDERS = {
    "region": "Azure region of the workloads, such as japaneast",
    "region-pair": "the region that Azure pairs with it, such as japanwest",
    "APIServerPublicIP": "public address of the cluster's API server",
    "CustomDNSIP": "address of your own DNS server",
    "RegionCIDRs": "prefixes of the region's Azure addresses",
    "dce": "name of the data collection endpoint",
    "mi-subnet": "prefix of the SQL Managed Instance subnet",
    "server": "name of the SQL server",
    "tenant": "name of the Microsoft 365 tenant",
    "vault": "name of the key vault",
    "workspace": "name of the Defender for Identity workspace",
    "workspace-id": "id of the Log Analytics workspace",
}
"""The placeholders of the package's profiles and what fills them."""

# Pages spell these two in several ways.
_SAME = {
    "location": "region",
    "primaryregion": "region",
    "clusterregionname": "region",
    "secondaryregion": "regionpair",
    "geopaired": "regionpair",
}
_REGIONS = ("region", "regionpair")


def key_of(name: str) -> str:
    """The one spelling under which a placeholder is known, whatever its case and dashes.

    >>> key_of("<Region>"), key_of("location"), key_of("REGION_PAIR")
    ('region', 'region', 'regionpair')
    """
    key = re.sub(r"[-_\s]", "", name.removeprefix("<").removesuffix(">")).lower()
    return _SAME.get(key, key)


def parse_settings(texts: Iterable[str]) -> dict[str, str | list[str]]:
    """Settings of texts such as ``location=japaneast``; one that is given again has several values.

    Raises ConfigError for text without a name or a value.

    >>> parse_settings(["region=japaneast", "CustomDNSIP=10.0.0.4", "CustomDNSIP=10.0.0.5"])
    {'region': 'japaneast', 'CustomDNSIP': ['10.0.0.4', '10.0.0.5']}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not (name.strip() and value.strip()):
            raise ConfigError(f"--set {text[:80]!r}", "expected NAME=VALUE", hint="write --set location=japaneast")
        found.setdefault(name.strip(), []).append(value.strip())
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def check_settings(settings: Settings, profiles: Iterable[Profile] = ()) -> None:
    """Raises ConfigError for a setting that neither the package's profiles nor these have a placeholder for.

    >>> check_settings({"location": "japaneast"})
    """
    known = _known(profiles)
    for name in settings:
        if key_of(name) not in known:
            raise _unknown(name, known)


def configured_settings(settings: Settings, profiles: Iterable[Profile] = ()) -> dict[str, str | list[str]]:
    """Of a config's settings those that the package's profiles or these have a placeholder for.

    The others belong to profiles that are not asked for now. Raises ConfigError for one that is nearly a known name.

    >>> configured_settings({"location": "japaneast", "my-site": "tokyo"})
    {'location': 'japaneast'}
    """
    known = _known(profiles)
    for name in settings:
        if key_of(name) not in known and (error := _unknown(name, known)).hint.startswith("did you mean"):
            raise error
    return {name: value for name, value in settings.items() if key_of(name) in known}


def chosen_settings(
    texts: Iterable[str], configured: Settings, profiles: Iterable[Profile] = ()
) -> dict[str, str | list[str]]:
    """What fills these profiles and the package's: settings of texts (see parse_settings) above those of a config.

    Raises what parse_settings, check_settings and configured_settings raise.

    >>> chosen_settings(["location=japaneast"], {"location": "westus", "vault": "mine"})
    {'location': 'japaneast', 'vault': 'mine'}
    """
    profiles = list(profiles)
    given = parse_settings(texts)
    check_settings(given, profiles)
    return {**configured_settings(configured, profiles), **given}


def left_open(requirements: Iterable[Requirement], settings: Settings | None = None) -> dict[str, str]:
    """The placeholders that these requirements leave open and no setting fills, with what each stands for.

    >>> from flowlens.catalog import load_profile
    >>> sorted(left_open(load_profile("azure-sql").requirements, {"location": "japaneast"}))
    ['server']
    """
    told = {key_of(name): (name, text) for name, text in PLACEHOLDERS.items()}
    values = (endpoint.value for requirement in requirements for endpoint in requirement.endpoints)
    used = {key_of(name): name for value in values for name in PLACEHOLDER.findall(value)}
    for name in settings or {}:
        used.pop(key_of(name), None)
    return dict(told.get(key, (name, "yours")) for key, name in used.items())


def _known(profiles: Iterable[Profile]) -> dict[str, str]:
    """Placeholders by ``key_of``."""
    values = (endpoint.value for profile in profiles for r in profile.requirements for endpoint in r.endpoints)
    own = {key_of(name): name for value in values for name in PLACEHOLDER.findall(value)}
    return {**{key_of(name): name for name in PLACEHOLDERS}, **own}


def _unknown(name: str, known: Mapping[str, str]) -> ConfigError:
    hint = near_matches(name, [*known.values(), "location"])
    return ConfigError(f"placeholder {name[:80]!r}", "is in no profile", hint=hint)


def given(settings: Settings) -> dict[str, list[str]]:
    """Values by ``key_of``; regions in the form of Azure Resource Manager.

    Raises ConfigError for a setting that is no text or no list of texts.

    >>> given({"Location": "Japan East"})
    {'region': ['japaneast']}
    """
    found: dict[str, list[str]] = {}
    for name, value in settings.items():
        key = key_of(name)
        values = [value] if isinstance(value, str) else value
        if not (isinstance(values, list) and values and all(_is_setting(text) for text in values)):
            raise ConfigError("settings", f"{name}: expected text or a list of texts, found {str(value)[:80]!r}")
        found[key] = [text.replace(" ", "").lower() if key in _REGIONS else text.strip() for text in values]
    return found


def filled(value: str, settings: Mapping[str, list[str]]) -> Iterator[str]:
    """The value with every combination of its placeholders' settings; a placeholder without a setting stays.

    >>> list(filled("Storage.<Region>", {"region": ["westus", "eastus"]}))
    ['Storage.westus', 'Storage.eastus']
    """
    names = list(dict.fromkeys(PLACEHOLDER.findall(value)))
    for chosen in itertools.product(*(settings.get(key_of(name), [f"<{name}>"]) for name in names)):
        result = value
        for name, setting in zip(names, chosen, strict=True):
            result = result.replace(f"<{name}>", setting)
        yield result


def _is_setting(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable() and not re.search(r"[<>*]", value)
