"""Commands of the Azure CLI that mend failing endpoints, for a person to complete, read and run.

What a flow log does not hold stays open: the priority of the rule that denied, the firewall and its policy, the names behind
a GUID. Names that a log holds were chosen by whoever could write it, so none becomes part of a command unless Azure would
accept it as the name of such a resource. Commands and options are those of Azure CLI 2.91 (az network nsg rule, public-ip, nat
gateway, vnet subnet, route-table route) and of its extension azure-firewall.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from flowlens import schema
from flowlens.analyses.fixes import (
    ACTIVATION,
    ACTIVATION_TAG,
    DENIED,
    DENIED_AT_DESTINATION,
    NSG_ONLY,
    OUTSIDE_AZURECLOUD,
    PARTLY_DENIED,
    UNANSWERED,
    WITHOUT_DATA,
    last_part,
    nsg_destinations,
    opening,
    others_rule,
    private_address,
    to_allow,
)
from flowlens.analyses.needs import Need
from flowlens.catalog.placeholders import PLACEHOLDER
from flowlens.evidence import Inventory

NSG, FIREWALL, ROUTE = schema.FIX_WAYS
_WEB_PORTS = {"80": "Http=80", "443": "Https=443"}

_NSG_ID = re.compile(
    r"/?subscriptions/([^/]+)/resourcegroups/([^/]+)/providers/microsoft\.network/networksecuritygroups/([^/]+)/?",
    re.IGNORECASE,
)
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# What Azure accepts (Microsoft Learn, "Naming rules and restrictions for Azure resources"), ASCII only.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
# A resource group may start with a hyphen, which a command line would take for an option.
_GROUP = re.compile(r"[A-Za-z0-9_(]([A-Za-z0-9_().-]{0,88}[A-Za-z0-9_()-])?")


_PRIORITY = "a free number from 100, lower than that of the denying rule"
# Tags of Azure Firewall that stand for all names of the profile they are in, as the profile's own page says.
_WHOLE_PROFILE = ("AzureKubernetesService", "WindowsUpdate")
_NAT_WARNINGS = (
    "A NAT gateway serves the whole subnet and costs money.",
    "It changes nothing where a 0.0.0.0/0 route leads to a firewall: then see --fix firewall.",
    (
        "Routes to single addresses with next hop Internet, as the articles on activation and on RHUI advise, do not help in "
        "a private subnet."
    ),
)


@dataclass(frozen=True, slots=True)
class Unset:
    """An argument that only the user knows: a variable of the script, what to set it to, and what it is about."""

    variable: str
    meaning: str
    about: str = ""


Word = str | Unset


@dataclass(frozen=True, slots=True)
class Command:
    """One command; ``instead`` marks an alternative to the ones before it, which is not run."""

    words: tuple[Word, ...]
    instead: bool = False


@dataclass(frozen=True, slots=True)
class Fix:
    """What mends one or several problems: what they are, what to know first, and the commands, if any can be given."""

    problem: str
    warnings: tuple[str, ...]
    commands: tuple[Command, ...] = ()


class _Blanks:
    """What one script leaves open, asked for once each, and the names that it gives away, each for one thing."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Unset] = {}
        self._named: dict[tuple[str, str], list[object]] = {}

    def ask(self, variable: str, meaning: str, about: str, *, key: str | None = None) -> Unset:
        """The variable for what ``key`` (else ``about``) stands for, numbered in the order of asking."""
        number = 1 + sum(name == variable for name, _ in self._known)
        return self._known.setdefault(
            (variable, about if key is None else key), Unset(f"{variable}_{number}", meaning, about)
        )

    def name(self, where: str, text: str, what: object) -> str:
        """The text as a name that Azure accepts; something else of the same name gets a number behind it."""
        base = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:70].strip("-.")
        taken = self._named.setdefault((where.lower(), base.lower()), [])
        if what not in taken:
            taken.append(what)
        number = taken.index(what) + 1
        return base if number == 1 else f"{base}-{number}"


