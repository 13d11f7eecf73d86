"""Reward components that pay for trying visual operations, after Pixel Reasoner (arXiv 2505.15966).

Without them a policy that answers faster and no worse at first without operations stops calling them, and never
learns what they are good for. RaPR is the rate of pixel-space reasoning of a prompt: the share of the group's
rollouts that call an operation.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Trajectory
from share.kernel.contracts.vision import Scene


class CuriosityConfig(ConfigModel):
    rapr_target: float = Field(default=0.3, ge=0.0, le=1.0)
    """H: the share of rollouts with an operation above which calling pays nothing."""
    bonus: float = Field(default=0.5, ge=0.0)
    """Reward per missing unit of RaPR for a rollout that calls an operation (the paper's alpha)."""
    penalty: float = Field(default=0.05, ge=0.0)
    """Cost of each operation beyond `operations_free` (the paper's beta)."""
    operations_free: int = Field(default=1, ge=0)
    """N: operations per rollout that cost nothing."""


class Curiosity:
    """The paper's bonus: bonus·max(H - RaPR, 0)·[n > 0] + penalty·min(N - n, 0) for a rollout with n operations."""

    def __init__(self, config: CuriosityConfig) -> None:
        self.config = config

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
    ) -> list[float | None]:
        config = self.config
        counts = [len(trajectory.operations) for trajectory in trajectories]
        bonus = config.bonus * max(config.rapr_target - _rapr(counts), 0.0)
        return [
            (bonus if count > 0 else 0.0) + config.penalty * min(config.operations_free - count, 0) for count in counts
        ]


class ReleasedCuriosityConfig(ConfigModel):
    rapr_target: float = Field(default=0.3, ge=0.0, le=1.0)
    """H: the share of rollouts with an operation above which calling pays nothing."""
    scale: float = Field(default=0.25, ge=0.0)
    """Reward at a relative shortfall of RaPR of one."""
    image_divisor: float = Field(default=2.0, gt=0.0)
    """Divides the bonus on images."""
    video_divisor: float = Field(default=1.5, gt=0.0)
    """Divides the bonus on videos."""
    penalty: float = Field(default=0.05, ge=0.0)
    """Cost of each operation beyond the first."""


class ReleasedCuriosity:
    """The bonus of Pixel Reasoner's released code, which differs from its paper.

    max(H - RaPR, 0) / divisor / RaPR · scale for a rollout with n > 0 operations, less penalty·(n - 1): the relative
    shortfall, so the rarer the operation the steeper the bonus (0.175 when one of eight rollouts on an image calls).
    """

    def __init__(self, config: ReleasedCuriosityConfig) -> None:
        self.config = config

    def score(
        self,
        prompt: Prompt,
        trajectories: Sequence[Trajectory],
        scenes: Sequence[Scene],
        correctness: Sequence[float],
    ) -> list[float | None]:
        config = self.config
        counts = [len(trajectory.operations) for trajectory in trajectories]
        rapr = _rapr(counts)
        divisor = config.video_divisor if prompt.is_video else config.image_divisor
        bonus = max(config.rapr_target - rapr, 0.0) / divisor / rapr * config.scale if rapr > 0.0 else 0.0
        return [bonus - config.penalty * (count - 1) if count > 0 else 0.0 for count in counts]


def _rapr(counts: Sequence[int]) -> float:
    return sum(count > 0 for count in counts) / len(counts)


__all__ = ["Curiosity", "CuriosityConfig", "ReleasedCuriosity", "ReleasedCuriosityConfig"]
