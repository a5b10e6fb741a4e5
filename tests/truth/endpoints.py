"""Required endpoints and what becomes of them: invented logs of one cloud with the right answer for every case.

Each case is a workload of its own, and each profile has one target: a published fact whose address is known, by itself or
because a names file says so. In each case all targets share one fate, so that one scan serves all profiles of a cloud. The
facts are read from the published table, the service tags from the snapshot; nothing here imports flowlens.

**What silence says.** Nothing was tried: *Not seen* where at least one alternative could have been seen and none could have
been missed, else *Cannot tell*. An address or a prefix is seen; so is a service tag with published prefixes, and a name that
a tag stands for with high confidence. A name is no more than the addresses known of it, so it may be missed. What goes to the
platform's own addresses need not be logged at all. A retired endpoint, or one that may be blocked, has no row.

**What a service says.** Where no name is known, the logs of generate_services try an address of every tag that stands for a
name; a requirement is then told by what it has in common with these, never by its own name.

**What a sibling says.** Of a group of which any member will do one is denied and another answers: reached. Where that other is
any address at all, it proves nothing, but neither is the denied one missed for sure.
"""

from __future__ import annotations

import csv
import datetime as dt
import functools
import ipaddress
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

TOP = Path(__file__).resolve().parents[2]
FACTS = TOP / "tests" / "data" / "required_endpoints.csv"
DATA = TOP / "flowlens" / "catalog" / "data"
HOUR = dt.datetime(2026, 6, 15, 9, tzinfo=dt.UTC)
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
VNET = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-a/providers/Microsoft.Network/virtualNetworks/vnet-a"
NSG = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-a/providers/Microsoft.Network/networkSecurityGroups/nsg-a"
ADMIN = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-a/providers/Microsoft.Network/networkManagers/nm-a"
REGIONS = {
    "global": ("westeurope", "northeurope"),
    "usgov": ("usgovvirginia", "usgovtexas"),
    "china": ("chinaeast2", "chinanorth2"),
}
PLATFORM = ("168.63.129.16", "169.254.169.254")
NUMBER = {"tcp": 6, "udp": 17, "any": 6}
SPOKEN_TLS = (443, 993, 995)
ELSEWHERE = "198.51.100.9"
ANYWHERE = EVERYWHERE, _ = ("0.0.0.0/0", "::/0")
WRONG_PORT = 4444
UNTESTABLE = 9

SETTINGS = {
    "APIServerPublicIP": "198.51.100.250",
    "CustomDNSIP": "10.8.0.53",
    "RegionCIDRs": "198.51.100.128/26",
    "dce": "x",
    "mi-subnet": "10.9.0.0/24",
    "server": "x",
    "tenant": "x",
    "vault": "x",
    "workspace": "x",
    "workspace-id": "x",
}
REGION_WORDS = ("region", "location", "primaryregion", "clusterregionname")
PAIR_WORDS = ("regionpair", "secondaryregion", "geopaired")

# Case, what happens to each target in turn (minute, state, sent, received), and the status where the target is TCP.
ANSWERED, SILENT, SMALL, DENIED = (12, 4000), (4, 0), (2, 120), (0, 0)
CASES = {
    "denied": ([(5, "D", DENIED)], "Denied"),
    "denied-admin": ([(5, "D", DENIED)], "Denied"),
    "unanswered": ([(5, "B", DENIED), (6, "E", SILENT)], "Unanswered"),
    "small": ([(5, "B", DENIED), (6, "E", SMALL)], "Answered without data"),
    "reached": ([(5, "B", DENIED), (6, "E", ANSWERED)], "Reached"),
    "recovered": ([(5, "D", DENIED), (20, "B", DENIED), (21, "E", ANSWERED)], "Recovered"),
    "partly": ([(5, "B", DENIED), (6, "E", ANSWERED), (30, "D", DENIED)], "Partly denied"),
    "pending": ([(59, "B", DENIED)], "Pending"),
}
QUIET = ("absent", "wrong-port")
SERVICE_CASES = ("reached", "denied")
WORKLOADS = (*CASES, "service", "sibling", *QUIET)
UNLOGGED = "unlogged"
RULES = {"denied-admin": ("DenyAdmin", ADMIN)}
DENYING, ALLOWING = ("UserRule_DenyTarget", NSG), ("DefaultRule_AllowInternetOutBound", NSG)