def fixes(
    table: pl.DataFrame,
    needs: Iterable[Need],
    way: str,
    *,
    inventory: Inventory,
    outbound: Mapping[tuple[str, str], str] | None = None,
    kinds: Mapping[tuple[str | None, str | None], str],
    regions: Mapping[str, str] | None = None,
) -> list[Fix]:
    """What mends the problems of a denied_egress table by NSG rules, firewall rules or outbound routes (one of FIX_WAYS).

    ``needs`` are those that the table was judged by, ``outbound`` how subnets are known to go
    out, ``regions`` where VNets are, ``kinds`` (by acl_id and acl_rule) what the rules are. Problems that need another
    way are told without commands, so that each problem is in the result.
    """
    by_name = {(need.profile, need.requirement.cloud, need.requirement.name): need for need in needs}
    problems = [
        (row, by_name[row["profile"], row["cloud"], row["endpoint"]])
        for row in table.filter(pl.col("status").is_in(schema.EGRESS_PROBLEMS), pl.col("fix").is_not_null()).to_dicts()
    ]
    mended = {
        NSG: (DENIED, PARTLY_DENIED, DENIED_AT_DESTINATION),
        FIREWALL: (UNANSWERED, WITHOUT_DATA),
        ROUTE: (UNANSWERED,),
    }
    fits = [row["status"] in mended[way] and not (way == ROUTE and _private(row)) for row, _ in problems]
    here = [problem for problem, fit in zip(problems, fits, strict=True) if fit]
    rest = [problem for problem, fit in zip(problems, fits, strict=True) if not fit]
    blanks = _Blanks()
    if way == NSG:
        found = _by_nsg(here, inventory, kinds, blanks)
    elif way == FIREWALL:
        found = _by_firewall(here, by_name.values(), inventory, blanks)
    else:
        found = _by_route(here, outbound or {}, regions or {}, blanks)
    # What one sentence tells of a workload is told once.
    others = _grouped(rest, ("workload", "acl_id", "acl_rule", "protocol", "port", "status", "fix"))
    told = [([row for row, _ in group], str(group[0][0]["fix"])) for group in others]
    return [*found, *(Fix(_told(rows), (fix,)) for rows, fix in told)]


_Problem = tuple[dict[str, object], Need]


def _private(row: Mapping[str, object]) -> str:
    """The private address that the problem is with; empty where it is none."""
    return private_address(*(None if row[name] is None else str(row[name]) for name in ("match", "dst_ip")))


def _told(rows: Sequence[Mapping[str, object]]) -> str:
    """What the problems are, each workload and endpoint once."""
    workloads = ", ".join(dict.fromkeys(str(row["workload"]) for row in rows))
    endpoints = ", ".join(dict.fromkeys(str(row["endpoint"]) for row in rows))
    one = rows[0]
    by = f" by {one['acl_rule']} in {last_part(str(one['acl_id'] or ''))}" if one["acl_rule"] else ""
    return f"{workloads}: {endpoints} ({one['protocol']} {one['port']}) is {str(one['status']).lower()}{by}"


def _grouped(problems: Iterable[_Problem], key: tuple[str, ...]) -> list[list[_Problem]]:
    groups: dict[tuple[object, ...], list[_Problem]] = {}
    for row, need in problems:
        groups.setdefault(tuple(row[name] for name in key), []).append((row, need))
    return list(groups.values())


