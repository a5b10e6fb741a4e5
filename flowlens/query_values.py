"""What the catalogue puts into the parameters of queries."""

from __future__ import annotations

from collections.abc import Sequence

from flowlens.analyses.egress import needs_of_profiles
from flowlens.analyses.judgement import is_platform, is_testable
from flowlens.analyses.needs import ADDRESS, NAME, TAG, Need
from flowlens.catalog import Names, ServiceTags, load_tags
from flowlens.catalog.placeholders import Settings

ENDPOINTS = "endpoints"
"""The parameter of denied_egress that lists what workloads need."""
UNTESTABLE = "untestable"
"""Stands for an alternative that no address is known of: silence then cannot tell."""
_SEPARATOR = "|"


def required_endpoints(
    profiles: Sequence[str],
    *,
    cloud: str = "global",
    placeholders: Settings | None = None,
    tags: ServiceTags | None = None,
    names: Names | None = None,
) -> tuple[str, ...]:
    """The parameter ``endpoints`` of the query denied_egress: what the profiles need, an entry for each prefix.

    An entry is profile|cloud|endpoint|requirement|protocol|port|match|prefix. Service tags that only may stand for a name, and
    endpoints that are told by their port alone, prove nothing that a query could weigh and are left to ``denied_egress``.

    >>> required_endpoints(["windows-kms"])[0]
    'windows-kms|global|KMS activation|required|TCP|1688|address|20.118.99.224/32'
    """
    needs = needs_of_profiles(profiles, cloud, placeholders or {}, tags or load_tags(cloud), names)
    return tuple(entry for need in needs for entry in _entries(need))


def _entries(need: Need) -> list[str]:
    requirement = need.requirement
    kind = "retired" if requirement.retired else requirement.need
    named = (need.profile, requirement.cloud, requirement.name, kind, requirement.protocol.upper(), requirement.ports)
    # The separator cannot stand in a field; a slash reads as well.
    head = _SEPARATOR.join(field.replace(_SEPARATOR, "/") for field in named)
    reaches = [reach for reach in need.expansion.reaches if reach.match in (ADDRESS, NAME, TAG)]
    found = list(dict.fromkeys(f"{head}|{reach.match}|{prefix}" for reach in reaches for prefix in reach.prefixes))
    silent = is_testable(need, taken=True) and not is_platform(need) and found
    return found if silent else [*found, f"{head}|{UNTESTABLE}|"]
