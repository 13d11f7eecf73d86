"""Curiosity as surprise: the intrinsic curiosity module (Pathak et al., arXiv 1705.05363) over views and operations.

A small network learns, from the operations that the policy makes, to predict the features of the view that comes back
from the view that was operated on. What it predicts badly is new to it and pays. The features are learned by an
inverse model that must name the operation between two views, so that pixels which no operation can foretell do not
pay. Every reward is computed with the network as it is now, and nothing is cached between its versions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Scene, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VIEW_SIDE = 16  # px: a view is seen as so many grey pixels on a side
_NAMES = 8  # operation names are hashed into so many places
_ACTION = _NAMES + 6  # name, box, point


class InverseCuriosityConfig(ConfigModel):
    scale: float = Field(default=0.5, ge=0.0)
    """Reward per unit of squared prediction error (the paper's eta / 2)."""
    reward_max: float = Field(default=1.0, gt=0.0)
    """Bound on the reward of one rollout."""
    forward_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of the forward model's loss against the inverse model's (the paper's beta)."""
    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Of the module's own Adam."""
    features: int = Field(default=32, ge=2)
    """Width of the learned features."""
    seed: int = Field(default=0, ge=0)
    """Seed of the module's first weights."""


class InverseCuriosity:
    """Squared error of the predicted features, averaged over the views that a rollout's operations returned.

    0.0 for a rollout without any. Scoring a group trains the module on it, after it was scored.
    """

    def __init__(self, config: InverseCuriosityConfig) -> None:
        self.config = config
        width = config.features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._net = nn.ModuleDict(
                {
                    "features": _perceptron(_VIEW_SIDE**2, width),
                    "forward_model": _perceptron(width + _ACTION, width),
                    "inverse_model": _perceptron(2 * width, _ACTION),
                }
            )
        self._optimizer = torch.optim.Adam(self._net.parameters(), lr=config.learning_rate)

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
    ) -> list[float | None]:
        transitions = [
            (row, before, action, after)
            for row, (trajectory, scene) in enumerate(zip(trajectories, scenes, strict=True))
            for before, action, after in _transitions(trajectory, scene)
        ]
        if not transitions:
            return [0.0] * len(trajectories)
        seen_before = torch.from_numpy(np.stack([_seen(view) for _, view, _, _ in transitions]))
        seen_after = torch.from_numpy(np.stack([_seen(view) for _, _, _, view in transitions]))
        acted = torch.from_numpy(np.stack([action_features(action, view) for _, view, action, _ in transitions]))
        surprises = self._learn(seen_before, acted, seen_after).tolist()
        rewards: list[float | None] = []
        for row in range(len(trajectories)):
            errors = [value for (of, *_), value in zip(transitions, surprises, strict=True) if of == row]
            surprise = self.config.scale * sum(errors) / len(errors) if errors else 0.0
            rewards.append(min(surprise, self.config.reward_max))
        return rewards

    def _learn(self, before: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """The prediction errors [N] as they are, and one step on them; views are float32 [N, 256], actions [N, 14]."""
        feature, next_feature = self._net["features"](before), self._net["features"](after)
        predicted = self._net["forward_model"](torch.cat([feature.detach(), action], dim=1))
        error: Tensor = (predicted - next_feature.detach()).square().sum(dim=1)
        named = self._net["inverse_model"](torch.cat([feature, next_feature], dim=1))
        inverse = (named - action).square().mean()
        share = self.config.forward_share
        self._optimizer.zero_grad(set_to_none=True)
        ((1.0 - share) * inverse + share * error.mean()).backward()
        self._optimizer.step()
        return error.detach()

    def state_dict(self) -> dict[str, object]:
        return {"net": self._net.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        net, optimizer = state["net"], state["optimizer"]
        assert isinstance(net, dict)
        assert isinstance(optimizer, dict)
        self._net.load_state_dict(net)
        self._optimizer.load_state_dict(copy.deepcopy(optimizer))  # torch would share the tensors


def action_features(action: Action, view: View) -> NDArray[np.float32]:
    """float32 [14]: the operation's name hashed to one of eight places; box and point as shares of the view, else 0."""
    features = np.zeros(_ACTION, np.float32)
    features[crc32(str(action.operation).encode()) % _NAMES] = 1.0
    arguments = action.arguments or {}
    box, point = arguments.get("bbox"), (arguments.get("x"), arguments.get("y"))
    sides = (view.width, view.height, view.width, view.height)
    if isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(side, int | float) for side in box):
        features[_NAMES : _NAMES + 4] = [side / whole for side, whole in zip(box, sides, strict=True)]
    for place, (value, whole) in enumerate(zip(point, sides, strict=False), start=_NAMES + 4):
        if isinstance(value, int | float):
            features[place] = value / whole
    return features


def _transitions(trajectory: Trajectory, scene: Scene) -> list[tuple[View, Action, View]]:
    """The operations that returned a view, each with the view it acted on."""
    found = []
    for action in trajectory.operations:
        name = (action.arguments or {}).get("image") or next(iter(scene.views), None)
        if action.view in scene.views and name in scene.views:
            found.append((scene.views[str(name)], action, scene.views[str(action.view)]))
    return found


def _seen(view: View) -> NDArray[np.float32]:
    grey = cv2.cvtColor(view.pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_VIEW_SIDE, _VIEW_SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).reshape(-1) / 255.0


def _perceptron(wide: int, narrow: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide, 64), nn.ReLU(), nn.Linear(64, narrow))


__all__ = ["InverseCuriosity", "InverseCuriosityConfig", "action_features"]
