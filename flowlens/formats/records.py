"""The inside of one record, already JSON: its ``flowTuples`` arrays with what the record says about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from flowlens.formats import fields
from flowlens.formats.fields import Malformed, Notes


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a flow log format keeps things; of several keys the first that is there counts."""

    holder: str
    """Key of the record whose object holds ``flows``."""
    inner: str
    """Key of a flow that lists the groups."""
    target: tuple[str, ...]
    flow_log: tuple[str, ...]
    acl: tuple[str, ...]
    """Keys of the record that say who decided, where a flow has no ``aclID``."""


class Context(NamedTuple):
    """What holds for all flow tuples of one array; the names are those of schema.FLOWS, in its order."""

    acl_rule: str | None
    acl_id: str | None
    mac_address: str | None
    target_resource_id: str | None
    flow_log_id: str | None
    record_time: int | None


class Group(NamedTuple):
    """One ``flowTuples`` array, whatever stands in it, and its context."""

    context: Context
    tuples: list[Any]


def groups(record: dict[str, Any], shape: Shape, notes: Notes) -> Iterator[Group | Malformed]:
    """Every ``flowTuples`` array of a record in order, and a Malformed for each part that can't hold one."""

    def first(column: str, keys: tuple[str, ...]) -> str | None:
        found = [fields.text_or_null(record[key], column, notes) for key in keys if record.get(key) is not None]
        return next((text for text in found if text is not None), None)

    target, flow_log = first("target_resource_id", shape.target), first("flow_log_id", shape.flow_log)
    record_acl = first("acl_id", shape.acl)
    record_mac = fields.mac_address(record.get("macAddress"), notes)
    time = fields.record_time(record.get("time"), notes)
    for flow in _children(record[shape.holder], "flows", shape.holder):
        flow_rule = fields.text_or_null(_get(flow, "rule"), "acl_rule", notes)
        flow_acl = fields.text_or_null(_get(flow, "aclID"), "acl_id", notes)
        for group in _children(flow, shape.inner, "flows"):
            rule = fields.text_or_null(_get(group, "rule"), "acl_rule", notes)
            mac = fields.mac_address(_get(group, "mac"), notes)
            tuples = _get(group, "flowTuples")
            if isinstance(group, Malformed):
                yield group
            elif not isinstance(group, dict):
                yield Malformed(f"{shape.inner}: expected an object, found {fields.kind(group)}")
            elif not isinstance(tuples, list):
                yield Malformed(f"{shape.inner}.flowTuples: expected a list, found {fields.kind(tuples)}")
            else:
                yield Group(
                    Context(
                        acl_rule=flow_rule if rule is None else rule,
                        acl_id=record_acl if flow_acl is None else flow_acl,
                        mac_address=record_mac if mac is None else mac,
                        target_resource_id=target,
                        flow_log_id=flow_log,
                        record_time=time,
                    ),
                    tuples,
                )


def _get(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _children(parent: object, key: str, place: str) -> Iterator[object]:
    """The elements of a list in an object, or one Malformed."""
    if isinstance(parent, Malformed):
        yield parent
    elif not isinstance(parent, dict):
        yield Malformed(f"{place}: expected an object, found {fields.kind(parent)}")
    elif not isinstance(children := parent.get(key), list):
        yield Malformed(f"{place}.{key}: expected a list, found {fields.kind(children)}")
    else:
        yield from children
