"""The catalogue: what services need to reach, and what an address is."""

from .expansion import Expansion, expand
from .profiles import Endpoint, Profile, Requirement, load_profile, profile_names
from .tags import ServiceTags, load_tags

__all__ = [
    "Endpoint",
    "Expansion",
    "Profile",
    "Requirement",
    "ServiceTags",
    "expand",
    "load_profile",
    "load_tags",
    "profile_names",
]
