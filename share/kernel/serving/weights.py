"""The policies that are served: the one that was shipped and those that learned, swapped by a pointer.

A version takes the memory of the tensors that it changes and no more: everything else (the other parameters, the
tokenizer, the images' encoder) is the frozen policy's own. The version that is live and the two before it stay, so that
going back loads nothing: three times the trained parameters beside the frozen policy.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from share.kernel.errors import VersionDamaged
from share.kernel.policy.loading import Policy
from share.kernel.serving.versions import FROZEN

if TYPE_CHECKING:
    from share.kernel.serving.versions import VersionStore

VERSIONS_MAX = 3
"""Versions in memory beside the frozen policy: the one that is live and those before it."""

_STEPS_MAX = 64
"""Steps that can be gone back, where the same few versions take turns."""

_LANGUAGE = {"language_model", "text_model", "lm_head"}
"""Parts of the names of parameters that no image passes through."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A policy and the name of its weights, which never change again.

    `sees_as_frozen`: its vision tower is the frozen policy's own. `num_bytes` it takes beside the frozen policy.
    """

    version: str
    policy: Policy
    sees_as_frozen: bool = True
    num_bytes: int = 0


class ServedPolicies:
    """The frozen policy and the adapted one that is live. Thread-safe.

    `load` makes the frozen policy, and is called once. Begins with the frozen one live, whatever the store says:
    `adopt(store.live())` serves what was served before.
    """

    def __init__(self, load: Callable[[], Policy], store: VersionStore) -> None:
        self.store = store
        self._frozen = Served(FROZEN, load())
        self._path: tuple[Served, ...] = (self._frozen,)  # how the live one was come to, itself last
        self._swapping = threading.Lock()
        self._loading = threading.Lock()

    def live(self) -> Served:
        """What a request that begins now is answered by, to its end."""
        return self._path[-1]

    def frozen(self) -> Served:
        return self._frozen

    def previous(self) -> str:
        """The version that `roll_back` would go to."""
        return self._path[max(0, len(self._path) - 2)].version

    @property
    def num_bytes(self) -> int:
        """What the versions in memory take beside the frozen policy."""
        return sum(served.num_bytes for served in set(self._path))

    def adopt(self, version: str) -> None:
        """Serve a version of the store from now on: loaded whole, beside those that serve, or not at all.

        Raises UnknownVersion, or VersionDamaged also when it does not fit the policy; then nothing has changed. Called
        from a thread that answers no requests.
        """
        with self._loading:
            self._serve(self._known(version) or self._load(version))

    def publish(self, expected: str, version: str) -> None:
        """Make a version live in the store in place of `expected`, and serve it from now on: read once for both.

        Raises VersionConflict when another one is live by now, and as `adopt`; then nothing has changed.
        """
        with self._loading:
            served = self._known(version)
            if served is None:
                served = self._load(version)
                self.store.point(expected, version)
            else:
                self.store.publish(expected, version)
            self._serve(served)

    def roll_back(self) -> str:
        """Serve the version before from now on, `frozen` when there is none; returns its name. Nothing is loaded."""
        with self._swapping:
            self._path = self._path[:-1] or (self._frozen,)
            return self._path[-1].version

    def _known(self, version: str) -> Served | None:
        return next((served for served in self._path if served.version == version), None)

    def _serve(self, served: Served) -> None:
        with self._swapping:
            if self._path[-1] is not served:
                self._path = _bounded((*self._path, served))

    def _load(self, version: str) -> Served:
        tensors = self.store.read(version)
        try:
            policy = with_weights(self._frozen.policy, tensors)
        except ValueError as error:
            raise VersionDamaged(f"{version} does not fit the policy: {error}") from error
        return Served(
            version,
            policy,
            sees_as_frozen=all(not _LANGUAGE.isdisjoint(name.split(".")) for name in tensors),
            num_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        )


def with_weights(policy: Policy, tensors: Mapping[str, torch.Tensor]) -> Policy:
    """A policy with other values of the named parameters; everything else is shared, so it must stay as it is.

    Raises ValueError for a name that is no parameter, another shape, or a value that is not finite.
    """
    parameters = dict(policy.model.named_parameters(remove_duplicate=False))
    values: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for name, tensor in tensors.items():
        if name not in parameters:
            raise ValueError(f"it has no parameter {name}")
        old = parameters[name]
        if tensor.shape != old.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {tuple(old.shape)}")
        values[old] = torch.nn.Parameter(tensor.to(old.device, old.dtype), requires_grad=False)
    if not _is_finite(list(tensors.values())):
        raise ValueError("not every value is finite")
    model = _with_parameters(policy.model, values, {})
    made = Policy(policy.config, model, policy.tokenizer, policy.chat, policy.images, policy.device)
    ours, theirs = made.backbone, policy.backbone
    if ours is not None and theirs is not None and ours.visual is theirs.visual:
        ours.tower = theirs.tower  # with what it knows of sizes of images
    return made


def _is_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Of all at once: each call lets go of the interpreter, and whoever serves pays for every time."""
    return not tensors or bool(torch.isfinite(torch.nn.utils.get_total_norm(tensors, math.inf)))


def _with_parameters(
    module: torch.nn.Module,
    values: Mapping[torch.nn.Parameter, torch.nn.Parameter],
    known: dict[torch.nn.Module, torch.nn.Module],
) -> torch.nn.Module:
    """The module with other parameters; a part without any of them is itself.

    Some 100 modules in half a millisecond, where `copy.deepcopy` holds everybody's interpreter for 13.
    """
    if module in known:
        return known[module]
    parts = {
        name: part if part is None else _with_parameters(part, values, known) for name, part in module._modules.items()
    }
    own = {name: values.get(each, each) if each is not None else None for name, each in module._parameters.items()}
    changed = {**parts, **own}
    made = module
    if any(changed[name] is not each for name, each in [*module._modules.items(), *module._parameters.items()]):
        made = copy.copy(module)
        for name, attribute in vars(module).items():
            if isinstance(attribute, dict):  # registers of parts, hooks and the like, of which each has its own
                vars(made)[name] = attribute.copy()
        made._modules.update(parts)
        made._parameters.update(own)
    known[module] = made
    return made


def _bounded(path: tuple[Served, ...]) -> tuple[Served, ...]:
    """The frozen policy, and as much of the end of the path as holds no more versions than are kept."""
    start, versions = len(path), set[str]()
    while start > 1 and len(path) - start < _STEPS_MAX:
        versions |= {path[start - 1].version} - {FROZEN}
        if len(versions) > VERSIONS_MAX:
            break
        start -= 1
    return (path[0], *path[start:])


__all__ = ["VERSIONS_MAX", "Served", "ServedPolicies", "with_weights"]