@dataclass(frozen=True)
class Fact:
    """One published fact of a profile."""

    profile: str
    cloud: str
    need: str
    kind: str
    value: str
    protocol: str
    ports: str
    one_of: str
    retired: bool

    @property
    def quiet(self) -> bool:
        return self.retired or self.need == "safe-to-block"

    @property
    def port(self) -> int:
        return 443 if self.ports == "any" else int(re.split(r"[-,]", self.ports)[0])


@dataclass(frozen=True)
class Answer:
    """What must be said of the requirement that holds a fact, for one workload."""

    workload: str
    fact: Fact
    status: str
    match: str
    address: str
    rule: str | None


@dataclass(frozen=True)
class Truth:
    """The logs of one cloud, and the answers to them."""

    cloud: str
    answers: tuple[Answer, ...]
    settings: dict[str, str]
    logs: Path
    inventory: Path
    names: Path
    testable: frozenset[str]


@dataclass(frozen=True)
class Services:
    """Logs in which services were tried, by their addresses alone; ``tried`` has address, protocol and port."""

    settings: dict[str, str]
    logs: Path
    inventory: Path
    tried: frozenset[tuple[str, int, int]]


def facts(cloud: str) -> list[Fact]:
    """Egress facts of a cloud, in their published order."""
    with FACTS.open(newline="") as file:
        return [
            Fact(
                *(row[c] for c in ("profile", "cloud", "need", "kind", "value", "protocol", "ports", "one_of")),
                row["retired"] == "yes",
            )
            for row in csv.DictReader(file)
            if row["cloud"] == cloud and row["concerns"] == "egress"
        ]


def settings(cloud: str) -> dict[str, str]:
    region, pair = REGIONS[cloud]
    return {**SETTINGS, "location": region, "region-pair": pair}


def filled(value: str, cloud: str) -> str:
    """The value with every placeholder filled."""

    def setting(found: re.Match[str]) -> str:
        key = re.sub(r"[-_]", "", found[1]).lower()
        if key in REGION_WORDS:
            return REGIONS[cloud][0]
        return (
            REGIONS[cloud][1]
            if key in PAIR_WORDS
            else {re.sub(r"[-_]", "", k).lower(): v for k, v in SETTINGS.items()}[key]
        )

    return re.sub(r"<([^>]+)>", setting, value)


def is_address(fact: Fact) -> bool:
    """Whether the fact is an address that can be told from all others."""
    return fact.kind in ("ip", "cidr") and fact.value not in ANYWHERE


@functools.cache
def tag_prefixes(cloud: str) -> dict[str, list[str]]:
    """Published prefixes by tag, whatever the case; the region's own spelling and that of its location both stand."""
    table = pl.read_parquet(DATA / f"service_tags_{cloud}.parquet")
    found = {}
    for name, region, prefixes in table.iter_rows():
        found[name.lower()] = prefixes
        if region and "." in name:
            found.setdefault(f"{name.rpartition('.')[0]}.{region}".lower(), prefixes)
    return found


def tag_of(fact: Fact) -> list[str]:
    return (
        tag_prefixes(fact.cloud).get(filled(fact.value, fact.cloud).lower(), []) if fact.kind == "service-tag" else []
    )


@functools.cache
def _stand_ins() -> list[tuple[re.Pattern[str], dict[str, object]]]:
    table = tomllib.loads((DATA / "approximate_tags.toml").read_text("utf-8"))["approximation"]
    return [
        (
            re.compile(
                "".join(
                    ".*" if p == "*" else "([^.]+)" if p[:1] == "<" else re.escape(p)
                    for p in re.split(r"(\*|<\w+>)", text)
                )
            ),
            entry,
        )
        for entry in table
        for text in entry["patterns"]
    ]


def stand_in(name: str, cloud: str) -> tuple[str, list[list[str]]]:
    """How sure a name is stood for, and the prefixes of each tag that does; none where its tags are not in this cloud."""
    for pattern, entry in _stand_ins():
        if held := pattern.fullmatch(name.lower()):
            clouds, tags = entry.get("clouds", [cloud]), entry["tags"]
            assert isinstance(clouds, list) and isinstance(tags, list)
            # What stands in the name for the region stands in the tag too.
            texts = [re.sub(r"<\w+>", held[1] if held.groups() else r"\g<0>", str(tag)) for tag in tags]
            here = [tag_prefixes(cloud).get(filled(text, cloud).lower(), []) for text in texts]
            return str(entry["confidence"]), [prefixes for prefixes in here if prefixes and cloud in clouds]
    return "none", []


