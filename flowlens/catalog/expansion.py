"""From a requirement to the prefixes that traffic to it shows in a log, and what keeps it from being tested."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import NamedTuple

from flowlens.catalog.names import Names
from flowlens.catalog.placeholders import PLACEHOLDER, Settings, filled, given, key_of
from flowlens.catalog.profiles import EGRESS, Endpoint, Profile, Requirement
from flowlens.catalog.tags import CLOUDS, ServiceTags
from flowlens.errors import CatalogError
from flowlens.prefixes import normal

CONFIDENCES = ("high", "medium", "low", "none")
"""How sure a service tag stands for a name: documented or the prefixes coincide; a documented dependency or the evident
owner; plausible only; no tag does."""

_EVERYWHERE = ("0.0.0.0/0", "::/0")
_NSG_ONLY = ("azureplatformdns", "azureplatformimds", "azureplatformlkm")


class Reach(NamedTuple):
    """Prefixes that show traffic to one endpoint, and what such traffic proves."""

    match: str
    endpoint: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expansion:
    """Where traffic to a requirement goes: ``reaches`` has one or more entries for each endpoint that can be tested.

    ``match`` is one of ``schema.MATCHES``: ``address`` for listed addresses and prefixes, ``name`` for the addresses that
    a name is known to have stood for, ``service tag``, ``approximate tag`` for a name that a tag stands for, ``port only``
    where any address will do. ``endpoint`` is the endpoint's value with its placeholders filled. ``confidence`` is high,
    medium or low for each endpoint matched by an approximate tag. ``untestable`` gives one reason for each endpoint that no
    address can be tied to; if ``reaches`` is empty, nothing can be said about the requirement. ``names`` are all its names
    and patterns of names, ``private`` the private ones of their prefixes.
    """

    reaches: tuple[Reach, ...]
    confidence: Mapping[str, str] = field(default_factory=dict)
    untestable: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    private: frozenset[str] = frozenset()

    @property
    def prefixes(self) -> tuple[tuple[str, str, str], ...]:
        """Each prefix with its match and endpoint."""
        return tuple((prefix, reach.match, reach.endpoint) for reach in self.reaches for prefix in reach.prefixes)


def expand(
    requirement: Requirement, tags: ServiceTags, settings: Settings | None = None, names: Names | None = None
) -> Expansion:
    """The prefixes behind a requirement, with the user's settings in its placeholders.

    Settings are named as the placeholders are, whatever their case and dashes; ``region`` and ``location`` stand for each
    other; a list fills a placeholder with several values. ``names`` are those of the time of the flows. Raises
    CatalogError where ``tags`` are of another cloud, ConfigError where a setting is no text or fills an address with what
    is none.

    >>> from flowlens.catalog import load_profile, load_tags
    >>> expand(load_profile("windows-kms").requirements[0], load_tags()).prefixes[0]
    ('20.118.99.224/32', 'address', '20.118.99.224')
    """
    if tags.cloud != requirement.cloud:
        raise CatalogError(requirement.name, f"is a requirement of {requirement.cloud}, the tags are of {tags.cloud}")
    known = given(settings or {})
    # A name beside its listed addresses is tested by these.
    has_addresses = any(
        e.kind in ("ip", "cidr") and e.value not in _EVERYWHERE and not PLACEHOLDER.search(e.value)
        for e in requirement.endpoints
    )
    reaches: list[Reach] = []
    # Many names of one requirement share a tag: it stands once, for the name that it surest stands for.
    approximate: dict[str, str] = {}
    confidence: dict[str, str] = {}
    untestable: list[str] = []
    for endpoint in requirement.endpoints:
        for value in filled(endpoint.value, known):
            if endpoint.kind in ("fqdn", "fqdn-wildcard"):
                found, missing = _by_known_name(value, names)
                likely, sure, reason = _by_name(value, tags, known)
                reason = "" if has_addresses or found else "; ".join(part for part in (reason, missing) if part)
                confidence[value] = sure
                for tag in likely:
                    before = approximate.setdefault(tag, value)
                    if CONFIDENCES.index(sure) < CONFIDENCES.index(confidence[before]):
                        approximate[tag] = value
            else:
                found, reason = _by_address(Endpoint(endpoint.kind, value), tags)
            reaches += [found] if found else []
            if reason:
                untestable.append(f"{value}: {reason}")
    reaches += [Reach("approximate tag", value, tags.prefixes(tag)) for tag, value in approximate.items()]
    used = {value: confidence[value] for value in dict.fromkeys(approximate.values())}
    by_name = (reach.prefixes for reach in reaches if reach.match == "name") if names and names.private else ()
    private = frozenset(p for prefixes in by_name for p in prefixes if names and p in names.private)
    return Expansion(tuple(reaches), used, tuple(dict.fromkeys(untestable)), tuple(confidence), private)


def names_of(
    profiles: Iterable[Profile], cloud: str, settings: Settings, names: Names | None = None
) -> tuple[list[str], list[str]]:
    """The names that profiles list for egress in a cloud, and the patterns of which no name is known, each sorted.

    ``names`` are those that a log asked for: they stand in for the patterns that they fit.

    >>> from flowlens.catalog import load_profile
    >>> names_of([load_profile("azure-sql")], "global", {"server": "db1"})
    (['db1.database.windows.net', 'login.microsoftonline.com'], [])
    """
    known = given(settings)
    wanted: set[str] = set()
    patterns: set[str] = set()
    for profile in profiles:
        for requirement in profile.requirements:
            if requirement.cloud != cloud or requirement.concerns != EGRESS:
                continue
            for endpoint in requirement.endpoints:
                if endpoint.kind not in ("fqdn", "fqdn-wildcard"):
                    continue
                for value in filled(endpoint.value, known):
                    if not re.search(r"[*<]", value):
                        wanted.add(value.lower())
                    elif fitting := names.asked(value) if names else []:
                        wanted.update(fitting)
                    else:
                        patterns.add(value)
    return sorted(wanted), sorted(patterns)


@dataclass(frozen=True, slots=True)
class Approximation:
    """Service tags that stand for the names of a pattern; no tags where ``confidence`` is none.

    ``clouds`` are those whose tags hold the addresses: some names of a national cloud are served from the global one.
    """

    pattern: str
    tags: tuple[str, ...]
    confidence: str
    basis: str
    clouds: tuple[str, ...]

    def match(self, name: str) -> re.Match[str] | None:
        """How the pattern holds the name: ``*`` is any text, ``<location>`` one label."""
        return _regex(self.pattern).fullmatch(name.lower())


@functools.cache
def approximations() -> tuple[Approximation, ...]:
    """All patterns of names with the service tags that stand for them; the first that holds a name counts.

    >>> approximation("login.microsoftonline.com").tags
    ('AzureActiveDirectory',)
    """
    data = (resources.files("flowlens.catalog") / "data" / "approximate_tags.toml").read_text("utf-8")
    return tuple(
        Approximation(
            pattern, tuple(entry["tags"]), entry["confidence"], entry["basis"], tuple(entry.get("clouds", CLOUDS))
        )
        for entry in tomllib.loads(data)["approximation"]
        for pattern in entry["patterns"]
    )


@functools.lru_cache(maxsize=4096)
def approximation(name: str) -> Approximation | None:
    """The service tags that stand for a name, or for a pattern of names; None where nothing is known of it.

    >>> approximation("westeurope.monitoring.azure.com").confidence
    'high'
    """
    return next((known for known in approximations() if known.match(name)), None)


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(
        "".join(
            ".*" if part == "*" else f"(?P<{part[1:-1]}>[^.]+)" if part.startswith("<") else re.escape(part)
            for part in re.split(r"(\*|<\w+>)", pattern)
        )
    )


def _by_address(endpoint: Endpoint, tags: ServiceTags) -> tuple[Reach | None, str]:
    """Prefixes of an address, a prefix or a tag; or else the reason why there are none."""
    value = endpoint.value
    if endpoint.kind == "fqdn-tag":
        return None, "an FQDN tag of Azure Firewall, whose members are not published"
    if placeholders := PLACEHOLDER.findall(value):
        return None, _unset(placeholders)
    if endpoint.kind == "service-tag":
        name = _tag(value, tags)
        if name is not None:
            return Reach("service tag", value, tags.prefixes(name)), ""
        if value.lower() in _NSG_ONLY:
            return None, "a service tag for NSG rules alone, without published prefixes"
        return None, f"no such service tag in the {tags.cloud} file of {tags.date}"
    prefix = normal(value, where="settings")
    if prefix in _EVERYWHERE:
        return Reach("port only", value, _EVERYWHERE), ""
    return Reach("address", value, (prefix,)), ""


def _by_known_name(name: str, names: Names | None) -> tuple[Reach | None, str]:
    """Prefixes of the addresses that a name, or each name of a pattern, stood for; or the reason why none is used."""
    if names is None:
        return None, ""
    if prefixes := names.prefixes(name):
        return Reach("name", name, prefixes), ""
    if name in names.outdated:
        return None, f"its addresses are known for {names.outdated[name]:%Y-%m-%d} and not for the time of these logs"
    return None, "asked for in the names given, but without an address" if names.asked(name) else ""


def _by_name(name: str, tags: ServiceTags, settings: Mapping[str, list[str]]) -> tuple[list[str], str, str]:
    """The tags that stand for a name, the confidence in them, or the reason why there are none."""
    known = approximation(name)
    if known is None:
        return [], "none", "no service tag is known to stand for this name"
    if not known.tags:
        return [], "none", f"no service tag stands for this name: {known.basis}"
    if tags.cloud not in known.clouds:
        return [], "none", f"served from the {' or '.join(known.clouds)} cloud, outside the {tags.cloud} service tags"
    held = known.match(name)
    captured = {
        key_of(key): [text] for key, text in (held.groupdict() if held else {}).items() if not PLACEHOLDER.search(text)
    }
    wanted = [tag for each in known.tags for tag in filled(each, {**settings, **captured})]
    found = [tag for each in wanted if (tag := _tag(each, tags)) is not None]
    if found:
        return list(dict.fromkeys(found)), known.confidence, ""
    if placeholders := [key for tag in wanted for key in PLACEHOLDER.findall(tag)]:
        return [], "none", _unset(placeholders)
    return [], "none", f"{' and '.join(wanted)}: no such service tag in the {tags.cloud} file of {tags.date}"


def _tag(tag: str, tags: ServiceTags) -> str | None:
    """The tag's name as published; None where the cloud has no such tag, or none of its prefixes."""
    name = tags.find(tag)
    return name if name is not None and tags.prefixes(name) else None


def _unset(placeholders: list[str]) -> str:
    return f"no value is set for {', '.join(f'<{name}>' for name in dict.fromkeys(placeholders))}"
