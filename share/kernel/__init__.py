"""Pixelis for plugin authors and programs. A name is imported when it is first used: importing this costs nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from share.kernel.config import Choice, ConfigModel, choice
    from share.kernel.contracts.experience import Experience, Finding, Neighbor, Record, RecordType, Status
    from share.kernel.contracts.run import RunContext, RunResult
    from share.kernel.contracts.task import Call, Demonstration, Prompt
    from share.kernel.contracts.trajectory import Action, Trajectory
    from share.kernel.contracts.vision import Detections, OperationResult, Region, Scene, Transform, View
    from share.kernel.contracts.voting import AnswerType, Opinion, Vote, VotingResult
    from share.kernel.errors import (
        ConfigError,
        DuplicatePlugin,
        Interrupted,
        OperationError,
        PixelisError,
        PluginLoadError,
        UnknownPlugin,
    )
    from share.kernel.events import StructuredLogger
    from share.kernel.hookspecs import HOOK_API, Register, hookimpl
    from share.kernel.kernel import VisionKernel
    from share.kernel.registry import Registry, load_registry

_HOMES = {
    "config": ("Choice", "ConfigModel", "choice"),
    "contracts.experience": ("Experience", "Finding", "Neighbor", "Record", "RecordType", "Status"),
    "contracts.run": ("RunContext", "RunResult"),
    "contracts.task": ("Call", "Demonstration", "Prompt"),
    "contracts.trajectory": ("Action", "Trajectory"),
    "contracts.vision": ("Detections", "OperationResult", "Region", "Scene", "Transform", "View"),
    "contracts.voting": ("AnswerType", "Opinion", "Vote", "VotingResult"),
    "errors": (
        "ConfigError",
        "DuplicatePlugin",
        "Interrupted",
        "OperationError",
        "PixelisError",
        "PluginLoadError",
        "UnknownPlugin",
    ),
    "events": ("StructuredLogger",),
    "hookspecs": ("HOOK_API", "Register", "hookimpl"),
    "kernel": ("VisionKernel",),
    "registry": ("Registry", "load_registry"),
}
_HOME = {name: f"share.kernel.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "HOOK_API",
    "Action",
    "AnswerType",
    "Call",
    "Choice",
    "ConfigError",
    "ConfigModel",
    "Demonstration",
    "Detections",
    "DuplicatePlugin",
    "Experience",
    "Finding",
    "Interrupted",
    "Neighbor",
    "OperationError",
    "OperationResult",
    "Opinion",
    "PixelisError",
    "PluginLoadError",
    "Prompt",
    "Record",
    "RecordType",
    "Region",
    "Register",
    "Registry",
    "RunContext",
    "RunResult",
    "Scene",
    "Status",
    "StructuredLogger",
    "Trajectory",
    "Transform",
    "UnknownPlugin",
    "View",
    "VisionKernel",
    "Vote",
    "VotingResult",
    "choice",
    "hookimpl",
    "load_registry",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
