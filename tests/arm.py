"""What Azure Resource Manager makes of a template: its expressions evaluated, whatever it does not declare refused.

Only the functions that the templates of deploy/ use are known; their meaning is that of
https://learn.microsoft.com/azure/azure-resource-manager/templates/template-functions.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000"
GROUP = {"id": f"{SUBSCRIPTION}/resourceGroups/rg-flowlens", "name": "rg-flowlens", "location": "japaneast"}
_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(\d+)|([A-Za-z_]\w*)|([()\[\],.]))")
KINDS: Mapping[str, type] = {
    "string": str,
    "securestring": str,
    "int": int,
    "bool": bool,
    "array": list,
    "object": dict,
}
# An expression longer than this is refused: https://learn.microsoft.com/azure/azure-resource-manager/templates/best-practices
LONGEST = 24_576


@dataclass
class Template:
    """A template with parameters given; ``resources()`` are as they are deployed, nested templates among them."""

    document: Mapping[str, Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Names of parameters and variables that anything used, by their kind: ``parameters/x``."""

    def __post_init__(self) -> None:
        declared = self.document.get("parameters", {})
        assert set(self.given) <= set(declared), f"not declared: {set(self.given) - set(declared)}"
        for name, parameter in declared.items():
            assert name in self.given or "defaultValue" in parameter, f"{name} has no value"
            value = self.parameter(name)
            assert isinstance(value, KINDS[parameter["type"]]), name
            assert value in parameter.get("allowedValues", [value]), name
        self.used.clear()

    def parameter(self, name: str) -> Any:
        assert name in self.document.get("parameters", {}), f"parameters('{name}') is not declared"
        self.used.add(f"parameters/{name}")
        declared = self.document["parameters"][name]
        return self.given[name] if name in self.given else self.value(declared["defaultValue"])

    def variable(self, name: str) -> Any:
        assert name in self.document.get("variables", {}), f"variables('{name}') is not declared"
        self.used.add(f"variables/{name}")
        return self.value(self.document["variables"][name])

    def value(self, found: Any) -> Any:
        """A part of the template with every expression in it evaluated."""
        if isinstance(found, dict):
            return {self.value(key): self.value(value) for key, value in found.items()}
        if isinstance(found, list):
            return [self.value(item) for item in found]
        if isinstance(found, str) and found.startswith("[") and found.endswith("]") and not found.startswith("[["):
            assert len(found) <= LONGEST
            return _Expression(found[1:-1], self).evaluated()
        return found

    def resources(self) -> list[dict[str, Any]]:
        """The resources, those of nested templates in the place of these."""
        made: list[dict[str, Any]] = []
        for resource in self.document["resources"]:
            # What a condition leaves out is evaluated all the same, and must not fail.
            wanted = self.value(resource.get("condition", True))
            if resource["type"] != "Microsoft.Resources/deployments":
                made += [self.value(resource)] if wanted else []
                continue
            properties = resource["properties"]
            assert properties["expressionEvaluationOptions"] == {"scope": "inner"}
            given = {name: self.value(one["value"]) for name, one in properties["parameters"].items()}
            inner = Template(properties["template"], given)
            place = {name: self.value(resource[name]) for name in ("subscriptionId", "resourceGroup")}
            parts = [{**one, "deployedTo": place} for one in inner.resources()]
            assert inner.unused() == set()
            made += parts if wanted else []
        return made

    def unused(self) -> set[str]:
        """Parameters and variables that nothing has used so far, the template's outputs included."""
        self.value(self.document.get("outputs", {}))
        declared = {f"{kind}/{name}" for kind in ("parameters", "variables") for name in self.document.get(kind, {})}
        return declared - self.used


class _Expression:
    def __init__(self, text: str, template: Template) -> None:
        self.template, self.tokens, at = template, [], 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            assert token, f"no expression: {text[at : at + 40]}"
            self.tokens.append(token)
            at = token.end()

    def evaluated(self) -> Any:
        value = self.one()
        assert not self.tokens, "text after the expression"
        return value

    def take(self, expected: str) -> None:
        assert self.tokens and self.tokens.pop(0)[4] == expected, f"expected {expected}"

    def next_is(self, sign: str) -> bool:
        return bool(self.tokens) and self.tokens[0][4] == sign

    def one(self) -> Any:
        token = self.tokens.pop(0)
        if token[1]:
            return token[1][1:-1].replace("''", "'")
        if token[2]:
            return int(token[2])
        value = self.call(token[3])
        while self.next_is(".") or self.next_is("["):
            if self.tokens.pop(0)[4] == ".":
                value = value[self.tokens.pop(0)[3]]
            else:
                value = value[self.one()]
                self.take("]")
        return value

    def call(self, name: str) -> Any:
        self.take("(")
        arguments = []
        while not self.next_is(")"):
            arguments.append(self.one())
            if not self.next_is(")"):
                self.take(",")
        self.take(")")
        if name in ("parameters", "variables"):
            (wanted,) = arguments
            return self.template.parameter(wanted) if name == "parameters" else self.template.variable(wanted)
        return FUNCTIONS[name](*arguments)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _resource_id(kind: str, *names: str) -> str:
    return f"{GROUP['id']}/providers/{_path(kind, names)}"


def _path(kind: str, names: Sequence[str]) -> str:
    provider, *kinds = kind.split("/")
    return "/".join([provider, *(part for pair in zip(kinds, names, strict=True) for part in pair)])


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "concat": lambda *parts: "".join(parts) if isinstance(parts[0], str) else [one for part in parts for one in part],
    "string": _string,
    "replace": lambda text, old, new: text.replace(old, new),
    "not": lambda value: not value,
    "empty": lambda value: len(value) == 0,
    "split": lambda text, sign: text.split(sign),
    "last": lambda items: items[-1],
    "if": lambda condition, one, other: one if condition else other,
    "createArray": lambda *items: list(items),
    "createObject": lambda *parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    "json": json.loads,
    "guid": lambda *parts: str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(parts))),
    "uniqueString": lambda *parts: uuid.uuid5(uuid.NAMESPACE_URL, "/".join(parts)).hex[:13],
    "resourceGroup": lambda: GROUP,
    "resourceId": _resource_id,
    "subscriptionResourceId": lambda kind, *names: f"{SUBSCRIPTION}/providers/{_path(kind, names)}",
    "reference": lambda one, *_: {"principalId": str(uuid.uuid5(uuid.NAMESPACE_URL, one)), "clientId": one},
}
