"""Which flow tuples stand behind a row."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flowlens import schema
from flowlens.analyses.tables import rule_name
from flowlens.errors import ConfigError, near_matches
from flowlens.evidence import Inventory, Ledger, Scan
from flowlens.prefixes import normal, within
from flowlens.scope import Scope
from flowlens.views import subjects_of


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """A selection of flow tuples; empty means all."""

    src: tuple[str, ...] = ()
    dst: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    protocol: str | None = None
    rule: str | None = None
    state: str | None = None

    def expression(self) -> pl.Expr:
        """The part of the selection that is a plain condition.

        Raises ConfigError for an unknown protocol or state, a number that none can have, and text that is no prefix.
        """
        for prefix in (*self.src, *self.dst):
            normal(prefix, where="flows")
        for port in self.ports:
            _within_range(f"--port {port}", port, 65_535)
        conditions = [pl.lit(True)]
        if self.ports:
            conditions.append(pl.col("dst_port").is_in(list(self.ports)))
        if self.protocol is not None:
            name = self.protocol.lower()
            number = int(name) if name.isdecimal() and len(name) < 10 else schema.PROTOCOL_NUMBER.get(name)
            if number is None:
                raise ConfigError(
                    f"--protocol {self.protocol}", "is no protocol", hint=near_matches(name, schema.PROTOCOL_NUMBER)
                )
            _within_range(f"--protocol {self.protocol}", number, 255)
            conditions.append(pl.col("protocol") == number)
        if self.rule is not None:
            wanted = self.rule.lower()
            conditions.append(
                (pl.col("acl_rule").str.to_lowercase() == wanted) | (rule_name().str.to_lowercase() == wanted)
            )
        if self.state is not None:
            states = {s.lower(): s for s in schema.STATE_NAME.values()}
            if self.state.lower() not in states:
                raise ConfigError(
                    f"--state {self.state}", "is no state", hint=near_matches(self.state, states.values())
                )
            conditions.append(pl.col("flow_state") == states[self.state.lower()])
        return pl.all_horizontal(conditions)

    def within(self, flows: pl.LazyFrame) -> pl.LazyFrame:
        """The flows whose addresses lie in the prefixes asked for."""
        for column, prefixes in (("src_ip", self.src), ("dst_ip", self.dst)):
            if prefixes:
                held = functools.partial(within, prefixes=prefixes)
                flows = flows.filter(pl.col(column).map_batches(held, return_dtype=pl.Boolean))
        return flows


def _within_range(where: str, number: int, highest: int) -> None:
    if not 0 <= number <= highest:
        raise ConfigError(where, f"expected a number from 0 to {highest}")


def find_flows(scan: Scan, wanted: FlowFilter, scope: Scope | None = None) -> tuple[pl.DataFrame, Ledger]:
    """The flow tuples that ``wanted`` and ``scope`` select, sorted by all their columns, and the ledger of reading them all.

    They go by way of a temporary file, so that memory holds only what was found and every reject is counted.

    Raises ConfigError for a filter or scope that names nothing known, SourceError for a source without flow tuples.
    """
    with tempfile.TemporaryDirectory(prefix="flowlens-") as folder:
        path = Path(folder) / "flows.parquet"
        with path.open("wb") as file:
            ledger = scan.write_flows(file)
        flows = wanted.within(pl.scan_parquet(path).filter(wanted.expression()))
        if scope is not None:
            flows = in_scope(flows, scan.evidence.inventory, scope)
        return flows.sort(flows.collect_schema().names(), nulls_last=True).collect(), ledger


def in_scope(flows: pl.LazyFrame, inventory: Inventory, scope: Scope) -> pl.LazyFrame:
    """The flows of which either end, or the NIC that logged it, is in scope, as for the questions."""
    macs = scope.nics_of(inventory)["mac_address"].to_list()
    theirs = pl.col("nic").str.split("+").list.eval(pl.element().is_in(macs)).list.any()
    owned = subjects_of(inventory).filter(theirs.fill_null(False)).select("seen_in", "address", owned=pl.lit(True))
    rows = flows.join(
        inventory.nics.lazy().select("mac_address", seen_in="vnet"), on="mac_address", how="left", maintain_order="left"
    )
    for end in ("src", "dst"):
        rows = rows.join(
            owned.lazy().rename({"address": f"{end}_ip", "owned": f"{end}_owned"}),
            on=["seen_in", f"{end}_ip"],
            how="left",
            maintain_order="left",
        )
    inside = pl.col("mac_address").is_in(macs) | pl.col("src_owned") | pl.col("dst_owned")
    return rows.filter(inside.fill_null(False)).drop("seen_in", "src_owned", "dst_owned")
