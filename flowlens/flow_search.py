"""Which flow tuples stand behind a row."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import polars as pl

from flowlens import schema
from flowlens.analyses.tables import rule_name
from flowlens.errors import ConfigError, near_matches
from flowlens.prefixes import normal, within


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

        Raises ConfigError for an unknown protocol or state and for text that is no prefix.
        """
        for prefix in (*self.src, *self.dst):
            normal(prefix, where="flows")
        conditions = [pl.lit(True)]
        if self.ports:
            conditions.append(pl.col("dst_port").is_in(list(self.ports)))
        if self.protocol is not None:
            name = self.protocol.lower()
            number = int(name) if name.isdecimal() else schema.PROTOCOL_NUMBER.get(name)
            if number is None:
                raise ConfigError(
                    f"--protocol {self.protocol}", "is no protocol", hint=near_matches(name, schema.PROTOCOL_NUMBER)
                )
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
