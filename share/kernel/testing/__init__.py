"""The public contract suite: what every backend of a kind must keep, ours as much as a stranger's.

Each check is a plain function that raises AssertionError with a sentence about what was broken. Call them from a test
of your own, or run `CHECKS[kind]` over registered backends with `pytest.mark.parametrize`.

A kind with a contract of its own has a file of its own; here are what a plugin and a backend that is run must keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

from share.kernel.config import Choice, ConfigModel
from share.kernel.contracts.run import Mode
from share.kernel.errors import ConfigError
from share.kernel.kernel import KIND_OF_MODE, VisionKernel
from share.kernel.registry import Registry, registry_of
from share.kernel.testing.index import check_index
from share.kernel.testing.operation import NONSENSE, check_operation, run_operation
from share.kernel.testing.reward import check_reward
from share.kernel.testing.scene import example_scene
from share.kernel.testing.storage import check_storage
from share.kernel.testing.task import check_task
from share.kernel.testing.voter import check_voter


def check_plugin(module: ModuleType) -> list[tuple[str, str]]:
    """A plugin module, installed or not: its hooks register, its targets import and declare their configuration.

    Returns the (kind, name) of its backends.
    """
    registry = registry_of(module)
    for plugin in registry.plugins:
        assert plugin.state in ("ok", "missing extra"), f"{plugin} is {plugin.state}: {plugin.reason}"
    found = []
    for backend in registry.backends():
        model = registry.config_model(backend.kind, backend.name)
        assert backend.summary, f"{backend.kind} {backend.name} needs a summary: listings show it"
        undescribed = [name for name, field in model.model_fields.items() if not field.description]
        assert not undescribed, f"{model.__name__}: no docstring below {', '.join(undescribed)}"
        found.append((backend.kind, backend.name))
    return found


def check_run(registry: Registry, mode: Mode, name: str, settings: Mapping[str, Any], workdir: Path) -> None:
    """A backend that is run: it obeys a dry run and a stop, resumes, ends well, and leaves what it says it left.

    `settings` must make it short.
    """
    config = {**settings, "workdir": str(workdir)}
    planned = VisionKernel(registry).run(mode, name, config, dry_run=True)
    assert planned.status == "dry_run", f"dry run: {planned.status}: {planned.error}"

    stop = Event()
    stop.set()
    stopped = VisionKernel(registry, stop=stop).run(mode, name, config)
    assert stopped.status == "interrupted", f"stopped before it began, it is {stopped.status}: {stopped.error}"
    ended = VisionKernel(registry).resume(mode, stopped.run_context.run_dir, config, name=name)
    assert ended.status == "ok", f"resumed: {ended.status}: {ended.error}"
    for artifact, path in ended.artifacts.items():
        assert path.exists(), f"artifact {artifact!r} does not exist: {path}"


def build(registry: Registry, kind: str, name: str) -> Any:
    """A backend with its default configuration. Raises ConfigError when it cannot be had without settings."""
    model: type[ConfigModel] = registry.config_model(kind, name)
    needed = [field for field, info in model.model_fields.items() if info.is_required()]
    if needed:
        raise ConfigError(f"{kind} {name!r} needs {', '.join(needed)}")
    return registry.build(Choice(kind, name, model.model_validate({}, context={"registry": registry})))


CHECKS: Mapping[str, Callable[..., None]] = {
    "buffer": check_storage,
    "index": check_index,
    "operation": check_operation,
    "reward": check_reward,
    "task": check_task,
    "voter": check_voter,
    **dict.fromkeys(KIND_OF_MODE.values(), check_run),
}
"""The check of every kind that has one."""


__all__ = [
    "CHECKS",
    "NONSENSE",
    "build",
    "check_index",
    "check_operation",
    "check_plugin",
    "check_reward",
    "check_run",
    "check_storage",
    "check_task",
    "check_voter",
    "example_scene",
    "run_operation",
]
