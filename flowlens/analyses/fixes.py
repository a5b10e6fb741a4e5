"""The smallest change that mends a required endpoint, in words, and what a rule must let through for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from flowlens import schema
from flowlens.analyses.needs import ADDRESS, EXACT, SURE, TAG, Need
from flowlens.catalog.expansion import approximation
from flowlens.catalog.placeholders import PLACEHOLDER, key_of
from flowlens.prefixes import PLATFORM_PREFIXES, is_internal

DENIED, DENIED_AT_DESTINATION, UNANSWERED, WITHOUT_DATA, PARTLY_DENIED = schema.EGRESS_PROBLEMS

# Windows activation is exempt from NSGs unless a rule names this tag or a 0.0.0.0/0 route switched the exemption off. The tag
# is for NSGs alone: neither routes nor Azure Firewall take it (Microsoft Learn, network-security-groups-overview, 2025-07, and
# service-tags-overview).
ACTIVATION = ("tcp", "1688")
ACTIVATION_TAG = "AzurePlatformLKM"
NSG_ONLY = ("azureplatformdns", "azureplatformimds", "azureplatformlkm")
# The tag of Microsoft's own image registry depends on the other one (service-tags-overview).
_REGISTRY = ("MicrosoftContainerRegistry", "AzureFrontDoor.FirstParty")
_REGISTRY_NAMES = ("mcr.microsoft.com", "mcr-0001.mcr-msedge.net", "*.data.mcr.microsoft.com")
# Share of these tags' IPv4 addresses that AzureCloud holds: none, and 7 % (service tags of 2026-06-26).
OUTSIDE_AZURECLOUD = ("AzureFrontDoor.FirstParty", "AzureFrontDoor.Frontend")
# Outbound mail on port 25 is blocked by the platform for most kinds of subscriptions (network-security-groups-overview).
_MAIL = ("tcp", "25")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a rule has to let through: addresses, service tags, names, FQDN tags of Azure Firewall.

    ``tags`` may hold a placeholder that nobody set; names with one stand apart in ``unset``.
    """

    addresses: tuple[str, ...]
    tags: tuple[str, ...]
    names: tuple[str, ...]
    fqdn_tags: tuple[str, ...]
    unset: tuple[str, ...]


def opening(need: Need) -> Opening:
    """What a requirement's traffic goes to, with the user's settings in its placeholders."""
    reaches, endpoints = need.expansion.reaches, need.requirement.endpoints
    filled = {match: [reach.endpoint for reach in reaches if reach.match == match] for match in (ADDRESS, TAG)}
    tags = [*filled[TAG], *(e.value for e in endpoints if e.value.lower() in NSG_ONLY)]
    unset = [e.value for e in endpoints if e.kind == "service-tag" and PLACEHOLDER.search(e.value)]
    open_names = [name for name in need.expansion.names if PLACEHOLDER.search(name)]
    return Opening(
        tuple(dict.fromkeys(filled[ADDRESS])),
        tuple(dict.fromkeys(tags or unset)),
        tuple(name for name in need.expansion.names if name not in open_names),
        tuple(dict.fromkeys(e.value for e in endpoints if e.kind == "fqdn-tag")),
        tuple(open_names),
    )


def nsg_destinations(need: Need, private: str = "") -> tuple[tuple[str, ...], ...]:
    """The destinations of the NSG rules that let a requirement through, one entry a rule; none where an NSG has no word for it.

    A rule takes one service tag or a list of addresses. ``private`` is the private_address that failed: it stands for itself
    where the requirement lists none.
    """
    listed = (p for reach in need.expansion.reaches if reach.match == ADDRESS for p in reach.prefixes)
    if private and not any(map(is_internal, listed)):
        return ((private,),)
    open_to, requirement = opening(need), need.requirement
    if (requirement.protocol, requirement.ports) == ACTIVATION:
        return ((ACTIVATION_TAG,),)
    if open_to.addresses:
        return (open_to.addresses,)
    if open_to.tags:
        return tuple((tag,) for tag in open_to.tags)
    tags: list[str] = []
    for name in (*open_to.names, *open_to.unset):
        known = approximation(name)
        if known is None or known.confidence not in SURE or requirement.cloud not in known.clouds:
            continue
        held = known.match(name)
        labels = {key_of(key): label for key, label in (held.groupdict() if held else {}).items() if "<" not in label}
        region = functools.partial(PLACEHOLDER.sub, lambda found, labels=labels: labels.get(key_of(found[1]), found[0]))
        tags += _REGISTRY if name.lower() in _REGISTRY_NAMES else map(region, known.tags)
    return tuple((tag,) for tag in dict.fromkeys(tags))


