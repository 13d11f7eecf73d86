"""The trainers that ship with Pixelis; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl


@hookimpl
def register_trainers(register: Register) -> None:
    register("grpo", "share.kernel.trainer.grpo:train", summary="Reinforce a policy with operations in the loop.")
    register("sft", "share.kernel.trainer.sft:train", summary="Imitate demonstrations, stage by stage.")