def surely_stood_for(name: str, cloud: str) -> bool:
    """Whether a tag with prefixes stands for a name with high confidence."""
    confidence, prefixes = stand_in(name, cloud)
    return confidence == "high" and bool(prefixes)


def silence(endpoints: Iterable[tuple[str, str]], cloud: str) -> str:
    """What is said of a requirement that nothing was tried of; every name is in the names file."""
    seen = missed = False
    every = [(kind, filled(value, cloud)) for kind, value in endpoints]
    for kind, value in every:
        if kind in ("ip", "cidr"):
            seen = seen or (value not in ANYWHERE and value not in PLATFORM)
        elif kind == "service-tag":
            held = bool(tag_prefixes(cloud).get(value.lower()))
            seen, missed = seen or held, missed or not held
        elif kind == "fqdn-tag":
            missed = True
        else:
            seen = seen or surely_stood_for(value, cloud)
    return "Not seen" if seen and not missed else "Cannot tell"


def generate(cloud: str, folder: Path) -> Truth:
    """The logs, the inventory and the names of one cloud in ``folder``, and the answers to them."""
    known = facts(cloud)
    addresses = _addresses_of_names(known)
    targets = {
        fact.profile: fact
        for fact in reversed(known)
        if _rank(fact) == min(_rank(f) for f in known if f.profile == fact.profile)
    }
    targets = {profile: fact for profile, fact in targets.items() if _rank(fact) < UNTESTABLE}
    answers: list[Answer] = []
    tuples: dict[str, list[tuple[str, str, str]]] = {name: [] for name in WORKLOADS}
    for number, (profile, fact) in enumerate(sorted(targets.items())):
        address = _address(fact, addresses)
        match = "address" if is_address(fact) else "service tag" if fact.kind == "service-tag" else "name"
        for case, (events, status) in CASES.items():
            tuples[case] += _tuples(case, address, fact, events, number)
            # A small reply is whole where no TLS is spoken, as over UDP or on port 80; where any protocol will do, what
            # answered over UDP is an alternative.
            whole = fact.protocol != "tcp" or fact.port not in SPOKEN_TLS
            told = "Reached" if case == "small" and whole else status
            told = "Service reached" if told == "Reached" and match == "service tag" else told
            rule = (
                RULES.get(case, DENYING)[0].removeprefix("UserRule_") if told in ("Denied", "Partly denied") else None
            )
            answers.append(Answer(case, fact, told, match, address, rule))
        wrong = Fact(profile, cloud, "", "", "", "tcp", str(WRONG_PORT), "", False)
        tuples["wrong-port"] += _tuples("wrong-port", address, wrong, CASES["reached"][0], number)
    for number, fact in enumerate(fact for fact in known if tag_of(fact) and not fact.quiet):
        address = _first_of(fact)
        tuples["service"] += _tuples("service", address, fact, CASES["reached"][0], number)
        answers.append(Answer("service", fact, "Service reached", "service tag", address, None))
    for number, (denied, reached) in enumerate(_siblings(known)):
        address, other = _address(denied, addresses), _address(reached, addresses)
        tuples["sibling"] += _tuples("denied", address, denied, CASES["denied"][0], number)
        tuples["sibling"] += _tuples("sibling", other, reached, CASES["reached"][0], number + 500)
        match = "address" if is_address(denied) else "name"
        # Where any address will do, one that answers proves nothing, and neither does one that is denied.
        status, shown = ("Cannot tell", address) if reached.value == EVERYWHERE else ("Reached", other)
        answers.append(Answer("sibling", denied, status, match, shown, None))
    tuples["absent"] += _tuples(
        "absent", ELSEWHERE, Fact("", cloud, "", "", "", "tcp", "443", "", False), CASES["reached"][0], 0
    )
    logs = folder / "logs"
    for number, held in enumerate(tuples.values()):
        if held:
            _write_blob(logs, number, held)
    rows = [
        f"{SUBSCRIPTION}/rg-a/vnet-a,{_own(n)},{_mac(n)},{w},{'snet-b' if w == UNLOGGED else 'snet-a'},nic"
        for n, w in enumerate((*WORKLOADS, UNLOGGED))
        if w == UNLOGGED or tuples[w]
    ]
    inventory = folder / "inventory.csv"
    inventory.write_text("\n".join(["vnet,address,mac_address,workload,subnet,kind", *rows, ""]))
    names = folder / "names.csv"
    names.write_text(
        "\n".join(
            [
                "name,address,first_seen,last_seen",
                *(f"{n},{a}," + f"{HOUR.isoformat()}," + HOUR.isoformat() for n, a in addresses.items()),
                "",
            ]
        )
    )
    return Truth(cloud, tuple(answers), settings(cloud), logs, inventory, names, frozenset(targets))