def _by_nsg(
    problems: Sequence[_Problem],
    inventory: Inventory,
    kinds: Mapping[tuple[str | None, str | None], str],
    blanks: _Blanks,
) -> list[Fix]:
    found = []
    for group in _grouped(problems, ("acl_id", "acl_rule", "protocol", "port", "status")):
        rows = [row for row, _ in group]
        rule, acl = (None if rows[0][name] is None else str(rows[0][name]) for name in ("acl_rule", "acl_id"))
        kind = kinds.get((acl, rule), "user")
        owner = others_rule(rule, acl, kind)
        if owner:
            found.append(Fix(_told(rows), (owner,)))
            continue
        inbound = rows[0]["status"] == DENIED_AT_DESTINATION
        where = f"{rows[0]['protocol']} {rows[0]['port']}"
        wanted = [((str(row["dst_ip"]),),) if inbound else nsg_destinations(need, _private(row)) for row, need in group]
        destinations = dict.fromkeys(rule for rules in wanted for rule in rules)
        warnings = [f"{to_allow(need, where)}." for (_, need), rules in zip(group, wanted, strict=True) if not rules]
        commands = [_nsg_rule(rows, acl, inbound, words, inventory, blanks) for words in destinations]
        flat = [word for words in destinations for word in words]
        if any(word in OUTSIDE_AZURECLOUD for word in flat):
            outside = ", ".join(word for word in flat if word in OUTSIDE_AZURECLOUD)
            warnings.append(f"Allowing AzureCloud does not help: {outside} is not part of it.")
        if flat == [ACTIVATION_TAG]:
            addresses = tuple(dict.fromkeys(a for _, need in group for a in opening(need).addresses))
            warnings.append(
                "An NSG denies activation only where a rule names this tag or a 0.0.0.0/0 route exists; where the tag does not "
                "help, allow the addresses, which firewalls and routes need too."
            )
            if addresses:
                commands.append(replace(_nsg_rule(rows, acl, inbound, addresses, inventory, blanks), instead=True))
        if kind == "default":
            warnings.append("A default rule denied it, so any free priority from 100 to 4096 will do.")
        elif commands:
            warnings.append("Flow logs hold no priorities: look up that of the denying rule.")
        if any(not re.match(r"[0-9]", word) and word != ACTIVATION_TAG for word in flat):
            warnings.append("A service tag opens the whole service, for everything under this NSG.")
        found.append(Fix(_told(rows), tuple(warnings), tuple(commands)))
    return found


def _nsg_rule(
    rows: Sequence[Mapping[str, object]],
    acl: str | None,
    inbound: bool,
    destination: Sequence[str],
    inventory: Inventory,
    blanks: _Blanks,
) -> Command:
    group, name = _nsg_of(acl, blanks)
    protocol, ports = str(rows[0]["protocol"]), str(rows[0]["port"])
    label = destination[0] if len(destination) == 1 else str(rows[0]["profile"])
    rule = blanks.name(f"{acl} {inbound}", f"Allow-{label}-{protocol}-{ports}", tuple(destination))
    # Of alternatives one is run, so they share their priority.
    what = "activation" if (protocol.lower(), ports) == ACTIVATION else rule
    priority = blanks.ask("PRIORITY", _PRIORITY, f"{what} in {last_part(acl)}", key=f"{what} {inbound} {acl}")
    words: list[Word] = ["az", "network", "nsg", "rule", "create", *group, "--nsg-name", name, "--name", rule]
    words += ["--priority", priority]
    words += ["--direction", "Inbound" if inbound else "Outbound", "--access", "Allow"]
    words += ["--protocol", {"TCP": "Tcp", "UDP": "Udp", "ICMP": "Icmp", "ICMPV6": "Icmp"}.get(protocol, "*")]
    if inbound:
        words += ["--source-address-prefixes", *_sources(rows, inventory, blanks)]
    words += ["--destination-address-prefixes", *(_tag_or_address(word, blanks) for word in destination)]
    return Command((*words, "--destination-port-ranges", *(["*"] if ports == "any" else ports.split(","))))


def _nsg_of(acl: str | None, blanks: _Blanks) -> tuple[list[Word], Word]:
    """Subscription and resource group as options, and the NSG's name; what the log does not tell is asked for."""
    about = acl or ""
    found = _NSG_ID.fullmatch(about)
    subscription, group, name = found.groups() if found else (None, None, about)
    options: list[Word] = []
    if subscription and _GUID.fullmatch(subscription):
        options += ["--subscription", subscription]
    ok = bool(group and _GROUP.fullmatch(group))
    options += ["--resource-group", str(group) if ok else blanks.ask("NSG_GROUP", "resource group of the NSG", about)]
    known = bool(_NAME.fullmatch(name)) and not _GUID.fullmatch(name)
    return options, name if known else blanks.ask("NSG", "name of the NSG, of which the log gives an id only", about)


def _tag_or_address(word: str, blanks: _Blanks) -> Word:
    if PLACEHOLDER.search(word):
        service = word.partition(".")[0]
        return blanks.ask("SERVICE_TAG", f"{service}.REGION with the region of the workload", word)
    return word