def private_address(match: str | None, dst_ip: str | None) -> str:
    """The private address that meets a requirement exactly, such as that of a private endpoint; empty for any other.

    No service tag holds it, and no outbound method leads to it.

    >>> private_address("name", "10.0.0.9"), private_address("service tag", "20.60.0.1")
    ('10.0.0.9', '')
    """
    if dst_ip is None or match not in EXACT or f"{dst_ip}/32" in PLATFORM_PREFIXES or not is_internal(dst_ip):
        return ""
    return dst_ip


def advice(
    need: Need, status: str, acl_rule: str | None, acl_id: str | None, kind: str | None, private: str = ""
) -> str:
    """The smallest change that mends the problem, in words; ``kind`` is one of RULE_KINDS, ``private`` a private_address."""
    requirement = need.requirement
    where = f"{requirement.protocol.upper()} {requirement.ports}"
    by = f"{acl_rule} in {last_part(acl_id)}"
    if status in (DENIED, PARTLY_DENIED, DENIED_AT_DESTINATION):
        owner = others_rule(acl_rule, acl_id, kind)
        if owner:
            return f"{owner[0].upper()}{owner[1:]}."
    if status in (DENIED, PARTLY_DENIED):
        return f"{to_allow(need, where, private)} at a lower priority number than {by}{_aside(need, private)}."
    if status == DENIED_AT_DESTINATION:
        return f"Allow inbound {where} at the destination, at a lower priority number than {by}."
    if status == WITHOUT_DATA:
        tags = opening(need).fqdn_tags
        return f"A firewall or proxy answers and resets: allow the name there{_or_tag(tags)}."
    if private:
        return (
            f"Allowed by the NSG but nothing answers on {where} at {private}: look at that private address, at its peering "
            "and at routes and firewalls on the way; an outbound method does not help."
        )
    if (requirement.protocol, requirement.ports) == _MAIL:
        return "The platform blocks mail on TCP 25 for most subscriptions: relay it on port 587."
    return (
        f"Allowed by the NSG but nothing answers on {where}: give the subnet an explicit outbound method (NAT gateway, public "
        "IP, load balancer or a route to a firewall), or allow it at the firewall on the way; in a private subnet a route to "
        "Internet alone does not help."
    )


def to_allow(need: Need, where: str, private: str = "") -> str:
    """What to let out on ``where``, or why no NSG rule can."""
    destinations = nsg_destinations(need, private)
    if not destinations:
        names = ", ".join((*opening(need).names, *opening(need).unset)) or need.requirement.name
        return (
            f"An NSG matches no names and no service tag stands for {names}: match the name in a firewall, or allow outbound "
            f"{where} to the addresses it resolves to"
        )
    flat = [word for rule in destinations for word in rule]
    if flat in ([private], list(opening(need).addresses)):
        return f"Allow outbound {where} to {', '.join(flat)}"
    return f"Allow outbound {where} to service tag{'s' if len(flat) > 1 else ''} {' and '.join(flat)}"


def _aside(need: Need, private: str) -> str:
    flat = [word for rule in nsg_destinations(need, private) for word in rule]
    addresses = opening(need).addresses
    if flat == [ACTIVATION_TAG] and addresses:
        return f" (firewalls and routes take the addresses instead: {', '.join(addresses)})"
    outside = [tag for tag in flat if tag in OUTSIDE_AZURECLOUD]
    return f"; allowing AzureCloud does not help, {' and '.join(outside)} is not part of it" if outside else ""


def _or_tag(fqdn_tags: Sequence[str]) -> str:
    return f" (FQDN tag {', '.join(fqdn_tags)})" if fqdn_tags else ""


def last_part(acl_id: str | None) -> str:
    """The name at the end of an ACL's id."""
    return (acl_id or "").rsplit("/", 1)[-1]


def others_rule(acl_rule: str | None, acl_id: str | None, kind: str | None) -> str:
    """Whose rule it is that no NSG rule overrides; empty for a rule of an NSG."""
    if kind == "encryption":
        return "denied by VNet encryption: see the encryption table"
    if kind == "admin":
        return (
            f"denied by the admin rule {acl_rule} of Virtual Network Manager ({last_part(acl_id)}), which comes before every "
            "NSG: only its owner can let this through, with an admin rule of a lower priority number"
        )
    if kind == "platform":
        return "denied by the platform, not by a rule of yours: ask Azure support"
    if kind == "sql-mi-mandatory":
        return f"denied by {acl_rule}, which SQL Managed Instance needs and nobody may change"
    return ""