def _siblings(known: Sequence[Fact]) -> list[tuple[Fact, Fact]]:
    """Of each group of which any member will do, one that is denied and one that answers."""
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in known:
        if fact.one_of:
            groups.setdefault((fact.profile, fact.one_of), []).append(fact)
    chosen = []
    for members in groups.values():
        exact = [m for m in members if is_address(m) or m.kind == "fqdn"]
        anywhere = [m for m in members if m.value == EVERYWHERE]
        chosen.append((exact[0], exact[-1] if len(exact) > 1 else anywhere[0]))
    return chosen


def generate_services(cloud: str, folder: Path) -> Services:
    """Logs of one cloud in which each service behind a name answers one workload and is denied to another, without names."""
    known = [fact for fact in facts(cloud) if fact.kind in ("fqdn", "fqdn-wildcard")]
    tried = {
        (str(next(ipaddress.ip_network(p)[0] for p in prefixes if ":" not in p)), NUMBER[fact.protocol], fact.port)
        for fact in known
        for prefixes in stand_in(filled(fact.value, cloud), cloud)[1]
    }
    logs = folder / "logs"
    for number, case in enumerate(SERVICE_CASES):
        written: list[tuple[str, str, str]] = []
        for n, (address, protocol, port) in enumerate(sorted(tried)):
            word = "udp" if protocol == NUMBER["udp"] else "tcp"
            fact = Fact("", cloud, "", "", "", word, str(port), "", False)
            written += _tuples(case, address, fact, CASES[case][0], n)
        _write_blob(logs, number, written)
    rows = [f"{SUBSCRIPTION}/rg-a/vnet-a,{_own(n)},{_mac(n)},{case},snet-a,nic" for n, case in enumerate(SERVICE_CASES)]
    inventory = folder / "inventory.csv"
    inventory.write_text("\n".join(["vnet,address,mac_address,workload,subnet,kind", *rows, ""]))
    return Services(settings(cloud), logs, inventory, frozenset(tried))


def by_service(
    endpoints: Iterable[tuple[str, str]], protocol: str, ports: str, cloud: str, tried: Iterable[tuple[str, int, int]]
) -> tuple[str, str, str] | None:
    """The status where the services that were tried answered, where they were denied, and the match; None where none was.

    A tag that a name is surely behind, or likely (a documented dependency), stands for it; one that is plausible tells nothing.
    """
    ranges = [(0, 65535)] if ports == "any" else [tuple(map(int, f"{p}-{p}".split("-")[:2])) for p in ports.split(",")]
    ranges = [(low, high) for low, high in ranges]
    addresses = [
        int(ipaddress.ip_address(address))
        for address, number, port in tried
        if protocol in ("any", "udp" if number == NUMBER["udp"] else "tcp")
        and any(low <= port <= high for low, high in ranges)
    ]

    def held(prefixes: Sequence[str]) -> bool:
        return any(low <= a <= high for low, high in _spans(tuple(prefixes)) for a in addresses)

    every = [(kind, filled(value, cloud)) for kind, value in endpoints]
    if any(kind in ("ip", "cidr") and value not in ANYWHERE and held([value]) for kind, value in every):
        return "Reached", "Denied", "address"
    if any(kind == "service-tag" and held(tag_prefixes(cloud).get(value.lower(), [])) for kind, value in every):
        return "Service reached", "Denied", "service tag"
    names = [stand_in(value, cloud) for kind, value in every if kind in ("fqdn", "fqdn-wildcard")]
    confidences = {confidence for confidence, tags in names if any(map(held, tags))}
    if confidences & {"high", "medium"}:
        return "Service reached", "Denied", "approximate tag"
    return ("Cannot tell", "Cannot tell", "approximate tag") if confidences else None