def _sources(rows: Sequence[Mapping[str, object]], inventory: Inventory, blanks: _Blanks) -> list[Word]:
    """The addresses of the workloads; asked for where none is known."""
    whose = pl.DataFrame(
        [(row["vnet"], row["workload"]) for row in rows],
        schema={"vnet": pl.String, "workload": pl.String},
        orient="row",
    ).unique()
    addresses = inventory.table.join(whose, on=["vnet", "workload"])["address"].unique().sort().to_list()
    plain = [address for address in addresses if ":" not in address]
    return [*plain] or [blanks.ask("SOURCE", "addresses or prefix of the workload", _told(rows))]


def _by_firewall(
    problems: Sequence[_Problem], needs: Iterable[Need], inventory: Inventory, blanks: _Blanks
) -> list[Fix]:
    tags_of: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        whole = [tag for tag in opening(need).fqdn_tags if tag in _WHOLE_PROFILE]
        tags_of.setdefault((need.profile, need.requirement.cloud), []).extend(whole)
    found = []
    for group in _grouped(problems, ("profile", "cloud", "protocol", "port", "status")):
        rows = [row for row, _ in group]
        profile, protocol, ports = (str(rows[0][name]) for name in ("profile", "protocol", "port"))
        openings = [opening(need) for _, need in group]
        names = [name for each in openings for name in each.names]
        own = [tag for each in openings for tag in each.fqdn_tags]
        fqdn_tags = list(dict.fromkeys([*tags_of.get((profile, str(rows[0]["cloud"])), ()), *own]))
        web = protocol == "TCP" and all(port in _WEB_PORTS for port in ports.split(","))
        warnings = ["It helps only if the subnet's 0.0.0.0/0 route leads to this firewall; else see --fix route."]
        unset = dict.fromkeys(name for each in openings for name in each.unset)
        if unset and not fqdn_tags:
            warnings.append(f"Fill what is open (--set, or [placeholders] of flowlens.toml) for {', '.join(unset)}.")
        rule: list[Word]
        if web and (fqdn_tags or names or unset):
            fit = [name for name in dict.fromkeys(names) if "*" not in name[1:]]
            left = [name for name in dict.fromkeys(names) if name not in fit]
            if not fqdn_tags and left:
                warnings.append(f"Azure Firewall takes * at the start only: {', '.join(left)} is left to you.")
            target: list[Word] = ["--fqdn-tags", *fqdn_tags] if fqdn_tags else ["--target-fqdns", *fit]
            rule = ["ApplicationRule", "--protocols", *(_WEB_PORTS[port] for port in ports.split(",")), *target]
            possible = bool(fqdn_tags or fit)
        else:
            to = [word for each in openings for word in (each.addresses or each.tags) if word.lower() not in NSG_ONLY]
            words = [_tag_or_address(word, blanks) for word in dict.fromkeys(to) if ":" not in word]
            port_words = ["*"] if ports == "any" else ports.split(",")
            known = protocol if protocol in ("TCP", "UDP", "ICMP") else "Any"
            rule = ["NetworkRule", "--ip-protocols", known, "--destination-addresses", *words]
            rule += ["--destination-ports", *port_words]
            possible = bool(words)
        if not possible:
            wanted = ", ".join(dict.fromkeys([*names, *unset])) or ", ".join(str(row["endpoint"]) for row in rows)
            warnings.append(
                f"Only a network rule with a destination FQDN can match {wanted}; that needs the DNS proxy."
            )
            found.append(Fix(_told(rows), tuple(warnings)))
            continue
        if (protocol.lower(), ports) == ACTIVATION:
            warnings.append("Activation must come from an Azure public address: not by way of a firewall on premises.")
        found.append(Fix(_told(rows), tuple(warnings), (_collection(rows, rule, inventory, blanks),)))
    return found


def _collection(
    rows: Sequence[Mapping[str, object]], rule: Sequence[Word], inventory: Inventory, blanks: _Blanks
) -> Command:
    name = blanks.name("firewall", f"Allow-{rows[0]['profile']}-{rows[0]['protocol']}-{rows[0]['port']}", _told(rows))
    words: list[Word] = ["az", "network", "firewall", "policy", "rule-collection-group", "collection"]
    words += [
        "add-filter-collection",
        "--resource-group",
        blanks.ask("FIREWALL_GROUP", "resource group of the policy", ""),
    ]
    words += ["--policy-name", blanks.ask("FIREWALL_POLICY", "name of the Azure Firewall policy", "")]
    words += [
        "--rule-collection-group-name",
        blanks.ask("RULE_COLLECTION_GROUP", "name of a rule collection group", ""),
    ]
    words += ["--name", name, "--collection-priority"]
    words += [blanks.ask("COLLECTION_PRIORITY", "a free number from 100 to 65000", _told(rows)), "--action", "Allow"]
    words += ["--rule-name", name, "--source-addresses", *_sources(rows, inventory, blanks)]
    return Command((*words, "--rule-type", *rule))


