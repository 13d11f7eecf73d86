"""The plugin surface: one hook per kind of backend.

A plugin is a module named by an entry point of the group `pixelis`. It implements some of these hooks; each is called
with `register(name, target, *, summary="", extra=None)`, where `target` is `"module:attribute"`. The target is
imported when the backend is used, never before, so a plugin module imports nothing heavy. `extra` names the extra of
the plugin's own distribution that the target needs.

A module may set `pixelis_hook_api = 1`: the hook API that it was written for. A Pixelis that is older than that
refuses the plugin by name instead of failing inside it.
"""

from __future__ import annotations

from typing import Protocol

import pluggy

HOOK_API = 1
"""Raised by one whenever a hook is added, or called with more than before."""

hookimpl = pluggy.HookimplMarker("pixelis")
hookspec = pluggy.HookspecMarker("pixelis")


class Register(Protocol):
    """Announces one backend. Raises ConfigError for a name or target that cannot be one."""

    def __call__(self, name: str, target: str, *, summary: str = "", extra: str | None = None) -> None: ...


@hookspec
def register_trainers(register: Register) -> None:
    """Kind `trainer`: functions `train(config, run)`; `python -m train.cli --backend NAME` runs them."""


@hookspec
def register_operations(register: Register) -> None:
    """Kind `operation`: classes of visual operations, named as the policy writes them, e.g. `ZOOM_IN`."""


@hookspec
def register_rewards(register: Register) -> None:
    """Kind `reward`: classes of reward components."""


@hookspec
def register_tasks(register: Register) -> None:
    """Kind `task`: classes of prompt sources."""


@hookspec
def register_buffers(register: Register) -> None:
    """Kind `buffer`: classes of storages, durable logs of records below an experience buffer."""


@hookspec
def register_indexes(register: Register) -> None:
    """Kind `index`: classes of k-NN indexes over the embeddings of an experience buffer."""


@hookspec
def register_voters(register: Register) -> None:
    """Kind `voter`: classes that make one answer of the policy's and those of similar experiences."""


@hookspec
def register_autolabelers(register: Register) -> None:
    """Kind `autolabeler`: functions `label(config, run)` that write labels for images."""


@hookspec
def register_onlines(register: Register) -> None:
    """Kind `online`: functions `serve(config, run)` that answer requests and learn from them."""


@hookspec
def register_deployers(register: Register) -> None:
    """Kind `deployer`: functions `deploy(config, run)` that run a model at the edge or serve it remotely."""


@hookspec
def register_inferencers(register: Register) -> None:
    """Kind `inferencer`: functions `infer(config, run)` that run a model over given images or videos."""


KINDS = {
    "trainer": register_trainers,
    "operation": register_operations,
    "reward": register_rewards,
    "task": register_tasks,
    "buffer": register_buffers,
    "index": register_indexes,
    "voter": register_voters,
    "autolabeler": register_autolabelers,
    "online": register_onlines,
    "deployer": register_deployers,
    "inferencer": register_inferencers,
}
"""Every kind with its hook."""

__all__ = ["HOOK_API", "KINDS", "Register", "hookimpl", "hookspec"]
