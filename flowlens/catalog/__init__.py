"""The catalogue: what services need to reach, and what an address is."""

from flowlens.catalog.expansion import Expansion, expand
from flowlens.catalog.names import Names, read_names
from flowlens.catalog.owners import Owners, read_owners
from flowlens.catalog.profiles import Endpoint, Profile, Requirement, load_profile, profile_names
from flowlens.catalog.tags import ServiceTags, load_tags

__all__ = [
    "Endpoint",
    "Expansion",
    "Names",
    "Owners",
    "Profile",
    "Requirement",
    "ServiceTags",
    "expand",
    "load_profile",
    "load_tags",
    "profile_names",
    "read_names",
    "read_owners",
]
