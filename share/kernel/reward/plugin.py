"""The reward components that ship with Pixelis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from share.kernel import hookimpl

if TYPE_CHECKING:
    from share.kernel.hookspecs import Register


@hookimpl
def register_rewards(register: Register) -> None:
    register("task", "share.kernel.reward.task:TaskReward", summary="Is the answer right?")
    register("curiosity", "share.kernel.reward.curiosity:Curiosity", summary="Pays for operations while they are rare.")
    register(
        "curiosity_released",
        "share.kernel.reward.curiosity:ReleasedCuriosity",
        summary="The same bonus as Pixel Reasoner's released code computes it.",
    )
    register("curiosity_icm", "share.kernel.reward.icm:InverseCuriosity", summary="Pays for views it did not expect.")
    register("coherence", "share.kernel.reward.coherence:Coherence", summary="Do operations follow from one another?")
    register("misuse", "share.kernel.reward.misuse:Misuse", summary="Costs of failed, invalid and excess calls.")
