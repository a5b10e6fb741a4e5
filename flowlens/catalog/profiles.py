"""Endpoint profiles: what a service needs to reach, one TOML file each, checked strictly when read.

A profile lists requirements; a requirement is one line of an answer and names one or more endpoints of which any will
do (the addresses of a name, the members of a one-of group). A profile of the user's own has the same form:

```toml
title = "Windows activation"
as_of = 2024-07-17
sources = ["the page or file that says so"]

[[requirement]]
name = "KMS activation"
cloud = "global"             # global, usgov, china
need = "required"            # required, conditional, recommended, safe-to-block
protocol = "tcp"             # tcp, udp, icmp, icmpv6, any
ports = "1688"               # any, a number, a range 11000-11999, or a list 80,443
purpose = "Windows licence activation"
as_of = 2024-07-17
endpoints = [                # ip, cidr, service-tag, fqdn, fqdn-wildcard, fqdn-tag
  { kind = "fqdn", value = "azkms.core.windows.net" },
  { kind = "ip", value = "20.118.99.224" },
]
```

``note``, ``retired = true``, ``telling = true`` and ``concerns`` are optional. ``<region>`` and the like are placeholders
that the user's settings fill.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from flowlens.catalog.placeholders import PLACEHOLDER
from flowlens.catalog.tags import CLOUDS
from flowlens.errors import CatalogError, ConfigError, near_matches
from flowlens.prefixes import normal
from flowlens.schema import PROTOCOL_NUMBER
from flowlens.toml_files import parse_toml

NEEDS = ("required", "conditional", "recommended", "safe-to-block")
EGRESS = "egress"
CONCERNS = (EGRESS, "ingress", "route", "rule")
"""What a requirement is about: traffic that must get out, traffic that must be let in, a route that must exist, or a tag
that only the rules of a network security group can name. Only egress is judged; the others are facts to look up."""
KINDS = ("ip", "cidr", "service-tag", "fqdn", "fqdn-wildcard", "fqdn-tag")
ANY = "any"
"""Any protocol, or any port."""
PROTOCOLS = (*PROTOCOL_NUMBER, ANY)

_LARGEST_FILE = 4 * 2**20
_LONGEST_TEXT = 1000
_AS_OF = re.compile(r"20[0-9]{2}(-[01][0-9](-[0-3][0-9])?)?|unknown")
_PORTS = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)+(?![0-9]+$){_LABEL}")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_-]+){0,4}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to name what must be reached: ``kind`` is one of KINDS, ``value`` may hold placeholders."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of an answer: a need, and the endpoints of which any meets it.

    ``as_of`` is the date of the oldest source behind it (``YYYY-MM-DD``, ``YYYY-MM``, ``YYYY`` or ``unknown``).
    ``retired`` marks a former requirement, kept to explain traffic: silence there is never "missing". ``telling`` marks one
    that nothing else has: a workload that tries it needs the whole profile. ``concerns`` is one of CONCERNS.
    """

    name: str
    cloud: str
    need: str
    protocol: str
    ports: str
    purpose: str
    as_of: str
    endpoints: tuple[Endpoint, ...]
    note: str = ""
    retired: bool = False
    telling: bool = False
    concerns: str = EGRESS

    @property
    def port_ranges(self) -> tuple[tuple[int, int], ...]:
        """First and last port of each range; every port where any will do.

        >>> load_profile("rhui").requirements[0].port_ranges
        ((443, 443),)
        """
        return _port_ranges(self.ports)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one service needs, in every cloud; ``name`` is that of the file, ``as_of`` the date of its newest source."""

    name: str
    title: str
    as_of: str
    sources: tuple[str, ...]
    requirements: tuple[Requirement, ...]


def profile_names() -> list[str]:
    """The profiles in the package, sorted.

    >>> len(profile_names()), profile_names()[-1]
    (38, 'windows-update')
    """
    return list(_packaged_names())


@functools.cache
def _packaged_names() -> tuple[str, ...]:
    entries = (resources.files("flowlens.catalog") / "data" / "profiles").iterdir()
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")))


def load_profile(name_or_path: str | Path) -> Profile:
    """The profile of that name in the package, or the one in the user's own file.

    Text that holds a path separator or ends in ``.toml`` is a path. Raises CatalogError for an unknown name, and for a
    file that cannot be read or has anything wrong in it: then nothing of it is used.

    >>> load_profile("windows-kms").title
    'Windows activation (KMS)'
    """
    names = profile_names()
    if isinstance(name_or_path, str) and name_or_path in names:
        return _packaged(name_or_path)
    text = str(name_or_path)
    if isinstance(name_or_path, str) and not (text.endswith(".toml") or "/" in text or "\\" in text):
        raise CatalogError("profiles", f"unknown profile {text[:80]!r}", hint=near_matches(text, names))
    path = Path(name_or_path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CatalogError(text, f"can't read the profile: {reason}") from error
    if len(data) > _LARGEST_FILE:
        raise CatalogError(text, f"expected a profile, found more than {_LARGEST_FILE} bytes")
    return read_profile(data, name=path.stem, where=text)


@functools.cache
def _packaged(name: str) -> Profile:
    data = (resources.files("flowlens.catalog") / "data" / "profiles" / f"{name}.toml").read_bytes()
    return read_profile(data, name=name, where=f"{name}.toml")


def read_profile(data: bytes, *, name: str, where: str) -> Profile:
    """The profile in the bytes of a TOML file; ``where`` names the file in errors.

    Raises CatalogError, naming the entry, for unknown keys, kinds, clouds, needs, ports, addresses, and for names that
    are there twice.
    """
    try:
        document = parse_toml(data)
    except ValueError as error:
        raise CatalogError(where, f"expected TOML: {error}") from error
    top = _Entry(where, "", document, ("title", "as_of", "sources", "requirement"))
    requirements: dict[tuple[str, str], Requirement] = {}
    for number, table in enumerate(top.tables("requirement"), start=1):
        requirement = _requirement(where, number, table)
        key = (requirement.cloud, requirement.name.lower())
        if key in requirements:
            raise CatalogError(where, f"requirement {number}: {requirement.name!r} is there twice for {key[0]}")
        requirements[key] = requirement
    return Profile(name, top.text("title"), top.date("as_of"), top.texts("sources"), tuple(requirements.values()))


def _requirement(where: str, number: int, table: object) -> Requirement:
    entry = _Entry(where, f"requirement {number}", table, tuple(Requirement.__slots__))
    entry = replace(entry, place=f"requirement {number} ({entry.text('name')!r})")
    endpoints: list[Endpoint] = []
    for table in entry.tables("endpoints"):
        endpoint = _endpoint(entry, table)
        if endpoint in endpoints:
            raise entry.wrong(f"endpoint {endpoint.value!r} is there twice")
        endpoints.append(endpoint)
    protocol, ports = entry.one_of("protocol", PROTOCOLS), entry.text("ports")
    if ports != ANY and not (_PORTS.fullmatch(ports) and all(0 < a <= b < 2**16 for a, b in _port_ranges(ports))):
        raise entry.wrong(f"expected ports such as 443, 80,443, 11000-11999 or any, found {ports[:80]!r}")
    if ports != ANY and protocol.startswith("icmp"):
        raise entry.wrong(f"expected ports any, since {protocol} has none, found {ports[:80]!r}")
    return Requirement(
        name=entry.text("name"),
        cloud=entry.one_of("cloud", CLOUDS),
        need=entry.one_of("need", NEEDS),
        protocol=protocol,
        ports=ports,
        purpose=entry.text("purpose"),
        as_of=entry.date("as_of"),
        endpoints=tuple(endpoints),
        note=entry.text("note", default=""),
        retired=entry.flag("retired"),
        telling=entry.flag("telling"),
        concerns=entry.one_of("concerns", CONCERNS, default=EGRESS),
    )


def _endpoint(requirement: _Entry, table: object) -> Endpoint:
    entry = _Entry(requirement.where, f"{requirement.place}, endpoints", table, ("kind", "value"))
    kind, value = entry.one_of("kind", KINDS), entry.text("value")
    if not _IS[kind](value):
        raise entry.wrong(f"expected {_SAMPLE[kind]}, found {value[:80]!r}")
    return Endpoint(kind, value)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A TOML table with the place it stands at; asking for a key checks its value."""

    where: str
    place: str
    table: object
    known: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.table, dict):
            raise self.wrong(f"expected a table, found {str(self.table)[:80]!r}")
        for key in self.table:
            if key not in self.known:
                raise self.wrong(f"unknown key {key[:80]!r}", hint=near_matches(key, self.known))

    def wrong(self, problem: str, *, hint: str = "") -> CatalogError:
        return CatalogError(self.where, f"{self.place}: {problem}" if self.place else problem, hint=hint)

    def value(self, key: str) -> object:
        assert isinstance(self.table, dict)
        if key not in self.table:
            raise self.wrong(f"expected {key}, found none")
        return self.table[key]

    def text(self, key: str, *, default: str | None = None) -> str:
        assert isinstance(self.table, dict)
        if default is not None and key not in self.table:
            return default
        return self._checked(key, self.value(key))

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._checked(key, value) for value in self.tables(key))

    def one_of(self, key: str, words: Iterable[str], *, default: str | None = None) -> str:
        word = self.text(key, default=default)
        if word not in words:
            raise self.wrong(f"expected {key} {', '.join(words)}, found {word[:80]!r}")
        return word

    def date(self, key: str) -> str:
        value = self.value(key)
        text = value.isoformat() if isinstance(value, dt.date) and not isinstance(value, dt.datetime) else value
        if not (isinstance(text, str) and _AS_OF.fullmatch(text)):
            raise self.wrong(f"expected {key} such as 2026-01-15, 2026-01 or unknown, found {str(value)[:80]!r}")
        return text

    def flag(self, key: str) -> bool:
        assert isinstance(self.table, dict)
        value = self.table.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(f"expected {key} true or false, found {str(value)[:80]!r}")
        return value

    def tables(self, key: str) -> list[object]:
        value = self.value(key)
        if not isinstance(value, list) or not value:
            raise self.wrong(f"expected a list of {key}, found {str(value)[:80]!r}")
        return value

    def _checked(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_TEXT or not value.isprintable():
            raise self.wrong(f"expected {key} as one line of text, found {str(value)[:80]!r}")
        return value


def _port_ranges(ports: str) -> tuple[tuple[int, int], ...]:
    if ports == ANY:
        return ((0, 2**16 - 1),)
    pairs = (part.partition("-") for part in ports.split(","))
    return tuple((int(first), int(last or first)) for first, _, last in pairs)


def _is_prefix(value: str) -> bool:
    try:
        return normal(value) == value
    except ConfigError:
        return False


def _is_address(value: str) -> bool:
    return "/" not in value and any(_is_prefix(f"{value}/{bits}") for bits in (32, 128))


def _filled_in(value: str) -> str:
    return PLACEHOLDER.sub("x", value)


_IS: dict[str, Callable[[str], bool]] = {
    "ip": lambda value: bool(PLACEHOLDER.fullmatch(value)) or _is_address(value),
    "cidr": lambda value: bool(PLACEHOLDER.fullmatch(value)) or ("/" in value and _is_prefix(value)),
    "service-tag": lambda value: bool(_TAG.fullmatch(_filled_in(value))),
    "fqdn": lambda value: bool(_HOST.fullmatch(value)),
    "fqdn-wildcard": lambda value: (
        bool(_HOST.fullmatch(_filled_in(value).replace("*", "x"))) and bool("*" in value or PLACEHOLDER.search(value))
    ),
    "fqdn-tag": lambda value: bool(_TAG.fullmatch(value)),
}
_SAMPLE = {
    "ip": "an address in canonical text, such as 20.118.99.224, or a placeholder such as <APIServerPublicIP>",
    "cidr": "a prefix without host bits, such as 20.190.128.0/18, or a placeholder such as <RegionCIDRs>",
    "service-tag": "a service tag, such as AzureMonitor or AzureCloud.<Region>",
    "fqdn": "a name without * or <placeholder>, such as mcr.microsoft.com",
    "fqdn-wildcard": "a name with * or a <placeholder>, such as *.data.mcr.microsoft.com",
    "fqdn-tag": "an FQDN tag, such as AzureKubernetesService",
}