def _by_route(
    problems: Sequence[_Problem], outbound: Mapping[tuple[str, str], str], regions: Mapping[str, str], blanks: _Blanks
) -> list[Fix]:
    found = []
    for group in _grouped(problems, ("vnet", "subnet")):
        rows = [row for row, _ in group]
        vnet, subnet = (str(rows[0][name] or "") for name in ("vnet", "subnet"))
        method = outbound.get((vnet, subnet), "default")
        told = "; ".join(dict.fromkeys(_told([row]) for row in rows))
        if method == "firewall":
            addresses = dict.fromkeys(a for _, need in group for a in opening(need).addresses if ":" not in a)
            commands = tuple(_internet_route(address, f"{vnet}/{subnet}", blanks) for address in addresses)
            warning = (
                "These routes go past the firewall, and work only if the subnet is not private or has another explicit outbound "
                "method: in a private subnet next hop Internet leads nowhere. Else allow it at the firewall (--fix firewall)."
            )
            found.append(Fix(told, (warning,), commands))
        elif method != "default":
            found.append(
                Fix(
                    told,
                    (f"The subnet goes out by {method} already: look at its route table and at firewalls on the way.",),
                )
            )
        else:
            found.append(Fix(told, _NAT_WARNINGS, _nat_gateway(vnet, subnet, regions.get(vnet), blanks)))
    return found


def _internet_route(address: str, about: str, blanks: _Blanks) -> Command:
    prefix = address if "/" in address else f"{address}/32"
    words: list[Word] = ["az", "network", "route-table", "route", "create", "--resource-group"]
    words += [blanks.ask("ROUTE_TABLE_GROUP", "resource group of the route table of the subnet", about)]
    words += ["--route-table-name", blanks.ask("ROUTE_TABLE", "name of the route table of the subnet", about)]
    words += [
        "--name",
        blanks.name(about, f"internet-{prefix}", prefix),
        "--address-prefix",
        prefix,
        "--next-hop-type",
        "Internet",
    ]
    return Command(tuple(words))


def _nat_gateway(vnet: str, subnet: str, region: str | None, blanks: _Blanks) -> tuple[Command, ...]:
    about = f"{vnet}/{subnet}"
    parts = vnet.split("/")
    subscription, group, name = parts if len(parts) == 3 else ("", "", "")
    where: list[Word] = ["--subscription", subscription] if _GUID.fullmatch(subscription) else []
    known = _GROUP.fullmatch(group)
    where += ["--resource-group", group if known else blanks.ask("VNET_GROUP", "resource group of the VNet", about)]
    of = name if _NAME.fullmatch(name) else blanks.ask("VNET", "name of the VNet", about)
    in_subnet = subnet if _NAME.fullmatch(subnet) else blanks.ask("SUBNET", "name of the subnet", about)
    region_known = region is not None and re.fullmatch(r"[a-z0-9]{1,40}", region)
    location: Word = str(region) if region_known else blanks.ask("LOCATION", "region of the VNet", vnet)
    gateway = blanks.name(f"{subscription} {group}", f"nat-{name}-{subnet}", about)
    address = f"pip-{gateway}"
    create: list[Word] = [*where, "--location", location]
    return (
        Command(
            (
                "az",
                "network",
                "public-ip",
                "create",
                *create,
                "--name",
                address,
                "--sku",
                "Standard",
                "--allocation-method",
                "Static",
            )
        ),
        Command(
            ("az", "network", "nat", "gateway", "create", *create, "--name", gateway, "--public-ip-addresses", address)
        ),
        Command(
            (
                "az",
                "network",
                "vnet",
                "subnet",
                "update",
                *where,
                "--vnet-name",
                of,
                "--name",
                in_subnet,
                "--nat-gateway",
                gateway,
            )
        ),
    )
