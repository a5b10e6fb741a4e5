"""Scope: the part of the logs that a question is about."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import Inventory, Parts


@dataclass(frozen=True, slots=True)
class Scope:
    """Subscriptions, resource groups, VNets, subnets and NICs, case-insensitive; empty means all.

    A flow is in scope where either of its ends, or the NIC that logged it, is. Inventory and the preferred view are
    learned from everything that was read, so a narrower scope never changes who an address is.

    >>> Scope(vnets=("vnet-app",)).describe()
    {'vnets': ['vnet-app']}
    """

    subscriptions: tuple[str, ...] = ()
    resource_groups: tuple[str, ...] = ()
    vnets: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.subscriptions, self.resource_groups, self.vnets, self.subnets, self.nics))

    def describe(self) -> dict[str, list[str]]:
        """The scope as it stands in ``settings``."""
        return {name: list(getattr(self, name)) for name in self.__slots__ if getattr(self, name)}

    def nics_of(self, inventory: Inventory) -> pl.DataFrame:
        """The NICs in scope.

        Raises ConfigError where a word names nothing that was read, with near matches.
        """
        part = pl.col("vnet").str.split("/")
        mac = pl.col("mac_address").str.to_lowercase()
        columns = {
            "subscriptions": part.list.get(0, null_on_oob=True),
            "resource_groups": part.list.get(1, null_on_oob=True),
            "vnets": part.list.get(2, null_on_oob=True),
            "subnets": pl.col("subnet").str.to_lowercase(),
            "nics": mac,
        }
        nics = inventory.nics
        for name, column in columns.items():
            words = [word.lower() for word in getattr(self, name)]
            if not words:
                continue
            if name == "nics":
                words = [word.replace("-", "").replace(":", "") if len(word) == 17 else word for word in words]
            also = pl.col("workload").str.to_lowercase() if name == "nics" else column
            if name == "vnets":
                also = pl.col("vnet")
            known = set(nics.select(column.alias("a"), also.alias("b")).unpivot()["value"].drop_nulls().to_list())
            for word in words:
                if word not in known:
                    raise ConfigError(
                        f"--{name.rstrip('s').replace('_', '-')} {word}",
                        "names nothing in these logs",
                        hint=near_matches(word, known),
                    )
            nics = nics.filter(column.is_in(words) | also.is_in(words))
        return nics

    def apply(self, parts: Parts, coverage: pl.DataFrame, inventory: Inventory) -> tuple[Parts, pl.DataFrame]:
        """Parts of the views, and coverage, of the NICs in scope."""
        macs = self.nics_of(inventory)["mac_address"].to_list()
        ends = [
            pl.col(f"{end}_nic").str.split("+").list.eval(pl.element().is_in(macs)).list.any() for end in ("src", "dst")
        ]
        inside = pl.any_horizontal(pl.col("mac_address").is_in(macs), *(end.fill_null(False) for end in ends))
        inside = inside.fill_null(False)
        return parts.filter(inside), coverage.filter(pl.col("mac_address").is_in(macs))