@functools.lru_cache(maxsize=4096)
def _spans(prefixes: tuple[str, ...]) -> list[tuple[int, int]]:
    """First and last address of each IPv4 prefix."""
    networks = [ipaddress.ip_network(prefix) for prefix in prefixes if ":" not in prefix]
    return [(int(network[0]), int(network[-1])) for network in networks]


def _rank(fact: Fact) -> int:
    """Which fact of a profile is its target: by address before by name before by tag, quiet ones last."""
    if is_address(fact) and fact.value != "<RegionCIDRs>":
        rank = 1 if "<" in fact.value else 0
    elif fact.kind in ("fqdn", "fqdn-wildcard"):
        rank = 1
    elif tag_of(fact):
        rank = 2
    else:
        return UNTESTABLE
    return rank + 3 if fact.quiet else rank


def _name(value: str, cloud: str) -> str:
    return filled(value, cloud).replace("*", "x").lower()


def _addresses_of_names(known: Sequence[Fact]) -> dict[str, str]:
    """An address of its own for every name, from the range for benchmarks, which is in no service tag."""
    names = dict.fromkeys(_name(f.value, f.cloud) for f in known if f.kind in ("fqdn", "fqdn-wildcard"))
    return {name: str(ipaddress.ip_address("198.18.0.1") + number) for number, name in enumerate(names)}


def _address(fact: Fact, addresses: dict[str, str]) -> str:
    if fact.value == EVERYWHERE:
        return ELSEWHERE
    if is_address(fact):
        return str(ipaddress.ip_network(filled(fact.value, fact.cloud))[0])
    return _first_of(fact) if fact.kind == "service-tag" else addresses[_name(fact.value, fact.cloud)]


def _first_of(fact: Fact) -> str:
    """An address of a tag."""
    return str(next(ipaddress.ip_network(prefix)[0] for prefix in tag_of(fact) if ":" not in prefix))


def _own(number: int) -> str:
    return f"10.1.0.{number + 4}"


def _mac(number: int) -> str:
    return f"00005E0053{number:02X}"


def _tuples(
    case: str, address: str, fact: Fact, events: Iterable[tuple[int, str, tuple[int, int]]], number: int
) -> list[tuple[str, str, str]]:
    """Flow tuples, each with its rule and ACL; the source address is filled in with the blob."""
    written = []
    for minute, state, (sent, received) in events:
        rule, acl = (RULES.get(case, DENYING)) if state == "D" else ALLOWING
        time = int(HOUR.timestamp() * 1000) + minute * 60_000 + number
        packets = (f"{sent},{sent * 60},{received // 100},{received}") if state in "CE" else "0,0,0,0"
        head = f"{time},SOURCE,{address},{30_000 + number},{fact.port},{NUMBER[fact.protocol]},O,{state},NX,{packets}"
        written.append((rule, acl, head))
    return written


def _write_blob(folder: Path, number: int, tuples: Sequence[tuple[str, str, str]]) -> None:
    flows = [
        {
            "aclID": acl,
            "flowGroups": [
                {
                    "rule": rule,
                    "flowTuples": [
                        text.replace("SOURCE", _own(number)) for r, a, text in tuples if (r, a) == (rule, acl)
                    ],
                }
            ],
        }
        for rule, acl in dict.fromkeys((rule, acl) for rule, acl, _ in tuples)
    ]
    record = {
        "time": (HOUR + dt.timedelta(minutes=59)).isoformat().replace("+00:00", "Z"),
        "flowLogGUID": "00000000-0000-0000-0000-0000000000ff",
        "macAddress": _mac(number),
        "category": "FlowLogFlowEvent",
        "flowLogResourceID": f"/SUBSCRIPTIONS/{SUBSCRIPTION}/RESOURCEGROUPS/NETWORKWATCHERRG/PROVIDERS/MICROSOFT.NETWORK/NETWORKWATCHERS/NW/FLOWLOGS/VNET-A",
        "targetResourceID": VNET,
        "operationName": "FlowLogFlowEvent",
        "flowLogVersion": 4,
        "flowRecords": {"flows": flows},
    }
    path = (
        folder
        / "insights-logs-flowlogflowevent"
        / f"flowLogResourceID=/{SUBSCRIPTION}_NETWORKWATCHERRG/NW_VNET-A"
        / f"y={HOUR:%Y}/m={HOUR:%m}/d={HOUR:%d}/h={HOUR:%H}/m=00/macAddress={_mac(number)}/PT1H.json"
    )
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"records": [record]}))
