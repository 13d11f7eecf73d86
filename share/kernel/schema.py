"""JSON schemas of configurations, with every backend that a choice may name. Imports the backends it describes."""

from __future__ import annotations

from typing import Any

from share.kernel.config import with_run_settings
from share.kernel.errors import PluginLoadError
from share.kernel.registry import Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_schema(registry: Registry, kind: str, name: str) -> dict[str, Any]:
    """The schema of what a run of this backend can be configured with."""
    model = with_run_settings(registry.config_model(kind, name))
    return {"$schema": DIALECT, **_Expansion(registry).of(model, ())}


def backend_schema(registry: Registry, kind: str, name: str) -> dict[str, Any]:
    """The schema of a backend's own configuration, as it stands inside a choice."""
    return {"$schema": DIALECT, **_Expansion(registry).of(registry.config_model(kind, name), ())}


class _Expansion:
    """Replaces each choice by what the registered backends of its kind accept."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.definitions: dict[str, Any] = {}

    def of(self, model: Any, inside: tuple[str, ...]) -> dict[str, Any]:
        schema = model.model_json_schema()
        definitions = schema.pop("$defs", {})
        schema = self._expanded(schema, inside)
        self.definitions.update({key: self._expanded(value, inside) for key, value in definitions.items()})
        if not inside and self.definitions:
            schema["$defs"] = dict(sorted(self.definitions.items()))
        return dict(schema)

    def _expanded(self, node: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [self._expanded(item, inside) for item in node]
        if not isinstance(node, dict):
            return node
        kind = node.get("x-pixelis-kind")
        if kind is None:
            return {key: self._expanded(value, inside) for key, value in node.items()}
        if kind in inside:  # a backend that nests its own kind: described where it first stands
            return node
        names = []
        alternatives = []
        for name in self.registry.names(kind):
            try:
                model = self.registry.config_model(kind, name)
            except PluginLoadError:
                continue  # what cannot be imported cannot be configured; `plugins` names it
            names.append(name)
            settings = self.of(model, (*inside, kind))
            settings["properties"] = {"name": {"const": name}, **settings.get("properties", {})}
            settings["required"] = ["name", *settings.get("required", [])]
            alternatives.append(settings)
        return {**node, "anyOf": [{"enum": names, "type": "string"}, *alternatives]}


__all__ = ["backend_schema", "run_schema"]
